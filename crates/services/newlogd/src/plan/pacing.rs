//! When files are sent, and what becomes of them: the machine of `controller-protocol.md`, section 8.
//!
//! ```text
//!            taken / refused for good                        3 x unavailable
//!    +-------------------------------+      +--------------------------------------------+
//!    v                               |      v                                            |
//!  Pace by backlog: 90 45 30 15 8 3 s -> Failing (the same pace; after 20 min 3 to 15 min)|
//!    ^        | 429                          | 3 x taken                                 |
//!    |        v                              +-------------------------------------------+
//!    |   Doubled (at most 300 s; 429 again within 300 s changes nothing)
//!    |        | 1 h after the last 429
//!    +--------+ half the pace, at least 10 s, until 2 h after it
//! ```
//! After the first file that is taken again, the pace is that of the backlog at once.
//! A file that is refused 11 times goes to `failedUpload`. Refusals count that are about the file: not those about who we are
//! (401, 403, 407) or when (408, 429), after which the same file is tried again for ever.

use std::{collections::BTreeMap, time::Duration};

use crate::name::{FileName, Queue};

const NORMAL: Duration = Duration::from_secs(90);
const FAST: Duration = Duration::from_secs(3);
/// More files than this are sent at this pace.
const BACKLOG: [(usize, u64); 5] = [(1000, 3), (200, 8), (50, 15), (25, 30), (5, 45)];
const THROTTLED_MAX: Duration = Duration::from_secs(300);
const THROTTLED_AGAIN: Duration = Duration::from_secs(300);
const THROTTLED_FOR: Duration = Duration::from_secs(3600);
const HALF_PACE_UNTIL: Duration = Duration::from_secs(7200);
const HALF_PACE_MIN: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(1200);
/// From 3 to 15 minutes.
const RARE: Duration = Duration::from_secs(180);
const RARE_MORE: Duration = Duration::from_secs(720);
/// So many times in a row make a state.
const IN_A_ROW: u32 = 3;
/// A file is given up at this refusal.
pub const LAST_REFUSAL: u32 = 11;

/// What an upload came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The controller has it.
    Taken,
    /// The controller will not take this file (a 4xx that is about it).
    Refused,
    /// 429.
    TooMany,
    /// No answer, 5xx, or a refusal that is not about the file.
    Unavailable,
}

/// What becomes of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was delivered.
    Delivered,
    /// It stays first in its queue.
    Again,
    /// It goes to `failedUpload`.
    GivenUp,
}

/// Where uploading is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pacing {
    /// Counts the ticks.
    pub ticks: u64,
    /// Uptime of the last tick, or of the start.
    pub last: Duration,
    /// A random number in `[0, 1)`, new at every tick.
    pub dice: f64,
    /// Uptime since which it fails (EVE's `FailedToSend`).
    pub failing: Option<Duration>,
    unavailable: u32,
    taken: u32,
    /// Uptime of the last 429, and the pace since.
    throttled: Option<(Duration, Duration)>,
    refused: BTreeMap<Queue, (FileName, u32)>,
    /// The controller asked not to be bothered before this uptime.
    not_before: Duration,
}

impl Pacing {
    /// Before the first tick.
    pub fn new(uptime: Duration, dice: f64) -> Self {
        Self {
            last: uptime,
            dice,
            ..Self::default()
        }
    }

    /// A tick is over.
    pub fn ticked(&mut self, uptime: Duration, dice: f64) {
        self.ticks += 1;
        self.last = uptime;
        self.dice = dice;
    }

    /// From the last tick to the next one, with `left` files waiting.
    pub fn interval(&self, left: usize, fast: bool, uptime: Duration) -> Duration {
        let since = self
            .throttled
            .map(|(at, pace)| (uptime.saturating_sub(at), pace));
        if let Some((_, pace)) = since.filter(|(since, _)| *since < THROTTLED_FOR) {
            return pace;
        }
        if self
            .failing
            .is_some_and(|at| uptime.saturating_sub(at) > PATIENCE && self.taken == 0)
        {
            return RARE + RARE_MORE.mul_f64(self.dice);
        }
        let mut pace = if fast {
            FAST
        } else {
            let by_backlog = BACKLOG.iter().find(|(files, _)| left > *files);
            by_backlog.map_or(NORMAL, |(_, seconds)| Duration::from_secs(*seconds))
        };
        if since.is_some_and(|(since, _)| since < HALF_PACE_UNTIL) {
            pace = (pace * 2).max(HALF_PACE_MIN);
        }
        pace.mul_f64(0.8 + 0.4 * self.dice)
    }

    /// How long until the next tick.
    pub fn left(&self, left: usize, fast: bool, uptime: Duration) -> Duration {
        let next = self.last + self.interval(left, fast, uptime);
        next.max(self.not_before).saturating_sub(uptime)
    }

    /// The controller asked for so much time.
    pub fn wait(&mut self, uptime: Duration, wait: Duration) {
        let wait = wait.mul_f64(1.0 + 0.2 * self.dice);
        self.not_before = self.not_before.max(uptime + wait);
    }

    /// Takes note of an answer. `pace` is what [`Pacing::interval`] said before.
    pub fn answered(
        &mut self,
        queue: Queue,
        file: FileName,
        answer: Answer,
        pace: Duration,
        uptime: Duration,
    ) -> Verdict {
        match answer {
            Answer::Taken => {
                self.unavailable = 0;
                self.taken += 1;
                if self.taken >= IN_A_ROW {
                    self.failing = None;
                }
                self.refused.remove(&queue);
                Verdict::Delivered
            }
            Answer::Unavailable => {
                self.taken = 0;
                self.unavailable += 1;
                if self.unavailable >= IN_A_ROW && self.failing.is_none() {
                    self.failing = Some(uptime);
                }
                Verdict::Again
            }
            Answer::TooMany => {
                let kept = self
                    .throttled
                    .filter(|(at, _)| uptime.saturating_sub(*at) <= THROTTLED_AGAIN)
                    .map(|(_, pace)| pace);
                let pace = kept.unwrap_or_else(|| (pace * 2).min(THROTTLED_MAX));
                self.throttled = Some((uptime, pace));
                Verdict::Again
            }
            Answer::Refused => {
                let count = match self.refused.get(&queue) {
                    Some((same, count)) if *same == file => count + 1,
                    Some(_) | None => 1,
                };
                if count >= LAST_REFUSAL {
                    self.refused.remove(&queue);
                    return Verdict::GivenUp;
                }
                self.refused.insert(queue, (file, count));
                Verdict::Again
            }
        }
    }
}

#[cfg(test)]
#[path = "pacing_tests.rs"]
mod tests;
