//! Who signs for the device: a key with its certificate, wherever the key lives.
//!
//! On a device tpmmgr keeps the keys and signs for others ([`crate::keeper`]);
//! [`SoftwareKey`] holds a key in memory, for tests and tools. Either only ever sees digests.
//! The same signer authenticates TLS connections of API version 1 ([`tls_identity`]).

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use tpm::{Signature, SoftKey, TpmError};

use chain::pem::{first_certificate, public_key, sha256};
use chain::{PemError, PublicKey};

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
    #[error("the {owner} key: {why}")]
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
    /// The key did not sign, or its keeper did not say whose it is: a TPM that is busy or gone.
    #[error("the {owner} key did not sign")]
    Refused {
        /// `device` or `onboarding`.
        owner: String,
        /// Why.
        #[source]
        source: TpmError,
    },
    /// There is no such key.
    #[error("there is no {owner} key")]
    Missing {
        /// `device` or `onboarding`.
        owner: String,
    },
}

impl SignerError {
    /// Whether trying again without any change can help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused { source, .. } => source.is_transient(),
            Self::Missing { .. } => true,
            Self::Certificate { .. } | Self::Key { .. } | Self::Mismatch { .. } => false,
        }
    }
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

/// A key with its certificate.
pub trait Signer: std::fmt::Debug + Send + Sync {
    /// The certificate.
    fn certificate(&self) -> &Certificate;
    /// Signs a SHA-256 digest. May block for as long as a TPM takes.
    fn sign_digest(&self, digest: &[u8; 32]) -> Result<Signature, SignerError>;
}

/// A key held in memory.
pub struct SoftwareKey {
    certificate: Certificate,
    key: SoftKey,
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
        let text = String::from_utf8_lossy(key);
        let key = SoftKey::from_pem(&text).map_err(|error| SignerError::Key {
            owner: owner.to_owned(),
            why: error.to_string(),
        })?;
        Self::new(owner, certificate, key)
    }

    /// A key with the text of its certificate.
    pub fn new(owner: &str, certificate: &[u8], key: SoftKey) -> Result<Self, SignerError> {
        let owner = owner.to_owned();
        let explain = |source| SignerError::Certificate {
            owner: owner.clone(),
            source,
        };
        let certificate = Certificate::from_pem(certificate).map_err(explain)?;
        let public = public_key(certificate.der()).map_err(explain)?;
        if public != PublicKey::P256(key.point()) {
            return Err(SignerError::Mismatch { owner });
        }
        Ok(Self {
            certificate,
            key,
            owner,
        })
    }
}

impl Signer for SoftwareKey {
    fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    fn sign_digest(&self, digest: &[u8; 32]) -> Result<Signature, SignerError> {
        self.key
            .sign(digest)
            .map_err(|source| SignerError::Refused {
                owner: self.owner.clone(),
                source,
            })
    }
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
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .to_der()
            .map_err(|error| rustls::Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}
