//! The disk budget.
//!
//! ```text
//! available = free - reserve - (what existing volumes may still grow by)
//! reserve   = storage.dom0.disk.minusage.percent of the disk, at most storage.dom0.disk.maxusagebytes
//! ```
//! A volume counts with the size that its guest sees, because the guest may fill it. A blob that is to be
//! fetched counts twice for a moment: as download and as verified copy, then as copy and as
//! volume. What has begun is never taken back for lack of space; it is counted first.

use crate::{Actual, Limits};

/// What can still be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    available: u64,
    unlimited: bool,
}

impl Budget {
    /// Before anything is given in this turn.
    pub fn new(actual: &Actual, limits: &Limits) -> Self {
        let growth = actual
            .volumes
            .values()
            .map(|v| v.virtual_bytes.saturating_sub(v.used_bytes));
        let growth = growth.fold(0, u64::saturating_add);
        let available = actual
            .space
            .free_bytes
            .saturating_sub(reserve(actual.space.total_bytes, limits))
            .saturating_sub(growth);
        Self {
            available,
            unlimited: limits.ignore_disk_check,
        }
    }

    /// Bytes that are left.
    pub fn available(&self) -> u64 {
        self.available
    }

    /// Takes `bytes` for what has begun already.
    pub fn charge(&mut self, bytes: u64) {
        self.available = self.available.saturating_sub(bytes);
    }

    /// Takes `bytes` if they are there.
    pub fn take(&mut self, bytes: u64) -> bool {
        let fits = self.unlimited || (bytes <= self.available && self.available > 0);
        if fits {
            self.charge(bytes);
        }
        fits
    }
}

/// Bytes kept free for the device itself.
pub fn reserve(total: u64, limits: &Limits) -> u64 {
    let percent = u128::from(total) * u128::from(limits.reserve_percent.min(100)) / 100;
    u64::try_from(percent)
        .unwrap_or(u64::MAX)
        .min(limits.reserve_max_bytes)
}

/// For people: one decimal, so that small changes do not change a published text.
pub fn human(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (name, unit) in UNITS {
        if bytes >= unit {
            let tenths = bytes / (unit / 10);
            return format!("{}.{} {name}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Space;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_reserve_is_a_share_of_a_small_disk_and_a_fixed_size_of_a_large_one() {
        let limits = Limits::default();
        assert_eq!(reserve(5 * GIB, &limits), GIB);
        assert_eq!(reserve(1000 * GIB, &limits), 2 * GIB);
        assert_eq!(reserve(0, &limits), 0);
    }

    #[test]
    fn what_is_taken_is_gone_and_nothing_fits_a_full_disk() {
        let space = Space {
            total_bytes: 100 * GIB,
            free_bytes: 10 * GIB,
        };
        let actual = Actual {
            space,
            ..Actual::default()
        };
        let mut budget = Budget::new(&actual, &Limits::default());
        assert_eq!(budget.available(), 8 * GIB);
        assert!(budget.take(5 * GIB));
        assert!(!budget.take(4 * GIB));
        assert!(budget.take(3 * GIB));
        assert!(!budget.take(0), "not even what has no known size");
        let careless = Limits {
            ignore_disk_check: true,
            ..Limits::default()
        };
        assert!(Budget::new(&actual, &careless).take(50 * GIB));
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(human(10 * GIB + GIB / 4), "10.2 GiB");
        assert_eq!(human(3 << 20), "3.0 MiB");
        assert_eq!(human(12), "12 bytes");
    }
}
