//! Learns of changes from inotify: one instance per process, shared by all its subscriptions.
//!
//! For each topic the directory itself is watched and all those above it, down from the root: so a topic whose writer has
//! never run, a removed and a replaced directory are all seen by an event in a directory that is there.
//!
//! The thread that takes the events notes them in the feeds, and reads a row for a reader that has to wake up. It must not watch anything itself (it would
//! wait for itself), so a feed is told to *rearm* and its reader attaches again before it reads. The order makes this safe:
//! first watch, then look. An event that arrives between a watch and the note that it is in place raises the directory's
//! `epoch`, and the note is not made.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Weak},
    time::Instant,
};

use notify::{
    ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};

use crate::{
    BusError,
    feed::{Early, Feed},
    file::{
        layout::READY,
        read::{self, is_absent, row_name},
    },
    lock::Lock,
};

/// The watched directories of one process.
pub(super) struct Watch {
    root: PathBuf,
    /// Locked for the whole of an attach or detach, so that one doesn't undo the other. Never by the event thread.
    watcher: Mutex<RecommendedWatcher>,
    nodes: Arc<Mutex<Nodes>>,
}

type Nodes = HashMap<PathBuf, Node>;

/// A directory that is watched, or will be as soon as it exists.
#[derive(Default)]
struct Node {
    /// Topics that are this directory or below it.
    path_of: Vec<Weak<Feed>>,
    /// Topics that are this directory.
    rows_of: Vec<Weak<Feed>>,
    /// The kernel reports changes of it.
    armed: bool,
    /// Counts what happened to the directory as a whole.
    epoch: u64,
}

impl Watch {
    pub(super) fn new(root: &Path) -> Result<Self, BusError> {
        let nodes = Arc::new(Mutex::new(Nodes::new()));
        let noted = Arc::clone(&nodes);
        let watcher = notify::recommended_watcher(move |event| on_event(&noted, event)).map_err(
            |source| BusError::Watch {
                path: root.to_owned(),
                source,
            },
        )?;
        Ok(Self {
            root: root.to_owned(),
            watcher: Mutex::new(watcher),
            nodes,
        })
    }

    /// Reports changes of the topic in `dir` to `feed`. Watches what exists of the way to it.
    pub(super) fn attach(&self, dir: &Path, feed: &Arc<Feed>) -> Result<(), BusError> {
        let mut watcher = self.watcher.held();
        let way = self.way_to(dir);
        {
            let mut nodes = self.nodes.held();
            for path in &way {
                let node = nodes.entry(path.clone()).or_default();
                add(&mut node.path_of, feed);
                if path == dir {
                    add(&mut node.rows_of, feed);
                }
            }
        }
        for path in way {
            let Some(epoch) = self
                .nodes
                .held()
                .get(&path)
                .filter(|node| !node.armed)
                .map(|node| node.epoch)
            else {
                continue;
            };
            match watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    if let Some(node) = self.nodes.held().get_mut(&path) {
                        node.armed = node.epoch == epoch;
                    }
                }
                // Its appearance is an event in the directory above, which is watched by now.
                Err(error) if is_missing(&error) => break,
                Err(source) => return Err(BusError::Watch { path, source }),
            }
        }
        Ok(())
    }

    /// Ends what `attach` began.
    pub(super) fn detach(&self, feed: &Arc<Feed>) {
        let mut watcher = self.watcher.held();
        let feed = Arc::downgrade(feed);
        let mut unused = Vec::new();
        self.nodes.held().retain(|path, node| {
            node.path_of.retain(|other| !other.ptr_eq(&feed));
            node.rows_of.retain(|other| !other.ptr_eq(&feed));
            if node.path_of.is_empty() {
                unused.push(path.clone());
            }
            !node.path_of.is_empty()
        });
        for path in unused {
            // It may be gone with its watch.
            drop(watcher.unwatch(&path));
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

fn add(feeds: &mut Vec<Weak<Feed>>, feed: &Arc<Feed>) {
    let feed = Arc::downgrade(feed);
    if !feeds.iter().any(|known| known.ptr_eq(&feed)) {
        feeds.push(feed);
    }
}

fn is_missing(error: &notify::Error) -> bool {
    match &error.kind {
        ErrorKind::PathNotFound => true,
        ErrorKind::Io(error) => is_absent(error),
        ErrorKind::Generic(_)
        | ErrorKind::WatchNotFound
        | ErrorKind::InvalidConfig(_)
        | ErrorKind::MaxFilesWatch => false,
    }
}

/// A row whose reader was idle and is being woken.
struct Idle {
    feed: Arc<Feed>,
    dir: PathBuf,
    name: String,
}

/// Takes one event. Runs on the event thread.
fn on_event(nodes: &Mutex<Nodes>, event: notify::Result<Event>) {
    // Every file that anybody reads is an event, too; those are many and of no interest.
    let only_read = |event: &Event| matches!(event.kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write));
    if event
        .as_ref()
        .is_ok_and(|event| only_read(event) && !event.need_rescan())
    {
        return;
    }
    let idle = take_note(&mut nodes.held(), event);
    // It takes a reader as long to wake up as it takes to read the row: both at once halve the delay. In a burst only the
    // first row is read here, for then the reader is at work already.
    for Idle { feed, dir, name } in idle {
        let at = Instant::now();
        if let Ok(raw) = read::fetch(&dir, &name) {
            feed.offer(&name, Early { at, raw });
        }
    }
}

/// Sorts one event into the feeds.
fn take_note(nodes: &mut Nodes, event: notify::Result<Event>) -> Vec<Idle> {
    let mut idle = Vec::new();
    let event = match event {
        Ok(event) => event,
        Err(error) => {
            tracing::warn!(%error, "inotify failed; comparing everything");
            lost(nodes);
            return idle;
        }
    };
    if event.need_rescan() {
        tracing::debug!("the inotify queue overflowed; comparing everything");
        lost(nodes);
        return idle;
    }
    let in_place = match event.kind {
        // What somebody writes in place counts when it is complete.
        EventKind::Modify(ModifyKind::Data(_)) => return idle,
        EventKind::Access(_) => true,
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => false,
    };
    for path in &event.paths {
        if !in_place && nodes.contains_key(path) {
            whole_directory(nodes, path);
        }
        let Some(dir) = path.parent() else { continue };
        let Some(node) = nodes.get(dir) else { continue };
        if node.rows_of.is_empty() {
            continue;
        }
        let file = path.file_name().and_then(|name| name.to_str());
        if file == Some(READY) {
            tell(&node.rows_of, Feed::mark);
        } else if let Some(name) = row_name(file) {
            for feed in node.rows_of.iter().filter_map(Weak::upgrade) {
                if feed.row(&name) {
                    idle.push(Idle {
                        feed,
                        dir: dir.to_owned(),
                        name: name.clone(),
                    });
                }
            }
        }
    }
    idle
}

/// A directory came, went or was replaced: no watch of it or below it can be relied on.
fn whole_directory(nodes: &mut Nodes, path: &Path) {
    for (below, node) in nodes.iter_mut() {
        if below.starts_with(path) {
            node.armed = false;
            node.epoch += 1;
        }
    }
    if let Some(node) = nodes.get(path) {
        tell(&node.path_of, Feed::rearm);
    }
}

/// Events were lost, among them maybe those of whole directories.
fn lost(nodes: &mut Nodes) {
    for node in nodes.values_mut() {
        node.armed = false;
        node.epoch += 1;
        tell(&node.rows_of, Feed::rearm);
    }
}

fn tell(feeds: &[Weak<Feed>], news: impl Fn(&Feed)) {
    feeds
        .iter()
        .filter_map(Weak::upgrade)
        .for_each(|feed| news(&feed));
}
