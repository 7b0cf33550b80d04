//! Where the bus keeps its files, and who may read them.
//!
//! Directories are 0750 and files 0640. The group comes from the directory above: whoever sets a device up makes the
//! [`service_dirs`] of each service with the service as owner and the set-group-id bit, and everything below inherits.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::{BusError, error::Doing, topic::Place};

/// Says that the table is complete; holds the generation.
pub(super) const READY: &str = "ready";
/// Remembers the generation while the writer isn't ready.
pub(super) const GENERATION: &str = ".generation";
/// Holds objects that couldn't be read.
pub(super) const QUARANTINE: &str = ".quarantine";
/// Holds the previous version of each persistent object.
pub(super) const LAST: &str = ".last";
/// Holds keys that are too long for a file name.
pub(super) const KEYS: &str = ".keys";
/// Holds files that are being written, beside the services' directories: nobody watches it.
const STAGING: &str = ".bus-tmp";

const DIR_MODE: u32 = 0o750;
const SET_GROUP_ID: u32 = 0o2000;

/// The directories of the bus that `service` needs to write: everything else on the bus it only reads.
pub fn service_dirs(root: &Path, service: &str) -> [PathBuf; 4] {
    let layout = Layout::new(root.to_owned());
    let [run, persist] = [layout.base(false), layout.base(true)];
    [
        run.join(service),
        run.join(STAGING).join(service),
        persist.join(service),
        persist.join(STAGING).join(service),
    ]
}

/// The directories of the bus that every service reads: `<root>/run` and `<root>/persist/status`.
pub fn shared_dirs(root: &Path) -> [PathBuf; 2] {
    let layout = Layout::new(root.to_owned());
    [layout.base(false), layout.base(true)]
}

/// The paths below one root.
#[derive(Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The directory that holds the services' directories.
    pub(super) fn base(&self, persistent: bool) -> PathBuf {
        self.root
            .join(if persistent { "persist/status" } else { "run" })
    }

    pub(super) fn topic(&self, place: &Place) -> PathBuf {
        let mut dir = self.base(place.persistent);
        dir.reserve(place.service.len() + place.name.len() + 2);
        dir.push(&place.service);
        dir.push(&place.name);
        dir
    }

    pub(super) fn staging(&self, place: &Place) -> PathBuf {
        self.base(place.persistent)
            .join(STAGING)
            .join(&place.service)
    }

    /// Makes the topic's directory and that of its files in the making.
    pub(super) fn make(&self, place: &Place) -> Result<(), BusError> {
        let topic = self.topic(place);
        let staging = self.staging(place);
        for dir in [&topic, &staging] {
            let Some(service) = dir.parent() else {
                continue;
            };
            if let Some(base) = service.parent() {
                fs::create_dir_all(base).doing("create", base)?;
            }
            let mut made = make_dir(service)?;
            made |= make_dir(dir)?;
            if made && place.persistent {
                // The names of new directories have to survive a power cut as their files do.
                for above in dir
                    .ancestors()
                    .skip(1)
                    .take_while(|above| above.starts_with(&self.root))
                {
                    match sync_dir(above) {
                        // Whoever made a directory that we may not read has made it durable.
                        Err(BusError::Io { source, .. })
                            if source.kind() == io::ErrorKind::PermissionDenied =>
                        {
                            break;
                        }
                        done => done?,
                    }
                }
            }
        }
        Ok(())
    }
}

/// Makes one directory, readable by its group whatever the umask; false if it was there.
pub(super) fn make_dir(dir: &Path) -> Result<bool, BusError> {
    match DirBuilder::new().mode(DIR_MODE).create(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(error).doing("create", dir),
    }
    let mode = fs::symlink_metadata(dir).doing("look at", dir)?.mode();
    if mode & 0o777 != DIR_MODE {
        let inherited = mode & SET_GROUP_ID;
        fs::set_permissions(dir, Permissions::from_mode(DIR_MODE | inherited))
            .doing("set the mode of", dir)?;
    }
    Ok(true)
}

/// Makes the entries of a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), BusError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .doing("sync", dir)
}

/// A row's file in `dir`, which is the topic's directory or `.last` or `.quarantine` in it.
pub(super) fn row(dir: &Path, name: &str) -> PathBuf {
    let mut file = PathBuf::with_capacity(dir.as_os_str().len() + name.len() + 6);
    file.push(dir);
    file.push(name);
    file.as_mut_os_string().push(".json");
    file
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::os::unix::fs::chown;

    use super::*;

    #[test]
    fn directories_pass_their_group_on() {
        let root = tempfile::tempdir().unwrap();
        // Only the super-user can give directories away; the set-group-id bit works for everybody.
        let owner = fs::metadata(root.path()).unwrap();
        let gid = if owner.uid() == 0 { 4711 } else { owner.gid() };
        for dir in service_dirs(root.path(), "nim") {
            fs::create_dir_all(&dir).unwrap();
            chown(&dir, None, Some(gid)).unwrap();
            fs::set_permissions(&dir, Permissions::from_mode(0o2750)).unwrap();
        }
        let layout = Layout::new(root.path().to_owned());
        for persistent in [false, true] {
            let place = Place::new("nim", "Port", persistent).unwrap();
            layout.make(&place).unwrap();
            let made = fs::metadata(layout.topic(&place)).unwrap();
            assert_eq!((made.gid(), made.mode() & 0o7777), (gid, 0o2750));
        }
    }
}
