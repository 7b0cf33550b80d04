//! The keys and the socket, as one world.

use agent::{Boot, Failure, Progress, World};
use model::code::Code;

use crate::chip::Tcti;
use crate::keys::Keys;
use crate::server;
use crate::{Actual, Desired, Step, Tpmmgr};

/// Names the way to the TPM where it is not the kernel's: in a lab.
pub const TCTI: &str = "TPMMGR_TCTI";

/// The kernel's TPM, whose resource manager keeps its users apart.
const KERNELS: &str = "device:/dev/tpmrm0";

/// The way to the keys.
pub struct Vault(Keys);

impl Vault {
    /// Serves the socket from now on.
    pub fn open(boot: &Boot) -> Result<Self, Failure> {
        let way = std::env::var(TCTI).unwrap_or_else(|_| KERNELS.to_owned());
        let failure = |e: &dyn std::error::Error| Failure::of(Code::TpmDead, "TPM", e);
        let tcti: Tcti = way.parse().map_err(|e| failure(&e))?;
        let keys = Self::keys(boot, tcti)?;
        if !boot.dry_run {
            server::serve(&boot.root, keys.clone()).map_err(|e| failure(&e))?;
        }
        Ok(Self(keys))
    }

    /// The same with a TPM there, for tests.
    pub fn with(boot: &Boot, tcti: Tcti) -> Result<Self, Failure> {
        let keys = Self::keys(boot, tcti)?;
        let failure = |e: server::ServeError| Failure::of(Code::TpmDead, "TPM", &e);
        server::serve(&boot.root, keys.clone()).map_err(failure)?;
        Ok(Self(keys))
    }

    fn keys(boot: &Boot, tcti: Tcti) -> Result<Keys, Failure> {
        Keys::below(&boot.root, tcti, boot.clock.clone())
            .map_err(|e| Failure::of(Code::TpmDead, "TPM", &e))
    }
}

impl World<Tpmmgr> for Vault {
    async fn observe(&self, _: &Desired) -> Result<Actual, Failure> {
        self.0
            .actual()
            .map_err(|e| Failure::of(Code::AgentObserve, "keys", &e).transient())
    }

    async fn apply(&self, action: Step, _: Progress) -> Result<(), Failure> {
        match action {
            Step::Prepare(keeper) => self.0.prepare(keeper).await,
            Step::Look { .. } => self.0.look().await,
        }
    }

    async fn changed(&self) {
        self.0.changed().await;
    }
}
