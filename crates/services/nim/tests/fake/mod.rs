//! A kernel and DHCP servers that exist only here, and check what is asked of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use agent::{Clock, Failure, Progress, World};
use graph::Step;
use ipnet::IpNet;
use model::{code::Code, port::DhcpLease};
use netlink::{Address, AddressState, Kind, Link, Owner, Route, RouteKind, Rule};
use nim::{Action, Actual, Desired, Item, LeaseNews, Nim, dhcp::Ask};

/// What is there.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) links: BTreeMap<String, Link>,
    pub(crate) addresses: Vec<Address>,
    pub(crate) routes: Vec<Route>,
    pub(crate) rules: Vec<Rule>,
    /// By interface: third octet of the network and the host that its server gives.
    pub(crate) servers: BTreeMap<String, (u8, u8)>,
    pub(crate) said: BTreeMap<String, LeaseNews>,
    /// Every action that was applied.
    pub(crate) log: Vec<Action>,
    /// Destinations to which no route can be added.
    pub(crate) refused: BTreeSet<IpNet>,
}

/// The same world for one nim after another.
#[derive(Clone)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
    pub(crate) clock: Clock,
}

pub(crate) fn link(name: &str, index: u32) -> Link {
    Link {
        index,
        name: name.to_owned(),
        kind: Kind::Device,
        owner: Owner::UNKNOWN,
        mac: Some([2, 0, 0, 0, 0, u8::try_from(index).unwrap()]),
        permanent_mac: None,
        mtu: 1500,
        up: false,
        lower_up: true,
        master: None,
        isolated: false,
        filtered: false,
        alias: None,
    }
}

impl Fake {
    pub(crate) fn new(clock: Clock, ports: &[&str]) -> Self {
        let fake = Self {
            state: Arc::default(),
            clock,
        };
        for (n, name) in (2u8..).zip(ports) {
            let mut state = fake.state();
            state.links.insert((*name).to_owned(), link(name, n.into()));
            state.servers.insert((*name).to_owned(), (n, 77));
        }
        fake
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// nim forgets what it learned, the kernel doesn't.
    pub(crate) fn restarted(&self) -> Self {
        self.state().said.clear();
        self.state().log.clear();
        self.clone()
    }

    fn lease(&self, if_name: &str, (net, host): (u8, u8)) -> DhcpLease {
        DhcpLease {
            if_name: if_name.parse().unwrap(),
            address: format!("10.0.{net}.{host}/24").parse().unwrap(),
            gateways: vec![format!("10.0.{net}.1").parse().unwrap()],
            dns_servers: vec![format!("10.0.{net}.53").parse().unwrap()],
            ntp_servers: Vec::new(),
            domain_name: String::new(),
            mtu: None,
            server: format!("10.0.{net}.1").parse().unwrap(),
            obtained: self.clock.now(),
            obtained_uptime: self.clock.uptime().as_secs(),
            lease_seconds: 120,
            renew_seconds: 60,
            rebind_seconds: 105,
        }
    }

    fn ask(&self, if_name: &str, ask: &Ask) -> Result<(), Failure> {
        let mut state = self.state();
        let link = &state.links[if_name];
        assert!(link.up && link.lower_up, "asked on {link:?}");
        let Some(server) = state.servers.get(if_name).copied() else {
            let failure = Failure::new(Code::PortDhcp, format!("port {if_name}"), "silence");
            return Err(failure.transient());
        };
        let lease = self.lease(if_name, server);
        let news = match *ask {
            Ask::Discover => LeaseNews::Granted(lease),
            Ask::Confirm { address } | Ask::Renew { address, .. } | Ask::Rebind { address } => {
                let has = state
                    .addresses
                    .iter()
                    .any(|a| a.net.addr() == IpAddr::V4(address));
                assert!(
                    has || matches!(ask, Ask::Confirm { .. }),
                    "renewed without an address"
                );
                if IpAddr::V4(address) == lease.address.addr() {
                    LeaseNews::Granted(lease)
                } else {
                    LeaseNews::Refused
                }
            }
        };
        state.said.insert(if_name.to_owned(), news);
        Ok(())
    }
}

fn by(route: &Route) -> (&str, Option<IpAddr>) {
    match &route.kind {
        RouteKind::Unicast { link, gateway } => (link, *gateway),
        other => panic!("{other:?}"),
    }
}

fn same_place(a: &Route, b: &Route) -> bool {
    (a.table, a.to, a.metric) == (b.table, b.to, b.metric)
}

fn ours(owner: Owner) {
    assert_eq!(owner, Owner::NIM, "touched what belongs to {owner}");
}

impl State {
    fn step(&mut self, step: &Step<Item>) -> Result<(), String> {
        match step {
            Step::Create(Item::Up(link)) => {
                let link = self.links.get_mut(link).ok_or("no link")?;
                assert!(!link.up);
                link.up = true;
            }
            Step::Change {
                to: Item::Mtu { link, mtu },
                ..
            } => self.links.get_mut(link).ok_or("no link")?.mtu = *mtu,
            Step::Create(Item::Address { address, foreign }) => {
                assert!(!foreign && address.owner == Owner::NIM);
                self.links.get(&address.link).ok_or("no link")?;
                let there = |a: &Address| a.link == address.link && a.net == address.net;
                assert!(!self.addresses.iter().any(there), "{address:?} twice");
                self.addresses.push(address.clone());
            }
            Step::Delete(Item::Address { address, .. }) => {
                ours(address.owner);
                self.addresses.retain(|a| a != address);
                // As the kernel does; routes of another link that has it, too, stay.
                let gone = address.net.addr();
                let is_elsewhere = self.addresses.iter().any(|a| a.net.addr() == gone);
                self.routes.retain(|r| {
                    r.source != Some(gone) || (is_elsewhere && by(r).0 != address.link)
                });
            }
            Step::Create(Item::Route { route, .. }) => {
                assert!(
                    !self.routes.iter().any(|r| same_place(r, route)),
                    "{route:?} twice"
                );
                self.check(route)?;
                self.routes.push(route.clone());
            }
            Step::Change {
                from: Item::Route { route: from, .. },
                to: Item::Route { route, .. },
            } => {
                ours(from.owner);
                assert!(same_place(from, route));
                self.check(route)?;
                self.routes.retain(|r| r != from);
                self.routes.push(route.clone());
            }
            Step::Delete(Item::Route { route, .. }) => {
                ours(route.owner);
                self.routes.retain(|r| r != route);
            }
            Step::Create(Item::Rule(rule)) => {
                assert!(!self.rules.contains(rule));
                self.rules.push(rule.clone());
            }
            Step::Delete(Item::Rule(rule)) => {
                ours(rule.owner);
                self.rules.retain(|r| r != rule);
            }
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    fn check(&self, route: &Route) -> Result<(), String> {
        let (link, gateway) = by(route);
        if self.refused.contains(&route.to) {
            return Err("refused".to_owned());
        }
        assert!(self.links[link].up, "{route:?} on a link that is down");
        if let Some(source) = route.source {
            let has = self.addresses.iter().any(|a| a.net.addr() == source);
            assert!(has, "{route:?} from an address that is not there");
        }
        if let Some(gateway) = gateway {
            let near = |r: &Route| {
                r.table == route.table && by(r) == (link, None) && r.to.contains(&gateway)
            };
            assert!(
                self.routes.iter().any(near),
                "{route:?}: gateway out of reach"
            );
        }
        Ok(())
    }
}

impl World<Nim> for Fake {
    async fn observe(&self, _: &Desired) -> Result<Actual, Failure> {
        let mut state = self.state();
        let State { links, said, .. } = &mut *state;
        said.retain(|name, _| links.get(name).is_some_and(|l| l.up && l.lower_up));
        let usable = |address: &Address| (address.clone(), AddressState::Usable);
        let ours = |owner: &Owner| *owner == Owner::NIM;
        Ok(Actual {
            links: state.links.clone(),
            addresses: state.addresses.iter().map(usable).collect(),
            routes: state
                .routes
                .iter()
                .filter(|r| ours(&r.owner))
                .cloned()
                .collect(),
            rules: state
                .rules
                .iter()
                .filter(|r| ours(&r.owner))
                .cloned()
                .collect(),
            leases: state.said.clone(),
        })
    }

    async fn apply(&self, action: Action, _: Progress) -> Result<(), Failure> {
        self.state().log.push(action.clone());
        match &action {
            Action::Kernel(step) => self.state().step(step).map_err(|text| {
                let object = format!("port {}", step.item().link().unwrap_or_default());
                Failure::new(Code::PortAddress, object, text)
            }),
            Action::Dhcp { if_name, ask, .. } => self.ask(if_name.as_str(), ask),
        }
    }
}
