//! Whole devices for real: supervisor, services, QEMU guests, networks, controller.
//!
//! Each test has a world of its own; nextest runs them one at a time (`.config/nextest.toml`).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod access;
mod attest;
mod campaign;
mod disk;
mod faults;
mod images;
mod life;
mod logs;
mod secrets;
mod support;
mod trust;
mod vault;
