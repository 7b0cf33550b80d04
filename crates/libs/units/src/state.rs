//! A unit as it is now.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::UnitName;

/// One unit's state, as the supervisor tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitState {
    /// Its name.
    pub name: UnitName,
    /// Where it is in its life.
    pub phase: Phase,
    /// How often its process was started again since the unit was asked for.
    pub restarts: u32,
    /// How its last process ended, if one did.
    pub last_exit: Option<Exit>,
    /// Memory charged to it, where there is a cgroup to tell.
    pub memory_bytes: Option<u64>,
    /// The uid it runs as.
    pub uid: u32,
    /// The labels of its spec.
    pub labels: BTreeMap<String, String>,
    /// The last status text that it gave of itself; empty if none.
    pub status_text: String,
}

/// Where a unit is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not started yet: these must be up first.
    Waiting {
        /// The names of those.
        after: Vec<UnitName>,
    },
    /// Its process exists but hasn't said that it is ready (units with a heartbeat only).
    Starting {
        /// Process id.
        pid: u32,
        /// When it was started.
        since: Timestamp,
    },
    /// Its process runs.
    Running {
        /// Process id.
        pid: u32,
        /// When it was started.
        since: Timestamp,
    },
    /// Its process was asked to end.
    Stopping {
        /// Process id.
        pid: u32,
        /// When it was asked.
        since: Timestamp,
    },
    /// Its process ended and will be started again.
    Backoff {
        /// When.
        until: Timestamp,
        /// Why it ended.
        reason: String,
    },
    /// It has ended and stays so; how is in [`UnitState::last_exit`] (`None`: it never ran).
    Ended {
        /// When.
        at: Timestamp,
    },
}

impl Phase {
    /// Whether there will be no process any more unless somebody asks for one.
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Ended { .. })
    }

    /// The process id, while there is a process.
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Starting { pid, .. } | Self::Running { pid, .. } | Self::Stopping { pid, .. } => {
                Some(*pid)
            }
            Self::Waiting { .. } | Self::Backoff { .. } | Self::Ended { .. } => None,
        }
    }
}

/// The end of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// When.
    pub at: Timestamp,
    /// How.
    pub kind: ExitKind,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitKind {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// It ended while it was not the supervisor's child (adopted after the supervisor's restart), so
    /// its status went to another process.
    Unknown,
    /// It could not be started.
    NotStarted(String),
    /// The supervisor killed it: no heartbeat for this long.
    Hung(Duration),
    /// The kernel killed it at its memory limit.
    OutOfMemory,
}

impl ExitKind {
    /// Whether the process did what it was for: it exited with 0.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Code(0))
    }
}

/// What the kernel ends a process with for a system call that its filter forbids.
pub const SIGSYS: i32 = 31;

impl fmt::Display for ExitKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(out, "exited with code {code}"),
            Self::Signal(SIGSYS) => write!(
                out,
                "killed by signal {SIGSYS}: a system call that no unit may make"
            ),
            Self::Signal(signal) => write!(out, "killed by signal {signal}"),
            Self::Unknown => out.write_str("ended, how is not known (it was adopted)"),
            Self::NotStarted(why) => write!(out, "could not be started: {why}"),
            Self::Hung(silence) => write!(
                out,
                "killed: no heartbeat for {}.{:03} s",
                silence.as_secs(),
                silence.subsec_millis()
            ),
            Self::OutOfMemory => out.write_str("killed at its memory limit"),
        }
    }
}
