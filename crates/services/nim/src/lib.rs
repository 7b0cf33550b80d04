//! nim connects the device itself: addresses, routes and DNS servers of its ports.
//!
//! It needs nobody: at boot it is the first that works, so that the others have a way out.
//!
//! | | topics |
//! |---|---|
//! | reads, when known | `zedagent/DevicePortConfig`, `zedagent/ConfigItemValueMap`, `zedagent/PhysicalIOAdapterList` |
//! | writes | `DhcpLease`, `DevicePortConfigList` (persistent), `DeviceNetworkStatus` |
//!
//! ```text
//!  sets of ports (sources, memory, last resort) --select--> the set in use --> its ports
//!                                                                               |
//!     DHCP servers <--exchange-- what is due <--- age of the lease <------------+
//!                  --news------> lease row ---+                                 |
//!                                             +--> address, routes, rule <------+
//! ```
//!
//! **Which set.** The newest that can be used; one with a fault, or whose management ports do not
//! exist, is passed over and its entry in the list says why, so a device that is told nonsense goes
//! on as before. The list survives a reboot: the last good set is used before anybody was asked.
//! Without any, every Ethernet port gets its address by DHCP (`lastresort`).
//!
//! **Routes.** Each port has a routing table of its own, asked by a rule for packets from its
//! address, so that an answer, or a connection bound to the address, leaves by that port. The main
//! table has the same routes, ranked by cost and place in the config, of ports with a carrier.
//!
//! **Leases** are rows. What is due with one follows from its age in uptime; an exchange takes
//! seconds and keeps nothing. After a restart of nim, or of a cable, the lease in hand is confirmed
//! while its address stays; when it ends unanswered the address goes.
//!
//! **Mine and yours.** Every address, route and rule carries nim's number in the kernel; others'
//! are never touched. An address that somebody else gave to a port is used as it is.
//!
//! **Sockets** of the other services bind to a port's address and ask its DNS servers, both out of
//! `DeviceNetworkStatus`; `/etc/resolv.conf` is left alone.
//!
//! Where to look: `plan.rs` for a turn, `plan/` for its parts, [`dhcp`] for the protocol, [`world`]
//! for sockets.
#![forbid(unsafe_code)]

pub mod dhcp;
mod plan;
pub mod world;

pub use plan::{
    Action, Actual, Desired, LeaseNews, Nim, Report,
    ethernet::is_port,
    items::{Id, Item, RULE_PRIORITY},
    select::LAST_RESORT,
};

/// The whole program.
pub fn main() -> std::process::ExitCode {
    agent::run::<Nim, _, _, _>(|boot| async { world::Kernel::open(boot.clock) })
}
