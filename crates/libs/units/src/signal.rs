//! Signals that ask a unit to end.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::SpecError;

/// The signal that asks a unit's program to end by itself. `SIGKILL` always follows after the
/// unit's timeout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StopSignal {
    /// `SIGTERM`.
    #[default]
    #[serde(rename = "SIGTERM")]
    Term,
    /// `SIGINT`.
    #[serde(rename = "SIGINT")]
    Int,
    /// `SIGQUIT`.
    #[serde(rename = "SIGQUIT")]
    Quit,
    /// `SIGHUP`.
    #[serde(rename = "SIGHUP")]
    Hup,
    /// `SIGUSR1`.
    #[serde(rename = "SIGUSR1")]
    Usr1,
    /// `SIGUSR2`.
    #[serde(rename = "SIGUSR2")]
    Usr2,
    /// `SIGKILL`: no chance to end by itself.
    #[serde(rename = "SIGKILL")]
    Kill,
}

impl StopSignal {
    /// All of them.
    pub const ALL: &'static [StopSignal] = &[
        Self::Term,
        Self::Int,
        Self::Quit,
        Self::Hup,
        Self::Usr1,
        Self::Usr2,
        Self::Kill,
    ];

    /// The usual name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Term => "SIGTERM",
            Self::Int => "SIGINT",
            Self::Quit => "SIGQUIT",
            Self::Hup => "SIGHUP",
            Self::Usr1 => "SIGUSR1",
            Self::Usr2 => "SIGUSR2",
            Self::Kill => "SIGKILL",
        }
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl FromStr for StopSignal {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        Self::ALL
            .iter()
            .copied()
            .find(|signal| signal.as_str() == text)
            .ok_or_else(|| SpecError::Signal {
                text: text.chars().take(100).collect(),
            })
    }
}
