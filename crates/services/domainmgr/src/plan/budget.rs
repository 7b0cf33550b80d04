//! Memory: guests together never take more than the device has.

use std::collections::BTreeMap;

use model::id::AppId;

use crate::{Actual, Life};

/// Kept for the device itself, in KiB.
const DEVICE_KIB: u64 = 256 * 1024;

/// What is left for guests in this turn.
pub(super) struct Budget {
    total_kib: u64,
    taken: BTreeMap<AppId, u64>,
    ignored: bool,
}

/// A guest that does not fit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it needs {need} MiB with its overhead; of the device's {total} MiB, {device} MiB are for the device itself and {others} MiB for other guests"
)]
pub(super) struct Short {
    need: u64,
    total: u64,
    device: u64,
    others: u64,
}

impl Budget {
    /// What the living guests leave. With `ignored` everything fits.
    pub(super) fn new(actual: &Actual, ignored: bool) -> Self {
        let living = actual.guests.iter().filter_map(|(app, guest)| {
            let unit = guest.unit.as_ref()?;
            matches!(unit.life, Life::Alive { .. }).then_some((*app, unit.memory_kib))
        });
        Self {
            total_kib: actual.host.memory_kib,
            taken: living.collect(),
            ignored,
        }
    }

    /// Takes `need_kib` for a guest.
    pub(super) fn take(&mut self, app: AppId, need_kib: u64) -> Result<(), Short> {
        let others: u64 = self
            .taken
            .iter()
            .filter(|(other, _)| **other != app)
            .map(|(_, kib)| kib)
            .sum();
        let left = self.total_kib.saturating_sub(DEVICE_KIB + others);
        if need_kib > left && !self.ignored {
            return Err(Short {
                need: need_kib.div_ceil(1024),
                total: self.total_kib / 1024,
                device: DEVICE_KIB / 1024,
                others: others / 1024,
            });
        }
        self.taken.insert(app, need_kib);
        Ok(())
    }
}
