//! Who signs for the device: a key with its certificate, wherever the key lives.
//!
//! [`SoftwareKey`] holds a key of the CONFIG partition. A key in a TPM implements
//! [`Signer`] in the same way; it only ever sees digests. The same signer authenticates
//! TLS connections of API version 1 ([`tls_identity`]) and makes certificates
//! (`identity`).

use std::sync::Arc;

use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::DecodePrivateKey;
use rustls::client::ResolvesClientCert;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

use crate::pem::{PemError, PublicKey, first_certificate, public_key, sha256};

/// Why there is no signature or no signer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignerError {
    /// The certificate can't be read.
    #[error("certificate of the {owner} key")]
    Certificate {
        /// `device` or `onboarding`.
        owner: String,
        /// Why.
        #[source]
        source: PemError,
    },
    /// The private key can't be read.
    #[error("the {owner} key is not a P-256 private key in PEM form: {why}")]
    Key {
        /// `device` or `onboarding`.
        owner: String,
        /// The parser's words.
        why: String,
    },
    /// Key and certificate don't belong together.
    #[error("the {owner} key does not belong to the {owner} certificate")]
    Mismatch {
        /// `device` or `onboarding`.
        owner: String,
    },
    /// The key did not sign: a TPM that is busy or gone.
    #[error("the {owner} key did not sign: {why}")]
    Refused {
        /// `device` or `onboarding`.
        owner: String,
        /// The key's words.
        why: String,
    },
}

/// A certificate as text and as DER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pem: Vec<u8>,
    der: CertificateDer<'static>,
}

impl Certificate {
    /// The first certificate of a PEM text; the text is kept byte for byte.
    pub fn from_pem(pem: impl Into<Vec<u8>>) -> Result<Self, PemError> {
        let pem = pem.into();
        let der = first_certificate(&pem)?;
        Ok(Self { pem, der })
    }

    /// The text as it stands in the file.
    pub fn pem(&self) -> &[u8] {
        &self.pem
    }

    /// DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// SHA-256 of the DER: how envelopes name a device's or onboarding certificate.
    pub fn der_hash(&self) -> [u8; 32] {
        sha256(&self.der)
    }
}

/// An ECDSA P-256 signature as `r || s`, 32 bytes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawSignature(pub [u8; 64]);

impl RawSignature {
    /// As ASN.1 `ECDSA-Sig-Value`, which TLS, X.509 and quotes want.
    pub fn to_der(self) -> Result<Vec<u8>, SignerError> {
        Signature::from_slice(&self.0)
            .map(|signature| signature.to_der().as_bytes().to_vec())
            .map_err(|error| SignerError::Refused {
                owner: "raw".to_owned(),
                why: error.to_string(),
            })
    }
}

/// A key with its certificate.
pub trait Signer: std::fmt::Debug + Send + Sync {
    /// The certificate.
    fn certificate(&self) -> &Certificate;
    /// Signs a SHA-256 digest. May block for as long as a TPM takes.
    fn sign_digest(&self, digest: &[u8; 32]) -> Result<RawSignature, SignerError>;
}

/// A key held in memory.
pub struct SoftwareKey {
    certificate: Certificate,
    key: SigningKey,
    owner: String,
}

impl std::fmt::Debug for SoftwareKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SoftwareKey")
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

impl SoftwareKey {
    /// From the texts of the two files; `owner` (`device`, `onboarding`) names it in errors.
    pub fn from_pem(owner: &str, certificate: &[u8], key: &[u8]) -> Result<Self, SignerError> {
        let owner = owner.to_owned();
        let explain = |source| SignerError::Certificate {
            owner: owner.clone(),
            source,
        };
        let certificate = Certificate::from_pem(certificate).map_err(explain)?;
        let public = public_key(certificate.der()).map_err(explain)?;
        let key = parse_key(key).map_err(|why| SignerError::Key {
            owner: owner.clone(),
            why,
        })?;
        let point = key.verifying_key().to_encoded_point(false);
        if public != PublicKey::P256(point.as_bytes().to_vec()) {
            return Err(SignerError::Mismatch { owner });
        }
        Ok(Self {
            certificate,
            key,
            owner,
        })
    }
}

/// SEC1 or PKCS#8; other blocks of the text (such as EC PARAMETERS) are skipped.
pub(crate) fn parse_key(pem: &[u8]) -> Result<SigningKey, String> {
    let der = PrivateKeyDer::from_pem_slice(pem).map_err(|error| error.to_string())?;
    let secret = match &der {
        PrivateKeyDer::Sec1(sec1) => p256::SecretKey::from_sec1_der(sec1.secret_sec1_der())
            .map_err(|error| error.to_string())?,
        PrivateKeyDer::Pkcs8(pkcs8) => p256::SecretKey::from_pkcs8_der(pkcs8.secret_pkcs8_der())
            .map_err(|error| error.to_string())?,
        _ => return Err("an RSA key".to_owned()),
    };
    Ok(SigningKey::from(secret))
}

impl Signer for SoftwareKey {
    fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    fn sign_digest(&self, digest: &[u8; 32]) -> Result<RawSignature, SignerError> {
        sign(&self.key, digest, &self.owner)
    }
}

pub(crate) fn sign(
    key: &SigningKey,
    digest: &[u8; 32],
    owner: &str,
) -> Result<RawSignature, SignerError> {
    let signature: Signature = key
        .sign_prehash(digest)
        .map_err(|error| SignerError::Refused {
            owner: owner.to_owned(),
            why: error.to_string(),
        })?;
    Ok(RawSignature(signature.to_bytes().into()))
}

/// The signer as a TLS client certificate.
pub fn tls_identity(signer: Arc<dyn Signer>) -> Arc<dyn ResolvesClientCert> {
    let chain = vec![signer.certificate().der().clone()];
    let key = CertifiedKey::new(chain, Arc::new(TlsKey(signer)));
    Arc::new(SingleCertAndKey::from(key))
}

#[derive(Debug, Clone)]
struct TlsKey(Arc<dyn Signer>);

impl rustls::sign::SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        let ours = offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256);
        ours.then(|| Box::new(self.clone()) as Box<dyn rustls::sign::Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl rustls::sign::Signer for TlsKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.0
            .sign_digest(&sha256(message))
            .and_then(RawSignature::to_der)
            .map_err(|error| rustls::Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}
