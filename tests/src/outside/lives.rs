//! Turns for services, in a time that passes only when nobody has anything to do.

use std::{collections::BTreeMap, time::Duration};

use agent::{Clock, Failure, Hand, Runtime, Service, TurnOutcome, World};
use bus::Bus;
use futures::{FutureExt, future::LocalBoxFuture};
use tokio::{sync::watch, time::sleep};

/// A service of any type.
trait Seat {
    fn has_news(&self) -> bool;
    fn turn(&mut self) -> LocalBoxFuture<'_, Result<TurnOutcome, Failure>>;
}

struct Chair<S: Service, W> {
    runtime: Runtime<S, W>,
    news: watch::Receiver<u64>,
}

impl<S: Service, W: World<S>> Seat for Chair<S, W> {
    fn has_news(&self) -> bool {
        self.news.has_changed().unwrap_or(false)
    }

    fn turn(&mut self) -> LocalBoxFuture<'_, Result<TurnOutcome, Failure>> {
        self.news.borrow_and_update();
        self.runtime.turn().boxed_local()
    }
}

struct Place {
    seat: Box<dyn Seat>,
    due: Option<Duration>,
    running: usize,
    failures: u32,
}

/// Services on one bus, and their clock.
pub struct Lives {
    places: BTreeMap<&'static str, Place>,
    bus: Bus,
    /// Both clocks of the device.
    pub clock: Clock,
    /// What moves them.
    pub hand: Hand,
    /// Turns of each service.
    pub turns: BTreeMap<&'static str, u64>,
}

/// How soon a request under way is looked at again, in real time.
const LOOK: Duration = Duration::from_millis(2);

impl Lives {
    /// Nobody yet.
    pub fn new(bus: &Bus, clock: Clock, hand: Hand) -> Self {
        Self {
            places: BTreeMap::new(),
            bus: bus.clone(),
            clock,
            hand,
            turns: BTreeMap::new(),
        }
    }

    /// A new process of a service; the former one is gone.
    pub fn start<S: Service, W: World<S>>(&mut self, world: W) {
        let bus = self.bus.acting_as(S::NAME);
        let chair = Chair::<S, W> {
            news: bus.changed(),
            runtime: Runtime::new(bus, world, self.clock.clone(), 1),
        };
        let place = Place {
            seat: Box::new(chair),
            due: Some(Duration::ZERO),
            running: 0,
            failures: 0,
        };
        self.places.insert(S::NAME, place);
    }

    /// The process of a service is gone.
    pub fn stop(&mut self, service: &'static str) {
        self.places.remove(service);
    }

    /// Something outside the bus has changed for a service.
    pub fn wake(&mut self, service: &str) {
        if let Some(place) = self.places.get_mut(service) {
            place.due = Some(Duration::ZERO);
        }
    }

    /// Lets time pass.
    pub async fn pass(&mut self, time: Duration) {
        let end = self.clock.uptime() + time;
        while self.clock.uptime() < end {
            self.step(end).await;
        }
    }

    /// Lets time pass until it is so. Gives how long that took, if it came to be within the limit.
    pub async fn until(
        &mut self,
        limit: Duration,
        mut is_so: impl AsyncFnMut() -> bool,
    ) -> Option<Duration> {
        let start = self.clock.uptime();
        while !is_so().await {
            if self.clock.uptime() >= start + limit {
                return None;
            }
            let pause = Duration::from_secs(1);
            self.pass(pause).await;
        }
        Some(self.clock.uptime().saturating_sub(start))
    }

    async fn step(&mut self, end: Duration) {
        let now = self.clock.uptime();
        let mut took_a_turn = false;
        for (name, place) in &mut self.places {
            let due = place.due.is_some_and(|due| due <= now);
            if !due && place.running == 0 && !place.seat.has_news() {
                continue;
            }
            took_a_turn = true;
            if place.running == 0 {
                *self.turns.entry(name).or_default() += 1;
            }
            let outcome = place.seat.turn().await;
            let now = self.clock.uptime();
            if let Ok(outcome) = outcome {
                place.failures = 0;
                place.running = outcome.running;
                let again = outcome.applied > 0 || outcome.again;
                let wake = if again {
                    Some(Duration::ZERO)
                } else {
                    outcome.wake
                };
                place.due = wake.map(|wake| now + wake);
            } else {
                place.running = 0;
                place.failures += 1;
                place.due = Some(now + Duration::from_millis(500 << place.failures.min(6)));
            }
        }
        if self.places.values().any(|place| place.running > 0) {
            // A request is under way: real time, the only one that it knows.
            sleep(LOOK).await;
        } else if !took_a_turn {
            let due = self.places.values().filter_map(|place| place.due).min();
            let next = due.map_or(end, |due| due.min(end));
            let now = self.clock.uptime();
            self.hand
                .advance(next.saturating_sub(now).max(Duration::from_millis(1)));
        }
    }
}
