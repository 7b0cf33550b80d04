//! Files that survive a power cut: the old content or the new one, never half.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use model::id::Digest;
use sha2::{Digest as _, Sha256};

/// `/persist/checkpoint`.
pub(crate) struct Checkpoint {
    dir: PathBuf,
}

/// The file with the controller's certificates.
pub(crate) const CERTS: &str = "controllercerts";
/// The config last taken.
pub(crate) const LAST: &str = "lastconfig";
/// The config that proved itself.
pub(crate) const BACKUP: &str = "lastconfig.bak";

impl Checkpoint {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The content, or `None` when there is none to speak of.
    pub(crate) fn read(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.dir.join(name))
            .ok()
            .filter(|bytes| !bytes.is_empty())
    }

    pub(crate) fn digest(&self, name: &str) -> Option<Digest> {
        self.read(name).map(|bytes| digest(&bytes))
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        write(&self.dir.join(name), bytes)
    }
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// Writes a file beside, makes it durable, and puts it in place.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&temporary, path)?;
    File::open(dir)?.sync_all()
}
