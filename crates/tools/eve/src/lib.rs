//! `eve`: the operator's command on the device.
//!
//! It reads the bus, which is files, so it works on a live device, on a directory that was copied from one
//! (`--root DIR --at newest`), and without any service running.
//!
//! - [`snapshot`] is everything on the bus at one moment, [`device`] the same with types.
//! - [`mod@why`] is the heart: a pure walk from an object to the first condition that blocks it.
//! - [`mod@check`] judges what can be looked at, [`timeline`] orders what happened since the boot, [`bundle`]
//!   packs all of it for somebody elsewhere, without secrets.
//! - `cli` is the command line; each subcommand has a file below it.
#![forbid(unsafe_code)]

mod access;
pub mod bundle;
pub mod check;
pub mod cli;
pub mod device;
pub mod difference;
mod error;
pub mod find;
pub mod logline;
pub mod logstore;
pub mod output;
mod process;
pub mod snapshot;
pub mod tail;
pub mod timeline;
pub mod why;
pub mod words;

pub use device::Device;
pub use error::Error;
pub use snapshot::Snapshot;
