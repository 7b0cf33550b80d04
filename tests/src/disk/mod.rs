//! A disk that remembers, for tests of what power cuts, full disks and broken disks do to `/persist`.
//!
//! ```text
//!  services' code --> ext4 --> loop device --> disk.img (FUSE) --> recorded-disk: log of writes and flushes
//!                                                                      |
//!        judge <-- ext4 (journal recovered) <-- loop device <-- image of a Cut
//! ```
//!
//! - `wire.rs`, `server.rs`: the disk, a process of its own (`bin/recorded-disk.rs`).
//! - `record.rs`: what was done to it, and the images that a cut may leave.
//! - `rig.rs`: the disk with a file system on it, in a mount namespace of the test's own.
//! - `logs.rs`, `reboot.rs`: newlogd and nodeagent at work on it.
//! - `load.rs`: what the device's code does with the disk, and what must be found after a cut.
//! - `life.rs`: a device's whole life on it; `boot.rs`: the services as processes, started on what a cut left of it.

mod boot;
mod life;
mod load;
mod logs;
pub mod reboot;
mod record;
mod rig;
mod server;
mod wire;

pub use boot::{Booted, judge_disk};
pub use life::{Life, Seen};
pub use load::{Load, Promises};
pub use record::{Cut, Record, Replay, Tail};
pub use rig::{Health, Mounted, Rig, SIZE, mount_image, seclude};
pub use server::serve;
