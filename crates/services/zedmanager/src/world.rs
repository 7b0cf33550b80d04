//! Nothing: zedmanager acts through the bus alone.

use agent::{Failure, Progress, World};

use crate::{Desired, NoAction, Zedmanager};

/// The empty world.
pub struct BusOnly;

impl World<Zedmanager> for BusOnly {
    async fn observe(&self, _: &Desired) -> Result<(), Failure> {
        Ok(())
    }

    async fn apply(&self, action: NoAction, _: Progress) -> Result<(), Failure> {
        match action {}
    }
}
