//! The device's hardware and networks, and the networks of applications.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::is_default;

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
