//! The device's TPM: the program swtpm, on the loopback of the device's network namespace.
//!
//! It dies with the device's power, and its persistent state, beside the device's disk, is its inside: keys and NV
//! survive a boot, PCRs do not.

use crate::process::Process;
use crate::site::{SiteError, io};
use crate::world::World;
use std::path::PathBuf;
use std::process::Command;

/// Every world has a network of its own, so the port is nobody else's.
const PORT: u16 = 2321;

/// Whether this machine can simulate a TPM.
#[must_use]
pub fn is_installed() -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("swtpm").is_file()))
}

/// How the device reaches it, for the supervisor's `--tpm`.
pub(crate) fn way() -> String {
    format!("swtpm:host=127.0.0.1,port={PORT}")
}

/// Where its inside is kept.
#[must_use]
pub fn inside(world: &World) -> PathBuf {
    world.dir().join("tpm")
}

/// Switches it on, as a device's power does.
pub(crate) fn reset(world: &World) -> Result<Process, SiteError> {
    let inside = inside(world);
    std::fs::create_dir_all(&inside).map_err(|source| io(&inside, source))?;
    let channel = |port: u16| format!("type=tcp,port={port},bindaddr=127.0.0.1");
    world.spawn_device(
        "swtpm",
        Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--server", &channel(PORT)])
            .args(["--ctrl", &channel(PORT + 1)])
            .arg("--tpmstate")
            .arg(format!("dir={}", inside.display())),
    )
}
