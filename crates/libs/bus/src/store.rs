//! What a store does. Everything above it (types, readiness, diffing) is the same for files and for memory.

use std::{ops::Range, sync::Arc};

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
#[derive(Debug)]
pub(crate) struct Raw<'a> {
    /// The store's name for it.
    pub(crate) name: &'a str,
    /// The publisher's key, or why there is none.
    pub(crate) key: Result<String, String>,
    /// Which version this is.
    pub(crate) stamp: Stamp,
    /// The JSON, or why it can't be read.
    pub(crate) bytes: Result<&'a [u8], String>,
}

/// Takes rows as they are read.
pub(crate) type Sink<'a> = dyn FnMut(Raw<'_>) + Send + 'a;

/// Names of rows, many of them in few pieces of memory.
#[derive(Default)]
pub(crate) struct Names {
    text: String,
    ends: Vec<usize>,
}

impl Names {
    pub(crate) fn push(&mut self, name: &str) {
        self.text.push_str(name);
        self.ends.push(self.text.len());
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.range(0..self.len())
    }

    /// Those with these numbers, as far as there are so many.
    pub(crate) fn range(&self, numbers: Range<usize>) -> impl Iterator<Item = &str> {
        let ends = self.ends.get(numbers.start..numbers.end.min(self.len()));
        let mut start = match numbers.start {
            0 => 0,
            number => self.ends.get(number - 1).copied().unwrap_or(0),
        };
        ends.unwrap_or_default().iter().map(move |&end| {
            let name = &self.text[start..end];
            start = end;
            name
        })
    }
}

impl<'a> FromIterator<&'a str> for Names {
    fn from_iter<I: IntoIterator<Item = &'a str>>(names: I) -> Self {
        let mut all = Self::default();
        names.into_iter().for_each(|name| all.push(name));
        all
    }
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
    /// Hands every row that differs from what is `known` to one of `sinks`, which may be called from as many threads as
    /// there are; returns the names of all rows that are there.
    fn scan(
        &self,
        place: &Place,
        known: &dyn Known,
        sinks: &mut [&mut Sink<'_>],
    ) -> Result<Names, BusError>;
    /// One row, `None` if it is not there. Its JSON is in `buffer`.
    fn fetch<'a>(
        &self,
        place: &Place,
        name: &'a str,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<Raw<'a>>, BusError>;
    /// The copy that was kept of an earlier version of a row.
    fn last_good(&self, place: &Place, name: &str) -> Result<Option<Vec<u8>>, BusError>;
    /// The current mark; `seen` saves reading it again.
    fn ready(&self, place: &Place, seen: Option<&ReadyMark>)
    -> Result<Option<ReadyMark>, BusError>;
    /// Reports changes of the topic to `feed` from here on. Repeated after the feed was told to rearm.
    fn attach(&self, place: &Place, feed: &Arc<Feed>) -> Result<(), BusError>;
    /// Ends what `attach` began.
    fn detach(&self, place: &Place, feed: &Arc<Feed>);
    /// Notes whatever has happened until now in the feeds. To be called before looking.
    fn catch_up(&self) {}
    /// Makes sure that changes are noted while the caller waits: in the runtime that it is in, or wherever it is.
    fn follow(&self) {}
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
    fn load(&mut self, sink: &mut Sink<'_>) -> Result<(), BusError>;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_in_order_and_in_parts() {
        let names: Names = ["a", "", "ccc", "dd"].into_iter().collect();
        assert_eq!(names.len(), 4);
        assert_eq!(names.iter().collect::<Vec<_>>(), ["a", "", "ccc", "dd"]);
        assert_eq!(names.range(1..3).collect::<Vec<_>>(), ["", "ccc"]);
        assert_eq!(names.range(2..9).collect::<Vec<_>>(), ["ccc", "dd"]);
        assert_eq!(names.range(9..12).count(), 0);
        assert_eq!(Names::default().iter().count(), 0);
    }
}
