//! Whether a wall clock can be believed.

use jiff::Timestamp;

/// A clock that says less, in seconds since 1970, was never set: it shows the first hours of some epoch. 2024 begins.
pub const BEGINS: u64 = 1_704_067_200;

/// Whether the clock that says this was ever set.
pub fn was_set(clock: Timestamp) -> bool {
    u64::try_from(clock.as_second()).is_ok_and(|second| second >= BEGINS)
}
