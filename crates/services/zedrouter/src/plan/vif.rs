//! Applications' interfaces: names, hardware and IP addresses, port maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use agent::Turn;
use bus::Rows;
use ipnet::IpNet;
use model::{
    app::{AclAction, AclMatch, AclRule, Protocol},
    code::Code,
    fault::Fault,
    id::{AppId, MacAddr, NetworkInstanceId},
    network::{AppNetworkConfig, AppVif, AssignedAddress, AssignedNumber},
};
use sha2::{Digest, Sha256};

use super::{
    Zedrouter,
    instance::{Instance, Lan, Life, is_ours},
    numbers,
    ports::is_meant,
};

/// An application's interface that is to be there.
#[derive(Debug, Clone)]
pub(super) struct Vif {
    pub(super) app: AppId,
    pub(super) app_number: u16,
    /// From 1.
    pub(super) number: u16,
    /// `nbu<vif>x<app>`.
    pub(super) name: String,
    pub(super) wanted: AppVif,
    pub(super) mac: MacAddr,
    /// In a local instance.
    pub(super) ip: Option<Ipv4Addr>,
    /// Its application's name in DNS; none for one that is no name or is taken.
    pub(super) host: Option<String>,
    /// Port maps that are not in force because somebody else has the port.
    pub(super) refused: BTreeSet<u32>,
}

impl Vif {
    /// What its packets are marked with.
    pub(super) fn mark(&self) -> u32 {
        u32::from(self.app_number) << 8 | u32::from(self.number)
    }

    /// The part of names that stands for it: `<vif>x<app>`.
    pub(super) fn code(&self) -> String {
        format!("{}x{}", self.number, self.app_number)
    }
}

/// An application.
#[derive(Debug, Clone)]
pub(super) struct App {
    pub(super) config: AppNetworkConfig,
    pub(super) number: u16,
    /// Interfaces that are to be there, in order.
    pub(super) vifs: Vec<Vif>,
    /// The first network instance that it waits for.
    pub(super) awaits: Option<NetworkInstanceId>,
    pub(super) fault: Option<Fault>,
}

/// Name of an interface.
pub(super) fn vif_name(number: u16, app_number: u16) -> String {
    format!("nbu{number}x{app_number}")
}

/// The numbers in an interface's name: of the interface, of the application.
pub(super) fn numbers_of(name: &str) -> Option<(u16, u16)> {
    let (vif, app) = name.strip_prefix("nbu")?.split_once('x')?;
    Some((vif.parse().ok()?, app.parse().ok()?))
}

/// Every application that is configured, by number, and the addresses of their interfaces.
pub(super) fn resolve(
    turn: &Turn<'_, Zedrouter>,
    instances: &[Instance],
    rows: &Rows<AssignedNumber>,
) -> (Vec<App>, Rows<AssignedAddress>) {
    let Some(configs) = &turn.desired.apps else {
        return (Vec::new(), addresses_of_apps(turn));
    };
    let mut apps: Vec<App> = configs
        .values()
        .map(|config| App {
            number: rows
                .get(&numbers::app_key(config.app))
                .map_or(0, |row| row.number),
            config: config.clone(),
            vifs: Vec::new(),
            awaits: None,
            fault: None,
        })
        .collect();
    apps.sort_by_key(|app| app.number);
    let mut pool = Pool::new(turn, &apps);
    for app in &mut apps {
        resolve_app(turn, app, instances, &mut pool);
    }
    name_hosts(&mut apps);
    refuse_taken_ports(turn, &mut apps, instances);
    (apps, pool.rows)
}

fn addresses_of_apps(turn: &Turn<'_, Zedrouter>) -> Rows<AssignedAddress> {
    let rows = turn.desired.own.addresses.iter();
    rows.filter(|(key, _)| key.contains('#'))
        .map(|(key, row)| (key.clone(), *row))
        .collect()
}

fn resolve_app(
    turn: &Turn<'_, Zedrouter>,
    app: &mut App,
    instances: &[Instance],
    pool: &mut Pool<'_, '_>,
) {
    pool.keep_rows(app.config.app);
    if app.number == 0 {
        let text = "there are no more than 255 applications on a device";
        note(turn, app, Code::ConfigInvalid, text);
        return;
    }
    if !app.config.activate {
        return;
    }
    let numbers = vif_numbers(turn, &app.config);
    for (wanted, number) in app.config.vifs.clone().into_iter().zip(numbers) {
        let name = vif_name(number, app.number);
        let instance = instances.iter().find(|i| i.id == wanted.network_instance);
        let usable = instance.filter(|instance| match instance.life {
            Life::Wanted => true,
            // Nothing new joins what is about to go.
            Life::Leaving => is_ours(turn, &name),
            Life::Broken => false,
        });
        let Some(instance) = usable else {
            app.awaits.get_or_insert(wanted.network_instance);
            continue;
        };
        let mac = wanted.mac.unwrap_or_else(|| mac_of(app.config.app, number));
        let ip = match &instance.lan {
            Some(lan) => match pool.give(app, &wanted, number, lan, mac) {
                Ok(ip) => Some(ip),
                Err(text) => {
                    note(turn, app, Code::ConfigInvalid, &text);
                    continue;
                }
            },
            None => None,
        };
        if let Some(text) = unfit_rule(instance, &wanted) {
            note(turn, app, Code::ConfigInvalid, &text);
        }
        app.vifs.push(Vif {
            app: app.config.app,
            app_number: app.number,
            number,
            name,
            wanted,
            mac,
            ip,
            host: None,
            refused: BTreeSet::new(),
        });
    }
}

/// The first fault stays.
fn note(turn: &Turn<'_, Zedrouter>, app: &mut App, code: Code, text: &str) {
    if app.fault.is_none() {
        let key = app.config.app.to_string();
        let old = turn.desired.own.apps.get(&key);
        let fault = Fault::new(code, format!("app {key}"), text, turn.now)
            .continuing(old.and_then(|status| status.fault.as_ref()));
        app.fault = Some(fault);
    }
}

/// The number of each interface: that which it had, by its name, or the first that is free. So an
/// interface that a running guest has keeps its number when another is taken from the config.
fn vif_numbers(turn: &Turn<'_, Zedrouter>, config: &AppNetworkConfig) -> Vec<u16> {
    let old = turn.desired.own.apps.get(&config.app.to_string());
    let mut had: BTreeMap<&str, u16> = old
        .iter()
        .flat_map(|status| &status.vifs)
        .filter_map(|vif| Some((vif.name.as_str(), numbers_of(&vif.vif)?.0)))
        .filter(|(_, number)| *number > 0)
        .collect();
    // Of two interfaces of one name the first one is the one that is meant.
    let kept: Vec<Option<u16>> = config
        .vifs
        .iter()
        .map(|vif| had.remove(vif.name.as_str()))
        .collect();
    let mut taken: BTreeSet<u16> = kept.iter().flatten().copied().collect();
    kept.into_iter()
        .map(|kept| {
            let number = kept
                .or_else(|| (1..=u16::MAX).find(|n| !taken.contains(n)))
                .unwrap_or(u16::MAX);
            taken.insert(number);
            number
        })
        .collect()
}

/// The same for ever, and another for every interface of every device: in a switch instance guests
/// of several devices meet.
fn mac_of(app: AppId, vif: u16) -> MacAddr {
    let digest = Sha256::new()
        .chain_update(app.0.as_bytes())
        .chain_update(vif.to_be_bytes())
        .finalize();
    MacAddr([0x02, 0x16, 0x3e, digest[0], digest[1], digest[2]])
}

/// What can't work in this kind of instance.
fn unfit_rule(instance: &Instance, vif: &AppVif) -> Option<String> {
    let unfit = |rule: &&AclRule| {
        let by_host = |m: &AclMatch| matches!(m, AclMatch::Host(_));
        matches!(rule.action, AclAction::PortMap { .. }) || rule.matches.iter().any(by_host)
    };
    if instance.is_local() {
        return None;
    }
    let rule = vif.acls.iter().find(unfit)?;
    Some(format!(
        "rule {} of interface {}: port maps and hosts need a local network instance, whose addresses \
         and names the device knows",
        rule.id, vif.name
    ))
}

/// The addresses of local instances.
struct Pool<'a, 'b> {
    turn: &'a Turn<'b, Zedrouter>,
    rows: Rows<AssignedAddress>,
    /// What interfaces have or will have, by instance.
    taken: BTreeMap<NetworkInstanceId, BTreeMap<Ipv4Addr, String>>,
    macs: BTreeSet<(NetworkInstanceId, MacAddr)>,
}

impl<'a, 'b> Pool<'a, 'b> {
    /// With what the controller fixed, and what interfaces of known applications had.
    fn new(turn: &'a Turn<'b, Zedrouter>, apps: &[App]) -> Self {
        let mut taken: BTreeMap<NetworkInstanceId, BTreeMap<Ipv4Addr, String>> = BTreeMap::new();
        for app in apps {
            let numbers = vif_numbers(turn, &app.config);
            for (vif, number) in app.config.vifs.iter().zip(numbers) {
                if let Some(IpAddr::V4(ip)) = vif.ip {
                    let of = taken.entry(vif.network_instance).or_default();
                    of.entry(ip).or_insert(row_key(app.config.app, number));
                }
            }
        }
        for app in apps {
            for (key, row) in rows_of(turn, app.config.app) {
                if let IpAddr::V4(ip) = row.ip {
                    let of = taken.entry(row.network_instance).or_default();
                    of.entry(ip).or_insert(key.clone());
                }
            }
        }
        let (rows, macs) = (Rows::new(), BTreeSet::new());
        Self {
            turn,
            rows,
            taken,
            macs,
        }
    }

    fn keep_rows(&mut self, app: AppId) {
        let kept = rows_of(self.turn, app).map(|(key, row)| (key.clone(), *row));
        self.rows.extend(kept);
    }

    /// The address of an interface, or why there is none.
    fn give(
        &mut self,
        app: &App,
        vif: &AppVif,
        number: u16,
        lan: &Lan,
        mac: MacAddr,
    ) -> Result<Ipv4Addr, String> {
        let id = vif.network_instance;
        if !self.macs.insert((id, mac)) {
            return Err(format!(
                "interface {}: another interface in network instance {id} has the hardware address \
                 {mac}",
                vif.name
            ));
        }
        let key = row_key(app.config.app, number);
        let taken = self.taken.entry(id).or_default();
        let mine = |ip: &Ipv4Addr, taken: &BTreeMap<Ipv4Addr, String>| {
            lan.may_have(*ip) && taken.get(ip).is_none_or(|owner| *owner == key)
        };
        let ip = match vif.ip {
            Some(IpAddr::V4(ip)) if mine(&ip, taken) => ip,
            Some(ip) => {
                return Err(format!(
                    "interface {}: address {ip} is not free in {}",
                    vif.name, lan.subnet
                ));
            }
            None => {
                let row = self.rows.get(&key);
                let kept = row.filter(|row| row.network_instance == id);
                let kept = kept.and_then(|row| match row.ip {
                    IpAddr::V4(ip) => Some(ip).filter(|ip| mine(ip, taken)),
                    IpAddr::V6(_) => None,
                });
                let (first, last) = lan.range;
                let mut range = (u32::from(first)..=u32::from(last)).map(Ipv4Addr::from);
                let free = |ip: &Ipv4Addr| lan.may_have(*ip) && !taken.contains_key(ip);
                kept.or_else(|| range.find(free)).ok_or_else(|| {
                    format!(
                        "interface {}: no address of {first} to {last} is free",
                        vif.name
                    )
                })?
            }
        };
        taken.insert(ip, key.clone());
        let row = AssignedAddress {
            network_instance: id,
            ip: ip.into(),
            subnet: IpNet::V4(lan.subnet),
        };
        self.rows.insert(key, row);
        Ok(ip)
    }
}

fn row_key(app: AppId, number: u16) -> String {
    format!("{app}#{}", number.saturating_sub(1))
}

fn rows_of<'a>(
    turn: &Turn<'a, Zedrouter>,
    app: AppId,
) -> impl Iterator<Item = (&'a String, &'a AssignedAddress)> {
    let prefix = format!("{app}#");
    let rows = turn.desired.own.addresses.iter();
    rows.filter(move |(key, _)| key.starts_with(&prefix))
}

/// The first application of a name has it.
fn name_hosts(apps: &mut [App]) {
    let mut owners: BTreeMap<String, AppId> = BTreeMap::new();
    for app in apps {
        let Some(name) = host_name(&app.config.display_name) else {
            continue;
        };
        if *owners.entry(name.clone()).or_insert(app.config.app) == app.config.app {
            for vif in &mut app.vifs {
                vif.host = Some(name.clone());
            }
        }
    }
}

/// A name as one label of DNS: letters, digits and, between them, hyphens.
fn host_name(text: &str) -> Option<String> {
    let fit = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let label: String = text.chars().map(fit).take(63).collect();
    let label = label.trim_matches('-');
    (!label.is_empty()).then(|| label.to_owned())
}

/// A port of the device that is to be mapped: device port, protocol, port.
type Mapped = (String, Protocol, u16);

/// One external port goes to one application: to the one that has it, or the first by number.
fn refuse_taken_ports(turn: &Turn<'_, Zedrouter>, apps: &mut [App], instances: &[Instance]) {
    let mut order: Vec<usize> = (0..apps.len()).collect();
    order.sort_by_key(|n| !has_its_ports(turn, &apps[*n]));
    let mut owners: BTreeMap<Mapped, AppId> = BTreeMap::new();
    for n in order {
        let app = &mut apps[n];
        let mut trouble = None;
        for vif in &mut app.vifs {
            let instance = instances
                .iter()
                .find(|i| i.id == vif.wanted.network_instance);
            let Some(instance) = instance.filter(|i| i.is_local()) else {
                continue;
            };
            for rule in &vif.wanted.acls {
                let wanted = mapped(rule, instance);
                let taken = wanted.iter().find(|port| owners.contains_key(*port));
                if let Some((device_port, protocol, port)) = taken {
                    let owner = owners.get(&(device_port.clone(), *protocol, *port));
                    let owner = owner.map(ToString::to_string).unwrap_or_default();
                    trouble.get_or_insert_with(|| {
                        format!(
                            "rule {}: {protocol:?} port {port} of {device_port} is mapped to app \
                             {owner}",
                            rule.id
                        )
                    });
                    vif.refused.insert(rule.id);
                } else {
                    owners.extend(wanted.into_iter().map(|port| (port, vif.app)));
                }
            }
        }
        if let Some(text) = trouble {
            note(turn, app, Code::NetworkPortMap, &text);
        }
    }
}

fn has_its_ports(turn: &Turn<'_, Zedrouter>, app: &App) -> bool {
    let status = turn.desired.own.apps.get(&app.config.app.to_string());
    status.is_some_and(|status| {
        let refused = status
            .fault
            .as_ref()
            .is_some_and(|f| f.code == Code::NetworkPortMap);
        !refused && status.vifs.iter().any(|vif| is_ours(turn, &vif.vif))
    })
}

fn mapped(rule: &AclRule, instance: &Instance) -> Vec<Mapped> {
    let ports = mapped_ports(rule);
    let device_ports = instance
        .uplink
        .ports
        .iter()
        .filter(|port| is_for(rule, port));
    device_ports
        .flat_map(|device_port| {
            let one = |(protocol, external, _)| (device_port.name().to_owned(), protocol, external);
            ports.iter().copied().map(one)
        })
        .collect()
}

/// Whether a rule is about packets through this device port.
pub(super) fn is_for(rule: &AclRule, port: &super::ports::Port) -> bool {
    rule.matches.iter().all(|m| match m {
        AclMatch::Adapter(label) => is_meant(label, port),
        AclMatch::Ip(_)
        | AclMatch::Host(_)
        | AclMatch::Protocol(_)
        | AclMatch::LocalPort(_)
        | AclMatch::RemotePort(_) => true,
    })
}

/// What a port map maps: protocol, port of the device, port of the application. Of a range of
/// ports each goes to the next port of the application.
pub(super) fn mapped_ports(rule: &AclRule) -> Vec<(Protocol, u16, u16)> {
    let AclAction::PortMap { app_port } = rule.action else {
        return Vec::new();
    };
    let mut protocols = Vec::new();
    let mut range = None;
    for m in &rule.matches {
        match m {
            AclMatch::Protocol(protocol) => protocols.push(*protocol),
            AclMatch::LocalPort(ports) => range = Some(*ports),
            AclMatch::Ip(_)
            | AclMatch::Host(_)
            | AclMatch::RemotePort(_)
            | AclMatch::Adapter(_) => {}
        }
    }
    if protocols.is_empty() {
        protocols = vec![Protocol::Tcp, Protocol::Udp];
    }
    protocols.retain(|protocol| *protocol != Protocol::Icmp);
    let Some(range) = range else {
        return Vec::new();
    };
    let externals = range.first..=range.last;
    let pairs = externals.zip(app_port..=u16::MAX);
    pairs
        .flat_map(|(external, internal)| protocols.iter().map(move |p| (*p, external, internal)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_labels_or_none() {
        assert_eq!(host_name("Web Server #1").as_deref(), Some("web-server--1"));
        assert_eq!(host_name("-a.b_").as_deref(), Some("a-b"));
        assert_eq!(host_name("\n\"/é"), None);
        assert_eq!(host_name(&"x".repeat(99)).map(|n| n.len()), Some(63));
    }

    #[test]
    fn interface_names_carry_their_numbers() {
        assert_eq!(numbers_of(&vif_name(2, 17)), Some((2, 17)));
        for foreign in ["nbu1", "nbux1", "eth0", "nbu1x", "bn1"] {
            assert_eq!(numbers_of(foreign), None);
        }
        let app = AppId(uuid::Uuid::from_u128(7));
        assert_eq!(mac_of(app, 1), mac_of(app, 1));
        assert_ne!(mac_of(app, 1), mac_of(app, 2));
    }
}
