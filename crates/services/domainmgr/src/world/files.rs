//! The files of guests: directories, owners, seeds, firmware variables.
//!
//! Who owns what is in `docs/decisions/030-guest-uid.md`. [`prepare`] may be interrupted at any point and
//! repeated: it has no await, and everything that it makes it makes anew or leaves as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown},
    path::{Component, Path, PathBuf},
};

use jiff::Timestamp;
use model::{
    app::BootMode,
    domain::{DiskConfig, DomainConfig},
    id::AppId,
};
use nix::net::if_::if_nametoindex;
use units::{UnitState, ids};
use vmm::seed::SeedError;
use zeroize::Zeroize as _;

use crate::{
    Launch,
    launch::{self, CONSOLE_SUFFIX, CONSOLES, GUESTS, KEPT, Places, UEFI_SUFFIX, UEFI_VARS, unit},
    plan::evidence,
};

/// Bytes of a log that are looked at.
const TAIL: u64 = 16 * 1024;

/// What a guest needs and does not have.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    /// A disk that can't be given to the guest.
    #[error("disk {path:?} of volume {volume} can't be used")]
    Disk {
        path: PathBuf,
        volume: String,
        source: io::Error,
    },
    /// QEMU with rights would make a missing tap itself, connected to nothing.
    #[error("there is no interface {tap} (port of {bridge}) on this device")]
    Tap { tap: String, bridge: String },
    /// Another file of it.
    #[error("{what} {path:?} can't be made")]
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The seed.
    #[error(transparent)]
    Seed(#[from] SeedError),
}

impl PrepareError {
    /// Whether it may be there a moment later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Disk { .. }
            | Self::Tap { .. }
            | Self::File { .. }
            | Self::Seed(SeedError::Write { .. }) => true,
            Self::Seed(SeedError::Word { .. } | SeedError::Iso(_)) => false,
        }
    }
}

fn file<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> PrepareError + use<'a> {
    move |source| PrepareError::File {
        what,
        path: path.to_owned(),
        source,
    }
}

/// Makes the directories that guests' files lie in. Guests' users only pass through them.
pub(super) fn directories(root: &Path) -> io::Result<()> {
    for (path, mode) in [
        ("run/hypervisor", 0o2711),
        (GUESTS, 0o2711),
        (CONSOLES, 0o2751),
        (KEPT, 0o2751),
    ] {
        let path = root.join(path);
        fs::create_dir_all(&path)?;
        let has = fs::metadata(&path)?.permissions().mode() & 0o7777;
        if has & 0o011 != 0o011 {
            fs::set_permissions(&path, Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

/// Makes everything that QEMU will open. `user_data` is in the clear, wherever it came from.
pub(super) fn prepare(
    root: &Path,
    launch: &Launch,
    user_data: &str,
    places: &Places,
    now: Timestamp,
) -> Result<(), PrepareError> {
    let Launch { config, uid, .. } = launch;
    for vif in &config.vifs {
        if if_nametoindex(vif.vif.as_str()).is_err() {
            return Err(PrepareError::Tap {
                tap: vif.vif.clone(),
                bridge: vif.bridge.clone(),
            });
        }
    }
    for disk in &config.disks {
        give_disk(root, disk, *uid).map_err(|source| PrepareError::Disk {
            path: disk.path.clone(),
            volume: disk.volume.to_string(),
            source,
        })?;
    }
    open_console(places, config, *uid, now).map_err(file("console log", &places.console))?;
    if config.resources.boot_mode == BootMode::Uefi {
        let vars = &places.uefi_vars;
        uefi_vars(vars, *uid).map_err(file("UEFI variables", vars))?;
    }
    // Sockets of a former QEMU belong to nobody any more.
    let dir = &places.dir;
    remove_dir(dir)
        .and_then(|()| fs::create_dir(dir))
        .map_err(file("directory", dir))?;
    if let Some(mut seed) = launch::seed(config, user_data) {
        let path = places.seed();
        let written = seed.write(&path);
        seed.user_data.zeroize();
        written?;
        chown(&path, Some(*uid), Some(ids::EVE_GID)).map_err(file("seed", &path))?;
    }
    // Last: a directory that belongs to a guest's user is complete.
    fs::set_permissions(dir, Permissions::from_mode(0o750))
        .and_then(|()| chown(dir, Some(*uid), Some(ids::EVE_GID)))
        .map_err(file("directory", dir))
}

/// Gives a disk to the guest: its own if it writes, else readable to all guests.
fn give_disk(root: &Path, disk: &DiskConfig, uid: u32) -> io::Result<()> {
    let path = &disk.path;
    // Owners are changed here with a right that no sandbox narrows, so it is narrowed by hand.
    let climbs = path.components().any(|part| part == Component::ParentDir);
    if climbs || !path.starts_with(root.join("persist")) {
        return Err(io::Error::other("it is not below /persist"));
    }
    let is = fs::symlink_metadata(path)?;
    if !is.is_file() {
        return Err(io::Error::other("it is not a plain file"));
    }
    let (owner, group, mode) = if launch::is_writable(disk) {
        (uid, ids::EVE_GID, 0o660)
    } else {
        let is_guests = (ids::GUEST_UID_FIRST..=ids::GUEST_UID_LAST).contains(&is.uid());
        let maker = ids::service_uid("volumemgr").filter(|_| is_guests);
        (maker.unwrap_or(is.uid()), ids::GUESTS_GID, 0o440)
    };
    if (is.uid(), is.gid()) != (owner, group) {
        chown(path, Some(owner), Some(group))?;
    }
    let has = is.permissions().mode();
    if has & mode != mode {
        fs::set_permissions(path, Permissions::from_mode((has | mode) & 0o777))?;
    }
    Ok(())
}

/// The log goes on from start to start; a line says where this one begins.
fn open_console(
    places: &Places,
    config: &DomainConfig,
    uid: u32,
    now: Timestamp,
) -> io::Result<()> {
    let mut log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o660)
        .open(&places.console)?;
    writeln!(
        log,
        "{}{now}, incarnation {}",
        super::console::BEGIN,
        config.incarnation
    )?;
    log.set_permissions(Permissions::from_mode(0o660))?;
    chown(&places.console, Some(uid), Some(ids::EVE_GID))
}

/// Made once: what the guest's firmware writes there survives restarts and reboots.
fn uefi_vars(path: &Path, uid: u32) -> io::Result<()> {
    if !path.exists() {
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        fs::copy(UEFI_VARS, &new)?;
        fs::set_permissions(&new, Permissions::from_mode(0o660))?;
        File::open(&new)?.sync_all()?;
        fs::rename(&new, path)?;
    }
    chown(path, Some(uid), Some(ids::EVE_GID))
}

fn remove_dir(dir: &Path) -> io::Result<()> {
    ignore_missing(fs::remove_dir_all(dir))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes the files of a guest that has ended; `for_good` also those that would survive a reboot.
pub(super) fn remove(places: &Places, for_good: bool) -> io::Result<()> {
    if for_good {
        for path in [
            &places.console,
            &super::console::older(&places.console),
            &places.uefi_vars,
        ] {
            ignore_missing(fs::remove_file(path))?;
        }
    }
    remove_dir(&places.dir)
}

/// Directories of guests and who owns them.
pub(super) fn owners(dir: &Path) -> io::Result<BTreeMap<AppId, u32>> {
    let mut owners = BTreeMap::new();
    for entry in entries(dir)? {
        let app = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let (Some(app), Ok(metadata)) = (app, entry.metadata()) {
            owners.insert(app, metadata.uid());
        }
    }
    Ok(owners)
}

/// Applications that have files in `/persist`.
pub(super) fn kept(root: &Path) -> io::Result<BTreeSet<AppId>> {
    let mut apps = BTreeSet::new();
    for (dir, suffix) in [(CONSOLES, CONSOLE_SUFFIX), (KEPT, UEFI_SUFFIX)] {
        for entry in entries(&root.join(dir))? {
            let name = entry.file_name();
            let stem = name.to_str().and_then(|name| name.strip_suffix(suffix));
            apps.extend(stem.and_then(|stem| stem.parse::<AppId>().ok()));
        }
    }
    Ok(apps)
}

fn entries(dir: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// What QEMU printed since it was last started; empty if that can't be read.
pub(super) fn qemu_words(root: &Path, state: &UnitState) -> Vec<String> {
    let tail = tail(&unit::log(root, &state.name)).unwrap_or_default();
    let text = String::from_utf8_lossy(&tail);
    let said = evidence::since(&text, &unit::started(state)).join("\n");
    evidence::last_lines(said.as_bytes())
}

/// The end of a file.
pub(super) fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use model::{app::DiskTarget, id::VolumeKey, volume::ImageFormat};

    #[test]
    fn only_plain_files_below_persist_change_their_owner() {
        let root = tempfile::tempdir().unwrap();
        let persist = root.path().join("persist");
        fs::create_dir(&persist).unwrap();
        let disk = |path: PathBuf, read_only| DiskConfig {
            volume: VolumeKey::default(),
            path,
            format: ImageFormat::Raw,
            target: DiskTarget::Disk,
            read_only,
        };
        let outside = root.path().join("x");
        fs::write(&outside, "").unwrap();
        let link = persist.join("link");
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        for bad in [outside, link, persist.join("../x"), persist.join("none")] {
            assert!(give_disk(root.path(), &disk(bad, false), 48_001).is_err());
        }
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let image = persist.join("image");
        fs::write(&image, "").unwrap();
        let look = || {
            let is = fs::metadata(&image).unwrap();
            (is.uid(), is.gid(), is.permissions().mode() & 0o777)
        };
        give_disk(root.path(), &disk(image.clone(), false), 48_001).unwrap();
        assert_eq!((look().0, look().1), (48_001, ids::EVE_GID));
        assert_eq!(look().2 & 0o660, 0o660);
        give_disk(root.path(), &disk(image.clone(), true), 48_002).unwrap();
        let maker = ids::service_uid("volumemgr").unwrap();
        assert_eq!((look().0, look().1), (maker, ids::GUESTS_GID));
    }

    #[test]
    fn a_console_goes_on_and_its_last_words_are_of_this_start() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        directories(root.path()).unwrap();
        let config = crate::launch::tests::config();
        let places = Places::of(root.path(), config.app);
        for word in ["first", "second"] {
            open_console(&places, &config, 48_001, Timestamp::UNIX_EPOCH).unwrap();
            let mut log = OpenOptions::new()
                .append(true)
                .open(&places.console)
                .unwrap();
            writeln!(log, "{word}").unwrap();
        }
        let text = fs::read_to_string(&places.console).unwrap();
        assert!(text.contains("first") && text.contains("second"));
        assert_eq!(
            super::super::console::last_words(&places.console),
            ["second"]
        );
        assert_eq!(kept(root.path()).unwrap(), [config.app].into());
        fs::create_dir(&places.dir).unwrap();
        assert!(
            owners(&root.path().join(GUESTS))
                .unwrap()
                .contains_key(&config.app)
        );
        fs::write(&places.uefi_vars, "").unwrap();
        remove(&places, false).unwrap();
        assert!(places.uefi_vars.exists() && places.console.exists());
        remove(&places, true).unwrap();
        remove(&places, true).unwrap();
        assert!(kept(root.path()).unwrap().is_empty());
        assert!(!places.dir.exists());
    }
}
