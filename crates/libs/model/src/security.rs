//! Certificates of the controller as the device trusts them; the device's own, and who keeps their keys.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;

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

/// Which key of the device a certificate is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EdgeNodeCertKind {
    /// Controllers encrypt to it.
    Ecdh,
    /// Signs quotes; the TPM's alone.
    Quote,
    /// The TPM's own.
    Endorsement,
    /// Of another version.
    #[serde(other)]
    Unknown,
}

/// A certificate of one of the device's further keys, signed by the device's key.
/// Topic `tpmmgr/EdgeNodeCert` (persistent), key: hex of its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EdgeNodeCert {
    /// Which key.
    pub kind: EdgeNodeCertKind,
    /// PEM text: its hash is made over these bytes.
    pub pem: String,
    /// First 16 bytes of SHA-256 over the text, hex.
    pub hash: String,
    /// Its key is in a TPM.
    #[serde(default)]
    pub is_tpm: bool,
    /// `TPM2_PUBLIC` of the key, hex; empty where nobody needs it.
    #[serde(default)]
    pub public_area: String,
}

/// Who keeps the device's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum KeyKeeper {
    /// Not known yet.
    #[default]
    Unknown,
    /// A TPM: they cannot be copied.
    Tpm,
    /// A file: the device was installed without a TPM. Whoever copies the file is the device.
    Software,
}

/// Why the device takes on nothing new, as far as its keys are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TpmMaintenance {
    /// The keys can't be used.
    TpmEncFailure,
    /// The TPM can't attest.
    TpmQuoteFailure,
    /// Of another version.
    #[serde(other)]
    Unknown,
}

/// Who keeps the keys and how that is. Topic `tpmmgr/TpmSanityStatus`, key `global`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TpmSanityStatus {
    /// Who keeps them.
    #[serde(default)]
    pub keeper: KeyKeeper,
    /// There is a TPM that is not used.
    #[serde(default)]
    pub unused_tpm: bool,
    /// The TPM's vendor.
    #[serde(default)]
    pub vendor: String,
    /// The TPM's firmware.
    #[serde(default)]
    pub firmware: String,
    /// Why the device takes on nothing new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<TpmMaintenance>,
    /// What is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}
