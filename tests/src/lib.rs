//! Scenario tests: whole devices, in memory and in the lab.
//!
//! [`sim`] is the device in memory: the real services, each with its real plan and the real runtime, on a bus in memory,
//! in virtual time, around a machine that holds state and checks what is done to it. Days pass in milliseconds, and a seed
//! replays to the last action.
//!
//! [`disk`] is a disk that records what is done to it: what power cuts, full and broken disks do to `/persist`.
//! [`outside`] is a controller and a datastore that misbehave, for the services that speak with them over real sockets.
//!
//! - `tests/campaign_disk.rs`: the services' code on that disk.
//! - `tests/campaign_controller.rs`, `tests/campaign_datastore.rs`: every fault on every endpoint.
//! - `tests/campaign_device.rs`: random lives of a device (`SEEDS=n` how many, `SEED=n` one of them alone).
//!   `make nightly` runs ten thousand lives and every cell of the tables.
//! - `tests/stories.rs`: lives to read.
//! - `tests/wiring.rs`: who reads and writes what.
#![forbid(unsafe_code)]
// Everything here is a test: a panic is a result.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::must_use_candidate
)]

pub mod disk;
pub mod outside;
pub mod sim;
