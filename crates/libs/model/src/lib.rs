//! Every object that the services of a device say to each other, and the wiring
//! diagram of who says what ([`topics`]).
//!
//! Objects are plain data: no I/O, no clock, no behaviour beyond parsing and small
//! derived questions. *Config* objects flow down from the controller, *Status* objects
//! flow up. JSON names are PascalCase as EVE's, because operators and tools read them.
//!
//! Compatibility: both A/B images share `/persist`, so an object written by version N is
//! read by N-1 and N+1. Unknown fields are ignored; a new field has a default.
//!
//! Where to look: ids and other parsed scalars in [`id`], errors in [`fault`] and
//! [`code`], one file per domain for the rest.
#![forbid(unsafe_code)]

pub mod access;
pub mod adapter;
pub mod app;
pub mod clock;
pub mod code;
pub mod config_item;
pub mod content;
pub mod domain;
pub mod fault;
pub mod id;
pub mod log;
pub mod network;
pub mod node;
pub mod port;
pub mod report;
pub mod security;
pub mod service;
pub mod topics;
pub mod vault;
pub mod volume;
