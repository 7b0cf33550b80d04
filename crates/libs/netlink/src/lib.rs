//! The kernel's network objects: interfaces, addresses, routes, policy rules, over rtnetlink.
//!
//! The library reads and changes; it decides nothing. What it reads is plain values that a
//! service compares with what it wants. What it changes is one object per call, because each of
//! them is an item of its own in the service's graph.
//!
//! # Whose is it?
//!
//! Everything made here carries the number of its [`Owner`], in the kernel: interfaces in their
//! group, addresses, routes and rules in their protocol. It is set in the same call that makes the
//! object, so that no crash leaves an object unmarked, and it is read back with it. A service
//! takes into its view only what carries its own number, and can therefore never delete what
//! somebody else made. Deletions of routes and rules name the owner too, so that the kernel finds
//! nothing if the object was replaced by somebody else's meanwhile.
//!
//! # Events
//!
//! [`Events`] says that something changed and of which kind, on a socket of its own: a shared one
//! would swallow what we changed ourselves. If the kernel had to drop notifications it says that
//! anything may have changed, and the reader looks at everything.
//!
//! # Names
//!
//! Everything is by interface name; the kernel's index appears only in [`Link`]. An object of an
//! interface that vanished while it was read is left out.
//!
//! All of it is about the network namespace of the thread that calls.
#![deny(unsafe_op_in_unsafe_fn)]

mod address;
mod connection;
mod error;
mod events;
mod link;
mod owner;
mod route;
mod rule;
mod sysctl;
mod tap;

pub use address::{Address, AddressState};
pub use connection::Netlink;
pub use error::NetlinkError;
pub use events::{Change, Changes, Events};
pub use link::{Bridge, Kind, Link, Stats};
pub use owner::Owner;
pub use route::{MAIN_TABLE, Route, RouteKind};
pub use rule::{Rule, RuleAction};
pub use sysctl::{Family, Sysctl};
pub use tap::Tap;
