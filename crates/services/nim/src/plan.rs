//! From sets of ports to addresses, routes and rules.
//!
//! One turn: which set is used ([`select`]), what its ports should have and have ([`items`]), what
//! is due with their leases ([`lease`]), and what to tell the others ([`status`]).

pub(crate) mod ethernet;
pub(crate) mod items;
mod lease;
pub(crate) mod select;
mod status;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use agent::{Backoff, Outbox, Plan, Service, Tables, Turn};
use bus::Rows;
use graph::{Item as _, Step};
use ipnet::IpNet;
use model::{
    adapter::PhysicalIoAdapterList,
    config_item::ConfigItemValueMap,
    id::IfName,
    port::{
        DeviceNetworkStatus, DevicePortConfig, DevicePortConfigList, DhcpLease, PortAddressing,
        PortStatus,
    },
    topics::{
        CONFIG_ITEMS, DEVICE_NETWORK_STATUS, DEVICE_PORT_CONFIG, DEVICE_PORT_CONFIG_LIST,
        DHCP_LEASE, PHYSICAL_IO_ADAPTERS,
    },
};
use netlink::{Address, AddressState, Link, Route, Rule};

use crate::dhcp::Ask;
use items::{Item, Port};
use lease::{Stand, in_force, stand};

/// The service.
pub struct Nim;

/// What is wanted. Nothing of it is needed: nim must work before anybody else does.
pub struct Desired {
    /// Sets of ports by source.
    pub sources: Option<Arc<Rows<DevicePortConfig>>>,
    /// Configuration properties.
    pub properties: Option<Arc<Rows<ConfigItemValueMap>>>,
    /// What the device model says is in the box.
    pub adapters: Option<Arc<Rows<PhysicalIoAdapterList>>>,
    /// Sets of ports of before, also of before the reboot.
    pub list: DevicePortConfigList,
    /// Leases of before, of this boot.
    pub leases: Arc<Rows<DhcpLease>>,
    /// What was published last, in this boot.
    pub status: DeviceNetworkStatus,
}

/// What is there.
#[derive(Debug, Clone, Default)]
pub struct Actual {
    /// Every interface, by name.
    pub links: BTreeMap<String, Link>,
    /// Every address.
    pub addresses: Vec<(Address, AddressState)>,
    /// Our routes.
    pub routes: Vec<Route>,
    /// Our rules.
    pub rules: Vec<Rule>,
    /// What servers said in this process, since the link last came up, by interface.
    pub leases: BTreeMap<String, LeaseNews>,
}

/// What a server said.
#[derive(Debug, Clone, PartialEq)]
pub enum LeaseNews {
    /// The address is ours.
    Granted(DhcpLease),
    /// The address that we had is not ours any more.
    Refused,
}

/// What nim does.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Makes, changes or removes one object in the kernel.
    Kernel(Box<Step<Item>>),
    /// Talks to DHCP servers.
    Dhcp {
        /// The port.
        if_name: IfName,
        /// Kernel's number of the interface: another one of the same name is another exchange.
        index: u32,
        /// Its MAC address.
        mac: [u8; 6],
        /// What is asked.
        ask: Ask,
        /// How long the lease in hand lasts, in seconds; 0 without one.
        lease_seconds: u32,
    },
}

/// The subject of a removal: what is made anew is removed and made in one turn.
fn removal(id: &items::Id) -> String {
    format!("remove {id}")
}

/// The subject of a port's DHCP exchange.
pub(crate) fn dhcp_subject(if_name: &IfName) -> String {
    format!("dhcp {if_name}")
}

impl Action {
    /// Whether it is about what this interface, or this address of it, needs.
    fn is_about(&self, if_name: &str, address: Option<IpNet>) -> bool {
        match self {
            Self::Kernel(step) => match step.item() {
                Item::Rule(rule) => {
                    address.is_some() && rule.from.map(|n| n.addr()) == address.map(|n| n.addr())
                }
                item => item.link() == Some(if_name),
            },
            Self::Dhcp { .. } => false,
        }
    }
}

impl agent::Action for Action {
    fn subject(&self) -> String {
        match self {
            Self::Kernel(step) => match &**step {
                Step::Delete(item) => removal(&item.id()),
                Step::Create(item) | Step::Change { to: item, .. } => item.id().to_string(),
            },
            Self::Dhcp { if_name, .. } => dhcp_subject(if_name),
        }
    }

    fn needs(&self) -> Vec<String> {
        match self {
            Self::Kernel(step) => match &**step {
                Step::Create(item) | Step::Change { to: item, .. } => {
                    let needs = item.needs();
                    let needs = needs.iter().map(ToString::to_string);
                    needs.chain([removal(&item.id())]).collect()
                }
                Step::Delete(_) => Vec::new(),
            },
            Self::Dhcp { .. } => Vec::new(),
        }
    }

    fn is_slow(&self) -> bool {
        match self {
            Self::Kernel(_) => false,
            Self::Dhcp { .. } => true,
        }
    }

    fn backoff(&self) -> Backoff {
        let seconds = Duration::from_secs;
        match self {
            Self::Kernel(_) => Backoff {
                first: seconds(1),
                max: seconds(60),
                permanent: Some(seconds(60)),
            },
            Self::Dhcp {
                ask, lease_seconds, ..
            } => match ask {
                Ask::Discover | Ask::Confirm { .. } => Backoff {
                    first: seconds(1),
                    max: seconds(60),
                    permanent: Some(seconds(60)),
                },
                // Several tries before it ends, but not all devices of a site at their server.
                Ask::Renew { .. } | Ask::Rebind { .. } => Backoff {
                    first: seconds(u64::from(lease_seconds / 16).clamp(5, 60)),
                    max: seconds(u64::from(lease_seconds / 16).clamp(5, 1800)),
                    permanent: Some(seconds(60)),
                },
            },
        }
    }
}

/// Every row that nim publishes.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Leases in force.
    pub leases: Rows<DhcpLease>,
    /// Sets of ports.
    pub list: DevicePortConfigList,
    /// State of the ports.
    pub status: DeviceNetworkStatus,
}

impl agent::Report for Report {
    fn put(self, out: &mut Outbox) {
        let one = || "global".to_owned();
        out.put(&DHCP_LEASE, Some(self.leases));
        out.put(&DEVICE_PORT_CONFIG_LIST, Some([(one(), self.list)].into()));
        out.put(&DEVICE_NETWORK_STATUS, Some([(one(), self.status)].into()));
    }
}

impl Service for Nim {
    const NAME: &'static str = "nim";
    type Desired = Desired;
    type Actual = Actual;
    type Action = Action;
    type Report = Report;

    fn read(tables: &mut Tables) -> Option<Desired> {
        Some(Desired {
            sources: tables.peek(&DEVICE_PORT_CONFIG),
            properties: tables.peek(&CONFIG_ITEMS),
            adapters: tables.peek(&PHYSICAL_IO_ADAPTERS),
            list: global(&tables.own(&DEVICE_PORT_CONFIG_LIST)),
            leases: tables.own(&DHCP_LEASE),
            status: global(&tables.own(&DEVICE_NETWORK_STATUS)),
        })
    }

    fn plan(turn: &Turn<'_, Self>) -> Plan<Self> {
        let Turn {
            desired, actual, ..
        } = turn;
        let adapters = desired.adapters.as_ref().and_then(|a| a.values().next());
        let last_resort = select::last_resort(&actual.links, adapters);
        let sources = desired.sources.as_deref();
        let mut list = select::merge(&desired.list, sources, last_resort, turn.now);
        let choice = select::choose(
            &mut list,
            in_use(&desired.list),
            &actual.links,
            may_fall_back(desired),
            turn.now,
        );
        let config = list[choice.current].config.clone();

        let ports = ports(turn, &config);
        let diff = graph::diff(
            &items::current(&ports, actual),
            &items::intended(&ports, actual),
        );
        let mut actions: Vec<Action> = diff
            .into_iter()
            .map(|step| Action::Kernel(Box::new(step)))
            .collect();

        let statuses: Vec<PortStatus> = ports
            .iter()
            .map(|port| {
                let before = before(&desired.status, &port.config.if_name);
                let fault = status::port_fault(port, &actions, turn.jobs, before, turn.now);
                status::port(port, actual, before, fault)
            })
            .collect();
        let is_there = |port: &PortStatus| actual.links.contains_key(port.if_name.as_str());
        let state = status::state(&statuses, is_there);
        status::note(&mut list[choice.current], state, &statuses, turn.now);

        let mut wakes: Vec<Duration> = choice.patience.into_iter().collect();
        for port in &ports {
            let (action, wake) = due(port, actual, turn.uptime);
            actions.extend(action);
            wakes.extend(wake);
        }
        let leases = ports.iter().filter_map(|port| port.lease);
        let mut plan = Plan::report(Report {
            leases: leases.map(|l| (l.if_name.to_string(), l.clone())).collect(),
            list: DevicePortConfigList {
                current_index: Some(choice.current),
                list,
            },
            status: DeviceNetworkStatus {
                dpc_key: config.key,
                state,
                ports: statuses,
            },
        });
        plan.actions = actions;
        for wake in wakes {
            plan.wake_in(wake);
        }
        plan
    }
}

fn global<T: Clone + Default>(rows: &Rows<T>) -> T {
    rows.get("global").cloned().unwrap_or_default()
}

fn in_use(list: &DevicePortConfigList) -> Option<&DevicePortConfig> {
    list.list
        .get(list.current_index?)
        .map(|entry| &entry.config)
}

fn may_fall_back(desired: &Desired) -> bool {
    let properties = desired.properties.as_ref().and_then(|p| p.get("global"));
    properties.is_some_and(|p| p.text("network.fallback.any.eth") == "enabled")
}

fn before<'a>(status: &'a DeviceNetworkStatus, if_name: &IfName) -> Option<&'a PortStatus> {
    status.ports.iter().find(|port| port.if_name == *if_name)
}

fn ports<'a>(turn: &Turn<'a, Nim>, config: &'a DevicePortConfig) -> Vec<Port<'a>> {
    let Turn {
        desired, actual, ..
    } = turn;
    let tables = items::tables(&config.ports, &desired.status.ports);
    let port = |(place, port): (usize, &'a model::port::PortConfig)| {
        let name = port.if_name.as_str();
        let lease = match port.addressing {
            PortAddressing::Dhcp => in_force(
                desired.leases.get(name),
                actual.leases.get(name),
                turn.uptime,
            ),
            PortAddressing::Static { .. } | PortAddressing::None => None,
        };
        Port {
            config: port,
            link: actual.links.get(name),
            lease,
            table: tables.get(&port.if_name).copied().unwrap_or_default(),
            metric: items::metric(port.cost, place),
        }
    };
    config.ports.iter().enumerate().map(port).collect()
}

/// What is to be asked of the DHCP servers of a port now, and when that changes by itself.
fn due(port: &Port<'_>, actual: &Actual, uptime: Duration) -> (Option<Action>, Option<Duration>) {
    let if_name = &port.config.if_name;
    let stand = port.lease.map(|lease| stand(lease, uptime));
    let wake = match stand {
        Some(Stand::Fresh(left) | Stand::Renewing(left) | Stand::Rebinding(left)) => Some(left),
        Some(Stand::Expired) | None => None,
    };
    let able = port.link.filter(|_| port.has_carrier());
    let Some((link, mac)) = able.and_then(|link| Some((link, link.mac?))) else {
        return (None, wake);
    };
    if port.config.addressing != PortAddressing::Dhcp {
        return (None, wake);
    }
    let is_confirmed = matches!(
        actual.leases.get(if_name.as_str()),
        Some(LeaseNews::Granted(_))
    );
    let ask = match (port.lease.and_then(v4), stand) {
        (None, _) | (_, None | Some(Stand::Expired)) => Ask::Discover,
        (Some((address, _)), Some(_)) if !is_confirmed => Ask::Confirm { address },
        (Some(_), Some(Stand::Fresh(_))) => return (None, wake),
        (Some((address, server)), Some(Stand::Renewing(_))) => Ask::Renew { address, server },
        (Some((address, _)), Some(Stand::Rebinding(_))) => Ask::Rebind { address },
    };
    let action = Action::Dhcp {
        if_name: if_name.clone(),
        index: link.index,
        mac,
        ask,
        lease_seconds: port.lease.map_or(0, |lease| lease.lease_seconds),
    };
    (Some(action), wake)
}

/// Address and server of a lease.
fn v4(lease: &DhcpLease) -> Option<(std::net::Ipv4Addr, std::net::Ipv4Addr)> {
    match (lease.address.addr(), lease.server) {
        (IpAddr::V4(address), IpAddr::V4(server)) => Some((address, server)),
        (IpAddr::V6(_), _) | (_, IpAddr::V6(_)) => None,
    }
}
