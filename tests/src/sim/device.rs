//! The device: gives turns to services in an order of chance, in virtual time.

use std::{collections::BTreeMap, time::Duration};

use agent::{Clock, Failure, Hand, TurnOutcome};
use bus::{Bus, MemoryControl, Object, Publisher, Rows, Topic};
use jiff::{SignedDuration, Timestamp};
use model::{
    service::{ServicePhase, ServiceStatus},
    topics::{EDGE_NODE_CERT, SERVICE_STATUS},
};
use tokio::time::{Instant, sleep_until};

use super::{
    chance::Chance,
    machine::Machine,
    seat::{Chair, Seat, TopicName},
    worlds::{
        Controller, Doorkeeper, Downloads, Hypervisor, Networks, Ports, Reports, Supervisor,
        Vaults, Verified, Volumes,
    },
};

/// Turns of one service are at least so far apart, as in the runtime's own loop.
const COALESCE: Duration = Duration::from_millis(20);
/// When the device is made.
const BIRTH: &str = "2026-01-01T00:00:00Z";

/// Every service of the device.
pub const SERVICES: [&str; 12] = [
    "nim",
    "zedagent",
    "nodeagent",
    "reporter",
    "zedmanager",
    "volumemgr",
    "vaultmgr",
    "downloader",
    "verifier",
    "domainmgr",
    "zedrouter",
    "accessmgr",
];

/// A device with everything around it.
pub struct Device {
    /// What is outside the services' processes.
    pub machine: Machine,
    /// The bus, acting as nobody.
    pub bus: Bus,
    control: MemoryControl,
    clock: Clock,
    hand: Hand,
    /// How far the wall clock is off.
    off_by: SignedDuration,
    chance: Chance,
    seats: Vec<Place>,
    supervisor: Option<Publisher<ServiceStatus>>,
    /// When power comes back; none while it is on.
    off_until: Option<Instant>,
    /// Times that it booted.
    pub boots: u32,
    /// Turns that each service took.
    pub turns: BTreeMap<&'static str, u64>,
    /// When the minute began in which turns are counted, and how many there had been.
    minute: (Instant, BTreeMap<&'static str, u64>),
    /// How many more turns than usual a service may have in a minute.
    busy: u64,
    /// A clock for what turns cost: their time here is virtual, their work is real.
    pub stopwatch: Option<fn() -> Duration>,
    /// What each turn of a service took on it, since somebody took these away.
    pub costs: BTreeMap<&'static str, Vec<Duration>>,
    /// One turn in so many is the last of its process; 0 for none.
    pub crash_one_in: u32,
    /// One wake-up in so many comes late; 0 for none.
    pub late_one_in: u32,
    seed: u64,
}

/// A service's seat and when its next turn is due.
struct Place {
    seat: Box<dyn Seat>,
    due: Option<Instant>,
    last: Option<Instant>,
    /// While the process is gone: when the supervisor starts it again.
    start: Option<Instant>,
    /// Stopped as by SIGSTOP.
    stalled: Option<Instant>,
    failures: u32,
    restarts: u32,
    began: Timestamp,
}

impl Place {
    fn wake(&mut self, at: Instant) {
        let at = self.last.map_or(at, |last| at.max(last + COALESCE));
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// When something is to be done about it.
    fn next(&self) -> Option<Instant> {
        match (self.start, self.stalled) {
            (Some(start), _) => Some(start),
            (None, Some(until)) => self.due.map(|due| due.max(until)),
            (None, None) => self.due,
        }
    }
}

impl Device {
    /// A new device, switched on. `seed` decides everything that happens by chance.
    pub fn new(seed: u64) -> Self {
        let (clock, hand) = Clock::by_hand(BIRTH.parse().unwrap());
        let (bus, control) = Bus::memory_with_control();
        let machine = Machine::new(seed, clock.clone(), control.clone());
        let m = &machine;
        let seats = vec![
            Chair::<nim::Nim, _>::seat(m, Ports::open),
            Chair::<zedagent::Zedagent, _>::seat(m, Controller::open),
            Chair::<nodeagent::Nodeagent, _>::seat(m, Supervisor::open),
            Chair::<reporter::Reporter, _>::seat(m, Reports::open),
            Chair::<zedmanager::Zedmanager, _>::seat(m, |_, _| zedmanager::world::BusOnly),
            Chair::<volumemgr::Volumemgr, _>::seat(m, Volumes::open),
            Chair::<vaultmgr::Vaultmgr, _>::seat(m, Vaults::open),
            Chair::<downloader::Downloader, _>::seat(m, Downloads::open),
            Chair::<verifier::Verifier, _>::seat(m, Verified::open),
            Chair::<domainmgr::Domainmgr, _>::seat(m, Hypervisor::open),
            Chair::<zedrouter::Zedrouter, _>::seat(m, Networks::open),
            Chair::<accessmgr::Accessmgr, _>::seat(m, Doorkeeper::open),
        ];
        let place = |seat| Place {
            seat,
            due: None,
            last: None,
            start: None,
            stalled: None,
            failures: 0,
            restarts: 0,
            began: Timestamp::UNIX_EPOCH,
        };
        let mut device = Self {
            bus,
            control,
            chance: Chance::new(seed ^ 0x5eed),
            seats: seats.into_iter().map(place).collect(),
            machine,
            supervisor: None,
            off_until: None,
            boots: 0,
            turns: BTreeMap::new(),
            minute: (Instant::now(), BTreeMap::new()),
            busy: 0,
            stopwatch: None,
            costs: BTreeMap::new(),
            crash_one_in: 0,
            late_one_in: 0,
            seed,
            clock,
            hand,
            off_by: SignedDuration::ZERO,
        };
        device.boot();
        device
    }

    /// The wall clock.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Time since boot.
    pub fn uptime(&self) -> Duration {
        self.clock.uptime()
    }

    /// A table as it is, ready or not; empty if there is none.
    pub fn rows<T: Object>(&self, topic: &Topic<T>) -> Rows<T> {
        self.bus.read(topic).unwrap().unwrap_or_default()
    }

    fn boot(&mut self) {
        self.boots += 1;
        self.off_until = None;
        (self.clock, self.hand) = Clock::by_hand(self.clock.now());
        let clock = self.clock.clone();
        self.machine.with(|s| {
            s.clock = clock;
            s.note("== boot");
        });
        self.supervisor = self
            .bus
            .acting_as("supervisor")
            .publisher(&SERVICE_STATUS)
            .ok();
        // The keeper of the keys has none besides the device's.
        if let Ok(mut keeper) = self.bus.acting_as("tpmmgr").publisher(&EDGE_NODE_CERT) {
            keeper.set_ready().unwrap();
        }
        let now = Instant::now();
        for place in &mut self.seats {
            place.restarts = 0;
            place.start = Some(now + self.chance.millis(0..=300));
        }
    }

    /// Everything in memory is gone; the device boots again after `off`.
    pub fn power_cut(&mut self, off: Duration) {
        self.machine.with(|s| s.note("== power cut"));
        self.halt(off);
    }

    fn halt(&mut self, off: Duration) {
        for place in &mut self.seats {
            place.seat.stop();
            place.due = None;
            place.start = None;
            place.stalled = None;
            place.failures = 0;
            self.control.revive(place.seat.name());
        }
        self.supervisor = None;
        self.control.wipe_run();
        self.machine.with(super::machine::State::reboot);
        self.off_until = Some(Instant::now() + off);
    }

    /// Somebody sets the wall clock. No service is told, as on a device.
    pub fn jump(&mut self, by: SignedDuration) {
        self.hand.jump(by);
        self.off_by += by;
        let now = self.clock.now();
        self.machine
            .with(|s| s.note(&format!("== the clock jumps by {by:#} to {now}")));
    }

    /// Somebody sets the wall clock right.
    pub fn set_clock(&mut self) {
        if !self.off_by.is_zero() {
            self.jump(-self.off_by);
        }
    }

    /// Kills a service's process; the supervisor starts it again.
    pub fn kill(&mut self, service: &str) {
        let index = self.index(service);
        self.crash(index);
    }

    /// Every service takes another turn, for no reason.
    pub fn nudge(&mut self) {
        let now = Instant::now();
        for place in self.seats.iter_mut().filter(|p| p.start.is_none()) {
            place.wake(now);
        }
    }

    /// Whoever is stopped goes on.
    pub fn unstall(&mut self) {
        for place in &mut self.seats {
            place.stalled = None;
        }
    }

    /// Stops a service's process for a while, as SIGSTOP does.
    pub fn stall(&mut self, service: &str, time: Duration) {
        let index = self.index(service);
        self.machine
            .with(|s| s.note(&format!("== {service} stalls for {time:?}")));
        self.seats[index].stalled = Some(Instant::now() + time);
    }

    fn index(&self, service: &str) -> usize {
        let mut seats = self.seats.iter();
        seats
            .position(|place| place.seat.name() == service)
            .unwrap_or_else(|| panic!("there is no {service}"))
    }

    fn crash(&mut self, index: usize) {
        let place = &mut self.seats[index];
        if place.start.is_some() || self.off_until.is_some() {
            return;
        }
        let name = place.seat.name();
        self.machine
            .with(|s| s.note(&format!("== {name} is killed")));
        place.seat.stop();
        place.due = None;
        place.stalled = None;
        place.failures = 0;
        place.restarts += 1;
        place.start = Some(Instant::now() + self.chance.millis(50..=3000));
        self.control.revive(name);
    }

    /// Lets time pass.
    pub async fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.step(end).await;
            self.calm();
        }
    }

    /// There is so much to do that a service may have more turns than usual in a minute.
    pub fn is_busy(&mut self, more: u64) {
        self.busy = more;
    }

    /// No two services keep each other awake: within a minute nobody has as many turns as a loop would give it. What is
    /// injected (crashes, lost wake-ups) gives a few in a second.
    fn calm(&mut self) {
        let most = 200 + 8 * 60 + self.busy;
        let now = Instant::now();
        if now >= self.minute.0 + Duration::from_secs(60) {
            self.minute = (now, self.turns.clone());
        }
        for (service, turns) in &self.turns {
            let more = turns - self.minute.1.get(service).copied().unwrap_or(0);
            assert!(
                more <= most,
                "{service} had {more} turns in {:?}\n{}",
                now - self.minute.0,
                self.trail()
            );
        }
    }

    /// Lets time pass until `is_so`, at most so long; whether it came to be.
    pub async fn until(&mut self, limit: Duration, is_so: impl Fn(&Self) -> bool) -> bool {
        let end = Instant::now() + limit;
        while !is_so(self) {
            if Instant::now() >= end {
                return false;
            }
            self.step(end).await;
        }
        true
    }

    async fn step(&mut self, end: Instant) {
        let now = Instant::now();
        if let Some(at) = self.off_until {
            if at <= now {
                self.boot();
            } else {
                sleep_until(at.min(end)).await;
            }
            return;
        }
        if let Some(stays_off) = self.machine.with(|s| s.ending.take()) {
            self.machine
                .with(|s| s.note("== the supervisor ends this boot"));
            let off = if stays_off { 600 } else { 20 };
            self.halt(Duration::from_secs(off));
            return;
        }
        self.start_due(now);
        self.notice(now);
        let due: Vec<usize> = self
            .seats
            .iter()
            .enumerate()
            .filter(|(_, place)| place.start.is_none() && place.next().is_some_and(|at| at <= now))
            .map(|(index, _)| index)
            .collect();
        if due.is_empty() {
            let next = self.seats.iter().filter_map(Place::next).min();
            let until = next.map_or(end, |next| next.min(end));
            let bell = self.machine.bell.clone();
            tokio::select! {
                biased;
                () = bell.notified() => {}
                () = sleep_until(until) => {}
            }
            return;
        }
        let index = self.chance.of(&due);
        self.turn(index).await;
        self.check();
    }

    fn start_due(&mut self, now: Instant) {
        let mut started = false;
        for place in &mut self.seats {
            if place.start.is_some_and(|at| at <= now) {
                place.start = None;
                place.began = self.clock.now();
                self.seed = self
                    .seed
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                place.seat.start(&self.bus, &self.clock, self.seed);
                place.last = None;
                place.wake(now);
                started = true;
            }
        }
        if started {
            self.publish_services();
        }
    }

    /// What the supervisor says of the services.
    fn publish_services(&mut self) {
        let Some(publisher) = &mut self.supervisor else {
            return;
        };
        let row = |place: &Place| {
            let name = place.seat.name().to_owned();
            let status = ServiceStatus {
                name: name.clone(),
                phase: ServicePhase::Running {
                    pid: 1000 + place.restarts,
                    since: place.began,
                },
                restarts: place.restarts,
                uid: 0,
                memory: None,
                memory_limit: None,
                status_text: String::new(),
                last_exit: String::new(),
                last_exit_at: None,
                fault: None,
            };
            (name, status)
        };
        let running = self.seats.iter().filter(|place| place.start.is_none());
        publisher.replace(&running.map(row).collect()).unwrap();
        publisher.set_ready().unwrap();
    }

    /// Wakes those who have a reason.
    fn notice(&mut self, now: Instant) {
        let stirred = self.machine.with(|s| std::mem::take(&mut s.stirred));
        for index in 0..self.seats.len() {
            let place = &self.seats[index];
            if place.due.is_some_and(|due| due <= now) || place.seat.life().is_none() {
                continue;
            }
            if stirred.contains(place.seat.name()) || place.seat.has_news() {
                let lag = self.lag();
                self.seats[index].wake(now + lag);
            }
        }
        // Sometimes one is woken for nothing.
        if self.chance.one_in(50) {
            let index = self.chance.below(self.seats.len());
            if self.seats[index].start.is_none() {
                self.seats[index].wake(now);
            }
        }
    }

    fn lag(&mut self) -> Duration {
        if self.chance.one_in(self.late_one_in) {
            self.chance.millis(100..=15_000)
        } else if self.chance.one_in(3) {
            self.chance.millis(1..=30)
        } else {
            Duration::ZERO
        }
    }

    async fn turn(&mut self, index: usize) {
        // What ended has to reach its runtime, through two tasks.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        let crashes = self.chance.one_in(self.crash_one_in);
        let (writes, actions) = (self.chance.number(0..=6), self.chance.number(0..=3));
        let place = &mut self.seats[index];
        let name = place.seat.name();
        *self.turns.entry(name).or_default() += 1;
        place.due = None;
        place.last = Some(Instant::now());
        let Some(life) = place.seat.life() else {
            return;
        };
        if crashes {
            self.control.kill_after(name, writes);
            life.end_after(Some(actions));
        }
        let began = self.stopwatch.map(|now| now());
        let outcome = tokio::select! {
            biased;
            () = life.over() => None,
            outcome = place.seat.turn() => Some(outcome),
        };
        if let (Some(began), Some(now)) = (began, self.stopwatch) {
            let took = now().saturating_sub(began);
            self.costs.entry(name).or_default().push(took);
        }
        if crashes || life.is_over() {
            self.crash(index);
        } else if let Some(outcome) = outcome {
            self.follow(index, outcome, life.running());
        }
    }

    /// When the next turn is due, as in the runtime's own loop.
    fn follow(&mut self, index: usize, outcome: Result<TurnOutcome, Failure>, running: usize) {
        let now = Instant::now();
        let place = &mut self.seats[index];
        match outcome {
            Ok(outcome) => {
                place.failures = 0;
                if outcome.applied > 0 || outcome.again {
                    place.wake(now);
                }
                if outcome.running > running + outcome.started {
                    // The end of a task has not arrived.
                    place.wake(now + Duration::from_millis(1));
                }
                if let Some(wake) = outcome.wake {
                    place.wake(now + wake);
                }
            }
            Err(failure) => {
                place.failures += 1;
                let delay = Duration::from_millis(500 << place.failures.min(6));
                place.wake(now + delay);
                let name = place.seat.name();
                self.machine
                    .with(|s| s.note(&format!("{name}: turn failed: {failure}")));
            }
        }
    }

    /// Panics with the last actions if something happened that must not.
    pub fn check(&self) {
        let found = self.machine.with(|s| std::mem::take(&mut s.violations));
        assert!(found.is_empty(), "{}\n{}", found.join("\n"), self.trail());
    }

    /// The last actions.
    pub fn trail(&self) -> String {
        let lines = self
            .machine
            .with(|s| s.trail.iter().cloned().collect::<Vec<_>>());
        lines.join("\n")
    }

    /// Actions that the next turn of each service would take, as text; those that wait for an input are left out.
    /// The end of the device: services that were asked this do nothing any more.
    pub async fn plans(&mut self) -> Vec<(&'static str, String)> {
        let mut plans = Vec::new();
        for place in &mut self.seats {
            if place.start.is_none()
                && self.off_until.is_none()
                && let Ok(Some(plan)) = place.seat.plan().await
            {
                plans.push((place.seat.name(), plan));
            }
        }
        plans
    }

    /// Topics that each service asks for and names in its report. The end of the device, as [`plans`](Self::plans).
    pub async fn wiring(&mut self) -> Vec<(&'static str, Vec<TopicName>, Vec<TopicName>)> {
        let mut wiring = Vec::new();
        for place in &mut self.seats {
            let outputs = place.seat.outputs().await;
            wiring.push((place.seat.name(), place.seat.inputs(), outputs));
        }
        wiring
    }

    /// The device is on and every service's process lives.
    pub fn is_up(&self) -> bool {
        self.off_until.is_none() && self.seats.iter().all(|place| place.start.is_none())
    }

    pub(crate) fn chance(&mut self) -> &mut Chance {
        &mut self.chance
    }
}
