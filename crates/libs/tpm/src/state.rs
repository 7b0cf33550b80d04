//! What is asked and answered.

use std::fmt;

use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::{PcrSelection, PcrValues, TpmError};

/// Longest secret that can be sealed.
pub const LONGEST_SECRET: usize = 128;

/// Most sets of values that a secret is sealed to besides those of now.
pub const MOST_EXPECTED: usize = 7;

/// A key that signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The device's own.
    Device,
    /// The one that many devices are installed with, to register.
    Onboarding,
}

impl Key {
    /// For messages and file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Onboarding => "onboarding",
        }
    }
}

/// An ECDSA P-256 signature as `r || s`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(..)")
    }
}

impl Signature {
    /// As ASN.1 `ECDSA-Sig-Value`, which TLS, X.509 and quotes want.
    pub fn to_der(self) -> Result<Vec<u8>, TpmError> {
        p256::ecdsa::Signature::from_slice(&self.0)
            .map(|signature| signature.to_der().as_bytes().to_vec())
            .map_err(|error| TpmError::Failed {
                reason: error.to_string(),
            })
    }
}

/// The TPM's statement about its PCRs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// `TPMS_ATTEST`.
    pub attest: Vec<u8>,
    /// `ECDSA-Sig-Value`.
    pub signature: Vec<u8>,
    /// The values that were quoted.
    pub pcrs: PcrValues,
    /// The firmware's log of what it measured; empty where there is none or it was not asked for.
    pub event_log: Vec<u8>,
}

/// A secret that came out of its seal.
#[derive(Clone, PartialEq, Eq)]
pub struct Unsealed {
    /// The secret.
    pub secret: Zeroizing<Vec<u8>>,
    /// Which set of values the PCRs had: 0 are those of the time of sealing.
    pub matched: usize,
}

impl fmt::Debug for Unsealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsealed")
            .field("matched", &self.matched)
            .finish_non_exhaustive()
    }
}

/// What a secret is sealed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSlot {
    /// The PCRs that count.
    pub pcrs: PcrSelection,
    /// Their sets of values; the first are those of the time of sealing.
    pub alternatives: Vec<PcrValues>,
}

/// Who keeps the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// A TPM: they never leave it.
    Tpm,
    /// tpmmgr: the device was installed without a TPM.
    Software,
}

/// Whose certificate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CertificateKind {
    /// The device's.
    Device,
    /// Of the key that controllers encrypt to.
    Ecdh,
    /// Of the key that signs quotes.
    Quote,
    /// Of the TPM's endorsement key.
    Endorsement,
    /// Of the onboarding key.
    Onboarding,
}

/// A certificate of one of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whose.
    pub kind: CertificateKind,
    /// The text, byte for byte.
    pub pem: Vec<u8>,
    /// `TPM2_PUBLIC` of an endorsement key; else empty.
    pub public_area: Vec<u8>,
}

/// What keeps the keys, and how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Who keeps them.
    pub keeper: Keeper,
    /// Why they can't be used now.
    pub trouble: Option<Trouble>,
    /// The certificates that there are.
    pub certificates: Vec<Certificate>,
    /// The TPM's vendor.
    pub vendor: String,
    /// The TPM's firmware.
    pub firmware: String,
}

impl Description {
    /// The certificate of this kind.
    pub fn certificate(&self, kind: CertificateKind) -> Option<&Certificate> {
        self.certificates.iter().find(|one| one.kind == kind)
    }
}

/// A state in which keys can't be used. None of them leads to another keeper.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {text}")]
pub struct Trouble {
    /// Which.
    pub kind: TroubleKind,
    /// For people.
    pub text: String,
    /// When it was first met.
    pub since: Timestamp,
}

/// The troubles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TroubleKind {
    /// tpmmgr has not looked yet.
    Starting,
    /// The TPM does not answer.
    Dead,
    /// It refuses for a while, after too many wrong authorizations.
    Lockout,
    /// Its SHA-256 bank is switched off: no quotes, no sealing; it signs.
    NoSha256,
    /// The device has used a TPM, or was installed for one, and there is none.
    Missing,
    /// Its keys are not those of the certificates, or can't be made.
    Keys,
}

impl fmt::Display for TroubleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "the keeper of the keys is starting",
            Self::Dead => "the TPM does not answer",
            Self::Lockout => "the TPM is locked out",
            Self::NoSha256 => "the TPM has no SHA-256 bank of PCRs",
            Self::Missing => "there is no TPM",
            Self::Keys => "the TPM's keys are not usable",
        })
    }
}
