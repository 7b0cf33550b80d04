//! The writer's side.
//!
//! An object is written to a file in the staging directory and renamed into place, so that a reader, a kill or a power cut
//! finds the old object or the new one. For a persistent topic the order on the medium is: content of the new file, link of
//! the old one into `.last/`, rename, directory. Run topics sync nothing: they are gone with the power anyway.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use durable::Reserve;
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, fstat, fsync, linkat, openat, renameat, unlinkat},
    io::Errno,
};

use crate::{
    BusError,
    error::Doing,
    file::{
        layout::{GENERATION, KEYS, LAST, Layout, QUARANTINE, READY, make_dir, row, sync_dir},
        read,
    },
    key::{Name, escape, is_hashed},
    store::{Durable, Known, Sink, Stamp, Writer},
    topic::Place,
};

const FILE_MODE: u32 = 0o640;
/// The same for those who ask the kernel directly.
const CREATE_MODE: Mode = Mode::RUSR.union(Mode::WUSR).union(Mode::RGRP);

/// What a persistent topic can still write on a disk that is full: so many rows of this size.
const RESERVED: u32 = 8;
const RESERVED_SIZE: u64 = 16 * 1024;

/// Distinguishes the writers of one process.
static WRITERS: AtomicU64 = AtomicU64::new(0);

/// Write access to one topic's directory.
pub(super) struct FileWriter {
    layout: Layout,
    place: Place,
    dir: PathBuf,
    open: Open,
    /// The file in the making, in the staging directory. One is enough, for one object is written at a time.
    staged: String,
    /// The second name of an old object on its way to `.last/`.
    linked: String,
    generation: u64,
    /// Whether the umask takes away from the mode of new files; known after the first.
    mode_is_cut: Option<bool>,
    unsynced: bool,
    /// For persistent topics: what was done must be known afterwards also if the disk is full.
    reserve: Option<Reserve>,
}

/// The directories that a row takes its way through, so that the way to them has not to be found for each.
struct Open {
    staging: OwnedFd,
    topic: OwnedFd,
    /// Device and inode of the topic's directory.
    identity: (u64, u64),
}

struct Nothing;

impl Known for Nothing {
    fn stamp(&self, _name: &str) -> Option<Stamp> {
        None
    }
}

impl FileWriter {
    /// Opens the topic for its writer: not ready from here on.
    pub(super) fn take_over(layout: &Layout, place: &Place) -> Result<Self, BusError> {
        let mut writer = Self::beside(layout, place)?;
        // One rename takes the mark away and remembers its generation.
        let ready = writer.dir.join(READY);
        match fs::rename(&ready, writer.dir.join(GENERATION)) {
            Ok(()) => writer.changed(Durable::Now)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).doing("take away", ready),
        }
        writer.remove_leftovers()?;
        writer.refill();
        Ok(writer)
    }

    /// Opens the topic for somebody else, leaving its readiness as it is.
    pub(super) fn beside(layout: &Layout, place: &Place) -> Result<Self, BusError> {
        layout.make(place)?;
        let dir = layout.topic(place);
        let number = WRITERS.fetch_add(1, Ordering::Relaxed);
        let staged = format!("{}.{}.{number}", place.name, std::process::id());
        let generation = read::generation(&dir)?;
        let mut writer = Self {
            layout: layout.clone(),
            place: place.clone(),
            open: Open::new(layout, place)?,
            linked: format!("{staged}.last"),
            dir,
            staged,
            generation: generation.unwrap_or(0),
            mode_is_cut: None,
            unsynced: false,
            reserve: place.persistent.then(|| {
                let staging = layout.staging(place);
                Reserve::new(staging, &*place.name, RESERVED, RESERVED_SIZE)
            }),
        };
        if generation.is_none() {
            writer.write_generation()?;
        }
        Ok(writer)
    }

    /// Removes what writers that were killed have left in the staging directory.
    fn remove_leftovers(&self) -> Result<(), BusError> {
        let dir = self.layout.staging(&self.place);
        for entry in fs::read_dir(&dir).doing("list", &dir)? {
            let entry = entry.doing("list", &dir)?;
            let name = entry.file_name();
            let mut parts = name.to_str().unwrap_or_default().split('.');
            let (topic, pid) = (
                parts.next(),
                parts.next().and_then(|pid| pid.parse::<u32>().ok()),
            );
            let Some(pid) = pid.filter(|_| topic == Some(&*self.place.name)) else {
                continue;
            };
            if !Path::new("/proc").join(pid.to_string()).exists() {
                absent_is_fine(fs::remove_file(entry.path())).doing("remove", entry.path())?;
            }
        }
        Ok(())
    }

    fn write_generation(&mut self) -> Result<(), BusError> {
        let text = format!("{}\n", self.generation);
        self.place_file(text.as_bytes(), &self.dir.join(GENERATION))?;
        self.changed(Durable::Now)
    }

    /// Writes a file in the staging directory and puts it to `target`.
    fn place_file(&mut self, content: &[u8], target: &Path) -> Result<(), BusError> {
        self.stage(content)?;
        self.commit(target)?;
        self.refill();
        Ok(())
    }

    fn refill(&mut self) {
        if let Some(reserve) = &mut self.reserve {
            reserve.fill();
        }
    }

    /// Puts the staged file to the row of this name.
    fn commit_row(&self, name: &str) -> Result<(), BusError> {
        let Open { staging, topic, .. } = &self.open;
        let mut file = String::with_capacity(name.len() + 5);
        file.push_str(name);
        file.push_str(".json");
        renameat(staging, &*self.staged, topic, &*file)
            .map_err(io::Error::from)
            .inspect_err(|_| self.discard(&self.staged))
            .doing("replace", row(&self.dir, name))
    }

    fn commit(&self, target: &Path) -> Result<(), BusError> {
        renameat(&self.open.staging, &*self.staged, CWD, target)
            .map_err(io::Error::from)
            .inspect_err(|_| self.discard(&self.staged))
            .doing("replace", target)
    }

    /// Removes a file from the staging directory if it is there.
    fn discard(&self, name: &str) {
        let _ = unlinkat(&self.open.staging, name, AtFlags::empty());
    }

    fn stage(&mut self, content: &[u8]) -> Result<(), BusError> {
        let written = self.try_stage(content).or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            // Somebody tidied up the staging directory.
            self.layout.make(&self.place).map_err(io::Error::other)?;
            self.open.staging = open_dir(&self.layout.staging(&self.place))?;
            self.try_stage(content)
        });
        let written = match (written, &mut self.reserve) {
            (Err(error), Some(reserve)) if durable::is_full(&error) => {
                let path = self.layout.staging(&self.place).join(&self.staged);
                reserve.write(&path, content)
            }
            (written, _) => written,
        };
        written
            .inspect_err(|_| self.discard(&self.staged))
            .doing("write", self.layout.staging(&self.place).join(&self.staged))
    }

    fn try_stage(&mut self, content: &[u8]) -> io::Result<()> {
        const FLAGS: OFlags = OFlags::WRONLY
            .union(OFlags::CREATE)
            .union(OFlags::TRUNC)
            .union(OFlags::NOFOLLOW)
            .union(OFlags::CLOEXEC);
        let Open { staging, .. } = &self.open;
        let mut file = File::from(openat(staging, &*self.staged, FLAGS, CREATE_MODE)?);
        self.fix_mode(&file)?;
        file.write_all(content)?;
        if self.place.persistent {
            file.sync_data()?;
        }
        Ok(())
    }

    fn fix_mode(&mut self, file: &File) -> io::Result<()> {
        let is_cut = match self.mode_is_cut {
            Some(is_cut) => is_cut,
            None => file.metadata()?.mode() & 0o777 != FILE_MODE,
        };
        self.mode_is_cut = Some(is_cut);
        if is_cut {
            file.set_permissions(Permissions::from_mode(FILE_MODE))
        } else {
            Ok(())
        }
    }

    /// Gives the current version of a row a second name in `.last/`, or removes the one there if there is no current one.
    fn keep_last(&self, name: &str) -> Result<(), BusError> {
        let current = row(&self.dir, name);
        let last = self.dir.join(LAST);
        let kept = row(&last, name);
        let staging = &self.open.staging;
        let link = || linkat(CWD, &current, staging, &*self.linked, AtFlags::empty());
        let linked = link().or_else(|error| {
            if error != Errno::EXIST {
                return Err(error);
            }
            self.discard(&self.linked);
            link()
        });
        match linked {
            Ok(()) => {}
            Err(Errno::NOENT) => {
                return absent_is_fine(fs::remove_file(&kept)).doing("remove", kept);
            }
            Err(error) => {
                // The new object matters more than a copy of the old one, which not every file system can link.
                tracing::warn!(topic = %self.place, name, %error, "can't keep the previous version");
                return Ok(());
            }
        }
        let place = || renameat(staging, &*self.linked, CWD, &kept).map_err(io::Error::from);
        let moved = place().or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            make_dir(&last).map_err(io::Error::other)?;
            place()
        });
        moved.or_else(|error| {
            self.discard(&self.linked);
            // As above: the new object matters more.
            tracing::warn!(topic = %self.place, name, %error, "can't keep the previous version");
            Ok(())
        })
    }

    /// The entries of the directory changed: makes that durable now or notes that it isn't yet.
    fn changed(&mut self, durable: Durable) -> Result<(), BusError> {
        self.unsynced = true;
        match durable {
            Durable::Now => self.flush(),
            Durable::AtFlush => Ok(()),
        }
    }

    /// Keeps a long key beside its row; the row only counts together with it.
    fn keep_key(&mut self, name: &str, key: &str) -> Result<(), BusError> {
        let keys = self.dir.join(KEYS);
        let file = keys.join(name);
        if file.exists() {
            return Ok(());
        }
        make_dir(&keys)?;
        self.place_file(key.as_bytes(), &file)?;
        if self.place.persistent {
            sync_dir(&keys)
        } else {
            Ok(())
        }
    }
}

impl Open {
    fn new(layout: &Layout, place: &Place) -> Result<Self, BusError> {
        let [staging, topic] = [layout.staging(place), layout.topic(place)];
        let staging = open_dir(&staging).doing("open", staging)?;
        let opened = open_dir(&topic).and_then(|open| Ok((fstat(&open)?, open)));
        let (found, open) = opened.doing("open", topic)?;
        Ok(Self {
            staging,
            topic: open,
            identity: (found.st_dev, found.st_ino),
        })
    }
}

impl Writer for FileWriter {
    fn load(&mut self, sink: &mut Sink<'_>) -> Result<(), BusError> {
        read::scan(&self.dir, &Nothing, &mut [sink]).map(drop)
    }

    fn intact(&self) -> Result<bool, BusError> {
        Ok(identity(&self.dir)? == Some(self.open.identity))
    }

    fn recreate(&mut self) -> Result<(), BusError> {
        self.layout.make(&self.place)?;
        self.open = Open::new(&self.layout, &self.place)?;
        let ready = self.dir.join(READY);
        absent_is_fine(fs::remove_file(&ready)).doing("take away", ready)?;
        let dir = self.dir.clone();
        read::for_each_row(&dir, &mut |name| {
            absent_is_fine(fs::remove_file(row(&dir, name))).doing("remove", row(&dir, name))
        })?;
        self.write_generation()
    }

    fn put(&mut self, key: &str, json: &[u8], durable: Durable) -> Result<(), BusError> {
        let name = escape(key);
        if let Name::Hashed(name) = &name {
            self.keep_key(name, key)?;
        }
        self.stage(json)?;
        if self.place.persistent {
            self.keep_last(name.as_str())?;
        }
        self.commit_row(name.as_str())?;
        self.refill();
        self.changed(durable)
    }

    fn delete(&mut self, key: &str, durable: Durable) -> Result<bool, BusError> {
        let name = escape(key);
        let file = row(&self.dir, name.as_str());
        let there = match fs::remove_file(&file) {
            Ok(()) => true,
            Err(error) if read::is_absent(&error) => false,
            Err(error) => return Err(error).doing("remove", file),
        };
        // What was kept beside the row goes after it; left behind, it would mean nothing.
        let mut beside = Vec::new();
        if self.place.persistent {
            beside.push(row(&self.dir.join(LAST), name.as_str()));
        }
        if is_hashed(name.as_str()) {
            beside.push(self.dir.join(KEYS).join(name.as_str()));
        }
        for file in beside {
            absent_is_fine(fs::remove_file(&file)).doing("remove", file)?;
        }
        self.changed(durable)?;
        Ok(there)
    }

    fn flush(&mut self) -> Result<(), BusError> {
        if self.unsynced && self.place.persistent {
            fsync(&self.open.topic)
                .map_err(io::Error::from)
                .doing("sync", &self.dir)?;
        }
        self.unsynced = false;
        Ok(())
    }

    fn quarantine(&mut self, name: &str, restore: bool) -> Result<(), BusError> {
        let quarantine = self.dir.join(QUARANTINE);
        make_dir(&quarantine)?;
        let (broken, away) = (row(&self.dir, name), row(&quarantine, name));
        if restore {
            // The row is never absent: that would mean that it was deleted.
            absent_is_fine(fs::remove_file(&away)).doing("remove", &away)?;
            fs::hard_link(&broken, &away).doing("quarantine", &broken)?;
            let kept = row(&self.dir.join(LAST), name);
            fs::rename(&kept, &broken).doing("restore", &broken)?;
        } else {
            absent_is_fine(fs::rename(&broken, &away)).doing("quarantine", &broken)?;
        }
        self.changed(Durable::AtFlush)
    }

    fn last_good(&self, name: &str) -> Result<Option<Vec<u8>>, BusError> {
        read::last_good(&self.dir, name)
    }

    fn set_ready(&mut self) -> Result<u64, BusError> {
        let generation = self.generation + 1;
        self.place_file(format!("{generation}\n").as_bytes(), &self.dir.join(READY))?;
        self.generation = generation;
        self.changed(Durable::Now)?;
        Ok(generation)
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        for file in [&self.staged, &self.linked] {
            self.discard(file);
        }
    }
}

fn open_dir(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, dir, flags, Mode::empty())?)
}

/// Device and inode of a directory; `None` if it isn't there.
fn identity(dir: &Path) -> Result<Option<(u64, u64)>, BusError> {
    match fs::symlink_metadata(dir) {
        Ok(found) => Ok(Some((found.dev(), found.ino()))),
        Err(error) if read::is_absent(&error) => Ok(None),
        Err(error) => Err(error).doing("look at", dir),
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if read::is_absent(&error) => Ok(()),
        other => other,
    }
}
