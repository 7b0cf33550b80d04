//! reporter tells the controller what is the case: info messages when something changed, metrics
//! periodically.
//!
//! | | topics |
//! |---|---|
//! | reads | `zedagent/OnboardingStatus` (who we are); when known: every status that is reported |
//! | writes | `DeliveryJournal` (persistent) |
//!
//! Every reported object (the device, an application, a network instance, a volume, a content tree) has
//! one message that says its state now. Its digest, without the time, is compared with the one that the
//! controller acknowledged last; if they differ, the message is due. So after any sequence of outages,
//! restarts and power cuts the *last* state of every object reaches the controller, states in between
//! may be skipped, and nothing is sent twice without need.
//!
//! An object that is gone is due one last time as gone; then its record goes too.
//!
//! **Nothing is dropped.** No answer: tried again within a minute at the latest. A refusal for good (a 4xx
//! that is about the message) stands in the journal with its reason and is tried again slowly, because
//! the controller may have been wrong. Only metrics are not repeated: the next ones supersede them.
//!
//! Look at `messages/` for what is said, at `plan.rs` for when.
#![forbid(unsafe_code)]

pub mod messages;
mod plan;
mod read;
pub mod world;

pub use plan::{Acknowledged, Actual, Due, Report, Reporter, Send};
pub use read::Desired;

/// The whole program.
pub fn main() -> std::process::ExitCode {
    agent::run::<Reporter, _, _, _>(|boot| async move {
        let keys = std::sync::Arc::new(controller::Keeper::of(&boot.root));
        Ok(world::Evc::open(&boot, keys))
    })
}
