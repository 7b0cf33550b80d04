//! Ports, DNS, proxies, the controller, datastores.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::SignedDuration;
use model::{
    network::NetworkInstanceKind,
    node::ConfigSource,
    port::{PortAddressing, PortStatus},
};

use super::{Fact, Judge, Verdict, fail, ok, skipped, some_of, warn};
use crate::{why, words};

const NO_PORTS: &str = "nim has published no port";
const NO_MANAGEMENT: &str = "there is no management port";

impl Judge<'_> {
    pub(super) fn network(&mut self) {
        let ports: Vec<PortStatus> = self
            .device
            .ports()
            .map(|network| network.ports.clone())
            .unwrap_or_default();
        let management: Vec<PortStatus> = ports.iter().filter(|p| p.is_mgmt).cloned().collect();
        self.each("port.exists", &ports, NO_PORTS, |j, port| {
            (label(port), j.exists(port))
        });
        self.each("port.link", &ports, NO_PORTS, |_, port| {
            (label(port), link(port))
        });
        self.each("port.address", &management, NO_MANAGEMENT, |_, port| {
            (label(port), address(port))
        });
        self.each("port.gateway", &management, NO_MANAGEMENT, |_, port| {
            (label(port), gateway(port))
        });
        let by_dhcp: Vec<PortStatus> = ports
            .iter()
            .filter(|port| port.addressing == PortAddressing::Dhcp)
            .cloned()
            .collect();
        self.each(
            "port.lease",
            &by_dhcp,
            "no port gets its address by DHCP",
            |j, port| (label(port), j.lease(port)),
        );
        self.each("port.fault", &ports, NO_PORTS, |_, port| {
            (label(port), fault(port))
        });
        self.each("dns.servers", &management, NO_MANAGEMENT, |_, port| {
            (label(port), servers(port))
        });
        self.overlap(&ports);
        self.dns();
        self.proxies(&ports);
        self.controller();
        self.channel();
        self.datastores();
        self.forwarding();
    }

    fn exists(&self, port: &PortStatus) -> Verdict {
        match &self.facts.interfaces {
            Fact::Known(names) if names.contains(port.if_name.as_str()) => {
                ok(format!("{} is there", port.if_name))
            }
            Fact::Known(names) => {
                let there: Vec<String> = names.iter().cloned().collect();
                fail(
                    format!(
                        "no interface {}; there is {}",
                        port.if_name,
                        some_of(&there)
                    ),
                    "Correct the port's interface name, or load its driver.",
                )
            }
            Fact::Failed(why) | Fact::Skipped(why) => skipped(why.clone()),
        }
    }

    fn lease(&self, port: &PortStatus) -> Verdict {
        let now = self.device.at;
        let Some(lease) = self.device.leases.get(port.if_name.as_str()) else {
            return if port.is_mgmt {
                fail(
                    "no lease",
                    "Check the cable and the DHCP server; asked again by itself.",
                )
            } else {
                warn(
                    "no lease",
                    "Check the cable and the DHCP server; asked again by itself.",
                )
            };
        };
        let ends = lease
            .obtained
            .saturating_add(SignedDuration::from_secs(lease.lease_seconds.into()))
            .unwrap_or(lease.obtained);
        let rebind = lease
            .obtained
            .saturating_add(SignedDuration::from_secs(lease.rebind_seconds.into()))
            .unwrap_or(lease.obtained);
        let text = format!("{} from {}", lease.address, lease.server);
        if ends < now {
            fail(
                format!("{text}, expired {} ago", words::ago(ends, now)),
                "Check the DHCP server; asked again by itself.",
            )
        } else if lease.rebind_seconds > 0 && rebind < now {
            warn(
                format!(
                    "{text}, ends {}: its server does not renew it",
                    words::due(ends, now)
                ),
                "Check the DHCP server before the lease ends.",
            )
        } else {
            ok(format!("{text}, ends {}", words::due(ends, now)))
        }
    }

    fn overlap(&mut self, ports: &[PortStatus]) {
        let of_ports = ports.iter().flat_map(|port| {
            let nets = port
                .addresses
                .iter()
                .filter(|net| net.prefix_len() < net.max_prefix_len());
            nets.map(|net| (format!("port {}", port.label), net.trunc()))
        });
        let instances = self.device.network_instances.rows.values();
        let of_instances = instances.filter_map(|network| {
            let subnet = IpNet::V4(network.subnet?);
            Some((format!("network {}", network.display_name), subnet.trunc()))
        });
        // Every link has the same link-local prefix.
        let all: Vec<(String, IpNet)> = of_ports
            .chain(of_instances)
            .filter(|(_, net)| !link_local(net.addr()))
            .collect();
        let mut overlaps = Vec::new();
        for (index, (name, net)) in all.iter().enumerate() {
            for (other, its) in &all[index + 1..] {
                if (net.contains(its) || its.contains(net)) && name != other {
                    overlaps.push(format!("{name} ({net}) and {other} ({its})"));
                }
            }
        }
        let verdict = if all.is_empty() {
            skipped("nothing has an address yet")
        } else if overlaps.is_empty() {
            let nets: Vec<String> = all.iter().map(|(_, net)| net.to_string()).collect();
            ok(some_of(&nets))
        } else {
            fail(some_of(&overlaps), "Give each its own subnet.")
        };
        self.add("subnet.overlap", verdict);
    }

    fn dns(&mut self) {
        let facts = self.facts;
        let none = facts
            .no_way
            .clone()
            .unwrap_or_else(|| "no DNS server was asked".to_owned());
        self.each("dns.answers", &facts.dns, &none, |_, fact| {
            let subject = format!("{} {}", fact.port, fact.server);
            let verdict = match &fact.answer {
                Fact::Known((addresses, took)) => {
                    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                    ok(format!("{} is {}, in {} ms", fact.name, addresses.join(", "), took.as_millis()))
                }
                Fact::Failed(why) => fail(
                    why.clone(),
                    format!("Check that {} may be asked from {} (port 53, UDP and TCP), and that it knows the name.", fact.server, fact.source),
                ),
                Fact::Skipped(why) => skipped(why.clone()),
            };
            (subject, verdict)
        });
    }

    fn proxies(&mut self, ports: &[PortStatus]) {
        let with_proxy: Vec<PortStatus> = ports
            .iter()
            .filter(|port| port.proxy.http.is_some() || port.proxy.https.is_some())
            .cloned()
            .collect();
        let status = model::port::DeviceNetworkStatus {
            ports: with_proxy.clone(),
            ..Default::default()
        };
        let (parsed, problems) = uplink::ports(&status);
        self.each(
            "proxy.usable",
            &with_proxy,
            "no port has a proxy",
            |_, port| {
                let name = label(port);
                let bad = problems.iter().find(|(of, _)| *of == name);
                let roots = parsed
                    .iter()
                    .find(|other| other.ifname == port.if_name.as_str());
                let cert = roots
                    .into_iter()
                    .flat_map(|other| &other.proxy_certs)
                    .find_map(|pem| {
                        let mut roots = uplink::Roots::default();
                        roots.add_pem("the proxy's certificate", pem).err()
                    });
                let verdict = match (bad, cert) {
                    (Some((_, why)), _) => fail(
                        why.to_string(),
                        "Correct the proxy as host:port; until then the port goes without it.",
                    ),
                    (None, Some(why)) => fail(
                        why.to_string(),
                        "Correct the certificate in the port's proxy settings.",
                    ),
                    (None, None) => ok(format!(
                        "{} certificates",
                        port.proxy.certificates_pem.len()
                    )),
                };
                (name, verdict)
            },
        );
    }

    fn controller(&mut self) {
        let facts = self.facts;
        let none = facts
            .no_way
            .clone()
            .unwrap_or_else(|| "no connection was tried".to_owned());
        let steps = [
            (
                "controller.connect",
                "Check firewall, route and proxy of the port, and that the controller runs.",
            ),
            (
                "controller.tls",
                "Check the clock, /config/root-certificate.pem, and whether something intercepts TLS.",
            ),
            (
                "controller.ping",
                "Check the controller, and the device's state there.",
            ),
        ];
        // One management port that works is enough for the device.
        let any = facts.ways.iter().any(|way| way.ping.known().is_some());
        for (id, remedy) in steps {
            self.each(id, &facts.ways, &none, |_, way| {
                let fact = match id {
                    "controller.connect" => &way.connect,
                    "controller.tls" => &way.tls,
                    _ => &way.ping,
                };
                let verdict = match fact {
                    Fact::Known(text) => match &way.proxy {
                        Some(proxy) => ok(format!("{text}, through proxy {proxy}")),
                        None => ok(text.clone()),
                    },
                    Fact::Failed(why) if any => warn(format!("{why}; another way works"), remedy),
                    Fact::Failed(why) => fail(why.clone(), remedy),
                    Fact::Skipped(why) => skipped(why.clone()),
                };
                (format!("{} from {}", way.port, way.source), verdict)
            });
        }
    }

    fn channel(&mut self) {
        let d = self.device;
        let now = d.at;
        let Some(row) = d.zedagent.get("zedagent") else {
            self.add("controller.contact", skipped("zedagent says nothing of it"));
            self.add("controller.config", skipped("zedagent says nothing of it"));
            self.add("config.objects", skipped("there is no config"));
            return;
        };
        // Several intervals with their jitter, and a minute for the rounding of the time.
        let limit = d
            .items()
            .int("timer.config.interval")
            .saturating_mul(3)
            .saturating_add(120);
        let limit = SignedDuration::from_secs(i64::try_from(limit).unwrap_or(i64::MAX));
        let verdict = match row.last_contact {
            None => fail(
                "it never answered since the device booted",
                "See `eve why config`.",
            ),
            Some(at) if now.duration_since(at) > limit => fail(
                words::ago_to_the_minute(at, now),
                "See `eve why config`; applications go on with the last config.",
            ),
            Some(at) => ok(words::ago_to_the_minute(at, now)),
        };
        self.add("controller.contact", verdict);
        let source = why::config_source(row.config_source);
        let verdict = match (&row.fault, row.config_source) {
            (Some(fault), _) => fail(fault.line(), fault.code.remedy()),
            (None, ConfigSource::None) => fail("there is no config yet", "See `eve why config`."),
            (None, ConfigSource::Saved | ConfigSource::Bootstrap) => warn(
                source,
                "The controller has not answered since the boot: see `eve why config`.",
            ),
            (None, ConfigSource::Controller) => ok(source),
        };
        self.add("controller.config", verdict);
        let mut faults: Vec<String> = Vec::new();
        let mut add = |fault: &Option<model::fault::Fault>| {
            faults.extend(fault.as_ref().map(model::fault::Fault::line));
        };
        d.app_configs.rows.values().for_each(|row| add(&row.fault));
        d.volume_configs
            .rows
            .values()
            .for_each(|row| add(&row.fault));
        d.content_tree_configs
            .rows
            .values()
            .for_each(|row| add(&row.fault));
        d.datastores.rows.values().for_each(|row| add(&row.fault));
        d.network_instance_configs
            .rows
            .values()
            .for_each(|row| add(&row.fault));
        d.port_configs.rows.values().for_each(|row| add(&row.fault));
        let verdict = if faults.is_empty() {
            let count = d.app_configs.rows.len();
            ok(words::count(count, "application"))
        } else {
            fail(some_of(&faults), "Correct these objects at the controller.")
        };
        self.add("config.objects", verdict);
    }

    fn datastores(&mut self) {
        let stores: Vec<(&String, &model::content::DatastoreConfig)> =
            self.device.datastores.rows.iter().collect();
        let facts = self.facts;
        self.each("datastore.reachable", &stores, "the config names no datastore", |_, (key, store)| {
            let verdict = match facts.datastores.get(*key) {
                Some(Fact::Known(text)) => ok(text.clone()),
                Some(Fact::Failed(why)) => fail(why.clone(), "Check the datastore's name and whether its network is reachable from the management ports."),
                Some(Fact::Skipped(why)) => skipped(why.clone()),
                None => skipped("not looked at"),
            };
            (store.fqdn.clone(), verdict)
        });
    }

    fn forwarding(&mut self) {
        let local = self
            .device
            .network_instances
            .rows
            .values()
            .any(|network| network.kind == NetworkInstanceKind::Local);
        let verdict = match &self.facts.forwarding {
            _ if !local => skipped("there is no local network instance"),
            Fact::Known(true) => ok("net.ipv4.ip_forward = 1"),
            Fact::Known(false) => fail(
                "net.ipv4.ip_forward = 0: nothing leaves the networks of applications",
                "Something else has switched it off; zedrouter sets it when it starts.",
            ),
            Fact::Failed(why) | Fact::Skipped(why) => skipped(why.clone()),
        };
        self.add("network.forwarding", verdict);
    }
}

fn link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn label(port: &PortStatus) -> String {
    if port.label.0.is_empty() {
        port.if_name.to_string()
    } else {
        port.label.0.clone()
    }
}

fn link(port: &PortStatus) -> Verdict {
    match (port.link_up, port.is_mgmt) {
        (true, _) => ok("carrier"),
        (false, true) => fail("no carrier", "Check the cable and the switch."),
        (false, false) => warn("no carrier", "Check the cable and the switch."),
    }
}

fn address(port: &PortStatus) -> Verdict {
    let addresses: Vec<String> = port.usable_addresses().map(|a| a.to_string()).collect();
    if addresses.is_empty() {
        fail("none", format!("See `eve why port {}`.", port.if_name))
    } else {
        ok(addresses.join(", "))
    }
}

fn gateway(port: &PortStatus) -> Verdict {
    let gateways: Vec<String> = port.gateways.iter().map(ToString::to_string).collect();
    if gateways.is_empty() {
        warn(
            "none: only its own link is reachable",
            "Let the DHCP server announce a router, or configure a gateway.",
        )
    } else {
        ok(gateways.join(", "))
    }
}

fn fault(port: &PortStatus) -> Verdict {
    match &port.fault {
        None => ok("none"),
        Some(fault) if port.is_mgmt => fail(fault.line(), fault.code.remedy()),
        Some(fault) => warn(fault.line(), fault.code.remedy()),
    }
}

fn servers(port: &PortStatus) -> Verdict {
    let servers: Vec<String> = port.dns_servers.iter().map(ToString::to_string).collect();
    if servers.is_empty() {
        fail(
            "none",
            "Let the DHCP server announce one, or configure one for the port.",
        )
    } else {
        ok(servers.join(", "))
    }
}
