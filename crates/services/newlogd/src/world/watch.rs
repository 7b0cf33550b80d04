//! Learns that something was printed, from inotify.
//!
//! Spoken to directly: a watcher with a thread and a mask for everything would be woken by each look of others, too, and that
//! shows on an idle device. Events are left in the kernel's queue until the next look, so a unit that
//! prints without end wakes nobody in between.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::sleep,
};

/// Where inotify can't be had, logs are looked at so often.
const BLIND: Duration = Duration::from_secs(20);
/// Bytes of events read at once.
const EVENTS: usize = 16 * 1024;

/// Watched directories.
#[derive(Debug)]
pub(crate) struct Watch {
    dirs: Vec<PathBuf>,
    /// Events; none where there is no inotify.
    events: Option<AsyncFd<OwnedFd>>,
}

/// Makes a descriptor one that can be waited for.
pub(crate) fn wait_for<T: AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    // The other constructor is unsafe code; what it asks for, that the value owns its descriptor, holds for
    // everything in this crate that is handed in.
    #[allow(deprecated, reason = "see above")]
    AsyncFd::new(owner)
}

impl Watch {
    /// Watches these directories, also if they are made later.
    pub(crate) fn on(dirs: Vec<PathBuf>) -> Self {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .map_err(io::Error::from)
            .and_then(wait_for)
            .inspect_err(
                |error| tracing::warn!(%error, "no inotify: logs are looked at every 20 s"),
            )
            .ok();
        let watch = Self { dirs, events };
        watch.clear();
        watch
    }

    /// From now on only what happens later counts.
    pub(crate) fn clear(&self) {
        let Some(events) = &self.events else { return };
        let mut buffer = [0; EVENTS];
        let mut read =
            |fd: &OwnedFd| rustix::io::read(fd, &mut buffer[..]).map_err(io::Error::from);
        // What happened does not matter: everything is looked at.
        while events.try_io(Interest::READABLE, &mut read).is_ok() {}
        for dir in &self.dirs {
            add(events, dir);
        }
    }

    /// Resolves once something happened since the last [`Watch::clear`]; may be dropped and made anew.
    pub(crate) async fn changed(&self) {
        match &self.events {
            // An error is looked into like an event.
            Some(events) => drop(events.readable().await),
            None => sleep(BLIND).await,
        }
    }
}

/// Watching twice is watching once; a directory that is new or was replaced is watched from now on.
fn add(events: &AsyncFd<OwnedFd>, dir: &Path) {
    let what = WatchFlags::MODIFY
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_TO
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

    async fn changes(watch: &Watch) -> bool {
        let soon = Duration::from_millis(100);
        timeout(soon, watch.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn printing_is_noticed_and_looking_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (logs, guests) = (dir.path().to_owned(), dir.path().join("guests"));
        let log = logs.join("nim.log");
        fs::write(&log, "a").unwrap();
        let watch = Watch::on(vec![logs.clone(), guests.clone()]);
        fs::read_dir(&logs).unwrap();
        fs::read(&log).unwrap();
        assert!(!changes(&watch).await);
        fs::write(&log, "b").unwrap();
        // Also when nobody was waiting, and until it was looked at.
        assert!(changes(&watch).await && changes(&watch).await);
        watch.clear();
        assert!(!changes(&watch).await);
        fs::create_dir(&guests).unwrap();
        assert!(changes(&watch).await);
        watch.clear();
        fs::write(guests.join("a.console"), "c").unwrap();
        assert!(changes(&watch).await, "a directory that was made later");
    }
}
