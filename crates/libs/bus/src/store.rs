//! What a store does. Everything above it (types, readiness, diffing) is the same for files and for memory.

use std::sync::Arc;

use crate::{BusError, feed::Feed, topic::Place};

/// Identity of one stored version of a row or of a `ready` mark: equal stamps mean equal content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Inode number, or a version counter.
    pub(crate) id: u64,
    /// Length in bytes.
    pub(crate) size: u64,
    /// Time of modification in nanoseconds.
    pub(crate) mtime: i64,
    /// Time of change in nanoseconds.
    pub(crate) ctime: i64,
    /// The version was old enough when it was stamped that a later one can't have the same times.
    pub(crate) settled: bool,
}

impl Stamp {
    /// Whether `now` is certainly the version that this stamp was taken from.
    pub(crate) fn still(&self, now: &Self) -> bool {
        self.settled
            && self.id == now.id
            && self.size == now.size
            && self.mtime == now.mtime
            && self.ctime == now.ctime
    }
}

/// The writer's statement that the table is complete.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadyMark {
    /// How often the topic has become ready.
    pub(crate) generation: u64,
    /// Which mark it is: generations may start again when a directory was lost.
    pub(crate) stamp: Stamp,
}

impl ReadyMark {
    /// Whether both stand for the same completion of the table.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.generation == other.generation
            && self.stamp.id == other.stamp.id
            && self.stamp.mtime == other.stamp.mtime
    }
}

/// One row as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    /// The store's name for it.
    pub(crate) name: String,
    /// The publisher's key, or why there is none.
    pub(crate) key: Result<String, String>,
    /// Which version this is.
    pub(crate) stamp: Stamp,
    /// The JSON, or why it can't be read.
    pub(crate) bytes: Result<Vec<u8>, String>,
}

/// What a reader already has.
pub(crate) trait Known: Sync {
    /// The version of `name` that the reader has.
    fn stamp(&self, name: &str) -> Option<Stamp>;
}

/// Counts for [`crate::TopicInfo`].
pub(crate) struct Summary {
    pub(crate) ready: bool,
    pub(crate) generation: u64,
    pub(crate) rows: usize,
    pub(crate) quarantined: usize,
}

/// A place where topics are kept.
pub(crate) trait Store: Send + Sync {
    /// Takes the topic over for writing: it is not ready from here on.
    fn writer(&self, place: &Place) -> Result<Box<dyn Writer>, BusError>;
    /// Access for tools, beside the writer: readiness stays as it is.
    fn intruder(&self, place: &Place) -> Result<Box<dyn Writer>, BusError>;
    /// Hands every row that differs from what is `known` to `sink`; returns the names of all rows that are there.
    fn scan(
        &self,
        place: &Place,
        known: &dyn Known,
        sink: &mut dyn FnMut(Raw),
    ) -> Result<Vec<String>, BusError>;
    /// The version of the table as a whole, `None` if there is none: no row has come, gone or been replaced while it is
    /// [`Stamp::still`] the same.
    fn version(&self, place: &Place) -> Result<Option<Stamp>, BusError>;
    /// One row, `None` if it is not there.
    fn fetch(&self, place: &Place, name: &str) -> Result<Option<Raw>, BusError>;
    /// The copy that was kept of an earlier version of a row.
    fn last_good(&self, place: &Place, name: &str) -> Result<Option<Vec<u8>>, BusError>;
    /// The current mark; `seen` saves reading it again.
    fn ready(&self, place: &Place, seen: Option<&ReadyMark>)
    -> Result<Option<ReadyMark>, BusError>;
    /// Reports changes of the topic to `feed` from here on. Repeated after the feed was told to rearm.
    fn attach(&self, place: &Place, feed: &Arc<Feed>) -> Result<(), BusError>;
    /// Ends what `attach` began.
    fn detach(&self, place: &Place, feed: &Arc<Feed>);
    /// Every topic that was ever published here.
    fn places(&self) -> Result<Vec<Place>, BusError>;
    /// Counts of one topic.
    fn summary(&self, place: &Place) -> Result<Summary, BusError>;
}

/// When a persistent write has to be on the medium.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durable {
    /// Before the call returns.
    Now,
    /// At the next [`Writer::flush`].
    AtFlush,
}

/// Write access to one topic.
pub(crate) trait Writer: Send + Sync {
    /// All rows.
    fn load(&mut self, sink: &mut dyn FnMut(Raw)) -> Result<(), BusError>;
    /// Whether the rows that were written are still where they were put; false when somebody replaced the directory.
    fn intact(&self) -> Result<bool, BusError>;
    /// Makes the topic anew, empty and not ready, after it was found not intact.
    fn recreate(&mut self) -> Result<(), BusError>;
    /// Writes one row.
    fn put(&mut self, key: &str, json: &[u8], durable: Durable) -> Result<(), BusError>;
    /// Removes one row; false if it was not there.
    fn delete(&mut self, key: &str, durable: Durable) -> Result<bool, BusError>;
    /// Makes everything written with [`Durable::AtFlush`] durable.
    fn flush(&mut self) -> Result<(), BusError>;
    /// Moves an unreadable row away, putting the last good copy in its place if `restore`.
    fn quarantine(&mut self, name: &str, restore: bool) -> Result<(), BusError>;
    /// The copy that was kept of an earlier version of a row.
    fn last_good(&self, name: &str) -> Result<Option<Vec<u8>>, BusError>;
    /// Declares the table complete; returns the new generation.
    fn set_ready(&mut self) -> Result<u64, BusError>;
}
