//! Measures the product against the limits of the machine that it runs on.
//!
//! - [`bus`]: how long an object takes from `publish` to its handler in another process, how many per second, how long a
//!   new subscriber needs; each beside what the kernel itself needs for the same files (the *floor*).
//! - [`device`]: how long a whole device needs from power-on to an application, and what its services take of the machine
//!   when there is nothing to do.
//! - [`download`]: how long an image needs from the wish for it to its verified copy, beside `curl | sha256sum`.
//! - [`ruleset`]: how long the packet filter of many applications needs to come into force, and what it costs packets, beside
//!   a bare bridge and a bare router.
//! - [`handshake`]: what it costs that the device's key is in its keeper alone.
//! - [`curve`]: how the turns and the memory of a device in memory grow with the number of its applications.
//! - [`budget`]: what of that is limited, and whether the limits are kept.
//!
//! Other work on the machine moves every figure, so what is compared is measured in turns, a few samples of each at a
//! time, and the ratio to the floor is the median of the turns' ratios: a slow second hits both sides of it.
//!
//! Where to look: [`stats`] makes a summary of samples, [`report`] prints and writes, `bus/stream.rs` is one publisher with
//! its readers, `bus/peer.rs` what the readers' processes do, `bus/raw.rs` the floor; `device/timeline.rs` says from
//! the device's own bus what happened when, `device/processes.rs` what the kernel knows of its processes.
#![forbid(unsafe_code)]

pub mod budget;
pub mod bus;
pub mod clock;
pub mod curve;
pub mod device;
pub mod download;
pub mod handshake;
pub mod object;
pub mod report;
pub mod ruleset;
pub mod stats;
pub mod stop;
