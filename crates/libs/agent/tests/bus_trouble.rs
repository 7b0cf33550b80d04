//! What the loop does when the bus refuses, and what it leaves alone.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use agent::{
    Action, Clock, Failure, Outbox, Plan, Progress, Runtime, Service, Settled, Tables, Turn, World,
};
use bus::{Bus, Rows, Topic};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer, ser::Error};

const WISHES: Topic<u32> = Topic::run("boss", "Wish");
const HINTS: Topic<u32> = Topic::run("boss", "Hint");
const ROWS: Topic<Odd> = Topic::run("clerk", "Row");
const MEMORY: Topic<u32> = Topic::persist("clerk", "Memory");
const NOTES: Topic<Odd> = Topic::persist("clerk", "Note");

/// Thirteen cannot be written down.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Odd(u32);
impl Serialize for Odd {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            13 => Err(S::Error::custom("unlucky")),
            n => to.serialize_u32(n),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Stamp(u32);
impl Action for Stamp {
    fn subject(&self) -> String {
        "paper".to_owned()
    }
    fn is_slow(&self) -> bool {
        true
    }
}

struct Clerk;
struct Desired {
    wishes: Arc<Rows<u32>>,
    memory: Arc<Rows<u32>>,
    notes: Option<u32>,
}
struct Report(Rows<Odd>, Rows<u32>, Rows<Odd>);
impl agent::Report for Report {
    fn put(self, out: &mut Outbox) {
        out.put(&MEMORY, Some(self.1));
        out.put(&ROWS, Some(self.0));
        out.remember(&NOTES, self.2);
    }
}
impl Service for Clerk {
    const NAME: &'static str = "clerk";
    type Desired = Desired;
    type Actual = u32;
    type Action = Stamp;
    type Report = Report;
    fn read(tables: &mut Tables) -> Option<Desired> {
        tables.peek(&HINTS);
        let wishes = tables.get(&WISHES);
        Some(Desired {
            memory: tables.own(&MEMORY),
            notes: wishes.as_ref()?.get("note").copied(),
            wishes: wishes?,
        })
    }
    fn plan(turn: &Turn<'_, Self>) -> Plan<Self> {
        let rows = turn.desired.wishes.iter();
        let seen = turn.desired.memory.get("seen").copied().unwrap_or(0) + 1;
        let mut plan = Plan::report(Report(
            rows.filter(|(k, _)| *k != "note")
                .map(|(k, n)| (k.clone(), Odd(*n)))
                .collect(),
            [("seen".to_owned(), seen.min(2))].into(),
            turn.desired
                .notes
                .iter()
                .map(|n| ("note".to_owned(), Odd(*n)))
                .collect(),
        ));
        let wanted = turn.desired.wishes.get("stamp").copied().unwrap_or(0);
        if *turn.actual != wanted {
            plan.actions.push(Stamp(wanted));
        }
        plan
    }
}

/// Stamping takes a thread 150 ms, whether anybody still waits for it or not.
#[derive(Clone, Default)]
struct Desk {
    at_work: Arc<AtomicUsize>,
    most_at_once: Arc<AtomicUsize>,
    stamped: Arc<AtomicUsize>,
}
impl World<Clerk> for Desk {
    async fn observe(&self, _: &Desired) -> Result<u32, Failure> {
        Ok(u32::try_from(self.stamped.load(Ordering::SeqCst)).unwrap())
    }
    async fn apply(&self, action: Stamp, progress: Progress) -> Result<(), Failure> {
        let desk = self.clone();
        let work = tokio::task::spawn_blocking(move || {
            let now = desk.at_work.fetch_add(1, Ordering::SeqCst) + 1;
            desk.most_at_once.fetch_max(now, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(150));
            progress.set(1, 1);
            desk.at_work.fetch_sub(1, Ordering::SeqCst);
        });
        work.await.unwrap();
        self.stamped
            .store(usize::try_from(action.0).unwrap(), Ordering::SeqCst);
        Ok(())
    }
}

fn runtime(bus: &Bus, desk: &Desk) -> Runtime<Clerk, Desk> {
    let clock = Clock::tokio(Timestamp::UNIX_EPOCH);
    Runtime::new(bus.acting_as("clerk"), desk.clone(), clock, 1)
}

fn wish(bus: &Bus, wishes: &[(&str, u32)]) {
    let mut boss = bus.acting_as("boss").publisher(&WISHES).unwrap();
    let rows: BTreeMap<_, _> = wishes.iter().map(|(k, n)| ((*k).to_owned(), *n)).collect();
    boss.replace(&rows).unwrap();
    boss.set_ready().unwrap();
}

#[tokio::test]
async fn a_row_that_cannot_be_written_keeps_no_other_back_and_the_table_is_not_called_complete() {
    let bus = Bus::memory();
    wish(&bus, &[("a", 1), ("b", 13), ("c", 3)]);
    let mut clerk = runtime(&bus, &Desk::default());
    clerk.turn().await.unwrap_err();
    assert_eq!(
        bus.read(&ROWS).unwrap(),
        None,
        "readers would remove what belongs to b"
    );
    let there = bus.read_raw("clerk", "Row").unwrap();
    assert_eq!(there.keys().collect::<Vec<_>>(), ["a", "c"]);
    wish(&bus, &[("a", 1), ("b", 2), ("c", 3)]);
    clerk.turn().await.unwrap();
    assert_eq!(bus.read(&ROWS).unwrap().unwrap().len(), 3);
}

#[tokio::test]
async fn work_goes_on_when_a_row_of_this_boot_cannot_be_written_but_not_without_its_memory() {
    let (bus, control) = Bus::memory_with_control();
    let desk = Desk::default();
    wish(&bus, &[("stamp", 7), ("b", 13)]);
    let mut clerk = runtime(&bus, &desk);
    clerk.turn().await.unwrap_err();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(desk.stamped.load(Ordering::SeqCst), 7);

    let desk = Desk::default();
    wish(&bus, &[("stamp", 8)]);
    let mut clerk = runtime(&bus, &desk);
    control.kill_after("clerk", 0);
    clerk.turn().await.unwrap_err();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(desk.stamped.load(Ordering::SeqCst), 0);
    control.revive("clerk");
    clerk.turn().await.unwrap();
}

#[tokio::test]
async fn what_no_action_relies_on_keeps_none_back() {
    let bus = Bus::memory();
    let desk = Desk::default();
    wish(&bus, &[("stamp", 7), ("note", 13), ("b", 1)]);
    let mut clerk = runtime(&bus, &desk);
    clerk.turn().await.unwrap_err();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(desk.stamped.load(Ordering::SeqCst), 7);
    assert_eq!(bus.read(&NOTES).unwrap(), None, "nor is it called complete");
}

#[tokio::test]
async fn a_topic_that_cannot_be_opened_stops_the_turn_and_becomes_ready_later() {
    let root = tempfile::tempdir().unwrap();
    let bus = Bus::open(root.path(), "clerk").unwrap();
    wish(&bus, &[("a", 1)]);
    let place = root.path().join("persist/status/clerk/Memory");
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(&place, "in the way").unwrap();
    let mut clerk = runtime(&bus, &Desk::default());
    clerk.turn().await.unwrap_err();
    assert_eq!(
        bus.read(&ROWS).unwrap(),
        None,
        "nothing is said by a service without memory"
    );
    fs::remove_file(&place).unwrap();
    clerk.turn().await.unwrap();
    assert_eq!(bus.read(&MEMORY).unwrap().unwrap()["seen"], 1);
    assert_eq!(bus.read(&ROWS).unwrap().unwrap().len(), 1);
}

#[tokio::test]
async fn a_dry_run_beside_the_service_leaves_its_topics_as_they_are() {
    let bus = Bus::memory();
    wish(&bus, &[("a", 1)]);
    let mut clerk = runtime(&bus, &Desk::default());
    clerk.settle().await.unwrap();
    let plan = runtime(&bus, &Desk::default()).dry_turn().await.unwrap();
    assert_eq!(
        plan.unwrap().report.1["seen"],
        2,
        "it knows what the service knows"
    );
    assert!(bus.topics().unwrap().iter().all(|topic| topic.ready));
}

#[tokio::test]
async fn a_cancelled_thread_ends_before_its_subject_is_worked_on_again() {
    let bus = Bus::memory();
    let desk = Desk::default();
    let mut clerk = runtime(&bus, &desk);
    for number in 1..=3 {
        wish(&bus, &[("stamp", number)]);
        clerk.turn().await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert_eq!(clerk.settle().await.unwrap(), Settled::Quiet);
    assert_eq!(desk.stamped.load(Ordering::SeqCst), 3);
    assert_eq!(desk.most_at_once.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn only_needed_inputs_are_waited_for() {
    let bus = Bus::memory();
    let mut clerk = runtime(&bus, &Desk::default());
    let waiting = Settled::Waiting(vec!["boss/Wish".to_owned()]);
    assert_eq!(clerk.settle().await.unwrap(), waiting);
    assert_eq!(clerk.inputs().len(), 2);
}
