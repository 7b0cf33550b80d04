//! Claims, certificates for devices and measurements, as the tools see them.

use serde::{Deserialize, Serialize};

use super::DeviceView;
use crate::decide::attest::baseline::{Comparison, Measured};
use crate::store::measurements::Scope;

/// A claim by who has the code that came with the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimWithCode {
    /// Serial of the device; once it is there its name or UUID do as well.
    pub serial: String,
    /// The code.
    pub code: String,
    /// A better name for it.
    #[serde(default)]
    pub name: Option<String>,
}

/// What a claim came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claimed {
    /// The device; none when it has not come yet, and will not have to wait when it does.
    pub device: Option<DeviceView>,
}

/// What admitting a serial came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// The code that its device is claimed with. Told only this once.
    #[serde(default)]
    pub code: Option<String>,
}

/// A request for a device's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sign {
    /// PKCS#10, PEM.
    pub csr: String,
    /// The device's serial.
    pub serial: String,
    /// Name for it; its serial without one.
    #[serde(default)]
    pub name: Option<String>,
}

/// A device with a certificate of the controller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Signed {
    /// For `device.cert.pem` of its CONFIG partition.
    pub certificate: String,
    /// The device, which is known now.
    pub device: DeviceView,
}

/// What a device proved of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttestView {
    /// Its name.
    pub device: String,
    /// How its last attestation went.
    pub note: String,
    /// When it last attested with success.
    pub attested: Option<String>,
    /// When the last good quote came.
    pub quoted: Option<String>,
    /// What that proved, beside what is accepted now.
    pub comparison: Option<Comparison>,
    /// What it proved.
    pub state: Option<Measured>,
    /// What is accepted for it.
    pub baselines: Vec<BaselineView>,
    /// Hash of the endorsement key that it is bound to, hex.
    pub bound: Option<String>,
    /// The endorsement key that it has shown.
    pub endorsement: Option<EndorsementView>,
}

/// An endorsement key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndorsementView {
    /// SHA-256 of its public key, hex; empty when it is not acceptable.
    pub key: String,
    /// The digest in its TPM name, hex; empty when that is not known.
    pub name: String,
    /// Who vouches for it, or why nobody does.
    pub vouched: String,
}

/// An accepted state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaselineView {
    /// Its number.
    pub id: i64,
    /// For whom.
    pub scope: Scope,
    /// What people call it.
    pub name: String,
    /// When it was accepted.
    pub accepted: Option<String>,
}

/// Accepting what a device proved last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accept {
    /// What people call it.
    pub name: String,
    /// For every device of its hardware model.
    #[serde(default)]
    pub model: bool,
}

/// Which endorsement key a device is bound to from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bind {
    /// None.
    None,
    /// The one that it has shown.
    Shown,
    /// This one: SHA-256 of its public key or of its TPM2_PUBLIC, hex.
    Key(String),
}

/// What a device is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Hash of the endorsement key, hex.
    pub bound: Option<String>,
}
