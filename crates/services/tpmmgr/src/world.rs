//! The keys and the socket, as one world.

use std::path::PathBuf;

use agent::{Boot, Failure, Progress, World};
use dirwatch::DirWatch;
use model::code::Code;

use crate::chip::{PROGRAM, Tcti};
use crate::keys::Keys;
use crate::server;
use crate::{Actual, Desired, Step, Tpmmgr};

/// Names the way to the TPM where it is not the kernel's: in a lab.
pub const TCTI: &str = "TPMMGR_TCTI";

/// The kernel's TPM, whose resource manager keeps its users apart.
const KERNELS: &str = "device:/dev/tpmrm0";

/// The way to the keys.
pub struct Vault {
    keys: Keys,
    /// The CONFIG partition, where an operator may exchange the device's certificate.
    config: DirWatch,
}

impl Vault {
    /// Serves the socket from now on.
    pub fn open(boot: &Boot) -> Result<Self, Failure> {
        let way = std::env::var(TCTI).unwrap_or_else(|_| KERNELS.to_owned());
        let failure = |e: &dyn std::error::Error| Failure::of(Code::TpmDead, "TPM", e);
        let tcti: Tcti = way.parse().map_err(|e| failure(&e))?;
        let own = std::env::current_exe().map_err(|e| failure(&e))?;
        let keys = Self::keys(boot, own.with_file_name(PROGRAM), tcti)?;
        if !boot.dry_run {
            server::serve(&boot.root, keys.clone()).map_err(|e| failure(&e))?;
        }
        Ok(Self::of(keys, boot))
    }

    /// The same with the TPM there, which `program` has, for tests.
    pub fn with(boot: &Boot, program: PathBuf, tcti: Tcti) -> Result<Self, Failure> {
        let keys = Self::keys(boot, program, tcti)?;
        let failure = |e: server::ServeError| Failure::of(Code::TpmDead, "TPM", &e);
        server::serve(&boot.root, keys.clone()).map_err(failure)?;
        Ok(Self::of(keys, boot))
    }

    fn of(keys: Keys, boot: &Boot) -> Self {
        Self {
            keys,
            config: DirWatch::on(vec![boot.path("/config")]),
        }
    }

    fn keys(boot: &Boot, program: PathBuf, tcti: Tcti) -> Result<Keys, Failure> {
        Keys::below(&boot.root, program, tcti, boot.clock.clone())
            .map_err(|e| Failure::of(Code::TpmDead, "TPM", &e))
    }
}

impl World<Tpmmgr> for Vault {
    async fn observe(&self, _: &Desired) -> Result<Actual, Failure> {
        self.config.take(|_| true);
        self.keys
            .actual()
            .map_err(|e| Failure::of(Code::AgentObserve, "keys", &e).transient())
    }

    async fn apply(&self, action: Step, _: Progress) -> Result<(), Failure> {
        match action {
            Step::Prepare(keeper) => self.keys.prepare(keeper).await,
            Step::Look { .. } => self.keys.look().await,
        }
    }

    async fn changed(&self) {
        tokio::select! {
            () = self.keys.changed() => {}
            () = self.config.changed() => {}
        }
    }
}
