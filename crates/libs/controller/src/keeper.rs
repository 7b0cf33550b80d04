//! Signers whose keys tpmmgr keeps, in a TPM or not.
//!
//! No private key is in the memory of a service that speaks with the controller: it knows certificates,
//! and sends digests to tpmmgr. That may take as long as a TPM takes, and tpmmgr may be away; so every
//! request ends after [`LONGEST`], and a failed one is tried again like any other.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tpm::{Blocking, CertificateKind, Description, Key, Signature, TpmError};

use crate::identity::{CERT_FILE, KEY_FILE};
use crate::signer::{Certificate, Signer, SignerError, SoftwareKey};

/// Longest wait for tpmmgr: a service signs on its only thread, and must not miss its heartbeat.
pub const LONGEST: Duration = Duration::from_secs(10);

/// Where a service has its signers from.
pub trait Keys: std::fmt::Debug + Send + Sync {
    /// The device's key.
    fn device(&self) -> Result<Arc<dyn Signer>, SignerError>;
    /// The onboarding key, if the device was installed with one.
    fn onboarding(&self) -> Result<Option<Arc<dyn Signer>>, SignerError>;
}

/// tpmmgr of the device below a root. It is asked when first needed.
#[derive(Debug)]
pub struct Keeper {
    root: PathBuf,
    tpmmgr: Mutex<Option<Blocking>>,
}

impl Keeper {
    /// Of the device below `root`.
    pub fn of(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            tpmmgr: Mutex::default(),
        }
    }

    fn describe(&self, key: Key) -> Result<(Blocking, Description), SignerError> {
        let ask = || {
            let mut kept = self.tpmmgr.lock().unwrap_or_else(PoisonError::into_inner);
            let tpmmgr = match &*kept {
                Some(tpmmgr) => tpmmgr.clone(),
                None => kept.insert(Blocking::connect(&self.root, LONGEST)?).clone(),
            };
            drop(kept);
            let described = tpmmgr.describe()?;
            Ok((tpmmgr, described))
        };
        ask().map_err(|source| refused(key, source))
    }

    fn signer(&self, key: Key) -> Result<Option<Arc<dyn Signer>>, SignerError> {
        let (tpmmgr, described) = self.describe(key)?;
        let kind = match key {
            Key::Device => CertificateKind::Device,
            Key::Onboarding => CertificateKind::Onboarding,
        };
        let Some(found) = described.certificate(kind) else {
            return match described.trouble {
                Some(trouble) => Err(refused(key, trouble.into())),
                None => Ok(None),
            };
        };
        let certificate = Certificate::from_pem(found.pem.clone());
        let certificate = certificate.map_err(|source| SignerError::Certificate {
            owner: key.name().to_owned(),
            source,
        })?;
        Ok(Some(Arc::new(Kept {
            certificate,
            key,
            tpmmgr,
        })))
    }
}

impl Keys for Keeper {
    fn device(&self) -> Result<Arc<dyn Signer>, SignerError> {
        self.signer(Key::Device)?
            .ok_or_else(|| missing(Key::Device))
    }

    fn onboarding(&self) -> Result<Option<Arc<dyn Signer>>, SignerError> {
        self.signer(Key::Onboarding)
    }
}

fn refused(key: Key, source: TpmError) -> SignerError {
    SignerError::Refused {
        owner: key.name().to_owned(),
        source,
    }
}

fn missing(key: Key) -> SignerError {
    SignerError::Missing {
        owner: key.name().to_owned(),
    }
}

/// A key that tpmmgr keeps.
#[derive(Debug)]
struct Kept {
    certificate: Certificate,
    key: Key,
    tpmmgr: Blocking,
}

impl Signer for Kept {
    fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    fn sign_digest(&self, digest: &[u8; 32]) -> Result<Signature, SignerError> {
        self.tpmmgr
            .sign(self.key, *digest)
            .map_err(|source| refused(self.key, source))
    }
}

/// Keys that are files of a CONFIG directory: for tools that may read them, and for tests.
#[derive(Debug, Clone)]
pub struct KeyFiles(PathBuf);

impl KeyFiles {
    /// In this directory.
    pub fn of(config: &Path) -> Self {
        Self(config.to_owned())
    }

    fn read(&self, key: Key, cert: &str, file: &str) -> Result<Option<SoftwareKey>, SignerError> {
        let read = |name: &str| match std::fs::read(self.0.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(SignerError::Key {
                owner: key.name().to_owned(),
                why: format!("{name}: {error}"),
            }),
        };
        match (read(cert)?, read(file)?) {
            (Some(cert), Some(text)) => SoftwareKey::from_pem(key.name(), &cert, &text).map(Some),
            _ => Ok(None),
        }
    }
}

impl Keys for KeyFiles {
    fn device(&self) -> Result<Arc<dyn Signer>, SignerError> {
        match self.read(Key::Device, CERT_FILE, KEY_FILE)? {
            Some(key) => Ok(Arc::new(key)),
            None => Err(missing(Key::Device)),
        }
    }

    fn onboarding(&self) -> Result<Option<Arc<dyn Signer>>, SignerError> {
        let key = self.read(Key::Onboarding, "onboard.cert.pem", "onboard.key.pem")?;
        Ok(key.map(|key| Arc::new(key) as Arc<dyn Signer>))
    }
}
