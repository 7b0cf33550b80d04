//! The files of `/proc/net` as text. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{Place, Protocol};

/// A TCP socket that listens.
const LISTENS: &str = "0A";
/// One that is connected.
const ESTABLISHED: &str = "01";
/// A socket without a connection. A UDP socket that has a peer hears only that.
const OPEN: &str = "07";
/// The flag of unix sockets that accept connections.
const ACCEPTS: u32 = 1 << 16;
const DATAGRAM: &str = "0002";

/// The columns of a line that matter.
struct Line<'a> {
    local: SocketAddr,
    peer: SocketAddr,
    state: &'a str,
    inode: u64,
}

fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    text.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        Some(Line {
            local: address(fields.get(1)?)?,
            peer: address(fields.get(2)?)?,
            state: fields.get(3)?,
            inode: fields.get(9)?.parse().ok()?,
        })
    })
}

/// Sockets of `tcp`, `udp`, `raw` and those of IPv6 that accept, with their inodes.
pub fn inet(text: &str, protocol: Protocol) -> Vec<(Place, u64)> {
    let socket = |line: Line<'_>| {
        let accepts = match protocol {
            Protocol::Tcp | Protocol::Tcp6 => line.state == LISTENS,
            _ => line.state == OPEN && line.peer.port() == 0,
        };
        let place = match protocol {
            // Where others have a port, raw sockets have the number of their protocol.
            Protocol::Raw | Protocol::Raw6 => {
                let number = u8::try_from(line.local.port()).unwrap_or(u8::MAX);
                Place::Raw(line.local.ip(), number)
            }
            _ => Place::Port(line.local),
        };
        accepts.then_some((place, line.inode))
    };
    lines(text).filter_map(socket).collect()
}

/// Both ends of the connections of `tcp` or `tcp6`. Addresses of IPv4 in those of IPv6 are given as what they are.
pub(crate) fn established(text: &str) -> Vec<(SocketAddr, SocketAddr)> {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    lines(text)
        .filter(|line| line.state == ESTABLISHED)
        .map(|line| (plain(line.local), plain(line.peer)))
        .collect()
}

/// Sockets of `packet`: all of them hear.
pub fn packet(text: &str) -> Vec<(Place, u64)> {
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let kind = u16::from_str_radix(fields.get(3)?, 16).ok()?;
        Some((Place::Frames(kind), fields.get(8)?.parse().ok()?))
    };
    text.lines().skip(1).filter_map(socket).collect()
}

/// Sockets of `unix` that accept connections, or datagrams under a name.
pub fn unix(text: &str) -> Vec<(Place, u64)> {
    let socket = |line: &str| {
        let mut rest = line;
        let mut next = || {
            let trimmed = rest.trim_start();
            let (field, more) = trimmed.split_once(' ').unwrap_or((trimmed, ""));
            rest = more;
            field
        };
        // Number, references, protocol, flags, type, state, inode.
        let (_, _, _, flags, kind, _, inode) =
            (next(), next(), next(), next(), next(), next(), next());
        // A path may have blanks.
        let path = rest.trim_start();
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let accepts = flags & ACCEPTS != 0 || (kind == DATAGRAM && !path.is_empty());
        let inode = inode.parse().ok()?;
        accepts.then(|| (Place::Path(path.to_owned()), inode))
    };
    text.lines().skip(1).filter_map(socket).collect()
}

/// `0100007F:0035`: words in the machine's order.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Vec<u32> = (0..ip.len() / 8)
        .map(|index| u32::from_str_radix(ip.get(index * 8..index * 8 + 8)?, 16).ok())
        .collect::<Option<_>>()?;
    let ip = match words.as_slice() {
        [word] => IpAddr::V4(Ipv4Addr::from(word.to_ne_bytes())),
        [a, b, c, d] => {
            let mut bytes = [0; 16];
            for (chunk, word) in bytes.chunks_exact_mut(4).zip([a, b, c, d]) {
                chunk.copy_from_slice(&word.to_ne_bytes());
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn port(text: &str) -> Place {
        Place::Port(text.parse().unwrap())
    }

    #[test]
    fn internet_sockets_that_accept_are_found() {
        let tcp = "  sl  local_address rem_address   st ...\n   0: 0100007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n   1: 0100007F:0036 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n";
        assert_eq!(inet(tcp, Protocol::Tcp), [(port("127.0.0.1:53"), 4711)]);
        let both = (
            "127.0.0.1:54".parse().unwrap(),
            "127.0.0.1:39321".parse().unwrap(),
        );
        assert_eq!(established(tcp), [both]);
        let udp6 = "head\n   0: 00000000000000000000000000000000:0043 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 9 2\n   1: 00000000000000000000000000000000:0044 00000000000000000000000001000000:0007 07 00000000:00000000 00:00000000 00000000     0        0 10 2\n";
        assert_eq!(inet(udp6, Protocol::Udp6), [(port("[::]:67"), 9)]);
        let raw = "head\n   1: 00000000:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 12 2 0000 0\n";
        let icmp = Place::Raw("0.0.0.0".parse().unwrap(), 1);
        assert_eq!(inet(raw, Protocol::Raw), [(icmp, 12)]);
    }

    #[test]
    fn frames_and_paths_are_found() {
        let frames = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n00000000b0b3f2ab 3      3    0003   2     1 0      0      999\n";
        assert_eq!(packet(frames), [(Place::Frames(3), 999)]);
        let local = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 17 /run/a b.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 18 /run/a b.sock\n\
            0000000000000000: 00000002 00000000 00000000 0002 01 19 /run/notify\n\
            0000000000000000: 00000002 00000000 00000000 0002 01 20\n\
            0000000000000000: 00000002 00000000 00010000 0005 01 21 @name\n";
        let path = |text: &str| Place::Path(text.to_owned());
        assert_eq!(
            unix(local),
            [
                (path("/run/a b.sock"), 17),
                (path("/run/notify"), 19),
                (path("@name"), 21)
            ]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in any::<String>()) {
            let text = format!("head\n{text}");
            for protocol in Protocol::ALL {
                let _ = protocol.read(&text);
            }
            let _ = established(&text);
        }
    }
}
