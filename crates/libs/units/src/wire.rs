//! The gRPC form of units, and the conversions between it and the types of this crate.
//!
//! [`v1`] is generated from `proto/supervisor/supervisor.proto`. What comes in is checked here: a
//! spec or a state that was converted holds no impossible value.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use tonic::{Code, Status};

use crate::{
    Exit, ExitKind, Limits, Output, Paths, Phase, RestartPolicy, Sandbox, SpecError, Stop,
    UnitName, UnitSpec, UnitState, UnitsError,
};

/// The generated messages, client and server.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("eve.supervisor.v1");
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn texts(paths: &[PathBuf]) -> Result<Vec<String>, SpecError> {
    paths.iter().map(|path| text(path)).collect()
}

fn text(path: &std::path::Path) -> Result<String, SpecError> {
    path.to_str()
        .map(ToOwned::to_owned)
        .ok_or_else(|| SpecError::Path {
            field: "a path that is not UTF-8",
            path: path.to_owned(),
        })
}

/// A spec as a message. Fails when a path is not UTF-8.
pub fn spec_to_wire(spec: &UnitSpec) -> Result<v1::UnitSpec, SpecError> {
    let UnitSpec {
        name,
        argv,
        env,
        cwd,
        sandbox,
        limits,
        output,
        restart,
        stop,
        heartbeat,
        outlives_supervisor,
        labels,
    } = spec;
    let paths = match &sandbox.paths {
        None => None,
        Some(paths) => Some(v1::Paths {
            read: texts(&paths.read)?,
            write: texts(&paths.write)?,
            execute: texts(&paths.execute)?,
        }),
    };
    let output = match output {
        Output::Log => v1::output::Kind::Log(true),
        Output::File(path) => v1::output::Kind::File(text(path)?),
        Output::Discard => v1::output::Kind::Discard(true),
    };
    let restart = match restart {
        RestartPolicy::Never => v1::Restart::Never,
        RestartPolicy::OnFailure => v1::Restart::OnFailure,
        RestartPolicy::Always => v1::Restart::Always,
    };
    Ok(v1::UnitSpec {
        name: name.to_string(),
        argv: argv.clone(),
        env: env.clone(),
        cwd: text(cwd)?,
        sandbox: Some(v1::Sandbox {
            uid: sandbox.uid,
            gid: sandbox.gid,
            groups: sandbox.groups.clone(),
            capabilities: sandbox
                .capabilities
                .iter()
                .map(ToString::to_string)
                .collect(),
            paths,
        }),
        limits: Some(v1::Limits {
            memory_bytes: limits.memory_bytes.unwrap_or(0),
            cpu_percent: limits.cpu_percent.unwrap_or(0),
        }),
        output: Some(v1::Output { kind: Some(output) }),
        restart: restart.into(),
        stop_signal: stop.signal.to_string(),
        stop_timeout_ms: millis(stop.timeout),
        heartbeat_ms: heartbeat.map_or(0, millis),
        outlives_supervisor: *outlives_supervisor,
        labels: labels.clone(),
    })
}

/// A message as a spec, checked.
pub fn spec_from_wire(spec: v1::UnitSpec) -> Result<UnitSpec, SpecError> {
    let sandbox = spec
        .sandbox
        .ok_or(SpecError::Missing { field: "sandbox" })?;
    let limits = spec.limits.unwrap_or_default();
    let output = match spec.output.and_then(|output| output.kind) {
        None | Some(v1::output::Kind::Log(_)) => Output::Log,
        Some(v1::output::Kind::File(path)) => Output::File(path.into()),
        Some(v1::output::Kind::Discard(_)) => Output::Discard,
    };
    let restart = match v1::Restart::try_from(spec.restart) {
        Ok(v1::Restart::Unspecified | v1::Restart::Never) => RestartPolicy::Never,
        Ok(v1::Restart::OnFailure) => RestartPolicy::OnFailure,
        Ok(v1::Restart::Always) => RestartPolicy::Always,
        Err(_) => {
            return Err(SpecError::Range {
                field: "restart",
                value: u64::from(spec.restart.unsigned_abs()),
                range: "0..=3",
            });
        }
    };
    let capabilities = sandbox
        .capabilities
        .iter()
        .map(|name| name.parse())
        .collect::<Result<_, SpecError>>()?;
    let spec = UnitSpec {
        name: spec.name.parse()?,
        argv: spec.argv,
        env: spec.env,
        cwd: spec.cwd.into(),
        sandbox: Sandbox {
            uid: sandbox.uid,
            gid: sandbox.gid,
            groups: sandbox.groups,
            capabilities,
            paths: sandbox.paths.map(|paths| Paths {
                read: paths.read.into_iter().map(Into::into).collect(),
                write: paths.write.into_iter().map(Into::into).collect(),
                execute: paths.execute.into_iter().map(Into::into).collect(),
            }),
        },
        limits: Limits {
            memory_bytes: (limits.memory_bytes != 0).then_some(limits.memory_bytes),
            cpu_percent: (limits.cpu_percent != 0).then_some(limits.cpu_percent),
        },
        output,
        restart,
        stop: Stop {
            signal: spec.stop_signal.parse()?,
            timeout: Duration::from_millis(spec.stop_timeout_ms),
        },
        heartbeat: (spec.heartbeat_ms != 0).then(|| Duration::from_millis(spec.heartbeat_ms)),
        outlives_supervisor: spec.outlives_supervisor,
        labels: spec.labels,
    };
    spec.check()?;
    Ok(spec)
}

/// A state as a message.
pub fn state_to_wire(state: &UnitState) -> v1::Unit {
    let process = |pid: &u32, since: &Timestamp| v1::Process {
        pid: *pid,
        since_unix_ms: since.as_millisecond(),
    };
    let phase = match &state.phase {
        Phase::Waiting { after } => v1::unit::Phase::Waiting(v1::Waiting {
            after: after.iter().map(ToString::to_string).collect(),
        }),
        Phase::Starting { pid, since } => v1::unit::Phase::Starting(process(pid, since)),
        Phase::Running { pid, since } => v1::unit::Phase::Running(process(pid, since)),
        Phase::Stopping { pid, since } => v1::unit::Phase::Stopping(process(pid, since)),
        Phase::Backoff { until, reason } => v1::unit::Phase::Backoff(v1::Backoff {
            until_unix_ms: until.as_millisecond(),
            reason: reason.clone(),
        }),
        Phase::Ended { at } => v1::unit::Phase::Ended(v1::Ended {
            at_unix_ms: at.as_millisecond(),
        }),
    };
    v1::Unit {
        name: state.name.to_string(),
        phase: Some(phase),
        restarts: state.restarts,
        last_exit: state.last_exit.as_ref().map(exit_to_wire),
        memory_bytes: state.memory_bytes.unwrap_or(0),
        uid: state.uid,
        labels: state.labels.clone(),
        status_text: state.status_text.clone(),
    }
}

fn exit_to_wire(exit: &Exit) -> v1::Exit {
    let how = match &exit.kind {
        ExitKind::Code(code) => v1::exit::How::Code(*code),
        ExitKind::Signal(signal) => v1::exit::How::Signal(*signal),
        ExitKind::Unknown => v1::exit::How::Unknown(true),
        ExitKind::NotStarted(why) => v1::exit::How::NotStarted(why.clone()),
        ExitKind::Hung(silence) => v1::exit::How::HungMs(millis(*silence)),
        ExitKind::OutOfMemory => v1::exit::How::OutOfMemory(true),
    };
    v1::Exit {
        at_unix_ms: exit.at.as_millisecond(),
        how: Some(how),
    }
}

fn answer(reason: impl Into<String>) -> UnitsError {
    UnitsError::Answer {
        reason: reason.into(),
    }
}

fn time(unix_ms: i64) -> Result<Timestamp, UnitsError> {
    Timestamp::from_millisecond(unix_ms).map_err(|error| answer(error.to_string()))
}

fn name(text: &str) -> Result<UnitName, UnitsError> {
    text.parse()
        .map_err(|error: crate::NameError| answer(error.to_string()))
}

/// A message as a state.
pub fn state_from_wire(unit: v1::Unit) -> Result<UnitState, UnitsError> {
    let phase = match unit
        .phase
        .ok_or_else(|| answer(format!("{} has no phase", unit.name)))?
    {
        v1::unit::Phase::Waiting(waiting) => Phase::Waiting {
            after: waiting
                .after
                .iter()
                .map(|text| name(text))
                .collect::<Result<_, _>>()?,
        },
        v1::unit::Phase::Starting(process) => Phase::Starting {
            pid: process.pid,
            since: time(process.since_unix_ms)?,
        },
        v1::unit::Phase::Running(process) => Phase::Running {
            pid: process.pid,
            since: time(process.since_unix_ms)?,
        },
        v1::unit::Phase::Stopping(process) => Phase::Stopping {
            pid: process.pid,
            since: time(process.since_unix_ms)?,
        },
        v1::unit::Phase::Backoff(backoff) => Phase::Backoff {
            until: time(backoff.until_unix_ms)?,
            reason: backoff.reason,
        },
        v1::unit::Phase::Ended(ended) => Phase::Ended {
            at: time(ended.at_unix_ms)?,
        },
    };
    Ok(UnitState {
        name: name(&unit.name)?,
        phase,
        restarts: unit.restarts,
        last_exit: unit.last_exit.map(exit_from_wire).transpose()?,
        memory_bytes: (unit.memory_bytes != 0).then_some(unit.memory_bytes),
        uid: unit.uid,
        labels: unit.labels,
        status_text: unit.status_text,
    })
}

fn exit_from_wire(exit: v1::Exit) -> Result<Exit, UnitsError> {
    let kind = match exit.how.ok_or_else(|| answer("an exit says not how"))? {
        v1::exit::How::Code(code) => ExitKind::Code(code),
        v1::exit::How::Signal(signal) => ExitKind::Signal(signal),
        v1::exit::How::Unknown(_) => ExitKind::Unknown,
        v1::exit::How::NotStarted(why) => ExitKind::NotStarted(why),
        v1::exit::How::HungMs(ms) => ExitKind::Hung(Duration::from_millis(ms)),
        v1::exit::How::OutOfMemory(_) => ExitKind::OutOfMemory,
    };
    Ok(Exit {
        at: time(exit.at_unix_ms)?,
        kind,
    })
}

/// An error as the status that [`error_from_status`] turns back into it.
pub fn status_from_error(error: &UnitsError) -> Status {
    let (code, text) = match error {
        UnitsError::Unreachable { reason, .. } => (Code::Unavailable, reason.clone()),
        UnitsError::Refused { reason } => (Code::PermissionDenied, reason.clone()),
        UnitsError::Invalid { reason } => (Code::InvalidArgument, reason.clone()),
        UnitsError::NotFound { .. } => (Code::NotFound, error.to_string()),
        UnitsError::Exists { reason } => (Code::AlreadyExists, reason.clone()),
        UnitsError::Failed { reason } => (Code::FailedPrecondition, reason.clone()),
        UnitsError::Answer { reason } => (Code::Internal, reason.clone()),
        UnitsError::NoRuntime => (Code::Internal, error.to_string()),
    };
    Status::new(code, text)
}

/// A failed call as an error. `name` is the unit that was asked about.
pub(crate) fn error_from_status(
    status: &Status,
    socket: &std::path::Path,
    name: Option<&UnitName>,
) -> UnitsError {
    let reason = status.message().to_owned();
    match (status.code(), name) {
        (Code::PermissionDenied | Code::Unauthenticated, _) => UnitsError::Refused { reason },
        (Code::InvalidArgument | Code::OutOfRange, _) => UnitsError::Invalid { reason },
        (Code::NotFound, Some(name)) => UnitsError::NotFound { name: name.clone() },
        (Code::AlreadyExists, _) => UnitsError::Exists { reason },
        (Code::FailedPrecondition | Code::Aborted | Code::ResourceExhausted, _) => {
            UnitsError::Failed { reason }
        }
        (Code::Internal | Code::DataLoss | Code::Unimplemented, _) => UnitsError::Answer { reason },
        (
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unavailable
            | Code::NotFound,
            _,
        ) => UnitsError::Unreachable {
            socket: socket.to_owned(),
            reason: if reason.is_empty() {
                status.code().to_string()
            } else {
                reason
            },
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Capability, StopSignal, ids};

    fn full() -> UnitSpec {
        let mut spec = UnitSpec::new(
            UnitName::transient("domainmgr", "guest-1").unwrap(),
            "/usr/bin/qemu-system-x86_64",
            ids::GUEST_UID_FIRST,
        )
        .args(["-nodefaults", ""])
        .capabilities([Capability::NetAdmin])
        .label("digest", "abc");
        spec.env.insert("LANG".into(), "C".into());
        spec.sandbox.groups = vec![104];
        spec.sandbox.paths = Some(Paths {
            read: vec!["/a".into()],
            write: vec!["/b".into()],
            execute: vec!["/c".into()],
        });
        spec.limits = Limits {
            memory_bytes: Some(1 << 30),
            cpu_percent: Some(150),
        };
        spec.output = Output::File("/persist/x".into());
        spec.restart = RestartPolicy::OnFailure;
        spec.stop = Stop {
            signal: StopSignal::Quit,
            timeout: Duration::from_millis(1500),
        };
        spec.heartbeat = Some(Duration::from_secs(3));
        spec.outlives_supervisor = true;
        spec
    }

    #[test]
    fn a_spec_survives_the_wire() {
        let spec = full();
        let back = spec_from_wire(spec_to_wire(&spec).unwrap()).unwrap();
        assert_eq!(back, spec);
    }

    #[test]
    fn a_spec_that_cannot_run_is_refused() {
        let change = |change: fn(&mut v1::UnitSpec)| {
            let mut wire = spec_to_wire(&full()).unwrap();
            change(&mut wire);
            spec_from_wire(wire).unwrap_err()
        };
        assert!(matches!(
            change(|w| w.name = "x/../y".into()),
            SpecError::Name(_)
        ));
        assert_eq!(change(|w| w.argv.clear()), SpecError::NoProgram);
        assert!(matches!(
            change(|w| w.argv[0] = "sh".into()),
            SpecError::Path { .. }
        ));
        assert!(matches!(
            change(|w| w.argv[1] = "a\0".into()),
            SpecError::Text { .. }
        ));
        assert!(matches!(
            change(|w| w.cwd = "/a/../b".into()),
            SpecError::Path { .. }
        ));
        assert!(matches!(
            change(|w| w.stop_signal = "SIGSTOP".into()),
            SpecError::Signal { .. }
        ));
        assert!(matches!(
            change(|w| w.sandbox = None),
            SpecError::Missing { .. }
        ));
        assert!(matches!(change(|w| w.restart = 9), SpecError::Range { .. }));
        assert!(matches!(
            change(|w| w.limits.as_mut().unwrap().memory_bytes = 5),
            SpecError::Range { .. }
        ));
        assert!(matches!(
            change(|w| w.sandbox.as_mut().unwrap().capabilities = vec!["CAP_ALL".into()]),
            SpecError::Capability { .. }
        ));
        assert!(matches!(
            change(|w| w.argv.push("x".repeat(300_000))),
            SpecError::TooLarge { .. }
        ));
    }

    #[test]
    fn every_state_survives_the_wire() {
        let at = Timestamp::from_millisecond(1_700_000_000_123).unwrap();
        let phases = [
            Phase::Waiting {
                after: vec![UnitName::service("nim").unwrap()],
            },
            Phase::Starting { pid: 1, since: at },
            Phase::Running { pid: 2, since: at },
            Phase::Stopping { pid: 3, since: at },
            Phase::Backoff {
                until: at,
                reason: "killed by signal 9".into(),
            },
            Phase::Ended { at },
        ];
        let exits = [
            ExitKind::Code(3),
            ExitKind::Signal(9),
            ExitKind::Unknown,
            ExitKind::NotStarted("no such file".into()),
            ExitKind::Hung(Duration::from_millis(1001)),
            ExitKind::OutOfMemory,
        ];
        for (phase, kind) in phases.into_iter().zip(exits) {
            let state = UnitState {
                name: UnitName::transient("zedrouter", "dns").unwrap(),
                phase,
                restarts: 4,
                last_exit: Some(Exit { at, kind }),
                memory_bytes: Some(5),
                uid: 6,
                labels: [("a".to_owned(), "b".to_owned())].into(),
                status_text: "ok".into(),
            };
            assert_eq!(state_from_wire(state_to_wire(&state)).unwrap(), state);
        }
    }

    #[test]
    fn errors_survive_the_wire() {
        let name = UnitName::service("nim").unwrap();
        let socket = std::path::Path::new("/s");
        for error in [
            UnitsError::Refused { reason: "r".into() },
            UnitsError::Invalid { reason: "i".into() },
            UnitsError::NotFound { name: name.clone() },
            UnitsError::Exists { reason: "e".into() },
            UnitsError::Failed { reason: "f".into() },
        ] {
            let back = error_from_status(&status_from_error(&error), socket, Some(&name));
            assert_eq!(back, error);
        }
    }
}
