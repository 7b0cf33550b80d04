//! Consumption: measured twice a minute, published when it changed.
//!
//! A guest that idles still takes a little processor time. What is published is rounded, and a row
//! that says nothing new keeps its time, so that an idle device writes little.

use agent::Plan;
use jiff::{SignedDuration, Timestamp};
use model::{
    app::DiskTarget,
    domain::{DiskIo, DomainMetric},
};

use super::domain::View;
use crate::{Do, Domainmgr, Life, Sample, Unit};

/// Pause between two measurements of a guest.
pub const MEASURE_EVERY: SignedDuration = SignedDuration::from_secs(30);
/// Processor time is published in whole seconds,
const CPU_STEP_NS: u64 = 1_000_000_000;
/// memory in whole MiB.
const MEMORY_STEP_KIB: u64 = 1024;

pub(super) fn plan(view: &View<'_>, plan: &mut Plan<Domainmgr>) {
    let Some(unit) = &view.guest.unit else { return };
    if !matches!(unit.life, Life::Alive { .. }) {
        return;
    }
    let key = view.app.to_string();
    let published = view.own_metric();
    let row = match &view.guest.sample {
        Some(sample) => Some(row(view, unit, sample, published)),
        // Before the first measurement after a restart.
        None => published.cloned(),
    };
    if let Some(row) = row {
        plan.report.metrics.insert(key, row);
    }
    if !view.executes() {
        return;
    }
    match due_in(view.guest.sample.as_ref(), view.now) {
        Some(left) => plan.wake_in(left.unsigned_abs()),
        None => plan.actions.push(Do::Measure(view.app)),
    }
}

/// How long the last measurement is still good; `None` when it is time for the next one, also
/// after the clock was set back.
fn due_in(sample: Option<&Sample>, now: Timestamp) -> Option<SignedDuration> {
    let age = now.duration_since(sample?.at);
    (SignedDuration::ZERO <= age && age < MEASURE_EVERY).then(|| MEASURE_EVERY - age)
}

fn row(
    view: &View<'_>,
    unit: &Unit,
    sample: &Sample,
    published: Option<&DomainMetric>,
) -> DomainMetric {
    let row = DomainMetric {
        app: view.app,
        cpu_ns: sample.cpu_ns - sample.cpu_ns % CPU_STEP_NS,
        used_memory_kib: sample.memory_kib.next_multiple_of(MEMORY_STEP_KIB),
        max_memory_kib: unit.memory_kib,
        disks: disks(view, sample),
        at: sample.at,
    };
    match published {
        Some(old) => {
            let same = DomainMetric {
                at: old.at,
                ..row.clone()
            };
            if same == *old { same } else { row }
        }
        None => row,
    }
}

/// One entry per disk of the configuration; a kernel is no disk to QEMU.
fn disks(view: &View<'_>, sample: &Sample) -> Vec<DiskIo> {
    let mut seen_by_guest = 0;
    let all = view.config.map_or(&[][..], |config| &config.disks);
    all.iter()
        .map(|disk| match disk.target {
            DiskTarget::Kernel | DiskTarget::Initrd => DiskIo::default(),
            DiskTarget::Disk | DiskTarget::Cdrom => {
                let name = format!("disk{seen_by_guest}");
                seen_by_guest += 1;
                sample.disks.get(&name).copied().unwrap_or_default()
            }
        })
        .collect()
}
