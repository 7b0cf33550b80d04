//! Reads a bundle: unpacks it into a directory that goes with the value.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Component, Path, PathBuf},
};

use flate2::read::GzDecoder;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use tar::EntryType;
use tempfile::TempDir;

use super::{DIRECTORY, MANIFEST, Manifest};
use crate::Error;

/// Bundles are bounded when they are made; what is larger is none.
const ALL: u64 = 1 << 30;

/// A bundle that was unpacked. The directory is removed with it.
#[derive(Debug)]
pub struct Opened {
    dir: TempDir,
    manifest: Manifest,
}

impl Opened {
    /// The root of the device in it.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join(DIRECTORY)
    }

    /// When it was made: ages and times until a retry are seen from there.
    pub fn at(&self) -> Timestamp {
        self.manifest.at
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

/// Unpacks a bundle. Only plain files below its own directory are taken, whatever the archive holds.
pub fn open(file: &Path) -> Result<Opened, Error> {
    let bad = |reason: String| Error::Bundle {
        path: file.to_owned(),
        reason,
    };
    let io = |action: &'static str| {
        move |source| Error::Io {
            action,
            path: file.to_owned(),
            source,
        }
    };
    let archive = File::open(file).map_err(io("read"))?;
    let dir = tempfile::Builder::new()
        .prefix("eve-bundle-")
        .tempdir()
        .map_err(io("unpack"))?;
    let mut archive = tar::Archive::new(GzDecoder::new(archive).take(ALL));
    let entries = archive.entries().map_err(|error| bad(error.to_string()))?;
    for entry in entries {
        let mut entry = entry.map_err(|error| bad(error.to_string()))?;
        let path = entry
            .path()
            .map_err(|error| bad(error.to_string()))?
            .into_owned();
        let plain = path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !plain
            || !path.starts_with(DIRECTORY)
            || entry.header().entry_type() != EntryType::Regular
        {
            continue;
        }
        let target = dir.path().join(&path);
        if let Some(above) = target.parent() {
            fs::create_dir_all(above).map_err(io("unpack"))?;
        }
        entry
            .unpack(&target)
            .map_err(|error| bad(error.to_string()))?;
    }
    let manifest = fs::read(dir.path().join(DIRECTORY).join(MANIFEST))
        .map_err(|_| bad("it has no manifest".to_owned()))?;
    let manifest: Manifest =
        serde_json::from_slice(&manifest).map_err(|error| bad(format!("its manifest: {error}")))?;
    if manifest.format != 1 {
        return Err(bad(format!(
            "its format {} is of another version",
            manifest.format
        )));
    }
    // A device that had published nothing has these all the same.
    fs::create_dir_all(dir.path().join(DIRECTORY).join("run")).map_err(io("unpack"))?;
    Ok(Opened { dir, manifest })
}

/// An answer that was made on the device, if `bundle` is given and holds it.
pub fn saved<T: DeserializeOwned>(
    bundle: Option<&PathBuf>,
    root: &Path,
    name: &str,
) -> Result<Option<T>, Error> {
    let Some(bundle) = bundle else {
        return Ok(None);
    };
    let Ok(bytes) = fs::read(root.join(name)) else {
        return Ok(None);
    };
    let value = serde_json::from_slice(&bytes).map_err(|error| Error::Bundle {
        path: bundle.clone(),
        reason: format!("{name}: {error}"),
    })?;
    Ok(Some(value))
}
