//! What an operator writes about a device. Unknown fields are errors; everything has a default
//! that is either harmless or the usual choice.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::size::Size;
use crate::decide::config::Attestation;

/// The whole of what one device should be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceSpec {
    /// How far the device is trusted.
    pub policy: Policy,
    /// Names that the device shows and reports.
    #[serde(skip_serializing_if = "is_default")]
    pub labels: Labels,
    /// Keeps running what runs, takes nothing new.
    #[serde(skip_serializing_if = "is_default")]
    pub maintenance_mode: bool,
    /// Properties such as `timer.config.interval`; numbers and booleans are written as such.
    #[serde(skip_serializing_if = "is_default")]
    pub properties: BTreeMap<String, Property>,
    /// How ports get their addresses.
    #[serde(skip_serializing_if = "is_default")]
    pub networks: Vec<Network>,
    /// The device's hardware that is used.
    #[serde(skip_serializing_if = "is_default")]
    pub ports: Vec<Port>,
    /// Where images come from.
    #[serde(skip_serializing_if = "is_default")]
    pub datastores: Vec<Datastore>,
    /// Images.
    #[serde(skip_serializing_if = "is_default")]
    pub images: Vec<Image>,
    /// Disks of applications.
    #[serde(skip_serializing_if = "is_default")]
    pub volumes: Vec<Volume>,
    /// Networks of applications.
    #[serde(skip_serializing_if = "is_default")]
    pub network_instances: Vec<NetworkInstance>,
    /// Applications.
    #[serde(skip_serializing_if = "is_default")]
    pub apps: Vec<App>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn yes() -> bool {
    true
}

/// How far a device is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// When it must attest before it gets its configuration.
    pub attestation: Attestation,
    /// Whether a device without a TPM can attest.
    pub software_key: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            attestation: Attestation::Auto,
            software_key: true,
        }
    }
}

/// Names that a device shows and reports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Labels {
    /// Who made it; with `product` it overrides what the hardware says.
    pub manufacturer: String,
    /// Which model.
    pub product: String,
    /// The project that it belongs to.
    pub project: String,
    /// The enterprise that it belongs to.
    pub enterprise: String,
}

/// The value of a property.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Property {
    /// `true` or `false`.
    Flag(bool),
    /// A number.
    Number(i64),
    /// Anything else.
    Text(String),
}

impl std::fmt::Display for Property {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(v) => v.fmt(f),
            Self::Number(v) => v.fmt(f),
            Self::Text(v) => v.fmt(f),
        }
    }
}

/// How ports get their addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// By DHCP or fixed.
    #[serde(default)]
    pub dhcp: Dhcp,
    /// IP versions.
    #[serde(default)]
    pub ip: IpVersions,
    /// Subnet of fixed addresses, CIDR.
    #[serde(default, skip_serializing_if = "is_default")]
    pub subnet: String,
    /// Default gateway of fixed addresses.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gateway: String,
    /// DNS domain.
    #[serde(default, skip_serializing_if = "is_default")]
    pub domain: String,
    /// DNS servers.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dns: Vec<String>,
    /// NTP servers.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ntp: Vec<String>,
    /// Largest packet, bytes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mtu: u32,
    /// Proxies on the way to the controller and datastores.
    #[serde(default, skip_serializing_if = "is_default")]
    pub proxy: Proxy,
}

/// Where an address comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dhcp {
    /// A DHCP server gives it.
    #[default]
    Client,
    /// It is written in the port.
    Static,
    /// There is none.
    None,
}

/// IP versions of a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IpVersions {
    /// IPv4, IPv6 tolerated.
    #[default]
    V4,
    /// IPv6, IPv4 tolerated.
    V6,
    /// IPv4 only.
    V4Only,
    /// IPv6 only.
    V6Only,
    /// Both.
    Dual,
}

/// Proxies of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Proxy {
    /// `host:port` for http addresses.
    pub http: String,
    /// `host:port` for https addresses, by CONNECT.
    pub https: String,
    /// Comma-separated addresses, networks and domains that are reached directly.
    pub exceptions: String,
    /// Contents of a PAC file.
    pub pac: String,
    /// Address of a PAC file.
    pub pac_url: String,
    /// Find the PAC file by WPAD.
    pub wpad: bool,
    /// Certificates of proxies that open TLS, PEM.
    pub certificates: Vec<String>,
}

/// A piece of hardware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Its name, used in this document.
    pub name: String,
    /// Network interface, when it is not the name.
    #[serde(default, skip_serializing_if = "is_default")]
    pub interface: String,
    /// PCI address, such as `0000:02:00.0`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pci: String,
    /// USB address, `bus:port`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub usb: String,
    /// Serial device, such as `/dev/ttyS0`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub serial: String,
    /// What it is.
    #[serde(default)]
    pub kind: PortKind,
    /// Who uses it.
    #[serde(default)]
    pub usage: Usage,
    /// Hardware of the same group goes to an application together; empty is never given away.
    #[serde(default, skip_serializing_if = "is_default")]
    pub group: String,
    /// Name of the network that it is in.
    #[serde(default, skip_serializing_if = "is_default")]
    pub network: String,
    /// Its fixed address.
    #[serde(default, skip_serializing_if = "is_default")]
    pub address: String,
    /// 0 is free of charge; ports of lower cost go first.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cost: u8,
    /// Names that network instances can use instead of the port's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Vec<String>,
}

/// What a piece of hardware is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortKind {
    /// Wired network.
    #[default]
    Ethernet,
    /// Wireless network.
    Wlan,
    /// Cellular network.
    Wwan,
    /// USB.
    Usb,
    /// Serial line.
    Com,
    /// Sound.
    Audio,
    /// Graphics.
    Hdmi,
    /// NVMe storage.
    Nvme,
    /// SATA storage.
    Sata,
    /// CAN bus.
    Can,
    /// Anything else.
    Other,
}

/// Who uses a piece of hardware.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Usage {
    /// The device, and applications through network instances.
    #[default]
    Management,
    /// The device alone.
    ManagementOnly,
    /// Applications through network instances.
    Apps,
    /// One application directly.
    Direct,
    /// Nobody.
    Disabled,
}

/// Where images come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Datastore {
    /// Its name.
    pub name: String,
    /// `https://host:port`, for others than http(s) with `kind`.
    pub url: String,
    /// Protocol; taken from the scheme of `url` when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<DatastoreKind>,
    /// Folder or bucket, goes before every image's file.
    #[serde(default, skip_serializing_if = "is_default")]
    pub path: String,
    /// User or API key.
    #[serde(default, skip_serializing_if = "is_default")]
    pub user: String,
    /// Password.
    #[serde(default, skip_serializing_if = "is_default")]
    pub password: String,
    /// Region of a cloud store.
    #[serde(default, skip_serializing_if = "is_default")]
    pub region: String,
    /// Certificates to trust for it, PEM.
    #[serde(default, skip_serializing_if = "is_default")]
    pub certificates: Vec<String>,
}

/// Protocol of a datastore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum DatastoreKind {
    Http,
    Https,
    S3,
    Sftp,
    Oci,
    Azure,
    Gcs,
}

/// An image in a datastore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// Name of the datastore.
    pub datastore: String,
    /// File in it, or `repository:tag` of a registry.
    pub file: String,
    /// Format; taken from the end of `file` when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// SHA-256 of the file, hex.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sha256: String,
    /// Size of the file.
    #[serde(default, skip_serializing_if = "is_default")]
    pub size: Size,
}

/// Format of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Format {
    Raw,
    Qcow,
    Qcow2,
    Vhd,
    Vmdk,
    Ova,
    Vhdx,
    Container,
    Iso,
}

/// A disk of an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Name of the image that it is made from; a blank disk without one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub image: String,
    /// How large it may grow; a blank disk needs it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub size: Size,
    /// Applications can't write to it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub readonly: bool,
    /// What it is to the application.
    #[serde(default, skip_serializing_if = "is_default")]
    pub target: Target,
    /// Kept outside the encrypted vault.
    #[serde(default, skip_serializing_if = "is_default")]
    pub clear_text: bool,
}

/// What a volume is to the application.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A disk.
    #[default]
    Disk,
    /// The kernel that is booted.
    Kernel,
    /// Its initial RAM disk.
    Initrd,
    /// Another RAM disk.
    RamDisk,
}

/// A network of applications.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkInstance {
    /// Its name.
    pub name: String,
    /// Routed and translated, or bridged.
    #[serde(default)]
    pub kind: NetworkInstanceKind,
    /// Name or label of the port to the outside; `uplink` is any managed one; empty is none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub port: String,
    /// Subnet, CIDR.
    #[serde(default, skip_serializing_if = "is_default")]
    pub subnet: String,
    /// The device's address in it; the first when it is not given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gateway: String,
    /// First and last address for applications; the rest of the subnet when they are not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<(String, String)>,
    /// DNS domain.
    #[serde(default, skip_serializing_if = "is_default")]
    pub domain: String,
    /// DNS servers for applications besides the device.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dns: Vec<String>,
    /// Names and their addresses.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hosts: BTreeMap<String, Vec<String>>,
    /// Largest packet, bytes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mtu: u32,
    /// Report connections.
    #[serde(default, skip_serializing_if = "is_default")]
    pub flow_log: bool,
}

/// Kind of an application network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkInstanceKind {
    /// A network of its own behind address translation.
    #[default]
    Local,
    /// Applications are in the port's network.
    Switch,
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
