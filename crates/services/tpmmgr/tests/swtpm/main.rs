//! tpmmgr with a real TPM 2.0, simulated by swtpm.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod chip;
mod device;
mod identity;
mod troubles;
mod uses;
