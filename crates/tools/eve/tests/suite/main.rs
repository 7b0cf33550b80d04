//! `eve` on directories of devices: what it says, and what the command does.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod access;
mod bundle;
mod check;
mod cli;
mod controller;
mod device;
mod guest;
mod image;
mod network;
mod properties;
mod service;
mod timeline;
