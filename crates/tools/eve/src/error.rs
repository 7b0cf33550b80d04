//! Why a command failed, and its exit code.

use std::path::PathBuf;

use bus::BusError;

/// A command that could not do what it was asked. Exit codes of `eve`: 0 done (for questions: everything
/// is as wanted, nothing differs); 1 the answer is "not as wanted" or "differs"; 2 wrong usage; 3 there is
/// no such object; 4 something can't be read or written; 5 refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Below this directory there is no device.
    #[error("no bus below {}: neither run/ nor persist/status/ is there", root.display())]
    NoDevice {
        /// The directory.
        root: PathBuf,
    },
    /// The bus can't be read or written.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A file can't be read or written.
    #[error("can't {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file is no support bundle.
    #[error("{} is no support bundle that can be read: {reason}", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Standard output is gone or full.
    #[error("can't write the answer: {0}")]
    Output(std::io::Error),
    /// A file that should hold JSON does not.
    #[error("{} is not {expected}: {reason}", path.display())]
    Json {
        /// The file; `-` for standard input.
        path: PathBuf,
        /// What it should hold.
        expected: String,
        /// Where it stops being that.
        reason: String,
    },
    /// A file is no certificate that can be used here.
    #[error("{} is no certificate for this device: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The keeper of the device's keys did not help.
    #[error(transparent)]
    Keeper(#[from] tpm::TpmError),
    /// No object answers to this name.
    #[error("there is no {kind} {name:?}{hint}")]
    NotFound {
        /// Kind of object.
        kind: String,
        /// What was asked for.
        name: String,
        /// What there is instead, beginning with `; `, or nothing.
        hint: String,
    },
    /// Several objects answer to this name.
    #[error("{name:?} can be each of {candidates}: give more of it")]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// Those that it can be.
        candidates: String,
    },
    /// It would disturb a running service.
    #[error("refused: {reason}")]
    Refused {
        /// Why, and how to insist.
        reason: String,
    },
    /// Arguments that do not go together.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_)
            | Self::Json { .. }
            | Self::Certificate { .. }
            | Self::Bus(BusError::BadName { .. }) => 2,
            Self::NotFound { .. }
            | Self::Ambiguous { .. }
            | Self::Bus(BusError::NoTopic { .. }) => 3,
            Self::Bus(
                BusError::NotOwner { .. }
                | BusError::Io { .. }
                | BusError::Watch { .. }
                | BusError::Encode { .. },
            )
            | Self::NoDevice { .. }
            | Self::Io { .. }
            | Self::Bundle { .. }
            | Self::Keeper(_)
            | Self::Output(_) => 4,
            Self::Refused { .. } => 5,
        }
    }
}
