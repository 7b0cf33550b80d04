//! From what the TPM said to what others are told. Pure.

use jiff::Timestamp;
use model::{code::Code, node::MaintenanceReason};
use tpm::{TpmError, Trouble, TroubleKind};

use crate::chip::{ChipError, ChipState};

/// The code of a trouble.
pub fn code(kind: TroubleKind) -> Code {
    match kind {
        TroubleKind::Starting => Code::OnboardIdentity,
        TroubleKind::Dead => Code::TpmDead,
        TroubleKind::Lockout => Code::TpmLockout,
        TroubleKind::NoSha256 => Code::TpmNoSha256,
        TroubleKind::Missing => Code::TpmMissing,
        TroubleKind::Keys => Code::TpmKeys,
    }
}

/// Why the device takes on nothing new because of it.
pub fn maintenance(kind: TroubleKind) -> Option<MaintenanceReason> {
    match kind {
        // At every start; and keys without a password go on working in a lock-out.
        TroubleKind::Starting | TroubleKind::Lockout => None,
        TroubleKind::Dead | TroubleKind::Missing | TroubleKind::Keys => {
            Some(MaintenanceReason::TpmEncFailure)
        }
        TroubleKind::NoSha256 => Some(MaintenanceReason::TpmQuoteFailure),
    }
}

/// Whether keys sign and decrypt all the same.
pub fn still_signs(kind: TroubleKind) -> bool {
    match kind {
        TroubleKind::Lockout | TroubleKind::NoSha256 => true,
        TroubleKind::Starting | TroubleKind::Dead | TroubleKind::Missing | TroubleKind::Keys => {
            false
        }
    }
}

/// The trouble that an error shows, if it is about the TPM and not about what was asked.
pub fn shown_by(error: &ChipError, now: Timestamp) -> Option<Trouble> {
    let kind = match error {
        ChipError::Gone(_) => TroubleKind::Dead,
        ChipError::Lockout => TroubleKind::Lockout,
        ChipError::NoSha256 => TroubleKind::NoSha256,
        ChipError::Keys(_) => TroubleKind::Keys,
        ChipError::Mismatch(_)
        | ChipError::Missing(_)
        | ChipError::Invalid(_)
        | ChipError::Refused { .. } => return None,
    };
    Some(Trouble {
        kind,
        text: error.to_string(),
        since: now,
    })
}

/// What a caller is told.
pub fn answer(error: ChipError, now: Timestamp) -> TpmError {
    if let Some(trouble) = shown_by(&error, now) {
        return trouble.into();
    }
    match error {
        ChipError::Mismatch(pcrs) => TpmError::Mismatch { pcrs },
        ChipError::Missing(what) => TpmError::NotFound { what },
        ChipError::Invalid(reason) => TpmError::Invalid { reason },
        ChipError::Gone(_)
        | ChipError::Lockout
        | ChipError::NoSha256
        | ChipError::Keys(_)
        | ChipError::Refused { .. } => TpmError::Failed {
            reason: error.to_string(),
        },
    }
}

/// The trouble that a TPM tells of itself. Without its bank it cannot attest, which is worse than a lock-out.
pub fn told_by(state: &ChipState, now: Timestamp) -> Option<Trouble> {
    let trouble = |kind, text: String| Trouble {
        kind,
        text,
        since: now,
    };
    if !state.sha256 {
        let text = ChipError::NoSha256.to_string();
        return Some(trouble(TroubleKind::NoSha256, text));
    }
    let seconds = state.locked_out?;
    let text = format!(
        "{}; it forgives one in {seconds} s while the device is on",
        ChipError::Lockout
    );
    Some(trouble(TroubleKind::Lockout, text))
}
