//! Tables that several tests use.

use nft::field::{
    ARP_SOURCE, CONN_MARK, ETHER_SOURCE, ETHER_TYPE, ICMP_TYPE, ICMP6_TYPE, IIF, IP4_SOURCE,
    IP4_TARGET, IP6_TARGET, MARK, OIF, PORT_TARGET, PROTOCOL, TCP_SOURCE, TCP_TARGET, UDP_TARGET,
};
use nft::{
    Base, Chain, ConnState, End, EtherType, Family, Hook, Interface, Key, Limit, LocalAddress, Log,
    Map, Mark, MarkValue, Match, Name, Net4, Policy, Ports, Protocol, Rate, Reject, Rule, Set,
    Statement, Table, Tag, Verdict, element,
};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn interface(text: &str) -> Interface {
    Interface::new(text).unwrap()
}

pub(crate) fn rule(tag: &str) -> Rule {
    Rule::new(Tag::new(tag).unwrap())
}

pub(crate) fn base(hook: Hook, priority: i32, policy: Policy) -> Base {
    let nat = false;
    Base {
        nat,
        hook,
        priority,
        policy,
    }
}

pub(crate) fn nat(hook: Hook, priority: i32) -> Base {
    Base {
        nat: true,
        ..base(hook, priority, Policy::Accept)
    }
}

fn known() -> Match {
    Match::state([ConnState::Related, ConnState::Established])
}

/// A number of application interfaces behind one bridge, with a port map, default deny, a host
/// set that dnsmasq fills, and a counter for each.
pub(crate) fn applications(count: u8) -> Table {
    let address = |n: u8| Ipv4Addr::new(10, 11, 0, n + 1);
    let hosts = |n: u8| name(&format!("hosts_{n}"));
    let out = |n: u8| name(&format!("out_{n}"));
    let all = || 1..=count;

    let mut table = Table::new(Family::Inet, name("eve_apps"))
        .counter(&name("c_denied"))
        .map(Map::verdicts(
            &name("m_out"),
            Key::of(MARK),
            all().map(|n| (element![u32::from(n)], Verdict::Goto(out(n)))),
        ))
        .map(Map::verdicts(
            &name("m_in"),
            Key::of(IP4_TARGET).and(TCP_TARGET),
            all().map(|n| (element![address(n), 80_u16], Verdict::Accept)),
        ))
        .map(Map::targets4(
            &name("m_ports"),
            Key::of(IIF).and(PROTOCOL).and(PORT_TARGET),
            all().map(|n| {
                let outside = 8000 + u16::from(n);
                (
                    element![interface("eth0"), Protocol::TCP, outside],
                    (address(n), 80),
                )
            }),
        ))
        .chain(
            Chain::base(&name("c_nat_pre"), nat(Hook::Prerouting, -100)).rule(
                rule("port maps").then(End::Dnat4By(
                    Key::of(IIF).and(PROTOCOL).and(PORT_TARGET),
                    name("m_ports"),
                )),
            ),
        )
        .chain(
            Chain::base(&name("c_nat_post"), nat(Hook::Postrouting, 100)).rule(
                rule("applications go out under our address")
                    .when(Match::is(OIF, interface("eth0")))
                    .when(Match::is(
                        IP4_SOURCE,
                        "10.11.0.0/24".parse::<ipnet::Ipv4Net>().unwrap(),
                    ))
                    .then(End::Masquerade),
            ),
        )
        .chain(
            Chain::base(&name("c_forward"), base(Hook::Forward, 0, Policy::Drop)).rules([
                rule("known connections")
                    .when(known())
                    .then(Verdict::Accept),
                rule("from applications")
                    .when(Match::is(IIF, interface("bn1")))
                    .then(End::VerdictBy(Key::of(MARK), name("m_out"))),
                rule("to applications")
                    .when(Match::is(OIF, interface("bn1")))
                    .then(End::VerdictBy(
                        Key::of(IP4_TARGET).and(TCP_TARGET),
                        name("m_in"),
                    )),
                rule("denied")
                    .count(&name("c_denied"))
                    .with(Statement::Log(Log {
                        group: 5,
                        prefix: Tag::new("denied").unwrap(),
                    })),
            ]),
        );
    for n in all() {
        let counter = name(&format!("c_out_{n}"));
        table = table
            .counter(&counter)
            .set(Set::kept(
                &hosts(n),
                Key::of(IP4_TARGET),
                Some(Duration::from_secs(3600)),
            ))
            .chain(
                Chain::regular(&out(n)).rules([
                    rule("ace 1: a host by name")
                        .when(Match::within(Key::of(IP4_TARGET), &hosts(n)))
                        .count(&counter)
                        .with(Statement::Mark(Mark::Connection, MarkValue::Is(n.into())))
                        .then(Verdict::Accept),
                    rule("ace 2: a network")
                        .when(Match::is(
                            IP4_TARGET,
                            "198.51.100.0/24".parse::<ipnet::Ipv4Net>().unwrap(),
                        ))
                        .when(Match::is(TCP_TARGET, Ports::range(80, 90)))
                        .count(&counter)
                        .then(Verdict::Accept),
                ]),
            );
    }
    table
}

/// What keeps applications from pretending to be somebody else, in the bridge's own hooks.
pub(crate) fn spoofing(count: u8) -> Table {
    let vif = |n: u8| interface(&format!("vif{n}"));
    let mac = |n: u8| [2, 0x16, 0x3e, 0, 1, n];
    let address = |n: u8| Ipv4Addr::new(10, 11, 0, n + 1);
    let all = || 1..=count;
    let ports = Match::within(Key::of(IIF), &name("s_vifs"));
    Table::new(Family::Bridge, name("eve_apps"))
        .counter(&name("c_spoofed"))
        .set(Set::fixed(
            &name("s_vifs"),
            Key::of(IIF),
            all().map(|n| element![vif(n)]),
        ))
        .set(Set::fixed(
            &name("s_macs"),
            Key::of(IIF).and(ETHER_SOURCE),
            all().map(|n| element![vif(n), mac(n)]),
        ))
        .set(Set::fixed(
            &name("s_addresses"),
            Key::of(IIF).and(IP4_SOURCE),
            all().flat_map(|n| {
                [
                    element![vif(n), address(n)],
                    element![vif(n), Ipv4Addr::UNSPECIFIED],
                ]
            }),
        ))
        .map(Map::marks(
            &name("m_marks"),
            Key::of(IIF),
            all().map(|n| (element![vif(n)], u32::from(n))),
        ))
        .chain(
            Chain::base(&name("c_pre"), base(Hook::Prerouting, -300, Policy::Accept)).rules([
                rule("mac")
                    .when(ports.clone())
                    .when(Match::not_within(
                        Key::of(IIF).and(ETHER_SOURCE),
                        &name("s_macs"),
                    ))
                    .count(&name("c_spoofed"))
                    .then(Verdict::Drop),
                rule("arp")
                    .when(ports.clone())
                    .when(Match::not_within(
                        Key::of(IIF).and(ARP_SOURCE),
                        &name("s_addresses"),
                    ))
                    .count(&name("c_spoofed"))
                    .then(Verdict::Drop),
                rule("ip")
                    .when(ports)
                    .when(Match::not_within(
                        Key::of(IIF).and(IP4_SOURCE),
                        &name("s_addresses"),
                    ))
                    .count(&name("c_spoofed"))
                    .then(Verdict::Drop),
                rule("whose packet").with(Statement::Mark(
                    Mark::Packet,
                    MarkValue::By(Key::of(IIF), name("m_marks")),
                )),
            ]),
        )
}

/// Every kind of match, statement and end.
pub(crate) fn everything() -> Table {
    let target6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
    let limit = |rate, burst, over| Match::limit(Limit { rate, burst, over });
    Table::new(Family::Inet, name("every_thing"))
        .counter(&name("c_all"))
        .set(Set::fixed(
            &name("s_nets"),
            Key::of(IP4_TARGET),
            [
                element!["10.0.0.0/8".parse::<ipnet::Ipv4Net>().unwrap()],
                element![Ipv4Addr::new(10, 1, 2, 3)],
                element![Net4::range([192, 0, 2, 9].into(), [192, 0, 2, 30].into())],
            ],
        ))
        .set(Set::fixed(
            &name("s_services"),
            Key::of(IP6_TARGET).and(PORT_TARGET),
            [element![
                "2001:db8::/32".parse::<ipnet::Ipv6Net>().unwrap(),
                Ports::range(1, 1023)
            ]],
        ))
        .set(Set::kept(&name("s_kept"), Key::of(IP6_TARGET), None))
        .set(Set::fixed(&name("s_empty"), Key::of(MARK), []))
        .map(Map::targets6(
            &name("m_ports6"),
            Key::of(TCP_TARGET),
            [(element![Ports::range(8000, 8010)], (target6, 80))],
        ))
        .chain(Chain::regular(&name("to_jump")))
        .chain(
            Chain::base(&name("to_match"), base(Hook::Input, -5, Policy::Accept)).rules([
                rule("nothing at all"),
                rule("values")
                    .when(Match::is(IIF, interface("eth0.100")))
                    .when(Match::is_not(OIF, interface("lo")))
                    .when(Match::any(MARK, [3, 1, 2, 3]))
                    .when(Match::none(
                        TCP_SOURCE,
                        [Ports::from(22), Ports::range(30, 40)],
                    )),
                rule("protocols").when(Match::any(
                    PROTOCOL,
                    [
                        Protocol::ICMP,
                        Protocol::TCP,
                        Protocol::UDP,
                        Protocol::ICMP6,
                        Protocol::SCTP,
                        Protocol(250),
                    ],
                )),
                rule("ether type").when(Match::is(ETHER_TYPE, EtherType::Ip6)),
                rule("bits").when(Match::bits(CONN_MARK, 0xff00, 0x1200)),
                rule("echo").when(Match::is(ICMP_TYPE, 8_u8)),
                rule("echo 6").when(Match::any(ICMP6_TYPE, [128, 133, 134])),
                rule("connections")
                    .when(Match::state([ConnState::New, ConnState::Invalid]))
                    .when(Match::translated())
                    .when(Match::reply()),
                rule("original").when(Match::original()),
                rule("own").when(Match::target(LocalAddress::Own)),
                rule("all hosts").when(Match::target(LocalAddress::Broadcast)),
                rule("group").when(Match::target(LocalAddress::Multicast)),
                rule("within").when(limit(Rate::Packets(20), 5, false)),
                rule("over").when(limit(Rate::Bytes(125_000), 250_000, true)),
                rule("services").when(Match::within(
                    Key::of(IP6_TARGET).and(PORT_TARGET),
                    &name("s_services"),
                )),
                rule("not there").when(Match::not_within(Key::of(IP4_SOURCE), &name("s_nets"))),
                rule("kept").when(Match::within(Key::of(IP6_TARGET), &name("s_kept"))),
                rule("empty").when(Match::within(Key::of(MARK), &name("s_empty"))),
            ]),
        )
        .chain(
            Chain::base(&name("to_act"), base(Hook::Forward, 5, Policy::Drop)).rules([
                rule("count").count(&name("c_all")),
                rule("set").with(Statement::Mark(Mark::Packet, MarkValue::Is(0xabcd))),
                rule("or").with(Statement::Mark(Mark::Packet, MarkValue::Or(0x10000))),
                rule("keep and or").with(Statement::Mark(
                    Mark::Connection,
                    MarkValue::KeepOr(0xff00_0000, 0x5),
                )),
                rule("save").with(Statement::Mark(
                    Mark::Connection,
                    MarkValue::From(Mark::Packet, u32::MAX),
                )),
                rule("restore").with(Statement::Mark(
                    Mark::Packet,
                    MarkValue::From(Mark::Connection, 0xffff),
                )),
                rule("jump").then(Verdict::Jump(name("to_jump"))),
                rule("reset")
                    .when(Match::is(PROTOCOL, Protocol::TCP))
                    .then(End::Reject(Reject::TcpReset)),
                rule("unreachable")
                    .when(Match::is(UDP_TARGET, 53))
                    .then(End::Reject(Reject::PortUnreachable)),
                rule("back")
                    .when(Match::is(MARK, 7_u32))
                    .then(Verdict::Return),
                rule("prohibited").then(End::Reject(Reject::Prohibited)),
            ]),
        )
        .chain(
            Chain::base(&name("to_us"), nat(Hook::Prerouting, -100)).rules([
                rule("redirect")
                    .when(Match::is(TCP_TARGET, 80))
                    .then(End::Redirect(8080)),
                rule("host")
                    .when(Match::is(IP4_TARGET, Ipv4Addr::new(169, 254, 169, 254)))
                    .then(End::Dnat(Ipv4Addr::new(10, 11, 0, 1).into(), None)),
                rule("port")
                    .when(Match::is(TCP_TARGET, 81))
                    .then(End::Dnat(Ipv4Addr::new(10, 11, 0, 1).into(), Some(80))),
                rule("host 6")
                    .when(Match::is(IP6_TARGET, target6))
                    .then(End::Dnat(target6.into(), None)),
                rule("port 6")
                    .when(Match::is(TCP_TARGET, 82))
                    .then(End::Dnat(target6.into(), Some(80))),
                rule("map 6").then(End::Dnat6By(Key::of(TCP_TARGET), name("m_ports6"))),
            ]),
        )
        .chain(
            Chain::base(&name("from_us"), nat(Hook::Postrouting, 100)).rules([
                rule("source")
                    .when(Match::is(OIF, interface("eth1")))
                    .then(End::Snat(Ipv4Addr::new(192, 0, 2, 1).into())),
                rule("source 6")
                    .when(Match::is(OIF, interface("eth1")))
                    .then(End::Snat(target6.into())),
            ]),
        )
}
