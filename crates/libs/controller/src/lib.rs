//! The device's side of its conversation with the controller (EVC).
//!
//! The device calls, never the controller. In API version 2 every message travels in a
//! signed envelope ([`envelope`]) over plain server-authenticated TLS, so that an
//! intercepting proxy can neither read keys into it nor change it unnoticed; version 1
//! sends the bare messages over mutual TLS. Which one is spoken: [`ApiVersion`].
//!
//! Where to look:
//! - [`Controller`]: the typed calls ([`calls`]) and the walk over all ports ([`client`]);
//! - [`exchange`]: one request over one port, with every check of the answer;
//! - [`error`]: what a call that failed tells, and [`SenderStatus`], EVE's name for it;
//! - [`signer`], [`keeper`]: the keys, which others keep;
//! - [`certs`]: the controller's certificates; their chain to the device's root is `chain`'s;
//! - [`line`]: the connection of a service that only tells;
//! - [`partition`]: what of this the CONFIG partition says.
//!
//! Nothing here retries, sleeps or writes state; the services' runtime does. After a
//! restart a caller gives back what it kept: UUID and controller certificates.
#![forbid(unsafe_code)]

pub mod calls;
pub mod certs;
pub mod client;
pub mod endpoint;
pub mod envelope;
pub mod error;
pub mod exchange;
pub mod identity;
pub mod keeper;
pub mod line;
pub mod partition;
pub mod signer;
pub mod status;

#[cfg(test)]
#[path = "../../uplink/tests/support/mod.rs"]
mod support;

pub use calls::{ConfigAnswer, DeviceName, Introduction};
pub use certs::{CertsError, ControllerCerts};
pub use client::{Controller, Timers};
pub use endpoint::{ApiVersion, Endpoint, Server};
pub use envelope::EnvelopeError;
pub use error::{Answer, AttemptError, Failure, Outcome, Phase, Problem, undecoded};
pub use keeper::{Keeper, KeyFiles, Keys};
pub use line::{Known, Line, LineError};
pub use partition::{ConfigPartition, PartitionError};
pub use signer::{Certificate, Signer, SignerError, SoftwareKey};
pub use status::SenderStatus;
