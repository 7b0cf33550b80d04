//! What the other services are told: state of the ports, of the set, and what is wrong.

use agent::Jobs;
use jiff::Timestamp;
use model::{
    code::Code,
    fault::Fault,
    id::MacAddr,
    port::{DpcEntry, DpcState, PortAddressing, PortStatus},
};

use super::{
    Action, Actual,
    items::{Port, usable},
};

/// The state of a port. `before` is what was published last.
pub(super) fn port(
    port: &Port<'_>,
    actual: &Actual,
    before: Option<&PortStatus>,
    fault: Option<Fault>,
) -> PortStatus {
    let config = port.config;
    let link_up = port.has_carrier();
    // Without a carrier nothing can be reached from them: they are kept, but not advertised.
    let addresses = if link_up {
        usable(port, actual)
    } else {
        Vec::new()
    };
    let gateways = if addresses.is_empty() {
        Vec::new()
    } else {
        port.gateways()
    };
    let lease = port.lease;
    let dns_servers = match lease {
        Some(lease) if config.dns_servers.is_empty() => lease.dns_servers.clone(),
        Some(_) | None => config.dns_servers.clone(),
    };
    let mut ntp_servers = config.ntp_servers.clone();
    for server in lease.iter().flat_map(|lease| &lease.ntp_servers) {
        if !ntp_servers.contains(server) {
            ntp_servers.push(server.clone());
        }
    }
    let domain_name = match lease {
        Some(lease) if config.domain_name.is_empty() => lease.domain_name.clone(),
        Some(_) | None => config.domain_name.clone(),
    };
    let mtu = port.link.map(|link| link.mtu);
    PortStatus {
        if_name: config.if_name.clone(),
        label: config.label.clone(),
        is_mgmt: config.is_mgmt,
        cost: config.cost,
        addressing: config.addressing.clone(),
        mac: port.link.and_then(|link| link.mac).map(MacAddr),
        link_up,
        addresses,
        gateways,
        dns_servers,
        ntp_servers,
        domain_name,
        proxy: config.proxy.clone(),
        mtu: mtu.map_or(0, |mtu| u16::try_from(mtu).unwrap_or(u16::MAX)),
        route_table: port.table,
        fault: fault.map(|f| f.continuing(before.and_then(|b| b.fault.as_ref()))),
    }
}

/// What is wrong with a port: its interface is not there, what it should have could not be made, or
/// no server answers.
pub(super) fn port_fault(
    port: &Port<'_>,
    steps: &[Action],
    jobs: &Jobs,
    before: Option<&PortStatus>,
    now: Timestamp,
) -> Option<Fault> {
    let name = &port.config.if_name;
    let object = format!("port {name}");
    if port.link.is_none() {
        let text = format!("there is no interface {name}");
        return Some(Fault::new(Code::PortMissing, object, text, now));
    }
    let mut failed = steps
        .iter()
        .filter(|action| action.is_about(name.as_str(), port.address()))
        .filter_map(|action| jobs.fault(&agent::Action::subject(action)));
    if let Some(fault) = failed.next() {
        return Some(fault.clone());
    }
    let waits = port.config.addressing == PortAddressing::Dhcp && port.lease.is_none();
    if !waits || !port.has_carrier() {
        return None;
    }
    let subject = super::dhcp_subject(name);
    jobs.fault(&subject).cloned().or_else(|| {
        // Another network asked for begins anew; that does not mean that it is well.
        before
            .and_then(|b| b.fault.clone())
            .filter(|f| f.code == Code::PortDhcp)
    })
}

/// Whether a set of ports works, as far as the device itself can tell: whether the controller
/// answers is another question.
pub(super) fn state(ports: &[PortStatus], links: impl Fn(&PortStatus) -> bool) -> DpcState {
    let management: Vec<&PortStatus> = ports.iter().filter(|port| port.is_mgmt).collect();
    let works = |port: &&&PortStatus| {
        port.usable_addresses().next().is_some()
            && !port.gateways.is_empty()
            && !port.dns_servers.is_empty()
    };
    if !management.iter().any(|port| links(port)) {
        DpcState::IntfWait
    } else if management.iter().any(|port| works(&port)) {
        DpcState::Success
    } else if management.iter().all(|port| port.fault.is_some()) {
        DpcState::Fail
    } else {
        DpcState::IpDnsWait
    }
}

/// Notes a set's state in its entry. Nothing changes as long as the state doesn't: the list is
/// on disk.
pub(super) fn note(entry: &mut DpcEntry, state: DpcState, ports: &[PortStatus], now: Timestamp) {
    let before = std::mem::replace(&mut entry.state, state);
    match state {
        DpcState::Success => {
            if before != state || entry.last_succeeded.is_none() {
                entry.last_succeeded = Some(now);
            }
            entry.fault = None;
        }
        DpcState::Fail => {
            if before != state || entry.last_failed.is_none() {
                entry.last_failed = Some(now);
            }
            let first = ports
                .iter()
                .filter(|p| p.is_mgmt)
                .find_map(|p| p.fault.clone());
            let first = first.map(|fault| Fault {
                attempts: 0,
                next: None,
                ..fault
            });
            let known = entry.fault.take();
            entry.fault = first.map(|fault| fault.continuing(known.as_ref()));
        }
        // The entry says already what is missing.
        DpcState::IntfWait => {}
        DpcState::None
        | DpcState::IpDnsWait
        | DpcState::FailWithIpAndDns
        | DpcState::RemoteWait => entry.fault = None,
    }
}
