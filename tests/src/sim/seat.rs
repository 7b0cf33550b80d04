//! A service's place in the device: a runtime while its process lives.

use agent::{Clock, Failure, Outbox, Report, Runtime, Service, TurnOutcome, World};
use bus::Bus;
use futures::{FutureExt, future::LocalBoxFuture};
use tokio::sync::watch;

use super::{
    guard::{Guarded, Life},
    machine::Machine,
};

/// A topic by service and name.
pub(crate) type TopicName = (&'static str, &'static str);

/// A service of any type.
pub(crate) trait Seat {
    fn name(&self) -> &'static str;
    /// A new process.
    fn start(&mut self, bus: &Bus, clock: &Clock, seed: u64);
    /// The process is gone.
    fn stop(&mut self);
    /// Its life while it lives.
    fn life(&self) -> Option<Life>;
    /// Whether the bus has something new for it.
    fn has_news(&self) -> bool;
    /// One turn.
    fn turn(&mut self) -> LocalBoxFuture<'_, Result<TurnOutcome, Failure>>;
    /// What the next turn would do, as text; `None` while it waits for an input.
    fn plan(&mut self) -> LocalBoxFuture<'_, Result<Option<String>, Failure>>;
    /// Topics that it asks for.
    fn inputs(&self) -> Vec<TopicName>;
    /// Topics that its report names; none while it waits for an input.
    fn outputs(&mut self) -> LocalBoxFuture<'_, Vec<TopicName>>;
}

/// A service and how its world is opened.
pub(crate) struct Chair<S: Service, W> {
    machine: Machine,
    open: fn(&Machine, &Clock) -> W,
    up: Option<Up<S, W>>,
}

struct Up<S: Service, W> {
    runtime: Runtime<S, Guarded<W>>,
    news: watch::Receiver<u64>,
    life: Life,
}

impl<S: Service, W: World<S>> Chair<S, W> {
    pub(crate) fn seat(machine: &Machine, open: fn(&Machine, &Clock) -> W) -> Box<dyn Seat> {
        Box::new(Self {
            machine: machine.clone(),
            open,
            up: None,
        })
    }

    fn up(&mut self) -> &mut Up<S, W> {
        self.up.as_mut().expect("the service is up")
    }
}

impl<S: Service, W: World<S>> Seat for Chair<S, W> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn start(&mut self, bus: &Bus, clock: &Clock, seed: u64) {
        let bus = bus.acting_as(S::NAME);
        let life = Life::new();
        let world = Guarded {
            inner: (self.open)(&self.machine, clock),
            service: S::NAME,
            machine: self.machine.clone(),
            life: life.clone(),
        };
        self.up = Some(Up {
            news: bus.changed(),
            runtime: Runtime::new(bus, world, clock.clone(), seed),
            life,
        });
    }

    fn stop(&mut self) {
        if let Some(up) = self.up.take() {
            up.life.end();
        }
    }

    fn life(&self) -> Option<Life> {
        self.up.as_ref().map(|up| up.life.clone())
    }

    fn has_news(&self) -> bool {
        self.up
            .as_ref()
            .is_some_and(|up| up.news.has_changed().unwrap_or(false))
    }

    fn turn(&mut self) -> LocalBoxFuture<'_, Result<TurnOutcome, Failure>> {
        let up = self.up();
        // Marked before the turn reads, so that nothing that happens meanwhile is missed.
        up.news.borrow_and_update();
        up.runtime.turn().boxed_local()
    }

    fn plan(&mut self) -> LocalBoxFuture<'_, Result<Option<String>, Failure>> {
        async {
            let plan = self.up().runtime.dry_turn().await?;
            Ok(plan.map(|plan| format!("{:?}", plan.actions)))
        }
        .boxed_local()
    }

    fn inputs(&self) -> Vec<TopicName> {
        self.up
            .as_ref()
            .map(|up| up.runtime.inputs().to_vec())
            .unwrap_or_default()
    }

    fn outputs(&mut self) -> LocalBoxFuture<'_, Vec<TopicName>> {
        async {
            let Ok(Some(plan)) = self.up().runtime.dry_turn().await else {
                return Vec::new();
            };
            let mut out = Outbox::default();
            plan.report.put(&mut out);
            out.topics().to_vec()
        }
        .boxed_local()
    }
}
