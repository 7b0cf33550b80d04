//! newlogd brings what services, their helpers, guests and the kernel print to the controller.
//!
//! | | |
//! |---|---|
//! | reads | `zedagent/OnboardingStatus`, `zedagent/ConfigItemValueMap`, `nim/DeviceNetworkStatus`, `zedmanager/AppInstanceStatus` when they are known; `/persist/log/<unit>.log`, `/persist/log/guests/<app>.console`, `/dev/kmsg` |
//! | writes | `NewlogMetrics`; `/persist/newlog/{devUpload,appUpload,keepSentQueue,failedUpload}/*.gz`, `/persist/newlog/collect/state.json` |
//!
//! ```text
//!  <unit>.log ---\   400 kB or 5 min              +-> devUpload --200/201--> (removed)
//!  /dev/kmsg ----+-> round: parse, limit, --------+      |                                \
//!  <app>.console-/   order, number, pack          +-> appUpload --200/201--> keepSentQueue > oldest removed at the quota
//!        ^                  |                            +-- refused 11 times --> failedUpload /
//!        |                  v
//!        +---- state.json: how far each was read, and the new files: one rename for both
//! ```
//!
//! Lines stay where they were printed until they are in a file: the supervisor and domainmgr keep the last megabytes of
//! each source (crate `logfile`), so nothing is copied in between, nothing waits in memory, and an idle source costs
//! nothing. What becomes of a line:
//!
//! - It is in exactly one file, whenever newlogd is killed or the power fails ([`state`]). A file may be sent twice if the
//!   answer was lost; it is the same file then, byte for byte, and its lines have the same `msgid`s.
//! - It is not kept if it is below the least level for its source ([`Levels`]), or if its source prints too much
//!   ([`limit`]). That is said by a line of `newlogd` in its place (tags `linesLost`, `bytesLost`, `source`).
//! - It is removed unsent only when the quota is used up, the oldest first ([`plan::quota`]). The next file of the stream begins
//!   with how many lines that were (tags `linesLost`, `filesLost`).
//! - It is gone before it was read if newlogd is away while its source prints more than is kept of it. That is said to
//!   the byte.
//!
//! What a power cut takes from a source, because the kernel had not written it to the disk yet, newlogd never saw.
//!
//! *Restart.* The state says how far everything was read. Pacing, counters and limits begin anew.
//!
//! Look at `plan.rs` for when a file is made, removed and sent, at `plan/pacing.rs` for how fast, at `world/collect.rs` for how
//! lines become files, at `gzip.rs` and `entry.rs` for what a file looks like.
#![forbid(unsafe_code)]

pub mod entry;
pub mod gzip;
pub mod index;
pub mod limit;
pub mod line;
pub mod name;
pub mod plan;
mod read;
pub mod state;
pub mod world;

pub use plan::{Actual, Counters, Do, Newlogd, Report, Waiting};
pub use read::{Desired, Levels};

/// The whole program.
pub fn main() -> std::process::ExitCode {
    agent::run::<Newlogd, _, _, _>(world::open)
}
