//! Who may listen where, and why. Whatever is not in it is a stranger.

use Protocol::{Packet, Raw, Tcp, Tcp6, Udp, Udp6, Unix};

use crate::{Place, Protocol, Socket};

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The units: a service, or with a star at the end the units of one.
    pub units: &'static [&'static str],
    /// What it speaks.
    pub protocols: &'static [Protocol],
    /// Where it hears.
    pub at: At,
    /// Who is to reach it.
    pub reached_by: &'static str,
    /// What for.
    pub why: &'static str,
}

/// Where a row allows a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// One port, on every address.
    Port(u16),
    /// Ports from and to.
    Ports(u16, u16),
    /// A port of one address, not of all of them.
    Inside(u16),
    /// Any port, of the machine to itself.
    Loopback,
    /// A protocol above IP.
    Raw(u8),
    /// All frames of an interface.
    Frames(u16),
    /// A path below the root of the device; a star at the end is for any name in that directory.
    Path(&'static str),
}

/// What stands for the TPM in a lab, as if it were a unit. On a device that is this machine there is no such thing.
pub const LAB_TPM: &str = "lab/swtpm";

/// All that may listen on a device.
pub const TABLE: &[Row] = &[
    Row {
        units: &["accessmgr/ssh"],
        protocols: &[Tcp, Tcp6],
        at: At::Port(22),
        reached_by: "the network of the ports, by an authorized key",
        why: "logins, while debug.enable.ssh holds keys",
    },
    Row {
        units: &["zedrouter/dnsmasq-*"],
        protocols: &[Udp, Tcp, Udp6, Tcp6],
        at: At::Inside(53),
        reached_by: "guests of the network",
        why: "names for guests",
    },
    Row {
        units: &["zedrouter/dnsmasq-*"],
        protocols: &[Udp],
        at: At::Port(67),
        reached_by: "guests of the network",
        why: "addresses for guests (DHCP); bound to the network's bridge",
    },
    Row {
        units: &["zedrouter/dnsmasq-*"],
        protocols: &[Raw],
        at: At::Raw(1),
        reached_by: "guests of the network",
        why: "whether an address is in use before a guest gets it (echo)",
    },
    Row {
        units: &["nim"],
        protocols: &[Packet],
        at: At::Frames(0x0800),
        reached_by: "DHCP servers of the ports",
        why: "an address for a port that has none; the kernel passes answers of DHCP servers only",
    },
    Row {
        units: &["nim"],
        protocols: &[Udp],
        at: At::Port(68),
        reached_by: "DHCP servers of the ports",
        why: "a longer lease of a port's address",
    },
    Row {
        units: &["zedagent", "downloader", "reporter", "newlogd", "nim"],
        protocols: &[Udp, Udp6],
        at: At::Ports(1024, 65_535),
        reached_by: "the DNS servers of the ports",
        why: "the answer to one question about a name; gone with it",
    },
    Row {
        units: &["domainmgr/*"],
        protocols: &[Tcp, Tcp6],
        at: At::Ports(5900, 5999),
        reached_by: "who the application's config lets see its screen",
        why: "a guest's screen (VNC), with a password",
    },
    Row {
        units: &["domainmgr/*"],
        protocols: &[Unix],
        at: At::Path("run/hypervisor/kvm/*"),
        reached_by: "domainmgr and root",
        why: "control and console of a guest",
    },
    Row {
        units: &["supervisor"],
        protocols: &[Unix],
        at: At::Path("run/supervisor/supervisor.sock"),
        reached_by: "services and root",
        why: "units: start, stop, reboot, each by its row",
    },
    Row {
        units: &["supervisor"],
        protocols: &[Unix],
        at: At::Path("run/supervisor/notify/*"),
        reached_by: "the one service each is for",
        why: "signs of life",
    },
    Row {
        units: &[LAB_TPM],
        protocols: &[Tcp],
        at: At::Loopback,
        reached_by: "the device itself",
        why: "in a lab only, where a program stands for the TPM",
    },
    Row {
        units: &["tpmmgr"],
        protocols: &[Unix],
        at: At::Path("run/tpmmgr/tpmmgr.sock"),
        reached_by: "services and root",
        why: "signatures and secrets, each by its row",
    },
];

/// The row that lets a unit of the device below `root` have a socket.
pub fn explain(unit: &str, socket: &Socket, root: &str) -> Option<&'static Row> {
    let is_its = |row: &&Row| {
        row.protocols.contains(&socket.protocol)
            && row.units.iter().any(|pattern| matches(pattern, unit))
            && row.at.holds(&socket.place, root)
    };
    TABLE.iter().find(is_its)
}

/// Whether a name is the pattern's; a star at the end is for anything but nothing.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(head) => name.strip_prefix(head).is_some_and(|rest| !rest.is_empty()),
        None => name == pattern,
    }
}

impl At {
    fn holds(self, place: &Place, root: &str) -> bool {
        match (self, place) {
            (Self::Port(port), Place::Port(address)) => address.port() == port,
            (Self::Ports(from, to), Place::Port(address)) => (from..=to).contains(&address.port()),
            (Self::Inside(port), Place::Port(address)) => {
                address.port() == port && !address.ip().is_unspecified()
            }
            (Self::Loopback, Place::Port(address)) => address.ip().is_loopback(),
            (Self::Raw(protocol), Place::Raw(_, number)) => protocol == *number,
            (Self::Frames(kind), Place::Frames(number)) => kind == *number,
            (Self::Path(pattern), Place::Path(path)) => {
                let below = path.strip_prefix(root.trim_end_matches('/'));
                let below = below.and_then(|path| path.strip_prefix('/'));
                below.is_some_and(|path| {
                    !path.split('/').any(|p| p == "..") && matches(pattern, path)
                })
            }
            _ => false,
        }
    }
}

impl std::fmt::Display for At {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Port(port) => write!(out, "port {port}"),
            Self::Ports(from, to) => write!(out, "ports {from} to {to}"),
            Self::Inside(port) => write!(out, "port {port} of one address"),
            Self::Loopback => out.write_str("loopback"),
            Self::Raw(protocol) => write!(out, "IP protocol {protocol}"),
            Self::Frames(kind) => write!(out, "frames of type {kind:#06x}"),
            Self::Path(path) => write!(out, "/{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn socket(protocol: Protocol, place: Place) -> Socket {
        Socket {
            protocol,
            place,
            inode: 1,
        }
    }

    fn port(protocol: Protocol, text: &str) -> Socket {
        socket(protocol, Place::Port(text.parse().unwrap()))
    }

    fn path(text: &str) -> Socket {
        socket(Unix, Place::Path(text.to_owned()))
    }

    #[test]
    fn a_row_is_for_its_unit_its_protocol_and_its_place() {
        let dns = port(Udp, "10.1.0.1:53");
        assert!(explain("zedrouter/dnsmasq-bn1", &dns, "/").is_some());
        assert_eq!(explain("zedrouter", &dns, "/"), None);
        assert_eq!(explain("zedrouter/dnsmasq-", &dns, "/"), None);
        let everywhere = port(Udp, "0.0.0.0:53");
        assert_eq!(explain("zedrouter/dnsmasq-bn1", &everywhere, "/"), None);
        let ssh = port(Tcp, "0.0.0.0:22");
        assert!(explain("accessmgr/ssh", &ssh, "/").is_some());
        for other in ["accessmgr", "accessmgr/ttyS0", "zedagent", "domainmgr/x"] {
            assert_eq!(explain(other, &ssh, "/"), None, "{other}");
        }
        assert_eq!(
            explain("accessmgr/ssh", &port(Udp, "0.0.0.0:22"), "/"),
            None
        );
        let screen = port(Tcp, "10.0.0.1:5907");
        assert!(explain("domainmgr/vm", &screen, "/").is_some());
        assert_eq!(
            explain("domainmgr/vm", &port(Tcp, "10.0.0.1:6000"), "/"),
            None
        );
        let frames = socket(Packet, Place::Frames(0x0800));
        assert!(explain("nim", &frames, "/").is_some());
        assert_eq!(explain("nim", &socket(Packet, Place::Frames(3)), "/"), None);
    }

    #[test]
    fn paths_are_below_the_devices_root() {
        let sock = "run/supervisor/supervisor.sock";
        for root in ["/", "/lab/x", "/lab/x/"] {
            let full = format!("{}/{sock}", root.trim_end_matches('/'));
            assert!(explain("supervisor", &path(&full), root).is_some());
        }
        assert_eq!(
            explain("supervisor", &path(&format!("/{sock}")), "/lab/x"),
            None
        );
        assert_eq!(
            explain("supervisor", &path(&format!("/lab/xy/{sock}")), "/lab/x"),
            None
        );
        assert_eq!(explain("supervisor", &path(&format!("@{sock}")), "/"), None);
        let guest = "/run/hypervisor/kvm/a/qmp";
        assert!(explain("domainmgr/a", &path(guest), "/").is_some());
        let climbs = "/run/hypervisor/kvm/../../supervisor/x";
        assert_eq!(explain("domainmgr/a", &path(climbs), "/"), None);
    }
}
