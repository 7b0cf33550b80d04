//! Why a request to tpmmgr failed.

use std::path::PathBuf;

use crate::{Pcr, Trouble, TroubleKind};

/// The failure of a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TpmError {
    /// tpmmgr can't be reached, or did not answer in time. It may be restarting: worth a retry.
    #[error("tpmmgr at {socket} does not answer: {reason}")]
    Unreachable {
        /// Its socket.
        socket: PathBuf,
        /// What happened.
        reason: String,
    },
    /// This caller may not ask this.
    #[error("tpmmgr refuses: {reason}")]
    Refused {
        /// The rule.
        reason: String,
    },
    /// What was asked makes no sense: a digest of another length, a point that is not on the curve.
    #[error("not a request that can be carried out: {reason}")]
    Invalid {
        /// What is wrong.
        reason: String,
    },
    /// There is no such key, slot or index.
    #[error("there is no {what}")]
    NotFound {
        /// What.
        what: String,
    },
    /// The device was installed without a TPM.
    #[error("this device has no TPM")]
    NeedsTpm,
    /// The keeper can't serve now. Worth a retry.
    #[error(transparent)]
    Trouble(#[from] Trouble),
    /// PCRs don't have the values that the secret was sealed to.
    #[error("PCRs {} differ from what the secret is sealed to", list(.pcrs))]
    Mismatch {
        /// Those that differ from the values at the time of sealing.
        pcrs: Vec<Pcr>,
    },
    /// The TPM refused this one request.
    #[error("the TPM did not do it: {reason}")]
    Failed {
        /// Its words.
        reason: String,
    },
    /// The answer makes no sense to this client.
    #[error("tpmmgr's answer can't be read: {reason}")]
    Answer {
        /// What is wrong with it.
        reason: String,
    },
    /// The client was made outside of a tokio runtime, or its thread cannot be made.
    #[error("a client of tpmmgr needs a tokio runtime")]
    NoRuntime,
}

impl TpmError {
    /// Whether the same request may succeed later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Failed { .. } => true,
            Self::Trouble(trouble) => trouble.kind != TroubleKind::NoSha256,
            Self::Refused { .. }
            | Self::Invalid { .. }
            | Self::NotFound { .. }
            | Self::NeedsTpm
            | Self::Mismatch { .. }
            | Self::Answer { .. }
            | Self::NoRuntime => false,
        }
    }
}

fn list(pcrs: &[Pcr]) -> String {
    let texts: Vec<_> = pcrs.iter().map(ToString::to_string).collect();
    texts.join(", ")
}
