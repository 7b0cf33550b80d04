//! The way to the supervisor.

use std::path::PathBuf;

use agent::{Failure, Progress, World};
use model::code::Code;
use units::Client;

use crate::{Ask, Desired, Nodeagent};

/// The supervisor of the device below a root directory.
pub struct Supervisor {
    root: PathBuf,
}

impl Supervisor {
    /// Connects when there is something to ask.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }
}

impl World<Nodeagent> for Supervisor {
    async fn observe(&self, _: &Desired) -> Result<(), Failure> {
        Ok(())
    }

    async fn apply(&self, action: Ask, _: Progress) -> Result<(), Failure> {
        let failure = |e: units::UnitsError| {
            Failure::of(Code::SupervisorUnreachable, "device", &e).transient()
        };
        let client = Client::connect(&self.root).map_err(failure)?;
        client
            .reboot(&action.reason, action.power_off)
            .await
            .map_err(failure)
    }
}
