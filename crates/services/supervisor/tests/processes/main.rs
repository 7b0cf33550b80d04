//! The real supervisor with real processes, below a temporary root.
//!
//! Units are `/bin/sh` and `/usr/bin/perl` (both essential on Debian), services are `examples/probe.rs`.
//! Whatever a test does, its supervisor, processes and control groups are gone when its
//! [`device::Device`] is dropped.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod device;
mod inside;
mod isolation;
mod lifecycle;
mod readopt;
mod transient;
