//! Services and helpers as the supervisor runs them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;

/// Where a unit is on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ServicePhase {
    /// Started, has not said that it is ready.
    #[serde(rename_all = "PascalCase")]
    Starting {
        /// Process id.
        pid: u32,
        /// Since when.
        since: Timestamp,
    },
    /// Runs and is ready.
    #[serde(rename_all = "PascalCase")]
    Running {
        /// Process id.
        pid: u32,
        /// Since when.
        since: Timestamp,
    },
    /// Ended unexpectedly; started again at this time.
    #[serde(rename_all = "PascalCase")]
    Backoff {
        /// When it is started again.
        until: Timestamp,
    },
    /// Asked to stop; killed at the deadline.
    #[serde(rename_all = "PascalCase")]
    Stopping {
        /// When it will be killed.
        deadline: Timestamp,
    },
    /// Does not run, as wanted.
    Stopped,
}

/// State of a unit. Topic `supervisor/ServiceStatus`, key: the unit's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// How far it is.
    pub phase: ServicePhase,
    /// Restarts since the device booted.
    #[serde(default)]
    pub restarts: u32,
    /// User that it runs as.
    #[serde(default)]
    pub uid: u32,
    /// How it last ended, for people.
    #[serde(default)]
    pub last_exit: String,
    /// What keeps it from running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}
