//! The unfinished file and what is known about it.
//!
//! `<file>.part` holds a prefix of the file; `<file>.part.json` says of which file. The
//! part is locked while a download writes it, so a cancelled download that is still
//! writing its last chunk and its successor don't mix.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use model::id::Digest;
use serde::{Deserialize, Serialize};

use crate::error::FetchError;
use crate::source::Validator;

/// What is known of the file that a part is a part of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Origin {
    /// Where the bytes came from.
    pub url: String,
    /// Proof that it is still the same file there.
    #[serde(default)]
    pub validator: Option<Validator>,
    /// Its size, if known.
    #[serde(default)]
    pub total: Option<u64>,
    /// The digest that it must have, if known.
    #[serde(default)]
    pub digest: Option<Digest>,
}

impl Origin {
    /// Whether bytes of `self` may be the beginning of `wanted`, and the proof to ask with.
    ///
    /// With a digest the bytes may have come from anywhere, because a wrong whole would be
    /// noticed; without, only from the same place and with a proof.
    pub fn resume_for(&self, wanted: &Self) -> Option<Option<Validator>> {
        if self.digest != wanted.digest {
            return None;
        }
        let same_place = self.url == wanted.url;
        match (&self.validator, wanted.digest) {
            (Some(proof), _) if same_place => Some(Some(proof.clone())),
            (_, Some(_)) => Some(None),
            (_, None) => None,
        }
    }
}

/// Paths of a download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The finished file.
    pub target: PathBuf,
    /// The unfinished one.
    pub part: PathBuf,
    /// What is known about it.
    pub sidecar: PathBuf,
}

impl Paths {
    /// Those that belong to `target`.
    pub fn of(target: &Path) -> Self {
        let with = |suffix: &str| {
            let mut name = OsString::from(target);
            name.push(suffix);
            PathBuf::from(name)
        };
        Self {
            target: target.to_owned(),
            part: with(".part"),
            sidecar: with(".part.json"),
        }
    }

    /// Bytes of the part on the disk; 0 if there is none.
    pub fn kept(&self) -> u64 {
        std::fs::metadata(&self.part).map_or(0, |meta| meta.len())
    }

    /// Removes the part and what is known about it.
    pub fn discard(&self) -> Result<(), FetchError> {
        for path in [&self.sidecar, &self.part] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(local("removing", path, error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Opens the part for this download alone.
    pub(crate) fn open(&self) -> Result<File, FetchError> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.part)
            .map_err(|error| local("opening", &self.part, error))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(FetchError::Busy {
                path: self.part.clone(),
            }),
            Err(TryLockError::Error(error)) => Err(local("locking", &self.part, error)),
        }
    }

    /// What is known about the part. Something unreadable is nothing.
    pub(crate) fn origin(&self) -> Option<Origin> {
        serde_json::from_slice(&std::fs::read(&self.sidecar).ok()?).ok()
    }

    /// Says what the part is of, before any byte of it is written.
    pub(crate) fn set_origin(&self, origin: &Origin) -> Result<(), FetchError> {
        let write = || {
            let mut temporary = OsString::from(&self.sidecar);
            temporary.push(".tmp");
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(origin)?)?;
            file.sync_data()?;
            std::fs::rename(&temporary, &self.sidecar)
        };
        write().map_err(|error| local("writing", &self.sidecar, error))
    }

    /// The part, all of it on the disk, becomes the file.
    pub(crate) fn commit(&self) -> Result<(), FetchError> {
        std::fs::rename(&self.part, &self.target)
            .and_then(|()| match self.target.parent() {
                Some(dir) => File::open(dir)?.sync_all(),
                None => Ok(()),
            })
            .map_err(|error| local("finishing", &self.target, error))?;
        match std::fs::remove_file(&self.sidecar) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(local("removing", &self.sidecar, error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

pub(crate) fn local(doing: &'static str, path: &Path, source: io::Error) -> FetchError {
    FetchError::Local {
        doing,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn origin(url: &str, proof: Option<&str>, digest: Option<u8>) -> Origin {
        Origin {
            url: url.into(),
            validator: proof.map(|tag| Validator::ETag(tag.into())),
            total: None,
            digest: digest.map(|byte| Digest([byte; 32])),
        }
    }

    #[test]
    fn what_may_be_resumed() {
        let proof = || Some(Validator::ETag("\"1\"".into()));
        // (kept, wanted, resumable with proof)
        let table = [
            (
                origin("a", Some("\"1\""), None),
                origin("a", None, None),
                Some(proof()),
            ),
            (
                origin("a", Some("\"1\""), None),
                origin("b", None, None),
                None,
            ),
            (origin("a", None, None), origin("a", None, None), None),
            (
                origin("a", None, Some(1)),
                origin("a", None, Some(1)),
                Some(None),
            ),
            (
                origin("a", Some("\"1\""), Some(1)),
                origin("a", None, Some(1)),
                Some(proof()),
            ),
            (
                origin("a", Some("\"1\""), Some(1)),
                origin("b", None, Some(1)),
                Some(None),
            ),
            (
                origin("a", Some("\"1\""), Some(1)),
                origin("a", None, Some(2)),
                None,
            ),
            (
                origin("a", Some("\"1\""), Some(1)),
                origin("a", None, None),
                None,
            ),
        ];
        for (kept, wanted, expected) in table {
            assert_eq!(kept.resume_for(&wanted), expected, "{kept:?} {wanted:?}");
        }
    }

    #[test]
    fn the_sidecar_survives_and_rubbish_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::of(&dir.path().join("image.qcow2"));
        assert_eq!(paths.part.file_name().unwrap(), "image.qcow2.part");
        assert_eq!(paths.origin(), None);
        let known = origin("https://store/x", Some("\"1\""), Some(7));
        paths.set_origin(&known).unwrap();
        assert_eq!(paths.origin(), Some(known));
        std::fs::write(&paths.sidecar, "{").unwrap();
        assert_eq!(paths.origin(), None);
        let held = paths.open().unwrap();
        assert!(matches!(paths.open(), Err(FetchError::Busy { .. })));
        drop(held);
        drop(paths.open().unwrap());
        paths.discard().unwrap();
        paths.discard().unwrap();
        assert_eq!(paths.kept(), 0);
    }
}
