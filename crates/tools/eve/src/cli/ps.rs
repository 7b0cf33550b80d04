//! `eve ps`.

use jiff::Timestamp;
use model::service::{ServicePhase, ServiceStatus};

use super::{Verdict, args::Global, snapshot};
use crate::{
    Device, Error,
    output::{self, Cell, Output, Paint},
    words,
};

pub(super) fn ps(global: &Global, out: Output) -> Result<Verdict, Error> {
    let device = Device::of(&snapshot(global)?);
    let units = units(&device);
    if out.json {
        output::json(&units)?;
        return Ok(Verdict::Good);
    }
    if units.is_empty() {
        eprintln!("eve: the supervisor has published no unit");
    }
    output::print(&text(out, &device))?;
    Ok(Verdict::Good)
}

/// The table.
pub(super) fn text(out: Output, device: &Device) -> String {
    let rows: Vec<_> = units(device)
        .into_iter()
        .map(|unit| row(device, unit, device.at))
        .collect();
    let header = ["UNIT", "STATE", "PID", "RESTARTS", "MEMORY", "SINCE", ""];
    out.table(&header, &rows)
}

fn units(device: &Device) -> Vec<&ServiceStatus> {
    let mut units: Vec<&ServiceStatus> = device.services.rows.values().collect();
    units.sort_by_key(|unit| order(&unit.name));
    units
}

/// Helpers stand below their owner.
fn order(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or((name, ""))
}

fn row(device: &Device, unit: &ServiceStatus, now: Timestamp) -> Vec<Cell> {
    let ServiceStatus {
        name,
        phase,
        restarts,
        uid: _,
        memory,
        memory_limit,
        status_text,
        last_exit,
        last_exit_at,
        fault,
    } = unit;
    let (state, paint, pid, since) = match phase {
        ServicePhase::Waiting { after } if after.is_empty() => {
            ("waiting".to_owned(), Paint::Busy, None, None)
        }
        ServicePhase::Waiting { after } => {
            let state = format!("waiting for {}", after.join(", "));
            (state, Paint::Busy, None, None)
        }
        ServicePhase::Starting { pid, since } => {
            ("starting".to_owned(), Paint::Busy, Some(*pid), Some(*since))
        }
        ServicePhase::Running { pid, since } => {
            ("running".to_owned(), Paint::Good, Some(*pid), Some(*since))
        }
        ServicePhase::Backoff { until } => {
            let state = format!("restart {}", words::due(*until, now));
            (state, Paint::Bad, None, *last_exit_at)
        }
        ServicePhase::Stopping { pid, deadline } => {
            let state = format!("stopping, killed {}", words::due(*deadline, now));
            (state, Paint::Busy, Some(*pid), None)
        }
        ServicePhase::Stopped => ("stopped".to_owned(), Paint::Dim, None, *last_exit_at),
    };
    let memory = match (memory, memory_limit) {
        (Some(memory), Some(limit)) => words::part(*memory, *limit),
        (Some(memory), None) => words::size(*memory),
        (None, _) => "-".to_owned(),
    };
    let note = match (fault, status_text.as_str()) {
        (Some(fault), _) => fault.text.clone(),
        // What it said of itself is over.
        (None, _) if pid.is_none() => last_exit.clone(),
        // What the state says already.
        (None, text) if text == state => String::new(),
        (None, text) => text.to_owned(),
    };
    vec![
        Cell::new(title(device, name)),
        Cell::new(state).paint(paint),
        Cell::new(pid.map_or("-".to_owned(), |pid| pid.to_string())),
        Cell::new(restarts.to_string()),
        Cell::new(memory),
        Cell::new(since.map_or("-".to_owned(), |at| words::ago(at, now))),
        Cell::new(note),
    ]
}

/// A helper's name is indented; that of a guest's is followed by the application's.
fn title(device: &Device, name: &str) -> String {
    match name.split_once('/') {
        None => name.to_owned(),
        Some((_, helper)) => match device.app_name(helper) {
            Some(app) => format!("  {} ({app})", words::short(helper)),
            None => format!("  {}", words::short(helper)),
        },
    }
}
