//! What is done to services, and what the supervisor must say of it.

use std::{
    fmt, fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use demo::Stage;
use jiff::Timestamp;
use lab::Fault;
use model::service::ServiceStatus;
use units::ExitKind;

use super::traces;
use crate::support::{PATIENCE, pid, view};

/// A point of the agent's loop (crate `agent`, `points.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(&'static str);

impl Place {
    /// Within a slow action: the process outlives it.
    pub(crate) const IN_ACTION: Self = Self("in-action *");
}

/// Those that end the process.
pub(crate) const PLACES: [Place; 4] = [
    Place("before-publish"),
    Place("after-publish"),
    Place("before-action *"),
    Place("after-action *"),
];

/// What happens to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Kill,
    Freeze,
    Memory(Place),
    Panic(Place),
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    One(Kind, &'static str),
    /// Two services are killed at once.
    Two(&'static str, &'static str),
    /// The supervisor and a service are killed at once.
    Supervisor(&'static str),
}

/// How long a point may not be passed: a service that has nothing to do takes no action.
const UNPASSED: Duration = Duration::from_secs(7);
/// Room that is left to a service whose memory is to be exhausted soon.
const ROOM: u64 = 48 << 20;

/// How it went.
#[derive(Debug)]
pub(crate) enum End {
    /// It ended so and runs again.
    Again(String),
    /// There was no process, or it did not come to that point.
    Missed,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Again(how) => write!(f, "{how}, runs again"),
            Self::Missed => f.write_str("missed"),
        }
    }
}

impl Harm {
    /// Who is hurt.
    pub(crate) fn services(self) -> Vec<&'static str> {
        match self {
            Self::One(_, name) | Self::Supervisor(name) => vec![name],
            Self::Two(one, other) => vec![one, other],
        }
    }

    /// Whether it waits for the service to come to a point.
    pub(crate) fn is_order(self) -> bool {
        matches!(self, Self::One(Kind::Memory(_) | Kind::Panic(_), _))
    }

    /// Does it, and waits until all is well again.
    pub(crate) fn inflict(self, stage: &Stage, supervisors: &mut u32) -> Result<End> {
        match self {
            Self::One(kind, name) => one(stage, kind, name, *supervisors > 0),
            Self::Two(first, second) => {
                let before = [restarts(stage, first), restarts(stage, second)];
                let hit = [kill(stage, first)?, kill(stage, second)?];
                for (name, (hit, before)) in
                    [first, second].into_iter().zip(hit.into_iter().zip(before))
                {
                    if hit {
                        comes_back(stage, name, before)?;
                    }
                }
                Ok(End::Again("killed".to_owned()))
            }
            Self::Supervisor(name) => {
                let before = restarts(stage, name);
                let hit = kill(stage, name)?;
                stage.device().kill_supervisor();
                *supervisors += 1;
                let wanted = *supervisors;
                stage.wait("the supervisor comes back", PATIENCE, || {
                    Ok(stage.device().starts().1 == wanted)
                })?;
                if hit {
                    comes_back(stage, name, before)?;
                }
                Ok(End::Again("the supervisor too".to_owned()))
            }
        }
    }
}

fn status(stage: &Stage, name: &str) -> Option<ServiceStatus> {
    view(stage).services.get(name).cloned()
}

fn restarts(stage: &Stage, name: &str) -> u32 {
    status(stage, name).map_or(0, |status| status.restarts)
}

fn kill(stage: &Stage, name: &str) -> Result<bool> {
    strike(stage, &Fault::Kill(name.to_owned()))
}

/// False if there was nobody: it waits to be started again.
fn strike(stage: &Stage, fault: &Fault) -> Result<bool> {
    match stage.world().fault(fault) {
        Ok(()) => Ok(true),
        Err(lab::SiteError::NoProcess(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn comes_back(stage: &Stage, name: &str, before: u32) -> Result<ServiceStatus> {
    let mut found = None;
    stage.wait(&format!("{name} comes back"), PATIENCE, || {
        let services = view(stage).services;
        let status = services.get(name).context("no status")?;
        found = Some(status.clone());
        Ok(status.restarts > before && pid(&services, name).is_some())
    })?;
    found.context("no status")
}

fn one(stage: &Stage, kind: Kind, name: &str, may_be_adopted: bool) -> Result<End> {
    let (at, before) = (Timestamp::now(), restarts(stage, name));
    let (how, hit) = match kind {
        Kind::Kill => ("killed by signal 9", kill(stage, name)?),
        Kind::Freeze => (
            "no heartbeat",
            strike(stage, &Fault::Freeze(name.to_owned()))?,
        ),
        Kind::Memory(place) => {
            leave_room(stage, name)?;
            let hit = order(stage, name, "memory", place, before)?;
            ("killed at its memory limit", hit)
        }
        Kind::Panic(Place::IN_ACTION) => {
            order_at(stage, name, "panic", Place::IN_ACTION, before)?;
            return Ok(End::Again("stays or is started again".to_owned()));
        }
        Kind::Panic(place) => {
            let hit = order(stage, name, "panic", place, before)?;
            ("exited with code 101", hit)
        }
    };
    if !hit {
        return Ok(End::Missed);
    }
    let status = comes_back(stage, name, before)?;
    // The exit status of an adopted process goes to its parent; a hang and the memory limit are known without it.
    let is_unknown = may_be_adopted
        && matches!(kind, Kind::Kill | Kind::Panic(_))
        && status.last_exit == ExitKind::Unknown.to_string();
    let how = if is_unknown { &status.last_exit } else { how };
    ensure!(
        status.last_exit.contains(how),
        "{name}: {:?} is to be {how:?}",
        status.last_exit
    );
    let crash = stage.device().root().join("persist/crash").join(name);
    ensure!(
        has_evidence(&crash, at, how),
        "{name}: no evidence of {how:?} in {}",
        crash.display()
    );
    if matches!(kind, Kind::Panic(_)) {
        ensure!(
            has_words(&crash, at),
            "{name}: no words of its panic in {}",
            crash.display()
        );
    }
    Ok(End::Again(status.last_exit))
}

/// Orders a failure at a point; a service that does not come to it fails at one that every turn passes.
fn order(stage: &Stage, name: &str, what: &str, place: Place, before: u32) -> Result<bool> {
    Ok(order_at(stage, name, what, place, before)?
        || order_at(stage, name, what, PLACES[0], before)?)
}

/// Gives an order and takes it back when it is carried out, or when the service does not come to that point.
fn order_at(stage: &Stage, name: &str, what: &str, place: Place, before: u32) -> Result<bool> {
    let file = stage.points().join(name);
    fs::write(&file, format!("{what} {}\n", place.0))?;
    let deadline = Instant::now() + UNPASSED;
    let mut ended = false;
    while !ended && Instant::now() < deadline {
        sleep(Duration::from_millis(50));
        let status = status(stage, name);
        ended = status
            .as_ref()
            .is_some_and(|status| status.restarts > before || status.fault.is_some());
        // A pause that is long enough to ask in: whoever asks why hears it.
        let fault = status.and_then(|status| status.fault);
        if let Some(next) = fault.as_ref().and_then(|fault| fault.next)
            && next.duration_since(Timestamp::now()).as_secs() >= 3
        {
            let (why, text) = (stage.why(), fault.map(|f| f.text).unwrap_or_default());
            ensure!(why.contains(&text), "{name}: {text:?} is not in\n{why}");
        }
    }
    fs::remove_file(&file)?;
    Ok(ended)
}

/// Lowers the memory limit of a service, so that the machine is not what is exhausted. Its next process has the limit of
/// its unit again.
fn leave_room(stage: &Stage, name: &str) -> Result<()> {
    for group in traces::groups_of(stage, name) {
        let file = |name: &str| Path::new(&group).join(name);
        let Ok(usage) = fs::read_to_string(file("memory.usage_in_bytes")) else {
            continue;
        };
        let limit = usage.trim().parse::<u64>()? + ROOM;
        fs::write(file("memory.limit_in_bytes"), limit.to_string())?;
        if file("memory.memsw.limit_in_bytes").exists() {
            fs::write(file("memory.memsw.limit_in_bytes"), limit.to_string())?;
        }
    }
    Ok(())
}

/// Whether the supervisor saved a case since `at` whose reason says how.
fn has_evidence(crash: &Path, at: Timestamp, how: &str) -> bool {
    let cases = fs::read_dir(crash).into_iter().flatten().flatten();
    cases
        .filter_map(|case| fs::read(case.path().join("reason.json")).ok())
        .filter_map(|text| serde_json::from_slice::<serde_json::Value>(&text).ok())
        .any(|case| {
            let when = case["At"]
                .as_str()
                .and_then(|at| at.parse::<Timestamp>().ok());
            let reason = case["Reason"].as_str().unwrap_or_default();
            when.is_some_and(|when| when >= at) && reason.contains(how)
        })
}

/// Whether a process told of an ordered panic since `at`.
fn has_words(crash: &Path, at: Timestamp) -> bool {
    let reports = fs::read_dir(crash).into_iter().flatten().flatten();
    reports
        .filter_map(|report| fs::read(report.path()).ok())
        .filter_map(|text| serde_json::from_slice::<serde_json::Value>(&text).ok())
        .any(|report| {
            let when = report["At"]
                .as_str()
                .and_then(|at| at.parse::<Timestamp>().ok());
            let message = report["Message"].as_str().unwrap_or_default();
            when.is_some_and(|when| when >= at) && message.contains("ordered at the point")
        })
}
