//! A kernel and a supervisor in a few maps, which refuse what the real ones would, and what must
//! not happen: an application's interface that is up before the filters are there, or not isolated.

use std::sync::{Arc, Mutex};

use agent::{Failure, Progress, World};
use graph::Step;
use ipnet::IpNet;
use netlink::{Address, Kind, Link, Owner};
use zedrouter::{
    Actual, Desired, Do, Present, Resolver, Zedrouter,
    item::{Item, Layer, Own, Setting},
};

#[derive(Clone, Default)]
pub struct Fake(Arc<Mutex<State>>);

#[derive(Clone, Default)]
pub struct State {
    pub actual: Actual,
    /// Steps done.
    pub steps: usize,
    last_index: u32,
}

impl State {
    /// Everything that is ours, as text.
    pub fn traces(&self) -> String {
        let a = &self.actual;
        let links: Vec<_> = a
            .links
            .values()
            .filter(|l| l.owner == Owner::ZEDROUTER || l.master.is_some())
            .collect();
        let filters: Vec<_> = a.filters.keys().collect();
        format!(
            "{links:?} {:?} {:?} {filters:?} {:?} {:?} {:?}",
            a.addresses,
            a.rules,
            a.settings,
            a.files,
            a.resolvers.iter().flatten().collect::<Vec<_>>()
        )
    }

    fn add(&mut self, name: &str, kind: Kind, owner: Owner) -> &mut Link {
        assert!(!self.actual.links.contains_key(name), "{name} is there");
        self.last_index += 1;
        let link = Link {
            index: self.last_index,
            name: name.to_owned(),
            kind,
            owner,
            mac: None,
            permanent_mac: None,
            mtu: 1500,
            up: false,
            lower_up: false,
            master: None,
            isolated: false,
            filtered: false,
            alias: None,
        };
        self.actual.links.entry(name.to_owned()).or_insert(link)
    }

    fn link(&mut self, name: &str) -> &mut Link {
        self.actual
            .links
            .get_mut(name)
            .unwrap_or_else(|| panic!("no {name}"))
    }

    fn has_filters(&self) -> bool {
        self.actual.filters.len() == 2
    }

    /// What goes with an interface.
    fn remove(&mut self, name: &str) {
        self.actual.links.remove(name);
        self.actual.addresses.retain(|address| address.link != name);
        let is_its = |setting: &Setting| Setting::of_bridge(name).contains(setting);
        self.actual.settings.retain(|setting| !is_its(setting));
        for link in self.actual.links.values_mut() {
            if link.master.as_deref() == Some(name) {
                link.master = None;
                link.isolated = false;
            }
        }
    }

    fn create(&mut self, item: Item) {
        match item {
            Item::Link { .. } => panic!("not ours"),
            Item::Bridge {
                name,
                mac,
                filtered,
            } => {
                let link = self.add(&name, Kind::Bridge, Owner::ZEDROUTER);
                (link.mac, link.filtered) = (Some(mac), filtered);
            }
            Item::Setting(setting) => {
                let general = Setting::GENERAL.contains(&setting);
                assert!(
                    !general || self.has_filters(),
                    "{setting:?} before the filters"
                );
                if let Setting::ProxyArp(bridge)
                | Setting::PromptArp(bridge)
                | Setting::NoIp6(bridge) = &setting
                {
                    self.link(bridge);
                }
                assert!(self.actual.settings.insert(setting));
            }
            Item::Mtu { link, mtu } => self.link(link.name()).mtu = mtu,
            Item::Address { bridge, net } => {
                self.link(&bridge);
                let address = Address {
                    link: bridge,
                    net: IpNet::V4(net),
                    prefix_route: true,
                    owner: Owner::ZEDROUTER,
                };
                assert!(!self.actual.addresses.contains(&address));
                self.actual.addresses.push(address);
            }
            Item::Up { link, isolated } => {
                assert!(self.has_filters(), "{link:?} up without filters");
                let is_vif = matches!(link, Own::Vif(_));
                let link = self.link(link.name());
                assert!(!is_vif || link.master.is_some(), "{link:?} leads nowhere");
                assert_eq!(link.isolated, isolated, "{link:?}");
                link.up = true;
            }
            Item::Member { link, bridge } | Item::Port { vif: link, bridge } => {
                assert!(self.has_filters());
                assert_eq!(self.link(&bridge).kind, Kind::Bridge);
                let link = self.link(&link);
                assert_eq!(link.master, None);
                link.master = Some(bridge);
            }
            Item::Vif { name } => {
                let kind = Kind::Tap {
                    owner: None,
                    group: Some(48_000),
                    persistent: true,
                };
                self.add(&name, kind, Owner::ZEDROUTER);
            }
            Item::Isolated { vif } => {
                let link = self.link(&vif);
                assert!(link.master.is_some() && !link.up);
                link.isolated = true;
            }
            Item::Rule(rule) => {
                assert!(!self.actual.rules.contains(&rule), "{rule:?} is there");
                self.actual.rules.push(rule);
            }
            Item::Filter { layer, table } => {
                let table = table.expect("a table");
                table.replacing().expect("a sound table");
                self.actual.filters.insert(layer, Present::Exactly(table));
            }
            Item::File { name, content } => {
                self.actual.files.insert(name, content);
            }
            Item::Resolver {
                bridge,
                config,
                index,
            } => {
                assert_eq!(self.link(&bridge).index, index);
                assert!(self.link(&bridge).up);
                assert!(self.actual.addresses.iter().any(|a| a.link == bridge));
                assert!(self.actual.files.contains_key(&format!("{bridge}.conf")));
                self.actual
                    .files
                    .insert(format!("{bridge}.leases"), String::new());
                let resolver = Resolver {
                    config,
                    index,
                    trouble: None,
                };
                let old = self.resolvers().insert(bridge, resolver);
                assert_eq!(old, None);
            }
            Item::Loaded { bridge, tables } => {
                self.actual.files.insert(format!("{bridge}.loaded"), tables);
            }
            Item::Flows { vif, state } => {
                assert!(self.has_filters());
                self.actual.files.insert(format!("{vif}.flows"), state);
            }
        }
    }

    fn resolvers(&mut self) -> &mut std::collections::BTreeMap<String, Resolver> {
        self.actual.resolvers.get_or_insert_default()
    }

    fn delete(&mut self, item: Item) {
        match item {
            Item::Link { .. } => panic!("not ours"),
            Item::Bridge { name, .. } => {
                let mut links = self.actual.links.values();
                assert!(
                    links.all(|l| l.master.as_ref() != Some(&name)),
                    "{name} has ports"
                );
                self.remove(&name);
            }
            Item::Vif { name } => {
                assert!(!self.link(&name).up);
                self.remove(&name);
            }
            Item::Setting(setting) => assert!(self.actual.settings.remove(&setting)),
            Item::Mtu { link, .. } => self.link(link.name()).mtu = 1500,
            Item::Address { bridge, net } => {
                let net = IpNet::V4(net);
                self.actual
                    .addresses
                    .retain(|a| !(a.link == bridge && a.net == net));
            }
            Item::Up { link, .. } => self.link(link.name()).up = false,
            Item::Member { link, .. } | Item::Port { vif: link, .. } => {
                let link = self.link(&link);
                (link.master, link.isolated) = (None, false);
            }
            Item::Isolated { vif } => {
                let link = self.link(&vif);
                assert!(!link.up, "{vif} is no longer isolated while it is up");
                link.isolated = false;
            }
            Item::Rule(rule) => self.actual.rules.retain(|other| *other != rule),
            Item::Filter { layer, .. } => {
                let ours = |l: &&Link| l.owner == Owner::ZEDROUTER && l.up;
                assert_eq!(
                    self.actual.links.values().find(ours),
                    None,
                    "no filter any more"
                );
                assert!(!self.actual.settings.contains(&Setting::Forwarding));
                self.actual.filters.remove(&layer);
            }
            Item::File { name, .. } => {
                self.actual.files.remove(&name);
            }
            Item::Resolver { bridge, .. } => {
                self.resolvers().remove(&bridge).expect("a resolver");
            }
            Item::Loaded { bridge, .. } => {
                self.actual.files.remove(&format!("{bridge}.loaded"));
            }
            Item::Flows { vif, .. } => {
                self.actual.files.remove(&format!("{vif}.flows"));
            }
        }
    }
}

impl Fake {
    pub fn state(&self) -> State {
        self.0.lock().unwrap().clone()
    }

    /// A device port.
    pub fn plug(&self, name: &str) {
        let mut state = self.0.lock().unwrap();
        state.actual.directory = "/run/net".into();
        state.actual.resolvers = Some([].into());
        state.add(name, Kind::Device, Owner::UNKNOWN);
    }

    /// Only the ports are left.
    pub fn reboot(&self) {
        let mut state = self.0.lock().unwrap();
        let mut actual = Actual {
            directory: state.actual.directory.clone(),
            resolvers: Some([].into()),
            links: state.actual.links.clone(),
            ..Actual::default()
        };
        actual.links.retain(|_, link| link.owner == Owner::UNKNOWN);
        for link in actual.links.values_mut() {
            link.master = None;
        }
        state.actual = actual;
    }

    /// Destroys some of what is there; the bits of `how` say what.
    pub fn damage(&self, how: u64) {
        let mut state = self.0.lock().unwrap();
        let mut bits = (0..64).map(|n| how >> n & 1 == 1).cycle();
        let mut hit = || bits.next().unwrap() && bits.next().unwrap();
        let links: Vec<Link> = state.actual.links.values().cloned().collect();
        for link in links.iter().filter(|link| link.owner == Owner::ZEDROUTER) {
            if hit() {
                state.remove(&link.name);
            } else {
                let link = state.link(&link.name);
                link.up &= !hit();
                link.isolated &= !hit();
                if hit() {
                    (link.master, link.isolated) = (None, false);
                }
                if hit() {
                    link.mtu = 1400;
                }
            }
        }
        let actual = &mut state.actual;
        actual.addresses.retain(|_| !hit());
        actual.rules.retain(|_| !hit());
        actual.settings.retain(|_| !hit());
        actual
            .files
            .retain(|name, _| name.starts_with("ni-") || !hit());
        actual.filters.retain(|_, _| !hit());
        if let Some(resolvers) = &mut actual.resolvers {
            resolvers.retain(|_, _| !hit());
            for resolver in resolvers.values_mut() {
                if hit() {
                    resolver.config.clear();
                }
            }
        }
        if hit() && actual.filters.contains_key(&Layer::Packets) {
            let other = nft::Table::new(nft::Family::Inet, nft::Name::new("eve_apps").unwrap());
            let other = Present::Exactly(Box::new(other));
            actual.filters.insert(Layer::Packets, other);
        }
    }
}

impl World<Zedrouter> for Fake {
    async fn observe(&self, _: &Desired) -> Result<Actual, Failure> {
        Ok(self.state().actual)
    }

    async fn apply(&self, Do(step): Do, _: Progress) -> Result<(), Failure> {
        let mut state = self.0.lock().unwrap();
        state.steps += 1;
        match step {
            Step::Create(item) | Step::Change { to: item, .. } => state.create(item),
            Step::Delete(item) => state.delete(item),
        }
        Ok(())
    }
}
