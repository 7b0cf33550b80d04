//! Asking: about one object, and about everything.

use std::collections::BTreeSet;

use model::{code::Code, service::ServicePhase};
use serde::Serialize;

use super::{
    Answer, Asked, Condition, Kind, Nature, Subject,
    app::phase as app_phase,
    logs::unkept,
    walk::{Block, Walk},
};
use crate::{Device, find::Candidate};

/// One condition, and every object that it blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Trouble {
    /// The condition.
    pub condition: Condition,
    /// What was found to be blocked by it, with the way from there.
    pub affects: Vec<Answer>,
}

/// Everything that can be asked for by name.
pub(super) fn candidates(device: &Device) -> Vec<Candidate<Asked>> {
    let mut all = Vec::new();
    let mut add = |what, key: &str, name: &str| {
        let candidate = Candidate {
            what,
            key: key.to_owned(),
            name: name.to_owned(),
        };
        if !all.iter().any(|other: &Candidate<Asked>| {
            other.what == candidate.what && other.key == candidate.key
        }) {
            all.push(candidate);
        }
    };
    for (key, app) in &device.app_configs.rows {
        add(Asked::App, key, &app.display_name);
    }
    for (key, app) in &device.apps.rows {
        add(Asked::App, key, &app.display_name);
    }
    // What can't be read has lost its name.
    let lost = |key: &&String| uuid::Uuid::parse_str(key).is_ok();
    let configs = &device.app_configs;
    let unreadable = configs.unreadable.keys().chain(&configs.quarantined);
    for key in unreadable.filter(lost) {
        add(Asked::App, key, "");
    }
    for (key, volume) in &device.volumes.rows {
        let configured = device.volume_configs.get(key);
        let name = configured.map_or(&volume.display_name, |config| &config.display_name);
        add(Asked::Volume, key, name);
    }
    for (key, volume) in &device.volume_configs.rows {
        // After a purge the device has it in a later generation.
        if !device
            .volumes
            .rows
            .values()
            .any(|row| row.key.volume == volume.id)
        {
            add(Asked::Volume, key, &volume.display_name);
        }
    }
    for (key, network) in &device.network_instance_configs.rows {
        add(Asked::Network, key, &network.display_name);
    }
    for (key, network) in &device.network_instances.rows {
        add(Asked::Network, key, &network.display_name);
    }
    for port in device
        .ports()
        .into_iter()
        .flat_map(|network| &network.ports)
    {
        add(Asked::Port, port.if_name.as_str(), &port.label.0);
    }
    for port in device
        .port_configs
        .rows
        .values()
        .flat_map(|config| &config.ports)
    {
        add(Asked::Port, port.if_name.as_str(), &port.label.0);
    }
    for key in device.services.rows.keys() {
        add(Asked::Service, key, "");
    }
    // Without a supervisor services are known by what they wrote.
    for topic in device.topics().into_iter().filter(|topic| topic.known) {
        // The supervisor is no unit of its own.
        if topic.service != "supervisor" {
            add(Asked::Service, topic.service, "");
        }
    }
    for key in device.journal.rows.keys() {
        add(Asked::Report, key, "");
    }
    for key in device.access.rows.keys() {
        add(Asked::Access, key, "");
    }
    add(Asked::Onboarding, "onboarding", "");
    add(Asked::Config, "config", "");
    all
}

/// The first topic with names of objects of this kind that its writer has not completed.
pub(super) fn incomplete(device: &Device, asked: Option<Asked>) -> Option<&'static str> {
    let ready = |kind, ready: bool| asked.is_some_and(|asked| asked != kind) || ready;
    if !ready(Asked::App, device.app_configs.ready) {
        Some("zedagent/AppInstanceConfig")
    } else if !ready(Asked::Volume, device.volume_configs.ready) {
        Some("zedagent/VolumeConfig")
    } else if !ready(Asked::Network, device.network_instance_configs.ready) {
        Some("zedagent/NetworkInstanceConfig")
    } else {
        None
    }
}

/// The answer about one object.
pub(super) fn answer(device: &Device, asked: Asked, key: &str) -> Answer {
    let mut walk = Walk::new(device);
    let subject = subject(&walk, asked, key);
    let blocked_by: Block = match asked {
        Asked::App => walk.app(key),
        Asked::Volume => key
            .parse()
            .ok()
            .and_then(|volume| walk.volume(None, wanted_key(device, volume), volume)),
        Asked::Network => key
            .parse()
            .ok()
            .and_then(|network| walk.network_instance(network, true)),
        Asked::Port => walk.port_named(key),
        Asked::Onboarding => walk.onboarding(),
        Asked::Config => walk.config(),
        Asked::Report => walk.report(key),
        Asked::Service => walk.service(key),
        Asked::Access => walk.access(key),
    };
    let mut notes = match asked {
        Asked::App => walk.app_notes(key),
        Asked::Service => service_notes(device, key),
        Asked::Volume
        | Asked::Network
        | Asked::Port
        | Asked::Onboarding
        | Asked::Config
        | Asked::Report
        | Asked::Access => Vec::new(),
    };
    let of_it = unkept(device);
    let of_it = of_it
        .into_iter()
        .filter(|u| (u.asked, u.key.as_str()) == (asked, key));
    notes.extend(of_it.map(|u| format!("it prints more than is kept: {}", u.text)));
    let mut chain = walk.chain;
    let is_it =
        |link: &super::Link| (link.subject.kind, &link.subject.key) == (subject.kind, &subject.key);
    let state = match chain.first() {
        Some(link) if is_it(link) => link.state.clone(),
        Some(_) | None => state(device, asked, key),
    };
    if blocked_by.is_some() && !chain.first().is_some_and(is_it) {
        let state = state.clone();
        let subject = subject.clone();
        chain.insert(0, super::Link { subject, state });
    }
    Answer {
        asked: subject,
        state,
        blocked_by,
        chain,
        notes,
    }
}

/// The key in the config of a volume on the device.
fn wanted_key(device: &Device, key: model::id::VolumeKey) -> Option<model::id::VolumeKey> {
    let refs = device.volume_refs.rows.values();
    let mut refs = refs.filter(|row| row.device_volume() == key);
    refs.next().map(|row| row.volume).or_else(|| {
        let configs = device.volume_configs.rows.values();
        let mut same = configs.filter(|config| config.id == key.volume);
        same.next().map(model::volume::VolumeConfig::key)
    })
}

fn subject(walk: &Walk<'_>, asked: Asked, key: &str) -> Subject {
    let kind = match asked {
        Asked::App => return walk.app_subject(key),
        Asked::Service => return walk.service_subject(key),
        Asked::Onboarding => return Walk::subject(Kind::Onboarding, "", ""),
        Asked::Config => return Walk::subject(Kind::Config, "", ""),
        Asked::Volume => Kind::Volume,
        Asked::Network => Kind::NetworkInstance,
        Asked::Port => Kind::Port,
        Asked::Report => Kind::Report,
        Asked::Access => Kind::Access,
    };
    let candidates = candidates(walk.device);
    let mut found = candidates
        .into_iter()
        .filter(|candidate| candidate.what == asked && candidate.key == key);
    let name = found.next().map(|candidate| candidate.name);
    Walk::subject(kind, key, name.unwrap_or_default())
}

/// The state of an object that nothing blocks: the walk has left no link of it.
fn state(device: &Device, asked: Asked, key: &str) -> String {
    match asked {
        Asked::App => device.apps.get(key).map(|app| app_phase(&app.phase)),
        Asked::Volume => device
            .volumes
            .get(key)
            .map(|volume| super::content::volume_phase(&volume.phase)),
        Asked::Network => device
            .network_instances
            .get(key)
            .map(|network| super::network::network_instance_phase(&network.phase)),
        Asked::Port => {
            let ports = device
                .ports()
                .into_iter()
                .flat_map(|network| &network.ports);
            let mut ports = ports.filter(|port| port.if_name.as_str() == key);
            ports.next().map(super::network::port_state)
        }
        Asked::Onboarding => {
            let status = device.onboarding.get("global");
            status.map(|row| super::controller::onboard_phase(&row.phase).to_owned())
        }
        Asked::Config => {
            let status = device.zedagent.get("zedagent");
            status.map(|row| super::controller::config_source(row.config_source).to_owned())
        }
        Asked::Report => {
            let at = device.journal.get(key).and_then(|record| record.at);
            at.map(|at| format!("last acknowledged {}", crate::words::time(at)))
        }
        Asked::Service => device.services.get(key).map(super::service::phase),
        Asked::Access => {
            let row = device.access.get(key);
            row.map(|row| crate::access::text(row, device.at))
        }
    }
    .unwrap_or_else(|| "not known".to_owned())
}

fn service_notes(device: &Device, key: &str) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(status) = device.services.get(key) {
        if status.restarts > 0 {
            let how = match status.last_exit.as_str() {
                "" => String::new(),
                how => format!("; the last end: {how}"),
            };
            notes.push(format!(
                "started again {} since the device booted{how}",
                crate::words::count(
                    usize::try_from(status.restarts).unwrap_or(usize::MAX),
                    "time"
                )
            ));
        }
        if let (ServicePhase::Running { .. }, text) = (&status.phase, &status.status_text)
            && !text.is_empty()
            && text != "running"
        {
            notes.push(format!("it says: {text}"));
        }
    }
    notes
}

/// Everything that is not as wanted, by what blocks it: faults first, then waits, then work in progress.
/// With `only`, objects of one kind.
pub fn troubles(device: &Device, only: Option<Asked>) -> Vec<Trouble> {
    let mut found: Vec<Trouble> = Vec::new();
    let mut add = |condition: Condition, answer: Option<Answer>| {
        let same = |trouble: &&mut Trouble| {
            // What is not reached is one trouble, whoever called.
            let unreached = matches!(
                condition.code,
                Some(Code::ControllerUnreachable | Code::PortDns)
            );
            trouble.condition.subject == condition.subject
                && (trouble.condition.text == condition.text
                    || (unreached && trouble.condition.code == condition.code))
        };
        if let Some(trouble) = found.iter_mut().find(same) {
            trouble.affects.extend(answer);
        } else {
            found.push(Trouble {
                condition,
                affects: answer.into_iter().collect(),
            });
        }
    };
    if only.is_none() {
        for condition in damaged(device) {
            add(condition, None);
        }
        let mut walk = Walk::new(device);
        if let Some(condition) = walk.supervised() {
            add(condition, None);
        }
    }
    for candidate in asked_about(device, only) {
        let answer = answer(device, candidate.what, &candidate.key);
        if let Some(condition) = answer.blocked_by.clone() {
            add(condition, Some(answer));
        }
    }
    found.sort_by_key(|trouble| std::cmp::Reverse(trouble.condition.nature));
    found
}

/// What is asked about when nothing is named: services first, as everything else may follow from them.
fn asked_about(device: &Device, only: Option<Asked>) -> Vec<Candidate<Asked>> {
    const ORDER: [Asked; 9] = [
        Asked::Service,
        Asked::Onboarding,
        Asked::Port,
        Asked::Config,
        Asked::App,
        Asked::Network,
        Asked::Volume,
        Asked::Report,
        Asked::Access,
    ];
    let used: BTreeSet<&str> = device
        .network_instance_configs
        .rows
        .values()
        .map(|network| network.port.0.as_str())
        .collect();
    let all = candidates(device);
    let mut asked: Vec<Candidate<Asked>> = Vec::new();
    for kind in ORDER {
        if only.is_some_and(|only| only != kind) {
            continue;
        }
        // A port that nobody uses may be unplugged.
        let matters = |candidate: &&Candidate<Asked>| {
            only.is_some()
                || kind != Asked::Port
                || is_mgmt(device, &candidate.key)
                || used.contains(candidate.name.as_str())
        };
        // A unit that was stopped on purpose is not amiss.
        let stopped = |candidate: &&Candidate<Asked>| {
            kind == Asked::Service
                && device.services.get(&candidate.key).is_some_and(|unit| {
                    unit.phase == ServicePhase::Stopped
                        && unit.fault.is_none()
                        && candidate.key.contains('/')
                })
        };
        let of_kind = all.iter().filter(|candidate| candidate.what == kind);
        asked.extend(of_kind.filter(matters).filter(|c| !stopped(c)).cloned());
    }
    asked
}

fn is_mgmt(device: &Device, key: &str) -> bool {
    let ports = device
        .ports()
        .into_iter()
        .flat_map(|network| &network.ports);
    let status = ports
        .filter(|port| port.if_name.as_str() == key)
        .any(|port| port.is_mgmt);
    status || device.ports().is_none()
}

/// Objects that can't be read.
fn damaged(device: &Device) -> Vec<Condition> {
    let mut conditions = Vec::new();
    for topic in device.topics() {
        let object = |key: &str| {
            let path = format!("{}/{}/{key}", topic.service, topic.name);
            Walk::subject(Kind::Object, path, "")
        };
        for (key, reason) in topic.unreadable {
            conditions.push(Walk::unreadable(object(key), reason));
        }
        for name in topic.quarantined {
            let mut condition = Walk::quarantined(object(name));
            // The evidence stays until somebody takes it away; the device goes on.
            condition.nature = Nature::Waits;
            conditions.push(condition);
        }
    }
    conditions
}
