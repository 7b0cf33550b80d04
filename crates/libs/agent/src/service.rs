//! What a service has to say about itself.

use std::{fmt::Debug, future::Future, time::Duration};

use jiff::Timestamp;

use crate::{Backoff, Failure, Jobs, Outbox, Progress, Tables};

/// A service: its types, the tables that it reads, and its pure decision.
pub trait Service: Sized + Send + Sync + 'static {
    /// The service's name: its binary, its directory on the bus, its unit.
    const NAME: &'static str;
    /// What is wanted, out of the tables.
    type Desired: Send + Sync + 'static;
    /// What is there, out of the world.
    type Actual: Send + Sync + 'static;
    /// What can be done about it.
    type Action: Action;
    /// Every row that the service publishes.
    type Report: Report;

    /// Reads the input tables. `tables.get(&TOPIC)?` is an input that the service cannot plan
    /// without, `tables.peek(&TOPIC)` one that may still be unknown.
    fn read(tables: &mut Tables) -> Option<Self::Desired>;

    /// Decides. No I/O, no clock, no state of its own: the same turn gives the same plan.
    fn plan(turn: &Turn<'_, Self>) -> Plan<Self>;
}

/// Everything that a plan is made from.
pub struct Turn<'a, S: Service> {
    /// What is wanted.
    pub desired: &'a S::Desired,
    /// What is there.
    pub actual: &'a S::Actual,
    /// Actions that run, or failed and wait.
    pub jobs: &'a Jobs,
    /// Wall clock. It may jump by years when the time is first set.
    pub now: Timestamp,
    /// Time since the device booted; never jumps. Long timers are made of this.
    pub uptime: Duration,
}

/// What a turn decides.
pub struct Plan<S: Service> {
    /// Every row that the service publishes from now on.
    pub report: S::Report,
    /// What to do, in this order.
    pub actions: Vec<S::Action>,
    /// When to plan again at the latest though nothing changed.
    pub wake: Option<Duration>,
}

impl<S: Service> Plan<S> {
    /// A plan without actions.
    pub fn report(report: S::Report) -> Self {
        Self {
            report,
            actions: Vec::new(),
            wake: None,
        }
    }

    /// Adds a time to plan again; the earliest of several counts.
    pub fn wake_in(&mut self, delay: Duration) {
        self.wake = Some(self.wake.map_or(delay, |w| w.min(delay)));
    }
}

/// One thing to do.
pub trait Action: Debug + Clone + PartialEq + Send + Sync + 'static {
    /// What it acts upon, as kind and key (`bridge bn1`). At most one action per subject is
    /// in flight; an equal action is the same one going on.
    fn subject(&self) -> String;

    /// Subjects that this action builds upon: it is skipped in a turn in which one of them failed,
    /// and while one of them waits for its retry.
    fn needs(&self) -> Vec<String> {
        Vec::new()
    }

    /// True for what may take longer than some 100 ms: it becomes a task, turns go on.
    fn is_slow(&self) -> bool {
        false
    }

    /// How to try again.
    fn backoff(&self) -> Backoff {
        Backoff::default()
    }
}

/// All rows that a service publishes: one `out.put` per topic, referents before referrers.
pub trait Report: Send + 'static {
    /// Hands every table to the runtime. A table that is `None` is not known yet: it stays as it is,
    /// and readers are not told that it is ready.
    fn put(self, out: &mut Outbox);
}

/// What is outside the process: real at the edge, fake in tests.
pub trait World<S: Service>: Send + Sync + 'static {
    /// Looks at everything that carries our mark. Called once per turn, so it is fast.
    fn observe(
        &self,
        desired: &S::Desired,
    ) -> impl Future<Output = Result<S::Actual, Failure>> + Send;

    /// Does one thing: one `match` with no decisions. It may be dropped at any await: a slow action when
    /// it is no longer wanted, a quick one when the service is stopped. Work on another thread must hold a
    /// clone of `progress`, so that no other action on the subject begins before it ends.
    fn apply(
        &self,
        action: S::Action,
        progress: Progress,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Resolves when the world changed by itself (a process ended, a link came up). The future is dropped
    /// and made anew between turns: a change that happens while there is none must be kept for the next
    /// (a `Notify` with `notify_one`, a `watch`, a socket), and waiting must be safe to cancel.
    fn changed(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}
