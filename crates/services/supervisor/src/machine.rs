//! The life of one unit: what the supervisor knows of it, and how events change that. Pure.
//!
//! ```text
//!          started                 exited, policy says again
//!   New ------------> Alive ------------------------------------> Pending
//!                     |  ^  \                                        |
//!                     |  |   \ exited, goal Down or policy says end  |
//!                     |  |    `---------------> Ended                |
//!                     |  `-------------------------------------------'  started
//!                     |
//!                     `- Alive with an Ending: asked to end, or aborted because it hung
//! ```
//!
//! A [`Unit`] is also what the supervisor writes to its state files: after its own restart it goes
//! on from there, once it has looked whether the process is still the same (`world.rs`).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use units::{Exit, ExitKind, RestartPolicy, UnitName, UnitSpec};

use crate::filter::Filter;
use crate::time::{Now, Uptime};

/// Where a unit comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Origin {
    /// The table of services.
    Service,
    /// A request of a service.
    Transient,
}

/// What is wanted of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Goal {
    /// It runs.
    Up,
    /// It doesn't.
    Down,
    /// Its process ends, and a new one is started.
    Cycle,
}

/// A unit with all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unit {
    /// What to run.
    pub spec: UnitSpec,
    /// Units that are started before it and stopped after it.
    pub after: Vec<UnitName>,
    /// Its system calls and its network. Not the choice of whoever asks for the unit.
    #[serde(default)]
    pub filter: Filter,
    /// Where it comes from.
    pub origin: Origin,
    /// What is wanted of it.
    pub goal: Goal,
    /// Where it is.
    pub life: Life,
    /// Starts after the first.
    pub restarts: u32,
    /// Failures in a row, which set the length of the next backoff.
    pub failures: u32,
    /// How its last process ended.
    pub last_exit: Option<Exit>,
    /// What it said of itself last (`STATUS=`).
    pub status_text: String,
}

/// Where a unit is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Life {
    /// It was never started.
    New,
    /// It has a process.
    Alive(Process),
    /// It is started again when the time has come.
    Pending {
        /// When.
        not_before: Uptime,
        /// The same for people.
        until: Timestamp,
    },
    /// It will not be started again by itself.
    Ended {
        /// When it ended.
        at: Timestamp,
    },
}

/// The main process of a unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Its id,
    pub pid: u32,
    /// and its start in clock ticks since boot: together they name one process for ever.
    pub ticks: u64,
    /// When it was started.
    pub since: Timestamp,
    /// When it was started.
    pub started: Uptime,
    /// When a sign of life came last.
    pub heard: Uptime,
    /// Whether it said that it is ready (units without a heartbeat are ready once started).
    pub ready: bool,
    /// Whether it was found again after the supervisor's restart: what it said meanwhile is lost.
    pub adopted: bool,
    /// Whether it asked to be treated as hung (`WATCHDOG=trigger`).
    pub broken: bool,
    /// Why and since when it is being ended.
    pub ending: Option<Ending>,
}

/// A process on its way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ending {
    /// Why.
    pub why: Why,
    /// When it got its first signal.
    pub asked: Uptime,
    /// When it got its first signal.
    pub at: Timestamp,
    /// When it got its last `SIGKILL`.
    pub killed: Option<Uptime>,
}

/// Why a process is being ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Why {
    /// Somebody wants it.
    Asked,
    /// No sign of life for this long.
    Hung(Duration),
}

/// The numbers of the plan. [`Policy::default`] is a device's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Policy {
    /// Backoff after the first failure; doubles with each further one.
    pub backoff_first: Duration,
    /// Longest backoff.
    pub backoff_max: Duration,
    /// A process that ran for this long starts the count of failures anew.
    pub stable_after: Duration,
    /// Longest time from start to the first sign of life (the heartbeat deadline if that is longer).
    pub start_grace: Duration,
    /// Longest wait for a unit named in `after`: the order is a preference, a unit that never gets
    /// ready must not keep the others down.
    pub order_wait: Duration,
    /// From `SIGABRT` to `SIGKILL` of a hung process.
    pub abort_grace: Duration,
    /// Between `SIGKILL`s of a process that doesn't go.
    pub kill_again: Duration,
    /// When everything ends: how long after the first `SIGKILL` a process that still doesn't go
    /// (it hangs in the kernel) is no longer waited for.
    pub give_up: Duration,
    /// Makes the jitter of this device differ from its neighbour's.
    pub seed: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            backoff_first: Duration::from_millis(500),
            backoff_max: Duration::from_mins(1),
            stable_after: Duration::from_mins(1),
            start_grace: Duration::from_secs(90),
            order_wait: Duration::from_secs(10),
            abort_grace: Duration::from_secs(2),
            kill_again: Duration::from_secs(5),
            give_up: Duration::from_secs(30),
            seed: 0,
        }
    }
}

impl Policy {
    /// The pause before the next start of `name` after `failures` failures in a row: exponential,
    /// 25 % up or down by jitter, the same for the same arguments.
    pub(crate) fn backoff(&self, name: &UnitName, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let base = self
            .backoff_first
            .saturating_mul(1 << doublings)
            .min(self.backoff_max);
        let mut hasher = DefaultHasher::new();
        (self.seed, name, failures).hash(&mut hasher);
        // 750..=1250 thousandths.
        let thousandths = 750 + u32::try_from(hasher.finish() % 501).unwrap_or(250);
        base.saturating_mul(thousandths) / 1000
    }
}

impl Unit {
    /// A unit that nobody has started yet.
    pub(crate) fn new(spec: UnitSpec, origin: Origin) -> Self {
        Self {
            spec,
            after: Vec::new(),
            filter: Filter::default(),
            origin,
            goal: Goal::Up,
            life: Life::New,
            restarts: 0,
            failures: 0,
            last_exit: None,
            status_text: String::new(),
        }
    }

    /// Its process, while it has one.
    pub(crate) fn process(&self) -> Option<&Process> {
        match &self.life {
            Life::Alive(process) => Some(process),
            Life::New | Life::Pending { .. } | Life::Ended { .. } => None,
        }
    }

    fn process_mut(&mut self) -> Option<&mut Process> {
        match &mut self.life {
            Life::Alive(process) => Some(process),
            Life::New | Life::Pending { .. } | Life::Ended { .. } => None,
        }
    }

    /// Whether it has ended for good.
    pub(crate) fn is_ended(&self) -> bool {
        matches!(self.life, Life::Ended { .. })
    }

    /// Whether others that name it in `after` need not wait any longer.
    pub(crate) fn lets_others_start(&self, now: Now, policy: &Policy) -> bool {
        match &self.life {
            Life::New => false,
            Life::Alive(process) => {
                process.ready
                    || self.failures > 0
                    || now.uptime.since(process.started) >= policy.order_wait
            }
            Life::Pending { .. } | Life::Ended { .. } => true,
        }
    }

    /// Its process was started.
    pub(crate) fn started(&mut self, pid: u32, ticks: u64, now: Now) {
        if !matches!(self.life, Life::New) || self.last_exit.is_some() {
            self.restarts = self.restarts.saturating_add(1);
        }
        self.life = Life::Alive(Process {
            pid,
            ticks,
            since: now.wall,
            started: now.uptime,
            heard: now.uptime,
            ready: self.spec.heartbeat.is_none(),
            adopted: false,
            broken: false,
            ending: None,
        });
        self.status_text.clear();
    }

    /// Its process was found again after the supervisor's restart: it was not heard while nobody
    /// listened, which is no fault of its own.
    pub(crate) fn adopted(&mut self, now: Now) {
        if let Some(process) = self.process_mut() {
            process.heard = now.uptime;
            process.adopted = true;
        }
    }

    /// It gave a sign of life. From an adopted process any sign means that it is ready: it says so
    /// only once, and may have said it to nobody.
    pub(crate) fn heard(&mut self, ready: bool, status: Option<String>, now: Now) {
        if let Some(process) = self.process_mut() {
            process.heard = now.uptime;
            process.ready |= ready || process.adopted;
            if let Some(text) = status {
                self.status_text = text;
            }
        }
    }

    /// It asked to be treated as hung.
    pub(crate) fn broken(&mut self) {
        if let Some(process) = self.process_mut() {
            process.broken = true;
        }
    }

    /// Forgets signs of life after the first, for comparisons that must not depend on them.
    pub(crate) fn heard_at_start(&mut self) {
        if let Some(process) = self.process_mut() {
            process.heard = process.started;
        }
    }

    /// Its process was sent a signal that ends it.
    pub(crate) fn ending(&mut self, why: Why, now: Now) {
        if let Some(process) = self.process_mut() {
            process.ending = Some(Ending {
                why,
                asked: now.uptime,
                at: now.wall,
                killed: None,
            });
        }
    }

    /// All its processes were sent `SIGKILL`.
    pub(crate) fn killed(&mut self, now: Now) {
        if let Some(ending) = self.process_mut().and_then(|p| p.ending.as_mut()) {
            ending.killed = Some(now.uptime);
        }
    }

    /// Its process ended, or could not be started.
    pub(crate) fn exited(&mut self, kind: ExitKind, now: Now, policy: &Policy) {
        let (ran, why) = match &self.life {
            Life::Alive(process) => (
                now.uptime.since(process.started),
                process.ending.as_ref().map(|ending| ending.why),
            ),
            Life::New | Life::Pending { .. } | Life::Ended { .. } => (Duration::ZERO, None),
        };
        let kind = match why {
            Some(Why::Hung(silence)) => ExitKind::Hung(silence),
            Some(Why::Asked) | None => kind,
        };
        let again = match self.spec.restart {
            RestartPolicy::Never => false,
            RestartPolicy::OnFailure => !kind.is_success(),
            RestartPolicy::Always => true,
        };
        self.last_exit = Some(Exit { at: now.wall, kind });
        match self.goal {
            Goal::Cycle => {
                self.goal = Goal::Up;
                self.failures = 0;
                self.life = Life::New;
            }
            Goal::Up if again => {
                self.failures = if ran >= policy.stable_after {
                    1
                } else {
                    self.failures.saturating_add(1)
                };
                let not_before = now.uptime + policy.backoff(&self.spec.name, self.failures);
                self.life = Life::Pending {
                    not_before,
                    until: now.wall_at(not_before),
                };
            }
            Goal::Up | Goal::Down => self.life = Life::Ended { at: now.wall },
        }
    }

    /// Somebody wants it not to run.
    pub(crate) fn want_down(&mut self, now: Now) {
        self.goal = Goal::Down;
        match self.life {
            Life::New | Life::Pending { .. } => self.life = Life::Ended { at: now.wall },
            Life::Alive(_) | Life::Ended { .. } => {}
        }
    }

    /// Somebody wants a new process of it.
    pub(crate) fn want_again(&mut self) {
        self.failures = 0;
        match &self.life {
            Life::Alive(_) => self.goal = Goal::Cycle,
            Life::New | Life::Pending { .. } | Life::Ended { .. } => {
                self.goal = Goal::Up;
                self.life = Life::New;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Now {
        Now {
            uptime: Uptime(Duration::from_millis(ms)),
            wall: Timestamp::from_millisecond(1_700_000_000_000 + i64::try_from(ms).unwrap())
                .unwrap(),
        }
    }

    fn unit(restart: RestartPolicy) -> Unit {
        let mut spec = UnitSpec::new("nim".parse().unwrap(), "/bin/x", 1);
        spec.restart = restart;
        Unit::new(spec, Origin::Service)
    }

    #[test]
    fn a_stable_run_starts_the_count_of_failures_anew() {
        let policy = Policy::default();
        let mut unit = unit(RestartPolicy::Always);
        for turn in 1..=4 {
            unit.started(1, 1, at(turn * 10));
            unit.exited(ExitKind::Signal(11), at(turn * 10 + 5), &policy);
            assert_eq!(u64::from(unit.failures), turn);
        }
        unit.started(1, 1, at(100));
        unit.exited(ExitKind::Signal(11), at(100 + 61_000), &policy);
        assert_eq!((unit.failures, unit.restarts), (1, 4));
    }

    #[test]
    fn policies_decide_what_an_exit_means() {
        let policy = Policy::default();
        for (restart, kind, ends) in [
            (RestartPolicy::Never, ExitKind::Code(1), true),
            (RestartPolicy::OnFailure, ExitKind::Code(0), true),
            (RestartPolicy::OnFailure, ExitKind::Unknown, false),
            (RestartPolicy::OnFailure, ExitKind::Code(1), false),
            (RestartPolicy::Always, ExitKind::Code(0), false),
        ] {
            let mut unit = unit(restart);
            unit.started(1, 1, at(0));
            unit.exited(kind, at(1), &policy);
            assert_eq!(unit.is_ended(), ends, "{restart:?}");
        }
    }

    #[test]
    fn an_adopted_process_that_beats_is_ready() {
        let mut unit = unit(RestartPolicy::Always);
        unit.spec.heartbeat = Some(Duration::from_secs(1));
        unit.started(1, 1, at(0));
        unit.heard(false, None, at(1));
        assert!(!unit.process().unwrap().ready);
        unit.adopted(at(2));
        assert!(!unit.process().unwrap().ready);
        unit.heard(false, None, at(3));
        assert!(unit.process().unwrap().ready);
    }

    #[test]
    fn a_hung_process_is_recorded_as_hung_and_not_as_killed() {
        let mut unit = unit(RestartPolicy::Always);
        unit.started(1, 1, at(0));
        unit.ending(Why::Hung(Duration::from_secs(3)), at(3000));
        unit.exited(ExitKind::Signal(6), at(3001), &Policy::default());
        let kind = unit.last_exit.unwrap().kind;
        assert_eq!(kind, ExitKind::Hung(Duration::from_secs(3)));
    }

    proptest! {
        #[test]
        fn backoff_grows_stays_bounded_and_is_repeatable(seed: u64, failures in 1u32..100) {
            let policy = Policy { seed, ..Policy::default() };
            let name: UnitName = "nim".parse().unwrap();
            let pause = policy.backoff(&name, failures);
            prop_assert_eq!(pause, policy.backoff(&name, failures));
            prop_assert!(pause <= policy.backoff_max * 5 / 4);
            prop_assert!(pause >= policy.backoff_first * 3 / 4);
            // Two more failures always mean a longer pause, until the limit: 4 * 0.75 > 1.25.
            let later = policy.backoff(&name, failures + 2);
            prop_assert!(later > pause || pause >= policy.backoff_max * 3 / 4);
        }
    }
}
