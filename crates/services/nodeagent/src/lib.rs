//! nodeagent decides about the device as a whole: when it reboots, and why it did.
//!
//! It is the only service that asks the supervisor for a reboot, and it writes down the reason,
//! durably, before it asks.
//!
//! | | topics |
//! |---|---|
//! | reads | `zedagent/ZedAgentStatus` (the controller's commands); when known: `zedagent/OnboardingStatus`, `zedmanager/AppInstanceStatus`; for maintenance mode: `zedagent/ConfigItemValueMap`, `vaultmgr/VaultStatus`, `tpmmgr/TpmSanityStatus`, `volumemgr/DiskMetric` |
//! | writes | `NodeAgentStatus`, `DeviceOpCounters` (persistent), `RebootRecord` (persistent) |
//!
//! ```text
//!            command counter differs           every app halted, or deadline
//!  Online -----------------------------> Halting ----------------------------> Rebooting (asks the supervisor)
//!            (reason -> RebootRecord/next)      \
//!                                                +--(command was "shutdown")--> ShutDown, until the next boot
//! ```
//!
//! **Commands are levels.** The controller's counters are compared with the ones carried out, which are
//! persistent. The first config that a device ever sees is taken as it is: commands of the past are not
//! repeated. A counter is moved when its command is accepted, so no power cut can repeat a reboot.
//!
//! **A boot is recognised** by the absence of our own status: `/run` does not survive one. Then
//! `RebootRecord/next` becomes `RebootRecord/last`; if there is none, power was lost.
//!
//! **Maintenance mode** is here, too: nodeagent gathers the reasons, of people and of the device itself, and publishes
//! them; each service that could take on something new asks for them. Nothing that runs is touched because of it.
//!
//! Look at `plan.rs`; `world.rs` only talks to the supervisor.
#![forbid(unsafe_code)]

mod plan;
pub mod world;

pub use plan::{Ask, Desired, Nodeagent, Report};

/// The whole program.
pub fn main() -> std::process::ExitCode {
    agent::run::<Nodeagent, _, _, _>(|boot| async { Ok(world::Supervisor::new(boot.root)) })
}
