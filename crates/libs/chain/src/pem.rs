//! Certificates as PEM texts: kept byte for byte, because hashes are taken over the text.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PemError {
    /// No certificate block, or a broken one.
    #[error("no certificate in PEM form: {0}")]
    NoCertificate(String),
    /// The block is not an X.509 certificate.
    #[error("not an X.509 certificate: {0}")]
    NotX509(String),
    /// A key of a kind that can't sign here.
    #[error("its key is neither ECDSA P-256, ECDSA P-384 nor RSA (algorithm {0})")]
    KeyKind(String),
}

/// A public key that signatures can be checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// ECDSA P-256, the uncompressed point.
    P256(Vec<u8>),
    /// ECDSA P-384, the uncompressed point.
    P384(Vec<u8>),
    /// RSA, the `RSAPublicKey` in DER.
    Rsa(Vec<u8>),
}

/// The first certificate of a PEM text, in DER.
pub fn first_certificate(pem: &[u8]) -> Result<CertificateDer<'static>, PemError> {
    CertificateDer::from_pem_slice(pem).map_err(|error| PemError::NoCertificate(error.to_string()))
}

/// Every certificate of a PEM text, in DER; none is no error.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| PemError::NoCertificate(error.to_string()))
}

/// Whose it is, as it says: `CN=..., O=...`.
pub fn subject(der: &[u8]) -> Result<String, PemError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|error| PemError::NotX509(error.to_string()))?;
    Ok(certificate.subject().to_string())
}

/// The certificate's public key.
pub fn public_key(der: &[u8]) -> Result<PublicKey, PemError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|error| PemError::NotX509(error.to_string()))?;
    let spki = certificate.public_key();
    let bits = spki.subject_public_key.data.to_vec();
    let algorithm = &spki.algorithm.algorithm;
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        return Ok(PublicKey::Rsa(bits));
    }
    let curve = spki
        .algorithm
        .parameters
        .as_ref()
        .and_then(|any| any.as_oid().ok());
    match curve {
        Some(curve) if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == OID_EC_P256 => {
            Ok(PublicKey::P256(bits))
        }
        Some(curve) if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == OID_NIST_EC_P384 => {
            Ok(PublicKey::P384(bits))
        }
        _ => Err(PemError::KeyKind(algorithm.to_id_string())),
    }
}

/// Begin of the certificate's validity, in seconds since 1970.
pub fn not_before(der: &[u8]) -> Result<i64, PemError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|error| PemError::NotX509(error.to_string()))?;
    Ok(certificate.validity().not_before.timestamp())
}

/// End of the certificate's validity, in seconds since 1970.
pub fn not_after(der: &[u8]) -> Result<i64, PemError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|error| PemError::NotX509(error.to_string()))?;
    Ok(certificate.validity().not_after.timestamp())
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    digest
}
