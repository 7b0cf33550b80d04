//! Applications and what may pass their interfaces.

use serde::{Deserialize, Serialize};

use super::is_default;
use crate::config::size::Size;

fn yes() -> bool {
    true
}

/// An application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// Its name.
    pub name: String,
    /// Whether it runs.
    #[serde(default = "yes")]
    pub activate: bool,
    /// Virtual CPUs.
    #[serde(default = "one")]
    pub cpus: u32,
    /// Memory.
    pub memory: Size,
    /// How it is virtualized.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: VmMode,
    /// How its firmware boots.
    #[serde(default, skip_serializing_if = "is_default")]
    pub boot: BootMode,
    /// Screen and keyboard over VNC.
    #[serde(default, skip_serializing_if = "is_default")]
    pub vnc: bool,
    /// Arguments of a kernel that is booted directly.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kernel_args: String,
    /// Names of its volumes; it boots from the first disk.
    #[serde(default, skip_serializing_if = "is_default")]
    pub volumes: Vec<VolumeUse>,
    /// Its network interfaces in order.
    #[serde(default, skip_serializing_if = "is_default")]
    pub interfaces: Vec<Interface>,
    /// Names or groups of ports that it gets directly.
    #[serde(default, skip_serializing_if = "is_default")]
    pub adapters: Vec<String>,
    /// Cloud-init user data.
    #[serde(default, skip_serializing_if = "is_default")]
    pub user_data: String,
    /// Seconds to wait before it starts.
    #[serde(default, skip_serializing_if = "is_default")]
    pub start_delay: u32,
    /// Version that is reported with it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub version: String,
    /// Don't collect the output of its consoles.
    #[serde(default, skip_serializing_if = "is_default")]
    pub disable_logs: bool,
}

fn one() -> u32 {
    1
}

/// A volume in an application: its name, or its name and where a container sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum VolumeUse {
    /// A disk.
    Name(String),
    /// A folder.
    Mount(Mount),
}

/// Where a container sees a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Name of the volume.
    pub volume: String,
    /// Folder in the container.
    pub mount: String,
}

impl VolumeUse {
    /// The volume's name.
    pub fn volume(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Mount(mount) => &mount.volume,
        }
    }
}

/// How an application is virtualized.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmMode {
    /// Hardware virtual machine.
    #[default]
    Hvm,
    /// Paravirtual.
    Pv,
    /// Hardware virtual machine with some full emulation.
    Fml,
    /// A container without a machine of its own.
    Nohyper,
    /// Emulated disks and network cards of old machines.
    Legacy,
}

/// How the firmware of an application boots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootMode {
    /// What `mode` implies.
    #[default]
    Auto,
    /// BIOS.
    Legacy,
    /// UEFI.
    Uefi,
}

/// A network interface of an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Name of the network instance.
    pub network: String,
    /// Its address; given by the device when empty.
    #[serde(default, skip_serializing_if = "is_default")]
    pub address: String,
    /// Its MAC address; made by the device when empty.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mac: String,
    /// What may pass; everything else is dropped.
    #[serde(default, skip_serializing_if = "is_default")]
    pub acls: Vec<Acl>,
}

/// One rule: all that is given must match, then it passes unless another action is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Acl {
    /// Its name, shown in flow logs.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// Remote address or network.
    #[serde(skip_serializing_if = "is_default")]
    pub ip: String,
    /// Remote DNS name and all below it.
    #[serde(skip_serializing_if = "is_default")]
    pub host: String,
    /// Name of a set of endpoint identifiers.
    #[serde(skip_serializing_if = "is_default")]
    pub eidset: String,
    /// `tcp`, `udp`, `icmp` or a number.
    #[serde(skip_serializing_if = "is_default")]
    pub protocol: String,
    /// Port on the device's or application's side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lport: Option<u16>,
    /// Port on the remote side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fport: Option<u16>,
    /// Name of the device's port.
    #[serde(skip_serializing_if = "is_default")]
    pub adapter: String,
    /// Drop what matches.
    #[serde(skip_serializing_if = "is_default")]
    pub drop: bool,
    /// Let pass so much of what matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// Pass `lport` of the device on to this port of the application.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub portmap: Option<u16>,
    /// Which way it holds.
    #[serde(skip_serializing_if = "is_default")]
    pub direction: Direction,
}

/// Which way a rule holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Both ways.
    #[default]
    Both,
    /// To the application.
    Ingress,
    /// From the application.
    Egress,
}

/// A rate of packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Packets.
    pub rate: u32,
    /// In each `s`, `m` or `h`.
    #[serde(default = "second")]
    pub unit: String,
    /// Packets at once.
    #[serde(default = "one")]
    pub burst: u32,
}

fn second() -> String {
    "s".to_owned()
}
