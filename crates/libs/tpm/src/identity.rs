//! The device's identity: a self-signed P-256 certificate made at first boot, once.
//!
//! Key first, certificate second, each by rename: a power cut in between leaves a key,
//! which the next boot makes the certificate for. Neither is ever replaced, because the
//! controller knows the device by this certificate. Before it knows it, an operator may put one there that an authority has
//! made of the device's key, out of its [request](request_for).
//!
//! With a TPM the key never leaves it: [`certificate_for`] makes the certificate for any
//! [`CertKey`], and [`certificate_by`] those of its other keys, which the device's key signs.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp, ToSpan, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SerialNumber,
};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{CertificateKind, Signature, SoftKey, SoftKeyError, TpmError};

/// Name of the device's certificate in the CONFIG partition.
pub const CERT_FILE: &str = "device.cert.pem";
/// Name of the device's key in the CONFIG partition; there is none with a TPM.
pub const KEY_FILE: &str = "device.key.pem";

const YEARS: i32 = 20;
const DEVICE_NAME: &str = "EVE";

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
        source: StoredError,
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

/// What is wrong with a stored identity.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoredError {
    /// Its key.
    #[error(transparent)]
    Key(#[from] SoftKeyError),
    /// Its certificate.
    #[error("not a certificate in PEM form: {0}")]
    Certificate(String),
    /// Key and certificate don't belong together.
    #[error("the device key does not belong to the device certificate")]
    Mismatch,
}

/// A key that signs certificates, wherever it is.
pub trait CertKey {
    /// The public point, SEC1 uncompressed.
    fn public_point(&self) -> &[u8];
    /// Signs a SHA-256 digest.
    fn sign_digest(&self, digest: [u8; 32]) -> Result<Signature, TpmError>;
}

/// A key in memory with its certificate.
#[derive(Debug, Clone)]
pub struct SoftIdentity {
    /// The certificate's text.
    pub cert_pem: Vec<u8>,
    /// The key.
    pub key: SoftKey,
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
    let key = new_key(random)?;
    let cert_pem = certificate_for(&key, now, random)?;
    let key_pem = key_text(&key)?;
    Ok(NewIdentity { cert_pem, key_pem })
}

/// The identity in `config` (the CONFIG partition), made there if there is none.
/// The flag tells whether anything was made.
pub fn load_or_create(
    config: &Path,
    now: Timestamp,
    random: Random,
) -> Result<(SoftIdentity, bool), IdentityError> {
    let stored = |source: StoredError| IdentityError::Stored {
        dir: config.to_owned(),
        source,
    };
    let (cert_path, key_path) = (config.join(CERT_FILE), config.join(KEY_FILE));
    let (cert, key) = (read(&cert_path)?, read(&key_path)?);
    let made = cert.is_none();
    let key = match key {
        Some(text) => SoftKey::from_pem(&String::from_utf8_lossy(&text))
            .map_err(|error| stored(error.into()))?,
        None if !made => return Err(IdentityError::KeyLost(cert_path)),
        None => {
            let key = new_key(random)?;
            // The group is that of the directory: whoever keeps the device's keys.
            write(&key_path, key_text(&key)?.as_bytes(), 0o640)?;
            key
        }
    };
    let cert_pem = if let Some(cert) = cert {
        cert
    } else {
        let cert = certificate_for(&key, now, random)?;
        write(&cert_path, cert.as_bytes(), 0o644)?;
        cert.into_bytes()
    };
    let point = certified_point(&cert_pem).map_err(stored)?;
    if point != key.point() {
        return Err(stored(StoredError::Mismatch));
    }
    Ok((SoftIdentity { cert_pem, key }, made))
}

/// Puts a device certificate into `config`, in place of none or of another.
pub fn store_certificate(config: &Path, cert_pem: &[u8]) -> Result<(), IdentityError> {
    write(&config.join(CERT_FILE), cert_pem, 0o644)
}

/// The public key of a certificate, as it stands there: the point of a P-256 key.
pub fn certified_point(pem: &[u8]) -> Result<Vec<u8>, StoredError> {
    let unreadable = |error: String| StoredError::Certificate(error);
    let (_, block) =
        x509_parser::pem::parse_x509_pem(pem).map_err(|error| unreadable(error.to_string()))?;
    let (_, cert) = X509Certificate::from_der(&block.contents)
        .map_err(|error| unreadable(error.to_string()))?;
    Ok(cert.public_key().subject_public_key.data.to_vec())
}

/// A self-signed device certificate for `key`.
pub fn certificate_for(
    key: &impl CertKey,
    now: Timestamp,
    random: Random,
) -> Result<String, IdentityError> {
    let mut params = params(DEVICE_NAME, now, random)?;
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
        .self_signed(&Rcgen(key))
        .map(|certificate| certificate.pem())
        .map_err(|error| IdentityError::Certificate(error.to_string()))
}

/// A request (PKCS #10, PEM) for a certificate of the device's key, for an authority that its controller trusts. What the
/// certificate says of the device is the authority's to write.
pub fn request_for(key: &impl CertKey) -> Result<String, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(DEVICE_NAME);
    params
        .serialize_request(&Rcgen(key))
        .and_then(|request| request.pem())
        .map_err(|error| IdentityError::Certificate(error.to_string()))
}

/// A certificate of another key of the device (its public `point`), signed by the device's key.
pub fn certificate_by(
    device: &impl CertKey,
    device_pem: &str,
    kind: CertificateKind,
    point: &[u8],
    now: Timestamp,
    random: Random,
) -> Result<String, IdentityError> {
    let failed = |error: rcgen::Error| IdentityError::Certificate(error.to_string());
    let (name, usage) = match kind {
        CertificateKind::Ecdh => ("EVE ECDH", KeyUsagePurpose::KeyAgreement),
        CertificateKind::Quote => ("EVE quote", KeyUsagePurpose::DigitalSignature),
        CertificateKind::Endorsement => ("EVE endorsement", KeyUsagePurpose::KeyEncipherment),
        CertificateKind::Device | CertificateKind::Onboarding => {
            return Err(IdentityError::Certificate(
                "the device's key signs no other identity".to_owned(),
            ));
        }
    };
    let mut params = params(name, now, random)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![usage];
    let issuer = rcgen::Issuer::from_ca_cert_pem(device_pem, Rcgen(device)).map_err(failed)?;
    params
        .signed_by(&Public(point), &issuer)
        .map(|certificate| certificate.pem())
        .map_err(failed)
}

fn subject(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "The Linux Foundation");
    name.push(DnType::CommonName, common_name);
    name
}

fn params(
    common_name: &str,
    now: Timestamp,
    random: Random,
) -> Result<CertificateParams, IdentityError> {
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
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(common_name);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = date(not_before)?;
    params.not_after = date(not_after)?;
    Ok(params)
}

fn date(time: Timestamp) -> Result<time::OffsetDateTime, IdentityError> {
    time::OffsetDateTime::from_unix_timestamp(time.as_second())
        .map_err(|_| IdentityError::Time(time))
}

/// A uniformly random P-256 key: bytes outside the group's order are drawn again.
pub fn new_key(random: Random) -> Result<SoftKey, IdentityError> {
    loop {
        let mut bytes = zeroize::Zeroizing::new([0; 32]);
        random(&mut *bytes)?;
        if let Some(key) = SoftKey::from_bytes(&bytes) {
            return Ok(key);
        }
    }
}

fn key_text(key: &SoftKey) -> Result<String, IdentityError> {
    key.to_pem()
        .map(|pem| pem.to_string())
        .map_err(|error| IdentityError::Certificate(error.to_string()))
}

impl CertKey for SoftKey {
    fn public_point(&self) -> &[u8] {
        self.point_ref()
    }

    fn sign_digest(&self, digest: [u8; 32]) -> Result<Signature, TpmError> {
        self.sign(&digest)
    }
}

/// A key as rcgen calls it.
struct Rcgen<'a, K>(&'a K);

impl<K: CertKey> rcgen::PublicKeyData for Rcgen<'_, K> {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_point()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl<K: CertKey> rcgen::SigningKey for Rcgen<'_, K> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0
            .sign_digest(Sha256::digest(message).into())
            .and_then(Signature::to_der)
            .map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// A public key as rcgen calls it.
struct Public<'a>(&'a [u8]);

impl rcgen::PublicKeyData for Public<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
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
