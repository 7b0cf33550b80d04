//! A P-256 key in memory.

use std::fmt;

use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use p256::pkcs8::{DecodePrivateKey, LineEnding};
use zeroize::Zeroizing;

use crate::{SharedPoint, Signature, TpmError};

/// A key in memory: what tpmmgr keeps where there is no TPM, and what tests use. Wiped when dropped.
#[derive(Clone)]
pub struct SoftKey {
    secret: p256::SecretKey,
    point: Vec<u8>,
}

/// Why there is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a P-256 private key in PEM form: {0}")]
pub struct SoftKeyError(String);

impl fmt::Debug for SoftKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SoftKey(..)")
    }
}

impl SoftKey {
    fn new(secret: p256::SecretKey) -> Self {
        let point = secret.public_key().to_encoded_point(false);
        Self {
            secret,
            point: point.as_bytes().to_vec(),
        }
    }

    /// From 32 random bytes; none when they are no scalar of the curve (draw again).
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        p256::SecretKey::from_slice(bytes).ok().map(Self::new)
    }

    /// From a file's text: SEC1 or PKCS#8; other blocks (EC PARAMETERS) are skipped.
    pub fn from_pem(text: &str) -> Result<Self, SoftKeyError> {
        const SEC1: &str = "-----BEGIN EC PRIVATE KEY-----";
        let read = match text.find(SEC1) {
            Some(at) => {
                p256::SecretKey::from_sec1_pem(text[at..].trim()).map_err(|error| error.to_string())
            }
            None => p256::SecretKey::from_pkcs8_pem(text.trim()).map_err(|error| error.to_string()),
        };
        read.map(Self::new).map_err(SoftKeyError)
    }

    /// As a file's text (SEC1).
    pub fn to_pem(&self) -> Result<Zeroizing<String>, SoftKeyError> {
        self.secret
            .to_sec1_pem(LineEnding::LF)
            .map_err(|error| SoftKeyError(error.to_string()))
    }

    /// The public point, SEC1 uncompressed.
    pub fn point(&self) -> Vec<u8> {
        self.point.clone()
    }

    pub(crate) fn point_ref(&self) -> &[u8] {
        &self.point
    }

    /// Signs a SHA-256 digest.
    pub fn sign(&self, digest: &[u8; 32]) -> Result<Signature, TpmError> {
        let signature: p256::ecdsa::Signature = SigningKey::from(&self.secret)
            .sign_prehash(digest)
            .map_err(|error| TpmError::Failed {
                reason: error.to_string(),
            })?;
        Ok(Signature(signature.to_bytes().into()))
    }

    /// Multiplies a point by it.
    pub fn ecdh(&self, peer: &[u8]) -> Result<SharedPoint, TpmError> {
        let invalid = |reason: &str| TpmError::Invalid {
            reason: reason.to_owned(),
        };
        let peer = p256::PublicKey::from_sec1_bytes(peer)
            .map_err(|_| invalid("the peer's point is not on P-256"))?;
        let scalar = Zeroizing::new(*self.secret.to_nonzero_scalar());
        let shared = (peer.to_projective() * *scalar)
            .to_affine()
            .to_encoded_point(false);
        match (shared.x(), shared.y()) {
            (Some(x), Some(y)) => Ok(SharedPoint {
                x: Zeroizing::new((*x).into()),
                y: Zeroizing::new((*y).into()),
            }),
            _ => Err(invalid("the shared point is at infinity")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_sides_share_a_point_and_a_bad_peer_is_refused() {
        let (a, b) = (
            SoftKey::from_bytes(&[1; 32]).unwrap(),
            SoftKey::from_bytes(&[2; 32]).unwrap(),
        );
        assert_eq!(a.ecdh(&b.point()).unwrap(), b.ecdh(&a.point()).unwrap());
        for bad in [&[][..], &[0], &[4; 65], &a.point()[..64]] {
            assert!(matches!(a.ecdh(bad), Err(TpmError::Invalid { .. })));
        }
        assert!(SoftKey::from_bytes(&[0; 32]).is_none());
    }

    #[test]
    fn a_key_survives_its_file() {
        let key = SoftKey::from_bytes(&[3; 32]).unwrap();
        let text = key.to_pem().unwrap();
        assert_eq!(SoftKey::from_pem(&text).unwrap().point(), key.point());
        let parameters =
            "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        let with = format!("{parameters}{}", *text);
        assert_eq!(SoftKey::from_pem(&with).unwrap().point(), key.point());
        assert!(SoftKey::from_pem("no key").is_err());
    }
}
