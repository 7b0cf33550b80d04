//! Ports with DHCP and DNS, network instances, interfaces of applications.

use std::net::IpAddr;

use model::{
    code::Code,
    fault::Fault,
    id::{AppId, LogicalLabel, NetworkInstanceId},
    network::{AppNetworkPhase, NetworkInstancePhase},
    port::{PortAddressing, PortStatus},
};

use super::{
    Condition, Kind, Nature, Subject,
    walk::{Block, Walk},
};

/// A port in words: its addresses, or what it lacks.
pub(crate) fn port_state(port: &PortStatus) -> String {
    let addresses: Vec<String> = port.usable_addresses().map(|a| a.to_string()).collect();
    match (addresses.is_empty(), port.link_up) {
        (false, _) => addresses.join(", "),
        (true, false) => "no carrier".to_owned(),
        (true, true) if port.addressing == PortAddressing::None => "up".to_owned(),
        (true, true) => "no address".to_owned(),
    }
}

pub(crate) fn network_instance_phase(phase: &NetworkInstancePhase) -> String {
    match phase {
        NetworkInstancePhase::Creating => "being made".to_owned(),
        NetworkInstancePhase::NoUplink { port } => format!("works, but without port {port}"),
        NetworkInstancePhase::Up => "up".to_owned(),
        NetworkInstancePhase::Deleting => "being removed".to_owned(),
        NetworkInstancePhase::Failed => "failed".to_owned(),
    }
}

/// Whether `server` (`host`, `host:port`, with a scheme or not) needs no DNS.
fn is_address(server: &str) -> bool {
    let host = server.split_once("://").map_or(server, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or_default();
    let without_port = host.rsplit_once(':').map_or(host, |(host, _)| host);
    [host, without_port]
        .iter()
        .any(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok())
}

impl<'a> Walk<'a> {
    fn network_subject() -> Subject {
        Self::subject(Kind::DeviceNetwork, "", "")
    }

    /// nim has not told the device's own network.
    fn no_network(&mut self) -> Block {
        let d = self.device;
        let subject = Self::network_subject();
        self.enter(subject.clone(), "not known", |w| {
            let text = "nim says nothing of it";
            Some(w.missing(&d.network, "global", subject, text))
        })
    }

    /// Whether any management port within `max_cost` leads to `server`. The first of the best that does
    /// not is named.
    pub(super) fn uplink(&mut self, max_cost: u8, server: &str) -> Block {
        let Some(network) = self.device.ports() else {
            return self.no_network();
        };
        let mut ports: Vec<&PortStatus> = network.ports.iter().filter(|p| p.is_mgmt).collect();
        ports.sort_by_key(|port| port.cost);
        if ports.is_empty() {
            return self.no_port();
        }
        let cheapest = ports[0];
        ports.retain(|port| port.cost <= max_cost);
        if ports.is_empty() {
            let subject = Self::port_subject(cheapest);
            let state = format!("{}, costs {}", port_state(cheapest), cheapest.cost);
            return self.enter(subject.clone(), state, |w| {
                let text = format!(
                    "every management port costs more than {max_cost}; the cheapest is {} with {}",
                    cheapest.label, cheapest.cost
                );
                let mut condition = Condition::waits(subject, text);
                w.name_properties(&mut condition, &["network.download.max.cost"]);
                Some(condition)
            });
        }
        let usable = |port: &PortStatus| {
            port.usable_addresses().next().is_some()
                && (!port.dns_servers.is_empty() || is_address(server))
                && port.fault.is_none()
        };
        if ports.iter().any(|port| usable(port)) {
            return None;
        }
        // One with a known fault says more than one that is merely not plugged in.
        let best = ports
            .iter()
            .find(|port| port.fault.is_some())
            .unwrap_or(&ports[0]);
        self.port(best, !is_address(server))
    }

    /// DNS does not lead to `server`: the fault is that of the DNS of the port that is asked first, unless no port
    /// is of use at all.
    pub(super) fn dns_of_uplink(&mut self, max_cost: u8, server: &str, fault: &Fault) -> Block {
        if let Some(below) = self.uplink(max_cost, server) {
            return Some(below);
        }
        let ports = self.device.ports()?.ports.iter();
        let usable = ports.filter(|port| {
            port.is_mgmt && port.cost <= max_cost && port.usable_addresses().next().is_some()
        });
        let port = usable.min_by_key(|port| port.cost)?;
        self.enter(Self::port_subject(port), port_state(port), |w| {
            w.dns(port, |w, subject| w.fault(subject, fault))
        })
    }

    fn no_port(&mut self) -> Block {
        let d = self.device;
        let subject = Self::network_subject();
        self.enter(subject.clone(), "no management port", |w| {
            let configs = &d.port_configs.rows;
            let faulty = configs.values().find_map(|config| config.fault.as_ref());
            if let Some(fault) = faulty {
                return Some(w.fault(subject, fault));
            }
            if let Some(down) = w.runs("nim") {
                return Some(down);
            }
            Some(Condition::waits(
                subject,
                "the device has no management port",
            ))
        })
    }

    fn port_subject(port: &PortStatus) -> Subject {
        Self::subject(Kind::Port, port.if_name.as_str(), port.label.0.as_str())
    }

    /// One port by its interface or its label.
    pub(super) fn port_named(&mut self, name: &str) -> Block {
        let Some(network) = self.device.ports() else {
            return self.no_network();
        };
        let is = |port: &&PortStatus| port.if_name.as_str() == name || port.label.0 == name;
        if let Some(port) = network.ports.iter().find(is) {
            return self.port(port, port.is_mgmt);
        }
        let subject = Self::subject(Kind::Port, name, "");
        self.enter(subject.clone(), "not known", |w| {
            let text = "it is configured, and nim has not taken it up";
            Some(
                w.runs("nim")
                    .unwrap_or_else(|| Condition::waits(subject, text)),
            )
        })
    }

    fn port(&mut self, port: &'a PortStatus, needs_dns: bool) -> Block {
        let subject = Self::port_subject(port);
        self.enter(subject.clone(), port_state(port), |w| {
            let has_address = port.usable_addresses().next().is_some();
            let wants_address = port.addressing != PortAddressing::None;
            let fine = has_address || (!wants_address && port.link_up);
            if fine && port.fault.is_none() && !(needs_dns && port.dns_servers.is_empty()) {
                return None;
            }
            if let Some(down) = w.answers("nim", "DeviceNetworkStatus") {
                return Some(down);
            }
            if let Some(fault) = &port.fault {
                return w.port_fault(subject, port, fault);
            }
            if !has_address && !port.link_up {
                let mut condition = Condition::waits(subject, "it has no carrier");
                "Check the cable and the other end.".clone_into(&mut condition.remedy);
                return Some(w.unchanged(condition, &w.device.network, "global"));
            }
            if has_address {
                return w.dns(port, |_, subject| {
                    let text = "neither a lease nor the config names a DNS server";
                    Condition::waits(subject, text)
                });
            }
            match &port.addressing {
                PortAddressing::Dhcp => w.dhcp(port, |w, subject| {
                    let condition = Condition::waits(subject, "no server has given a lease yet");
                    w.unchanged(condition, &w.device.network, "global")
                }),
                PortAddressing::Static { address, .. } => Some(Condition::waits(
                    subject,
                    format!("its address {address} is not set yet"),
                )),
                PortAddressing::None => Some(Condition::waits(subject, "it is not up")),
            }
        })
    }

    fn port_fault(&mut self, subject: Subject, port: &'a PortStatus, fault: &Fault) -> Block {
        match fault.code {
            Code::PortDhcp => self.dhcp(port, |w, subject| w.fault(subject, fault)),
            Code::PortDns => self.dns(port, |w, subject| w.fault(subject, fault)),
            _ => Some(self.fault(subject, fault)),
        }
    }

    fn dhcp(
        &mut self,
        port: &PortStatus,
        say: impl FnOnce(&Self, Subject) -> super::Condition,
    ) -> Block {
        let subject = Self::subject(Kind::Dhcp, port.if_name.as_str(), "");
        let lease = self.device.leases.get(port.if_name.as_str());
        let state = match lease {
            Some(lease) => format!("had {} from {}", lease.address, lease.server),
            None => "no lease".to_owned(),
        };
        self.enter(subject.clone(), state, |w| Some(say(w, subject)))
    }

    fn dns(
        &mut self,
        port: &PortStatus,
        say: impl FnOnce(&Self, Subject) -> super::Condition,
    ) -> Block {
        let subject = Self::subject(Kind::Dns, port.if_name.as_str(), "");
        let servers: Vec<String> = port.dns_servers.iter().map(ToString::to_string).collect();
        let state = match servers.as_slice() {
            [] => "no server".to_owned(),
            servers => servers.join(", "),
        };
        self.enter(subject.clone(), state, |w| Some(say(w, subject)))
    }

    /// A network instance. Without an uplink it works for applications that only need each other.
    pub(super) fn network_instance(&mut self, id: NetworkInstanceId, needs_uplink: bool) -> Block {
        let d = self.device;
        let key = id.to_string();
        let config = d.network_instance_configs.get(&key);
        let status = d.network_instances.get(&key);
        let name = config
            .map(|row| row.display_name.clone())
            .or(status.map(|row| row.display_name.clone()));
        let subject = Self::subject(Kind::NetworkInstance, key.clone(), name.unwrap_or_default());
        let state = status.map_or("not known".to_owned(), |row| {
            network_instance_phase(&row.phase)
        });
        self.enter(subject.clone(), state, |w| {
            if let Some(fault) = config.and_then(|config| config.fault.as_ref()) {
                return Some(w.fault(subject, fault));
            }
            let Some(status) = status else {
                if config.is_none() {
                    let block = w.answers("zedagent", "NetworkInstanceConfig");
                    let text = "it is not in the config";
                    return Some(block.unwrap_or_else(|| Walk::not_in_config(subject, text)));
                }
                let text = "zedrouter says nothing of it";
                return Some(w.missing(&d.network_instances, &key, subject, text));
            };
            if let NetworkInstancePhase::NoUplink { port } = &status.phase {
                if !needs_uplink {
                    return None;
                }
                if let Some(below) = w.wanted_port(port) {
                    return Some(below);
                }
            }
            if status.phase == NetworkInstancePhase::Up && status.fault.is_none() {
                return None;
            }
            if let Some(down) = w.answers("zedrouter", "NetworkInstanceStatus") {
                return Some(down);
            }
            if let Some(fault) = &status.fault {
                return Some(w.fault(subject, fault));
            }
            let condition = match &status.phase {
                NetworkInstancePhase::Up => return None,
                NetworkInstancePhase::Creating => Condition::progress(subject, "it is being made"),
                NetworkInstancePhase::Deleting => {
                    Condition::progress(subject, "it is being removed")
                }
                NetworkInstancePhase::NoUplink { port } => Condition::waits(
                    subject,
                    format!("nothing leaves it: port {port} is of no use"),
                ),
                NetworkInstancePhase::Failed => {
                    Condition::new(subject, Nature::Fault, "it failed; no reason is known")
                }
            };
            Some(w.unchanged(condition, &d.network_instances, &key))
        })
    }

    /// The port that a network instance wants: a label, or one of the words for several.
    fn wanted_port(&mut self, port: &LogicalLabel) -> Block {
        match port.0.as_str() {
            "" | "all" => None,
            "uplink" => self.uplink(u8::MAX, "0.0.0.0"),
            "freeuplink" => self.uplink(0, "0.0.0.0"),
            label => {
                let ports = self.device.ports().map(|network| &network.ports);
                let is =
                    |port: &PortStatus| port.label.0 == label || port.if_name.as_str() == label;
                if ports.is_some_and(|ports| !ports.iter().any(is)) {
                    let subject = Self::subject(Kind::Port, label, "");
                    return self.enter(subject.clone(), "not there", |w| {
                        if let Some(down) = w.runs("nim") {
                            return Some(down);
                        }
                        let text = "the device has no port of this name";
                        let mut condition = Condition::new(subject, Nature::Fault, text);
                        condition.code = Some(Code::PortMissing);
                        Code::PortMissing.remedy().clone_into(&mut condition.remedy);
                        Some(condition)
                    });
                }
                self.port_named(label)
            }
        }
    }

    /// The interfaces of an application. A guest starts without an uplink.
    pub(super) fn interfaces(&mut self, app: AppId, needs_uplink: bool) -> Block {
        let d = self.device;
        let key = app.to_string();
        let name = d.app_name(&key).unwrap_or_default();
        let subject = Self::subject(Kind::Interfaces, key.clone(), name);
        let status = d.app_networks.get(&key);
        let state = match status.map(|row| &row.phase) {
            None => "not known",
            Some(AppNetworkPhase::AwaitNetworkInstance { .. }) => "wait for a network",
            Some(AppNetworkPhase::Creating) => "being made",
            Some(AppNetworkPhase::Ready) => "ready",
            Some(AppNetworkPhase::Deleting) => "being removed",
            Some(AppNetworkPhase::Inactive) => "removed",
            Some(AppNetworkPhase::Failed) => "failed",
        };
        self.enter(subject.clone(), state, |w| {
            let wanted = d.app_network_configs.get(&key);
            // A missing network is the deeper reason, whatever the interfaces say.
            let vifs = wanted.into_iter().flat_map(|row| &row.vifs);
            let needed = match status.map(|row| &row.phase) {
                Some(AppNetworkPhase::AwaitNetworkInstance { network_instance }) => {
                    Some(*network_instance)
                }
                _ => None,
            };
            let mut networks: Vec<_> = needed
                .into_iter()
                .chain(vifs.map(|vif| vif.network_instance))
                .collect();
            networks.dedup();
            for network in networks {
                if let Some(below) = w.network_instance(network, needs_uplink) {
                    return Some(below);
                }
            }
            if wanted.is_none() {
                let text = "zedmanager has not asked for them";
                return Some(w.missing(&d.app_network_configs, &key, subject, text));
            }
            let Some(status) = status else {
                let text = "zedrouter says nothing of them";
                return Some(w.missing(&d.app_networks, &key, subject, text));
            };
            if status.phase == AppNetworkPhase::Ready && status.fault.is_none() {
                return None;
            }
            if let Some(down) = w.answers("zedrouter", "AppNetworkStatus") {
                return Some(down);
            }
            if let Some(fault) = &status.fault {
                return Some(w.fault(subject, fault));
            }
            let condition = match &status.phase {
                AppNetworkPhase::Ready => return None,
                AppNetworkPhase::AwaitNetworkInstance { .. } => {
                    Condition::waits(subject, "they wait for a network that is up")
                }
                AppNetworkPhase::Creating => Condition::progress(subject, "they are being made"),
                AppNetworkPhase::Deleting => Condition::progress(subject, "they are being removed"),
                AppNetworkPhase::Inactive => {
                    Condition::waits(subject, "they were removed as wanted")
                }
                AppNetworkPhase::Failed => {
                    Condition::new(subject, Nature::Fault, "they failed; no reason is known")
                }
            };
            Some(w.unchanged(condition, &d.app_networks, &key))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::is_address;

    #[test]
    fn servers_that_need_no_dns_are_told_apart() {
        for server in [
            "10.0.0.1",
            "10.0.0.1:8443",
            "[fd00::1]:443",
            "fd00::1",
            "https://10.1.1.1/x",
        ] {
            assert!(is_address(server), "{server}");
        }
        for server in ["", "evc.example", "evc.example:443", "http://ds.example/a"] {
            assert!(!is_address(server), "{server}");
        }
    }
}
