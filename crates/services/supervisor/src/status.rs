//! Units as others see them: over gRPC ([`state`]) and on the bus ([`service_status`]). Pure.

use model::code::Code;
use model::fault::Fault;
use model::service::{ServicePhase, ServiceStatus};
use units::{ExitKind, Phase, SIGSYS, UnitState};

use crate::machine::{Life, Policy, Process, Unit, Why};
use crate::plan::{Fleet, waits_for};
use crate::time::Now;

/// A unit as its owner sees it.
pub(crate) fn state(
    fleet: &Fleet,
    unit: &Unit,
    memory_bytes: Option<u64>,
    now: Now,
    policy: &Policy,
) -> UnitState {
    let phase = match &unit.life {
        Life::New => Phase::Waiting {
            after: waits_for(fleet, unit, now, policy),
        },
        Life::Alive(process) => alive(process),
        Life::Pending { until, .. } => Phase::Backoff {
            until: *until,
            reason: last_exit(unit),
        },
        Life::Ended { at } => Phase::Ended { at: *at },
    };
    UnitState {
        name: unit.spec.name.clone(),
        phase,
        restarts: unit.restarts,
        last_exit: unit.last_exit.clone(),
        memory_bytes,
        uid: unit.spec.sandbox.uid,
        labels: unit.spec.labels.clone(),
        status_text: unit.status_text.clone(),
    }
}

fn alive(process: &Process) -> Phase {
    let (pid, since) = (process.pid, process.since);
    match &process.ending {
        Some(ending) => Phase::Stopping {
            pid,
            since: ending.at,
        },
        None if process.ready => Phase::Running { pid, since },
        None => Phase::Starting { pid, since },
    }
}

fn last_exit(unit: &Unit) -> String {
    unit.last_exit
        .as_ref()
        .map(|exit| exit.kind.to_string())
        .unwrap_or_default()
}

/// A unit as a row of `supervisor/ServiceStatus`.
pub(crate) fn service_status(
    fleet: &Fleet,
    unit: &Unit,
    memory_bytes: Option<u64>,
    now: Now,
    policy: &Policy,
) -> ServiceStatus {
    let phase = match &unit.life {
        Life::New => ServicePhase::Waiting {
            after: waits_for(fleet, unit, now, policy)
                .iter()
                .map(ToString::to_string)
                .collect(),
        },
        Life::Alive(process) => match &process.ending {
            Some(ending) => {
                let timeout = match ending.why {
                    Why::Asked => unit.spec.stop.timeout,
                    Why::Hung(_) => policy.abort_grace,
                };
                ServicePhase::Stopping {
                    pid: process.pid,
                    deadline: ending.at.checked_add(timeout).unwrap_or(ending.at),
                }
            }
            None if process.ready => ServicePhase::Running {
                pid: process.pid,
                since: process.since,
            },
            None => ServicePhase::Starting {
                pid: process.pid,
                since: process.since,
            },
        },
        Life::Pending { until, .. } => ServicePhase::Backoff { until: *until },
        Life::Ended { .. } => ServicePhase::Stopped,
    };
    ServiceStatus {
        name: unit.spec.name.to_string(),
        phase,
        restarts: unit.restarts,
        uid: unit.spec.sandbox.uid,
        // Whole MiB: every byte more or less would be a write on the bus.
        memory: memory_bytes.map(|bytes| bytes.div_ceil(1 << 20) << 20),
        memory_limit: unit.spec.limits.memory_bytes,
        status_text: unit.status_text.clone(),
        last_exit: last_exit(unit),
        last_exit_at: unit.last_exit.as_ref().map(|exit| exit.at),
        fault: fault(unit),
    }
}

/// What keeps a unit from running: it failed, and is started again later or not at all.
fn fault(unit: &Unit) -> Option<Fault> {
    let exit = unit.last_exit.as_ref()?;
    let next = match &unit.life {
        Life::Pending { until, .. } => Some(*until),
        Life::Ended { .. } if unit.goal == crate::machine::Goal::Up => None,
        Life::Ended { .. } | Life::New | Life::Alive(_) => return None,
    };
    let code = match &exit.kind {
        ExitKind::Code(0) if next.is_none() => return None,
        ExitKind::Signal(SIGSYS) => Code::UnitForbidden,
        ExitKind::OutOfMemory => Code::UnitMemory,
        ExitKind::Code(_) | ExitKind::Signal(_) | ExitKind::Unknown => Code::UnitCrashed,
        ExitKind::NotStarted(_) => Code::UnitStart,
        ExitKind::Hung(_) => Code::UnitHung,
    };
    let mut fault = Fault::new(
        code,
        format!("unit {}", unit.spec.name),
        exit.kind.to_string(),
        exit.at,
    )
    .transient(next.is_some());
    fault.attempts = unit.failures;
    fault.next = next;
    Some(fault)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::machine::Origin;
    use crate::time::Uptime;
    use jiff::Timestamp;
    use std::time::Duration;
    use units::{RestartPolicy, UnitSpec};

    fn now(s: i64) -> Now {
        Now {
            uptime: Uptime(Duration::from_secs(s.unsigned_abs())),
            wall: Timestamp::from_second(1_700_000_000 + s).unwrap(),
        }
    }

    #[test]
    fn a_failed_unit_says_why_and_when_it_is_tried_again() {
        let policy = Policy::default();
        let mut spec = UnitSpec::new("nim".parse().unwrap(), "/bin/x", 7);
        spec.restart = RestartPolicy::Always;
        let mut unit = Unit::new(spec, Origin::Service);
        let fleet = Fleet::new();
        let row = |unit: &Unit| service_status(&fleet, unit, Some(1), now(9), &policy);
        assert_eq!(row(&unit).phase, ServicePhase::Waiting { after: vec![] });
        unit.started(5, 5, now(1));
        let running = row(&unit);
        assert_eq!((running.fault, running.memory), (None, Some(1 << 20)));
        unit.exited(ExitKind::Signal(11), now(2), &policy);
        let failed = row(&unit);
        let fault = failed.fault.unwrap();
        assert_eq!((fault.code, fault.attempts), (Code::UnitCrashed, 1));
        assert!(fault.next.unwrap() > now(2).wall);
        assert_eq!(failed.last_exit, "killed by signal 11");
        for (exit, code) in [
            (ExitKind::Signal(SIGSYS), Code::UnitForbidden),
            (ExitKind::OutOfMemory, Code::UnitMemory),
            (ExitKind::Hung(Duration::from_secs(9)), Code::UnitHung),
            (ExitKind::NotStarted("no file".to_owned()), Code::UnitStart),
            (ExitKind::Code(1), Code::UnitCrashed),
        ] {
            let mut unit = Unit::new(unit.spec.clone(), Origin::Service);
            unit.started(5, 5, now(1));
            unit.exited(exit.clone(), now(2), &policy);
            let fault = row(&unit).fault.unwrap();
            assert_eq!((fault.code, fault.text), (code, exit.to_string()));
        }
        unit.want_down(now(3));
        let stopped = row(&unit);
        assert_eq!(
            (stopped.phase, stopped.fault),
            (ServicePhase::Stopped, None)
        );
    }
}
