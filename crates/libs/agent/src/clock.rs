//! Time, injected: the real clock in a process, tokio's paused clock in tests.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// Where a runtime gets the time from.
#[derive(Debug, Clone)]
pub struct Clock {
    kind: Kind,
    started: Instant,
    uptime_at_start: Duration,
}

#[derive(Debug, Clone)]
enum Kind {
    Real,
    /// Wall clock that advances with tokio's, so that a paused runtime jumps over waits.
    Tokio(Timestamp),
}

impl Clock {
    /// The machine's clock. `uptime` is how long the device has been up (`/proc/uptime`), so that
    /// timers go on across a restart of the service.
    pub fn real(uptime: Duration) -> Self {
        Self {
            kind: Kind::Real,
            started: Instant::now(),
            uptime_at_start: uptime,
        }
    }

    /// A clock that starts at `wall` and advances with tokio's time.
    pub fn tokio(wall: Timestamp) -> Self {
        Self {
            kind: Kind::Tokio(wall),
            started: Instant::now(),
            uptime_at_start: Duration::ZERO,
        }
    }

    /// Wall clock.
    pub fn now(&self) -> Timestamp {
        match &self.kind {
            Kind::Real => Timestamp::now(),
            Kind::Tokio(wall) => wall
                .checked_add(self.started.elapsed())
                .unwrap_or(Timestamp::MAX),
        }
    }

    /// Time since boot; never jumps.
    pub fn uptime(&self) -> Duration {
        self.uptime_at_start + self.started.elapsed()
    }
}
