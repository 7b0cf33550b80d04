//! Which sockets of the device accept what others send, and why each of them does.
//!
//! [`listening`] reads them out of `/proc/net`, [`owners`] finds the processes that have them, and [`table`] is the
//! one list of who may listen where and why: `eve check` compares the two, `docs/security.md` prints it.
//!
//! `/proc/net` is read here and not by a crate: six files of columns, of which four have the same, are less than what a
//! crate for all of `/proc` brings along.
#![forbid(unsafe_code)]

mod read;
pub mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    net::{IpAddr, SocketAddr},
    path::Path,
};

pub use read::{inet, packet, unix};

/// What a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// TCP over IPv6.
    Tcp6,
    /// UDP.
    Udp,
    /// UDP over IPv6.
    Udp6,
    /// A protocol above IP.
    Raw,
    /// The same over IPv6.
    Raw6,
    /// Frames.
    Packet,
    /// Local.
    Unix,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Tcp,
        Self::Tcp6,
        Self::Udp,
        Self::Udp6,
        Self::Raw,
        Self::Raw6,
        Self::Packet,
        Self::Unix,
    ];

    /// The kernel's name, which is that of its file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tcp6 => "tcp6",
            Self::Udp => "udp",
            Self::Udp6 => "udp6",
            Self::Raw => "raw",
            Self::Raw6 => "raw6",
            Self::Packet => "packet",
            Self::Unix => "unix",
        }
    }

    fn read(self, text: &str) -> Vec<(Place, u64)> {
        match self {
            Self::Tcp | Self::Tcp6 | Self::Udp | Self::Udp6 | Self::Raw | Self::Raw6 => {
                inet(text, self)
            }
            Self::Packet => packet(text),
            Self::Unix => unix(text),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// Where a socket hears.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// An address and a port.
    Port(SocketAddr),
    /// A protocol above IP, by its number, at an address.
    Raw(IpAddr, u8),
    /// Frames of a type; 3 is all of them.
    Frames(u16),
    /// A path, or behind `@` a name without one.
    Path(String),
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(address) => address.fmt(out),
            Self::Raw(address, protocol) => write!(out, "{address} protocol {protocol}"),
            Self::Frames(kind) => write!(out, "frames {kind:#06x}"),
            Self::Path(path) => out.write_str(path),
        }
    }
}

/// A socket that accepts what others send.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Socket {
    /// What it speaks.
    pub protocol: Protocol,
    /// Where it hears.
    pub place: Place,
    /// The kernel's number of it.
    pub inode: u64,
}

/// The sockets that listen, from the files in a directory as `/proc/net`. A file that is not there has none: without
/// IPv6 there are none of its.
pub fn listening(dir: &Path) -> Vec<Socket> {
    let of = |protocol: Protocol| {
        let text = fs::read_to_string(dir.join(protocol.as_str())).unwrap_or_default();
        let sockets = protocol.read(&text).into_iter();
        sockets.map(move |(place, inode)| Socket {
            protocol,
            place,
            inode,
        })
    };
    Protocol::ALL.into_iter().flat_map(of).collect()
}

/// The other sides of TCP connections to a port, from the files in a directory as `/proc/net`.
pub fn connected(dir: &Path, port: u16) -> Vec<SocketAddr> {
    let of = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    let mut peers: Vec<SocketAddr> = [of("tcp"), of("tcp6")]
        .iter()
        .flat_map(|text| read::established(text))
        .filter(|(local, _)| local.port() == port)
        .map(|(_, peer)| peer)
        .collect();
    peers.sort_unstable();
    peers
}

/// Who has these sockets open, by inode: of several processes those that come first.
pub fn owners(wanted: &BTreeSet<u64>, pids: impl IntoIterator<Item = u32>) -> BTreeMap<u64, u32> {
    let mut owners = BTreeMap::new();
    if wanted.is_empty() {
        return owners;
    }
    for pid in pids {
        let fds = fs::read_dir(format!("/proc/{pid}/fd"));
        for fd in fds.into_iter().flatten().flatten() {
            if let Some(inode) = inode(&fd.path())
                && wanted.contains(&inode)
            {
                owners.entry(inode).or_insert(pid);
            }
        }
    }
    owners
}

fn inode(fd: &Path) -> Option<u64> {
    let target = fs::read_link(fd).ok()?;
    let text = target.to_str()?;
    text.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    #[test]
    fn what_this_process_opens_is_seen_with_its_owner_and_gone_when_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let net = Path::new("/proc/thread-self/net");
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let stream = UnixListener::bind(dir.path().join("stream")).unwrap();
        let datagram = UnixDatagram::bind(dir.path().join("datagram")).unwrap();
        let path = |name: &str| Place::Path(dir.path().join(name).display().to_string());
        let places = [
            (Protocol::Tcp, Place::Port(tcp.local_addr().unwrap())),
            (Protocol::Udp, Place::Port(udp.local_addr().unwrap())),
            (Protocol::Unix, path("stream")),
            (Protocol::Unix, path("datagram")),
        ];
        let find = |(protocol, place): &(Protocol, Place)| {
            let mut all = listening(net).into_iter();
            all.find(|s| (s.protocol, &s.place) == (*protocol, place))
        };
        for place in &places {
            let socket = find(place).unwrap_or_else(|| panic!("{place:?}"));
            let owners = owners(&[socket.inode].into(), [std::process::id()]);
            assert_eq!(owners[&socket.inode], std::process::id());
        }
        let local = tcp.local_addr().unwrap();
        let other = TcpStream::connect(local).unwrap();
        assert_eq!(
            connected(net, local.port()),
            [other.local_addr().unwrap()],
            "the listener itself and the other end are none"
        );
        drop((tcp, udp, stream, datagram));
        for place in &places {
            assert_eq!(find(place), None);
        }
    }
}
