//! The floor: the same files and the same notice as the bus, by bare system calls, without tables or readiness.
//!
//! *Bare* files hold bytes that nobody looks at but for their head; the others hold the object that the bus publishes, as
//! JSON, made by the writer and parsed by the reader: nothing that hands objects on can do without that.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};

use crate::object::{Sample, Stamp, key};

/// As long as the object that the bus publishes.
const SIZE: usize = 1024;
const HEAD: usize = 17;

/// Replaces files by rename, one after the other.
#[derive(Debug)]
pub struct RawWriter {
    object: Option<Sample>,
    dir: PathBuf,
    staged: PathBuf,
    targets: Vec<PathBuf>,
    durable: bool,
}

impl RawWriter {
    /// A writer of so many `files` in `dir/watched`, bare or an `object`; a `durable` one has each version on the medium when
    /// [`put`](Self::put) returns.
    pub fn new(dir: &Path, files: u64, object: Option<Sample>, durable: bool) -> Result<Self> {
        let watched = dir.join("watched");
        fs::create_dir_all(&watched).with_context(|| format!("make {}", watched.display()))?;
        Ok(Self {
            object,
            staged: dir.join("staged"),
            targets: (0..files)
                .map(|number| watched.join(format!("{}.json", key(number))))
                .collect(),
            dir: watched,
            durable,
        })
    }

    /// Writes every file.
    pub fn fill(&mut self) -> Result<()> {
        (0..self.targets.len()).try_for_each(|seq| {
            self.put(Stamp {
                seq: u64::try_from(seq)?,
                ..Stamp::default()
            })
        })
    }

    /// The directory in which the files appear.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a new version of the file whose turn it is.
    pub fn put(&mut self, stamp: Stamp) -> Result<()> {
        let bytes = match &mut self.object {
            Some(object) => {
                object.stamp = stamp;
                serde_json::to_vec(object)?
            }
            None => encode(stamp).to_vec(),
        };
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&self.staged)?;
        file.write_all(&bytes)?;
        if self.durable {
            file.sync_data()?;
        }
        drop(file);
        let target = usize::try_from(stamp.seq)? % self.targets.len();
        fs::rename(&self.staged, &self.targets[target])?;
        if self.durable {
            File::open(&self.dir)?.sync_all()?;
        }
        Ok(())
    }
}

/// Learns of renames by inotify and reads the files.
pub struct RawWatcher {
    notices: OwnedFd,
    dir: PathBuf,
    bare: bool,
}

impl RawWatcher {
    /// Watches the directory of a [`RawWriter`].
    pub fn new(dir: &Path, bare: bool) -> Result<Self> {
        let notices = init(CreateFlags::CLOEXEC)?;
        add_watch(&notices, dir, WatchFlags::MOVED_TO | WatchFlags::ONLYDIR)
            .with_context(|| format!("watch {}", dir.display()))?;
        Ok(Self {
            notices,
            dir: dir.to_owned(),
            bare,
        })
    }

    /// Calls `each` with every version that is seen until it fails.
    pub fn follow(&self, mut each: impl FnMut(Stamp) -> Result<()>) -> Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut notices = Reader::new(&self.notices, &mut buffer);
        loop {
            let notice = notices.next()?;
            if let Some(name) = notice.file_name() {
                let file = self.dir.join(OsStr::from_bytes(name.to_bytes()));
                each(self.read(&file)?)?;
            }
        }
    }
}

impl RawWatcher {
    fn read(&self, file: &Path) -> Result<Stamp> {
        let mut file = File::open(file)?;
        if self.bare {
            let mut bytes = [0; SIZE];
            file.read_exact(&mut bytes)?;
            return decode(&bytes);
        }
        let mut bytes = vec![0; usize::try_from(file.metadata()?.len())?];
        file.read_exact(&mut bytes)?;
        Ok(serde_json::from_slice::<Sample>(&bytes)?.stamp)
    }
}

/// Reads every file of a directory, one after the other; how many there were.
pub fn read_all(dir: &Path) -> Result<usize> {
    let mut count = 0;
    let mut bytes = vec![0; 64 * 1024];
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            let read = File::open(path)?.read(&mut bytes)?;
            ensure!(read > 0, "an empty file");
            count += 1;
        }
    }
    Ok(count)
}

fn encode(stamp: Stamp) -> [u8; SIZE] {
    let mut bytes = [b'x'; SIZE];
    bytes[..8].copy_from_slice(&stamp.seq.to_le_bytes());
    bytes[8..16].copy_from_slice(&stamp.sent_ns.to_le_bytes());
    bytes[16] = u8::from(stamp.last);
    bytes
}

fn decode(bytes: &[u8; SIZE]) -> Result<Stamp> {
    let number =
        |at: usize| -> Result<u64> { Ok(u64::from_le_bytes(bytes[at..at + 8].try_into()?)) };
    Ok(Stamp {
        seq: number(0)?,
        sent_ns: number(8)?,
        last: bytes[HEAD - 1] != 0,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_watcher_sees_what_is_written() {
        for object in [None, Some(Sample::new(0))] {
            let dir = tempfile::tempdir().unwrap();
            let bare = object.is_none();
            let mut writer = RawWriter::new(dir.path(), 2, object, true).unwrap();
            let watcher = RawWatcher::new(writer.dir(), bare).unwrap();
            let stamp = Stamp {
                seq: 1,
                sent_ns: 2,
                last: true,
            };
            writer.put(stamp).unwrap();
            let mut seen = None;
            let end = watcher.follow(|stamp| {
                seen = Some(stamp);
                anyhow::bail!("enough")
            });
            assert!(end.is_err() && seen == Some(stamp));
            assert_eq!(read_all(writer.dir()).unwrap(), 1);
            writer.fill().unwrap();
            assert_eq!(read_all(writer.dir()).unwrap(), 2);
        }
    }
}
