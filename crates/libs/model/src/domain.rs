//! Guests: virtual machines as domainmgr runs them.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    app::{DiskTarget, Resources},
    fault::Fault,
    id::{AppId, MacAddr, VolumeKey},
    security::CipherBlock,
    volume::ImageFormat,
};

/// A guest, complete: every file exists, every interface is there. Topic `zedmanager/DomainConfig`,
/// key: the app's UUID.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DomainConfig {
    /// Whose.
    pub app: AppId,
    /// Name for people and the guest's host name.
    pub display_name: String,
    /// Whether it shall run.
    pub activate: bool,
    /// Bumped to stop and start it again (restart command, changed disks).
    #[serde(default)]
    pub incarnation: u64,
    /// Processor, memory and machine.
    pub resources: Resources,
    /// Disks in order.
    #[serde(default)]
    pub disks: Vec<DiskConfig>,
    /// Interfaces in order.
    #[serde(default)]
    pub vifs: Vec<DomainVif>,
    /// Cloud-init user data in the clear; with it the guest gets a NoCloud seed.
    #[serde(default)]
    pub user_data: String,
    /// The same, encrypted: then `user_data` is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_user_data: Option<CipherBlock>,
}

/// A disk of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DiskConfig {
    /// Which volume.
    pub volume: VolumeKey,
    /// The file.
    pub path: PathBuf,
    /// Its format; QEMU is never allowed to guess it.
    pub format: ImageFormat,
    /// How the guest sees it.
    #[serde(default)]
    pub target: DiskTarget,
    /// The guest may not write.
    #[serde(default)]
    pub read_only: bool,
}

/// An interface of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DomainVif {
    /// Tap interface on the device's side.
    pub vif: String,
    /// Bridge that it is a port of.
    pub bridge: String,
    /// Hardware address.
    pub mac: MacAddr,
    /// MTU in bytes.
    #[serde(default)]
    pub mtu: u16,
}

/// Where a guest is on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum DomainPhase {
    /// Does not run, as wanted.
    Halted,
    /// QEMU is being started.
    #[serde(rename_all = "PascalCase")]
    Booting {
        /// Since when.
        since: Timestamp,
    },
    /// Its processors run.
    #[serde(rename_all = "PascalCase")]
    Running {
        /// The supervisor's unit.
        unit: String,
        /// Process id of QEMU.
        pid: u32,
        /// Since when.
        since: Timestamp,
    },
    /// Asked to power off; killed at the deadline.
    #[serde(rename_all = "PascalCase")]
    Halting {
        /// When it will be killed.
        deadline: Timestamp,
    },
    /// It does not run though it should; see the status's fault.
    Failed,
}

/// What runs the guest's instructions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// QEMU's translator, and why not the processor.
    #[serde(rename_all = "PascalCase")]
    Tcg {
        /// What the probe found.
        reason: String,
    },
}

/// State of a guest. Topic `domainmgr/DomainStatus`, key: the app's UUID.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DomainStatus {
    /// Whose.
    pub app: AppId,
    /// How far it is.
    pub phase: DomainPhase,
    /// The incarnation that it runs or last ran.
    #[serde(default)]
    pub incarnation: u64,
    /// When it was last started.
    #[serde(default)]
    pub boot_time: Option<Timestamp>,
    /// How often it was started since the device booted.
    #[serde(default)]
    pub boots: u32,
    /// Serial console log.
    #[serde(default)]
    pub console_log: Option<PathBuf>,
    /// VNC port, when offered.
    #[serde(default)]
    pub vnc_port: Option<u16>,
    /// What keeps it from running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// Consumption of a guest. Topic `domainmgr/DomainMetric`, key: the app's UUID.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DomainMetric {
    /// Whose.
    pub app: AppId,
    /// Processor time since it started, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory of the QEMU process in KiB.
    pub used_memory_kib: u64,
    /// Memory that it may use, in KiB.
    pub max_memory_kib: u64,
    /// Counters per disk, in order.
    #[serde(default)]
    pub disks: Vec<DiskIo>,
    /// When it was measured.
    pub at: Timestamp,
}

/// Counters of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DiskIo {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub read_count: u64,
    /// Writes.
    pub write_count: u64,
}

/// What the device can run. Topic `domainmgr/Capabilities`, key `global`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Capabilities {
    /// What runs guests' instructions.
    pub accelerator: Accelerator,
    /// Processors of the device.
    pub cpus: u32,
    /// Memory of the device in KiB.
    pub memory_kib: u64,
    /// QEMU's version.
    #[serde(default)]
    pub qemu_version: String,
}
