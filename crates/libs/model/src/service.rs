//! Services and helpers as the supervisor runs them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;

/// Where a unit is on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ServicePhase {
    /// Not started yet: these come first.
    #[serde(rename_all = "PascalCase")]
    Waiting {
        /// The units that it waits for.
        after: Vec<String>,
    },
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
    /// Asked to stop (or found hung); killed at the deadline.
    #[serde(rename_all = "PascalCase")]
    Stopping {
        /// Process id.
        pid: u32,
        /// When it will be killed.
        deadline: Timestamp,
    },
    /// Does not run, and is not started again by itself.
    Stopped,
}

/// State of a unit. Topic `supervisor/ServiceStatus`, key: the unit's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceStatus {
    /// Its name: a service's, or `<owner>/<name>` of a transient unit.
    pub name: String,
    /// How far it is.
    pub phase: ServicePhase,
    /// Restarts since the device booted.
    #[serde(default)]
    pub restarts: u32,
    /// User that it runs as.
    #[serde(default)]
    pub uid: u32,
    /// Memory charged to it and its children, rounded to MiB, where the kernel tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Its memory limit in bytes, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<u64>,
    /// What it says of itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status_text: String,
    /// How it last ended, for people; empty if it never did.
    #[serde(default)]
    pub last_exit: String,
    /// When it last ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit_at: Option<Timestamp>,
    /// What keeps it from running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}
