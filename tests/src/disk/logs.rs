//! newlogd on the recorded disk: lines are printed, packed, delivered; after a cut each is in exactly one file.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use agent::{Clock, Runtime};
use bus::{Bus, Publisher};
use jiff::Timestamp;
use model::{
    code::Code,
    config_item::ConfigItemValueMap,
    id::DeviceId,
    node::{OnboardPhase, OnboardingStatus},
    port::DeviceNetworkStatus,
    topics::{CONFIG_ITEMS, DEVICE_NETWORK_STATUS, ONBOARDING_STATUS},
};
use newlogd::{
    Desired, Newlogd,
    entry::Entry,
    gzip,
    plan::pacing::Answer,
    world::{
        Logs, Places,
        evc::{Carrier, Reply},
        store::Store,
    },
};
use uuid::Uuid;

use super::load::append;

const START: i64 = 1_767_225_600;

/// A line and the mark from which on it is on the disk, if it was synced.
#[derive(Debug, Clone)]
pub(super) struct Line {
    text: String,
    synced: Option<u64>,
}

/// A controller that keeps what it gets.
#[derive(Clone, Default)]
struct Evc(Arc<Mutex<Room>>);

#[derive(Default)]
struct Room {
    away: bool,
    files: Vec<Vec<u8>>,
}

impl Carrier for Evc {
    async fn carry(&self, _: &Desired, _: Option<Uuid>, file: Vec<u8>) -> Reply {
        let mut room = self.0.lock().unwrap();
        if room.away {
            let failure =
                agent::Failure::new(Code::ControllerUnreachable, "logs", "away").transient();
            return Reply::failed(Answer::Unavailable, false, failure);
        }
        room.files.push(file);
        Reply::taken()
    }
}

/// newlogd with one source.
pub(super) struct Newlog {
    runtime: Runtime<Newlogd, Logs<Evc>>,
    evc: Evc,
    log: PathBuf,
    lines: Vec<Line>,
    delivered: Vec<(u64, Vec<u8>)>,
    _inputs: (
        Publisher<ConfigItemValueMap>,
        Publisher<OnboardingStatus>,
        Publisher<DeviceNetworkStatus>,
    ),
}

impl Newlog {
    /// At `persist/newlog`.
    pub(super) fn start(persist: &Path) -> Self {
        let bus = Bus::memory();
        let (nim, zedagent) = (bus.acting_as("nim"), bus.acting_as("zedagent"));
        let mut items = zedagent.publisher(&CONFIG_ITEMS).unwrap();
        let mut onboarding = zedagent.publisher(&ONBOARDING_STATUS).unwrap();
        let mut network = nim.publisher(&DEVICE_NETWORK_STATUS).unwrap();
        let status = OnboardingStatus {
            phase: OnboardPhase::Onboarded,
            device: Some(DeviceId(Uuid::from_u128(1))),
            ..Default::default()
        };
        onboarding.publish("global", &status).unwrap();
        let port = serde_json::json!({"DpcKey": "zedagent"});
        let port: DeviceNetworkStatus = serde_json::from_value(port).unwrap();
        network.publish("global", &port).unwrap();
        onboarding.set_ready().unwrap();
        network.set_ready().unwrap();
        items.set_ready().unwrap();
        let places = Places {
            logs: persist.join("log"),
            newlog: persist.join("newlog"),
            kmsg: None,
            release: persist.join("eve-release"),
            disk: Some(u64::MAX),
        };
        let clock = Clock::tokio(Timestamp::from_second(START).unwrap());
        let evc = Evc::default();
        let store = Store::at(persist.join("newlog"));
        let world = Logs::open(places, store, clock.clone(), evc.clone()).unwrap();
        Self {
            runtime: Runtime::new(bus.acting_as("newlogd"), world, clock, 1),
            evc,
            log: persist.join("log/nim.log"),
            lines: Vec::new(),
            delivered: Vec::new(),
            _inputs: (items, onboarding, network),
        }
    }

    /// Lines are printed, and on the disk when this returns if `synced`.
    pub(super) fn print(&mut self, count: usize, synced: bool, mark: impl Fn() -> u64) {
        let first = self.lines.len();
        for number in first..first + count {
            let text = format!("line {number} {:0>40}", number * 7919);
            append(&self.log, &format!("{text}\n"), false);
            self.lines.push(Line { text, synced: None });
        }
        if synced {
            append(&self.log, "", true);
            let now = mark();
            for line in &mut self.lines {
                line.synced.get_or_insert(now);
            }
        }
    }

    /// Some minutes pass.
    pub(super) async fn pass(&mut self, reachable: bool, mark: impl Fn() -> u64) {
        self.evc.0.lock().unwrap().away = !reachable;
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(301)).await;
            // The disk may be broken.
            let _ = self.runtime.settle().await;
            let now = mark();
            let mut room = self.evc.0.lock().unwrap();
            self.delivered
                .extend(room.files.drain(..).map(|file| (now, file)));
        }
    }

    pub(super) fn lines(&mut self) -> Vec<Line> {
        std::mem::take(&mut self.lines)
    }

    pub(super) fn delivered(&mut self) -> Vec<(u64, Vec<u8>)> {
        std::mem::take(&mut self.delivered)
    }
}

/// Starts newlogd on the disk as the cut left it and lets it deliver everything.
pub(super) async fn judge(
    persist: &Path,
    lines: &[Line],
    delivered: &[&(u64, Vec<u8>)],
    at: u64,
) -> Vec<String> {
    let mut newlog = Newlog::start(persist);
    for _ in 0..40 {
        newlog.pass(true, || 0).await;
        let waiting = ["devUpload", "appUpload"].iter().any(|queue| {
            std::fs::read_dir(persist.join("newlog").join(queue))
                .is_ok_and(|mut entries| entries.next().is_some())
        });
        if !waiting {
            break;
        }
    }
    // A file that is sent twice is the same file.
    let files: BTreeSet<Vec<u8>> = newlog
        .delivered()
        .into_iter()
        .chain(delivered.iter().copied().cloned())
        .map(|(_, file)| file)
        .collect();
    let mut found: BTreeMap<String, u32> = BTreeMap::new();
    let mut wrong = Vec::new();
    for file in &files {
        match gzip::unpack(file) {
            Ok(content) => {
                for line in content.text.lines() {
                    match serde_json::from_str::<Entry>(line) {
                        Ok(entry) => *found.entry(entry.content).or_default() += 1,
                        Err(error) => wrong.push(format!("an entry of a log file: {error}")),
                    }
                }
            }
            Err(error) => wrong.push(format!("a log file: {error}")),
        }
    }
    let known: BTreeSet<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    let (mut missing, mut twice) = (Vec::new(), Vec::new());
    for line in lines {
        match found.get(&line.text) {
            None if line.synced.is_some_and(|synced| synced <= at) => missing.push(&line.text),
            Some(2..) => twice.push(&line.text),
            Some(_) | None => {}
        }
    }
    if !missing.is_empty() {
        wrong.push(format!(
            "{} lines are gone: {:?}...",
            missing.len(),
            missing[0]
        ));
    }
    if !twice.is_empty() {
        wrong.push(format!(
            "{} lines are there twice: {:?}...",
            twice.len(),
            twice[0]
        ));
    }
    // Of a line that was not on the disk yet, a part may be.
    let is_part = |text: &str| {
        let mut unsynced = lines
            .iter()
            .filter(|line| line.synced.is_none_or(|s| s > at));
        unsynced.any(|line| line.text.starts_with(text))
    };
    let strange: Vec<_> = found
        .keys()
        .filter(|text| !known.contains(text.as_str()) && !is_part(text))
        .collect();
    if let Some(first) = strange.first() {
        wrong.push(format!(
            "{} lines that nobody printed: {first:?}...",
            strange.len()
        ));
    }
    wrong
}
