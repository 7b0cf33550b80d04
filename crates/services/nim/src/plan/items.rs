//! What nim makes in the kernel, one item per object, so that every half-made state converges.
//!
//! ```text
//!  link eth0 (external) <- up eth0 <------ route to the subnet <- route to everywhere
//!            ^                  ^--------------/  (table of the port, and main table)
//!            +- MTU             address <-----/
//!            +------------------ ^
//!                               rule: from the address, ask the table of the port
//! ```
//! An address that somebody else gave to a port counts as there and is never touched. An
//! interface that leaves the config stays up: it may be in use by others.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use graph::{Items, items};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::{
    id::IfName,
    port::{DhcpLease, PortAddressing, PortConfig, PortStatus},
};
use netlink::{Address, AddressState, Link, MAIN_TABLE, Owner, Route, RouteKind, Rule, RuleAction};

use super::Actual;

/// Place of our rules among all policy rules.
pub const RULE_PRIORITY: u32 = 15_000;
/// Routing tables of ports.
const TABLES: std::ops::RangeInclusive<u32> = 501..=799;
/// Lowest metric: routes of people and of other programs go first.
const FIRST_METRIC: u32 = 1000;
/// MTU where neither config nor server says another.
const DEFAULT_MTU: u32 = 1500;

/// A port of the set in use, with what is known about it.
#[derive(Debug, Clone)]
pub(super) struct Port<'a> {
    /// As configured.
    pub(super) config: &'a PortConfig,
    /// Its interface, if there is one.
    pub(super) link: Option<&'a Link>,
    /// Its lease, if it is by DHCP and has one.
    pub(super) lease: Option<&'a DhcpLease>,
    /// Its routing table.
    pub(super) table: u32,
    /// Metric of its routes in the main table.
    pub(super) metric: u32,
}

impl Port<'_> {
    /// The address that it should have.
    pub(super) fn address(&self) -> Option<IpNet> {
        match &self.config.addressing {
            PortAddressing::Dhcp => self.lease.map(|lease| lease.address),
            PortAddressing::Static { address, .. } => Some(*address),
            PortAddressing::None => None,
        }
    }

    /// Its default gateways, the first of which is used.
    pub(super) fn gateways(&self) -> Vec<IpAddr> {
        match &self.config.addressing {
            PortAddressing::Dhcp => self.lease.map(|l| l.gateways.clone()).unwrap_or_default(),
            PortAddressing::Static { gateway, .. } => gateway.iter().copied().collect(),
            PortAddressing::None => Vec::new(),
        }
    }

    pub(super) fn has_carrier(&self) -> bool {
        self.link.is_some_and(|link| link.up && link.lower_up)
    }

    fn mtu(&self) -> u32 {
        match (self.config.mtu, self.lease.and_then(|lease| lease.mtu)) {
            (0, None) => DEFAULT_MTU,
            (0, Some(mtu)) | (mtu, _) => mtu.into(),
        }
    }
}

/// Metric of a port's routes in the main table: by cost, then by place in the config.
pub(super) fn metric(cost: u8, place: usize) -> u32 {
    FIRST_METRIC + u32::from(cost) * 256 + u32::try_from(place).map_or(255, |n| n.min(255))
}

/// The routing table of each port: the one that it had, else the first that is free.
pub(super) fn tables(ports: &[PortConfig], before: &[PortStatus]) -> BTreeMap<IfName, u32> {
    let mut given = BTreeMap::new();
    let mut taken: Vec<u32> = Vec::new();
    let had = |name: &IfName| before.iter().find(|p| p.if_name == *name);
    for port in ports {
        let old = had(&port.if_name).map(|p| p.route_table);
        if let Some(table) = old.filter(|t| TABLES.contains(t) && !taken.contains(t)) {
            given.insert(port.if_name.clone(), table);
            taken.push(table);
        }
    }
    for port in ports {
        if !given.contains_key(&port.if_name) {
            let free = TABLES.into_iter().find(|t| !taken.contains(t));
            let table = free.unwrap_or(*TABLES.end());
            given.insert(port.if_name.clone(), table);
            taken.push(table);
        }
    }
    given
}

/// One object in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// An interface, which is never ours.
    Link(String),
    /// An interface is meant to be up.
    Up(String),
    /// An interface has this MTU.
    Mtu {
        /// The interface.
        link: String,
        /// In bytes.
        mtu: u32,
    },
    /// An interface has this address.
    Address {
        /// The address.
        address: Address,
        /// Somebody else gave it.
        foreign: bool,
    },
    /// A route.
    Route {
        /// The route.
        route: Route,
        /// The route by which its gateway is reached.
        through: Option<Id>,
    },
    /// A policy rule.
    Rule(Rule),
}

/// What names an item.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Id {
    /// An interface.
    Link(String),
    /// Its being up.
    Up(String),
    /// Its MTU.
    Mtu(String),
    /// One of its addresses.
    Address(String, IpAddr),
    /// Table, destinations and metric of a route.
    Route(u32, IpNet, u32),
    /// Source addresses and table of a rule.
    Rule(Option<IpNet>, RuleAction, u32),
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(link) => write!(f, "interface {link}"),
            Self::Up(link) => write!(f, "interface {link} up"),
            Self::Mtu(link) => write!(f, "mtu {link}"),
            Self::Address(link, ip) => write!(f, "address {ip} {link}"),
            Self::Route(table, to, metric) => write!(f, "route {to} table {table} metric {metric}"),
            Self::Rule(from, RuleAction::Table(table), priority) => {
                let from = from.map_or("all".to_owned(), |net| net.to_string());
                write!(f, "rule {priority} from {from} table {table}")
            }
            Self::Rule(from, action, priority) => {
                write!(f, "rule {priority} from {from:?} {action:?}")
            }
        }
    }
}

impl Item {
    /// The interface that it belongs to, if it is of one.
    pub fn link(&self) -> Option<&str> {
        match self {
            Self::Link(link) | Self::Up(link) | Self::Mtu { link, .. } => Some(link),
            Self::Address { address, .. } => Some(&address.link),
            Self::Route { route, .. } => route_link(route),
            Self::Rule(_) => None,
        }
    }
}

fn route_link(route: &Route) -> Option<&str> {
    match &route.kind {
        RouteKind::Unicast { link, .. } => Some(link),
        RouteKind::Blackhole
        | RouteKind::Unreachable
        | RouteKind::Prohibited
        | RouteKind::Other => None,
    }
}

impl graph::Item for Item {
    type Id = Id;

    fn id(&self) -> Id {
        match self {
            Self::Link(link) => Id::Link(link.clone()),
            Self::Up(link) => Id::Up(link.clone()),
            Self::Mtu { link, .. } => Id::Mtu(link.clone()),
            Self::Address { address, .. } => Id::Address(address.link.clone(), address.net.addr()),
            Self::Route { route, .. } => Id::Route(route.table, route.to, route.metric),
            Self::Rule(rule) => Id::Rule(rule.from, rule.action, rule.priority),
        }
    }

    fn needs(&self) -> Vec<Id> {
        match self {
            Self::Link(_) | Self::Rule(_) => Vec::new(),
            Self::Up(link) | Self::Mtu { link, .. } => vec![Id::Link(link.clone())],
            Self::Address { address, .. } => vec![Id::Link(address.link.clone())],
            Self::Route { route, through } => {
                let link = route_link(route).map(str::to_owned);
                let up = link.clone().map(Id::Up);
                let source = link
                    .zip(route.source)
                    .map(|(link, ip)| Id::Address(link, ip));
                [up, source, through.clone()]
                    .into_iter()
                    .flatten()
                    .collect()
            }
        }
    }

    fn can_change_to(&self, _: &Self) -> bool {
        match self {
            Self::Mtu { .. } | Self::Route { .. } => true,
            Self::Link(_) | Self::Up(_) | Self::Address { .. } | Self::Rule(_) => false,
        }
    }

    fn is_external(&self) -> bool {
        match self {
            Self::Link(_) => true,
            Self::Address { foreign, .. } => *foreign,
            Self::Up(_) | Self::Mtu { .. } | Self::Route { .. } | Self::Rule(_) => false,
        }
    }
}

/// What is there: everything of ours, and of others what ours needs.
pub(super) fn current(ports: &[Port<'_>], actual: &Actual) -> Items<Item> {
    let mut all = Vec::new();
    for link in actual.links.values() {
        all.push(Item::Link(link.name.clone()));
    }
    for link in ports.iter().filter_map(|port| port.link) {
        if link.up {
            all.push(Item::Up(link.name.clone()));
        }
        all.push(Item::Mtu {
            link: link.name.clone(),
            mtu: link.mtu,
        });
    }
    for (address, _) in &actual.addresses {
        let foreign = address.owner != Owner::NIM;
        // Others' addresses matter where they are in the place of ours.
        if !foreign || is_wanted(ports, address) {
            let address = address.clone();
            all.push(Item::Address { address, foreign });
        }
    }
    let ours = |owner: Owner| owner == Owner::NIM;
    let routes = actual.routes.iter().filter(|route| ours(route.owner));
    all.extend(with_ways(routes.cloned().collect()));
    let rules = actual.rules.iter().filter(|rule| ours(rule.owner));
    all.extend(rules.cloned().map(Item::Rule));
    items(all)
}

fn is_wanted(ports: &[Port<'_>], address: &Address) -> bool {
    ports
        .iter()
        .any(|p| p.config.if_name.as_str() == address.link && p.address() == Some(address.net))
}

/// What there should be.
pub(super) fn intended(ports: &[Port<'_>], actual: &Actual) -> Items<Item> {
    let mut all = Vec::new();
    let mut routes = Vec::new();
    for port in ports {
        let Some(link) = port.link else { continue };
        let name = link.name.clone();
        all.push(Item::Up(name.clone()));
        all.push(Item::Mtu {
            link: name.clone(),
            mtu: port.mtu(),
        });
        let Some(net) = port.address() else { continue };
        let there = actual
            .addresses
            .iter()
            .map(|(address, _)| address)
            .find(|a| a.link == name && a.net == net && a.owner != Owner::NIM);
        all.push(Item::Address {
            foreign: there.is_some(),
            address: there.cloned().unwrap_or(Address {
                link: name,
                net,
                // Ours are in two tables and have metrics.
                prefix_route: false,
                owner: Owner::NIM,
            }),
        });
        routes.extend(self::routes(port, link, net, port.table, true));
        if port.has_carrier() {
            routes.extend(self::routes(
                port,
                link,
                net,
                MAIN_TABLE,
                port.config.is_mgmt,
            ));
        }
        all.push(Item::Rule(Rule::from(
            RULE_PRIORITY,
            IpNet::from(net.addr()),
            RuleAction::Table(port.table),
            Owner::NIM,
        )));
    }
    all.extend(with_ways(routes));
    items(all)
}

/// The routes of a port in one table: to its subnet and, by its gateway, to everywhere.
fn routes(port: &Port<'_>, link: &Link, net: IpNet, table: u32, everywhere: bool) -> Vec<Route> {
    let route = |to: IpNet, gateway: Option<IpAddr>| Route {
        table,
        to,
        metric: port.metric,
        kind: RouteKind::Unicast {
            link: link.name.clone(),
            gateway,
        },
        // The kernel refuses an IPv6 source while the address is checked for duplicates.
        source: Some(net.addr()).filter(IpAddr::is_ipv4),
        owner: Owner::NIM,
    };
    let mut routes = Vec::new();
    if net.prefix_len() < net.max_prefix_len() {
        routes.push(route(net.trunc(), None));
    }
    let gateway = port.gateways().into_iter().next();
    if let Some(gateway) = gateway.filter(|_| everywhere) {
        if !net.contains(&gateway) {
            routes.push(route(IpNet::from(gateway), None));
        }
        routes.push(route(all_of(&gateway), Some(gateway)));
    }
    routes
}

fn all_of(ip: &IpAddr) -> IpNet {
    match ip {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
    }
}

/// Routes as items: each with the one by which its gateway is reached.
fn with_ways(routes: Vec<Route>) -> Vec<Item> {
    let way = |route: &Route| -> Option<Id> {
        let RouteKind::Unicast {
            link,
            gateway: Some(gateway),
        } = &route.kind
        else {
            return None;
        };
        let direct = routes.iter().filter(|other| {
            let kind = RouteKind::Unicast {
                link: link.clone(),
                gateway: None,
            };
            other.table == route.table && other.kind == kind && other.to.contains(gateway)
        });
        let nearest = direct.max_by_key(|other| other.to.prefix_len())?;
        Some(Id::Route(nearest.table, nearest.to, nearest.metric))
    };
    let ways: Vec<Option<Id>> = routes.iter().map(way).collect();
    routes
        .into_iter()
        .zip(ways)
        .map(|(route, through)| Item::Route { route, through })
        .collect()
}

/// The addresses of a port that it should have and that can be used now.
pub(super) fn usable(port: &Port<'_>, actual: &Actual) -> Vec<IpNet> {
    let there = actual.addresses.iter().filter(|(address, state)| {
        let ready = match state {
            AddressState::Usable | AddressState::Deprecated => true,
            AddressState::Tentative | AddressState::Duplicate => false,
        };
        ready && address.link == port.config.if_name.as_str() && port.address() == Some(address.net)
    });
    there.map(|(address, _)| address.net).collect()
}
