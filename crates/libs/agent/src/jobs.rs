//! The bookkeeping of actions: which run, which wait, when each is tried again. Pure.
//!
//! ```text
//!              planned                      done
//!   (nothing) ---------> Running ---------------------> Done
//!       ^                 |   ^                           |  still planned: tried again,
//!       | not planned     |   | due, still planned        |  after the third time a fault
//!       +--- any state    v   |                           v
//!                        Failed <-------------------------+
//! ```
//! A different action on the same subject starts afresh: it replaces a running one and
//! forgets earlier failures.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use model::{code::Code, fault::Fault};
use tokio::sync::Notify;

use crate::{Action, Failure};

/// How an action is tried again: after `first`, then twice as long each time up to `max`, each
/// delay varied by a fifth so that devices do not march in step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Delay after the first failure.
    pub first: Duration,
    /// Longest delay.
    pub max: Duration,
    /// Delay after a failure that is not transient; `None` waits for a change.
    pub permanent: Option<Duration>,
}

const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            max: Duration::from_secs(300),
            permanent: Some(Duration::from_secs(600)),
        }
    }
}

impl Backoff {
    /// Delay after the failure number `attempts` (from 1). `jitter` is a random number in `[0, 1)`.
    pub fn delay(&self, attempts: u32, transient: bool, jitter: f64) -> Option<Duration> {
        let base = if transient {
            self.first
                .saturating_mul(1 << attempts.saturating_sub(1).min(20))
                .min(self.max)
        } else {
            self.permanent?
        };
        // A year is for ever, and far from what a duration or a date can't hold.
        Some(
            base.min(FOR_EVER)
                .mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0)),
        )
    }

    /// The same, but not before the other side said (`Retry-After`). Devices that were all told the same time do not
    /// come back at the same moment.
    fn delay_after(
        &self,
        attempts: u32,
        transient: bool,
        wait: Option<Duration>,
        jitter: f64,
    ) -> Option<Duration> {
        let own = self.delay(attempts, transient, jitter);
        let asked = wait.map(|w| w.mul_f64(1.0 + 0.2 * jitter.clamp(0.0, 1.0)));
        own.max(asked)
    }
}

/// An action that is not simply done.
#[derive(Debug, Clone, PartialEq)]
pub enum Job {
    /// In flight.
    Running {
        /// Since when.
        since: Timestamp,
        /// How far, when it says so.
        progress: Progressed,
        /// Why the try before this one failed.
        after: Option<Fault>,
    },
    /// Failed; it says when it is tried again.
    Failed(Fault),
}

/// How far a slow action is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progressed {
    /// Units done (mostly bytes).
    pub done: u64,
    /// Units in all; 0 when unknown.
    pub total: u64,
    /// In words.
    pub note: String,
}

impl Progressed {
    /// 0 to 100; 0 when unknown.
    pub fn percent(&self) -> u8 {
        let percent = u128::from(self.done) * 100 / u128::from(self.total.max(1));
        u8::try_from(percent.min(100)).unwrap_or(100)
    }
}

/// What `plan` may know of its own actions, by subject.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Jobs(BTreeMap<String, Job>);

impl Jobs {
    /// For tests of a plan.
    pub fn of(jobs: impl IntoIterator<Item = (String, Job)>) -> Self {
        Self(jobs.into_iter().collect())
    }

    /// The job of a subject.
    pub fn get(&self, subject: &str) -> Option<&Job> {
        self.0.get(subject)
    }

    /// Why a subject's action failed, if it did. That it is tried again does not mean that it is well: the fault
    /// stands until a try succeeds.
    pub fn fault(&self, subject: &str) -> Option<&Fault> {
        match self.0.get(subject)? {
            Job::Failed(fault) => Some(fault),
            Job::Running { after, .. } => after.as_ref(),
        }
    }

    /// How far a subject's action is, if it runs.
    pub fn progress(&self, subject: &str) -> Option<&Progressed> {
        match self.0.get(subject)? {
            Job::Running { progress, .. } => Some(progress),
            Job::Failed(_) => None,
        }
    }

    /// Whether a subject's action is in flight.
    pub fn is_running(&self, subject: &str) -> bool {
        matches!(self.0.get(subject), Some(Job::Running { .. }))
    }

    /// All of them, by subject.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Job)> {
        self.0.iter().map(|(subject, job)| (subject.as_str(), job))
    }
}

/// Through which a slow action tells how far it is. Work on another thread (`spawn_blocking`) goes on
/// when its action is cancelled; if it holds a clone, the next action on the subject waits for its end.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    state: Arc<Mutex<Progressed>>,
    changed: Arc<Notify>,
}

impl Progress {
    pub(crate) fn new(changed: Arc<Notify>) -> Self {
        Self {
            state: Arc::default(),
            changed,
        }
    }

    /// Sets units done and in all (0 when unknown).
    pub fn set(&self, done: u64, total: u64) {
        self.update(|p| (p.done, p.total) = (done, total));
    }

    /// Sets the words.
    pub fn note(&self, note: impl Into<String>) {
        let note = note.into();
        self.update(|p| p.note = note);
    }

    /// What was last told.
    pub fn get(&self) -> Progressed {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// True when nobody else holds it: the action is over, and so is every thread that it started and
    /// that holds a clone.
    pub(crate) fn is_alone(&self) -> bool {
        Arc::strong_count(&self.state) == 1
    }

    fn update(&self, change: impl FnOnce(&mut Progressed)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }
}

/// After a success the effect may take a moment to be observable.
const SETTLE: Duration = Duration::from_millis(250);
/// So often an action may succeed without effect before that is a fault.
const REPEATS: u32 = 3;

enum State {
    Running {
        since: Timestamp,
        progress: Progress,
    },
    Failed {
        due: Option<Duration>,
    },
    Done {
        at: Duration,
    },
}

struct Entry<A> {
    action: A,
    state: State,
    /// Successes in a row without effect.
    repeats: u32,
    /// What the last try failed with, since when and how often, until one succeeds.
    fault: Option<Fault>,
}

/// Every action that was started and is still planned.
pub(crate) struct Ledger<A> {
    entries: BTreeMap<String, Entry<A>>,
}

/// What to do with a plan's actions.
#[derive(Debug, PartialEq)]
pub(crate) struct Decision<A> {
    /// Subjects whose running task is no longer wanted.
    pub(crate) cancel: Vec<String>,
    /// Actions to start, in the plan's order.
    pub(crate) start: Vec<A>,
    /// Uptime at which the earliest waiting action is due.
    pub(crate) due: Option<Duration>,
}

impl<A: Action> Ledger<A> {
    pub(crate) fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
        }
    }

    /// Compares a plan's actions with what is known of each.
    pub(crate) fn decide(&mut self, actions: &[A], uptime: Duration) -> Decision<A> {
        let planned: BTreeSet<String> = actions.iter().map(Action::subject).collect();
        let mut decision = Decision {
            cancel: Vec::new(),
            start: Vec::new(),
            due: None,
        };
        self.entries.retain(|subject, entry| {
            let keep = planned.contains(subject);
            if !keep && matches!(entry.state, State::Running { .. }) {
                decision.cancel.push(subject.clone());
            }
            keep
        });
        let mut seen = BTreeSet::new();
        for action in actions {
            let subject = action.subject();
            if !seen.insert(subject.clone()) {
                continue;
            }
            let Some(entry) = self.entries.get(&subject) else {
                decision.start.push(action.clone());
                continue;
            };
            if entry.action != *action {
                if matches!(entry.state, State::Running { .. }) {
                    decision.cancel.push(subject.clone());
                }
                self.entries.remove(&subject);
                decision.start.push(action.clone());
                continue;
            }
            let due = match &entry.state {
                State::Running { .. } => continue,
                State::Failed { due, .. } => *due,
                State::Done { at } => Some(*at + SETTLE),
            };
            match due {
                Some(due) if due <= uptime => decision.start.push(action.clone()),
                Some(due) => decision.due = Some(decision.due.map_or(due, |d| d.min(due))),
                None => {}
            }
        }
        decision
    }

    /// Whether what an action builds upon is in order.
    pub(crate) fn may_start(&self, action: &A) -> bool {
        action.needs().iter().all(|need| {
            !self
                .entries
                .get(need)
                .is_some_and(|e| matches!(e.state, State::Running { .. } | State::Failed { .. }))
        })
    }

    /// Notes that an action was started.
    pub(crate) fn started(&mut self, action: A, progress: Progress, now: Timestamp) {
        let state = State::Running {
            since: now,
            progress,
        };
        match self.entries.get_mut(&action.subject()) {
            Some(entry) if entry.action == action => entry.state = state,
            _ => {
                let entry = Entry {
                    state,
                    repeats: 0,
                    fault: None,
                    action,
                };
                self.entries.insert(entry.action.subject(), entry);
            }
        }
    }

    /// Notes how an action ended. `jitter` is a random number in `[0, 1)`.
    pub(crate) fn ended(
        &mut self,
        subject: &str,
        result: Result<(), Failure>,
        now: Timestamp,
        uptime: Duration,
        jitter: f64,
    ) -> Option<&Fault> {
        let entry = self.entries.get_mut(subject)?;
        let result = match result {
            Ok(()) if entry.repeats < REPEATS => Ok(()),
            Ok(()) => Err(Failure::new(
                Code::AgentNoEffect,
                subject,
                format!(
                    "{:?} succeeded {} times without the world changing",
                    entry.action,
                    entry.repeats + 1
                ),
            )
            .transient()),
            Err(failure) => {
                entry.repeats = 0;
                Err(failure)
            }
        };
        match result {
            Ok(()) => {
                entry.repeats += 1;
                entry.fault = None;
                entry.state = State::Done { at: uptime };
                None
            }
            Err(failure) => {
                let former = entry.fault.take();
                let attempts = former.as_ref().map_or(0, |fault| fault.attempts) + 1;
                let delay = entry.action.backoff().delay_after(
                    attempts,
                    failure.transient,
                    failure.wait,
                    jitter,
                );
                let mut fault = failure.into_fault(former.map_or(now, |fault| fault.since));
                fault.attempts = attempts;
                fault.next = delay.and_then(|d| now.checked_add(d).ok());
                entry.state = State::Failed {
                    due: delay.map(|d| uptime + d),
                };
                Some(entry.fault.insert(fault))
            }
        }
    }

    /// What `plan` may know.
    pub(crate) fn jobs(&self) -> Jobs {
        Jobs(
            self.entries
                .iter()
                .filter_map(|(subject, entry)| {
                    let job = match &entry.state {
                        State::Running { since, progress } => Job::Running {
                            since: *since,
                            progress: progress.get(),
                            after: entry.fault.clone(),
                        },
                        State::Failed { .. } => Job::Failed(entry.fault.clone()?),
                        State::Done { .. } => return None,
                    };
                    Some((subject.clone(), job))
                })
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Do(&'static str, u8);
    impl Action for Do {
        fn subject(&self) -> String {
            self.0.to_owned()
        }
        fn needs(&self) -> Vec<String> {
            if self.0 == "b" {
                vec!["a".to_owned()]
            } else {
                Vec::new()
            }
        }
    }

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn fail() -> Result<(), Failure> {
        Err(Failure::new(Code::BusWrite, "a", "no").transient())
    }

    fn start(ledger: &mut Ledger<Do>, action: &Do) {
        ledger.started(action.clone(), Progress::default(), Timestamp::UNIX_EPOCH);
    }

    fn end(ledger: &mut Ledger<Do>, subject: &str, result: Result<(), Failure>, at: Duration) {
        ledger.ended(subject, result, Timestamp::UNIX_EPOCH, at, 0.5);
    }

    #[test]
    fn a_failed_action_waits_twice_as_long_each_time_and_a_changed_one_starts_afresh() {
        let mut ledger = Ledger::new();
        let plan = [Do("a", 0)];
        let mut at = S(0);
        for expected in [1, 2, 4, 8] {
            assert_eq!(ledger.decide(&plan, at).start, plan);
            start(&mut ledger, &plan[0]);
            assert_eq!(ledger.decide(&plan, at).start, [], "one in flight");
            end(&mut ledger, "a", fail(), at);
            let waiting = ledger.decide(&plan, at);
            assert_eq!(
                (waiting.start, waiting.due),
                (vec![], Some(at + S(expected)))
            );
            at += S(expected);
        }
        assert_eq!(ledger.jobs().fault("a").unwrap().attempts, 4);
        assert_eq!(ledger.decide(&[Do("a", 1)], S(0)).start, [Do("a", 1)]);
        start(&mut ledger, &Do("a", 1));
        end(&mut ledger, "a", fail(), at);
        assert_eq!(ledger.jobs().fault("a").unwrap().attempts, 1);
    }

    #[test]
    fn a_boundless_backoff_is_long_not_a_panic() {
        let boundless = Backoff {
            first: Duration::MAX,
            max: Duration::MAX,
            permanent: Some(Duration::MAX),
        };
        assert!(boundless.delay(u32::MAX, true, 1.0).unwrap() > S(3600));
        assert!(boundless.delay(1, false, f64::MAX).unwrap() > S(3600));
    }

    #[test]
    fn who_asks_for_time_gets_it_within_reason() {
        let backoff = Backoff::default();
        let delay = |wait| backoff.delay_after(1, true, wait, 0.5).unwrap();
        assert_eq!(delay(None), S(1));
        assert_eq!(delay(Some(S(0))), S(1), "our own pace is the least");
        assert_eq!(delay(Some(S(100))), S(110));
        let never = Backoff {
            permanent: None,
            ..backoff
        };
        assert_eq!(never.delay_after(1, false, None, 0.5), None);
        let mut ledger = Ledger::new();
        start(&mut ledger, &Do("a", 0));
        let busy = Failure::new(Code::ControllerRefused, "a", "503")
            .transient()
            .waiting(Some(Duration::MAX));
        end(&mut ledger, "a", Err(busy), S(0));
        assert_eq!(ledger.decide(&[Do("a", 0)], S(0)).due, Some(S(3960)));
    }

    #[test]
    fn what_builds_upon_a_failed_action_waits() {
        let mut ledger = Ledger::new();
        start(&mut ledger, &Do("a", 0));
        assert!(!ledger.may_start(&Do("b", 0)), "it runs");
        end(&mut ledger, "a", fail(), S(0));
        assert!(!ledger.may_start(&Do("b", 0)), "it failed");
        start(&mut ledger, &Do("a", 0));
        end(&mut ledger, "a", Ok(()), S(0));
        assert!(ledger.may_start(&Do("b", 0)));
    }

    #[test]
    fn success_without_effect_becomes_a_fault_not_a_loop() {
        let mut ledger = Ledger::new();
        let plan = [Do("a", 0)];
        let mut at = S(0);
        for _ in 0..=REPEATS {
            assert_eq!(ledger.decide(&plan, at).start, plan);
            start(&mut ledger, &plan[0]);
            end(&mut ledger, "a", Ok(()), at);
            at += SETTLE;
        }
        assert_eq!(ledger.jobs().fault("a").unwrap().code, Code::AgentNoEffect);
        assert_eq!(ledger.decide(&plan, at).start, [], "waits");
        ledger.decide(&[], at);
        assert_eq!(
            ledger.decide(&plan, at).start,
            plan,
            "no longer planned: forgotten"
        );
    }

    #[test]
    fn a_running_action_is_cancelled_when_replaced_or_no_longer_wanted() {
        let mut ledger = Ledger::new();
        start(&mut ledger, &Do("a", 0));
        let replaced = ledger.decide(&[Do("a", 1)], S(0));
        assert_eq!(
            (replaced.cancel, replaced.start),
            (vec!["a".to_owned()], vec![Do("a", 1)])
        );
        start(&mut ledger, &Do("a", 1));
        assert_eq!(ledger.decide(&[], S(0)).cancel, ["a"]);
        assert!(ledger.jobs().get("a").is_none());
    }

    proptest! {
        /// Whatever happens: a subject never runs twice at once, and something planned either
        /// runs, or is started, or has a time at which it will be.
        #[test]
        fn nothing_is_forgotten(steps in proptest::collection::vec((0u8..4, 0u8..3, any::<bool>(), 0u64..400), 1..60)) {
            let names = ["a", "c", "d"];
            let mut ledger = Ledger::new();
            let mut running = BTreeSet::new();
            let mut at = S(0);
            for (what, which, ok, pause) in steps {
                at += Duration::from_millis(pause * 10);
                let plan: Vec<Do> = names.iter().enumerate().filter(|(i, _)| what & (1 << i) != 0).map(|(_, n)| Do(n, which)).collect();
                let decision = ledger.decide(&plan, at);
                for gone in &decision.cancel { prop_assert!(running.remove(gone.as_str())); }
                for action in &decision.start {
                    prop_assert!(running.insert(action.0));
                    start(&mut ledger, action);
                }
                for action in &plan {
                    let waiting = !running.contains(action.0);
                    prop_assert!(!waiting || decision.due.is_some(), "{action:?} at {at:?}");
                }
                if let Some(name) = running.pop_first() {
                    end(&mut ledger, name, if ok { Ok(()) } else { fail() }, at);
                }
            }
        }
    }
}
