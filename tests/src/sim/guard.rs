//! A world as seen by one life of a service's process: it counts, it can fail, and it ends with the process.

use std::{
    future::pending,
    sync::{Arc, Mutex, PoisonError},
};

use agent::{Action, Failure, Progress, Service, World};
use model::code::Code;
use tokio::sync::watch;

use super::machine::Machine;

/// One life of a process.
#[derive(Clone)]
pub(crate) struct Life {
    dead: watch::Sender<bool>,
    left: Arc<Mutex<Left>>,
}

#[derive(Default)]
struct Left {
    /// Actions that it will still begin.
    actions: Option<u64>,
    /// Slow actions in flight.
    running: usize,
}

impl Life {
    pub(crate) fn new() -> Self {
        Self {
            dead: watch::Sender::new(false),
            left: Arc::default(),
        }
    }

    fn left<R>(&self, look: impl FnOnce(&mut Left) -> R) -> R {
        look(&mut self.left.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// It ends before it begins one more action than so many.
    pub(crate) fn end_after(&self, actions: Option<u64>) {
        self.left(|left| left.actions = actions);
    }

    pub(crate) fn end(&self) {
        self.dead.send_replace(true);
    }

    pub(crate) fn is_over(&self) -> bool {
        *self.dead.borrow()
    }

    /// Slow actions in flight.
    pub(crate) fn running(&self) -> usize {
        self.left(|left| left.running)
    }

    pub(crate) async fn over(&self) {
        let mut dead = self.dead.subscribe();
        // The sender lives as long as we do.
        let _ = dead.wait_for(|dead| *dead).await;
    }

    /// Ends the process if no further action is granted.
    fn begin(&self) {
        let over = self.left(|left| match &mut left.actions {
            Some(0) => true,
            Some(n) => {
                *n -= 1;
                false
            }
            None => false,
        });
        if over {
            self.end();
        }
    }
}

/// A world that ends with its process.
pub(crate) struct Guarded<W> {
    pub(crate) inner: W,
    pub(crate) service: &'static str,
    pub(crate) machine: Machine,
    pub(crate) life: Life,
}

impl<S: Service, W: World<S>> World<S> for Guarded<W> {
    async fn observe(&self, desired: &S::Desired) -> Result<S::Actual, Failure> {
        if self.machine.with(|s| s.chance.one_in(s.blind_one_in)) {
            return Err(
                Failure::new(Code::AgentObserve, self.service, "a look that failed").transient(),
            );
        }
        self.inner.observe(desired).await
    }

    async fn apply(&self, action: S::Action, progress: Progress) -> Result<(), Failure> {
        // What it could not say it does not do either.
        if self.machine.control.is_killed(self.service) {
            self.life.end();
        }
        self.life.begin();
        if self.life.is_over() {
            return pending().await;
        }
        let slow = action.is_slow();
        let text = format!("{action:?}");
        let kind = text
            .split(|c: char| !c.is_alphanumeric())
            .next()
            .unwrap_or_default()
            .to_owned();
        let subject = action.subject();
        // What is done all the time would leave no place for the rest.
        let routine = matches!(&*kind, "Measure" | "FetchConfig") || subject == "metrics";
        self.machine.with(|s| {
            if !routine {
                s.note(&format!("{} {kind} {subject}", self.service));
            }
            *s.actions.entry((self.service, kind.clone())).or_default() += 1;
        });
        self.life.left(|left| left.running += usize::from(slow));
        let _ended = Ended(slow.then_some(&self.life));
        let result = tokio::select! {
            biased;
            () = self.life.over() => Err(Failure::new(Code::AgentPanic, "process", "it is over")),
            result = self.inner.apply(action, progress) => result,
        };
        self.machine.with(|s| {
            if let Err(failure) = &result
                && !self.life.is_over()
                && !routine
            {
                s.note(&format!(
                    "{} {kind} {subject} failed: {failure}",
                    self.service
                ));
            }
            if slow {
                s.stir(self.service);
            }
        });
        result
    }
}

/// Counts a slow action down, however it ends.
struct Ended<'a>(Option<&'a Life>);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if let Some(life) = self.0 {
            life.left(|left| left.running -= 1);
        }
    }
}
