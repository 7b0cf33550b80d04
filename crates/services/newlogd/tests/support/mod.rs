//! A device with real files, virtual time, and a controller that can be away or refuse.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use agent::{Clock, Failure, Runtime, Settled};
use bus::{Bus, Publisher};
use jiff::Timestamp;
use model::{
    code::Code,
    config_item::ConfigItemValueMap,
    id::DeviceId,
    log::NewlogMetrics,
    node::{OnboardPhase, OnboardingStatus},
    port::DeviceNetworkStatus,
    topics::{CONFIG_ITEMS, DEVICE_NETWORK_STATUS, NEWLOG_METRICS, ONBOARDING_STATUS},
};
use newlogd::{
    Desired, Newlogd,
    entry::Entry,
    gzip::{self, Content},
    plan::pacing::Answer,
    world::{
        Logs, Places,
        evc::{Carrier, Reply},
        store::Store,
    },
};
use tempfile::TempDir;
use uuid::Uuid;

/// 2026-01-01T00:00:00Z.
pub const START: i64 = 1_767_225_600;

/// A controller.
#[derive(Clone, Default)]
pub struct Evc(pub Arc<Mutex<Room>>);

#[derive(Default)]
pub struct Room {
    /// What it answers next; `Taken` when there is nothing.
    pub answers: Vec<Answer>,
    /// What it answers otherwise.
    pub always: Option<Answer>,
    /// The answer is lost after the file was taken.
    pub deaf: bool,
    /// Every attempt: when, of whose, which answer.
    pub attempts: Vec<(Duration, Option<Uuid>, Answer)>,
    pub files: Vec<(Option<Uuid>, Content)>,
    known: BTreeSet<Vec<u8>>,
    pub clock: Option<Clock>,
}

impl Carrier for Evc {
    async fn carry(&self, _: &Desired, app: Option<Uuid>, file: Vec<u8>) -> Reply {
        let mut room = self.0.lock().unwrap();
        let answer = match room.answers.pop() {
            Some(answer) => answer,
            None => room.always.unwrap_or(Answer::Taken),
        };
        let now = room.clock.as_ref().map(Clock::uptime).unwrap_or_default();
        room.attempts.push((now, app, answer));
        assert!(file.len() <= gzip::TARGET, "{}", file.len());
        if answer == Answer::Taken && room.known.insert(file.clone()) {
            let content = gzip::unpack(&file).unwrap();
            room.files.push((app, content));
        }
        let failure = Failure::new(Code::ControllerUnreachable, "logs", "no").transient();
        match answer {
            Answer::Taken if room.deaf => Reply::failed(Answer::Unavailable, false, failure),
            Answer::Taken => Reply::taken(),
            other => Reply::failed(
                other,
                matches!(other, Answer::Refused | Answer::TooMany),
                failure,
            ),
        }
    }
}

impl Evc {
    pub fn entries(&self, app: Option<Uuid>) -> Vec<Entry> {
        let room = self.0.lock().unwrap();
        let of = room.files.iter().filter(|(other, _)| *other == app);
        of.flat_map(|(_, content)| content.text.lines())
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    pub fn always(&self, answer: Option<Answer>) {
        self.0.lock().unwrap().always = answer;
    }
}

/// A sum of the tags of this name.
pub fn told(entries: &[Entry], tag: &str) -> u64 {
    let of = entries.iter().filter(|e| e.source == "newlogd");
    of.filter_map(|e| e.tags.get(tag))
        .map(|n| n.parse::<u64>().unwrap())
        .sum()
}

pub struct Device {
    pub dir: TempDir,
    pub bus: Bus,
    pub evc: Evc,
    pub clock: Clock,
    pub fuse: Arc<AtomicU32>,
    pub disk: u64,
    pub runtime: Option<Runtime<Newlogd, Logs<Evc>>>,
    writers: BTreeMap<String, File>,
    items: Publisher<ConfigItemValueMap>,
    onboarding: Publisher<OnboardingStatus>,
    network: Publisher<DeviceNetworkStatus>,
}

impl Device {
    /// Onboarded, and not started.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("log/guests")).unwrap();
        let bus = Bus::memory();
        let nim = bus.acting_as("nim");
        let zedagent = bus.acting_as("zedagent");
        let clock = Clock::tokio(Timestamp::from_second(START).unwrap());
        let evc = Evc::default();
        evc.0.lock().unwrap().clock = Some(clock.clone());
        let mut device = Self {
            dir,
            evc,
            clock,
            fuse: Arc::new(AtomicU32::new(u32::MAX)),
            disk: u64::MAX,
            runtime: None,
            writers: BTreeMap::new(),
            items: zedagent.publisher(&CONFIG_ITEMS).unwrap(),
            onboarding: zedagent.publisher(&ONBOARDING_STATUS).unwrap(),
            network: nim.publisher(&DEVICE_NETWORK_STATUS).unwrap(),
            bus,
        };
        device.onboard();
        device
    }

    pub fn onboard(&mut self) {
        let status = OnboardingStatus {
            phase: OnboardPhase::Onboarded,
            device: Some(DeviceId(Uuid::from_u128(1))),
            ..Default::default()
        };
        self.onboarding.publish("global", &status).unwrap();
        self.onboarding.set_ready().unwrap();
        let network = serde_json::json!({"DpcKey": "zedagent"});
        let network: DeviceNetworkStatus = serde_json::from_value(network).unwrap();
        self.network.publish("global", &network).unwrap();
        self.network.set_ready().unwrap();
        self.items.set_ready().unwrap();
    }

    pub fn unonboard(&mut self) {
        self.onboarding
            .publish("global", &OnboardingStatus::default())
            .unwrap();
    }

    pub fn property(&mut self, name: &str, value: &str) {
        let mut items = self.items.rows().get("global").cloned().unwrap_or_default();
        items.values.insert(name.to_owned(), value.to_owned());
        self.items.publish("global", &items).unwrap();
    }

    pub fn places(&self) -> Places {
        Places {
            logs: self.dir.path().join("log"),
            newlog: self.newlog(),
            kmsg: None,
            release: self.dir.path().join("eve-release"),
            disk: Some(self.disk),
        }
    }

    pub fn newlog(&self) -> PathBuf {
        self.dir.path().join("newlog")
    }

    /// Starts newlogd, or starts it again after a crash.
    pub fn start(&mut self) {
        self.runtime = None;
        self.fuse.store(u32::MAX, Ordering::Relaxed);
        let store = Store::at(self.newlog()).with_fuse(Arc::clone(&self.fuse));
        let world = Logs::open(self.places(), store, self.clock.clone(), self.evc.clone()).unwrap();
        let bus = self.bus.acting_as("newlogd");
        self.runtime = Some(Runtime::new(bus, world, self.clock.clone(), 1));
    }

    /// From now on the disk fails at every change after so many.
    pub fn blow_after(&self, changes: u32) {
        self.fuse.store(changes, Ordering::Relaxed);
    }

    pub fn print(&mut self, log: &str, line: &str) {
        self.print_raw(log, format!("{line}\n").as_bytes());
    }

    pub fn print_raw(&mut self, log: &str, bytes: &[u8]) {
        let path = self.dir.path().join("log").join(log);
        let file = self.writers.entry(log.to_owned()).or_insert_with(|| {
            OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .unwrap()
        });
        file.write_all(bytes).unwrap();
    }

    /// What the supervisor does every second.
    pub fn cut(&self, log: &str, max: u64) {
        logfile::bound(&self.dir.path().join("log").join(log), max, 9).unwrap();
    }

    /// Turns until there is nothing to do at this moment.
    pub async fn work(&mut self) {
        let runtime = self.runtime.as_mut().expect("started");
        let settled = runtime.settle().await.unwrap();
        assert!(settled == Settled::Quiet, "{settled:?}");
    }

    /// Time passes; newlogd works at its end.
    pub async fn pass(&mut self, seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        self.work().await;
    }

    /// Time passes with work in between, as timers would have it.
    pub async fn live(&mut self, seconds: u64, step: u64) {
        for _ in 0..seconds.div_ceil(step) {
            self.pass(step).await;
        }
    }

    pub fn metrics(&self) -> NewlogMetrics {
        let rows = self.bus.read(&NEWLOG_METRICS).unwrap().unwrap();
        rows["global"].clone()
    }

    pub fn files(&self, queue: &str) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.newlog().join(queue))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub fn bytes(&self) -> u64 {
        ["devUpload", "appUpload", "keepSentQueue", "failedUpload"]
            .iter()
            .flat_map(|queue| fs::read_dir(self.newlog().join(queue)).unwrap())
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum()
    }
}

pub fn contents(entries: &[Entry], source: &str) -> Vec<String> {
    let of = entries.iter().filter(|e| e.source == source);
    of.map(|e| e.content.clone()).collect()
}
