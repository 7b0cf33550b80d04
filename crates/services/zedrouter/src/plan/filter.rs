//! The packet filter: one table for the device's IP packets, one for the frames on our bridges.
//!
//! ```text
//!  guest -> tap -> [frames: who it says it is, or dropped; marked] -> bridge
//!     -> switch: bridged [packets c_bridged: rules of the sender] [frames: rules of the receiver]
//!     -> local:  [packets c_marks] [c_dnat] routed
//!          -> the device:  [c_input]   DHCP, DNS, echo
//!          -> elsewhere:   [c_forward] rules of the sender, then of the receiver [c_snat]
//! ```
//!
//! - Ports of a local instance's bridge are isolated: every packet between two guests is routed by
//!   the device, so one stateful filter sees all. The frames' filter binds each tap to its hardware
//!   and IP address, so from there on bridge and address say whose packet it is.
//! - What is established passes first; whose packet it is, is one lookup for any number of guests.
//! - A connection remembers in its mark the rule that let it through (24 bits), the device port by
//!   which it came in (7 bits), so that its answers leave by it, and whether it is limited (1 bit).
//! - Rules are about what a connection was for before translation, as whoever wrote them sees it.
//! - Nothing passes that no rule lets pass, IPv6 never.
//!
//! A counter per rule counts the packets that it decided: mostly the first ones of connections.

mod chains;
mod entry;
mod frames;

use std::{collections::BTreeSet, time::Duration};

use ipnet::Ipv6Net;
use model::app::AclMatch;
use nft::{
    BadText, Base, Family, Hook, Interface, Key, Map, Match, Name, Policy, Rule, Set, Table,
    TableId, Tag, Verdict, element,
    field::{IIF, IP4_SOURCE, IP4_TARGET, IP6_SOURCE, MARK, OIF, PORT_TARGET, PROTOCOL},
};

use super::{
    Model,
    dns::is_dns_name,
    instance::{self, Instance, Lan},
    item::Layer,
    portmap::{is_for, mapped_ports},
    ports::Port,
    vif::Vif,
};

pub use entry::host_set;

pub(super) use entry::counted_rule;

/// Name of both tables.
pub const TABLE: &str = "eve_apps";

/// Where a connection's mark says which rule let it through.
const RULE_MASK: u32 = 0x00ff_ffff;
/// Where a connection's mark says by which device port it came in.
pub(super) const PORT_MASK: u32 = 0x7f00_0000;
/// A connection whose every packet asks its rule again.
const LIMITED: u32 = 0x8000_0000;
/// A frame whose connection was let pass by the IP packet filter.
const PASSED: u32 = 0x1_0000;

/// Names that dnsmasq resolved are kept for a day after the last time that they were new. With
/// [`super::dns::MAX_TTL`] below it a name is resolved again, and its address added again, soon after.
const HOST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// A connection's mark for this device port.
pub(super) fn port_mark(port: &Port) -> u32 {
    u32::from(port.index) << 24
}

/// The table of a layer.
pub(crate) fn table_id(layer: Layer) -> Result<TableId, BadText> {
    let family = match layer {
        Layer::Frames => Family::Bridge,
        Layer::Packets => Family::Inet,
    };
    let name = name(TABLE)?;
    Ok(TableId { family, name })
}

/// Both tables: of frames, of packets.
pub(super) fn tables(model: &Model) -> Result<(Table, Table), BadText> {
    let view = View::of(model)?;
    Ok((frames::table(&view)?, packets(&view)?))
}

/// What the tables are made of.
struct View<'a> {
    locals: Vec<Local<'a>>,
    switches: Vec<Switch<'a>>,
    ports: &'a [Port],
}

/// A local instance and its interfaces.
struct Local<'a> {
    instance: &'a Instance,
    lan: Lan,
    bridge: Interface,
    vifs: Vec<(&'a Vif, std::net::Ipv4Addr)>,
}

/// A switch instance and its interfaces.
struct Switch<'a> {
    instance: &'a Instance,
    bridge: Interface,
    vifs: Vec<&'a Vif>,
}

impl<'a> View<'a> {
    fn of(model: &'a Model) -> Result<Self, BadText> {
        let (mut locals, mut switches) = (Vec::new(), Vec::new());
        for instance in model.instances.iter().filter(|i| i.is_made()) {
            let bridge = Interface::new(instance.bridge.as_str())?;
            let vifs = model.vifs_of(instance.id);
            match (instance.is_local(), instance.lan) {
                (true, Some(lan)) => locals.push(Local {
                    instance,
                    lan,
                    bridge,
                    vifs: vifs.filter_map(|vif| Some((vif, vif.ip?))).collect(),
                }),
                (true, None) => {}
                (false, _) => switches.push(Switch {
                    instance,
                    bridge,
                    vifs: vifs.collect(),
                }),
            }
        }
        Ok(Self {
            locals,
            switches,
            ports: &model.ports,
        })
    }
}

/// The bridge of the instance whose resolver fills this set.
pub(crate) fn set_owner(set: &str) -> Option<String> {
    let (number, _) = set.strip_prefix("host_")?.split_once('_')?;
    Some(instance::bridge(number.parse().ok()?))
}

fn name(text: impl Into<String>) -> Result<Name, BadText> {
    Name::new(text)
}

fn rule(tag: &str) -> Rule {
    Rule::new(Tag::lossy(tag))
}

fn base(hook: Hook, priority: i32) -> Base {
    Base {
        nat: false,
        hook,
        priority,
        policy: Policy::Accept,
    }
}

fn nat(hook: Hook, priority: i32) -> Base {
    Base {
        nat: true,
        ..base(hook, priority)
    }
}

/// Any IPv6 packet.
fn ip6() -> Match {
    Match::is(IP6_SOURCE, nft::Net6::from(Ipv6Net::default()))
}

fn within_one<T>(field: nft::Field<T>, set: &Name) -> Match {
    Match::within(Key::of(field), set)
}

/// The table of the device's IP packets.
fn packets(view: &View<'_>) -> Result<Table, BadText> {
    let names = Names::new()?;
    let mut table = Table::new(Family::Inet, name(TABLE)?);
    for counter in [&names.denied, &names.strayed] {
        table = table.counter(counter);
    }
    table = sets(view, &names, table)?;
    table = maps(view, &names, table)?;

    let mut chains = Vec::new();
    for local in &view.locals {
        for (vif, _) in &local.vifs {
            let entries = entry::Entries::of(vif, local, view.ports)?;
            (table, chains) = entries.add_to(table, chains)?;
        }
    }
    for switch in &view.switches {
        for vif in &switch.vifs {
            let entries = entry::Entries::of_switch(vif, switch)?;
            (table, chains) = entries.add_sender_to(table, chains)?;
        }
    }
    for chain in chains.into_iter().chain(chains::all(&names)?) {
        table = table.chain(chain);
    }
    Ok(table)
}

/// Names of the table of packets.
struct Names {
    denied: Name,
    strayed: Name,
    bridges: Name,
    locals: Name,
    switches: Name,
    gateways: Name,
    guests: Name,
    paths: Name,
    nat: Name,
    hairpin: Name,
    ports: Name,
    origins: Name,
    maps: Name,
    out: Name,
    into: Name,
    senders: Name,
    chain_between: Name,
    chain_guests: Name,
}

impl Names {
    fn new() -> Result<Self, BadText> {
        Ok(Self {
            denied: name("d_guests")?,
            strayed: name("d_strayed")?,
            bridges: name("s_bridges")?,
            locals: name("s_locals")?,
            switches: name("s_switches")?,
            gateways: name("s_gateways")?,
            guests: name("s_guests")?,
            paths: name("s_paths")?,
            nat: name("s_nat")?,
            hairpin: name("s_hairpin")?,
            ports: name("s_ports")?,
            origins: name("m_origins")?,
            maps: name("m_portmaps")?,
            out: name("m_out")?,
            into: name("m_into")?,
            senders: name("m_senders")?,
            chain_between: name("c_between")?,
            chain_guests: name("c_guests")?,
        })
    }
}

fn sets(view: &View<'_>, names: &Names, mut table: Table) -> Result<Table, BadText> {
    let locals = || view.locals.iter().map(|l| element![l.bridge.clone()]);
    let switches = || view.switches.iter().map(|s| element![s.bridge.clone()]);
    let guests = view.locals.iter().flat_map(|local| {
        let bridge = &local.bridge;
        local
            .vifs
            .iter()
            .map(|(_, ip)| element![bridge.clone(), *ip])
    });
    let gateways = view.locals.iter();
    let gateways = gateways.map(|l| element![l.bridge.clone(), l.lan.gateway]);
    let exits = |local: &Local<'_>| -> Vec<Interface> {
        let ports = local.instance.uplink.ports.iter();
        ports.map(|port| port.interface.clone()).collect()
    };
    let paths = view.locals.iter().flat_map(|local| {
        let own = std::iter::once(local.bridge.clone());
        own.chain(exits(local))
            .map(|exit| element![local.bridge.clone(), exit])
            .collect::<Vec<_>>()
    });
    let nats = view.locals.iter().flat_map(|local| {
        let exits = exits(local).into_iter();
        exits
            .map(|exit| element![exit, local.lan.subnet])
            .collect::<Vec<_>>()
    });
    let hairpins = view.locals.iter();
    let hairpins = hairpins.map(|l| element![l.bridge.clone(), l.lan.subnet]);
    let ports = view.ports.iter().map(|p| element![p.interface.clone()]);
    let fixed = [
        Set::fixed(&names.bridges, Key::of(IIF), locals().chain(switches())),
        Set::fixed(&names.locals, Key::of(IIF), locals()),
        Set::fixed(&names.switches, Key::of(IIF), switches()),
        Set::fixed(&names.gateways, Key::of(IIF).and(IP4_TARGET), gateways),
        Set::fixed(&names.guests, Key::of(IIF).and(IP4_SOURCE), guests),
        Set::fixed(&names.paths, Key::of(IIF).and(OIF), paths),
        Set::fixed(&names.nat, Key::of(OIF).and(IP4_SOURCE), nats),
        Set::fixed(&names.hairpin, Key::of(OIF).and(IP4_SOURCE), hairpins),
        Set::fixed(&names.ports, Key::of(IIF), ports),
    ];
    for set in fixed {
        table = table.set(set);
    }
    for set in host_sets(view)? {
        table = table.set(Set::kept(&set, Key::of(IP4_TARGET), Some(HOST_TIMEOUT)));
    }
    Ok(table)
}

/// Sets that the resolvers fill, one per local instance and name.
fn host_sets(view: &View<'_>) -> Result<BTreeSet<Name>, BadText> {
    let mut sets = BTreeSet::new();
    for local in &view.locals {
        let rules = local.vifs.iter().flat_map(|(vif, _)| &vif.wanted.acls);
        for m in rules.flat_map(|rule| &rule.matches) {
            if let AclMatch::Host(host) = m
                && is_dns_name(host)
            {
                sets.insert(name(host_set(local.instance.number, host))?);
            }
        }
    }
    Ok(sets)
}

fn maps(view: &View<'_>, names: &Names, table: Table) -> Result<Table, BadText> {
    let (mut out, mut into, mut targets, mut senders) = (vec![], vec![], vec![], vec![]);
    for local in &view.locals {
        for (vif, ip) in &local.vifs {
            let key = || element![local.bridge.clone(), *ip];
            out.push((key(), Verdict::Jump(entry::chain(vif, "out")?)));
            into.push((key(), Verdict::Jump(entry::chain(vif, "in")?)));
            targets.extend(port_maps(vif, *ip, local.instance));
        }
    }
    for switch in &view.switches {
        for vif in &switch.vifs {
            let verdict = Verdict::Jump(entry::chain(vif, "out")?);
            senders.push((element![vif.mark()], verdict));
        }
    }
    let origins = view.ports.iter();
    let origins = origins.map(|p| (element![p.interface.clone()], port_mark(p)));
    let target = Key::of(IP4_TARGET).and(PROTOCOL).and(PORT_TARGET);
    Ok(table
        .map(Map::marks(&names.origins, Key::of(IIF), origins))
        .map(Map::targets4(&names.maps, target, targets))
        .map(Map::verdicts(&names.out, Key::of(IIF).and(IP4_SOURCE), out))
        .map(Map::verdicts(
            &names.into,
            Key::of(OIF).and(IP4_TARGET),
            into,
        ))
        .map(Map::verdicts(&names.senders, Key::of(MARK), senders)))
}

/// Where the port maps of an interface lead, for every address of the instance's device ports.
fn port_maps(
    vif: &Vif,
    ip: std::net::Ipv4Addr,
    instance: &Instance,
) -> BTreeSet<(nft::Element, (std::net::Ipv4Addr, u16))> {
    let mut all = BTreeSet::new();
    let rules = vif.wanted.acls.iter();
    for rule in rules.filter(|rule| !vif.refused.contains(&rule.id)) {
        let ports = instance.uplink.ports.iter().filter(|p| is_for(rule, p));
        for address in ports.flat_map(|port| &port.addresses) {
            for (protocol, external, internal) in mapped_ports(rule) {
                let key = element![*address, entry::protocol(protocol), external];
                all.insert((key, (ip, internal)));
            }
        }
    }
    all
}
