//! The time that certificates are judged by.
//!
//! A device whose clock was never set says 1970, and every certificate would be not valid yet. But it holds certificates
//! that it trusts already: the time is not before any of them was made. That much is certain, and it only ever makes the
//! judgement of expired certificates stricter. And while the clock was never set, a certificate of a trusted authority is
//! not refused for being not valid yet: to the device everything is of the future.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;

type Seconds = Box<dyn Fn() -> u64 + Send + Sync>;

/// The wall clock, but never before what is certain. Clones share it.
#[derive(Clone, Default)]
pub struct Moment(Arc<Inner>);

#[derive(Default)]
struct Inner {
    earliest: AtomicU64,
    clock: OnceLock<Seconds>,
}

impl Moment {
    /// It is not before this second since 1970.
    pub fn not_before(&self, second: u64) {
        self.0.earliest.fetch_max(second, Ordering::Relaxed);
    }

    /// Another wall clock than the machine's, in seconds since 1970; the first one stays.
    pub fn follow(&self, clock: impl Fn() -> u64 + Send + Sync + 'static) {
        let _ = self.0.clock.set(Box::new(clock));
    }

    /// What is certain, in seconds since 1970.
    pub fn earliest(&self) -> u64 {
        self.0.earliest.load(Ordering::Relaxed)
    }

    /// Now, in seconds since 1970.
    pub fn seconds(&self) -> u64 {
        self.clock().max(self.earliest())
    }

    /// Whether the wall clock was ever set. If not, nothing can be said to be not valid yet.
    pub fn is_set(&self) -> bool {
        self.clock() >= model::clock::BEGINS
    }

    fn clock(&self) -> u64 {
        match self.0.clock.get() {
            Some(clock) => clock(),
            None => SystemTime::UNIX_EPOCH
                .elapsed()
                .unwrap_or_default()
                .as_secs(),
        }
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Moment").field(&self.seconds()).finish()
    }
}

impl TimeProvider for Moment {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(
            self.seconds(),
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_the_clocks_but_not_before_what_is_certain() {
        let moment = Moment::default();
        assert!(moment.seconds() > 1_700_000_000, "the machine's");
        let other = Moment::default();
        other.follow(|| 1000);
        other.clone().not_before(5);
        assert_eq!(other.seconds(), 1000);
        other.not_before(2000);
        other.not_before(1500);
        assert_eq!(other.seconds(), 2000);
    }
}
