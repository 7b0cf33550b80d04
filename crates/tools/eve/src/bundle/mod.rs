//! Support bundles: everything that is needed to understand a device, in one `.tar.gz`, without its secrets.
//!
//! Below one directory the archive has the layout of a device's root, so that every command of `eve` reads it
//! with `--bundle` (or, unpacked, with `--root`): the bus, logs, evidence of crashes, the supervisor's
//! records, CONFIG's certificates. Beside it: what the kernel said of the network, and the answers of `eve
//! check`, `timeline`, `why`, `status` and `ps` at that time.
//!
//! - [`mask`] takes secrets out; `collect.rs` chooses what goes in and within which bounds; `capture.rs` asks
//!   the kernel; `open.rs` reads a bundle again.
//!
//! Never in it: private keys, the saved config, images and volumes, consoles of guests (unless asked for).

mod capture;
mod collect;
pub mod mask;
mod open;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(crate) use collect::default_name;
pub use collect::{Answers, Options, write};
pub use open::{Opened, open, saved};

/// The directory in the archive.
pub const DIRECTORY: &str = "eve-support";
/// The manifest, in it.
pub const MANIFEST: &str = "manifest.json";
/// The checks' answers, in it.
pub const CHECK: &str = "check.json";
/// The timeline, in it.
pub const TIMELINE: &str = "timeline.json";

/// What a bundle says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Manifest {
    /// Layout of the bundle.
    pub format: u32,
    /// Version of the command that made it.
    pub version: String,
    /// When.
    pub at: Timestamp,
    /// Of which root.
    pub root: String,
    /// The device's UUID, if it had one.
    pub device: String,
    /// Files in it.
    pub files: usize,
    /// Bytes of these, before compression.
    pub bytes: u64,
    /// Places where a secret was taken out.
    pub masked: u64,
    /// What was cut off or left out, and why.
    pub left_out: Vec<String>,
}
