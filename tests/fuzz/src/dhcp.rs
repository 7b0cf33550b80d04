//! Frames of DHCP servers, honest or not. What is granted can be used: an address that a host can
//! have, in a network that is one, through gateways that are neighbours and not ourselves, for a time
//! that does not keep the device busy with asking.

use std::net::{IpAddr, Ipv4Addr};

use nim::dhcp::{
    Ask, Grant, Query, QueryKind, Reply,
    exchange::{Effect, Event, Exchange, Outcome},
    frame,
    message::{Asker, decode, encode},
};

use crate::input;

const ASKER: Asker = Asker {
    mac: [2, 0, 0, 0, 0, 7],
    xid: 0x0102_0304,
};
/// Longest message that comes in one frame.
const LONGEST: usize = 2048;

/// Takes each part as a frame and as what is in one, and carries an exchange on with the answers.
pub fn check(bytes: &[u8]) {
    let mut replies = Vec::new();
    for part in bytes.split(|byte| *byte == input::SEPARATOR) {
        let part = &part[..part.len().min(LONGEST)];
        let carried = frame::payload(part).unwrap_or_default();
        assert!(carried.len() <= part.len());
        replies.extend([part, carried].iter().filter_map(|m| decode(ASKER, m)));
    }
    // A separator may be a byte of a message.
    replies.extend(decode(ASKER, bytes));
    for reply in &replies {
        match reply {
            Reply::Offer(grant) => usable(grant, false),
            Reply::Ack(grant) => usable(grant, true),
            Reply::Nak => {}
        }
    }
    let (address, server) = (Ipv4Addr::new(10, 1, 0, 77), Ipv4Addr::new(10, 1, 0, 1));
    for ask in [
        Ask::Discover,
        Ask::Confirm { address },
        Ask::Renew { address, server },
        Ask::Rebind { address },
    ] {
        exchange(&ask, &replies);
    }
}

fn is_neighbour(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            !ip.is_loopback()
                && !ip.is_multicast()
                && !ip.is_broadcast()
                && ip.octets()[0] != 0
                && ip.octets()[0] < 240
        }
        IpAddr::V6(_) => false,
    }
}

fn usable(grant: &Grant, is_final: bool) {
    let own = grant.address.addr();
    assert!(is_neighbour(own.into()), "address: {grant:?}");
    assert!(is_neighbour(grant.server.into()), "server: {grant:?}");
    let prefix = grant.address.prefix_len();
    assert!((8..=32).contains(&prefix), "network: {grant:?}");
    if prefix <= 30 {
        assert_ne!(own, grant.address.network(), "the network: {grant:?}");
        assert_ne!(own, grant.address.broadcast(), "everybody: {grant:?}");
    }
    for gateway in &grant.gateways {
        assert!(is_neighbour(*gateway), "gateway: {grant:?}");
        assert_ne!(*gateway, IpAddr::V4(own), "our own gateway: {grant:?}");
    }
    for server in &grant.dns_servers {
        assert!(is_neighbour(*server), "DNS server: {grant:?}");
    }
    assert!(grant.domain_name.len() <= 253 && grant.domain_name.is_ascii());
    assert!(grant.mtu.is_none_or(|mtu| mtu >= 576), "mtu: {grant:?}");
    assert!(grant.renew_seconds <= grant.rebind_seconds, "{grant:?}");
    assert!(grant.rebind_seconds <= grant.lease_seconds, "{grant:?}");
    if is_final {
        assert!(grant.renew_seconds > 0, "asked again at once: {grant:?}");
    }
}

/// The answers in order, each followed by silence: it ends, and grants only what was granted.
fn exchange(ask: &Ask, replies: &[Reply]) {
    let (mut exchange, mut effects) = Exchange::start(ask);
    let mut events: Vec<Event> = replies.iter().cloned().map(Event::Reply).collect();
    events.extend(std::iter::repeat_n(Event::Timeout, 40));
    let mut end = None;
    for event in events {
        for effect in effects {
            match effect {
                Effect::Send(query) => question(&query),
                Effect::Wait(wait) => assert!(wait.as_secs() < 10),
                Effect::End(outcome) => {
                    assert!(end.is_none(), "it ends twice");
                    end = Some(outcome);
                }
            }
        }
        (exchange, effects) = exchange.step(event);
    }
    match end {
        Some(Outcome::Granted(grant)) => {
            let granted = replies.iter().any(|r| *r == Reply::Ack(grant.clone()));
            assert!(granted, "nobody gave {grant:?}");
        }
        Some(Outcome::Refused) => assert!(replies.contains(&Reply::Nak)),
        Some(Outcome::Silent { .. }) => {}
        None => panic!("{ask:?} never ends"),
    }
}

/// Questions are not answers.
fn question(query: &Query) {
    let bytes = encode(ASKER, query, 3);
    assert!(bytes.len() >= 300 && decode(ASKER, &bytes).is_none());
    match query.kind {
        QueryKind::Discover
        | QueryKind::Select { .. }
        | QueryKind::Confirm { .. }
        | QueryKind::Extend { .. } => {}
    }
}

/// A message of a server.
fn answer(address: [u8; 4], options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 240];
    bytes[..4].copy_from_slice(&[2, 1, 6, 0]);
    bytes[4..8].copy_from_slice(&ASKER.xid.to_be_bytes());
    bytes[16..20].copy_from_slice(&address);
    bytes[28..34].copy_from_slice(&ASKER.mac);
    bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
    bytes.extend_from_slice(options);
    bytes.push(255);
    bytes
}

/// Offers, grants and refusals: bare, in frames, one after the other.
pub fn seeds() -> Vec<Vec<u8>> {
    let lease = |seconds: u32| [&[51, 4][..], &seconds.to_be_bytes()].concat();
    let from = [54, 4, 10, 1, 0, 1];
    let all = [
        &from[..],
        &lease(120),
        &[1, 4, 255, 255, 255, 0, 3, 8, 10, 1, 0, 1, 10, 1, 0, 2],
        &[6, 8, 10, 1, 0, 53, 9, 9, 9, 9, 15, 7],
        b"example",
        &[26, 2, 5, 180, 42, 4, 10, 1, 0, 1],
        &[58, 4, 0, 0, 0, 60, 59, 4, 0, 0, 0, 105],
    ]
    .concat();
    let kind = |kind: u8, options: &[u8]| [&[53, 1, kind][..], options].concat();
    let ours = [10, 1, 0, 77];
    let ack = answer(ours, &kind(5, &all));
    let offer = answer(ours, &kind(2, &all));
    let nak = answer([0; 4], &kind(6, &from));
    let routes = [121, 14, 32, 10, 1, 0, 1, 0, 0, 0, 0, 0, 10, 1, 0, 1];
    let everything = [1, 4, 0, 0, 0, 0];
    let short = [&from[..], &lease(1)].concat();
    let mut framed = frame::to_everybody([2, 0, 0, 0, 0, 1], Ipv4Addr::new(10, 1, 0, 1), &ack);
    framed[36..38].copy_from_slice(&frame::CLIENT_PORT.to_be_bytes());
    vec![
        input::join(&[&offer, &ack]),
        input::join(&[&offer, &nak, &offer, &ack]),
        answer(ours, &kind(5, &[&all[..], &routes].concat())),
        answer(
            ours,
            &kind(5, &[&from[..], &lease(9), &everything].concat()),
        ),
        answer(ours, &kind(5, &short)),
        answer([127, 0, 0, 1], &kind(5, &all)),
        answer([10, 1, 0, 255], &kind(5, &all)),
        framed,
        ack,
        nak,
    ]
}
