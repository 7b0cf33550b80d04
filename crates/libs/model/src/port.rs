//! Device ports: how the device itself reaches the network.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    fault::Fault,
    id::{IfName, LogicalLabel, MacAddr},
    security::CipherBlock,
};

/// How a port gets its address.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum PortAddressing {
    /// By DHCP (EVE's `Dhcp` 4).
    #[default]
    Dhcp,
    /// Fixed (EVE's `Dhcp` 1).
    #[serde(rename_all = "PascalCase")]
    Static {
        /// Address with prefix length.
        address: IpNet,
        /// Default gateway.
        #[serde(default)]
        gateway: Option<IpAddr>,
    },
    /// None: the port is for applications (EVE's `Dhcp` 2).
    None,
}

/// A proxy on the way out of a port.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProxyConfig {
    /// Proxy for http URLs, as `host:port`.
    #[serde(default)]
    pub http: Option<String>,
    /// Proxy for https URLs (CONNECT), as `host:port`.
    #[serde(default)]
    pub https: Option<String>,
    /// NO_PROXY list, comma separated: address, prefix, `.domain`, `*`.
    #[serde(default)]
    pub exceptions: String,
    /// PEM certificates of TLS-intercepting proxies.
    #[serde(default)]
    pub certificates_pem: Vec<String>,
}

/// One port of a [`DevicePortConfig`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PortConfig {
    /// Interface.
    pub if_name: IfName,
    /// The user's name of it.
    pub label: LogicalLabel,
    /// Whether the device talks to the controller over it.
    pub is_mgmt: bool,
    /// 0 is free; higher is tried later.
    #[serde(default)]
    pub cost: u8,
    /// How it gets its address.
    #[serde(default)]
    pub addressing: PortAddressing,
    /// DNS servers instead of those of DHCP.
    #[serde(default)]
    pub dns_servers: Vec<IpAddr>,
    /// NTP servers beside those of DHCP.
    #[serde(default)]
    pub ntp_servers: Vec<String>,
    /// Domain to search instead of that of DHCP.
    #[serde(default)]
    pub domain_name: String,
    /// Proxies.
    #[serde(default)]
    pub proxy: ProxyConfig,
    /// MTU in bytes; 0 for the default.
    #[serde(default)]
    pub mtu: u16,
    /// Wireless networks to join.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wireless: Vec<WirelessNetwork>,
}

/// A wireless network that a port may join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct WirelessNetwork {
    /// SSID, or APN of a modem.
    pub name: String,
    /// Higher goes first.
    #[serde(default)]
    pub priority: i32,
    /// Name and password to join with, encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CipherBlock>,
}

/// A complete set of ports from one source. Topic `zedagent/DevicePortConfig`, key: the source
/// (`zedagent`, `bootstrap`, `override`, `lastresort`, ...).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DevicePortConfig {
    /// The source.
    pub key: String,
    /// Newer wins.
    pub time_priority: Timestamp,
    /// The ports.
    pub ports: Vec<PortConfig>,
    /// What is wrong with this part of the config; then it is not acted upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// Whether a set of ports works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum DpcState {
    /// Not tried.
    #[default]
    None,
    /// Waits for an interface.
    IntfWait,
    /// Waits for an address and DNS.
    IpDnsWait,
    /// No management port has an address.
    Fail,
    /// Addresses are there but the controller does not answer.
    FailWithIpAndDns,
    /// Works.
    Success,
    /// The controller answers, but not as it should.
    RemoteWait,
}

/// All sets of ports that the device knows, best first. Topic `nim/DevicePortConfigList`
/// (persistent), key `global`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DevicePortConfigList {
    /// The one in use.
    #[serde(default)]
    pub current_index: Option<usize>,
    /// The sets.
    #[serde(default)]
    pub list: Vec<DpcEntry>,
}

/// A set of ports with its test results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DpcEntry {
    /// The set.
    pub config: DevicePortConfig,
    /// Whether it works.
    #[serde(default)]
    pub state: DpcState,
    /// When it last worked.
    #[serde(default)]
    pub last_succeeded: Option<Timestamp>,
    /// When it last failed.
    #[serde(default)]
    pub last_failed: Option<Timestamp>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// State of the device's own network. Topic `nim/DeviceNetworkStatus`, key `global`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeviceNetworkStatus {
    /// Source of the set of ports in use.
    pub dpc_key: String,
    /// Whether it works.
    #[serde(default)]
    pub state: DpcState,
    /// Its ports, in the order of the config.
    #[serde(default)]
    pub ports: Vec<PortStatus>,
}

impl DeviceNetworkStatus {
    /// True when a management port has an address that reaches further than its link.
    pub fn has_usable_address(&self) -> bool {
        self.ports
            .iter()
            .any(|p| p.is_mgmt && p.usable_addresses().next().is_some())
    }
}

/// State of a port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PortStatus {
    /// Interface.
    pub if_name: IfName,
    /// The user's name of it.
    pub label: LogicalLabel,
    /// Whether the device talks to the controller over it.
    pub is_mgmt: bool,
    /// 0 is free; higher is tried later.
    #[serde(default)]
    pub cost: u8,
    /// How it gets its address.
    #[serde(default)]
    pub addressing: PortAddressing,
    /// Hardware address.
    #[serde(default)]
    pub mac: Option<MacAddr>,
    /// Carrier is present.
    #[serde(default)]
    pub link_up: bool,
    /// Addresses with prefix lengths.
    #[serde(default)]
    pub addresses: Vec<IpNet>,
    /// Default gateways.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    /// DNS servers.
    #[serde(default)]
    pub dns_servers: Vec<IpAddr>,
    /// NTP servers.
    #[serde(default)]
    pub ntp_servers: Vec<String>,
    /// Domain to search.
    #[serde(default)]
    pub domain_name: String,
    /// Proxies.
    #[serde(default)]
    pub proxy: ProxyConfig,
    /// MTU in bytes.
    #[serde(default)]
    pub mtu: u16,
    /// Kernel routing table with this port's routes.
    #[serde(default)]
    pub route_table: u32,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

impl PortStatus {
    /// Addresses that reach further than the link.
    pub fn usable_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(IpNet::addr).filter(|a| match a {
            IpAddr::V4(v4) => {
                !v4.is_link_local() && !v4.is_loopback() && *v4 != Ipv4Addr::UNSPECIFIED
            }
            IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0) != 0xfe80 && !v6.is_loopback(),
        })
    }
}

/// A lease of a DHCP server, kept so that a restart of nim goes on with the same address.
/// Topic `nim/DhcpLease`, key: the interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DhcpLease {
    /// Interface.
    pub if_name: IfName,
    /// Address with prefix length.
    pub address: IpNet,
    /// Default gateways.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    /// DNS servers.
    #[serde(default)]
    pub dns_servers: Vec<IpAddr>,
    /// NTP servers.
    #[serde(default)]
    pub ntp_servers: Vec<String>,
    /// Domain to search.
    #[serde(default)]
    pub domain_name: String,
    /// MTU in bytes, if announced.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// The server.
    pub server: IpAddr,
    /// When it was given.
    pub obtained: Timestamp,
    /// Device uptime at that time, in seconds, which no setting of the clock moves.
    #[serde(default)]
    pub obtained_uptime: u64,
    /// How long it is valid, in seconds.
    pub lease_seconds: u32,
    /// After so many seconds its server is asked for more time.
    #[serde(default)]
    pub renew_seconds: u32,
    /// After so many seconds any server is asked for more time.
    #[serde(default)]
    pub rebind_seconds: u32,
}
