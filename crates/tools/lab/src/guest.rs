//! Guest images for tests and the demo: built offline from Debian packages, cached by content.
//!
//! - [`Kind::Tiny`]: ours, boots in seconds, answers HTTP on port 80 with what it was given. Its files
//!   are in `crates/tools/lab/guest`; `guest/init` is the place to read what it can do.
//! - [`Kind::Debian`]: a stock Debian 12 with systemd, for what nobody here wrote.
//!
//! [`image`] returns the cached image or builds it. The cache's name holds a hash over everything of
//! ours that goes into the image, so a changed init script is a new image; parallel callers build once.

mod cpio;
mod debian;
mod disk;
mod modules;
mod packages;
mod seed;
mod tiny;

pub use disk::DiskError;
pub use modules::NoSuchModule;
pub use packages::PackageError;
pub use seed::Seed;

use crate::command::CommandError;
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self as std_io, Read as _};
use std::path::{Path, PathBuf};

/// Raise when the image must change though no file of ours did.
const BUILDER: &str = "1";

/// Which guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Kernel, busybox and our init: a few MB, ready in about 6 s under TCG.
    Tiny,
    /// Debian 12 with systemd: some 200 MB, ready in about a minute under TCG.
    Debian,
}

/// A built guest image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The qcow2 file.
    pub path: PathBuf,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
    /// Bytes of the file.
    pub size: u64,
}

/// Why there is no guest image.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// A Debian package could not be had.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The kernel lacks a module that the guest needs.
    #[error(transparent)]
    Module(#[from] NoSuchModule),
    /// The disk image could not be written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A tool failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The bootstrapped system lacks a part.
    #[error("no {prefix}* in {dir}: the bootstrap is incomplete")]
    Incomplete {
        /// Where it should be.
        dir: PathBuf,
        /// How its name should start.
        prefix: String,
    },
    /// A file or directory could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The path at fault.
        path: PathBuf,
        /// What the kernel answered.
        source: std_io::Error,
    },
}

impl Kind {
    /// The image's name without its hash.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Tiny => "tiny",
            Kind::Debian => "debian",
        }
    }

    fn key(self) -> String {
        let inputs = match self {
            Kind::Tiny => tiny::inputs(),
            Kind::Debian => debian::inputs(),
        };
        let mut hash = Sha256::new();
        hash.update(BUILDER);
        for input in inputs {
            hash.update(input.len().to_le_bytes());
            hash.update(input);
        }
        hex::encode(&hash.finalize()[..8])
    }
}

/// The cache that tests, the demo and the command share: `target/guest` of the running program's
/// build, or of the working directory for a program that lies elsewhere.
#[must_use]
pub fn default_cache() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|exe| {
            exe.ancestors()
                .find(|dir| dir.file_name().is_some_and(|name| name == "target"))
                .map(Path::to_owned)
        })
        .unwrap_or_else(|| PathBuf::from("target"))
        .join("guest")
}

/// The image of `kind` in `cache`, built now if it isn't there. Needs root for [`Kind::Debian`] only.
pub fn image(kind: Kind, cache: &Path) -> Result<Image, GuestError> {
    std::fs::create_dir_all(cache).map_err(|source| io(cache, source))?;
    let path = cache.join(format!("{}-{}.qcow2", kind.name(), kind.key()));
    if !path.exists() {
        let _lock = lock(&cache.join(format!("{}.lock", kind.name())))?;
        if !path.exists() {
            build(kind, cache, &path)?;
        }
    }
    describe(path)
}

fn build(kind: Kind, cache: &Path, path: &Path) -> Result<(), GuestError> {
    let work = cache.join(format!("{}.work", kind.name()));
    // Left by a build that was killed: the lock says that nobody works there now.
    remove(&work)?;
    std::fs::create_dir_all(&work).map_err(|source| io(&work, source))?;
    let image = work.join("disk.qcow2");
    let built = match kind {
        Kind::Tiny => tiny::build(&image, &work),
        Kind::Debian => debian::build(&image, &work),
    }
    .and_then(|()| std::fs::rename(&image, path).map_err(|source| io(path, source)));
    let removed = remove(&work);
    built.and(removed)?;
    forget_others(kind, cache, path)
}

/// Images of the same kind from other inputs: nobody asks for them any more.
fn forget_others(kind: Kind, cache: &Path, path: &Path) -> Result<(), GuestError> {
    let entries = std::fs::read_dir(cache).map_err(|source| io(cache, source))?;
    for entry in entries.filter_map(Result::ok) {
        let other = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let same_kind = name.starts_with(&format!("{}-", kind.name()));
        if same_kind && other != path && other.extension().is_some_and(|it| it == "qcow2") {
            std::fs::remove_file(&other).map_err(|source| io(&other, source))?;
        }
    }
    Ok(())
}

fn remove(dir: &Path) -> Result<(), GuestError> {
    match std::fs::remove_dir_all(dir) {
        Err(source) if source.kind() != std_io::ErrorKind::NotFound => Err(io(dir, source)),
        _ => Ok(()),
    }
}

fn lock(path: &Path) -> Result<Flock<File>, GuestError> {
    let file = File::create(path).map_err(|source| io(path, source))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| io(path, errno.into()))
}

fn describe(path: PathBuf) -> Result<Image, GuestError> {
    let mut file = File::open(&path).map_err(|source| io(&path, source))?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let read = file.read(&mut block).map_err(|source| io(&path, source))?;
        if read == 0 {
            break;
        }
        hash.update(&block[..read]);
        size += read as u64;
    }
    Ok(Image {
        path,
        sha256: hex::encode(hash.finalize()),
        size,
    })
}

fn io(path: &Path, source: std_io::Error) -> GuestError {
    GuestError::Io {
        path: path.to_owned(),
        source,
    }
}
