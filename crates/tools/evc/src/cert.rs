//! A P-256 certificate as the protocol sees it: its bytes, its hash and its public key.
//!
//! Devices identify themselves by self-signed certificates, so there is no chain to check here: a
//! certificate is known by the SHA-256 of its DER and trusted because an operator or an earlier
//! registration said so.

use sha2::{Digest as _, Sha256};
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};

/// SHA-256 of a certificate's DER: how a device or onboarding certificate is named on the wire.
pub type CertHash = [u8; 32];

/// Why some bytes are not a certificate that a device may use.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// The text holds no PEM block.
    #[error("not a PEM certificate: {0}")]
    Pem(String),
    /// The PEM block is something else, for example a key.
    #[error("the PEM block is {0:?}, not a CERTIFICATE")]
    Label(String),
    /// The DER inside is not an X.509 certificate.
    #[error("not an X.509 certificate: {0}")]
    Der(String),
    /// The key is not on the curve that the protocol signs with.
    #[error("the certificate's key is not ECDSA P-256")]
    Key,
    /// Text follows where only one certificate may stand.
    #[error("more than one PEM block in a place for one certificate")]
    Trailing,
}

/// A parsed certificate with a P-256 key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pem: String,
    der: Vec<u8>,
    hash: CertHash,
    point: Vec<u8>,
}

impl Certificate {
    /// Parses the one certificate in `pem`.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertError> {
        let (rest, block) =
            x509_parser::pem::parse_x509_pem(pem).map_err(|e| CertError::Pem(e.to_string()))?;
        if block.label != "CERTIFICATE" {
            return Err(CertError::Label(block.label));
        }
        if !rest.trim_ascii().is_empty() {
            return Err(CertError::Trailing);
        }
        let text = String::from_utf8_lossy(pem).trim().to_owned();
        let point = p256_point(&block.contents)?;
        let hash = Sha256::digest(&block.contents).into();
        Ok(Self {
            pem: text,
            der: block.contents,
            hash,
            point,
        })
    }

    /// The PEM text without surrounding white space.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The DER bytes.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-256 of the DER.
    pub fn hash(&self) -> CertHash {
        self.hash
    }

    /// The public key as an uncompressed SEC1 point, 65 bytes.
    pub fn point(&self) -> &[u8] {
        &self.point
    }

    /// Whether `issuer`'s key signed this certificate.
    pub fn is_signed_by(&self, issuer: &Self) -> bool {
        let Ok((_, own)) = x509_parser::parse_x509_certificate(&self.der) else {
            return false;
        };
        let Ok((_, parent)) = x509_parser::parse_x509_certificate(&issuer.der) else {
            return false;
        };
        own.verify_signature(Some(parent.public_key())).is_ok()
    }
}

/// The DER of the first certificate of a PEM text, whatever its key is.
#[cfg(test)]
pub(crate) fn der_of(pem: &str) -> rustls_pki_types::CertificateDer<'static> {
    use rustls_pki_types::pem::PemObject as _;
    #[allow(clippy::unwrap_used, reason = "in tests")]
    rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// SHA-256 of the DER, for certificates that come from TLS.
pub fn der_hash(der: &[u8]) -> CertHash {
    Sha256::digest(der).into()
}

fn p256_point(der: &[u8]) -> Result<Vec<u8>, CertError> {
    let (_, cert) =
        x509_parser::parse_x509_certificate(der).map_err(|e| CertError::Der(e.to_string()))?;
    let spki = cert.public_key();
    let curve = spki
        .algorithm
        .parameters
        .as_ref()
        .and_then(|p| p.as_oid().ok());
    let point = spki.subject_public_key.data.as_ref();
    let is_p256 = spki.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
        && curve.is_some_and(|oid| oid == OID_EC_P256)
        && point.len() == 65
        && point.first() == Some(&4);
    if is_p256 {
        Ok(point.to_vec())
    } else {
        Err(CertError::Key)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn make() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(vec![])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        (cert.pem(), key.serialize_pem())
    }

    #[test]
    fn hash_is_of_the_der_and_ignores_white_space_around_the_pem() {
        let (pem, _) = make();
        let a = Certificate::from_pem(pem.as_bytes()).unwrap();
        let b = Certificate::from_pem(format!("\n{pem}\n\n").as_bytes()).unwrap();
        assert_eq!(a.hash(), b.hash());
        assert_eq!(a.hash(), der_hash(a.der()));
        assert!(a.is_signed_by(&a));
    }

    #[test]
    fn refuses_keys_and_bundles() {
        let (pem, key) = make();
        assert!(matches!(
            Certificate::from_pem(key.as_bytes()),
            Err(CertError::Label(_))
        ));
        let two = format!("{pem}{pem}");
        assert!(matches!(
            Certificate::from_pem(two.as_bytes()),
            Err(CertError::Trailing)
        ));
        assert!(matches!(
            Certificate::from_pem(b"x"),
            Err(CertError::Pem(_))
        ));
    }

    #[test]
    fn refuses_other_curves() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let cert = rcgen::CertificateParams::new(vec![])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        assert!(matches!(
            Certificate::from_pem(cert.pem().as_bytes()),
            Err(CertError::Key)
        ));
    }
}
