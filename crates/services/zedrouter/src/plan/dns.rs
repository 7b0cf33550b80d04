//! The files of a local instance's resolver, dnsmasq: its configuration, and the tables of names,
//! leases and servers that it reads again when it is told to.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use model::{app::AclMatch, network::NetworkInstanceConfig};
use sha2::{Digest, Sha256};

use super::{
    filter::{TABLE, host_set},
    instance::{Instance, Lan},
    vif::Vif,
};

/// Longest time in seconds that an answer is kept, by the resolver and by those who ask it. An
/// address that fell out of a set comes back after at most twice that.
pub(super) const MAX_TTL: u32 = 60;
/// A guest asks again for its address after half of that time, in seconds.
const LEASE: u32 = 3600;

/// The files of one resolver, by name, and the digest of those that it reads when it is told to.
pub(super) struct Files {
    pub(super) all: BTreeMap<String, String>,
    pub(super) config: String,
    pub(super) tables: String,
}

/// Whether a text is a name that may stand in a configuration.
pub(super) fn is_dns_name(text: &str) -> bool {
    let label = |label: &str| {
        let fit = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(fit)
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// The files of the resolver of `instance`, in `directory`.
pub(super) fn files(instance: &Instance, lan: &Lan, vifs: &[&Vif], directory: &Path) -> Files {
    let bridge = &instance.bridge;
    let config = configuration(instance, lan, vifs, directory);
    let leases = leases(vifs);
    let names = names(&instance.config, vifs);
    let servers = servers(instance, vifs);
    let tables = digest(&[&leases, &names, &servers]);
    let all = [
        (format!("{bridge}.conf"), config.clone()),
        (format!("{bridge}.dhcp"), leases),
        (format!("{bridge}.hosts"), names),
        (format!("{bridge}.servers"), servers),
    ];
    Files {
        all: all.into(),
        config: digest(&[&config]),
        tables,
    }
}

/// A short digest of some texts.
pub(super) fn digest(texts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(text.as_bytes());
        hash.update([0]);
    }
    hex::encode(&hash.finalize()[..8])
}

fn configuration(instance: &Instance, lan: &Lan, vifs: &[&Vif], directory: &Path) -> String {
    let bridge = &instance.bridge;
    let directory = directory.display();
    let (subnet, gateway, mask) = (lan.subnet, lan.gateway, lan.subnet.netmask());
    let mut lines = vec![
        format!("# Network instance {} by zedrouter.", instance.id),
        format!("interface={bridge}"),
        "except-interface=lo".to_owned(),
        "bind-interfaces".to_owned(),
        format!("pid-file={directory}/{bridge}.pid"),
        "log-facility=-".to_owned(),
        // Names: only what the tables say and the servers answer.
        "no-hosts".to_owned(),
        "no-resolv".to_owned(),
        "no-poll".to_owned(),
        "bogus-priv".to_owned(),
        "neg-ttl=10".to_owned(),
        format!("max-ttl={MAX_TTL}"),
        format!("max-cache-ttl={MAX_TTL}"),
        format!("addn-hosts={directory}/{bridge}.hosts"),
        format!("servers-file={directory}/{bridge}.servers"),
        // Addresses: only for interfaces that are known, and always the same.
        "dhcp-authoritative".to_owned(),
        // Guests don't name themselves, and a name goes with its application, not with the lease.
        "dhcp-ignore-names".to_owned(),
        "no-ping".to_owned(),
        format!("dhcp-leasefile={directory}/{bridge}.leases"),
        format!("dhcp-hostsfile={directory}/{bridge}.dhcp"),
        format!("dhcp-range={},static,{mask},{LEASE}", subnet.network()),
        format!("dhcp-option=option:dns-server,{gateway}"),
        format!("dhcp-option=option:mtu,{}", instance.mtu()),
    ];
    if instance.config.port.0.is_empty() {
        // Nothing is behind the gateway; without this line dnsmasq announces itself.
        lines.push("dhcp-option=option:router".to_owned());
    } else {
        lines.push(format!("dhcp-option=option:router,{gateway}"));
        let default = format!("0.0.0.0/0,{gateway}");
        lines.push(format!(
            "dhcp-option=option:classless-static-route,{default}"
        ));
    }
    let ntp = ntp_servers(instance);
    if !ntp.is_empty() {
        let ntp: Vec<String> = ntp.iter().map(ToString::to_string).collect();
        lines.push(format!("dhcp-option=option:ntp-server,{}", ntp.join(",")));
    }
    if let Some(domain) = domain(&instance.config) {
        lines.push(format!("domain={domain}"));
    }
    for host in hosts_of_rules(vifs) {
        let set = host_set(instance.number, &host);
        lines.push(format!("nftset=/{host}/4#inet#{TABLE}#{set}"));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Those of the config that are addresses (DHCP has no names), or those of the port.
fn ntp_servers(instance: &Instance) -> Vec<Ipv4Addr> {
    let configured = &instance.config.ntp_servers;
    if configured.is_empty() {
        let port = instance.uplink.chosen.as_ref();
        return port.map(|port| port.ntp.clone()).unwrap_or_default();
    }
    configured
        .iter()
        .filter_map(|server| server.parse().ok())
        .collect()
}

fn domain(config: &NetworkInstanceConfig) -> Option<&str> {
    Some(config.domain_name.as_str()).filter(|name| is_dns_name(name))
}

/// The names of rules whose addresses go into sets.
fn hosts_of_rules(vifs: &[&Vif]) -> BTreeSet<String> {
    let rules = vifs.iter().flat_map(|vif| &vif.wanted.acls);
    let matches = rules.flat_map(|rule| &rule.matches);
    matches
        .filter_map(|m| match m {
            AclMatch::Host(host) if is_dns_name(host) => Some(host.clone()),
            AclMatch::Host(_)
            | AclMatch::Ip(_)
            | AclMatch::Protocol(_)
            | AclMatch::LocalPort(_)
            | AclMatch::RemotePort(_)
            | AclMatch::Adapter(_) => None,
        })
        .collect()
}

fn leases(vifs: &[&Vif]) -> String {
    let mut text = String::new();
    for vif in vifs {
        if let Some(ip) = vif.ip {
            // Whatever it says of itself, the hardware address decides.
            let _ = writeln!(text, "{},id:*,{ip}", vif.mac);
        }
    }
    text
}

fn names(config: &NetworkInstanceConfig, vifs: &[&Vif]) -> String {
    let domain = domain(config);
    let mut text = String::new();
    for vif in vifs {
        if let (Some(ip), Some(host)) = (vif.ip, &vif.host) {
            let full = domain.map(|domain| format!(" {host}.{domain}"));
            let _ = writeln!(text, "{ip} {host}{}", full.unwrap_or_default());
        }
    }
    for entry in &config.dns_entries {
        if is_dns_name(&entry.host_name) {
            for address in &entry.addresses {
                let _ = writeln!(text, "{address} {}", entry.host_name);
            }
        }
    }
    text
}

/// Own names are answered here or not at all; everything else by servers, asked through the port.
fn servers(instance: &Instance, vifs: &[&Vif]) -> String {
    let config = &instance.config;
    let mut own: BTreeSet<&str> = vifs.iter().filter_map(|vif| vif.host.as_deref()).collect();
    let entries = config
        .dns_entries
        .iter()
        .map(|entry| entry.host_name.as_str());
    own.extend(entries.filter(|name| is_dns_name(name)));
    own.extend(domain(config));
    let mut text = String::new();
    for name in own {
        let _ = writeln!(text, "server=/{name}/");
    }
    if let Some(port) = &instance.uplink.chosen {
        let servers = if config.dns_servers.is_empty() {
            &port.dns
        } else {
            &config.dns_servers
        };
        for server in servers {
            match server {
                IpAddr::V4(_) | IpAddr::V6(_) if server.is_loopback() => {
                    let _ = writeln!(text, "server={server}");
                }
                IpAddr::V4(_) | IpAddr::V6(_) => {
                    let _ = writeln!(text, "server={server}@{}", port.name());
                }
            }
        }
    }
    text
}
