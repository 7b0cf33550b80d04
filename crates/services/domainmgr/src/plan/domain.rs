//! One application's guest: what to do next, and what to say.

use std::time::Duration;

use agent::{Failure, Plan, Turn};
use jiff::{SignedDuration, Timestamp};
use model::{
    code::Code,
    domain::{Accelerator, DomainConfig, DomainMetric, DomainPhase, DomainStatus},
    fault::Fault,
    id::AppId,
};
use vmm::qmp::RunState;

use super::{budget::Budget, digest, evidence};
use crate::{Do, Domainmgr, Guest, Launch, Life, Password, Unit, launch, subject};

/// Time that a guest has to power off after the button was pressed; then QEMU is ended.
pub const GRACE: SignedDuration = SignedDuration::from_secs(60);
/// The button is pressed again after so long: a guest that is just booting ignores the first time.
pub const PRESS_AGAIN: SignedDuration = SignedDuration::from_secs(10);
/// QEMU may be silent for so long before that is said.
const SILENCE: SignedDuration = SignedDuration::from_secs(30);
/// A guest that stands still because of a disk is let go again after so long.
const RESUME_AFTER: SignedDuration = SignedDuration::from_secs(30);

/// Everything that is known about one application.
pub(super) struct View<'a> {
    turn: &'a Turn<'a, Domainmgr>,
    pub(super) app: AppId,
    pub(super) now: Timestamp,
    /// Its configuration, wanted to run or not.
    pub(super) config: Option<&'a DomainConfig>,
    pub(super) guest: &'a Guest,
    own: Option<&'a DomainStatus>,
    accelerator: Option<&'a Accelerator>,
    uid: Option<u32>,
}

/// Nothing is there.
static NO_GUEST: std::sync::LazyLock<Guest> = std::sync::LazyLock::new(Guest::default);

/// States of QEMU, as far as decisions differ.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Not let go yet.
    Ready,
    /// It executes, or somebody paused it.
    Going,
    /// It stands still until a disk can be written.
    Blocked,
    /// It will never go on.
    Over,
}

fn class(state: RunState) -> Class {
    match state {
        RunState::Prelaunch | RunState::Inmigrate => Class::Ready,
        RunState::Running
        | RunState::Paused
        | RunState::Debug
        | RunState::Suspended
        | RunState::SaveVm
        | RunState::RestoreVm
        | RunState::FinishMigrate
        | RunState::Colo
        | RunState::Unknown => Class::Going,
        RunState::IoError => Class::Blocked,
        RunState::Shutdown
        | RunState::GuestPanicked
        | RunState::InternalError
        | RunState::Watchdog
        | RunState::Postmigrate => Class::Over,
    }
}

impl<'a> View<'a> {
    pub(super) fn new(
        turn: &'a Turn<'a, Domainmgr>,
        app: AppId,
        accelerator: Option<&'a Accelerator>,
        uid: Option<u32>,
    ) -> Self {
        let key = app.to_string();
        Self {
            turn,
            app,
            now: turn.now,
            config: turn.desired.domains.get(&key),
            guest: turn.actual.guests.get(&app).unwrap_or(&NO_GUEST),
            own: turn.desired.own.statuses.get(&key),
            accelerator,
            uid,
        }
    }

    pub(super) fn own_metric(&self) -> Option<&'a DomainMetric> {
        self.turn.desired.own.metrics.get(&self.app.to_string())
    }

    /// Whether its processors run, as far as is known.
    pub(super) fn executes(&self) -> bool {
        let state = self.guest.seen.state;
        state.is_some_and(|(state, _)| state == RunState::Running)
    }

    fn wanted(&self) -> Option<&'a DomainConfig> {
        self.config.filter(|config| config.activate)
    }

    fn phase(&self) -> Option<&'a DomainPhase> {
        self.own.map(|own| &own.phase)
    }

    fn own_fault(&self) -> Option<&'a Fault> {
        self.own.and_then(|own| own.fault.as_ref())
    }

    /// The fault that says until when a guest that ended by itself is left alone.
    fn pause(&self) -> Option<&'a Fault> {
        let failed = self.phase() == Some(&DomainPhase::Failed);
        self.own_fault().filter(|fault| {
            failed
                && fault.next.is_some()
                && matches!(fault.code, Code::DomainCrashed | Code::DomainStart)
        })
    }

    fn job_fault(&self) -> Option<&'a Fault> {
        self.turn.jobs.fault(&subject(self.app))
    }

    fn boot_retry(&self) -> Duration {
        self.turn.desired.properties.boot_retry
    }

    fn next_start(&self) -> Option<Timestamp> {
        self.now.checked_add(self.boot_retry()).ok()
    }

    fn status(&self, phase: DomainPhase, incarnation: u64, fault: Option<Fault>) -> DomainStatus {
        let own = self.own;
        let alive = match self.guest.unit.as_ref().map(|unit| &unit.life) {
            Some(Life::Alive {
                process: Some((_, since)),
                stopping: false,
            }) => Some(*since),
            Some(Life::Alive { .. } | Life::Ended { .. }) | None => None,
        };
        let known = own.and_then(|own| own.boot_time);
        let boots = own.map_or(0, |own| own.boots);
        let vnc = self.config.filter(|config| config.resources.enable_vnc);
        DomainStatus {
            app: self.app,
            phase,
            incarnation,
            boot_time: alive.or(known),
            boots: boots + u32::from(alive.is_some() && alive != known),
            console_log: self
                .guest
                .unit
                .is_some()
                .then(|| {
                    self.turn
                        .actual
                        .consoles
                        .join(launch::console_name(self.app))
                })
                .or_else(|| own.and_then(|own| own.console_log.clone())),
            vnc_port: alive
                .and(vnc)
                .and_then(|config| launch::vnc_port(&config.resources)),
            fault,
        }
    }
}

/// What comes out of looking at one application.
#[derive(Default)]
struct Next {
    status: Option<DomainStatus>,
    action: Option<Do>,
    wake: Option<SignedDuration>,
}

impl Next {
    fn say(status: DomainStatus) -> Self {
        Self {
            status: Some(status),
            ..Self::default()
        }
    }

    fn act(mut self, action: Do) -> Self {
        self.action = Some(action);
        self
    }

    fn wake(mut self, left: SignedDuration) -> Self {
        self.wake = Some(self.wake.map_or(left, |wake| wake.min(left)));
        self
    }
}

pub(super) fn plan(view: &View<'_>, budget: &mut Budget, plan: &mut Plan<Domainmgr>) {
    let next = match &view.guest.unit {
        None => match view.wanted() {
            Some(config) => start(view, config, budget),
            None => leave(view),
        },
        Some(unit) => match &unit.life {
            Life::Alive { process, stopping } => alive(view, unit, *process, *stopping),
            Life::Ended { at, how } => ended(view, unit, *at, how, budget),
        },
    };
    let Next {
        status,
        action,
        wake,
    } = next;
    if let Some(status) = status {
        plan.report.statuses.insert(view.app.to_string(), status);
    }
    plan.actions.extend(action);
    if let Some(left) = wake {
        plan.wake_in(left.max(SignedDuration::ZERO).unsigned_abs());
    }
}

/// Whether it is a start that fails so.
fn is_of_start(code: Code) -> bool {
    matches!(
        code,
        Code::DomainStart | Code::CipherContext | Code::CipherBlock | Code::CipherKey
    )
}

/// No QEMU lives and one is wanted.
fn start(view: &View<'_>, config: &DomainConfig, budget: &mut Budget) -> Next {
    let failed = |fault: Fault| {
        let fault = fault.continuing(view.own_fault());
        Next::say(view.status(DomainPhase::Failed, config.incarnation, Some(fault)))
    };
    let booting = || {
        let ended = match view.guest.unit.as_ref().map(|unit| &unit.life) {
            Some(Life::Ended { at, .. }) => Some(*at),
            Some(Life::Alive { .. }) | None => None,
        };
        let since = match view.phase() {
            Some(DomainPhase::Booting { since }) if ended.is_none_or(|at| *since > at) => *since,
            _ => view.now,
        };
        Next::say(view.status(DomainPhase::Booting { since }, config.incarnation, None))
    };
    let Some(accelerator) = view.accelerator else {
        return booting();
    };
    let need = launch::memory_kib(config, accelerator);
    if let Err(short) = budget.take(view.app, need) {
        let text = short.to_string();
        let fault = Fault::new(Code::MemoryBudget, subject(view.app), text, view.now);
        return failed(fault);
    }
    let Some(uid) = view.uid else {
        let text = "all users for guests are taken".to_owned();
        return failed(Fault::new(
            Code::DomainStart,
            subject(view.app),
            text,
            view.now,
        ));
    };
    let keys = match &config.secret_user_data {
        None => None,
        Some(secret) => {
            let desired = view.turn.desired;
            let (Some(contexts), Some(certs)) = (&desired.contexts, &desired.certs) else {
                return booting();
            };
            match cipher::Keys::find(secret, contexts, certs) {
                Ok(keys) => Some(keys),
                Err(error) => {
                    let failure = Failure::of(error.code(), subject(view.app), &error);
                    let fault = failure.transient().into_fault(view.now);
                    return failed(fault);
                }
            }
        }
    };
    let action = Do::Start(Box::new(Launch {
        config: config.clone(),
        keys,
        uid,
        accelerator: accelerator.clone(),
        retry: view.boot_retry(),
    }));
    // A fault of what was done before (a button that could not be pressed) is not the start's.
    let fault = view
        .job_fault()
        .filter(|fault| !matches!(fault.code, Code::DomainQmp | Code::DomainStop));
    match fault {
        Some(fault) => {
            Next::say(view.status(DomainPhase::Failed, config.incarnation, Some(fault.clone())))
        }
        None => booting(),
    }
    .act(action)
}

/// No QEMU lives and none is wanted: nothing of it shall be left.
fn leave(view: &View<'_>) -> Next {
    let guest = view.guest;
    let gone = view.config.is_none();
    // Without a row of ours the configuration may just not have come yet, after a reboot: what
    // lies in /persist stays.
    let for_good = gone && view.own.is_some();
    let left = guest.unit.is_some() || guest.uid.is_some() || (for_good && guest.kept);
    if gone && !left {
        return Next::default();
    }
    let incarnation = match (view.config, &guest.unit, view.own) {
        (_, Some(unit), _) => unit.incarnation,
        (_, None, Some(own)) => own.incarnation,
        (Some(config), None, None) => config.incarnation,
        (None, None, None) => 0,
    };
    let fault = left.then(|| view.job_fault().cloned()).flatten();
    let next = Next::say(view.status(DomainPhase::Halted, incarnation, fault));
    if left {
        let app = view.app;
        next.act(Do::Clear { app, for_good })
    } else {
        next
    }
}

/// QEMU lives.
fn alive(view: &View<'_>, unit: &Unit, process: Option<(u32, Timestamp)>, stopping: bool) -> Next {
    let halting = matches!(view.phase(), Some(DomainPhase::Halting { .. }));
    let config = view
        .wanted()
        .filter(|config| config.incarnation == unit.incarnation);
    let (Some(config), false) = (config, halting) else {
        return halt(view, unit, stopping);
    };
    let state = view.guest.seen.state;
    if let Some((state, _)) = state.filter(|(state, _)| class(*state) == Class::Over) {
        let fault = view.pause().cloned();
        let fault = fault.unwrap_or_else(|| {
            evidence::over(view.turn, view.app, view.guest, state, view.next_start())
        });
        let status = view.status(DomainPhase::Failed, unit.incarnation, Some(fault));
        return Next::say(status).act(Do::End(view.app));
    }
    if stopping {
        return match (view.pause(), view.own) {
            // It was over and is being ended.
            (Some(_), Some(own)) => Next::say(own.clone()).act(Do::End(view.app)),
            // Somebody else wants it down; it will be started again.
            (_, _) => halt(view, unit, stopping),
        };
    }
    let boot = Do::Boot(view.app, Password(config.resources.vnc_password.clone()));
    let booting = || {
        let since = match view.phase() {
            Some(DomainPhase::Booting { since }) => *since,
            _ => process.map_or(view.now, |(_, since)| since),
        };
        let fault = view.job_fault().cloned();
        Next::say(view.status(DomainPhase::Booting { since }, unit.incarnation, fault))
    };
    let Some((pid, since)) = process else {
        return booting();
    };
    let running = |fault: Option<Fault>| {
        let phase = DomainPhase::Running {
            unit: launch::unit_text(view.app),
            pid,
            since,
        };
        Next::say(view.status(phase, unit.incarnation, fault))
    };
    match state.map(|(state, at)| (class(state), at)) {
        Some((Class::Ready, _)) => booting().act(boot),
        Some((Class::Blocked, at)) => {
            let left = left_of(RESUME_AFTER, at, view.now);
            let next = running(Some(stands_still(view, at)));
            if left <= SignedDuration::ZERO {
                next.act(boot)
            } else {
                next.wake(left)
            }
        }
        Some((Class::Going | Class::Over, _)) => with_silence(view, running),
        // Not connected yet, or not any more: what was known goes on.
        None => match view.phase() {
            Some(DomainPhase::Running { pid: known, .. }) if *known == pid => {
                with_silence(view, running)
            }
            Some(DomainPhase::Failed) if view.pause().is_some() => Next {
                status: view.own.cloned(),
                ..Next::default()
            },
            _ => booting().act(boot),
        },
    }
}

/// Running, and maybe QEMU does not answer.
fn with_silence(view: &View<'_>, running: impl FnOnce(Option<Fault>) -> Next) -> Next {
    let Some((at, how)) = &view.guest.seen.trouble else {
        return running(None);
    };
    let left = left_of(SILENCE, *at, view.now);
    if left > SignedDuration::ZERO {
        return running(None).wake(left);
    }
    let fault = Fault::new(Code::DomainQmp, subject(view.app), how.clone(), *at).transient(true);
    running(Some(fault.continuing(view.own_fault())))
}

/// What is left of a wait that began at `at`. When the clock was set back since, it is over: nobody knows how long it was.
fn left_of(wait: SignedDuration, at: Timestamp, now: Timestamp) -> SignedDuration {
    let age = now.duration_since(at);
    if age.is_negative() {
        SignedDuration::ZERO
    } else {
        wait - age
    }
}

fn stands_still(view: &View<'_>, at: Timestamp) -> Fault {
    let text = "the guest stands still: one of its disks can't be written";
    let mut fault = Fault::new(Code::DomainStalled, subject(view.app), text, at).transient(true);
    fault.causes.extend(
        view.guest
            .seen
            .last_event
            .iter()
            .map(|event| format!("last event: {event}")),
    );
    fault.next = at.checked_add(RESUME_AFTER).ok();
    fault.continuing(view.own_fault())
}

/// QEMU lives and shall not: first the button, after [`GRACE`] the end.
fn halt(view: &View<'_>, unit: &Unit, stopping: bool) -> Next {
    let latest = view.now.checked_add(GRACE).unwrap_or(Timestamp::MAX);
    let deadline = match view.phase() {
        // The clock may have been set back since.
        Some(DomainPhase::Halting { deadline }) => latest.min(*deadline),
        _ => latest,
    };
    let fault = view
        .job_fault()
        .filter(|fault| matches!(fault.code, Code::DomainQmp | Code::DomainStop))
        .cloned();
    let status = view.status(DomainPhase::Halting { deadline }, unit.incarnation, fault);
    let next = Next::say(status);
    let left = deadline.duration_since(view.now);
    let can_react = view
        .guest
        .seen
        .state
        .is_none_or(|(state, _)| state == RunState::Running);
    if stopping || !can_react || left <= SignedDuration::ZERO {
        return next.act(Do::End(view.app));
    }
    let pressed = view
        .guest
        .seen
        .pressed
        .map(|at| view.now.duration_since(at));
    match pressed {
        Some(age) if (SignedDuration::ZERO..PRESS_AGAIN).contains(&age) => {
            next.wake(left).wake(PRESS_AGAIN - age)
        }
        Some(_) | None => next.wake(left).act(Do::Press(view.app)),
    }
}

/// QEMU has ended.
fn ended(view: &View<'_>, unit: &Unit, at: Timestamp, how: &str, budget: &mut Budget) -> Next {
    let Some(config) = view.wanted() else {
        return leave(view);
    };
    let changed = unit.incarnation != config.incarnation || unit.config != digest(config);
    // The next start has failed already, and the runtime says when it is tried again.
    let being_tried = view
        .job_fault()
        .is_some_and(|fault| is_of_start(fault.code));
    if changed || being_tried {
        return start(view, config, budget);
    }
    let by_itself = |started: bool| {
        evidence::ended(
            view.turn,
            view.app,
            view.guest,
            how,
            started,
            view.next_start(),
        )
    };
    let mut fault = match view.phase() {
        Some(DomainPhase::Running { .. }) | None => by_itself(true),
        Some(DomainPhase::Booting { since }) if *since <= at => by_itself(false),
        Some(DomainPhase::Failed) => match view.pause() {
            Some(fault) => fault.clone(),
            None => return start(view, config, budget),
        },
        // A start that has not come to its unit yet, or the end of a stop.
        Some(DomainPhase::Booting { .. } | DomainPhase::Halting { .. } | DomainPhase::Halted) => {
            return start(view, config, budget);
        }
    };
    // Neither a clock that was set back nor a shortened retry keeps it waiting longer than the retry.
    fault.next = fault.next.min(view.next_start());
    let left = fault
        .next
        .map_or(SignedDuration::ZERO, |next| next.duration_since(view.now));
    if left <= SignedDuration::ZERO {
        return start(view, config, budget);
    }
    Next::say(view.status(DomainPhase::Failed, unit.incarnation, Some(fault))).wake(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_ends_a_wait() {
        let at = |second| Timestamp::constant(second, 0);
        let left = |since, now| left_of(SILENCE, at(since), at(now)).as_secs();
        assert_eq!((left(100, 110), left(100, 130)), (20, 0));
        assert_eq!(left(1_700_000_000, 5), 0);
    }
}
