//! The only source of chance.

use std::{ops::RangeInclusive, time::Duration};

use rand::{Rng, SeedableRng, rngs::SmallRng};

/// Random numbers of one life.
#[derive(Debug)]
pub(crate) struct Chance(SmallRng);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// True once in `n` times; never for 0.
    pub(crate) fn one_in(&mut self, n: u32) -> bool {
        n > 0 && self.0.random_range(0..n) == 0
    }

    pub(crate) fn number(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.0.random_range(range)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0.random_range(0..n)
    }

    pub(crate) fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// In `[0, 1)`.
    pub(crate) fn fraction(&mut self) -> f64 {
        self.0.random()
    }

    pub(crate) fn millis(&mut self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.number(range))
    }
}
