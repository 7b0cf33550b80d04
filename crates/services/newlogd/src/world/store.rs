//! `/persist/newlog`: log files and the state, changed so that a crash at any instruction leaves them right.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::SystemTime,
};

use crate::{
    index::Index,
    name::{FileName, Queue},
    state::{Place, State, VERSION},
};

/// The directory of the state and of files that are being made.
const COLLECT: &str = "collect";
const STATE: &str = "state.json";
const TEMPORARY: &str = ".tmp";

/// What could not be done with which file.
#[derive(Debug, thiserror::Error)]
#[error("can't {what} {path}", path = path.display())]
pub struct StoreError {
    /// What was to be done.
    pub what: &'static str,
    /// With what.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// The directories.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
    fuse: Option<Arc<AtomicU32>>,
}

impl Store {
    /// Below `dir`; nothing is touched yet.
    pub fn at(dir: PathBuf) -> Self {
        Self { dir, fuse: None }
    }

    /// For tests: fails at every change of the disk once so many were made, as if the process had died there.
    #[must_use]
    pub fn with_fuse(mut self, changes: Arc<AtomicU32>) -> Self {
        self.fuse = Some(changes);
        self
    }

    /// Where a file is.
    pub fn path(&self, queue: Queue, name: FileName) -> PathBuf {
        self.dir.join(queue.dir()).join(name.to_string())
    }

    fn change<T>(
        &self,
        what: &'static str,
        path: &Path,
        change: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, StoreError> {
        let burnt = self.fuse.as_ref().is_some_and(|fuse| {
            let step = |left: u32| left.checked_sub(1);
            fuse.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step)
                .is_err()
        });
        let result = if burnt {
            Err(io::Error::other("the fuse has blown"))
        } else {
            change()
        };
        result.map_err(|source| StoreError {
            what,
            path: path.to_owned(),
            source,
        })
    }

    /// Makes the directories, reads the state, does what it says was to be done, and removes what is left of rounds that
    /// did not happen. A state that can't be read is put aside: then everything that is still there is read again.
    pub fn open(&self) -> Result<State, StoreError> {
        let dirs = Queue::ALL.iter().map(|queue| queue.dir()).chain([COLLECT]);
        for dir in dirs {
            let path = self.dir.join(dir);
            if path.is_dir() {
                continue;
            }
            self.change("make", &path, || {
                DirBuilder::new().recursive(true).mode(0o750).create(&path)
            })?;
        }
        let path = self.dir.join(COLLECT).join(STATE);
        let state = match fs::read(&path) {
            Ok(bytes) => self.parse(&path, &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(source) => {
                return Err(StoreError {
                    what: "read",
                    path,
                    source,
                });
            }
        };
        self.redo(&state)?;
        self.sweep()?;
        Ok(state)
    }

    fn parse(&self, path: &Path, bytes: &[u8]) -> Result<State, StoreError> {
        match serde_json::from_slice(bytes) {
            Ok(state) => Ok(state),
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "the state is not readable: logs are read again");
                let aside = path.with_extension("bad");
                self.change("put aside", path, || fs::rename(path, &aside))?;
                Ok(State::default())
            }
        }
    }

    fn sweep(&self) -> Result<(), StoreError> {
        let dir = self.dir.join(COLLECT);
        let entries = fs::read_dir(&dir).map_err(|source| StoreError {
            what: "list",
            path: dir.clone(),
            source,
        })?;
        for entry in entries.flatten() {
            let path = entry.path();
            if path.to_string_lossy().ends_with(TEMPORARY) {
                self.change("remove", &path, || fs::remove_file(&path))?;
            }
        }
        Ok(())
    }

    /// Writes a file that gets its name by the state that is saved next. Gives its temporary name.
    pub fn stage(&self, name: FileName, bytes: &[u8]) -> Result<String, StoreError> {
        let temporary = format!("{name}{TEMPORARY}");
        let path = self.dir.join(COLLECT).join(&temporary);
        self.change("write", &path, || write(&path, bytes))?;
        Ok(temporary)
    }

    /// Replaces the state. From then on it has happened, though [`Store::redo`] has yet to do it.
    pub fn save(&self, state: &mut State) -> Result<(), StoreError> {
        state.version = VERSION;
        let dir = self.dir.join(COLLECT);
        let (path, new) = (dir.join(STATE), dir.join(format!("{STATE}{TEMPORARY}")));
        let bytes = serde_json::to_vec(state)
            .map_err(io::Error::other)
            .map_err(|source| StoreError {
                what: "make the JSON of",
                path: path.clone(),
                source,
            })?;
        self.change("write", &new, || write(&new, &bytes))?;
        self.change("replace", &path, || {
            fs::rename(&new, &path)?;
            sync(&dir)
        })
    }

    /// What was decided is done, however often.
    pub fn redo(&self, state: &State) -> Result<(), StoreError> {
        let place = |place: &Place| self.dir.join(&place.dir).join(&place.name);
        let gone = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        };
        let mut dirs: Vec<PathBuf> = Vec::new();
        for rename in &state.renames {
            let from = self.dir.join(COLLECT).join(&rename.temporary);
            let to = place(&rename.to);
            self.change("name", &to, || fs::rename(&from, &to).or_else(gone))?;
            dirs.extend(to.parent().map(Path::to_owned));
        }
        for removal in &state.removals {
            let path = place(removal);
            self.change("remove", &path, || fs::remove_file(&path).or_else(gone))?;
            dirs.extend(path.parent().map(Path::to_owned));
        }
        dirs.sort();
        dirs.dedup();
        for dir in dirs {
            self.change("sync", &dir, || sync(&dir))?;
        }
        Ok(())
    }

    /// Reads a file.
    pub fn read(&self, queue: Queue, name: FileName) -> Result<Vec<u8>, StoreError> {
        let path = self.path(queue, name);
        fs::read(&path).map_err(|source| StoreError {
            what: "read",
            path,
            source,
        })
    }

    /// Removes a file that was delivered.
    pub fn remove(&self, queue: Queue, name: FileName) -> Result<(), StoreError> {
        let path = self.path(queue, name);
        self.change("remove", &path, || match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        })
    }

    /// Moves a file to another directory.
    pub fn shift(&self, from: Queue, to: Queue, name: FileName) -> Result<(), StoreError> {
        let path = self.path(from, name);
        let target = self.path(to, name);
        self.change("move", &path, || match fs::rename(&path, &target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        })
    }

    /// Bytes of the file system.
    pub fn disk(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.dir)?;
        Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_data()
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The index, kept up to date with the disk: what others did to a directory shows in its time of change.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    index: Arc<Index>,
    changed: [Option<SystemTime>; Queue::ALL.len()],
}

impl Shelf {
    pub(crate) fn index(&self) -> Arc<Index> {
        Arc::clone(&self.index)
    }

    /// Lists directories that were changed by somebody else.
    pub(crate) fn refresh(&mut self, store: &Store) -> io::Result<()> {
        for (queue, changed) in Queue::ALL.into_iter().zip(&mut self.changed) {
            let dir = store.dir.join(queue.dir());
            let now = fs::metadata(&dir)?.modified().ok();
            if changed.is_some() && *changed == now {
                continue;
            }
            let index = Arc::make_mut(&mut self.index);
            index.clear(queue);
            for entry in fs::read_dir(&dir)?.flatten() {
                let name = entry.file_name().to_str().and_then(|n| n.parse().ok());
                if let (Some(name), Ok(metadata)) = (name, entry.metadata()) {
                    index.add(queue, name, metadata.len());
                }
            }
            *changed = now;
        }
        Ok(())
    }

    /// Notes our own change of a directory.
    pub(crate) fn note(&mut self, store: &Store, queue: Queue, change: impl FnOnce(&mut Index)) {
        change(Arc::make_mut(&mut self.index));
        for (other, changed) in Queue::ALL.into_iter().zip(&mut self.changed) {
            if other == queue && changed.is_some() {
                let dir = store.dir.join(queue.dir());
                *changed = fs::metadata(dir).and_then(|m| m.modified()).ok();
            }
        }
    }
}
