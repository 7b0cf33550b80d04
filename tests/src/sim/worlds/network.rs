//! The kernel's network, as nim and zedrouter see and change it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use agent::{Clock, Failure, Progress, World};
use graph::Step;
use ipnet::IpNet;
use model::{code::Code, port::DhcpLease};
use netlink::{Address, AddressState, Kind, Link, Owner, Route, RouteKind};
use nim::{LeaseNews, Nim, dhcp::Ask};
use zedrouter::{Lease, Present, Resolver, Sample, Zedrouter, item::Item};

use crate::sim::machine::{Kernel, Machine, PORT, State};

/// What the DHCP server of the port's link gives.
const ADDRESS: &str = "192.0.2.5/24";
const GATEWAY: &str = "192.0.2.1";
const HOUR: u32 = 3600;
const TAP: Kind = Kind::Tap {
    owner: None,
    group: None,
    persistent: true,
};

/// nim's process: what DHCP servers said to it.
pub(crate) struct Ports {
    machine: Machine,
    clock: Clock,
    said: Mutex<BTreeMap<String, LeaseNews>>,
}

impl Ports {
    pub(crate) fn open(machine: &Machine, clock: &Clock) -> Self {
        Self {
            machine: machine.clone(),
            clock: clock.clone(),
            said: Mutex::default(),
        }
    }

    fn said(&self) -> MutexGuard<'_, BTreeMap<String, LeaseNews>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn dhcp(&self, ask: Ask) -> Result<(), Failure> {
        self.machine.takes(300).await;
        let answers = self.machine.with(|s| s.kernel.carrier() && s.kernel.server);
        if !answers {
            let failure = Failure::new(Code::PortDhcp, "port eth0", "no DHCP server answers");
            return Err(failure.transient());
        }
        let address: IpNet = ADDRESS.parse().unwrap();
        let granted = LeaseNews::Granted(DhcpLease {
            if_name: PORT.parse().unwrap(),
            address,
            gateways: vec![GATEWAY.parse().unwrap()],
            dns_servers: vec![GATEWAY.parse().unwrap()],
            ntp_servers: Vec::new(),
            domain_name: String::new(),
            mtu: None,
            server: GATEWAY.parse().unwrap(),
            obtained: self.clock.now(),
            obtained_uptime: self.clock.uptime().as_secs(),
            lease_seconds: HOUR,
            renew_seconds: HOUR / 2,
            rebind_seconds: HOUR / 8 * 7,
        });
        let news = match ask {
            Ask::Discover => granted,
            Ask::Confirm { address: mine }
            | Ask::Renew { address: mine, .. }
            | Ask::Rebind { address: mine } => {
                if address.addr() == mine {
                    granted
                } else {
                    LeaseNews::Refused
                }
            }
        };
        self.said().insert(PORT.to_owned(), news);
        Ok(())
    }
}

impl World<Nim> for Ports {
    async fn observe(&self, _: &nim::Desired) -> Result<nim::Actual, Failure> {
        let mut said = self.said();
        Ok(self.machine.with(|s| {
            if !s.kernel.carrier() {
                said.clear();
            }
            let kernel = &s.kernel;
            let usable = |address: &Address| (address.clone(), AddressState::Usable);
            let rules = kernel.rules.iter().filter(|r| r.owner == Owner::NIM);
            nim::Actual {
                links: kernel.links.clone(),
                addresses: kernel.addresses.iter().map(usable).collect(),
                routes: kernel.routes.clone(),
                rules: rules.cloned().collect(),
                leases: said.clone(),
            }
        }))
    }

    async fn apply(&self, action: nim::Action, _: Progress) -> Result<(), Failure> {
        match action {
            nim::Action::Kernel(step) => self.machine.with(|s| {
                s.stir("zedrouter");
                let done = port_step(&mut s.kernel, &step);
                done.map_err(|text| Failure::new(Code::PortAddress, "port eth0", text).transient())
            }),
            nim::Action::Dhcp { ask, .. } => self.dhcp(ask).await,
        }
    }
}

fn port_step(kernel: &mut Kernel, step: &Step<nim::Item>) -> Result<(), String> {
    use nim::Item;
    let same = |a: &Route, b: &Route| (a.table, a.to, a.metric) == (b.table, b.to, b.metric);
    match step {
        Step::Create(Item::Up(link)) => {
            kernel.links.get_mut(link).ok_or("no link")?.up = true;
        }
        Step::Create(Item::Mtu { link, mtu })
        | Step::Change {
            to: Item::Mtu { link, mtu },
            ..
        } => kernel.links.get_mut(link).ok_or("no link")?.mtu = *mtu,
        Step::Create(Item::Address { address, .. }) => {
            if kernel.addresses.contains(address) {
                return Err(format!("{address:?} is there"));
            }
            kernel.addresses.push(address.clone());
        }
        Step::Delete(Item::Address { address, .. }) => {
            kernel.addresses.retain(|a| a != address);
            // As the kernel does.
            kernel
                .routes
                .retain(|r| r.source != Some(address.net.addr()));
        }
        Step::Create(Item::Route { route, .. }) => {
            if kernel.routes.iter().any(|r| same(r, route)) {
                return Err(format!("{route:?} is there"));
            }
            reachable(kernel, route)?;
            kernel.routes.push(route.clone());
        }
        Step::Change {
            from: Item::Route { route: from, .. },
            to: Item::Route { route, .. },
        } => {
            reachable(kernel, route)?;
            kernel.routes.retain(|r| r != from);
            kernel.routes.push(route.clone());
        }
        Step::Delete(Item::Route { route, .. }) => kernel.routes.retain(|r| r != route),
        Step::Create(Item::Rule(rule)) => kernel.rules.push(rule.clone()),
        Step::Delete(Item::Rule(rule)) => kernel.rules.retain(|r| r != rule),
        Step::Create(Item::Link(_)) | Step::Delete(_) | Step::Change { .. } => {}
    }
    Ok(())
}

fn reachable(kernel: &Kernel, route: &Route) -> Result<(), String> {
    let RouteKind::Unicast { link, .. } = &route.kind else {
        return Ok(());
    };
    if !kernel.links.get(link).is_some_and(|l| l.up) {
        return Err(format!("{link} is down"));
    }
    let has = |source| kernel.addresses.iter().any(|a| a.net.addr() == source);
    if route.source.is_some_and(|source| !has(source)) {
        return Err(format!("{route:?} from an address that is not there"));
    }
    Ok(())
}

/// zedrouter's kernel, packet filter, files and resolvers.
pub(crate) struct Networks(Machine);

impl Networks {
    pub(crate) fn open(machine: &Machine, _: &Clock) -> Self {
        Self(machine.clone())
    }
}

impl World<Zedrouter> for Networks {
    async fn observe(&self, _: &zedrouter::Desired) -> Result<zedrouter::Actual, Failure> {
        Ok(self.0.with(|s| {
            let kernel = &s.kernel;
            let addresses = kernel.addresses.iter();
            let rules = kernel.rules.iter();
            zedrouter::Actual {
                directory: "/run/zedrouter-net".into(),
                links: kernel.links.clone(),
                addresses: addresses
                    .filter(|a| a.owner == Owner::ZEDROUTER)
                    .cloned()
                    .collect(),
                rules: rules
                    .filter(|r| r.owner == Owner::ZEDROUTER)
                    .cloned()
                    .collect(),
                filters: kernel
                    .filters
                    .iter()
                    .map(|(layer, table)| (*layer, Present::Exactly(table.clone())))
                    .collect(),
                settings: kernel.settings.clone(),
                files: kernel.files.clone(),
                resolvers: (!s.guests.away).then(|| kernel.resolvers.clone()),
                leases: leases(s),
                sample: Sample::default(),
            }
        }))
    }

    async fn apply(&self, action: zedrouter::Do, _: Progress) -> Result<(), Failure> {
        let object = action.0.id();
        if matches!(action.0.item(), Item::Resolver { .. }) {
            self.0.takes(60).await;
        }
        self.0.with(|s| {
            s.stir("nim");
            let done = match action.0 {
                Step::Delete(item) => delete(s, item),
                Step::Create(item) | Step::Change { to: item, .. } => create(s, item),
            };
            done.map_err(|text| Failure::new(Code::NetworkBridge, object, text).transient())
        })
    }
}

/// A guest that runs asks for its address at once.
fn leases(s: &State) -> Vec<Lease> {
    let guests = s.guests.qemus.values().filter(|qemu| qemu.runs());
    let vifs = guests.flat_map(|qemu| &qemu.vifs);
    let lease = |(tap, mac): &(String, model::id::MacAddr)| {
        let bridge = s.kernel.tap_bridge(tap)?;
        s.kernel.resolvers.get(&bridge)?;
        Some(Lease {
            bridge,
            mac: *mac,
            expires: "2200-01-01T00:00:00Z".parse().unwrap(),
        })
    };
    vifs.filter_map(lease).collect()
}

fn create(s: &mut State, item: Item) -> Result<(), String> {
    let kernel = &mut s.kernel;
    let missing = |name: &str| format!("{name} is not there");
    let index = kernel.next_index();
    let new = |name: &str, kind, mac| Link {
        index,
        name: name.to_owned(),
        kind,
        owner: Owner::ZEDROUTER,
        mac,
        permanent_mac: None,
        mtu: 1500,
        up: false,
        lower_up: false,
        master: None,
        isolated: false,
        filtered: false,
        alias: None,
    };
    match item {
        Item::Link { .. } => {}
        Item::Bridge {
            name,
            mac,
            filtered,
        } => {
            let bridge = Link {
                filtered,
                ..new(&name, Kind::Bridge, Some(mac))
            };
            if kernel.links.insert(name.clone(), bridge).is_some() {
                s.violate(format!("bridge {name} is made over another"));
            }
        }
        Item::Vif { name } => {
            let tap = new(&name, TAP, Some([2, 0, 0, 0, 1, 1]));
            if kernel.links.insert(name.clone(), tap).is_some() {
                s.violate(format!("tap {name} is made over another"));
            }
        }
        Item::Setting(setting) => {
            kernel.settings.insert(setting);
        }
        Item::Mtu { link, mtu } => {
            let name = link.name();
            kernel.links.get_mut(name).ok_or_else(|| missing(name))?.mtu = mtu;
        }
        Item::Address { bridge, net } => {
            if !kernel.links.contains_key(&bridge) {
                return Err(missing(&bridge));
            }
            kernel.addresses.push(Address {
                link: bridge,
                net: IpNet::V4(net),
                prefix_route: true,
                owner: Owner::ZEDROUTER,
            });
        }
        Item::Up { link, .. } => {
            if kernel.filters.len() < 2 {
                return Err("nothing filters yet".to_owned());
            }
            let name = link.name();
            kernel.links.get_mut(name).ok_or_else(|| missing(name))?.up = true;
        }
        Item::Member { link, bridge } | Item::Port { vif: link, bridge } => {
            if !kernel.links.contains_key(&bridge) {
                return Err(missing(&bridge));
            }
            let port = kernel.links.get_mut(&link).ok_or_else(|| missing(&link))?;
            port.master = Some(bridge);
        }
        Item::Isolated { vif } => {
            let port = kernel.links.get_mut(&vif).ok_or_else(|| missing(&vif))?;
            port.isolated = true;
        }
        Item::Rule(rule) => kernel.rules.push(rule),
        Item::Filter { layer, table } => {
            kernel.filters.insert(layer, table.ok_or("no table")?);
        }
        Item::File { name, content } => {
            kernel.files.insert(name, content);
        }
        Item::Resolver {
            bridge,
            config,
            index,
        } => {
            if s.guests.away {
                return Err("the supervisor does not answer".to_owned());
            }
            let link = kernel.links.get(&bridge).ok_or_else(|| missing(&bridge))?;
            if link.index != index {
                return Err(format!("{bridge} is another one"));
            }
            let resolver = Resolver {
                config,
                index,
                trouble: None,
            };
            if kernel.resolvers.insert(bridge.clone(), resolver).is_some() {
                s.violate(format!("a second resolver of {bridge}"));
            }
        }
        Item::Loaded { bridge, tables } => {
            kernel.files.insert(format!("{bridge}.loaded"), tables);
        }
        Item::Flows { vif, state } => {
            kernel.files.insert(format!("{vif}.flows"), state);
        }
    }
    Ok(())
}

fn delete(s: &mut State, item: Item) -> Result<(), String> {
    match item {
        Item::Link { .. } => {}
        Item::Bridge { name, .. } | Item::Vif { name } => {
            let users = s.guests.qemus.iter().filter(|(_, q)| q.is_alive());
            let mut users = users.filter(|(_, q)| q.vifs.iter().any(|(tap, _)| *tap == name));
            if let Some((app, _)) = users.next() {
                let text = format!("tap {name} is removed under {app}, which lives");
                s.violate(text);
            }
            s.kernel.links.remove(&name);
            s.kernel.addresses.retain(|a| a.link != name);
            for link in s.kernel.links.values_mut() {
                if link.master.as_ref() == Some(&name) {
                    link.master = None;
                    link.isolated = false;
                }
            }
        }
        Item::Setting(setting) => {
            s.kernel.settings.remove(&setting);
        }
        Item::Mtu { link, .. } => {
            if let Some(link) = s.kernel.links.get_mut(link.name()) {
                link.mtu = 1500;
            }
        }
        Item::Address { bridge, net } => {
            let net = IpNet::V4(net);
            s.kernel
                .addresses
                .retain(|a| !(a.link == bridge && a.net == net));
        }
        Item::Up { link, .. } => {
            if let Some(link) = s.kernel.links.get_mut(link.name()) {
                link.up = false;
            }
        }
        Item::Member { link, .. } | Item::Port { vif: link, .. } => {
            let user = s
                .guests
                .qemus
                .iter()
                .find(|(_, q)| q.is_alive() && q.vifs.iter().any(|(tap, _)| *tap == link));
            if let Some((app, _)) = user
                && !s.may_end(*app)
            {
                let text = format!("{app}, which shall run, is taken off its bridge");
                s.violate(text);
            }
            if let Some(link) = s.kernel.links.get_mut(&link) {
                link.master = None;
                link.isolated = false;
            }
        }
        Item::Isolated { vif } => {
            if let Some(link) = s.kernel.links.get_mut(&vif) {
                link.isolated = false;
            }
        }
        Item::Rule(rule) => s.kernel.rules.retain(|r| *r != rule),
        Item::Filter { layer, .. } => {
            s.kernel.filters.remove(&layer);
        }
        Item::File { name, .. } => {
            s.kernel.files.remove(&name);
        }
        Item::Resolver { bridge, .. } => {
            if s.guests.away {
                return Err("the supervisor does not answer".to_owned());
            }
            s.kernel.resolvers.remove(&bridge);
        }
        Item::Loaded { bridge, .. } => {
            s.kernel.files.remove(&format!("{bridge}.loaded"));
        }
        Item::Flows { vif, .. } => {
            s.kernel.files.remove(&format!("{vif}.flows"));
        }
    }
    Ok(())
}
