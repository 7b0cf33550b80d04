//! The table of frames: who a frame is from, and on a switch, whether its receiver takes it.

use nft::{
    BadText, Chain, EtherType, Family, Hook, Interface, Key, Map, Mark, MarkValue, Match, Set,
    Statement, Table, Verdict, element,
    field::{ARP_SOURCE, ARP_SOURCE_MAC, ETHER_SOURCE, ETHER_TYPE, IIF, IP4_SOURCE, MARK, OIF},
};
use std::net::Ipv4Addr;

use super::{PASSED, TABLE, View, base, entry, name, rule, within_one};

pub(super) fn table(view: &View<'_>) -> Result<Table, BadText> {
    let (vifs, macs, addressed, ips) = (
        name("s_vifs")?,
        name("s_macs")?,
        name("s_addressed")?,
        name("s_ips")?,
    );
    let (marks, receivers) = (name("m_marks")?, name("m_receivers")?);
    let spoofed = name("d_spoofed")?;

    let (mut all, mut with_ip, mut mac_of, mut ip_of) = (vec![], vec![], vec![], vec![]);
    let (mut mark_of, mut receiver_of) = (vec![], vec![]);
    let mut table = Table::new(Family::Bridge, name(TABLE)?).counter(&spoofed);
    let mut chains = Vec::new();
    for local in &view.locals {
        for (vif, ip) in &local.vifs {
            let link = Interface::new(vif.name.as_str())?;
            all.push(element![link.clone()]);
            with_ip.push(element![link.clone()]);
            mac_of.push(element![link.clone(), vif.mac.0]);
            // Who asks for an address, or whether it is free, has none yet.
            ip_of.push(element![link.clone(), Ipv4Addr::UNSPECIFIED]);
            ip_of.push(element![link.clone(), *ip]);
            mark_of.push((element![link], vif.mark()));
        }
    }
    for switch in &view.switches {
        for vif in &switch.vifs {
            let link = Interface::new(vif.name.as_str())?;
            all.push(element![link.clone()]);
            mac_of.push(element![link.clone(), vif.mac.0]);
            mark_of.push((element![link.clone()], vif.mark()));
            receiver_of.push((element![link], Verdict::Jump(entry::chain(vif, "in")?)));
            let entries = entry::Entries::of_switch(vif, switch)?;
            (table, chains) = entries.add_receiver_to(table, chains)?;
        }
    }
    table = table
        .set(Set::fixed(&vifs, Key::of(IIF), all))
        .set(Set::fixed(&macs, Key::of(IIF).and(ETHER_SOURCE), mac_of))
        .set(Set::fixed(&addressed, Key::of(IIF), with_ip))
        .set(Set::fixed(&ips, Key::of(IIF).and(IP4_SOURCE), ip_of))
        .map(Map::marks(&marks, Key::of(IIF), mark_of))
        .map(Map::verdicts(&receivers, Key::of(OIF), receiver_of));

    let drop = |tag: &str, when: &[Match]| {
        let start = when.iter().cloned().fold(rule(tag), nft::Rule::when);
        start.count(&spoofed).then(Verdict::Drop)
    };
    let carried = [EtherType::Ip, EtherType::Arp];
    let has_ip = || within_one(IIF, &addressed);
    let sender = Chain::base(&name("c_sender")?, base(Hook::Prerouting, -300)).rules([
        rule("not a guest")
            .when(Match::not_within(Key::of(IIF), &vifs))
            .then(Verdict::Accept),
        drop("neither IPv4 nor ARP", &[Match::none(ETHER_TYPE, carried)]),
        drop(
            "hardware address",
            &[Match::not_within(Key::of(IIF).and(ETHER_SOURCE), &macs)],
        ),
        drop(
            "hardware address in ARP",
            &[Match::not_within(Key::of(IIF).and(ARP_SOURCE_MAC), &macs)],
        ),
        drop(
            "address in ARP",
            &[
                has_ip(),
                Match::not_within(Key::of(IIF).and(ARP_SOURCE), &ips),
            ],
        ),
        drop(
            "address",
            &[
                has_ip(),
                Match::not_within(Key::of(IIF).and(IP4_SOURCE), &ips),
            ],
        ),
        rule("whose it is").with(Statement::Mark(
            Mark::Packet,
            MarkValue::By(Key::of(IIF), marks),
        )),
    ]);
    let receiver = Chain::base(&name("c_receiver")?, base(Hook::Forward, 10)).rules([
        rule("not to a guest")
            .when(Match::not_within(Key::of(OIF), &vifs))
            .then(Verdict::Accept),
        drop("neither IPv4 nor ARP", &[Match::none(ETHER_TYPE, carried)]),
        rule("ARP")
            .when(Match::is(ETHER_TYPE, EtherType::Arp))
            .then(Verdict::Accept),
        rule("part of a connection")
            .when(Match::bits(MARK, PASSED, PASSED))
            .then(Verdict::Accept),
        rule("rules of the receiver").then(nft::End::VerdictBy(Key::of(OIF), receivers)),
    ]);
    for chain in chains.into_iter().chain([sender, receiver]) {
        table = table.chain(chain);
    }
    Ok(table)
}
