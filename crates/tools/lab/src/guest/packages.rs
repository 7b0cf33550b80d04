//! Debian packages as a source of files: downloaded by apt, unpacked, never installed.

use crate::command::{self, CommandError};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why a package's files could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// apt or dpkg said no.
    #[error("Debian package {package}: {source}")]
    Tool {
        /// The package.
        package: String,
        /// What the tool said.
        source: CommandError,
    },
    /// The meta package names no kernel package.
    #[error("Debian package {0} depends on no linux-image-* package")]
    NoKernel(String),
    /// apt reported success but left no file.
    #[error("apt downloaded nothing for {package} into {dir}")]
    Missing {
        /// The package.
        package: String,
        /// Where the file should have been.
        dir: PathBuf,
    },
    /// The directory for the files could not be made or read.
    #[error("{path}: {source}")]
    Io {
        /// The path at fault.
        path: PathBuf,
        /// What the kernel answered.
        source: std::io::Error,
    },
}

/// The real package behind a kernel meta package (`linux-image-cloud-amd64` ->
/// `linux-image-6.1.0-57-cloud-amd64`).
pub(super) fn kernel_behind(meta: &str) -> Result<String, PackageError> {
    let text = command::run(Command::new("apt-cache").args(["depends", meta]))
        .map_err(|source| tool(meta, source))?;
    first_kernel(&text).ok_or_else(|| PackageError::NoKernel(meta.to_owned()))
}

fn first_kernel(depends: &str) -> Option<String> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
}

/// Downloads `package` into `cache` and unpacks it below `root`.
pub(super) fn unpack(package: &str, cache: &Path, root: &Path) -> Result<(), PackageError> {
    for dir in [cache, root] {
        std::fs::create_dir_all(dir).map_err(|source| io(dir, source))?;
    }
    // apt drops its rights for the download where it can; where it can't, it says so on stderr only.
    command::run(
        Command::new("apt-get")
            .args(["-q", "-o", "APT::Sandbox::User=root", "download", package])
            .current_dir(cache),
    )
    .map_err(|source| tool(package, source))?;
    let file = newest(package, cache)?;
    command::run(Command::new("dpkg").arg("-x").arg(&file).arg(root))
        .map_err(|source| tool(package, source))?;
    Ok(())
}

fn newest(package: &str, cache: &Path) -> Result<PathBuf, PackageError> {
    let prefix = format!("{package}_");
    let mut found: Vec<(std::time::SystemTime, PathBuf)> = std::fs::read_dir(cache)
        .map_err(|source| io(cache, source))?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    found.sort();
    found
        .pop()
        .map(|(_, path)| path)
        .ok_or_else(|| PackageError::Missing {
            package: package.to_owned(),
            dir: cache.to_owned(),
        })
}

fn tool(package: &str, source: CommandError) -> PackageError {
    PackageError::Tool {
        package: package.to_owned(),
        source,
    }
}

fn io(path: &Path, source: std::io::Error) -> PackageError {
    PackageError::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn finds_the_kernel_in_what_apt_prints() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-57-cloud-amd64\n  Depends: libc6\n";
        assert_eq!(
            first_kernel(text).as_deref(),
            Some("linux-image-6.1.0-57-cloud-amd64")
        );
        assert_eq!(first_kernel("linux-image-x\n  Depends: libc6\n"), None);
    }
}
