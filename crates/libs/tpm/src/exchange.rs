//! The device's key as secrets of a config are decrypted with it.

use std::{fmt, sync::Arc};

use cipher::{Exchange, ExchangeError, PeerKey};
use futures::future::BoxFuture;
use sha2::{Digest as _, Sha256};

use crate::{CertificateKind, SharedPoint, Tpm, TpmError};

/// The device's key for key exchange. It helps only with what was encrypted for the certificate that it has now.
pub struct DeviceExchange(pub Arc<dyn Tpm>);

impl fmt::Debug for DeviceExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceExchange(..)")
    }
}

impl DeviceExchange {
    async fn point(
        &self,
        device_cert: &[u8],
        peer: &PeerKey,
    ) -> Result<SharedPoint, ExchangeError> {
        let description = self.0.describe().await.map_err(|e| refused(&e))?;
        // Its certificates may just be in the making.
        if let (None, Some(trouble)) = (
            description.certificate(CertificateKind::Ecdh),
            &description.trouble,
        ) {
            return Err(ExchangeError::Unavailable(trouble.to_string()));
        }
        let own = description
            .certificate(CertificateKind::Ecdh)
            .map(|certificate| Sha256::digest(&certificate.pem));
        let is_own = own
            .as_ref()
            .is_some_and(|own| device_cert.len() >= 16 && own.starts_with(device_cert));
        if !is_own {
            return Err(ExchangeError::OtherKey {
                wanted: hex::encode(device_cert),
                has: own.map_or("none".to_owned(), |own| hex::encode(&own[..16])),
            });
        }
        self.0.ecdh(peer.sec1()).await.map_err(|e| refused(&e))
    }
}

impl Exchange for DeviceExchange {
    fn agree<'a>(
        &'a self,
        device_cert: &'a [u8],
        peer: &'a PeerKey,
    ) -> BoxFuture<'a, Result<SharedPoint, ExchangeError>> {
        Box::pin(self.point(device_cert, peer))
    }
}

fn refused(error: &TpmError) -> ExchangeError {
    if error.is_transient() {
        ExchangeError::Unavailable(error.to_string())
    } else {
        ExchangeError::Refused(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{MemoryTpm, SoftKey};

    #[tokio::test]
    async fn it_helps_with_what_is_for_its_certificate_only() {
        let key = |n: u8| SoftKey::from_bytes(&[n; 32]).unwrap();
        let tpm = MemoryTpm::new(key(1), key(2), key(3));
        let exchange = DeviceExchange(Arc::new(tpm.clone()));
        let peer = PeerKey::from_sec1(&key(4).point()).unwrap();
        let hash = cipher::pem_hash(b"certificate");
        let has_none = exchange.agree(&hash, &peer).await.unwrap_err();
        assert!(matches!(has_none, ExchangeError::OtherKey { has, .. } if has == "none"));
        tpm.certify(CertificateKind::Ecdh, "certificate");
        let point = exchange.agree(&hash, &peer).await.unwrap();
        let other = key(4).ecdh(&key(2).point()).unwrap();
        assert_eq!(point, other);
        for wrong in [&[0; 16][..], &hash[..8], &[]] {
            let refused = exchange.agree(wrong, &peer).await.unwrap_err();
            assert!(matches!(refused, ExchangeError::OtherKey { .. }));
        }
        tpm.set_unreachable(true);
        let away = exchange.agree(&hash, &peer).await.unwrap_err();
        assert!(matches!(away, ExchangeError::Unavailable(_)));
    }
}
