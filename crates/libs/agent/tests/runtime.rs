//! The loop, against an in-memory bus, tokio's paused clock and a world that can fail.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use agent::{
    Action, Clock, Failure, Outbox, Plan, Progress, Runtime, Service, Settled, Tables, Turn, World,
};
use bus::{Bus, Rows, Topic};
use jiff::Timestamp;
use model::{code::Code, fault::Fault};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

const LAMPS: Topic<bool> = Topic::run("house", "LampConfig");
const STATUS: Topic<Lamp> = Topic::run("electrician", "LampStatus");

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Lamp {
    on: bool,
    busy: bool,
    fault: Option<Fault>,
}

#[derive(Debug, Clone, PartialEq)]
struct Switch {
    lamp: String,
    on: bool,
}
impl Action for Switch {
    fn subject(&self) -> String {
        format!("lamp {}", self.lamp)
    }
    fn is_slow(&self) -> bool {
        self.lamp.starts_with("slow")
    }
}

struct Electrician;
struct Report(Rows<Lamp>);
impl agent::Report for Report {
    fn put(self, out: &mut Outbox) {
        out.put(&STATUS, Some(self.0));
    }
}
impl Service for Electrician {
    const NAME: &'static str = "electrician";
    type Desired = Arc<Rows<bool>>;
    type Actual = BTreeMap<String, bool>;
    type Action = Switch;
    type Report = Report;
    fn read(tables: &mut Tables) -> Option<Self::Desired> {
        tables.get(&LAMPS)
    }
    fn plan(turn: &Turn<'_, Self>) -> Plan<Self> {
        let lamps = turn.desired.keys().map(|lamp| {
            let subject = format!("lamp {lamp}");
            let status = Lamp {
                on: turn.actual.get(lamp) == Some(&true),
                busy: turn.jobs.is_running(&subject),
                fault: turn.jobs.fault(&subject).cloned(),
            };
            (lamp.clone(), status)
        });
        let mut plan = Plan::report(Report(lamps.collect()));
        plan.actions = turn
            .desired
            .iter()
            .filter(|(lamp, on)| turn.actual.get(*lamp).unwrap_or(&false) != *on)
            .map(|(lamp, on)| Switch {
                lamp: lamp.clone(),
                on: *on,
            })
            .collect();
        plan
    }
}

#[derive(Clone, Default)]
struct House {
    lamps: Arc<Mutex<BTreeMap<String, bool>>>,
    broken: Arc<Mutex<Option<bool>>>,
    dead: Arc<Mutex<bool>>,
    applied: Arc<AtomicUsize>,
    cancelled: Arc<AtomicUsize>,
}
impl World<Electrician> for House {
    async fn observe(&self, _: &Arc<Rows<bool>>) -> Result<BTreeMap<String, bool>, Failure> {
        Ok(self.lamps.lock().unwrap().clone())
    }
    async fn apply(&self, action: Switch, progress: Progress) -> Result<(), Failure> {
        struct Dropped(Arc<AtomicUsize>, bool);
        impl Drop for Dropped {
            fn drop(&mut self) {
                if !self.1 {
                    self.0.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
        let mut dropped = Dropped(self.cancelled.clone(), false);
        self.applied.fetch_add(1, Ordering::SeqCst);
        assert!(
            action.lamp != "slow-panic" || *self.dead.lock().unwrap(),
            "short circuit"
        );
        if action.is_slow() {
            progress.set(1, 2);
            sleep(Duration::from_secs(60)).await;
        }
        dropped.1 = true;
        if let Some(transient) = *self.broken.lock().unwrap() {
            return Err(
                Failure::new(Code::BusWrite, action.subject(), "no power").transient_if(transient)
            );
        }
        if !*self.dead.lock().unwrap() {
            self.lamps.lock().unwrap().insert(action.lamp, action.on);
        }
        Ok(())
    }
}

struct Fixture {
    bus: Bus,
    house: House,
    config: bus::Publisher<bool>,
    runtime: Runtime<Electrician, House>,
}

fn fixture() -> Fixture {
    let bus = Bus::memory();
    let house = House::default();
    let clock = Clock::tokio(Timestamp::UNIX_EPOCH);
    let runtime = Runtime::new(bus.acting_as("electrician"), house.clone(), clock, 1);
    let config = bus.acting_as("house").publisher(&LAMPS).unwrap();
    Fixture {
        bus,
        house,
        config,
        runtime,
    }
}

impl Fixture {
    fn want(&mut self, lamps: &[(&str, bool)]) {
        let rows = lamps.iter().map(|(l, on)| ((*l).to_owned(), *on)).collect();
        self.config.replace(&rows).unwrap();
        self.config.set_ready().unwrap();
    }
    fn status(&self, lamp: &str) -> Lamp {
        self.bus.read(&STATUS).unwrap().unwrap()[lamp].clone()
    }
}

#[tokio::test(start_paused = true)]
async fn absent_input_is_not_empty_input() {
    let mut f = fixture();
    f.house
        .lamps
        .lock()
        .unwrap()
        .insert("hall".to_owned(), true);
    let settled = f.runtime.settle().await.unwrap();
    assert_eq!(
        settled,
        Settled::Waiting(vec!["house/LampConfig".to_owned()])
    );
    assert!(
        f.bus.read(&STATUS).unwrap().is_none(),
        "and says nothing itself"
    );
    f.want(&[]);
    assert_eq!(f.runtime.settle().await.unwrap(), Settled::Quiet);
    assert_eq!(f.bus.read(&STATUS).unwrap().unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn it_does_what_is_wanted_and_then_rests() {
    let mut f = fixture();
    f.want(&[("hall", true), ("attic", false)]);
    assert_eq!(f.runtime.settle().await.unwrap(), Settled::Quiet);
    assert!(f.status("hall").on && !f.status("attic").on);
    let outcome = f.runtime.turn().await.unwrap();
    assert_eq!(
        (outcome.applied, outcome.changed_rows, outcome.wake),
        (0, 0, None)
    );
    f.want(&[]);
    f.runtime.settle().await.unwrap();
    assert!(
        f.bus.read(&STATUS).unwrap().unwrap().is_empty(),
        "rows that are not reported go away"
    );
}

#[tokio::test(start_paused = true)]
async fn a_fault_is_on_the_bus_with_its_next_try_and_goes_when_it_works() {
    let mut f = fixture();
    *f.house.broken.lock().unwrap() = Some(true);
    f.want(&[("hall", true)]);
    let bus = f.bus.clone();
    let house = f.house.clone();
    let loop_ = tokio::spawn(f.runtime.run(std::future::pending()));
    sleep(Duration::from_secs(40)).await;
    let fault = bus.read(&STATUS).unwrap().unwrap()["hall"]
        .fault
        .clone()
        .unwrap();
    assert!((4..=7).contains(&fault.attempts), "{fault:?}");
    assert!(fault.next.unwrap() > Timestamp::UNIX_EPOCH);
    let before = house.applied.load(Ordering::SeqCst);
    assert!(before <= 7, "backoff, not a busy loop: {before}");
    *house.broken.lock().unwrap() = None;
    sleep(Duration::from_secs(60)).await;
    let lamp = bus.read(&STATUS).unwrap().unwrap()["hall"].clone();
    assert_eq!(
        lamp,
        Lamp {
            on: true,
            busy: false,
            fault: None
        }
    );
    loop_.abort();
}

#[tokio::test(start_paused = true)]
async fn slow_work_is_one_task_per_subject_and_turns_go_on() {
    let mut f = fixture();
    f.want(&[("slow-gate", true), ("hall", true)]);
    f.runtime.turn().await.unwrap();
    let outcome = f.runtime.turn().await.unwrap();
    assert_eq!((outcome.running, outcome.started), (1, 0));
    assert!(f.status("slow-gate").busy && f.status("hall").on);
    f.runtime.settle().await.unwrap();
    assert_eq!(
        f.status("slow-gate"),
        Lamp {
            on: true,
            busy: false,
            fault: None
        }
    );
    assert_eq!(f.house.applied.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn work_that_is_no_longer_wanted_is_cancelled() {
    let mut f = fixture();
    f.want(&[("slow-gate", true)]);
    f.runtime.turn().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    f.want(&[]);
    assert_eq!(f.runtime.turn().await.unwrap().running, 0);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(f.house.cancelled.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn success_without_effect_is_reported_not_repeated_for_ever() {
    let mut f = fixture();
    *f.house.dead.lock().unwrap() = true;
    f.want(&[("hall", true)]);
    let (bus, house) = (f.bus.clone(), f.house.clone());
    let loop_ = tokio::spawn(f.runtime.run(std::future::pending()));
    sleep(Duration::from_secs(30)).await;
    assert_eq!(
        bus.read(&STATUS).unwrap().unwrap()["hall"]
            .fault
            .as_ref()
            .unwrap()
            .code,
        Code::AgentNoEffect
    );
    assert!(house.applied.load(Ordering::SeqCst) < 12);
    loop_.abort();
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_task_is_a_fault_of_its_subject() {
    let mut f = fixture();
    f.want(&[("slow-panic", true), ("hall", true)]);
    f.runtime.settle().await.unwrap();
    f.runtime.turn().await.unwrap();
    assert_eq!(f.status("slow-panic").fault.unwrap().code, Code::AgentPanic);
    assert!(f.status("hall").on);
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_the_tasks() {
    let mut f = fixture();
    f.want(&[("slow-gate", true)]);
    let (house, stop) = (f.house.clone(), Arc::new(tokio::sync::Notify::new()));
    let stopped = stop.clone();
    let loop_ = tokio::spawn(f.runtime.run(async move { stopped.notified().await }));
    sleep(Duration::from_secs(2)).await;
    stop.notify_one();
    loop_.await.unwrap();
    assert_eq!(house.cancelled.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_the_first_turn_starts_from_what_is_observed() {
    let mut f = fixture();
    f.want(&[("hall", true)]);
    f.runtime.settle().await.unwrap();
    let clock = Clock::tokio(Timestamp::UNIX_EPOCH);
    let mut next: Runtime<Electrician, House> =
        Runtime::new(f.bus.acting_as("electrician"), f.house.clone(), clock, 2);
    let outcome = next.turn().await.unwrap();
    assert_eq!((outcome.applied, outcome.changed_rows), (0, 0));
    assert_eq!(f.house.applied.load(Ordering::SeqCst), 1);
}

/// An action that never comes back, among the quick ones.
struct Stuck;
impl World<Electrician> for Stuck {
    async fn observe(&self, _: &Arc<Rows<bool>>) -> Result<BTreeMap<String, bool>, Failure> {
        Ok(BTreeMap::new())
    }
    async fn apply(&self, _: Switch, _: Progress) -> Result<(), Failure> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_quick_action_that_hangs_does_not_keep_the_service_from_stopping() {
    let bus = Bus::memory();
    let mut config = bus.acting_as("house").publisher(&LAMPS).unwrap();
    config.publish("hall", &true).unwrap();
    config.set_ready().unwrap();
    let clock = Clock::tokio(Timestamp::UNIX_EPOCH);
    let runtime = Runtime::new(bus.acting_as("electrician"), Stuck, clock, 1);
    let began = tokio::time::Instant::now();
    runtime.run(sleep(Duration::from_secs(1))).await;
    assert!(began.elapsed() < Duration::from_secs(2));
}
