//! What one source may print: so much at once, so much on average.

use std::time::Duration;

/// Bytes that a source may print at once: more than a unit's whole log on the disk, so that nothing is refused of what was
/// printed while newlogd was away.
pub const BURST: u64 = 4 * 1024 * 1024;
/// Bytes per second on average: 2.7 GB a day.
pub const RATE: u64 = 32 * 1024;

/// A token bucket, full at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    bytes: u64,
    /// Uptime at which it was last filled.
    filled: Duration,
}

impl Bucket {
    /// Full.
    pub fn new(uptime: Duration) -> Self {
        Self {
            bytes: BURST,
            filled: uptime,
        }
    }

    /// Adds what has run in since.
    pub fn fill(&mut self, uptime: Duration) {
        let ms = uptime.saturating_sub(self.filled).as_millis();
        let bytes = u64::try_from(ms * u128::from(RATE) / 1000).unwrap_or(BURST);
        if bytes > 0 {
            self.bytes = self.bytes.saturating_add(bytes).min(BURST);
            self.filled = uptime;
        }
    }

    /// Takes `bytes` if they are there.
    pub fn take(&mut self, bytes: usize) -> bool {
        match self.bytes.checked_sub(bytes as u64) {
            Some(left) => {
                self.bytes = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_more_than_burst_and_rate(steps in prop::collection::vec((0_u64..5000, 0_usize..3_000_000), 1..60)) {
            let mut bucket = Bucket::new(Duration::ZERO);
            let (mut now, mut taken) = (Duration::ZERO, 0_u64);
            for (ms, bytes) in steps {
                now += Duration::from_millis(ms);
                bucket.fill(now);
                if bucket.take(bytes) {
                    taken += bytes as u64;
                }
                let most = BURST + RATE * u64::try_from(now.as_millis()).unwrap() / 1000;
                prop_assert!(taken <= most, "{} of {}", taken, most);
            }
        }
    }

    #[test]
    fn a_modest_source_is_never_refused() {
        let mut bucket = Bucket::new(Duration::ZERO);
        for second in 1..100_000 {
            bucket.fill(Duration::from_secs(second));
            assert!(bucket.take(32 * 1024), "{second}");
        }
    }
}
