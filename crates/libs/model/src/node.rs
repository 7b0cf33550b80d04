//! The device as a whole: onboarding, contact with the controller, reboots.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    fault::Fault,
    id::{DeviceId, Digest},
    security::EndingCert,
};

/// Where the device is on its way into its controller's hands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnboardPhase {
    /// Its identity is being made.
    #[default]
    Identity,
    /// Waits for a usable address.
    AwaitNetwork,
    /// Fetches the controller's certificates.
    FetchCerts,
    /// Registers with its onboarding certificate.
    Register,
    /// Asks for its UUID.
    GetUuid,
    /// The controller knows it.
    Onboarded,
}

/// Onboarding state. Topic `zedagent/OnboardingStatus` (persistent), key `global`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct OnboardingStatus {
    /// How far it is.
    #[serde(default)]
    pub phase: OnboardPhase,
    /// The device's UUID, once known.
    #[serde(default)]
    pub device: Option<DeviceId>,
    /// Hardware model, as the controller or the hardware names it.
    #[serde(default)]
    pub hardware_model: String,
    /// The controller, `host[:port]`.
    #[serde(default)]
    pub server: String,
    /// SHA-256 of the device certificate.
    #[serde(default)]
    pub device_cert: Option<Digest>,
    /// The controller speaks version 1 of the protocol only.
    #[serde(default)]
    pub api_v1: bool,
    /// What keeps it from going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// Where the attestation is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum AttestPhase {
    /// Not begun.
    #[default]
    None,
    /// Sends the device's certificates.
    SendCerts,
    /// Waits for the controller's nonce.
    NonceWait,
    /// Waits for the quote of the TPM.
    QuoteWait,
    /// Waits for the controller's judgement.
    AttestWait,
    /// Hands keys to the controller.
    EscrowWait,
    /// Begins again after a pause.
    RestartWait,
    /// The controller trusts the device.
    Complete,
}

/// Why the device takes on nothing new, EVE's `MaintenanceModeReason`: no application that never ran, no other base
/// OS. What runs goes on, and the config is fetched as always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MaintenanceReason {
    /// The controller's config, or the property `maintenance.mode`.
    UserRequested,
    /// The vault does not open.
    VaultLockedUp,
    /// `/persist` has no room left for applications.
    LowDiskSpace,
    /// The device's keys can't be used.
    TpmEncFailure,
    /// The TPM does not attest.
    TpmQuoteFailure,
    /// The controller does not take the certificates of the device's keys.
    EdgeNodeCertsRefused,
    /// Of another version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for MaintenanceReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UserRequested => "it was asked for",
            Self::VaultLockedUp => "the vault does not open",
            Self::LowDiskSpace => "the disk is full",
            Self::TpmEncFailure => "the device's keys can't be used",
            Self::TpmQuoteFailure => "the TPM does not attest",
            Self::EdgeNodeCertsRefused => "the controller does not take the device's certificates",
            Self::Unknown => "for a reason of another version",
        })
    }
}

/// How the last config was got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ConfigSource {
    /// None yet.
    #[default]
    None,
    /// The one saved at an earlier boot.
    Saved,
    /// The controller.
    Controller,
    /// `/config/bootstrap-config.pb`.
    Bootstrap,
}

/// State of the config channel. Topic `zedagent/ZedAgentStatus`, key `zedagent`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ZedAgentStatus {
    /// Where the config in force came from.
    #[serde(default)]
    pub config_source: ConfigSource,
    /// The controller's hash of the config in force.
    #[serde(default)]
    pub config_hash: String,
    /// When the config in force was taken.
    #[serde(default)]
    pub config_at: Option<Timestamp>,
    /// When the controller last answered, to the minute so that it does not change all the time.
    #[serde(default)]
    pub last_contact: Option<Timestamp>,
    /// Attestation state.
    #[serde(default)]
    pub attest: AttestPhase,
    /// What the config's device commands say, with the controller's counters; nodeagent knows which
    /// of them are news.
    #[serde(default)]
    pub operations: Vec<DeviceOperation>,
    /// Bumped by the controller when it wants every report again.
    #[serde(default)]
    pub controller_epoch: i64,
    /// The config asks for maintenance mode.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub maintenance_mode: bool,
    /// What in the conversation with the controller calls for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maintenance: Vec<MaintenanceReason>,
    /// Certificates of the controller that end soon.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ending_certs: Vec<EndingCert>,
    /// What is wrong with the channel or with the last config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// Something that the device as a whole shall do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeviceOperation {
    /// What.
    pub kind: DeviceOperationKind,
    /// The controller's counter: each number is carried out once.
    pub counter: u32,
}

/// What the device as a whole can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceOperationKind {
    /// Stop everything and boot again.
    Reboot,
    /// Stop all applications and stay up.
    Shutdown,
    /// Stop everything and switch off.
    PowerOff,
}

/// Command counters of the device that were carried out, kept so that none is repeated or lost.
/// Topic `nodeagent/DeviceOpCounters` (persistent), key `global`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeviceOpCounters {
    /// Reboot counter last carried out; none before the first config.
    #[serde(default)]
    pub reboot: Option<u32>,
    /// Shutdown counter last carried out; none before the first config.
    #[serde(default)]
    pub shutdown: Option<u32>,
    /// Power-off counter last carried out; none before the first config.
    #[serde(default)]
    pub power_off: Option<u32>,
    /// Boots since installation.
    #[serde(default)]
    pub boots: u32,
}

/// Why the device booted, EVE's `BootReason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum BootReason {
    /// Nothing recorded: power was cut, or this is unknown.
    #[default]
    None,
    /// First boot ever.
    First,
    /// The controller's reboot command.
    RebootCmd,
    /// The controller's power-off command.
    PoweroffCmd,
    /// A new base OS image.
    Update,
    /// Back to the old base OS image.
    Fallback,
    /// No contact with the controller for too long.
    Disconnect,
    /// Power failed.
    PowerFail,
    /// The hardware watchdog.
    HwWatchdog,
    /// Of another version.
    #[serde(other)]
    Unknown,
}

/// Why the device booted. Topic `nodeagent/RebootRecord` (persistent), key `last` for the boot
/// that was, `next` for the one that is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RebootRecord {
    /// The reason.
    pub reason: BootReason,
    /// For people.
    pub text: String,
    /// When it was decided.
    pub at: Timestamp,
    /// Partition that was running.
    #[serde(default)]
    pub image: String,
}

/// What the device as a whole is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum DevicePhase {
    /// Not yet onboarded.
    #[default]
    Onboarding,
    /// Works.
    Online,
    /// Stops applications before a reboot or power-off.
    #[serde(rename_all = "PascalCase")]
    Halting {
        /// When it goes on without waiting any longer.
        deadline: Timestamp,
    },
    /// Applications are stopped by command.
    ShutDown,
    /// Handed to the supervisor.
    Rebooting,
}

/// State of the device as a whole. Topic `nodeagent/NodeAgentStatus`, key `nodeagent`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NodeAgentStatus {
    /// What it is doing.
    #[serde(default)]
    pub phase: DevicePhase,
    /// True asks zedmanager to halt every application.
    #[serde(default)]
    pub halt_apps: bool,
    /// Boots since installation.
    #[serde(default)]
    pub restart_counter: u32,
    /// When this boot began.
    #[serde(default)]
    pub boot_time: Option<Timestamp>,
    /// Why this boot happened.
    #[serde(default)]
    pub boot_reason: BootReason,
    /// The same, for people.
    #[serde(default)]
    pub reboot_text: String,
    /// When the last reboot was decided.
    #[serde(default)]
    pub reboot_time: Option<Timestamp>,
    /// The operation being carried out.
    #[serde(default)]
    pub operation: Option<DeviceOperation>,
    /// Why the device is in maintenance mode; empty when it is not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maintenance: Vec<MaintenanceReason>,
}
