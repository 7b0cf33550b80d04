//! The outside of a device that misbehaves, over real sockets on loopback.
//!
//! ```text
//!   zedagent, reporter, newlogd (real worlds, real clients)     downloader (real world)
//!        |  https                                                     |  http
//!        v                                                            v
//!      Front: TLS, logs every request, does what its Fault says     Store: the same for files
//!        |  http
//!        v
//!      Site: the real evc in this process
//! ```
//! - [`Lives`] gives turns to services as their runtimes ask for them. Time does not pass while a request is under way;
//!   when nobody has anything to do, a [`agent::Hand`] moves the clocks on to the next reason for a turn. An hour of
//!   retries takes as long as its requests.
//! - Faults are values, so that tests are tables.

mod certs;
mod fault;
mod front;
mod lives;
mod member;
mod site;
mod store;
mod tpm;
mod wire;

pub use fault::Fault;
pub use front::{Front, Seen};
pub use lives::Lives;
pub use member::{Member, ground, network};
pub use site::Site;
pub use store::{Ill, Store};
pub use tpm::{memory_tpm, without_tpm};
