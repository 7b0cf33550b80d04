//! Device ports as network instances use them, and the choice among them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net};
use model::{
    id::LogicalLabel,
    port::{DeviceNetworkStatus, PortAddressing, PortStatus},
};
use netlink::MAIN_TABLE;
use nft::Interface;

/// A device port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) interface: Interface,
    pub(super) label: LogicalLabel,
    pub(super) is_mgmt: bool,
    pub(super) cost: u8,
    pub(super) link_up: bool,
    /// It has addresses of its own, or asks for some.
    pub(super) addressed: bool,
    pub(super) nets: Vec<Ipv4Net>,
    /// Those that reach further than the link.
    pub(super) addresses: Vec<Ipv4Addr>,
    /// The routing table with its routes.
    pub(super) table: u32,
    /// In the marks of connections that came in by it.
    pub(super) index: u8,
    pub(super) dns: Vec<IpAddr>,
    pub(super) ntp: Vec<Ipv4Addr>,
}

impl Port {
    pub(super) fn name(&self) -> &str {
        self.interface.as_str()
    }
}

/// The ports that a network instance may use, and the one by which its packets leave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Uplink {
    /// Every port that the label stands for, with or without an address.
    pub(super) ports: Vec<Port>,
    /// The one in use.
    pub(super) chosen: Option<Port>,
}

impl Uplink {
    /// The ports with this label; of those that are usable the cheapest, one with a carrier before
    /// one without.
    pub(super) fn of(label: &LogicalLabel, all: &[Port]) -> Self {
        let ports: Vec<Port> = all.iter().filter(|p| is_meant(label, p)).cloned().collect();
        let usable = ports.iter().filter(|port| !port.addresses.is_empty());
        let chosen = usable
            .min_by_key(|port| (!port.link_up, port.cost))
            .cloned();
        Self { ports, chosen }
    }
}

/// Whether a label stands for this port.
pub(super) fn is_meant(label: &LogicalLabel, port: &Port) -> bool {
    match label.0.as_str() {
        "" => false,
        "uplink" => port.is_mgmt,
        "freeuplink" => port.is_mgmt && port.cost == 0,
        "all" => true,
        name => port.label == *label || port.name() == name,
    }
}

/// Whether a label stands for one port and not for a kind of ports.
pub(super) fn is_of_one(label: &LogicalLabel) -> bool {
    !matches!(label.0.as_str(), "" | "uplink" | "freeuplink" | "all")
}

/// The device's ports. One whose name the packet filter can't be told is left out.
pub(super) fn ports(status: &DeviceNetworkStatus) -> Vec<Port> {
    let mut ports: Vec<Port> = status.ports.iter().filter_map(port).collect();
    number(&mut ports);
    ports
}

fn port(status: &PortStatus) -> Option<Port> {
    let v4 = |net: &IpNet| match net {
        IpNet::V4(net) => Some(*net),
        IpNet::V6(_) => None,
    };
    let usable = status
        .usable_addresses()
        .filter_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
    Some(Port {
        interface: Interface::new(status.if_name.as_str()).ok()?,
        label: status.label.clone(),
        is_mgmt: status.is_mgmt,
        cost: status.cost,
        link_up: status.link_up,
        addressed: status.addressing != PortAddressing::None || !status.addresses.is_empty(),
        nets: status.addresses.iter().filter_map(v4).collect(),
        addresses: usable.collect(),
        table: if status.route_table == 0 {
            MAIN_TABLE
        } else {
            status.route_table
        },
        index: 0,
        dns: status.dns_servers.clone(),
        ntp: status
            .ntp_servers
            .iter()
            .filter_map(|server| server.parse().ok())
            .collect(),
    })
}

/// Largest index: there are seven bits for it, and 0 means none.
const LAST_INDEX: u32 = 127;

/// Gives each port an index that mostly stays the same whatever other ports come and go, because
/// connections remember it: it follows the number of the port's routing table.
fn number(ports: &mut [Port]) {
    let mut taken = BTreeSet::new();
    let mut order: Vec<usize> = (0..ports.len()).collect();
    order.sort_by(|a, b| ports[*a].name().cmp(ports[*b].name()));
    for n in order {
        let first = ports[n].table % LAST_INDEX;
        let index = (0..LAST_INDEX)
            .map(|step| (first + step) % LAST_INDEX + 1)
            .find_map(|index| u8::try_from(index).ok().filter(|i| taken.insert(*i)));
        ports[n].index = index.unwrap_or(0);
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(crate) fn eth(name: &str, cost: u8, addresses: &[&str]) -> PortStatus {
        PortStatus {
            if_name: name.parse().unwrap(),
            label: LogicalLabel(format!("label-{name}")),
            is_mgmt: true,
            cost,
            addressing: PortAddressing::Dhcp,
            mac: None,
            link_up: true,
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            gateways: vec![],
            dns_servers: vec![],
            ntp_servers: vec!["192.0.2.9".to_owned(), "pool.ntp.org".to_owned()],
            domain_name: String::new(),
            proxy: model::port::ProxyConfig::default(),
            mtu: 1500,
            route_table: 0,
            fault: None,
        }
    }

    fn chosen(label: &str, ports: &[PortStatus]) -> Option<String> {
        let status = DeviceNetworkStatus {
            ports: ports.to_vec(),
            ..DeviceNetworkStatus::default()
        };
        let all = super::ports(&status);
        let uplink = Uplink::of(&LogicalLabel(label.to_owned()), &all);
        uplink.chosen.map(|port| port.name().to_owned())
    }

    #[test]
    fn the_cheapest_usable_port_of_the_label_is_chosen() {
        let mut ports = vec![
            eth("eth0", 10, &["192.0.2.2/24"]),
            eth("eth1", 0, &["fd00::1/64"]),
            eth("eth2", 5, &["198.51.100.2/24"]),
        ];
        ports[2].is_mgmt = false;
        assert_eq!(chosen("uplink", &ports).as_deref(), Some("eth0"));
        assert_eq!(chosen("freeuplink", &ports), None, "it has no IPv4 address");
        assert_eq!(chosen("all", &ports).as_deref(), Some("eth2"));
        assert_eq!(chosen("label-eth2", &ports).as_deref(), Some("eth2"));
        assert_eq!(chosen("eth2", &ports).as_deref(), Some("eth2"));
        assert_eq!(chosen("", &ports), None);
        ports[2].link_up = false;
        assert_eq!(chosen("all", &ports).as_deref(), Some("eth0"));
    }

    #[test]
    fn every_port_has_an_index_of_its_own_that_follows_its_table() {
        let mut status = DeviceNetworkStatus::default();
        for (name, table) in [("eth0", 501), ("eth1", 502), ("eth2", 501 + 127)] {
            status.ports.push(PortStatus {
                route_table: table,
                ..eth(name, 0, &[])
            });
        }
        let indexes = |status: &DeviceNetworkStatus| -> Vec<u8> {
            ports(status).iter().map(|p| p.index).collect()
        };
        let all = indexes(&status);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 3);
        status.ports.pop();
        assert_eq!(indexes(&status), all[..2]);
        assert_eq!(ports(&status)[0].ntp, [Ipv4Addr::new(192, 0, 2, 9)]);
    }
}
