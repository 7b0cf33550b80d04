//! The directories that services find when they start: owners and modes.
//!
//! What is needed follows from the table of services alone ([`needed`], pure); [`make`] is repeated
//! at every start of the supervisor and changes only what differs.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use bus::layout;
use units::ids;

use crate::table::{Area, Service};

/// A directory to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directory {
    /// Where, below the root.
    pub path: PathBuf,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Mode.
    pub mode: u32,
}

impl Directory {
    fn new(path: impl Into<PathBuf>, uid: u32, gid: u32, mode: u32) -> Self {
        Self {
            path: path.into(),
            uid,
            gid,
            mode,
        }
    }
}

/// A directory that can't be made ready.
#[derive(Debug, thiserror::Error)]
#[error("can't {what} {path}: {source}", path = path.display())]
pub(crate) struct DirectoryError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Parents first.
pub(crate) fn needed(services: &[Service], areas: &[Area]) -> Vec<Directory> {
    let eve = ids::EVE_GID;
    let mut all = vec![
        Directory::new("run", 0, 0, 0o755),
        Directory::new("run/.bus-tmp", 0, eve, 0o755),
        Directory::new("run/supervisor", 0, eve, 0o2755),
        Directory::new("run/supervisor/notify", 0, eve, 0o2711),
        Directory::new("run/supervisor/units", 0, 0, 0o700),
        Directory::new("persist", 0, 0, 0o755),
        Directory::new("persist/status", 0, eve, 0o755),
        Directory::new("persist/status/.bus-tmp", 0, eve, 0o755),
        // Guests' users pass through to their consoles.
        Directory::new("persist/log", 0, eve, 0o2751),
        Directory::new("persist/crash", 0, eve, 0o2750),
        // Keys live here: readable to those in the group `keys`, files of others to everybody.
        Directory::new(
            "config",
            ids::service_uid(ids::KEEPER).unwrap_or(0),
            ids::KEYS_GID,
            0o2755,
        ),
    ];
    let own = layout::service_dirs(Path::new(""), "supervisor");
    for path in own {
        if !all.iter().any(|directory| directory.path == path) {
            all.push(Directory::new(path, 0, eve, 0o2750));
        }
    }
    for service in services {
        let uid = service.uid();
        for path in layout::service_dirs(Path::new(""), service.name) {
            all.push(Directory::new(path, uid, eve, 0o2750));
        }
        // Evidence of panics is written by the service itself, beside ours.
        let crash = Path::new("persist/crash").join(service.name);
        all.push(Directory::new(crash, uid, eve, 0o2770));
    }
    for area in areas {
        let uid = ids::service_uid(area.owner).unwrap_or(0);
        all.push(Directory::new(area.path, uid, eve, area.mode));
    }
    all
}

/// Makes the directories below `root`, and hands key files over to the group that may read them.
///
/// An error with one is given back, the others are made all the same.
pub(crate) fn make(root: &Path, directories: &[Directory]) -> Vec<DirectoryError> {
    let mut errors = Vec::new();
    if let Err(error) = fs::create_dir_all(root) {
        errors.push(failed("create", root)(error));
    }
    errors.extend(
        directories
            .iter()
            .filter_map(|directory| make_one(&root.join(&directory.path), directory).err()),
    );
    share_keys(&root.join("config"));
    errors
}

fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError {
        what,
        path: path.clone(),
        source,
    }
}

fn make_one(path: &Path, wanted: &Directory) -> Result<(), DirectoryError> {
    let made = !path.exists();
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path).map_err(failed("create", path))?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.map_err(failed("create", path))?,
    }
    if made && wanted.path.starts_with("persist") {
        // Services sync what they write; the names of the directories above are ours to sync.
        let above = path.parent().unwrap_or(path);
        fs::File::open(above)
            .and_then(|above| above.sync_all())
            .map_err(failed("sync the directory of", path))?;
    }
    let is = fs::metadata(path).map_err(failed("look at", path))?;
    // The device's own `/run` and `/persist` stay as the image has them.
    if path.parent() == Some(Path::new("/")) && is.permissions().mode() & 0o005 == 0o005 {
        return Ok(());
    }
    if (is.uid(), is.gid()) != (wanted.uid, wanted.gid) {
        // FAT (the CONFIG partition of a device) has one owner for all, by its mount options.
        match chown(path, Some(wanted.uid), Some(wanted.gid)) {
            Err(error) if wanted.path != Path::new("config") => {
                return Err(failed("give away", path)(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    if is.permissions().mode() & 0o7777 != wanted.mode {
        let mode = fs::Permissions::from_mode(wanted.mode);
        match fs::set_permissions(path, mode) {
            Err(error) if wanted.path != Path::new("config") => {
                return Err(failed("set the mode of", path)(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Files of the CONFIG directory belong to the keeper of the keys; private keys are for the group `keys` only.
fn share_keys(config: &Path) {
    let owner = ids::service_uid(ids::KEEPER).unwrap_or(0);
    let Ok(entries) = fs::read_dir(config) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let path = entry.path();
        let secret = entry.file_name().to_string_lossy().ends_with("key.pem");
        let mode = if secret { 0o640 } else { 0o644 };
        let done = chown(&path, Some(owner), Some(ids::KEYS_GID))
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)));
        if let Err(error) = done {
            tracing::debug!(path = %path.display(), %error, "owner and mode stay as mounted");
        }
    }
}

/// The first directory from `/` to `path` that others may not pass, if there is one: no service could
/// reach what is below it.
pub(crate) fn blocked_ancestor(path: &Path) -> Option<PathBuf> {
    let path = fs::canonicalize(path).ok()?;
    let mut ancestors: Vec<_> = path.ancestors().map(Path::to_owned).collect();
    ancestors.reverse();
    ancestors.into_iter().find(|directory| {
        fs::metadata(directory).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 == 0)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::table;

    #[test]
    fn parents_come_before_their_children_and_nothing_twice() {
        let all = needed(table::SERVICES, table::AREAS);
        for (index, directory) in all.iter().enumerate() {
            let before: Vec<_> = all[..index].iter().map(|other| &other.path).collect();
            assert!(!before.contains(&&directory.path), "{directory:?}");
            let parent = directory.path.parent().unwrap().to_owned();
            assert!(
                parent.as_os_str().is_empty() || before.contains(&&parent),
                "{directory:?} has no parent"
            );
        }
    }

    #[test]
    fn they_are_made_once_and_a_second_time_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let all = needed(table::SERVICES, table::AREAS);
        fs::create_dir_all(dir.path().join("config")).unwrap();
        fs::write(dir.path().join("config/device.key.pem"), "k").unwrap();
        let errors = make(dir.path(), &all);
        if !rustix::process::geteuid().is_root() {
            // Without the right to give files away there is nothing more to see.
            return;
        }
        assert!(errors.is_empty(), "{errors:?}");
        let look = || {
            all.iter()
                .map(|directory| {
                    let is = fs::metadata(dir.path().join(&directory.path)).unwrap();
                    assert_eq!(is.uid(), directory.uid);
                    assert_eq!(is.permissions().mode() & 0o7777, directory.mode);
                    is.ctime_nsec()
                })
                .collect::<Vec<_>>()
        };
        let first = look();
        assert!(make(dir.path(), &all).is_empty());
        assert_eq!(first, look());
        let key = fs::metadata(dir.path().join("config/device.key.pem")).unwrap();
        assert_eq!(key.permissions().mode() & 0o777, 0o640);
    }
}
