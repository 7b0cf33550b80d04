//! The device's identity: a self-signed P-256 certificate made at first boot, once.
//!
//! Key first, certificate second, each by rename: a power cut in between leaves a key,
//! which the next boot makes the certificate for. Neither is ever replaced, because the
//! controller knows the device by this certificate.
//!
//! With a TPM the key never leaves it: [`certificate_for`] makes the certificate for any
//! key that rcgen can call.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp, ToSpan, tz::TimeZone};
use p256::ecdsa::SigningKey;
use p256::pkcs8::LineEnding;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SerialNumber,
};
use thiserror::Error;

use crate::pem::sha256;
use crate::signer::{RawSignature, SignerError, SoftwareKey, parse_key, sign};

/// Name of the device's certificate in the CONFIG partition.
pub const CERT_FILE: &str = "device.cert.pem";
/// Name of the device's key in the CONFIG partition; there is none with a TPM.
pub const KEY_FILE: &str = "device.key.pem";

const YEARS: i32 = 20;

/// Fills a buffer with unpredictable bytes.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]) -> Result<(), NoRandomness>;

/// The source of random bytes failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no random bytes to be had")]
pub struct NoRandomness;

/// The kernel's random bytes, for [`Random`].
pub fn system_random(buffer: &mut [u8]) -> Result<(), NoRandomness> {
    use ring::rand::SecureRandom;
    ring::rand::SystemRandom::new()
        .fill(buffer)
        .map_err(|_| NoRandomness)
}

/// Why the device has no identity.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// No randomness for a key.
    #[error("no device key")]
    Random(#[from] NoRandomness),
    /// A time that no certificate can hold: the clock is not set.
    #[error("no certificate can be valid from {0}")]
    Time(Timestamp),
    /// The certificate can't be made.
    #[error("no device certificate: {0}")]
    Certificate(String),
    /// Key and certificate on disk are not usable.
    #[error("the identity in {}", .dir.display())]
    Stored {
        /// The CONFIG partition.
        dir: PathBuf,
        /// Why.
        #[source]
        source: SignerError,
    },
    /// The certificate is there but its key is not.
    #[error("{} is there but {KEY_FILE} is not", .0.display())]
    KeyLost(PathBuf),
    /// A file can't be read or written.
    #[error("{}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Key and certificate as texts of files.
#[derive(Clone, PartialEq, Eq)]
pub struct NewIdentity {
    /// The certificate.
    pub cert_pem: String,
    /// The private key (SEC1).
    pub key_pem: String,
}

/// Makes a new key and its certificate; `now` begins its validity a day earlier, so that a
/// controller whose clock is behind accepts it.
pub fn generate(now: Timestamp, random: Random) -> Result<NewIdentity, IdentityError> {
    let key_pem = new_key(random)?;
    let cert_pem = certificate_of(&key_pem, now, random)?;
    Ok(NewIdentity { cert_pem, key_pem })
}

/// The identity in `config` (the CONFIG partition), made there if there is none.
/// The flag tells whether anything was made.
pub fn load_or_create(
    config: &Path,
    now: Timestamp,
    random: Random,
) -> Result<(SoftwareKey, bool), IdentityError> {
    let (cert_path, key_path) = (config.join(CERT_FILE), config.join(KEY_FILE));
    let (cert, key) = (read(&cert_path)?, read(&key_path)?);
    let made = cert.is_none();
    let key = match key {
        Some(key) => key,
        None if !made => return Err(IdentityError::KeyLost(cert_path)),
        None => {
            let key = new_key(random)?;
            // The group is that of the directory: those of the device's services that sign.
            write(&key_path, key.as_bytes(), 0o640)?;
            key.into_bytes()
        }
    };
    let cert = if let Some(cert) = cert {
        cert
    } else {
        let text = String::from_utf8_lossy(&key);
        let cert = certificate_of(&text, now, random)
            .map_err(|error| stored_key(config, &key).unwrap_or(error))?;
        write(&cert_path, cert.as_bytes(), 0o644)?;
        cert.into_bytes()
    };
    SoftwareKey::from_pem("device", &cert, &key)
        .map(|signer| (signer, made))
        .map_err(|source| IdentityError::Stored {
            dir: config.to_owned(),
            source,
        })
}

/// A self-signed device certificate for `key`.
pub fn certificate_for(
    key: &impl rcgen::SigningKey,
    now: Timestamp,
    random: Random,
) -> Result<String, IdentityError> {
    let mut serial = [0; 16];
    random(&mut serial)?;
    // Positive, and never zero.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    let not_before = now
        .checked_sub(SignedDuration::from_hours(24))
        .map_err(|_| IdentityError::Time(now))?;
    let not_after = not_before
        .to_zoned(TimeZone::UTC)
        .checked_add(YEARS.years())
        .map_err(|_| IdentityError::Time(now))?
        .timestamp();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "The Linux Foundation");
    name.push(DnType::CommonName, "EVE");
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = date(not_before)?;
    params.not_after = date(not_after)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    params
        .self_signed(key)
        .map(|certificate| certificate.pem())
        .map_err(|error| IdentityError::Certificate(error.to_string()))
}

fn date(time: Timestamp) -> Result<time::OffsetDateTime, IdentityError> {
    time::OffsetDateTime::from_unix_timestamp(time.as_second())
        .map_err(|_| IdentityError::Time(time))
}

/// A uniformly random P-256 key: bytes outside the group's order are drawn again.
fn new_key(random: Random) -> Result<String, IdentityError> {
    loop {
        let mut bytes = [0; 32];
        random(&mut bytes)?;
        if let Ok(secret) = p256::SecretKey::from_slice(&bytes) {
            return secret
                .to_sec1_pem(LineEnding::LF)
                .map(|pem| pem.to_string())
                .map_err(|error| IdentityError::Certificate(error.to_string()));
        }
    }
}

fn certificate_of(key_pem: &str, now: Timestamp, random: Random) -> Result<String, IdentityError> {
    let key = parse_key(key_pem.as_bytes()).map_err(IdentityError::Certificate)?;
    let point = key
        .verifying_key()
        .to_encoded_point(false)
        .as_bytes()
        .to_vec();
    certificate_for(&CertKey { key, point }, now, random)
}

/// The better error when the stored key is the reason.
fn stored_key(dir: &Path, key: &[u8]) -> Option<IdentityError> {
    let why = parse_key(key).err()?;
    let source = SignerError::Key {
        owner: "device".to_owned(),
        why,
    };
    Some(IdentityError::Stored {
        dir: dir.to_owned(),
        source,
    })
}

struct CertKey {
    key: SigningKey,
    point: Vec<u8>,
}

impl rcgen::PublicKeyData for CertKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for CertKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        sign(&self.key, &sha256(message), "device")
            .and_then(RawSignature::to_der)
            .map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(IdentityError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// All or nothing, also across a power cut.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), IdentityError> {
    let attempt = || {
        let temporary = path.with_extension("tmp");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        path.parent()
            .map_or(Ok(()), |dir| std::fs::File::open(dir)?.sync_all())
    };
    attempt().map_err(|source| IdentityError::Io {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
