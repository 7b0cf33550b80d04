//! Applications with many rules, as a controller would send them.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net};
use model::{
    app::{AclAction, AclMatch, AclRule, PortRange, Protocol},
    id::{AppId, LogicalLabel, NetworkInstanceId},
    network::{AppNetworkConfig, AppVif, NetworkInstanceConfig, NetworkInstanceKind},
    port::{DeviceNetworkStatus, PortAddressing, PortStatus, ProxyConfig},
};
use uuid::Uuid;

/// The device's port.
pub const PORT: &str = "eth0";
/// What is behind the port.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The port's own address.
pub const UPLINK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The routing table of the port.
pub const ROUTES: u32 = 501;

/// The network instance that all applications are in.
pub fn instance(kind: NetworkInstanceKind) -> NetworkInstanceConfig {
    NetworkInstanceConfig {
        id: NetworkInstanceId(Uuid::from_u128(0xa1)),
        display_name: "bench".to_owned(),
        kind,
        port: LogicalLabel(PORT.to_owned()),
        subnet: None,
        gateway: None,
        dhcp_range: None,
        dns_servers: vec![],
        ntp_servers: vec![],
        domain_name: String::new(),
        dns_entries: vec![],
        mtu: 0,
        fault: None,
    }
}

/// An application with one interface and so many rules, of which the last lets everything out.
pub fn app(number: u8, rules: u16, kind: NetworkInstanceKind) -> AppNetworkConfig {
    let first = u32::from(number) * 1000;
    let acls = (1..=rules).map(|at| rule(first + u32::from(at), number, at, rules, kind));
    AppNetworkConfig {
        app: AppId(Uuid::from_u128(u128::from(number))),
        display_name: format!("app {number}"),
        activate: true,
        vifs: vec![AppVif {
            name: "eth0".to_owned(),
            network_instance: instance(kind).id,
            mac: None,
            ip: None,
            acls: acls.collect(),
        }],
    }
}

/// One of the rules: a port map, services in certain networks, and at last everything.
fn rule(id: u32, app: u8, at: u16, of: u16, kind: NetworkInstanceKind) -> AclRule {
    let port = |number: u16| PortRange {
        first: number,
        last: number,
    };
    if at == of {
        let everywhere = IpNet::V4(Ipv4Net::default());
        return AclRule {
            id,
            matches: vec![AclMatch::Ip(everywhere)],
            action: AclAction::Allow,
        };
    }
    if at == 1 && kind == NetworkInstanceKind::Local {
        return AclRule {
            id,
            matches: vec![
                AclMatch::Protocol(Protocol::Tcp),
                AclMatch::LocalPort(port(20_000 + u16::from(app))),
            ],
            action: AclAction::PortMap { app_port: 80 },
        };
    }
    let low = at.to_le_bytes()[0];
    let net = Ipv4Net::new_assert(Ipv4Addr::new(198, 51, low, 0), 24);
    AclRule {
        id,
        matches: vec![
            AclMatch::Protocol(Protocol::Tcp),
            AclMatch::Ip(IpNet::V4(net)),
            AclMatch::RemotePort(port(1000 + at)),
        ],
        action: AclAction::Allow,
    }
}

/// What nim says of the port: with an address for a local instance, without for a switch.
pub fn ports(kind: NetworkInstanceKind) -> Result<DeviceNetworkStatus> {
    let local = kind == NetworkInstanceKind::Local;
    let outside = IpAddr::V4(OUTSIDE);
    let address = IpNet::V4(Ipv4Net::new_assert(UPLINK, 24));
    let port = PortStatus {
        if_name: PORT.parse().ok().context("a name of an interface")?,
        label: LogicalLabel(PORT.to_owned()),
        is_mgmt: local,
        cost: 0,
        addressing: if local {
            PortAddressing::Dhcp
        } else {
            PortAddressing::None
        },
        mac: None,
        link_up: true,
        addresses: if local { vec![address] } else { vec![] },
        gateways: if local { vec![outside] } else { vec![] },
        dns_servers: vec![],
        ntp_servers: vec![],
        domain_name: String::new(),
        proxy: ProxyConfig::default(),
        mtu: 1500,
        route_table: if local { ROUTES } else { 0 },
        fault: None,
    };
    Ok(DeviceNetworkStatus {
        ports: vec![port],
        ..DeviceNetworkStatus::default()
    })
}
