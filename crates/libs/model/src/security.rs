//! Certificates of the controller as the device trusts them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a controller's certificate is for, EVE's `ZCertType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControllerCertKind {
    /// Signs configs and answers.
    Signing,
    /// Between a leaf and the root.
    Intermediate,
    /// Exchanges keys for encrypted objects.
    EcdhExchange,
}

/// A verified certificate of the controller. Topic `zedagent/ControllerCert` (persistent),
/// key: hex of its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ControllerCert {
    /// What it is for.
    pub kind: ControllerCertKind,
    /// PEM text exactly as delivered: its hash is made over these bytes.
    pub pem: String,
    /// The controller's hash of it, hex.
    pub hash: String,
    /// When it ceases to be valid.
    pub not_after: Timestamp,
}
