//! The log files that are there.

use std::collections::BTreeMap;

use crate::name::{FileName, Queue};

/// Files with their sizes, by directory, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Index {
    queues: BTreeMap<Queue, BTreeMap<FileName, u64>>,
    bytes: u64,
}

impl Index {
    /// Notes a file.
    pub fn add(&mut self, queue: Queue, name: FileName, bytes: u64) {
        let old = self.queues.entry(queue).or_default().insert(name, bytes);
        self.bytes = self.bytes - old.unwrap_or(0) + bytes;
    }

    /// Forgets a file.
    pub fn remove(&mut self, queue: Queue, name: FileName) {
        let old = self.queues.get_mut(&queue).and_then(|q| q.remove(&name));
        self.bytes -= old.unwrap_or(0);
    }

    /// Forgets a directory.
    pub fn clear(&mut self, queue: Queue) {
        for bytes in self.queues.remove(&queue).unwrap_or_default().values() {
            self.bytes -= bytes;
        }
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Files of a directory.
    pub fn count(&self, queue: Queue) -> usize {
        self.queues.get(&queue).map_or(0, BTreeMap::len)
    }

    /// Files that wait to be sent.
    pub fn waiting(&self) -> usize {
        self.count(Queue::Device) + self.count(Queue::App)
    }

    /// The oldest file of a directory.
    pub fn oldest(&self, queue: Queue) -> Option<FileName> {
        self.queues.get(&queue)?.keys().next().copied()
    }

    /// The youngest file of all.
    pub fn youngest(&self) -> Option<FileName> {
        let last = |queue: &BTreeMap<FileName, u64>| queue.keys().next_back().copied();
        self.queues.values().filter_map(last).max()
    }

    /// Files of a directory with their sizes, oldest first.
    pub fn files(&self, queue: Queue) -> impl Iterator<Item = (FileName, u64)> + '_ {
        let files = self.queues.get(&queue).into_iter().flatten();
        files.map(|(name, bytes)| (*name, *bytes))
    }
}
