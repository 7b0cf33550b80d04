//! Messages of the protocol as bytes (RFC 2131, options of RFC 2132, 3396 and 3442).
//!
//! What comes from the network is checked here: whatever is not a usable answer to our question
//! is `None`, and nothing in it can make this code fail.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::Ipv4Net;

use super::{Grant, Query, QueryKind, Reply};

const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Bytes before the options: the BOOTP header and the cookie.
const FIXED: usize = 240;
/// BOOTP servers expect at least so many bytes.
const SHORTEST: usize = 300;
/// Asks servers and relays to answer to everybody on the link.
const BROADCAST: u16 = 0x8000;
/// Smallest MTU that is taken from a server: what every IPv4 host must be able to receive.
const SMALLEST_MTU: u16 = 576;
/// Largest message that we can receive: an Ethernet frame without IP and UDP headers.
const LARGEST: u16 = 1472;
/// Largest network that is believed: everything between all addresses and a class A is a mistake, or an
/// attempt to draw all traffic to one port.
const SHORTEST_PREFIX: u8 = 8;
/// Shortest lease, in seconds: whatever a server says, the device is not busy with asking.
const SHORTEST_LEASE: u32 = 10;
/// By which EVE devices make themselves known.
const VENDOR_CLASS: &[u8] = b"LFEDGE-EVE";

mod option {
    pub(super) const MASK: u8 = 1;
    pub(super) const ROUTERS: u8 = 3;
    pub(super) const DNS: u8 = 6;
    pub(super) const DOMAIN: u8 = 15;
    pub(super) const MTU: u8 = 26;
    pub(super) const NTP: u8 = 42;
    pub(super) const ADDRESS: u8 = 50;
    pub(super) const LEASE: u8 = 51;
    pub(super) const OVERLOAD: u8 = 52;
    pub(super) const KIND: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const WANTED: u8 = 55;
    pub(super) const LARGEST: u8 = 57;
    pub(super) const RENEW: u8 = 58;
    pub(super) const REBIND: u8 = 59;
    pub(super) const VENDOR: u8 = 60;
    pub(super) const ROUTES: u8 = 121;
    pub(super) const END: u8 = 255;
}

mod kind {
    pub(super) const DISCOVER: u8 = 1;
    pub(super) const OFFER: u8 = 2;
    pub(super) const REQUEST: u8 = 3;
    pub(super) const ACK: u8 = 5;
    pub(super) const NAK: u8 = 6;
}

/// Who asks, and in which exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// MAC address of the port.
    pub mac: [u8; 6],
    /// Number of the exchange, random, by which its answers are known.
    pub xid: u32,
}

/// The bytes of a question. `seconds` is how long the exchange has lasted.
pub fn encode(asker: Asker, query: &Query, seconds: u16) -> Vec<u8> {
    let mut bytes = vec![0; FIXED];
    bytes[..4].copy_from_slice(&[1, 1, 6, 0]);
    bytes[4..8].copy_from_slice(&asker.xid.to_be_bytes());
    bytes[8..10].copy_from_slice(&seconds.to_be_bytes());
    if query.broadcast_answer {
        bytes[10..12].copy_from_slice(&BROADCAST.to_be_bytes());
    }
    bytes[28..34].copy_from_slice(&asker.mac);
    bytes[236..240].copy_from_slice(&COOKIE);
    let kind = match query.kind {
        QueryKind::Discover => kind::DISCOVER,
        QueryKind::Select { .. } | QueryKind::Confirm { .. } | QueryKind::Extend { .. } => {
            kind::REQUEST
        }
    };
    put(&mut bytes, option::KIND, &[kind]);
    match query.kind {
        QueryKind::Discover => {}
        QueryKind::Select { address, server } => {
            put(&mut bytes, option::ADDRESS, &address.octets());
            put(&mut bytes, option::SERVER, &server.octets());
        }
        QueryKind::Confirm { address } => put(&mut bytes, option::ADDRESS, &address.octets()),
        QueryKind::Extend { address, .. } => bytes[12..16].copy_from_slice(&address.octets()),
    }
    put(&mut bytes, option::LARGEST, &LARGEST.to_be_bytes());
    put(&mut bytes, option::VENDOR, VENDOR_CLASS);
    let wanted = [
        option::ROUTES,
        option::MASK,
        option::ROUTERS,
        option::DNS,
        option::DOMAIN,
        option::MTU,
        option::NTP,
        option::LEASE,
        option::RENEW,
        option::REBIND,
    ];
    put(&mut bytes, option::WANTED, &wanted);
    bytes.push(option::END);
    bytes.resize(bytes.len().max(SHORTEST), 0);
    bytes
}

fn put(bytes: &mut Vec<u8>, option: u8, value: &[u8]) {
    // All of ours are short.
    bytes.push(option);
    bytes.push(u8::try_from(value.len()).unwrap_or(0));
    bytes.extend_from_slice(value);
}

/// An answer to the asker's question; anything else is `None`.
pub fn decode(asker: Asker, bytes: &[u8]) -> Option<Reply> {
    let header = bytes.get(..FIXED)?;
    let ours = header[0] == 2
        && header[1] == 1
        && header[4..8] == asker.xid.to_be_bytes()
        && header[28..34] == asker.mac
        && header[236..240] == COOKIE;
    if !ours {
        return None;
    }
    let options = options(header, &bytes[FIXED..]);
    match *options.get(&option::KIND)?.first()? {
        kind::OFFER => grant(header, &options, false).map(Reply::Offer),
        kind::ACK => grant(header, &options, true).map(Reply::Ack),
        kind::NAK => Some(Reply::Nak),
        _ => None,
    }
}

type Options = BTreeMap<u8, Vec<u8>>;

/// Options, also those in the fields of the header that may be lent to them. One that comes in
/// pieces is put together.
fn options(header: &[u8], area: &[u8]) -> Options {
    let mut options = Options::new();
    collect(area, &mut options);
    let lent = options
        .get(&option::OVERLOAD)
        .and_then(|value| value.first())
        .copied()
        .unwrap_or(0);
    if lent & 1 != 0 {
        collect(&header[108..236], &mut options);
    }
    if lent & 2 != 0 {
        collect(&header[44..108], &mut options);
    }
    options
}

fn collect(mut area: &[u8], options: &mut Options) {
    loop {
        area = match *area {
            [0, ref rest @ ..] => rest,
            [] | [_] | [option::END, ..] => return,
            [name, length, ref rest @ ..] => match rest.split_at_checked(length.into()) {
                Some((value, rest)) => {
                    options.entry(name).or_default().extend_from_slice(value);
                    rest
                }
                None => return,
            },
        };
    }
}

fn grant(header: &[u8], options: &Options, is_final: bool) -> Option<Grant> {
    let ip = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&header[at..at + 4]).unwrap_or([0; 4]));
    let number = |name: u8| -> Option<u32> {
        let bytes = <[u8; 4]>::try_from(options.get(&name)?.as_slice()).ok()?;
        Some(u32::from_be_bytes(bytes))
    };
    let ips = |name: u8| -> Vec<IpAddr> {
        let bytes = options.get(&name).map(Vec::as_slice).unwrap_or_default();
        let all = bytes.as_chunks::<4>().0.iter().map(|b| Ipv4Addr::from(*b));
        all.filter(|ip| is_host(*ip)).map(IpAddr::V4).collect()
    };
    let address = Some(ip(16)).filter(|ip| is_host(*ip))?;
    let mask = match options.get(&option::MASK) {
        Some(bytes) => Ipv4Addr::from(<[u8; 4]>::try_from(bytes.as_slice()).ok()?),
        None => natural_mask(address),
    };
    let network = Ipv4Net::with_netmask(address, mask).ok()?;
    if !is_hosts(network) {
        return None;
    }
    let server = number(option::SERVER).map(Ipv4Addr::from);
    let server = server.filter(|ip| is_host(*ip))?;
    let lease_seconds = match number(option::LEASE) {
        Some(0) | None if is_final => return None,
        Some(seconds) => seconds.max(SHORTEST_LEASE),
        None => 0,
    };
    let (renew_seconds, rebind_seconds) =
        timers(lease_seconds, number(option::RENEW), number(option::REBIND));
    // Where there are classless routes the routers do not count (RFC 3442).
    let mut gateways = match options.get(&option::ROUTES) {
        Some(routes) => default_gateways(routes),
        None => ips(option::ROUTERS),
    };
    gateways.retain(|gateway| *gateway != IpAddr::V4(address));
    let mtu = options
        .get(&option::MTU)
        .and_then(|bytes| <[u8; 2]>::try_from(bytes.as_slice()).ok())
        .map(u16::from_be_bytes)
        .filter(|mtu| *mtu >= SMALLEST_MTU);
    Some(Grant {
        address: network,
        gateways,
        dns_servers: ips(option::DNS),
        ntp_servers: ips(option::NTP).iter().map(IpAddr::to_string).collect(),
        domain_name: domain(options.get(&option::DOMAIN)),
        mtu,
        server,
        lease_seconds,
        renew_seconds,
        rebind_seconds,
    })
}

/// An address that another host can have: not of this network (0/8), of this host (127/8), of groups or
/// reserved (224/3).
fn is_host(ip: Ipv4Addr) -> bool {
    let first = ip.octets()[0];
    first != 0 && first < 224 && !ip.is_loopback()
}

/// Whether a host can have this address in its network: neither the network itself nor everybody in it.
fn is_hosts(address: Ipv4Net) -> bool {
    let is_between = ![address.network(), address.broadcast()].contains(&address.addr());
    address.prefix_len() >= SHORTEST_PREFIX && (is_between || address.prefix_len() > 30)
}

/// The mask of an address where the server gives none (RFC 950).
fn natural_mask(address: Ipv4Addr) -> Ipv4Addr {
    match address.octets()[0] {
        0..=127 => Ipv4Addr::new(255, 0, 0, 0),
        128..=191 => Ipv4Addr::new(255, 255, 0, 0),
        192..=255 => Ipv4Addr::new(255, 255, 255, 0),
    }
}

/// T1 and T2, in the protocol's order whatever the server says (RFC 2131, 4.4.5).
fn timers(lease: u32, renew: Option<u32>, rebind: Option<u32>) -> (u32, u32) {
    let rebind = rebind.filter(|t2| (1..lease).contains(t2));
    let rebind = rebind.unwrap_or(lease - lease / 8);
    let renew = renew.filter(|t1| (1..=rebind).contains(t1));
    (renew.unwrap_or((lease / 2).min(rebind)), rebind)
}

/// Gateways of the routes to everywhere, of a list of prefix length, as many bytes of the
/// destination as that needs, and gateway.
fn default_gateways(mut routes: &[u8]) -> Vec<IpAddr> {
    let mut gateways = Vec::new();
    while let [length, rest @ ..] = routes {
        let Some((_, rest)) = rest.split_at_checked(usize::from(length.div_ceil(8))) else {
            break;
        };
        let Some((gateway, rest)) = rest.split_first_chunk::<4>() else {
            break;
        };
        let gateway = Ipv4Addr::from(*gateway);
        if *length == 0 && is_host(gateway) {
            gateways.push(IpAddr::V4(gateway));
        }
        routes = rest;
    }
    gateways
}

/// A domain name, without anything that does not belong into one.
fn domain(bytes: Option<&Vec<u8>>) -> String {
    let text = String::from_utf8_lossy(bytes.map(Vec::as_slice).unwrap_or_default());
    let text = text.trim_matches(|c: char| c == '\0' || c == '.' || c.is_whitespace());
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if text.len() <= 253 && text.chars().all(fits) {
        text.to_owned()
    } else {
        String::new()
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
