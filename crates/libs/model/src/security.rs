//! Certificates of the controller as the device trusts them; the device's own, and who keeps their keys; secrets as the
//! controller sends them.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    fault::Fault,
    id::{Digest, ParseIdError},
    node::MaintenanceReason,
};

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

/// Certificates that end within this time are warned of: long enough for people who plan their work.
pub const ENDS_SOON: SignedDuration = SignedDuration::from_hours(60 * 24);

/// A certificate of the controller that ends soon, or has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EndingCert {
    /// What it is for.
    pub kind: ControllerCertKind,
    /// The controller's hash of it, hex.
    pub hash: String,
    /// When it ceases to be valid.
    pub not_after: Timestamp,
    /// It has.
    pub has_ended: bool,
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

/// Names the two keys that secrets are encrypted between. Topic `zedagent/CipherContext`, key: its id.
/// The keys themselves are found when they are needed: the controller's in `zedagent/ControllerCert`, the device's by
/// tpmmgr.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CipherContext {
    /// The controller's name for it; opaque.
    pub id: String,
    /// Hash of the device's certificate for key exchange, hex.
    pub device_cert_hash: String,
    /// Hash of the controller's certificate, hex: the key of its row.
    pub controller_cert_hash: String,
    /// What is wrong with this part of the config; then nothing that refers to it can be decrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// A secret as the controller sent it. It stays as it is on the bus, and is decrypted only by the process that uses
/// it, when it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CipherBlock {
    /// The [`CipherContext::id`] of its keys.
    pub context: String,
    /// Initialisation vector, 16 bytes.
    pub initial_value: Octets,
    /// The secret, encrypted.
    pub cipher_data: Octets,
    /// SHA-256 of the secret.
    pub clear_text_sha256: Digest,
}

impl CipherBlock {
    /// Whether it holds the same secret: one that the controller encrypted again, with another key, is the same.
    pub fn is_same_secret(&self, other: &Self) -> bool {
        self.clear_text_sha256 == other.clear_text_sha256
    }
}

/// Bytes; in text base64.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Octets(pub Vec<u8>);

impl fmt::Display for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(&self.0))
    }
}

impl fmt::Debug for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Octets({} bytes)", self.0.len())
    }
}

impl FromStr for Octets {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        STANDARD
            .decode(text)
            .map(Self)
            .map_err(|_| ParseIdError::new(text, "base64"))
    }
}

impl Serialize for Octets {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
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

/// What is measured into a register of a TPM, as firmware and EVE do it.
pub fn component_of_pcr(pcr: u32) -> &'static str {
    match pcr {
        0 => "firmware",
        1 => "firmware settings",
        2 => "option ROMs",
        3 => "settings of option ROMs",
        4 => "bootloader",
        5 => "partition table",
        6 => "events of the platform",
        7 => "secure boot keys and state",
        8 => "bootloader commands and kernel parameters",
        9 => "kernel and files that the bootloader read",
        13 => "root file system",
        14 => "configuration partition",
        _ => "further measurements",
    }
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
    pub maintenance: Option<MaintenanceReason>,
    /// What is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}
