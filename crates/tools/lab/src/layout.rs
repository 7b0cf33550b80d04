//! The addresses of a world and the configurations that follow from them: pure text, no I/O.
//!
//! ```text
//!  device            router of uplink i                     outside
//!  ethI  192.168.(100+I).2 -- .1  lan | wan  203.0.113.(4I+2) -- .(4I+1)  toI
//!                                                           lo: 198.51.100.10 controller
//!                                                               198.51.100.20 datastore
//!                                                               198.51.100.30 client, .40 example
//! ```
//! Every world uses the same addresses: they exist in its own namespaces only.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;

/// Where the controller listens; `evc.lab.internal`.
pub const CONTROLLER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
/// Where the datastore listens; `datastore.lab.internal`.
pub const DATASTORE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 20);
/// An address for clients and servers of tests; `client.lab.internal`.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 30);
/// One more, for what an ACL should deny; `example.lab.internal`.
pub const EXAMPLE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 40);

/// The DNS zone that every uplink's server answers for.
pub const ZONE: &str = "lab.internal";

/// Names in [`ZONE`] and what they stand for.
pub const HOSTS: [(&str, Ipv4Addr); 4] = [
    ("evc", CONTROLLER),
    ("datastore", DATASTORE),
    ("client", CLIENT),
    ("example", EXAMPLE),
];

/// The most uplinks that the address plan has room for.
pub const MAX_UPLINKS: u8 = 32;

/// The plan of one uplink, all from its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UplinkPlan {
    /// 0 for `eth0`.
    pub index: u8,
    /// Whether the router hides the device behind its own address.
    pub nat: bool,
    /// DHCP lease time in seconds; dnsmasq's least is 120.
    pub lease_seconds: u32,
}

impl UplinkPlan {
    /// The device's interface.
    #[must_use]
    pub fn interface(self) -> String {
        format!("eth{}", self.index)
    }

    /// The device's MAC address, from the locally administered range.
    #[must_use]
    pub fn mac(self) -> String {
        format!("02:16:3e:77:00:{:02x}", self.index)
    }

    /// The address that DHCP gives the device.
    #[must_use]
    pub fn device_address(self) -> Ipv4Addr {
        self.lan(2)
    }

    /// The router's address on the device's side: gateway, DHCP and DNS server.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        self.lan(1)
    }

    /// The router's address on the outside: what a NATed device is seen as.
    #[must_use]
    pub fn wan_address(self) -> Ipv4Addr {
        Ipv4Addr::new(203, 0, 113, 4 * self.index + 2)
    }

    fn outside_address(self) -> Ipv4Addr {
        Ipv4Addr::new(203, 0, 113, 4 * self.index + 1)
    }

    fn lan(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 100 + self.index, host)
    }

    /// `ip -batch` for the device's side.
    pub(crate) fn device_links(self) -> String {
        let interface = self.interface();
        format!(
            "link set {interface} address {}\nlink set {interface} up\n",
            self.mac()
        )
    }

    /// `ip -batch` for the router, but for its routes: they need the outside's end up.
    pub(crate) fn router_links(self) -> String {
        format!(
            "addr add {}/24 dev lan\nlink set lan up\naddr add {}/30 dev wan\nlink set wan up\n",
            self.gateway(),
            self.wan_address()
        )
    }

    /// `ip -batch` for what a router loses when its outer link goes down.
    pub(crate) fn router_routes(self) -> String {
        format!("route replace default via {}\n", self.outside_address())
    }

    /// `ip -batch` for the outside end of this uplink.
    pub(crate) fn outside_links(self) -> String {
        let end = format!("to{}", self.index);
        let mut batch = format!(
            "addr add {}/30 dev {end}\nlink set {end} up\n",
            self.outside_address()
        );
        if !self.nat {
            let _ = writeln!(
                batch,
                "route add {}/24 via {}",
                self.lan(0),
                self.wan_address()
            );
        }
        batch
    }

    /// The router's firewall: the sets that faults fill, and NAT if asked for.
    pub(crate) fn router_rules(self) -> String {
        let nat = if self.nat {
            "  chain post { type nat hook postrouting priority srcnat; oifname \"wan\" masquerade; }\n"
        } else {
            ""
        };
        format!(
            "table ip lab {{\n\
             \x20 set blackholed {{ type ipv4_addr; }}\n\
             \x20 set rejected {{ type ipv4_addr; }}\n\
             \x20 chain forward {{\n\
             \x20   type filter hook forward priority filter;\n\
             \x20   ip daddr @blackholed drop\n\
             \x20   ip saddr @blackholed drop\n\
             \x20   meta l4proto tcp ip daddr @rejected reject with tcp reset\n\
             \x20   ip daddr @rejected reject\n\
             \x20 }}\n{nat}}}\n"
        )
    }

    /// The DHCP server's configuration; `dir` holds its files.
    pub(crate) fn dhcp_config(self, dir: &Path) -> String {
        let gateway = self.gateway();
        format!(
            "port=0\ninterface=lan\nbind-dynamic\nexcept-interface=lo\nuser=root\nleasefile-ro\n\
             dhcp-authoritative\nno-ping\nlog-dhcp\npid-file={dir}/dhcp{i}.pid\n\
             dhcp-range={first},{last},255.255.255.0,{lease}s\ndhcp-host={mac},{device}\n\
             dhcp-option=option:router,{gateway}\ndhcp-option=option:dns-server,{gateway}\n\
             dhcp-option=option:domain-name,{ZONE}\n",
            dir = dir.display(),
            i = self.index,
            first = self.lan(50),
            last = self.lan(99),
            lease = self.lease_seconds,
            mac = self.mac(),
            device = self.device_address(),
        )
    }

    /// The DNS server's configuration; `dir` holds its files.
    pub(crate) fn dns_config(self, dir: &Path) -> String {
        let mut config = format!(
            "interface=lan\nbind-dynamic\nexcept-interface=lo\nuser=root\nno-resolv\nno-hosts\n\
             log-queries\npid-file={}/dns{}.pid\nlocal=/{ZONE}/\n",
            dir.display(),
            self.index
        );
        for (host, address) in HOSTS {
            let _ = writeln!(config, "host-record={host}.{ZONE},{address}");
        }
        config
    }
}

/// `ip -batch` for the outside's own addresses.
pub(crate) fn outside_addresses() -> String {
    HOSTS.iter().fold(String::new(), |mut batch, (_, address)| {
        let _ = writeln!(batch, "addr add {address}/32 dev lo");
        batch
    })
}

/// The hosts file of the outside, where no DNS server answers.
pub(crate) fn hosts_file() -> String {
    HOSTS.iter().fold(
        String::from("127.0.0.1 localhost\n"),
        |mut text, (host, address)| {
            let _ = writeln!(text, "{address} {host}.{ZONE}");
            text
        },
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::collections::BTreeSet;

    fn plan(index: u8) -> UplinkPlan {
        UplinkPlan {
            index,
            nat: index % 2 == 1,
            lease_seconds: 3600,
        }
    }

    #[test]
    fn no_two_uplinks_share_an_address() {
        let all: BTreeSet<Ipv4Addr> = (0..MAX_UPLINKS)
            .map(plan)
            .flat_map(|plan| {
                [
                    plan.device_address(),
                    plan.gateway(),
                    plan.wan_address(),
                    plan.outside_address(),
                ]
            })
            .collect();
        assert_eq!(all.len(), usize::from(MAX_UPLINKS) * 4);
    }

    #[test]
    fn only_a_natted_uplink_masquerades_and_has_no_way_back() {
        assert!(plan(1).router_rules().contains("masquerade"));
        assert!(!plan(1).outside_links().contains("route add"));
        assert!(!plan(0).router_rules().contains("masquerade"));
        assert!(
            plan(0)
                .outside_links()
                .contains("route add 192.168.100.0/24 via 203.0.113.2")
        );
    }

    #[test]
    fn dns_answers_for_every_host() {
        let config = plan(0).dns_config(Path::new("/tmp/w"));
        assert!(config.contains("host-record=evc.lab.internal,198.51.100.10\n"));
        assert_eq!(config.matches("host-record=").count(), HOSTS.len());
    }
}
