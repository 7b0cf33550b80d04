//! The programs as a device has them: one file under the names of all services and of the operator's command
//! (crate `zedbox`).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// The file with all of them.
pub const SERVICES: &str = "zedbox";
/// What has the TPM, and alone is linked with the TPM software stack.
pub const CHIP: &str = "tpmchip";
/// The operator's command.
pub const COMMAND: &str = "eve";
/// What the stage around the device needs.
const CONTROLLER: &str = "evc";

/// A directory of programs, gone when dropped.
#[derive(Debug)]
pub struct Shipped(TempDir);

impl Shipped {
    /// The device's programs from `product`, the controller's from `tools`.
    pub fn of(product: &Path, tools: &Path) -> Result<Self> {
        // There, so that links are possible.
        let dir = tempfile::Builder::new()
            .prefix("shipped-")
            .tempdir_in(product)
            .with_context(|| format!("make a directory in {}", product.display()))?;
        let (from, to) = (tools.join(CONTROLLER), dir.path().join(CONTROLLER));
        fs::hard_link(&from, &to)
            .or_else(|_| fs::copy(&from, &to).map(drop))
            .with_context(|| format!("{} is not built", from.display()))?;
        let (from, to) = (product.join(CHIP), dir.path().join(CHIP));
        fs::hard_link(&from, &to)
            .or_else(|_| fs::copy(&from, &to).map(drop))
            .with_context(|| format!("{} is not built", from.display()))?;
        let program = product.join(SERVICES);
        let installed = Command::new(&program)
            .arg("install")
            .arg(dir.path())
            .output()
            .with_context(|| format!("{} is not built", program.display()))?;
        ensure!(
            installed.status.success(),
            "{} install: {}",
            program.display(),
            String::from_utf8_lossy(&installed.stderr)
        );
        Ok(Self(dir))
    }

    /// Where they are.
    pub fn dir(&self) -> PathBuf {
        self.0.path().to_owned()
    }
}
