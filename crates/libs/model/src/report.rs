//! What the controller was told: the journal of the reporter.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{fault::Fault, id::Digest};

/// What the controller has acknowledged about one object, and what keeps the rest.
/// Topic `reporter/DeliveryJournal` (persistent), key: kind and id (`app.<uuid>`, `device`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeliveryRecord {
    /// Digest of the last message that the controller acknowledged, without its time.
    #[serde(default)]
    pub acknowledged: Option<Digest>,
    /// When.
    #[serde(default)]
    pub at: Option<Timestamp>,
    /// The controller's epoch at that time: a new one makes everything due again.
    #[serde(default)]
    pub epoch: i64,
    /// Which controller; empty in records of versions that did not tell.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub server: String,
    /// Why the current state is not delivered; a refusal for good keeps it in quarantine, tried again slowly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}
