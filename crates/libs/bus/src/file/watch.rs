//! Learns of changes from inotify: one instance per process, shared by all its subscriptions.
//!
//! For each topic the directory itself is watched and all those above it, down from the root: so a topic whose writer has
//! never run, a removed and a replaced directory are all seen by an event in a directory that is there. Only changes are
//! asked for: with openings and reads among the events, as general watchers have them, every reader of a row would wake
//! every other reader of its topic.
//!
//! Who takes the events from the kernel doesn't matter: [`Watch::drain`] sorts all that are there into the feeds, and a
//! reader calls it before it looks. So what was published before a look is seen by it. Somebody has to *wait* for events,
//! too: `follow.rs`.
//!
//! After an event of a whole directory a feed is told to *rearm*, and its reader attaches again before it reads. The order
//! makes this safe: first watch, then look. Attaching and draining exclude each other, so no event is sorted by a
//! half-made note of what is watched.

use std::{
    ffi::{CStr, OsStr},
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Weak},
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};

use crate::{
    BusError,
    feed::Feed,
    file::{
        follow::Followers,
        layout::READY,
        read::{is_absent, row_name},
    },
    lock::Lock,
};

/// What is asked for: entries that come, go, are replaced, were written in place or may be read from now on; and what
/// happens to the directory as a whole.
const CHANGES: WatchFlags = WatchFlags::MOVED_TO
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// Room for the events of one system call: at least 14, however long the names.
const BUFFER: usize = 4096;
/// Length of an event without a name.
const EVENT: usize = 16;
/// A name has up to so many zeros after it.
const PADDING: usize = 16;
/// No event is longer.
const LONGEST: usize = EVENT + 255 + PADDING;

/// The watched directories of one process.
pub(super) struct Watch {
    root: PathBuf,
    inotify: Arc<OwnedFd>,
    state: Mutex<State>,
    followers: Followers,
}

/// What is watched for whom. Few dozens of directories: going through all of them is faster than any index.
#[derive(Default)]
struct State {
    nodes: Vec<Node>,
}

/// A directory that is watched, or will be as soon as it exists.
struct Node {
    path: PathBuf,
    /// Topics that are this directory or below it.
    path_of: Vec<Weak<Feed>>,
    /// Topics that are this directory.
    rows_of: Vec<Weak<Feed>>,
    /// The kernel's number of the directory that was here when it was last looked. Two ways may lead to one directory.
    watched: Option<i32>,
    /// It is certainly still the same directory.
    armed: bool,
}

impl Watch {
    pub(super) fn new(root: &Path) -> Result<Arc<Self>, BusError> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        let inotify = inotify.map_err(|error| failed(root, error))?;
        Ok(Arc::new(Self {
            root: root.to_owned(),
            inotify: Arc::new(inotify),
            state: Mutex::default(),
            followers: Followers::default(),
        }))
    }

    /// Becomes readable when there is something to [`drain`](Self::drain).
    pub(super) fn descriptor(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.inotify)
    }

    pub(super) fn followers(&self) -> &Followers {
        &self.followers
    }

    /// Reports changes of the topic in `dir` to `feed`. Watches what exists of the way to it.
    pub(super) fn attach(&self, dir: &Path, feed: &Arc<Feed>) -> Result<(), BusError> {
        let way = self.way_to(dir);
        let mut state = self.state.held();
        for path in &way {
            let node = state.node(path);
            add(&mut node.path_of, feed);
            if path == dir {
                add(&mut node.rows_of, feed);
            }
        }
        for path in way {
            if state.node(&path).armed {
                continue;
            }
            match inotify::add_watch(&*self.inotify, &path, CHANGES) {
                Ok(number) => {
                    let node = state.node(&path);
                    node.armed = true;
                    let before = node.watched.replace(number);
                    state.release(&self.inotify, before);
                }
                // Its appearance is an event in the directory above, which is watched by now.
                Err(error) if is_absent(&error.into()) => break,
                Err(error) => return Err(failed(&path, error)),
            }
        }
        Ok(())
    }

    /// Ends what `attach` began.
    pub(super) fn detach(&self, feed: &Arc<Feed>) {
        let feed = Arc::downgrade(feed);
        let mut state = self.state.held();
        let mut unused = Vec::new();
        state.nodes.retain_mut(|node| {
            node.path_of.retain(|other| !other.ptr_eq(&feed));
            node.rows_of.retain(|other| !other.ptr_eq(&feed));
            if node.path_of.is_empty() {
                unused.push(node.watched);
            }
            !node.path_of.is_empty()
        });
        for number in unused {
            state.release(&self.inotify, number);
        }
    }

    /// Sorts every event that has happened into the feeds. Never waits.
    pub(super) fn drain(&self) {
        let mut state = self.state.held();
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut events = Reader::new(&*self.inotify, &mut buffer);
        let mut filled = 0;
        loop {
            match events.next() {
                Ok(event) => {
                    let name = event.file_name().map(CStr::to_bytes);
                    filled += EVENT + name.map_or(0, |name| name.len() + PADDING);
                    state.take_note(&self.inotify, event.wd(), event.events(), name);
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::warn!(%error, "inotify failed; comparing everything");
                    return state.lost();
                }
            }
            if events.is_buffer_empty() {
                // There was room for more, so there was no more; that saves asking.
                if filled + LONGEST <= BUFFER {
                    return;
                }
                filled = 0;
            }
        }
    }

    /// The directories from the root, or from what exists of the way to the root, down to `dir`.
    fn way_to(&self, dir: &Path) -> Vec<PathBuf> {
        let top = self
            .root
            .ancestors()
            .find(|above| above.exists())
            .unwrap_or(&self.root);
        let mut way: Vec<_> = dir
            .ancestors()
            .take_while(|above| above.starts_with(top))
            .map(Path::to_owned)
            .collect();
        way.reverse();
        way
    }
}

impl State {
    fn node(&mut self, path: &Path) -> &mut Node {
        let known = self.nodes.iter().position(|node| node.path == path);
        let index = known.unwrap_or_else(|| {
            self.nodes.push(Node {
                path: path.to_owned(),
                path_of: Vec::new(),
                rows_of: Vec::new(),
                watched: None,
                armed: false,
            });
            self.nodes.len() - 1
        });
        &mut self.nodes[index]
    }

    /// Ends the watch of this number if no node has it any more.
    fn release(&self, inotify: &OwnedFd, number: Option<i32>) {
        if let Some(number) = number
            && self.nodes.iter().all(|node| node.watched != Some(number))
        {
            // It may be gone with its directory.
            let _ = inotify::remove_watch(inotify, number);
        }
    }

    /// Sorts one event into the feeds.
    fn take_note(&mut self, inotify: &OwnedFd, number: i32, what: ReadFlags, name: Option<&[u8]>) {
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            tracing::debug!("the inotify queue overflowed; comparing everything");
            return self.lost();
        }
        let mut whole = Vec::new();
        for node in &self.nodes {
            if node.watched != Some(number) {
                continue;
            }
            let Some(name) = name else {
                whole.push(node.path.clone());
                continue;
            };
            if node.has_below() {
                whole.push(node.path.join(OsStr::from_bytes(name)));
            }
            if node.rows_of.is_empty() {
                continue;
            }
            let file = str::from_utf8(name).ok();
            if file == Some(READY) {
                tell(&node.rows_of, Feed::mark);
            } else if let Some(name) = row_name(file) {
                tell(&node.rows_of, |feed| feed.row(name));
            }
        }
        for path in whole {
            self.whole_directory(inotify, &path);
        }
    }

    /// A directory came, went or was replaced: no watch of it or below it can be relied on. Nothing if it is none of ours.
    fn whole_directory(&mut self, inotify: &OwnedFd, path: &Path) {
        let Some(node) = self.nodes.iter().find(|node| node.path == path) else {
            return;
        };
        tell(&node.path_of, Feed::rearm);
        let mut stale = Vec::new();
        for node in &mut self.nodes {
            if node.path.starts_with(path) {
                node.armed = false;
                // What happens in a directory that was moved away is of no interest any more.
                stale.push(node.watched.take());
            }
        }
        for number in stale {
            self.release(inotify, number);
        }
    }

    /// Events were lost, among them maybe those of whole directories.
    fn lost(&mut self) {
        for node in &mut self.nodes {
            node.armed = false;
            tell(&node.rows_of, Feed::rearm);
        }
    }
}

impl Node {
    /// Whether there are topics in directories below this one.
    fn has_below(&self) -> bool {
        self.path_of.len() > self.rows_of.len()
    }
}

fn failed(path: &Path, error: Errno) -> BusError {
    BusError::Watch {
        path: path.to_owned(),
        source: io::Error::from(error),
    }
}

fn add(feeds: &mut Vec<Weak<Feed>>, feed: &Arc<Feed>) {
    let feed = Arc::downgrade(feed);
    if !feeds.iter().any(|known| known.ptr_eq(&feed)) {
        feeds.push(feed);
    }
}

fn tell(feeds: &[Weak<Feed>], news: impl Fn(&Feed)) {
    feeds
        .iter()
        .filter_map(Weak::upgrade)
        .for_each(|feed| news(&feed));
}
