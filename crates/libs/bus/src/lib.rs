//! The bus: the only interface between the services of the device.
//!
//! A *topic* is a table of objects of one type with exactly one writer. The file system is the truth, and anybody can look
//! at it with `ls`, `cat`, `jq` and `inotifywait`:
//!
//! ```text
//! <root>/run/<service>/<Topic>/<key>.json               lives until reboot
//! <root>/persist/status/<service>/<Topic>/<key>.json    survives power cuts
//!                                       /ready          the writer has completed a turn; holds the generation
//!                                       /.generation    remembers the generation while the writer is not ready
//!                                       /.quarantine/   objects that could not be read
//!                                       /.last/         previous version of each object (persistent topics)
//!                                       /.keys/         keys that are too long for a file name
//! <root>/run/.bus-tmp/<service>/                        files that are being written, outside of the watched directories
//! <root>/persist/status/.bus-tmp/<service>/             the same, and room for a few rows when the disk is full
//! ```
//!
//! What holds, whatever is killed and whenever the power fails:
//!
//! - An object is its old value or its new one, never half, never empty (`rename`; persistent ones are synced before
//!   [`Publisher::publish`] returns).
//! - A full disk keeps a persistent topic from a few changes no more than an empty one would ([`durable::Reserve`]).
//! - *Absent is not empty*: [`Subscription::rows`] is `None` until the writer was ready once, and stays the last complete
//!   table while the writer restarts.
//! - A subscriber always ends with the final value: bursts coalesce, events that were lost lead to a comparison with what
//!   is there, and so do directories that were removed or replaced.
//! - A file that can't be read harms nobody: its last good value stays in use, its writer moves it to `.quarantine/`.
//!
//! [`Bus::memory`] has the same behaviour for tests; one test suite runs on both stores (`tests/suite.rs`).
//!
//! Where to look: [`Topic`] declares, `publisher.rs` writes, `subscription.rs` reads, `store.rs` is what the two stores
//! (`memory.rs`, `file/`) provide, `file/watch.rs` and `file/follow.rs` talk to inotify, `key.rs` makes file names of keys, `raw.rs` is the
//! access without types for tools, `compat.rs` checks objects that older versions wrote.
#![forbid(unsafe_code)]

pub mod compat;
mod error;
mod feed;
mod file;
mod key;
mod lock;
mod memory;
mod publisher;
mod raw;
mod store;
mod subscription;
mod topic;

use std::{fmt, path::Path, sync::Arc};

use tokio::sync::watch;

use crate::{feed::Feed, file::FileStore, memory::MemoryStore, store::Store};

pub use crate::{
    error::{BusError, DecodeError},
    file::layout,
    memory::MemoryControl,
    publisher::{Changes, Publisher, Quarantined},
    raw::TopicInfo,
    subscription::Subscription,
    topic::{Migration, Object, Rows, Topic},
};

/// Access to the bus on behalf of one service. Clones are the same access; [`acting_as`](Self::acting_as) is another.
#[derive(Clone)]
pub struct Bus {
    store: Arc<dyn Store>,
    identity: Arc<str>,
    signal: watch::Sender<u64>,
}

impl Bus {
    /// The bus in the files below `root` (`/` on a device), acting as `service`. Nothing is created or watched yet.
    pub fn open(root: &Path, service: impl Into<String>) -> Result<Self, BusError> {
        Ok(Self::new(Arc::new(FileStore::open(root)?), service.into()))
    }

    /// An empty bus in memory with the same behaviour. It acts as nobody until [`acting_as`](Self::acting_as).
    pub fn memory() -> Self {
        Self::new(Arc::new(MemoryStore::default()), String::new())
    }

    /// A bus in memory with a hand on what reboots and kills do to it.
    pub fn memory_with_control() -> (Self, MemoryControl) {
        let store = MemoryStore::default();
        let control = store.control();
        (Self::new(Arc::new(store), String::new()), control)
    }

    /// The same bus with another identity, and a [`changed`](Self::changed) of its own.
    #[must_use]
    pub fn acting_as(&self, service: impl Into<String>) -> Self {
        Self::new(Arc::clone(&self.store), service.into())
    }

    fn new(store: Arc<dyn Store>, identity: String) -> Self {
        Self {
            store,
            identity: identity.into(),
            signal: watch::Sender::new(0),
        }
    }

    /// The service that this access belongs to.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Takes `topic` over for writing. It is not ready from here on, until [`Publisher::set_ready`]. The rows of the former
    /// run are loaded; unreadable ones are quarantined. Refused when another service is the topic's writer.
    pub fn publisher<T: Object>(&self, topic: &Topic<T>) -> Result<Publisher<T>, BusError> {
        let place = topic.place()?;
        if place.service != *self.identity {
            return Err(BusError::NotOwner {
                topic: place.to_string(),
                owner: place.service,
                identity: self.identity.to_string(),
            });
        }
        Publisher::open(topic, self.store.writer(&place)?)
    }

    /// A live view of `topic`. The topic needs not exist yet.
    pub fn subscribe<T: Object>(&self, topic: &Topic<T>) -> Result<Subscription<T>, BusError> {
        Subscription::open(
            topic,
            Arc::clone(&self.store),
            Feed::new(self.signal.clone()),
        )
    }

    /// The table as it is now; `None` while its writer is not ready.
    pub fn read<T: Object>(&self, topic: &Topic<T>) -> Result<Option<Rows<T>>, BusError> {
        subscription::read_once(
            topic,
            Arc::clone(&self.store),
            Feed::new(self.signal.clone()),
        )
    }

    /// Fires when any subscription that was made through this access (or a clone) may have changed. The number only counts.
    /// To be called where it is waited for, once there are subscriptions: the runtime that the caller is in then has part
    /// in waiting for changes of the files.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.store.follow();
        self.signal.subscribe()
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}
