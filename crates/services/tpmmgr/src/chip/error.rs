//! What goes wrong with a TPM.

use serde::{Deserialize, Serialize};
use tpm::Pcr;

/// Why the TPM did not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ChipError {
    /// It can't be reached, or went away.
    #[error("the TPM does not answer: {0}")]
    Gone(String),
    /// It refuses for a while, after too many wrong authorizations.
    #[error("the TPM is locked out after too many wrong authorizations")]
    Lockout,
    /// Its SHA-256 bank is switched off.
    #[error("the TPM's SHA-256 bank of PCRs is switched off")]
    NoSha256,
    /// Its keys are not what they should be.
    #[error("{0}")]
    Keys(String),
    /// PCRs differ from what a secret is sealed to.
    #[error("PCRs differ from what the secret is sealed to")]
    Mismatch(Vec<Pcr>),
    /// There is no such thing.
    #[error("there is no {0}")]
    Missing(String),
    /// What was asked makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It refused this one command.
    #[error("the TPM refused to {what}: {why}")]
    Refused {
        /// What it was asked.
        what: String,
        /// Its response.
        why: String,
    },
}
