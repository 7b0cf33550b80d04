//! Network instances (the networks of applications) and applications' interfaces in them.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    app::AclRule,
    fault::Fault,
    id::{AppId, LogicalLabel, MacAddr, NetworkInstanceId},
};

/// Kind of network instance, EVE's `ZNetworkInstType` in the wire protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkInstanceKind {
    /// An own subnet with DHCP and DNS behind NAT.
    Local,
    /// A bridge to a device port on layer 2.
    Switch,
}

/// A network instance as the controller wants it. Topic `zedagent/NetworkInstanceConfig`, key: its UUID.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkInstanceConfig {
    /// Which one.
    pub id: NetworkInstanceId,
    /// Name for people.
    pub display_name: String,
    /// Kind.
    pub kind: NetworkInstanceKind,
    /// Device port: a logical label, or `uplink`, `freeuplink`, `all`; empty for none (local only).
    #[serde(default)]
    pub port: LogicalLabel,
    /// The subnet of a local instance; none lets the device choose one.
    #[serde(default)]
    pub subnet: Option<Ipv4Net>,
    /// The device's own address in it; none for the first.
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
    /// First and last address for leases; none for all but the gateway.
    #[serde(default)]
    pub dhcp_range: Option<(Ipv4Addr, Ipv4Addr)>,
    /// DNS servers to forward to; empty for those of the port.
    #[serde(default)]
    pub dns_servers: Vec<IpAddr>,
    /// NTP server to announce.
    #[serde(default)]
    pub ntp_servers: Vec<String>,
    /// Domain of the applications' names.
    #[serde(default)]
    pub domain_name: String,
    /// Names that its DNS answers itself.
    #[serde(default)]
    pub dns_entries: Vec<DnsEntry>,
    /// MTU in bytes; 0 for 1500.
    #[serde(default)]
    pub mtu: u16,
    /// What is wrong with this part of the config; then it is not acted upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// A static name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DnsEntry {
    /// The name.
    pub host_name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Where a network instance is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkInstancePhase {
    /// Being made.
    Creating,
    /// Works, but its port has no address or is missing: nothing leaves it.
    #[serde(rename_all = "PascalCase")]
    NoUplink {
        /// What it waits for.
        port: LogicalLabel,
    },
    /// Works.
    Up,
    /// Being removed.
    Deleting,
    /// It can't go on; see the status's fault.
    Failed,
}

/// State of a network instance. Topic `zedrouter/NetworkInstanceStatus`, key: its UUID.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkInstanceStatus {
    /// Which one.
    pub id: NetworkInstanceId,
    /// Name for people.
    pub display_name: String,
    /// Kind.
    pub kind: NetworkInstanceKind,
    /// How far it is.
    pub phase: NetworkInstancePhase,
    /// The bridge.
    pub bridge: String,
    /// The device's number of it, from which the bridge's name is made.
    pub number: u16,
    /// The subnet in force.
    #[serde(default)]
    pub subnet: Option<Ipv4Net>,
    /// The device's own address in it.
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
    /// Interface names of the device ports in use.
    #[serde(default)]
    pub ports: Vec<String>,
    /// Applications' interfaces in it.
    #[serde(default)]
    pub vifs: Vec<VifLease>,
    /// What keeps it from going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// An application's interface in a network instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct VifLease {
    /// Whose.
    pub app: AppId,
    /// Interface on the device's side.
    pub vif: String,
    /// Hardware address.
    pub mac: MacAddr,
    /// Address that belongs to it.
    #[serde(default)]
    pub ip: Option<IpAddr>,
    /// The guest holds the lease until then.
    #[serde(default)]
    pub expires: Option<Timestamp>,
}

/// The interfaces of an application. Topic `zedmanager/AppNetworkConfig`, key: the app's UUID.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AppNetworkConfig {
    /// Whose.
    pub app: AppId,
    /// Name for people and DNS.
    pub display_name: String,
    /// False removes the interfaces but keeps their numbers and addresses.
    pub activate: bool,
    /// Interfaces in order.
    #[serde(default)]
    pub vifs: Vec<AppVif>,
}

/// An interface of an application.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AppVif {
    /// Its name in the config.
    pub name: String,
    /// Network instance that it joins.
    pub network_instance: NetworkInstanceId,
    /// Address that the controller fixed.
    #[serde(default)]
    pub mac: Option<MacAddr>,
    /// Address that the controller fixed.
    #[serde(default)]
    pub ip: Option<IpAddr>,
    /// Rules in order; nothing that no rule allows passes.
    #[serde(default)]
    pub acls: Vec<AclRule>,
}

/// Where an application's interfaces are on their way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppNetworkPhase {
    /// Waits for a network instance.
    #[serde(rename_all = "PascalCase")]
    AwaitNetworkInstance {
        /// The first that is not up.
        network_instance: NetworkInstanceId,
    },
    /// Being made.
    Creating,
    /// The guest can be started with them.
    Ready,
    /// Being removed.
    Deleting,
    /// Removed as wanted (not activated).
    Inactive,
    /// It can't go on; see the status's fault.
    Failed,
}

/// State of an application's interfaces. Topic `zedrouter/AppNetworkStatus`, key: the app's UUID.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AppNetworkStatus {
    /// Whose.
    pub app: AppId,
    /// How far they are.
    pub phase: AppNetworkPhase,
    /// The device's number of the application, from which names and addresses are made.
    pub number: u16,
    /// Interfaces in order.
    #[serde(default)]
    pub vifs: Vec<AppVifStatus>,
    /// What keeps them from going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// State of an interface of an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AppVifStatus {
    /// Its name in the config.
    pub name: String,
    /// Network instance that it joined.
    pub network_instance: NetworkInstanceId,
    /// Tap interface on the device's side (`nbu<vif>x<app number>`).
    pub vif: String,
    /// Bridge that it is a port of.
    pub bridge: String,
    /// Hardware address for the guest.
    pub mac: MacAddr,
    /// Address that belongs to it.
    #[serde(default)]
    pub ip: Option<IpAddr>,
    /// The guest holds the lease until then.
    #[serde(default)]
    pub lease_expires: Option<Timestamp>,
    /// MTU in bytes.
    #[serde(default)]
    pub mtu: u16,
}

/// Traffic counters. Topic `zedrouter/NetworkMetrics`, key `global`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkMetrics {
    /// One per bridge and per application's interface.
    #[serde(default)]
    pub interfaces: Vec<InterfaceMetric>,
    /// One per rule.
    #[serde(default)]
    pub rules: Vec<RuleMetric>,
}

/// Counters of an interface, seen from the application: received means to the application.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct InterfaceMetric {
    /// Its name.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets lost on receipt.
    pub rx_drops: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets lost on sending.
    pub tx_drops: u64,
}

/// Counters of an access control entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RuleMetric {
    /// Whose interface.
    pub vif: String,
    /// The entry's number.
    pub rule: u32,
    /// Packets that it decided.
    pub packets: u64,
    /// Bytes of these.
    pub bytes: u64,
}

/// Number given to an application or a network instance for good, so that names and addresses
/// stay the same across restarts. Topic `zedrouter/UUIDPairToNum` (persistent),
/// key: `app.<uuid>` or `ni.<uuid>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AssignedNumber {
    /// 1 to 255.
    pub number: u16,
}

/// Subnet that the device chose for a network instance, or address for an interface; kept for good.
/// Topic `zedrouter/AppInterfaceToNum` (persistent), key: `<app uuid>#<index of the interface>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AssignedAddress {
    /// Network instance that the address is from.
    pub network_instance: NetworkInstanceId,
    /// The address.
    pub ip: IpAddr,
    /// The subnet that it was chosen from.
    pub subnet: IpNet,
}
