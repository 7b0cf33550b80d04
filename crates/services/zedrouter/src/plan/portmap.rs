//! Port maps: which ports of the device lead to which application.

use std::collections::BTreeMap;

use agent::Turn;
use model::{
    app::{AclAction, AclMatch, AclRule, Protocol},
    code::Code,
    id::AppId,
};

use super::{
    Zedrouter,
    instance::{Instance, is_ours},
    ports::{Port, is_meant},
    vif::{App, note},
};

/// A port of the device that is to be mapped: device port, protocol, port.
type Mapped = (String, Protocol, u16);

/// One external port goes to one application: to the one that has it, or the first by number.
pub(super) fn refuse_taken(turn: &Turn<'_, Zedrouter>, apps: &mut [App], instances: &[Instance]) {
    let mut order: Vec<usize> = (0..apps.len()).collect();
    order.sort_by_key(|n| !has_its_ports(turn, &apps[*n]));
    let mut owners: BTreeMap<Mapped, AppId> = BTreeMap::new();
    for n in order {
        let app = &mut apps[n];
        let mut trouble = None;
        for vif in &mut app.vifs {
            let instance = instances
                .iter()
                .find(|i| i.id == vif.wanted.network_instance);
            let Some(instance) = instance.filter(|i| i.is_local()) else {
                continue;
            };
            for rule in &vif.wanted.acls {
                let wanted = mapped(rule, instance);
                let taken = wanted.iter().find(|port| owners.contains_key(*port));
                if let Some((device_port, protocol, port)) = taken {
                    let owner = owners.get(&(device_port.clone(), *protocol, *port));
                    let owner = owner.map(ToString::to_string).unwrap_or_default();
                    trouble.get_or_insert_with(|| {
                        format!(
                            "rule {}: {protocol:?} port {port} of {device_port} is mapped to app \
                             {owner}",
                            rule.id
                        )
                    });
                    vif.refused.insert(rule.id);
                } else {
                    owners.extend(wanted.into_iter().map(|port| (port, vif.app)));
                }
            }
        }
        if let Some(text) = trouble {
            note(turn, app, Code::NetworkPortMap, &text);
        }
    }
}

fn has_its_ports(turn: &Turn<'_, Zedrouter>, app: &App) -> bool {
    let status = turn.desired.own.apps.get(&app.config.app.to_string());
    status.is_some_and(|status| {
        let refused = status
            .fault
            .as_ref()
            .is_some_and(|f| f.code == Code::NetworkPortMap);
        !refused && status.vifs.iter().any(|vif| is_ours(turn, &vif.vif))
    })
}

fn mapped(rule: &AclRule, instance: &Instance) -> Vec<Mapped> {
    let ports = mapped_ports(rule);
    let device_ports = instance
        .uplink
        .ports
        .iter()
        .filter(|port| is_for(rule, port));
    device_ports
        .flat_map(|device_port| {
            let one = |(protocol, external, _)| (device_port.name().to_owned(), protocol, external);
            ports.iter().copied().map(one)
        })
        .collect()
}

/// Whether a rule is about packets through this device port.
pub(super) fn is_for(rule: &AclRule, port: &Port) -> bool {
    rule.matches.iter().all(|m| match m {
        AclMatch::Adapter(label) => is_meant(label, port),
        AclMatch::Ip(_)
        | AclMatch::Host(_)
        | AclMatch::Protocol(_)
        | AclMatch::LocalPort(_)
        | AclMatch::RemotePort(_) => true,
    })
}

/// What a port map maps: protocol, port of the device, port of the application. Of a range of
/// ports each goes to the next port of the application.
pub(super) fn mapped_ports(rule: &AclRule) -> Vec<(Protocol, u16, u16)> {
    let AclAction::PortMap { app_port } = rule.action else {
        return Vec::new();
    };
    let mut protocols = Vec::new();
    let mut range = None;
    for m in &rule.matches {
        match m {
            AclMatch::Protocol(protocol) => protocols.push(*protocol),
            AclMatch::LocalPort(ports) => range = Some(*ports),
            AclMatch::Ip(_)
            | AclMatch::Host(_)
            | AclMatch::RemotePort(_)
            | AclMatch::Adapter(_) => {}
        }
    }
    if protocols.is_empty() {
        protocols = vec![Protocol::Tcp, Protocol::Udp];
    }
    protocols.retain(|protocol| *protocol != Protocol::Icmp);
    let Some(range) = range else {
        return Vec::new();
    };
    let externals = range.first..=range.last;
    let pairs = externals.zip(app_port..=u16::MAX);
    pairs
        .flat_map(|(external, internal)| protocols.iter().map(move |p| (*p, external, internal)))
        .collect()
}
