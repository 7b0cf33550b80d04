//! tpmmgr keeps the device's keys: in the TPM, or in a file where the device was installed without one.
//!
//! | | |
//! |---|---|
//! | reads | no topics |
//! | writes | `EdgeNodeCert` (persistent), `TpmSanityStatus` |
//! | serves | `/run/tpmmgr/tpmmgr.sock` (gRPC, `proto/tpmmgr`): sign, ECDH, quote, seal, PCRs, NV |
//! | owns | the TPM (`/dev/tpmrm0`; only its process `tpmchip` opens it), `/config/device.{cert,key}.pem`, `/persist/certs`, `/persist/tpmmgr`, PCR 14, `/run/tpmmgr/measured.json` |
//!
//! ```text
//!                             missing: said, waited for
//!                            /
//!  installed, remembered ---+--- TPM ------> prepare ---> serve <---> look (hourly; while in trouble often)
//!  (installed.rs, once)      \                  ^           |
//!                             file              +-----------+  its keys are others
//! ```
//!
//! **The keeper is chosen once** and remembered: a TPM that dies, disappears or is cleared leads to a fault with
//! a code, to a reason for maintenance mode, and to tries until it is back; never to a key in a file.
//!
//! **Identity is in the TPM.** The device's key is made in it and cannot leave it; its certificate is mirrored
//! into the TPM's NV memory, so a CONFIG partition that was wiped gets it back. All keys can be derived again
//! by the TPM, so a handle that was lost is no loss.
//!
//! **CONFIG is measured** into PCR 14 at each boot, before anybody can unseal anything (`measured.rs`).
//!
//! **After a restart** it finds everything in its first turn. Callers that ask before that are told that it
//! is starting, and ask again.
//!
//! Where to look: `installed.rs` for who keeps the keys, `authority.rs` for who may ask what, `plan.rs` for when,
//! `keys.rs` for how, `chip.rs` for the TPM.
#![forbid(unsafe_code)]

pub mod authority;
pub mod chip;
pub mod installed;
pub mod keys;
pub mod measured;
mod plan;
pub mod server;
pub mod store;
pub mod trouble;
pub mod world;

pub use plan::{Actual, Desired, Prepared, Report, Step, Tpmmgr};

/// The whole program.
pub fn main() -> std::process::ExitCode {
    agent::run::<Tpmmgr, _, _, _>(|boot| async move { world::Vault::open(&boot) })
}
