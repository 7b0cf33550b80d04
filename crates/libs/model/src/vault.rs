//! The encrypted part of `/persist`: where it is, whether it is open, who has its key.
//!
//! ```text
//! /persist/vault/downloader/downloads     what is in these three is encrypted (fscrypt), by one key;
//! /persist/vault/verifier/verified        the directories around them are their services' own and
//! /persist/vault/volumemgr/volumes        readable while the vault is locked
//! ```
//! Why so: `docs/decisions/105-vault-of-three-roots.md`.

use std::collections::BTreeMap;

use bus::Rows;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;

/// What is being downloaded, below the root of the device.
pub const DOWNLOADS: &str = "persist/vault/downloader/downloads";
/// Verified images.
pub const VERIFIED: &str = "persist/vault/verifier/verified";
/// Volumes.
pub const VOLUMES: &str = "persist/vault/volumemgr/volumes";
/// Every encrypted directory.
pub const ROOTS: [&str; 3] = [DOWNLOADS, VERIFIED, VOLUMES];

/// The PCRs that the vault's key is sealed to: firmware, boot loader, kernel, root file system and CONFIG; not 5, which
/// changes with every partition table.
pub const SEALED_TO: [u32; 14] = [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14];

/// Whether the vault can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VaultPhase {
    /// Nobody can read what is in it, or it is not yet known. Who uses it waits.
    Locked,
    /// Encrypted and open.
    Open,
    /// It is not encrypted, and used as it is; the fault, or the lack of a TPM, says why.
    Disabled,
}

/// Where the key came from that opened the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnlockMethod {
    /// The TPM: the software is the one that it was sealed to.
    Sealed,
    /// The TPM: the software is one that was expected, because it was sealed to that before an update.
    Expected,
    /// The controller gave back the copy that it keeps.
    Controller,
    /// The vault was made.
    Created,
}

/// State of the vault. Topic `vaultmgr/VaultStatus`, key `vault`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VaultStatus {
    /// Whether it can be used.
    pub phase: VaultPhase,
    /// What opened it since the boot; none when it is locked, disabled, or was open before vaultmgr started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlocked_by: Option<UnlockMethod>,
    /// Name of its key, hex: what `vault.allow.clean` has to say to give it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Whether the key is sealed to the PCRs as they are now, so that the next boot opens it.
    #[serde(default)]
    pub sealed: bool,
    /// PCRs that keep it locked: they differ from what the key is sealed to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mismatching_pcrs: Vec<u32>,
    /// Why it is locked or not encrypted, or not ready for the next boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// Whether services may look into the vault, by the rows of `vaultmgr/VaultStatus`.
pub fn is_usable(rows: &Rows<VaultStatus>) -> bool {
    rows.values().any(VaultStatus::is_usable)
}

impl VaultStatus {
    /// Of a device without a TPM: it is used as it is.
    pub fn disabled() -> Self {
        Self {
            phase: VaultPhase::Disabled,
            unlocked_by: None,
            key: None,
            sealed: false,
            mismatching_pcrs: Vec::new(),
            fault: None,
        }
    }

    /// Whether services may look into it. A locked directory can be listed, but shows other names than its own.
    pub fn is_usable(&self) -> bool {
        match self.phase {
            VaultPhase::Open | VaultPhase::Disabled => true,
            VaultPhase::Locked => false,
        }
    }
}

/// The vault's key, encrypted so that only this device's TPM can decrypt it; the controller keeps it.
/// Topics `vaultmgr/EncryptedVaultKeyFromDevice` and `zedagent/EncryptedVaultKeyFromController`, key `vault`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EncryptedVaultKey {
    /// Base64.
    pub encrypted_key: String,
    /// SHA-256 of the key, hex.
    pub sha256: String,
}

/// Values of PCRs that a boot may lead to besides those of now: another slot's image, before and while it is tested.
/// Topic `baseosmgr/ExpectedPcrs`, key: the slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExpectedPcrs {
    /// Index to value, hex. PCRs that are not named stay as they are.
    pub values: BTreeMap<u32, String>,
}
