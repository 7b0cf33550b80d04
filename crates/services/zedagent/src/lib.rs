//! zedagent speaks with the controller: who the device is, what it shall do.
//!
//! | | topics |
//! |---|---|
//! | reads | when known: `nim/DeviceNetworkStatus`, `nodeagent/NodeAgentStatus` (why the device booted, whether it takes on anything new), `vaultmgr/EncryptedVaultKeyFromDevice` (for the controller to keep), `tpmmgr/EdgeNodeCert` (what the controller encrypts to, and checks quotes with) |
//! | writes | `OnboardingStatus`, `ControllerCert`, `ConfigItemValueMap` (persistent), `ZedAgentStatus`; once the controller has attested the device: `EncryptedVaultKeyFromController`; once there is a config: `CipherContext`, `DevicePortConfig`, `PhysicalIOAdapterList`, `DatastoreConfig`, `ContentTreeConfig`, `VolumeConfig`, `NetworkInstanceConfig`, `AppInstanceConfig` |
//! | owns | `/persist/checkpoint/{controllercerts,controllercerts.bak,lastconfig,lastconfig.bak,acceptedpcrs.json}`, `/run/zedagent/integrity_token` |
//!
//! ```text
//!  identity -> usable address -> controller's certificates -> register, UUID -> attestation -> config ... config
//!                                                                                  ^             |
//!                                                                                  +---- 403 ----+
//! ```
//!
//! Which step is next follows from what is known ([`facts`]), not from where we were; so any step may
//! be lost, repeated or interrupted. Every failed step is tried again for ever, with increasing delays: the
//! controller may learn about this device at any time.
//!
//! **A config is taken whole or not at all** when it is not meant for this device, not signed by the
//! controller, or older than the one in force; one bad object in it only marks that object ([`translate`]).
//! The answer as received is saved, and used after the next boot if the controller does not answer within
//! seconds; a config that was in force for ten minutes becomes the backup, which is preferred after a boot
//! that the last config may have caused.
//!
//! **After a restart** the topics that only a config can fill stay as they are, and not ready, until the
//! config was fetched or the saved one was taken.
//!
//! Look at `plan/steps.rs` for what is done when, at `world.rs` for how.
#![forbid(unsafe_code)]

mod checkpoint;
pub mod facts;
mod failure;
mod plan;
mod proof;
pub mod translate;
pub mod world;

use model::code::Code;

pub use checkpoint::saved_config;
pub use plan::{Desired, Report, Step, Zedagent};

/// The whole program.
pub fn main() -> std::process::ExitCode {
    agent::run::<Zedagent, _, _, _>(|boot| async move {
        let keys = std::sync::Arc::new(controller::Keeper::of(&boot.root));
        let tpm = tpm::Client::connect(&boot.root)
            .map_err(|e| agent::Failure::of(Code::AttestQuote, "tpmmgr", &e))?;
        Ok(world::Evc::open(&boot, keys, std::sync::Arc::new(tpm)))
    })
}
