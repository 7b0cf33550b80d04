//! Which interfaces may be the device's own ports when nobody says so.

use netlink::{Kind, Link, Owner};

/// Beginnings of names that other programs and services of the device give to theirs, and those
/// of radios, which need more than an address.
const NOT_PORTS: [&str; 11] = [
    "lo", "bn", "nbu", "docker", "veth", "virbr", "br-", "tap", "tun", "wl", "ww",
];

/// Whether an interface looks like an Ethernet port of the machine.
///
/// Nothing virtual counts but one end of a pair that is called as a port (`eth0`): that is how a
/// port looks when the whole device runs in a namespace.
pub fn is_port(link: &Link) -> bool {
    let name = link.name.as_str();
    let of_a_kind = match &link.kind {
        Kind::Device => true,
        Kind::Veth => name
            .strip_prefix("eth")
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())),
        Kind::Loopback | Kind::Bridge | Kind::Tap { .. } | Kind::Other(_) => false,
    };
    of_a_kind
        && link.mac.is_some()
        && link.master.is_none()
        && link.owner != Owner::ZEDROUTER
        && !NOT_PORTS.iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, kind: Kind) -> Link {
        Link {
            index: 7,
            name: name.to_owned(),
            kind,
            owner: Owner::UNKNOWN,
            mac: Some([2, 0, 0, 0, 0, 1]),
            permanent_mac: None,
            mtu: 1500,
            up: false,
            lower_up: false,
            master: None,
            isolated: false,
            filtered: false,
            alias: None,
        }
    }

    #[test]
    fn ports_of_the_machine_and_of_the_lab() {
        for name in ["eth0", "eth12", "enp3s0", "eno1", "ens4f0np0", "usb0"] {
            assert!(is_port(&link(name, Kind::Device)), "{name}");
        }
        assert!(is_port(&link("eth1", Kind::Veth)));
    }

    #[test]
    fn what_others_made_is_none() {
        for name in [
            "lo", "bn1", "nbu1x1", "docker0", "wlan0", "wlp2s0", "wwan0", "virbr0",
        ] {
            assert!(!is_port(&link(name, Kind::Device)), "{name}");
        }
        for name in ["veth1a2b", "eth", "eth0x", "ethernet", "bn2"] {
            assert!(!is_port(&link(name, Kind::Veth)), "{name}");
        }
        let kinds = [
            Kind::Loopback,
            Kind::Bridge,
            Kind::Tap {
                owner: None,
                group: None,
                persistent: true,
            },
            Kind::Other("vlan".to_owned()),
            Kind::Other("dummy".to_owned()),
            Kind::Other("wireguard".to_owned()),
        ];
        for kind in kinds {
            assert!(!is_port(&link("eth0", kind.clone())), "{kind:?}");
        }
    }

    #[test]
    fn neither_is_a_bridge_port_nor_one_without_a_mac() {
        let port = link("eth0", Kind::Device);
        let bridged = Link {
            master: Some("bn1".to_owned()),
            ..port.clone()
        };
        let point_to_point = Link {
            mac: None,
            ..port.clone()
        };
        let apps = Link {
            owner: Owner::ZEDROUTER,
            ..port
        };
        assert!(![bridged, point_to_point, apps].iter().any(is_port));
    }
}
