//! What to do next with all units: a pure function of what is known and of the time.
//!
//! Start order: a unit waits for those named in its `after` to be ready (or to have failed, or for
//! [`Policy::order_wait`]). Stop order is the reverse, with transient units before all services.

use std::collections::BTreeMap;
use std::time::Duration;

use units::UnitName;

use crate::machine::{Goal, Life, Origin, Policy, Process, Unit, Why};
use crate::time::{Now, Uptime};

/// All units by name.
pub(crate) type Fleet = BTreeMap<UnitName, Unit>;

/// What the supervisor as a whole is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Running the units.
    Serving,
    /// Ending: units that outlive the supervisor stay.
    Leaving,
    /// The machine goes down: everything ends.
    Halting,
}

/// One effect on the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start its process.
    Start(UnitName),
    /// Send its stop signal.
    Ask(UnitName),
    /// Save the evidence of its silence and send `SIGABRT`.
    Abort(UnitName, Duration),
    /// Send `SIGKILL` to all its processes.
    Kill(UnitName),
}

/// The outcome of planning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What to do now.
    pub actions: Vec<Action>,
    /// When to plan again, if nothing happens before.
    pub wake: Option<Uptime>,
    /// Nothing is left to wait for: the supervisor may end.
    pub finished: bool,
}

impl Plan {
    fn wake_at(&mut self, time: Uptime) {
        self.wake = Some(self.wake.map_or(time, |wake| wake.min(time)));
    }
}

/// Decides what to do with `fleet` at `now`.
pub(crate) fn plan(fleet: &Fleet, mode: Mode, now: Now, policy: &Policy) -> Plan {
    let mut plan = Plan {
        finished: mode != Mode::Serving,
        ..Plan::default()
    };
    for (name, unit) in fleet {
        let must_go = must_go(unit, mode);
        match &unit.life {
            Life::New | Life::Pending { .. } | Life::Ended { .. } if mode != Mode::Serving => {}
            Life::New => start_in_order(fleet, name, unit, now, policy, &mut plan),
            Life::Pending { not_before, .. } => {
                if now.uptime >= *not_before {
                    plan.actions.push(Action::Start(name.clone()));
                } else {
                    plan.wake_at(*not_before);
                }
            }
            Life::Ended { .. } => {}
            Life::Alive(process) => {
                if must_go && !is_lost(unit, process, now, policy) {
                    plan.finished = false;
                }
                match &process.ending {
                    Some(_) => finish(name, unit, process, now, policy, &mut plan),
                    None if must_go || unit.goal != Goal::Up => {
                        if mode == Mode::Serving || may_go(fleet, name, unit, mode, now, policy) {
                            plan.actions.push(Action::Ask(name.clone()));
                        }
                    }
                    None => check_heartbeat(name, unit, process, now, policy, &mut plan),
                }
            }
        }
    }
    plan
}

/// What `unit` waits for before its first start.
pub(crate) fn waits_for(fleet: &Fleet, unit: &Unit, now: Now, policy: &Policy) -> Vec<UnitName> {
    unit.after
        .iter()
        .filter(|name| {
            fleet
                .get(name)
                .is_some_and(|other| !other.lets_others_start(now, policy))
        })
        .cloned()
        .collect()
}

fn must_go(unit: &Unit, mode: Mode) -> bool {
    match mode {
        Mode::Serving => false,
        Mode::Leaving => !unit.spec.outlives_supervisor,
        Mode::Halting => true,
    }
}

/// Whether nothing ends this process, so that nobody may wait for it at the end of all.
fn is_lost(unit: &Unit, process: &Process, now: Now, policy: &Policy) -> bool {
    process.ending.as_ref().is_some_and(|ending| {
        ending.killed.is_some()
            && now.uptime >= ending.asked + unit.spec.stop.timeout + policy.give_up
    })
}

/// Whether everything that is stopped before `unit` is down.
fn may_go(
    fleet: &Fleet,
    name: &UnitName,
    unit: &Unit,
    mode: Mode,
    now: Now,
    policy: &Policy,
) -> bool {
    fleet.values().all(|other| {
        let goes_first = match (other.origin, unit.origin) {
            (Origin::Transient, Origin::Service) => true,
            (Origin::Service | Origin::Transient, _) => other.after.contains(name),
        };
        !goes_first
            || !must_go(other, mode)
            || other
                .process()
                .is_none_or(|process| is_lost(other, process, now, policy))
    })
}

fn start_in_order(
    fleet: &Fleet,
    name: &UnitName,
    unit: &Unit,
    now: Now,
    policy: &Policy,
    plan: &mut Plan,
) {
    let waits = waits_for(fleet, unit, now, policy);
    if waits.is_empty() {
        plan.actions.push(Action::Start(name.clone()));
        return;
    }
    for process in waits
        .iter()
        .filter_map(|name| fleet.get(name).and_then(Unit::process))
    {
        plan.wake_at(process.started + policy.order_wait);
    }
}

fn finish(
    name: &UnitName,
    unit: &Unit,
    process: &Process,
    now: Now,
    policy: &Policy,
    plan: &mut Plan,
) {
    let Some(ending) = &process.ending else {
        return;
    };
    let deadline = match (ending.killed, ending.why) {
        (Some(killed), _) => killed + policy.kill_again,
        (None, Why::Asked) => ending.asked + unit.spec.stop.timeout,
        (None, Why::Hung(_)) => ending.asked + policy.abort_grace,
    };
    if now.uptime >= deadline {
        plan.actions.push(Action::Kill(name.clone()));
        plan.wake_at(now.uptime + policy.kill_again);
    } else {
        plan.wake_at(deadline);
    }
}

fn check_heartbeat(
    name: &UnitName,
    unit: &Unit,
    process: &Process,
    now: Now,
    policy: &Policy,
    plan: &mut Plan,
) {
    let Some(heartbeat) = unit.spec.heartbeat else {
        return;
    };
    let limit = if process.ready {
        heartbeat
    } else {
        heartbeat.max(policy.start_grace)
    };
    let silence = now.uptime.since(process.heard);
    if silence >= limit || process.broken {
        plan.actions.push(Action::Abort(name.clone(), silence));
    } else {
        plan.wake_at(process.heard + limit);
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
