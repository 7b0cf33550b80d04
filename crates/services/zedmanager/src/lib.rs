//! zedmanager composes an application out of volumes, interfaces and a guest.
//!
//! It touches nothing outside the bus: every row that it writes follows from what it reads,
//! and the only thing that it has to remember is which commands were carried out.
//!
//! | | topics |
//! |---|---|
//! | reads | `zedagent/AppInstanceConfig`; when known: `nodeagent/NodeAgentStatus`, `volumemgr/VolumeRefStatus`, `zedrouter/AppNetworkStatus`, `domainmgr/DomainStatus` |
//! | writes | `VolumeRefConfig`, `AppNetworkConfig`, `DomainConfig`, `AppInstanceStatus`, `AppCommandCounters` (persistent) |
//!
//! ```text
//!  AppInstanceConfig --> VolumeRefConfig --> (volumemgr) --> VolumeRefStatus: Created --+
//!                    \-> AppNetworkConfig -> (zedrouter) --> AppNetworkStatus: Ready ---+--> DomainConfig --> (domainmgr)
//! ```
//!
//! **Commands are levels, not events.** A guest's *incarnation* is made of the restart counter and the
//! number of purges; domainmgr restarts a guest whose incarnation is not the wanted one. So a
//! command that arrives twice, or while the device is off, is carried out exactly once.
//! A purge first makes the volumes of the next generation beside the old ones while the guest runs,
//! then moves the counter, and lets the old ones go when the guest has left them.
//!
//! **What runs stays.** While an input is unknown, or the new config of an application is faulty,
//! the rows of the last good state stay as they are. Hardware of a running guest changes with its
//! incarnation only; a config that asks for other hardware says in the status that it waits for a restart.
//!
//! **In maintenance mode** (nodeagent says so) an application whose guest was never started waits: it gets no volumes,
//! and if it has them already, no guest. Whatever was started once goes on, is restarted and purged as ever.
//!
//! **After a restart** of zedmanager the rows on the bus and the persistent counters are all that it needs.
//! Look at `plan.rs` for the whole service and at `plan/app.rs` for one application.
#![forbid(unsafe_code)]

mod plan;
pub mod world;

pub use plan::{Desired, NoAction, Own, Report, Zedmanager};

/// The whole program.
pub fn main() -> std::process::ExitCode {
    agent::run::<Zedmanager, _, _, _>(|_| async { Ok(world::BusOnly) })
}
