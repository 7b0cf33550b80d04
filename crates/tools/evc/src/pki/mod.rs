//! The controller's keys and certificates on disk.
//!
//! ```text
//! root ──> intermediate ──┬─> server    TLS, names and addresses of the controller and datastore
//!                         ├─> signing   signs what devices receive
//!                         └─> ecdh      key agreement for encrypted parts of the configuration
//! onboard (self-signed)                 shared by the devices of one batch, used by `register`
//! ```
//! Devices hold `root-certificate.pem` only; the chain up to it comes with `certs`. `make` creates
//! and renews, this module loads and checks.

mod make;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cipher::PeerKey;
use p256::elliptic_curve::sec1::ToEncodedPoint as _;
use p256::pkcs8::DecodePrivateKey as _;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};

pub use make::{
    InitOptions, Made, init, new_onboarding, renew, rotate, sign_device, sign_image_signer,
};

use crate::envelope::{self, Signer};

/// Folder of the keys and certificates below the controller's directory.
pub const FOLDER: &str = "pki";
/// File with the second since 1970 from which on rotated keys are used.
const ROTATION: &str = "rotation";
/// Folder with the files that belong on the CONFIG partition of a device.
pub const DEVICE_FOLDER: &str = "device-config";

/// Why keys or certificates could not be made or loaded.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// `init` where a controller already lives.
    #[error("{0} exists already: a new PKI would lock out every device of the old one")]
    Exists(PathBuf),
    /// A certificate or key could not be made.
    #[error("making the {what} certificate: {source}")]
    Make {
        /// Which one.
        what: &'static str,
        /// What the library said.
        source: rcgen::Error,
    },
    /// A request for a device's certificate that is not signed.
    #[error("the certificate request is refused: {0}")]
    Request(String),
    /// A name that can't stand in a certificate.
    #[error("{0:?} is neither a DNS name nor an IP address")]
    Name(String),
    /// A file doesn't hold what it should.
    #[error("{path}: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a controller certificate is for; the numbers are those of `ZCertType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControllerCertKind {
    /// Signs envelopes.
    Signing,
    /// Stands between a leaf and the root.
    Intermediate,
    /// Key agreement.
    EcdhExchange,
}

/// One certificate as handed to devices.
#[derive(Debug, Clone)]
pub struct ControllerCert {
    /// What it is for.
    pub kind: ControllerCertKind,
    /// The PEM text exactly as delivered: no white space around it.
    pub pem: String,
    /// SHA-256 of that text.
    pub hash: [u8; 32],
}

/// The controller's half of key exchanges with devices.
pub struct ExchangeKey {
    /// The private key; wiped when it goes.
    pub secret: p256::SecretKey,
    /// Hash of its certificate, as devices know it.
    pub hash: [u8; 32],
}

impl std::fmt::Debug for ExchangeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExchangeKey")
            .field("hash", &hex::encode(self.hash))
            .finish_non_exhaustive()
    }
}

/// Everything that a running controller needs of its PKI.
#[derive(Debug)]
pub struct Pki {
    /// Signs what devices receive.
    pub signer: Signer,
    /// Encrypts what only one device may read.
    pub exchange: Arc<ExchangeKey>,
    /// What `certs` delivers.
    pub certs: Vec<ControllerCert>,
    /// TLS chain, leaf first.
    pub tls_chain: Vec<CertificateDer<'static>>,
    /// TLS key.
    pub tls_key: PrivateKeyDer<'static>,
    /// The root that devices trust, as PEM.
    pub root_pem: String,
    /// During a rotation the second since 1970 from which on the new keys are used.
    pub changes: Option<i64>,
}

impl Pki {
    /// Loads the PKI below `dir`, the controller's directory, as it is used now.
    pub fn load(dir: &Path) -> Result<Self, PkiError> {
        Self::load_at(dir, jiff::Timestamp::now().as_second())
    }

    /// The same at a second since 1970.
    pub fn load_at(dir: &Path, now: i64) -> Result<Self, PkiError> {
        let folder = dir.join(FOLDER);
        // None of an installation that never rotated.
        let from = fs::read_to_string(folder.join(ROTATION))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .filter(|from| *from > now);
        let cert = |name: &str, kind| -> Result<ControllerCert, PkiError> {
            let pem = read(&folder.join(format!("{name}.cert.pem")))?
                .trim()
                .to_owned();
            let hash = envelope::pem_hash(&pem);
            Ok(ControllerCert { kind, pem, hash })
        };
        let pair = |name: &str, kind| {
            let of = |name: &str| {
                let cert = cert(name, kind)?;
                let key = matching_key(&folder.join(format!("{name}.key.pem")), &cert)?;
                Ok::<_, PkiError>((cert, key))
            };
            let former = || of(&format!("{name}.former"));
            match from {
                Some(_) => former(),
                // Whoever made them anew was stopped in between.
                None => of(name).or_else(|error| former().map_err(|_| error)),
            }
        };
        let (signs, key) = pair("signing", ControllerCertKind::Signing)?;
        let signer =
            Signer::new(key.secret_pkcs8_der(), signs.hash).map_err(|e| PkiError::Content {
                path: folder.join("signing.key.pem"),
                reason: e.to_string(),
            })?;
        let (exchanges, key) = pair("ecdh", ControllerCertKind::EcdhExchange)?;
        let exchange = ExchangeKey {
            secret: p256::SecretKey::from_pkcs8_der(key.secret_pkcs8_der()).map_err(|e| {
                PkiError::Content {
                    path: folder.join("ecdh.key.pem"),
                    reason: e.to_string(),
                }
            })?,
            hash: exchanges.hash,
        };
        let mut certs = vec![
            cert("signing", ControllerCertKind::Signing)?,
            cert("intermediate", ControllerCertKind::Intermediate)?,
            cert("ecdh", ControllerCertKind::EcdhExchange)?,
        ];
        // What a device has not fetched again since is encrypted with the former one.
        if let Ok(former) = cert("ecdh.former", ControllerCertKind::EcdhExchange)
            && former.hash != certs[2].hash
            && !has_ended(&former.pem, now)
        {
            certs.push(former);
        }
        let (tls_chain, tls_key) = load_tls(dir)?;
        let root_pem = read(&folder.join("root-certificate.pem"))?;
        Ok(Self {
            signer,
            exchange: Arc::new(exchange),
            certs,
            tls_chain,
            tls_key,
            root_pem,
            changes: from,
        })
    }

    /// Changes when any certificate that devices hold changes: `controllercert_confighash`. It also changes when another
    /// of them signs, so that each device gets its configuration anew, signed by that one, and can keep it.
    pub fn certs_hash(&self) -> String {
        let mut hashes: Vec<_> = self.certs.iter().map(|c| c.hash).collect();
        hashes.sort_unstable();
        hashes.push(self.signer.sender());
        hex::encode(Sha256::digest(hashes.concat()))
    }
}

/// The TLS chain (leaf first) and key of the PKI below `dir`.
pub fn load_tls(
    dir: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PkiError> {
    let folder = dir.join(FOLDER);
    let mut chain = Vec::new();
    for name in ["server.cert.pem", "intermediate.cert.pem"] {
        let path = folder.join(name);
        let pem = read(&path)?;
        chain.push(CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| {
            PkiError::Content {
                path,
                reason: e.to_string(),
            }
        })?);
    }
    Ok((
        chain,
        PrivateKeyDer::Pkcs8(read_key(&folder.join("server.key.pem"))?),
    ))
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::Io {
        path: path.to_owned(),
        source,
    })
}

/// The key in a file, if it is that of the certificate: the files of a rotation are written one after the other.
fn matching_key(
    path: &Path,
    cert: &ControllerCert,
) -> Result<PrivatePkcs8KeyDer<'static>, PkiError> {
    let content = |reason: String| PkiError::Content {
        path: path.to_owned(),
        reason,
    };
    let key = read_key(path)?;
    let secret = p256::SecretKey::from_pkcs8_der(key.secret_pkcs8_der())
        .map_err(|e| content(e.to_string()))?;
    let public =
        PeerKey::from_certificate(cert.pem.as_bytes()).map_err(|e| content(e.to_string()))?;
    if secret.public_key().to_encoded_point(false).as_bytes() == public.sec1() {
        Ok(key)
    } else {
        Err(content("is not the key of the certificate".to_owned()))
    }
}

/// Whether a certificate's validity is over; so is one that can't be read.
fn has_ended(pem: &str, now: i64) -> bool {
    let Ok((_, block)) = x509_parser::pem::parse_x509_pem(pem.as_bytes()) else {
        return true;
    };
    block
        .parse_x509()
        .map_or(true, |cert| cert.validity().not_after.timestamp() <= now)
}

/// Tells whether the files of the PKI below `dir` are still those that were loaded: when each was written.
pub fn stamp(dir: &Path) -> Vec<Option<std::time::SystemTime>> {
    let names = [
        "signing.key.pem",
        "signing.cert.pem",
        "ecdh.key.pem",
        "ecdh.cert.pem",
        "server.key.pem",
        "server.cert.pem",
        ROTATION,
    ];
    let folder = dir.join(FOLDER);
    names
        .iter()
        .map(|name| {
            fs::metadata(folder.join(name))
                .and_then(|m| m.modified())
                .ok()
        })
        .collect()
}

fn read_key(path: &Path) -> Result<PrivatePkcs8KeyDer<'static>, PkiError> {
    PrivatePkcs8KeyDer::from_pem_slice(read(path)?.as_bytes()).map_err(|e| PkiError::Content {
        path: path.to_owned(),
        reason: e.to_string(),
    })
}
