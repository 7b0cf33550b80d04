//! The one loop that every service runs.
//!
//! ```text
//! turn = read tables -> observe world -> plan (pure) -> publish report -> apply actions
//!        -> wait for a change, a completion or a wake-up
//! ```
//!
//! A service is a [`Service`] (types, which tables it reads, and the pure `plan`) and a
//! [`World`] (what it sees and changes outside its process). Everything else is here, once:
//! which tables are ready, publishing what changed, one task per subject, progress, retries with
//! backoff and jitter, log levels, heartbeats, panics, signals, flags.
//!
//! Rules that follow from it:
//! - No turn before every needed input is ready; a table that is not ready is unknown, not empty.
//! - The report is every row; the runtime diffs it against the bus. Nobody publishes by hand.
//! - Only the runtime retries, sleeps and counts. `plan` sees the outcome as [`Jobs`].
//! - An action is repeated in every plan until its effect can be observed. An action that
//!   succeeds without effect is a fault ([`model::code::Code::AgentNoEffect`]), never a busy loop.
//! - A slow action that the plan no longer contains is cancelled, so `apply` must leave a
//!   state that `observe` understands wherever it is dropped.
//!
//! Where to look: [`service`] for the traits, [`Runtime`] for the turn, [`jobs`] for the pure
//! bookkeeping of actions, [`run`] for the process around it.
#![forbid(unsafe_code)]

mod clock;
mod evidence;
mod failure;
mod heartbeat;
pub mod jobs;
mod logging;
mod outbox;
mod points;
mod process;
mod runtime;
pub mod service;
mod tables;

pub use clock::{Clock, Hand};
pub use failure::Failure;
pub use jobs::{Backoff, Job, Jobs, Progress, Progressed};
pub use outbox::Outbox;
pub use process::{Boot, Flags, run};
pub use runtime::{Runtime, Settled, TurnOutcome};
pub use service::{Action, Plan, Report, Service, Turn, World};
pub use tables::Tables;
