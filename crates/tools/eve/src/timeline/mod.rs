//! `eve timeline`: from boot to ready, per service and phase.
//!
//! What is known of it: the lines in which services tell that they started, wait for inputs, or that an
//! object entered a phase; the times at which topics became complete; the units' own start times. Pure but for
//! `read.rs`.

mod read;
mod text;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use model::{node::OnboardPhase, service::ServicePhase};
use serde::{Deserialize, Serialize};

use crate::{Device, words};

pub use read::events;
pub use text::timeline as timeline_text;

/// What a service told in its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// The service.
    pub unit: String,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A service began.
    Started,
    /// It waits for these topics.
    Waiting(String),
    /// An object entered a phase.
    Phase {
        /// Its topic.
        topic: String,
        /// Its key.
        key: String,
        /// The phase.
        to: String,
    },
    /// An object has a fault.
    Fault {
        /// Its topic.
        topic: String,
        /// Its key.
        key: String,
        /// What is wrong.
        text: String,
    },
    /// A port got an address.
    Lease {
        /// The interface.
        if_name: String,
        /// The address.
        address: String,
    },
}

/// What happened since the boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Timeline {
    /// When the device booted, or its first service began.
    pub boot: Timestamp,
    /// Why.
    pub reason: String,
    /// When every service had completed its topics, the device was onboarded, and every application that
    /// shall run ran for the first time.
    #[serde(default)]
    pub ready: Option<Timestamp>,
    /// What is missing, if it is not ready.
    pub missing: Vec<String>,
    /// Services, then objects, in the order in which they began.
    pub lanes: Vec<Lane>,
}

/// One service or object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Lane {
    /// What.
    pub name: String,
    /// True for a service.
    pub service: bool,
    /// What it went through.
    pub spans: Vec<Span>,
}

/// A part of its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Span {
    /// In words.
    pub phase: String,
    /// From,
    pub from: Timestamp,
    /// until; none where it stayed so.
    #[serde(default)]
    pub until: Option<Timestamp>,
    /// What kind of part.
    pub nature: Nature,
}

/// Kind of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Nature {
    /// It took time.
    Work,
    /// It had arrived.
    Done,
    /// Something was wrong.
    Trouble,
}

/// Services begin this long before nodeagent notes the boot, at most.
const EARLIER: SignedDuration = SignedDuration::from_secs(60);

/// Topics whose objects are shown, with what they are called, in the order of the way to a running application.
const SHOWN: &[(&str, &str)] = &[
    ("OnboardingStatus", "onboarding"),
    ("ContentTreeStatus", "content"),
    ("VolumeStatus", "volume"),
    ("NetworkInstanceStatus", "network"),
    ("AppNetworkStatus", "interfaces of"),
    ("DomainStatus", "guest of"),
    ("AppInstanceStatus", "app"),
];

/// Phases in which an object has arrived.
const ARRIVED: &[&str] = &[
    "Onboarded",
    "Loaded",
    "Created",
    "Up",
    "Ready",
    "Running",
    "Halted",
    "Inactive",
];

/// Puts everything in order. Events are in the order of time.
pub fn build(device: &Device, events: &[Event]) -> Timeline {
    let boot = boot(device, events);
    let events: Vec<&Event> = events.iter().filter(|event| event.at >= boot).collect();
    let mut lanes = services(device, &events);
    lanes.sort_by_key(|lane| lane.spans.first().map(|span| span.from));
    let mut objects = objects(device, &events);
    objects.sort_by_key(|lane| lane.spans.first().map(|span| span.from));
    lanes.append(&mut objects);
    let (ready, missing) = ready(device, &events);
    let node = device.node.get("nodeagent");
    Timeline {
        boot,
        reason: node
            .map(|node| node.reboot_text.clone())
            .unwrap_or_default(),
        ready,
        missing,
        lanes,
    }
}

fn boot(device: &Device, events: &[Event]) -> Timestamp {
    let noted = device.node.get("nodeagent").and_then(|node| node.boot_time);
    let starts = events
        .iter()
        .filter(|event| event.what == What::Started)
        .map(|event| event.at)
        .chain(device.services.rows.values().filter_map(since));
    let first = match noted {
        Some(noted) => {
            let earliest = noted.saturating_sub(EARLIER).unwrap_or(noted);
            starts.filter(|at| *at >= earliest).min()
        }
        None => starts.min(),
    };
    match (noted, first) {
        (Some(noted), Some(first)) => noted.min(first),
        (Some(at), None) | (None, Some(at)) => at,
        (None, None) => device.at,
    }
}

fn since(unit: &model::service::ServiceStatus) -> Option<Timestamp> {
    match &unit.phase {
        ServicePhase::Starting { since, .. } | ServicePhase::Running { since, .. } => Some(*since),
        ServicePhase::Waiting { .. }
        | ServicePhase::Backoff { .. }
        | ServicePhase::Stopping { .. }
        | ServicePhase::Stopped => None,
    }
}

/// When a service had completed all topics that it writes, since its last start.
fn completed(device: &Device, service: &str) -> Option<Timestamp> {
    let topics = device.topics();
    let own = topics
        .iter()
        .filter(|topic| topic.service == service && topic.known);
    let mut latest = None;
    for topic in own {
        if !topic.ready {
            return None;
        }
        latest = latest.max(topic.ready_at);
    }
    latest
}

fn services(device: &Device, events: &[&Event]) -> Vec<Lane> {
    let mut starts: BTreeMap<&str, Vec<Timestamp>> = BTreeMap::new();
    for event in events.iter().filter(|event| event.what == What::Started) {
        starts.entry(&event.unit).or_default().push(event.at);
    }
    for (name, unit) in &device.services.rows {
        // Helpers print no such line; a service's may have been rotated away.
        if let Some(since) = since(unit)
            && !starts.contains_key(name.as_str())
        {
            starts.insert(name, vec![since]);
        }
    }
    let lane = |(name, starts): (&str, Vec<Timestamp>)| {
        let done = completed(device, name);
        let mut spans = Vec::new();
        for (index, from) in starts.iter().enumerate() {
            let next = starts.get(index + 1).copied();
            let waits = events.iter().rev().find_map(|event| match &event.what {
                What::Waiting(topics)
                    if event.unit == name
                        && event.at >= *from
                        && next.is_none_or(|next| event.at < next) =>
                {
                    Some((event.at, topics))
                }
                _ => None,
            });
            let again = if index == 0 { "" } else { ", started again" };
            // Of a former process only what it did next is known: its first plan was carried out by then.
            let acted = || {
                let own = events
                    .iter()
                    .filter(|event| event.unit == name && event.at > *from);
                let mut phases = own.filter(|event| matches!(event.what, What::Phase { .. }));
                phases
                    .next()
                    .map(|event| event.at)
                    .filter(|at| next.is_none_or(|next| *at < next))
            };
            let until = match next {
                None => done.filter(|done| done >= from),
                Some(_) => acted(),
            };
            match waits {
                _ if name.contains('/') => spans.push(Span {
                    phase: format!("started{again}"),
                    from: *from,
                    until: None,
                    nature: Nature::Done,
                }),
                None => spans.push(work(format!("first turn{again}"), *from, until)),
                Some((at, topics)) => {
                    spans.push(work(format!("start{again}"), *from, Some(at)));
                    spans.push(work(format!("waits for {}", shorter(topics)), at, until));
                }
            }
        }
        Lane {
            name: title(device, name),
            service: true,
            spans,
        }
    };
    starts.into_iter().map(lane).collect()
}

/// The last name in a list of topics: `zedmanager/DomainConfig and 2 more`.
fn shorter(topics: &str) -> String {
    let names: Vec<&str> = topics.split(", ").collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}

fn work(phase: String, from: Timestamp, until: Option<Timestamp>) -> Span {
    Span {
        phase,
        from,
        until,
        nature: Nature::Work,
    }
}

fn title(device: &Device, unit: &str) -> String {
    match unit.split_once('/') {
        None => unit.to_owned(),
        Some((_, helper)) => match device.app_name(helper) {
            Some(app) => format!("{} ({app})", words::short(unit)),
            None => words::short(unit),
        },
    }
}

fn objects(device: &Device, events: &[&Event]) -> Vec<Lane> {
    let mut lanes: Vec<((String, String), Lane)> = Vec::new();
    for event in events {
        let (topic, key, phase, nature) = match &event.what {
            What::Phase { topic, key, to } => {
                let nature = if ARRIVED.contains(&to.as_str()) {
                    Nature::Done
                } else if to == "Failed" {
                    Nature::Trouble
                } else {
                    Nature::Work
                };
                (topic.as_str(), key.as_str(), in_words(to), nature)
            }
            What::Fault { topic, key, text } => {
                (topic.as_str(), key.as_str(), text.clone(), Nature::Trouble)
            }
            What::Lease { if_name, address } => (
                "port",
                if_name.as_str(),
                format!("lease of {address}"),
                Nature::Done,
            ),
            What::Started | What::Waiting(_) => continue,
        };
        let Some(name) = object_name(device, topic, key) else {
            continue;
        };
        let id = (topic.to_owned(), key.to_owned());
        let index = lanes.iter().position(|(other, _)| *other == id);
        let index = index.unwrap_or_else(|| {
            let lane = Lane {
                name,
                service: false,
                spans: Vec::new(),
            };
            lanes.push((id, lane));
            lanes.len() - 1
        });
        let spans = &mut lanes[index].1.spans;
        // A fault interrupts nothing: the phase goes on until the next.
        if !matches!(event.what, What::Fault { .. })
            && let Some(open) = spans
                .iter_mut()
                .rev()
                .find(|span| span.until.is_none() && span.nature == Nature::Work)
        {
            open.until = Some(event.at);
        }
        spans.push(Span {
            phase,
            from: event.at,
            until: None,
            nature,
        });
    }
    lanes.into_iter().map(|(_, lane)| lane).collect()
}

fn object_name(device: &Device, topic: &str, key: &str) -> Option<String> {
    if topic == "port" {
        return Some(format!("port {key}"));
    }
    let (_, word) = SHOWN.iter().find(|(shown, _)| *shown == topic)?;
    let name = match topic {
        "OnboardingStatus" => return Some((*word).to_owned()),
        "ContentTreeStatus" => device
            .content_tree_configs
            .get(key)
            .map(|tree| tree.display_name.as_str()),
        "VolumeStatus" => device
            .volumes
            .get(key)
            .map(|volume| volume.display_name.as_str()),
        "NetworkInstanceStatus" => device
            .network_instances
            .get(key)
            .map(|network| network.display_name.as_str()),
        _ => device.app_name(key),
    };
    let name = name.filter(|name| !name.is_empty());
    Some(format!(
        "{word} {}",
        name.map_or_else(|| words::short(key), str::to_owned)
    ))
}

/// `AwaitNetwork` as `await network`.
fn in_words(phase: &str) -> String {
    let mut text = String::with_capacity(phase.len() + 4);
    for c in phase.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

/// When everything was there, or what is not.
fn ready(device: &Device, events: &[&Event]) -> (Option<Timestamp>, Vec<String>) {
    let mut missing = Vec::new();
    let mut latest: Option<Timestamp> = None;
    for name in device
        .services
        .rows
        .keys()
        .filter(|name| !name.contains('/'))
    {
        match completed(device, name) {
            // A service that was started again later was ready before.
            Some(at)
                if device
                    .services
                    .get(name)
                    .is_some_and(|unit| unit.restarts == 0) =>
            {
                latest = latest.max(Some(at));
            }
            Some(_) => {}
            None => missing.push(format!("{name} has not completed its topics")),
        }
    }
    let first = |topic: &str, key: &str, wanted: &str| {
        events.iter().find_map(|event| match &event.what {
            What::Phase {
                topic: t,
                key: k,
                to,
            } if t == topic && k == key && to == wanted => Some(event.at),
            _ => None,
        })
    };
    let onboarded = device
        .onboarding
        .get("global")
        .is_some_and(|row| row.phase == OnboardPhase::Onboarded);
    if onboarded {
        latest = latest.max(first("OnboardingStatus", "global", "Onboarded"));
    } else {
        missing.push("the device is not onboarded".to_owned());
    }
    for (key, app) in device
        .app_configs
        .rows
        .iter()
        .filter(|(_, app)| app.activate)
    {
        match first("AppInstanceStatus", key, "Running") {
            Some(at) => latest = latest.max(Some(at)),
            None => missing.push(format!("app {} did not run", app.display_name)),
        }
    }
    if missing.is_empty() {
        (latest, missing)
    } else {
        (None, missing)
    }
}
