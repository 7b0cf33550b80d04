//! The identity of a device whose key is a file, as a signer.
//!
//! On a device tpmmgr keeps the key, in a TPM or not, and signs for others
//! ([`crate::keeper`]). This is for what has a CONFIG directory of its own: tests, and tools.

use std::path::Path;

use jiff::Timestamp;
use thiserror::Error;
pub use tpm::identity::{
    CERT_FILE, IdentityError, KEY_FILE, NewIdentity, NoRandomness, Random, generate, system_random,
};

use crate::signer::{SignerError, SoftwareKey};

/// Why there is no signer.
#[derive(Debug, Error)]
pub enum LoadError {
    /// No identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its certificate is not one of a device.
    #[error(transparent)]
    Signer(#[from] SignerError),
}

/// The identity in `config` (the CONFIG partition), made there if there is none.
/// The flag tells whether anything was made.
pub fn load_or_create(
    config: &Path,
    now: Timestamp,
    random: Random,
) -> Result<(SoftwareKey, bool), LoadError> {
    let (identity, made) = tpm::identity::load_or_create(config, now, random)?;
    let signer = SoftwareKey::new("device", &identity.cert_pem, identity.key)?;
    Ok((signer, made))
}
