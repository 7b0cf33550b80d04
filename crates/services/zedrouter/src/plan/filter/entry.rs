//! From the access control entries of one interface to its chains.

use std::collections::BTreeSet;

use ipnet::{IpNet, Ipv4Net};
use model::app::{AclAction, AclMatch, AclRule, Protocol, RateUnit};
use nft::{
    BadText, Chain, Key, Limit, Mark, MarkValue, Match, Name, Net4, Ports, Rate, Rule, Statement,
    Table, Tag, Verdict,
    field::{
        IP4_ORIGINAL_TARGET, IP4_SOURCE, IP4_TARGET, OIF, PORT_ORIGINAL_TARGET, PORT_SOURCE,
        PORT_TARGET, PROTOCOL, UDP_SOURCE, UDP_TARGET,
    },
};
use sha2::{Digest, Sha256};

use super::{LIMITED, Local, RULE_MASK, Switch, name, rule};
use crate::plan::{
    dns::is_dns_name,
    ports::{Port, is_meant},
    vif::Vif,
};

/// The set of the addresses of a name in an instance.
pub fn host_set(instance: u16, host: &str) -> String {
    let digest = Sha256::digest(host.as_bytes());
    format!("host_{instance}_{}", hex::encode(&digest[..6]))
}

/// The interface and the rule that a counter counts for.
pub(crate) fn counted_rule(counter: &str) -> Option<(String, u32)> {
    let (code, rule) = counter.strip_prefix("a_")?.split_once('_')?;
    Some((format!("nbu{code}"), rule.parse().ok()?))
}

/// A chain of an interface.
pub(super) fn chain(vif: &Vif, side: &str) -> Result<Name, BadText> {
    name(format!("v{}_{side}", vif.code()))
}

pub(super) fn protocol(protocol: Protocol) -> nft::Protocol {
    match protocol {
        Protocol::Tcp => nft::Protocol::TCP,
        Protocol::Udp => nft::Protocol::UDP,
        Protocol::Icmp => nft::Protocol::ICMP,
    }
}

/// Which packets a chain sees.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// From the application.
    Out,
    /// To the application, from one in the same instance.
    In,
    /// To the application, through a port map.
    Mapped,
    /// To the application, on a bridge, where nothing is known of connections.
    Bridged,
}

/// The entries of an interface.
pub(super) struct Entries<'a> {
    vif: &'a Vif,
    /// Number of the local instance, which host sets are named after; none on a switch.
    instance: Option<u16>,
    /// Where others of the instance are; none on a switch, where that is not known.
    subnet: Option<Ipv4Net>,
    ports: Vec<&'a Port>,
    /// Whether a connection's mark may hold what has to stay when it is told the rule.
    marked: bool,
    denied: Name,
}

impl<'a> Entries<'a> {
    pub(super) fn of(vif: &'a Vif, local: &Local<'a>, ports: &'a [Port]) -> Result<Self, BadText> {
        Ok(Self {
            vif,
            instance: Some(local.instance.number),
            subnet: Some(local.lan.subnet),
            ports: ports.iter().collect(),
            marked: local.vifs.iter().any(|(vif, _)| limits(vif)),
            denied: name(format!("d_{}", vif.code()))?,
        })
    }

    pub(super) fn of_switch(vif: &'a Vif, switch: &Switch<'a>) -> Result<Self, BadText> {
        Ok(Self {
            vif,
            instance: None,
            subnet: None,
            ports: switch.instance.member().into_iter().collect(),
            marked: true,
            denied: name(format!("d_{}", vif.code()))?,
        })
    }

    /// Adds the counters to the table, and the chains of all sides to the chains.
    pub(super) fn add_to(
        &self,
        table: Table,
        mut chains: Vec<Chain>,
    ) -> Result<(Table, Vec<Chain>), BadText> {
        let table = self.add_counters(table)?;
        let mapped = chain(self.vif, "map")?;
        let out = Chain::regular(&chain(self.vif, "out")?).rules(self.rules(Side::Out)?);
        let into = Chain::regular(&chain(self.vif, "in")?)
            .rule(
                rule("port maps")
                    .when(Match::translated())
                    .then(Verdict::Goto(mapped.clone())),
            )
            .rules(self.rules(Side::In)?);
        let maps = Chain::regular(&mapped).rules(self.rules(Side::Mapped)?);
        chains.extend([out, into, maps]);
        Ok((table, chains))
    }

    /// The same for the sender's side of a switch.
    pub(super) fn add_sender_to(
        &self,
        table: Table,
        mut chains: Vec<Chain>,
    ) -> Result<(Table, Vec<Chain>), BadText> {
        let table = self.add_counters(table)?;
        let dhcp = rule("DHCP")
            .when(Match::is(UDP_SOURCE, 68_u16))
            .when(Match::is(UDP_TARGET, 67_u16))
            .then(Verdict::Return);
        let out = Chain::regular(&chain(self.vif, "out")?)
            .rule(dhcp)
            .rules(self.rules(Side::Out)?);
        chains.push(out);
        Ok((table, chains))
    }

    /// The same for the receiver's side.
    pub(super) fn add_receiver_to(
        &self,
        table: Table,
        mut chains: Vec<Chain>,
    ) -> Result<(Table, Vec<Chain>), BadText> {
        let table = self.add_counters(table)?;
        let dhcp = rule("DHCP")
            .when(Match::is(UDP_SOURCE, 67_u16))
            .when(Match::is(UDP_TARGET, 68_u16))
            .then(Verdict::Return);
        let into = Chain::regular(&chain(self.vif, "in")?)
            .rule(dhcp)
            .rules(self.rules(Side::Bridged)?);
        chains.push(into);
        Ok((table, chains))
    }

    fn add_counters(&self, mut table: Table) -> Result<Table, BadText> {
        let ids: BTreeSet<u32> = self.vif.wanted.acls.iter().map(|rule| rule.id).collect();
        for id in ids {
            table = table.counter(&self.counter(id)?);
        }
        Ok(table.counter(&self.denied))
    }

    fn counter(&self, id: u32) -> Result<Name, BadText> {
        name(format!("a_{}_{id}", self.vif.code()))
    }

    /// The rules of one side in the order of the entries, and the one that drops what is left.
    fn rules(&self, side: Side) -> Result<Vec<Rule>, BadText> {
        let mut rules = Vec::new();
        for entry in &self.vif.wanted.acls {
            if side == Side::Mapped && self.vif.refused.contains(&entry.id) {
                continue;
            }
            let Some(conditions) = self.conditions(entry, side) else {
                continue;
            };
            let counter = self.counter(entry.id)?;
            let start = || {
                let tag = Rule::new(Tag::lossy(&format!("ace {}", entry.id)));
                conditions.iter().cloned().fold(tag, Rule::when)
            };
            // What comes through a port map came in by a device port, and the mark says by which.
            let mark: fn(u32) -> MarkValue = if self.marked || side == Side::Mapped {
                |bits| MarkValue::KeepOr(!RULE_MASK, bits)
            } else {
                MarkValue::Is
            };
            rules.extend(acted(entry, side, &counter, mark, start));
        }
        let drop = rule("default").count(&self.denied).then(Verdict::Drop);
        rules.push(drop);
        Ok(rules)
    }

    /// What a packet must be like; `None` if no packet of this side can be.
    fn conditions(&self, entry: &AclRule, side: Side) -> Option<Vec<Match>> {
        let mut protocols = None;
        let (mut ports, mut rest) = (Vec::new(), Vec::new());
        for m in &entry.matches {
            match m {
                AclMatch::Ip(IpNet::V4(net)) if net.prefix_len() == 0 => {}
                // What comes from the same instance comes from its subnet. Most rules are about what is elsewhere.
                AclMatch::Ip(IpNet::V4(net)) if side == Side::In && self.is_elsewhere(*net) => {
                    return None;
                }
                AclMatch::Ip(IpNet::V4(net)) => rest.push(match side {
                    Side::Out => Match::is(IP4_ORIGINAL_TARGET, Net4::from(*net)),
                    Side::In | Side::Mapped | Side::Bridged => {
                        Match::is(IP4_SOURCE, Net4::from(*net))
                    }
                }),
                AclMatch::Ip(IpNet::V6(_)) => return None,
                AclMatch::Host(host) => rest.push(self.by_host(host, side)?),
                AclMatch::Protocol(wanted) => {
                    if protocols.replace(*wanted).is_some_and(|old| old != *wanted) {
                        return None;
                    }
                }
                AclMatch::LocalPort(range) => {
                    let range = Ports::range(range.first, range.last);
                    ports.push(match side {
                        Side::Out => Match::is(PORT_SOURCE, range),
                        Side::In | Side::Bridged => Match::is(PORT_TARGET, range),
                        Side::Mapped => Match::is(PORT_ORIGINAL_TARGET, range),
                    });
                }
                AclMatch::RemotePort(range) => {
                    let range = Ports::range(range.first, range.last);
                    ports.push(match side {
                        Side::Out => Match::is(PORT_ORIGINAL_TARGET, range),
                        Side::In | Side::Mapped | Side::Bridged => Match::is(PORT_SOURCE, range),
                    });
                }
                AclMatch::Adapter(label) => {
                    let meant = self.ports.iter().filter(|port| is_meant(label, port));
                    let links: Vec<_> = meant.map(|port| port.interface.clone()).collect();
                    match side {
                        // The map of ports has the addresses of that adapter only.
                        Side::Mapped => {}
                        _ if links.is_empty() => return None,
                        Side::In => return None,
                        // On a switch the only device port is the one meant.
                        Side::Out if self.instance.is_none() => {}
                        Side::Out => rest.push(Match::any(OIF, links)),
                        Side::Bridged => rest.push(Match::any(nft::field::IIF, links)),
                    }
                }
            }
        }
        let by_protocol = match (protocols, ports.is_empty()) {
            (Some(Protocol::Icmp), false) => return None,
            (Some(wanted), _) => vec![Match::is(PROTOCOL, protocol(wanted))],
            (None, true) => Vec::new(),
            (None, false) => vec![Match::any(
                PROTOCOL,
                [nft::Protocol::TCP, nft::Protocol::UDP],
            )],
        };
        Some([by_protocol, ports, rest].concat())
    }

    fn is_elsewhere(&self, net: Ipv4Net) -> bool {
        self.subnet
            .is_some_and(|subnet| !subnet.contains(&net) && !net.contains(&subnet))
    }

    fn by_host(&self, host: &str, side: Side) -> Option<Match> {
        let instance = self.instance.filter(|_| is_dns_name(host))?;
        let set = name(host_set(instance, host)).ok()?;
        Some(match side {
            Side::Out => Match::within(Key::of(IP4_TARGET), &set),
            Side::In | Side::Mapped | Side::Bridged => Match::within(Key::of(IP4_SOURCE), &set),
        })
    }
}

/// Whether any rule of the interface limits. The limit of one guest of an instance counts for what others send it, so the
/// marks of all of them may say so.
fn limits(vif: &Vif) -> bool {
    let mut entries = vif.wanted.acls.iter();
    entries.any(|entry| matches!(entry.action, AclAction::Limit { .. }))
}

/// What happens to the packets of an entry on one side; `mark` makes the connection's mark of the rule's bits. Whoever
/// returns from the chain passes.
fn acted(
    entry: &AclRule,
    side: Side,
    counter: &Name,
    mark: impl Fn(u32) -> MarkValue,
    start: impl Fn() -> Rule,
) -> Vec<Rule> {
    let passes = |rule: Rule, bits: u32| {
        let rule = rule.count(counter);
        let rule = match side {
            Side::Bridged => rule,
            // The receiver's rule takes the place of the sender's.
            Side::Out | Side::In | Side::Mapped => {
                rule.with(Statement::Mark(Mark::Connection, mark(bits)))
            }
        };
        rule.then(Verdict::Return)
    };
    let id = entry.id & RULE_MASK;
    match (&entry.action, side) {
        (AclAction::Allow, Side::Out | Side::In | Side::Bridged)
        | (AclAction::PortMap { .. }, Side::Mapped) => vec![passes(start(), id)],
        (AclAction::Drop, _) => vec![start().count(counter).then(Verdict::Drop)],
        (AclAction::Limit { rate, unit, burst }, Side::Out | Side::In | Side::Bridged) => {
            let rate = match unit {
                RateUnit::Second => Rate::Packets(*rate),
                RateUnit::Minute => Rate::PacketsPerMinute(*rate),
                RateUnit::Hour => Rate::PacketsPerHour(*rate),
            };
            let limit = Limit {
                rate,
                burst: (*burst).max(1),
                over: true,
            };
            let over = start().when(Match::limit(limit)).count(counter);
            vec![over.then(Verdict::Drop), passes(start(), id | LIMITED)]
        }
        // A port map opens that port and nothing else; nothing else opens a mapped port.
        (AclAction::PortMap { .. }, Side::Out | Side::In | Side::Bridged)
        | (AclAction::Allow | AclAction::Limit { .. }, Side::Mapped) => Vec::new(),
    }
}
