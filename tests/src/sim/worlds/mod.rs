//! One world per service: what it would see and do on the machine, with preconditions.

mod controller;
mod doors;
mod guests;
mod images;
mod network;
mod reports;
mod vault;
mod volumes;

use agent::{Clock, Failure, Progress, World};
use nodeagent::{Ask, Nodeagent};

use super::machine::Machine;

pub(crate) use controller::Controller;
pub(crate) use doors::{Doorkeeper, Doors};
pub(crate) use guests::Hypervisor;
pub(crate) use images::{Downloads, Verified};
pub(crate) use network::{Networks, Ports};
pub(crate) use reports::Reports;
pub(crate) use vault::{Vault, Vaults};
pub(crate) use volumes::Volumes;

/// The supervisor, as nodeagent asks it.
pub(crate) struct Supervisor(Machine);

impl Supervisor {
    pub(crate) fn open(machine: &Machine, _: &Clock) -> Self {
        Self(machine.clone())
    }
}

impl World<Nodeagent> for Supervisor {
    async fn observe(&self, _: &nodeagent::Desired) -> Result<(), Failure> {
        Ok(())
    }

    async fn apply(&self, action: Ask, _: Progress) -> Result<(), Failure> {
        self.0.takes(50).await;
        self.0.with(|s| {
            if !s.truth.going_down {
                s.violate(format!("a reboot that nobody asked for: {}", action.reason));
            }
            s.truth.owed = false;
            s.ending = Some(action.power_off);
        });
        self.0.bell.notify_one();
        // The supervisor stops us before it answers.
        std::future::pending().await
    }
}
