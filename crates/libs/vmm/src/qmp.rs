//! The QEMU Machine Protocol: how a running guest is asked and told.
//!
//! JSON objects, one a line, over a unix socket that QEMU serves. QEMU greets, the client asks for
//! the commands mode, then each command has a number that its answer repeats; events come between.
//!
//! | module     | purpose                                                       |
//! |------------|---------------------------------------------------------------|
//! | [`codec`]  | lines to messages and back: pure, bounded, tolerant           |
//! | `client`   | [`Qmp`] and [`Events`]: one connection, owned by one task     |
//! | `commands` | the commands that EVE uses, with typed answers                |
//! | `link`     | [`Link`] and [`Follow`]: connect again after an interruption  |
//!
//! A socket serves one client. A second one is accepted by the kernel and then waits for a greeting
//! that doesn't come, hence the time limit on it ([`Limits::greeting`]) and the two sockets of
//! [`crate::spec::QmpSockets`]. Events are hints: who missed some asks for the status, which is the
//! truth.

pub mod codec;

mod client;
mod commands;
mod link;

pub use client::{Events, Limits, Notice, Qmp, QmpError};
pub use codec::{ErrorClass, Event, Greeting, Message, parse_line};
pub use commands::{BlockStats, CpuThread, RunState, Status, VncServer};
pub use link::{Follow, FollowNotice, Link};
