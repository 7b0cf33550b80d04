//! Tells that something was written in a directory.
//!
//! inotify is spoken to directly: a general watcher has a thread of its own and asks for everything, so each look of others
//! at the directory wakes it, and that shows on an idle device. Events are left in the kernel's queue until the next
//! [`DirWatch::take`], so a program that writes without end wakes nobody while its reader pauses.
//!
//! For the bus, whose topics come and go as directories, there is more to it: `crates/libs/bus/src/file/watch.rs`.
#![forbid(unsafe_code)]

use std::{
    ffi::{CStr, OsStr},
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::sleep,
};

/// Where inotify can't be had, a change is assumed so often.
const BLIND: Duration = Duration::from_secs(20);
/// Room for events read at once.
const EVENTS: usize = 4096;

/// Watched directories.
#[derive(Debug)]
pub struct DirWatch {
    dirs: Vec<PathBuf>,
    /// Events; none where there is no inotify.
    events: Option<AsyncFd<OwnedFd>>,
}

impl DirWatch {
    /// Watches these directories, also if they are made or replaced later: then from the [`take`](Self::take) after that.
    /// To be called within a runtime.
    pub fn on(dirs: Vec<PathBuf>) -> Self {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .map_err(io::Error::from)
            .and_then(readable)
            .inspect_err(|error| {
                tracing::warn!(%error, ?dirs, "no inotify: looked at every 20 s");
            })
            .ok();
        let watch = Self { dirs, events };
        watch.take(|_| false);
        watch
    }

    /// Takes what happened: whether it was about a name that `concerns` the caller, or may have been. From now on only what
    /// happens later counts.
    pub fn take(&self, mut concerns: impl FnMut(&OsStr) -> bool) -> bool {
        let Some(events) = &self.events else {
            return true;
        };
        let mut concerned = false;
        let read = |fd: &OwnedFd| -> io::Result<()> {
            let mut buffer = [MaybeUninit::uninit(); EVENTS];
            let mut reader = Reader::new(fd, &mut buffer);
            loop {
                let event = reader.next()?;
                // One without a name is about a whole directory, or says that others were lost.
                concerned |= match event.file_name().map(CStr::to_bytes) {
                    Some(name) => concerns(OsStr::from_bytes(name)),
                    None => true,
                };
            }
        };
        // Ends with the end of the queue, so that the runtime knows that there is nothing more to read.
        let _ = events.try_io(Interest::READABLE, read);
        for dir in &self.dirs {
            add(events, dir);
        }
        concerned
    }

    /// Resolves once something happened since the last [`take`](Self::take); may be dropped and made anew.
    pub async fn changed(&self) {
        match &self.events {
            // An error is looked into like an event.
            Some(events) => drop(events.readable().await),
            None => sleep(BLIND).await,
        }
    }
}

/// Hands a descriptor to the runtime.
fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // The newer constructor is unsafe code. What it asks for, that the value owns its descriptor, holds for this one.
    #[allow(deprecated, reason = "see above")]
    AsyncFd::with_interest(fd, Interest::READABLE)
}

/// Watching twice is watching once.
fn add(events: &AsyncFd<OwnedFd>, dir: &Path) {
    let what = WatchFlags::MODIFY
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR;
    if let Err(error) = inotify::add_watch(events.get_ref(), dir, what) {
        tracing::debug!(%error, dir = %dir.display(), "not watched");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use tokio::time::timeout;

    use super::*;

    async fn changes(watch: &DirWatch) -> bool {
        let soon = Duration::from_millis(100);
        timeout(soon, watch.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn writing_is_noticed_and_looking_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (logs, guests) = (dir.path().to_owned(), dir.path().join("guests"));
        let log = logs.join("nim.log");
        fs::write(&log, "a").unwrap();
        let watch = DirWatch::on(vec![logs.clone(), guests.clone()]);
        fs::read_dir(&logs).unwrap();
        fs::read(&log).unwrap();
        assert!(!changes(&watch).await);
        fs::write(&log, "b").unwrap();
        // Also when nobody was waiting, and until it was looked at.
        assert!(changes(&watch).await && changes(&watch).await);
        assert!(watch.take(|_| true));
        assert!(!changes(&watch).await);
        fs::create_dir(&guests).unwrap();
        assert!(changes(&watch).await);
        watch.take(|_| true);
        fs::write(guests.join("a.console"), "c").unwrap();
        assert!(changes(&watch).await, "a directory that was made later");
    }

    #[tokio::test]
    async fn the_names_tell_whether_it_concerns_one() {
        let dir = tempfile::tempdir().unwrap();
        let watch = DirWatch::on(vec![dir.path().to_owned()]);
        // More than fit into one read.
        for number in 0..500 {
            fs::write(dir.path().join(format!("{number}.conf")), "x").unwrap();
        }
        fs::write(dir.path().join("bn1.leases"), "x").unwrap();
        assert!(changes(&watch).await);
        let lease = |name: &OsStr| name.as_bytes().ends_with(b".leases");
        assert!(watch.take(lease));
        fs::write(dir.path().join("1.conf"), "y").unwrap();
        assert!(changes(&watch).await);
        assert!(!watch.take(lease));
        assert!(!changes(&watch).await);
    }

    #[tokio::test]
    async fn a_directory_that_was_replaced_is_watched_again() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("log");
        fs::create_dir(&logs).unwrap();
        let watch = DirWatch::on(vec![logs.clone()]);
        fs::remove_dir(&logs).unwrap();
        fs::create_dir(&logs).unwrap();
        assert!(changes(&watch).await);
        assert!(watch.take(|_| false), "it concerns everybody");
        fs::write(logs.join("nim.log"), "a").unwrap();
        assert!(changes(&watch).await);
    }
}
