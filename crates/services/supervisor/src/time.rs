//! Time as the plan sees it.

use std::ops::Add;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Time since boot. Deadlines are counted in it, because the wall clock of a device jumps by years
/// when its first NTP answer comes in. It is comparable across processes of one boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Uptime(pub Duration);

impl Add<Duration> for Uptime {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }
}

impl Uptime {
    /// How long ago `earlier` was; zero if it is ahead.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// The moment of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Now {
    /// For deadlines.
    pub uptime: Uptime,
    /// For people.
    pub wall: Timestamp,
}

impl Now {
    /// The wall time of a deadline, for people.
    pub(crate) fn wall_at(&self, deadline: Uptime) -> Timestamp {
        self.wall
            .checked_add(deadline.since(self.uptime))
            .unwrap_or(Timestamp::MAX)
    }
}
