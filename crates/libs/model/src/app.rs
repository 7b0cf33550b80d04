//! Applications: what the controller wants, what the device does about it.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    fault::Fault,
    id::{AppId, LogicalLabel, MacAddr, NetworkInstanceId, VolumeKey},
    security::CipherBlock,
};

/// Kind of virtual machine, EVE's `VmMode` numbers in the wire protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum VmMode {
    /// Paravirtual (0); on QEMU the same as [`VmMode::Hvm`].
    Pv,
    /// Hardware virtual machine with virtio devices (1).
    #[default]
    Hvm,
    /// Firmware-like with full device emulation (3).
    Fml,
    /// A container without a hypervisor (4).
    NoHyper,
    /// Old operating systems: IDE disks and e1000 (5).
    Legacy,
}

/// Firmware that starts the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum BootMode {
    /// BIOS.
    #[default]
    Legacy,
    /// UEFI (OVMF).
    Uefi,
}

/// An application instance as the controller wants it. Topic `zedagent/AppInstanceConfig`, key: the app's UUID.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AppInstanceConfig {
    /// Which application.
    pub id: AppId,
    /// Name for people.
    pub display_name: String,
    /// Bumped by the controller at each change of this object.
    #[serde(default)]
    pub version: String,
    /// Whether it shall run; false keeps everything but the guest.
    #[serde(default)]
    pub activate: bool,
    /// Processor, memory and machine.
    pub resources: Resources,
    /// Disks in the order in which the guest sees them.
    #[serde(default)]
    pub volumes: Vec<VolumeAttachment>,
    /// Virtual interfaces in the order in which the guest sees them.
    #[serde(default)]
    pub vifs: Vec<VifConfig>,
    /// Cloud-init user data in the clear (not base64), empty for none.
    #[serde(default)]
    pub user_data: String,
    /// The same, encrypted: then `user_data` is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_user_data: Option<CipherBlock>,
    /// Counts the controller's restart commands.
    #[serde(default)]
    pub restart_counter: u32,
    /// Counts the controller's purge commands.
    #[serde(default)]
    pub purge_counter: u32,
    /// Seconds to wait after boot of the device before the first start.
    #[serde(default)]
    pub start_delay_seconds: u32,
    /// What is wrong with this part of the config; then it is not acted upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// What a guest consumes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Resources {
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory in KiB.
    pub memory_kib: u64,
    /// Kind of machine.
    #[serde(default)]
    pub vm_mode: VmMode,
    /// Firmware.
    #[serde(default)]
    pub boot_mode: BootMode,
    /// Offer a VNC console.
    #[serde(default)]
    pub enable_vnc: bool,
    /// VNC password, empty for none.
    #[serde(default)]
    pub vnc_password: String,
    /// VNC display number.
    #[serde(default)]
    pub vnc_display: u32,
}

/// How a guest sees a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum DiskTarget {
    /// A disk.
    #[default]
    Disk,
    /// A CD-ROM.
    Cdrom,
    /// Not seen: the kernel to start.
    Kernel,
    /// Not seen: the initial RAM disk to start with.
    Initrd,
}

/// A volume in the list of an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeAttachment {
    /// Which one.
    pub volume: VolumeKey,
    /// How the guest sees it.
    #[serde(default)]
    pub target: DiskTarget,
    /// Where a container mounts it.
    #[serde(default)]
    pub mount_dir: String,
}

/// A virtual interface of an application.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VifConfig {
    /// Its name in the config.
    pub name: String,
    /// Network instance that it joins.
    pub network_instance: NetworkInstanceId,
    /// Address that the controller fixed; none lets the device choose.
    #[serde(default)]
    pub mac: Option<MacAddr>,
    /// Address that the controller fixed; none lets the device choose.
    #[serde(default)]
    pub ip: Option<IpAddr>,
    /// Rules in order. Nothing that no rule allows passes.
    #[serde(default)]
    pub acls: Vec<AclRule>,
}

/// One access control entry: all matches must hold, then the action applies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AclRule {
    /// 24-bit number, unique on the device, for counters and flow logs.
    pub id: u32,
    /// Which packets.
    #[serde(default)]
    pub matches: Vec<AclMatch>,
    /// What to do with them.
    pub action: AclAction,
}

/// A condition on a packet, seen from the application: remote is the other side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AclMatch {
    /// Remote address in this prefix.
    Ip(IpNet),
    /// Remote address is what this DNS name (or a name below it) resolved to.
    Host(String),
    /// Transport protocol.
    Protocol(Protocol),
    /// Port of the application's side (for a port map: on the device).
    LocalPort(PortRange),
    /// Port of the remote side.
    RemotePort(PortRange),
    /// Only through this device port.
    Adapter(LogicalLabel),
}

/// Transport protocols that rules know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6.
    Icmp,
}

/// An inclusive range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PortRange {
    /// First.
    pub first: u16,
    /// Last, not below first.
    pub last: u16,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AclAction {
    /// Let pass.
    Allow,
    /// Drop.
    Drop,
    /// Let pass so many packets per unit, drop the rest.
    #[serde(rename_all = "PascalCase")]
    Limit {
        /// Packets per unit of time.
        rate: u32,
        /// The unit: `s`, `m` or `h`.
        unit: RateUnit,
        /// Packets that may pass at once.
        burst: u32,
    },
    /// Forward the device's port (the rule's `LocalPort`) to this port of the application.
    #[serde(rename_all = "PascalCase")]
    PortMap {
        /// Port that the application listens on.
        app_port: u16,
    },
}

/// Unit of a rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RateUnit {
    /// Per second.
    Second,
    /// Per minute.
    Minute,
    /// Per hour.
    Hour,
}

/// Where an application is on its way. The order is that of a first start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum AppPhase {
    /// Its volumes are being made; the slowest of them is named.
    #[serde(rename_all = "PascalCase")]
    Preparing {
        /// The volume that is least far.
        volume: VolumeKey,
        /// 0 to 100 over all volumes.
        percent: u8,
    },
    /// Volumes are ready; the network instance or the interfaces are not.
    AwaitNetwork,
    /// Start is delayed by the config until this time.
    #[serde(rename_all = "PascalCase")]
    StartDelayed {
        /// When the delay ends.
        until: Timestamp,
    },
    /// The guest is being started.
    Booting,
    /// The guest runs.
    #[serde(rename_all = "PascalCase")]
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// The guest is being stopped.
    Halting,
    /// The guest is stopped as wanted.
    Halted,
    /// A restart command is being carried out.
    Restarting,
    /// A purge command is being carried out: new volumes are made, then swapped in.
    Purging,
    /// Everything is being removed.
    Deleting,
    /// It can't go on; see the status's fault.
    Failed,
}

/// State of an application. Topic `zedmanager/AppInstanceStatus`, key: the app's UUID.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AppInstanceStatus {
    /// Which application.
    pub id: AppId,
    /// Name for people.
    pub display_name: String,
    /// Version of the config that this is about.
    #[serde(default)]
    pub version: String,
    /// Whether it shall run.
    pub activate: bool,
    /// How far it is.
    pub phase: AppPhase,
    /// When it entered the phase.
    pub since: Timestamp,
    /// Restart commands carried out.
    #[serde(default)]
    pub restart_counter: u32,
    /// Purge commands carried out.
    #[serde(default)]
    pub purge_counter: u32,
    /// When the guest was last started.
    #[serde(default)]
    pub boot_time: Option<Timestamp>,
    /// Addresses of its interfaces, in order.
    #[serde(default)]
    pub vifs: Vec<VifAddress>,
    /// Volumes in use, generations as in force on the device.
    #[serde(default)]
    pub volumes: Vec<VolumeKey>,
    /// The first thing that keeps it from going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// Address of an application's interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VifAddress {
    /// Its name in the config.
    pub name: String,
    /// Interface on the device's side.
    pub vif: String,
    /// Hardware address.
    pub mac: MacAddr,
    /// Address that the guest was given or will be given.
    #[serde(default)]
    pub ip: Option<IpAddr>,
    /// True once the guest holds a lease.
    #[serde(default)]
    pub leased: bool,
}

/// Counters of commands that were carried out, kept across reboots so that none is repeated
/// or lost. Topic `zedmanager/AppCommandCounters` (persistent), key: the app's UUID.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AppCommandCounters {
    /// The controller's restart counter that was last carried out.
    pub restart: u32,
    /// The controller's purge counter that was last carried out.
    pub purge: u32,
    /// Purges carried out.
    #[serde(default)]
    pub purges: u32,
    /// Added to the config's generation of every volume of the app: one for each purge for which
    /// the controller did not raise the generations itself.
    #[serde(default)]
    pub generation_offset: u64,
    /// The config's volumes before the purge that is not carried out yet, if there is one: if a purge comes
    /// with other volumes, the controller has named the new ones itself.
    #[serde(default)]
    pub volumes: Vec<VolumeKey>,
    /// Its guest was started once, so maintenance mode no longer keeps it waiting. Versions without this start every
    /// guest that they know.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub started: bool,
}

fn yes() -> bool {
    true
}
