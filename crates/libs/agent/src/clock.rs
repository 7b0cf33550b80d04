//! Time, injected: the real clock in a process, in tests tokio's clock and a hand that moves it on.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
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
    Tokio(Timestamp, Hand),
}

/// What a test does to the clocks of a device: both go on, or the wall clock alone jumps.
#[derive(Debug, Clone, Default)]
pub struct Hand(Arc<Mutex<Moved>>);

#[derive(Debug, Clone, Copy, Default)]
struct Moved {
    on: Duration,
    jumped: SignedDuration,
}

impl Hand {
    /// Time passes without anybody waiting for it.
    pub fn advance(&self, by: Duration) {
        let mut moved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        moved.on = moved.on.saturating_add(by);
    }

    /// The wall clock is set, by so much; the time since boot knows nothing of it.
    pub fn jump(&self, by: SignedDuration) {
        let mut moved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        moved.jumped = moved.jumped.saturating_add(by);
    }

    fn moved(&self) -> Moved {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        Self::by_hand(wall).0
    }

    /// The same, with the hand that moves it.
    pub fn by_hand(wall: Timestamp) -> (Self, Hand) {
        let hand = Hand::default();
        let clock = Self {
            kind: Kind::Tokio(wall, hand.clone()),
            started: Instant::now(),
            uptime_at_start: Duration::ZERO,
        };
        (clock, hand)
    }

    /// Wall clock.
    pub fn now(&self) -> Timestamp {
        match &self.kind {
            Kind::Real => Timestamp::now(),
            Kind::Tokio(wall, hand) => {
                let passed = SignedDuration::try_from(self.uptime()).unwrap_or(SignedDuration::MAX);
                let passed = passed.saturating_add(hand.moved().jumped);
                let end = if passed.is_negative() {
                    Timestamp::MIN
                } else {
                    Timestamp::MAX
                };
                wall.checked_add(passed).unwrap_or(end)
            }
        }
    }

    /// Time since boot; never jumps.
    pub fn uptime(&self) -> Duration {
        let moved = match &self.kind {
            Kind::Real => Duration::ZERO,
            Kind::Tokio(_, hand) => hand.moved().on,
        };
        self.uptime_at_start + self.started.elapsed() + moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_jump_of_years_moves_the_wall_clock_alone() {
        let (clock, hand) = Clock::by_hand(Timestamp::UNIX_EPOCH);
        let other = clock.clone();
        hand.advance(Duration::from_secs(5));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!((other.uptime().as_secs(), other.now().as_second()), (7, 7));
        hand.jump(SignedDuration::from_hours(24 * 365 * 20));
        assert_eq!(other.uptime().as_secs(), 7);
        assert_eq!(other.now().as_second(), 7 + 20 * 365 * 86_400);
        hand.jump(-SignedDuration::from_hours(24 * 365 * 20));
        assert_eq!(other.now().as_second(), 7);
    }
}
