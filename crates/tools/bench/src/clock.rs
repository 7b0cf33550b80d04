//! Time that two processes of one machine agree about.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds on the kernel's monotonic clock.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let rest = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * 1_000_000_000 + rest
}

/// Nanoseconds as microseconds.
pub fn us(ns: u64) -> f64 {
    std::time::Duration::from_nanos(ns).as_secs_f64() * 1e6
}

/// How many of `count` fit into a second when all took `ns` nanoseconds.
pub fn per_second(count: u32, ns: u64) -> f64 {
    f64::from(count) / std::time::Duration::from_nanos(ns.max(1)).as_secs_f64()
}
