//! What controllers and others wish, in few words.

use std::net::IpAddr;

use model::{
    app::{AclAction, AclMatch, AclRule, PortRange},
    id::{AppId, LogicalLabel, NetworkInstanceId},
    network::{AppNetworkConfig, AppVif, NetworkInstanceConfig, NetworkInstanceKind},
    port::{PortAddressing, PortStatus, ProxyConfig},
};
use uuid::Uuid;

pub fn instance_id(n: u8) -> NetworkInstanceId {
    NetworkInstanceId(Uuid::from_u128(0xa0 + u128::from(n)))
}

pub fn app_id(n: u8) -> AppId {
    AppId(Uuid::from_u128(u128::from(n)))
}

pub fn instance(n: u8, port: &str) -> NetworkInstanceConfig {
    NetworkInstanceConfig {
        id: instance_id(n),
        display_name: format!("net {n}"),
        kind: NetworkInstanceKind::Local,
        port: LogicalLabel(port.to_owned()),
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

pub fn app(n: u8, vifs: &[(u8, &[AclRule])]) -> AppNetworkConfig {
    let vif = |(index, (instance, acls)): (usize, &(u8, &[AclRule]))| AppVif {
        name: format!("eth{index}"),
        network_instance: instance_id(*instance),
        mac: None,
        ip: None,
        acls: acls.to_vec(),
    };
    AppNetworkConfig {
        app: app_id(n),
        display_name: format!("app{n}"),
        activate: true,
        vifs: vifs.iter().enumerate().map(vif).collect(),
    }
}

pub fn allow(id: u32, matches: &[AclMatch]) -> AclRule {
    AclRule {
        id,
        matches: matches.to_vec(),
        action: AclAction::Allow,
    }
}

pub fn net(text: &str) -> AclMatch {
    AclMatch::Ip(text.parse().unwrap())
}

pub fn port(n: u16) -> PortRange {
    PortRange { first: n, last: n }
}

pub fn map(id: u32, external: u16, internal: u16) -> AclRule {
    AclRule {
        id,
        matches: vec![
            AclMatch::Protocol(model::app::Protocol::Tcp),
            AclMatch::LocalPort(port(external)),
        ],
        action: AclAction::PortMap { app_port: internal },
    }
}

pub fn uplink(name: &str, address: &str, gateway: &str, table: u32) -> PortStatus {
    let gateway: IpAddr = gateway.parse().unwrap();
    PortStatus {
        if_name: name.parse().unwrap(),
        label: LogicalLabel(name.to_owned()),
        is_mgmt: true,
        cost: 0,
        addressing: PortAddressing::Dhcp,
        mac: None,
        link_up: true,
        addresses: vec![address.parse().unwrap()],
        gateways: vec![gateway],
        dns_servers: vec![gateway],
        ntp_servers: vec![],
        domain_name: String::new(),
        proxy: ProxyConfig::default(),
        mtu: 1500,
        route_table: table,
        fault: None,
    }
}
