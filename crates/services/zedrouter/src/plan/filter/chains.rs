//! The chains of the table of packets that are the same whatever guests there are.

use nft::{
    BadText, Chain, ConnState, End, Hook, Key, Mark, MarkValue, Match, Protocol, Statement,
    Verdict,
    field::{
        CONN_MARK, ICMP_TYPE, IIF, IP4_SOURCE, IP4_TARGET, MARK, OIF, PORT_TARGET, PROTOCOL,
        TCP_TARGET, UDP_TARGET,
    },
};

use super::{LIMITED, Names, PASSED, PORT_MASK, base, ip6, name, nat, rule, within_one};

/// All of them.
pub(super) fn all(names: &Names) -> Result<[Chain; 10], BadText> {
    Ok([
        bridged(names)?,
        marks(names)?,
        dnat(names)?,
        origins(names)?,
        input(names)?,
        guests(names),
        between(names),
        forward(names)?,
        output(names)?,
        snat(names)?,
    ])
}

/// Frames of switch instances on their way through br_netfilter: the sender's rules. Whether the
/// receiver's rules have to be asked is told to the table of frames by a mark.
fn bridged(names: &Names) -> Result<Chain, BadText> {
    let established = [ConnState::Established, ConnState::Related];
    let passed = Statement::Mark(Mark::Packet, MarkValue::Or(PASSED));
    Ok(
        Chain::base(&name("c_bridged")?, base(Hook::Forward, -10)).rules([
            rule("not a switch")
                .when(Match::not_within(Key::of(IIF), &names.switches))
                .then(Verdict::Accept),
            rule("established")
                .when(Match::state(established))
                .when(Match::bits(CONN_MARK, LIMITED, 0))
                .with(passed.clone())
                .then(Verdict::Accept),
            rule("answers of limited connections")
                .when(Match::state(established))
                .when(Match::reply())
                .with(passed)
                .then(Verdict::Accept),
            rule("rules of the sender").then(End::VerdictBy(Key::of(MARK), names.senders.clone())),
        ]),
    )
}

/// Before routing: only frames that were looked at, and answers by the port of the question.
fn marks(names: &Names) -> Result<Chain, BadText> {
    let by_port = MarkValue::From(Mark::Connection, PORT_MASK);
    Ok(
        Chain::base(&name("c_marks")?, base(Hook::Prerouting, -150)).rules([
            rule("frame was not checked")
                .when(within_one(IIF, &names.locals))
                .when(Match::is(MARK, 0_u32))
                .count(&names.strayed)
                .then(Verdict::Drop),
            rule("answers leave by the port of the question")
                .when(within_one(IIF, &names.locals))
                .with(Statement::Mark(Mark::Packet, by_port)),
        ]),
    )
}

fn dnat(names: &Names) -> Result<Chain, BadText> {
    let key = Key::of(IP4_TARGET).and(PROTOCOL).and(PORT_TARGET);
    Ok(
        Chain::base(&name("c_dnat")?, nat(Hook::Prerouting, -100)).rules([rule("port maps")
            .when(Match::any(PROTOCOL, [Protocol::TCP, Protocol::UDP]))
            .then(End::Dnat4By(key, names.maps.clone()))]),
    )
}

/// After translation: a mapped connection remembers the port by which it came.
fn origins(names: &Names) -> Result<Chain, BadText> {
    let by_port = MarkValue::By(Key::of(IIF), names.origins.clone());
    Ok(
        Chain::base(&name("c_origins")?, base(Hook::Prerouting, -90)).rules([rule(
            "came by this port",
        )
        .when(Match::translated())
        .when(Match::state([ConnState::New]))
        .with(Statement::Mark(Mark::Connection, by_port))]),
    )
}

fn input(names: &Names) -> Result<Chain, BadText> {
    Ok(
        Chain::base(&name("c_input")?, base(Hook::Input, 0)).rules([rule("from guests")
            .when(within_one(IIF, &names.bridges))
            .then(Verdict::Goto(names.chain_guests.clone()))]),
    )
}

/// What guests may ask of the device.
fn guests(names: &Names) -> Chain {
    let gateway = || Match::within(Key::of(IIF).and(IP4_TARGET), &names.gateways);
    Chain::regular(&names.chain_guests).rules([
        rule("no IPv6")
            .when(ip6())
            .count(&names.denied)
            .then(Verdict::Drop),
        rule("no service for switches")
            .when(within_one(IIF, &names.switches))
            .count(&names.denied)
            .then(Verdict::Drop),
        rule("established")
            .when(Match::state([ConnState::Established, ConnState::Related]))
            .then(Verdict::Accept),
        rule("DHCP")
            .when(Match::is(UDP_TARGET, 67_u16))
            .then(Verdict::Accept),
        rule("DNS")
            .when(Match::is(UDP_TARGET, 53_u16))
            .when(gateway())
            .then(Verdict::Accept),
        rule("DNS over TCP")
            .when(Match::is(TCP_TARGET, 53_u16))
            .when(gateway())
            .then(Verdict::Accept),
        rule("echo")
            .when(Match::is(ICMP_TYPE, 8))
            .when(gateway())
            .then(Verdict::Accept),
        rule("nothing else")
            .count(&names.denied)
            .then(Verdict::Drop),
    ])
}

/// From a guest to what is not a path of its instance: only through a port map.
fn between(names: &Names) -> Chain {
    Chain::regular(&names.chain_between).rules([
        rule("through a port map")
            .when(Match::translated())
            .then(Verdict::Return),
        rule("no path").count(&names.strayed).then(Verdict::Drop),
    ])
}

fn forward(names: &Names) -> Result<Chain, BadText> {
    let established = [ConnState::Established, ConnState::Related];
    let from_guests = || within_one(IIF, &names.locals);
    let to_guests = || within_one(OIF, &names.locals);
    let from_others = || Match::not_within(Key::of(IIF), &names.locals);
    let to_others = || Match::not_within(Key::of(OIF), &names.locals);
    let out = Key::of(IIF).and(IP4_SOURCE);
    let into = Key::of(OIF).and(IP4_TARGET);
    let path = Key::of(IIF).and(OIF);
    Ok(
        Chain::base(&name("c_forward")?, base(Hook::Forward, 0)).rules([
            rule("bridged, decided before")
                .when(within_one(IIF, &names.switches))
                .then(Verdict::Accept),
            rule("the device is no router")
                .when(within_one(IIF, &names.ports))
                .when(to_others())
                .count(&names.strayed)
                .then(Verdict::Drop),
            rule("not about guests")
                .when(from_others())
                .when(to_others())
                .then(Verdict::Accept),
            rule("no IPv6")
                .when(ip6())
                .count(&names.strayed)
                .then(Verdict::Drop),
            rule("established")
                .when(Match::state(established))
                .when(Match::bits(CONN_MARK, LIMITED, 0))
                .then(Verdict::Accept),
            rule("answers of limited connections")
                .when(Match::state(established))
                .when(Match::reply())
                .then(Verdict::Accept),
            rule("part of no connection")
                .when(Match::state([ConnState::Invalid]))
                .count(&names.strayed)
                .then(Verdict::Drop),
            rule("not from a known guest")
                .when(from_guests())
                .when(Match::not_within(out.clone(), &names.guests))
                .count(&names.strayed)
                .then(Verdict::Drop),
            rule("not to a known guest")
                .when(to_guests())
                .when(Match::not_within(into.clone(), &names.guests))
                .count(&names.strayed)
                .then(Verdict::Drop),
            rule("not on a path of the instance")
                .when(from_guests())
                .when(Match::not_within(path, &names.paths))
                .then(Verdict::Jump(names.chain_between.clone())),
            rule("from outside only through port maps")
                .when(to_guests())
                .when(from_others())
                .then(Verdict::Jump(names.chain_between.clone())),
            rule("rules of the sender").then(End::VerdictBy(out, names.out.clone())),
            rule("rules of the receiver").then(End::VerdictBy(into, names.into.clone())),
        ]),
    )
}

/// Guests talk to each other through the device, and shall not be told that there is a shorter way.
fn output(names: &Names) -> Result<Chain, BadText> {
    Ok(
        Chain::base(&name("c_output")?, base(Hook::Output, 0)).rules([rule(
            "no redirects to guests",
        )
        .when(Match::is(ICMP_TYPE, 5))
        .when(within_one(OIF, &names.locals))
        .then(Verdict::Drop)]),
    )
}

fn snat(names: &Names) -> Result<Chain, BadText> {
    let key = || Key::of(OIF).and(IP4_SOURCE);
    Ok(
        Chain::base(&name("c_snat")?, nat(Hook::Postrouting, 100)).rules([
            rule("a guest that uses its own instance's port map")
                .when(Match::translated())
                .when(Match::within(key(), &names.hairpin))
                .then(End::Masquerade),
            rule("guests behind the port's address")
                .when(Match::within(key(), &names.nat))
                .then(End::Masquerade),
        ]),
    )
}
