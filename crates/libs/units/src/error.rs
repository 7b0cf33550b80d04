//! Why a request to the supervisor failed.

use std::path::PathBuf;

use crate::{SpecError, UnitName};

/// The failure of a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitsError {
    /// The supervisor can't be reached. It may be restarting: worth a retry.
    #[error("the supervisor at {socket} does not answer: {reason}")]
    Unreachable {
        /// Its socket.
        socket: PathBuf,
        /// What happened.
        reason: String,
    },
    /// This caller may not do this.
    #[error("the supervisor refuses: {reason}")]
    Refused {
        /// The rule.
        reason: String,
    },
    /// The spec or the name can't be used.
    #[error("not a unit that can run: {reason}")]
    Invalid {
        /// What is wrong.
        reason: String,
    },
    /// There is no such unit.
    #[error("there is no unit {name}")]
    NotFound {
        /// Its name.
        name: UnitName,
    },
    /// A unit of this name lives with another spec.
    #[error("{reason}")]
    Exists {
        /// Which, and what differs.
        reason: String,
    },
    /// The supervisor could not do it now: it is stopping, say, or has no room. Worth a retry.
    #[error("the supervisor could not do it: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
    /// The supervisor's answer makes no sense to this client.
    #[error("the supervisor's answer can't be read: {reason}")]
    Answer {
        /// What is wrong with it.
        reason: String,
    },
    /// The client was made outside of a tokio runtime.
    #[error("a client of the supervisor needs a tokio runtime")]
    NoRuntime,
}

impl UnitsError {
    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Failed { .. } => true,
            Self::Refused { .. }
            | Self::Invalid { .. }
            | Self::NotFound { .. }
            | Self::Exists { .. }
            | Self::Answer { .. }
            | Self::NoRuntime => false,
        }
    }
}

impl From<SpecError> for UnitsError {
    fn from(error: SpecError) -> Self {
        Self::Invalid {
            reason: error.to_string(),
        }
    }
}
