//! What a subscription has still to look at: filled by the store, emptied by the reader.
//!
//! A feed holds names, not values: a thousand changes of one key are one entry, and the reader takes the latest.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::{Notify, watch};

use crate::lock::Lock;

/// What changed since the reader last asked.
#[derive(Default)]
pub(crate) struct Pending {
    /// Something changed, if only the `ready` mark.
    pub(crate) touched: bool,
    /// Names (as the store calls them) of rows that were written or removed.
    pub(crate) names: HashSet<String>,
    /// Changes may have been missed: compare everything.
    pub(crate) rescan: bool,
    /// A watched directory came, went or was replaced: attach again.
    pub(crate) rearm: bool,
}

/// One subscription's mailbox.
pub(crate) struct Feed {
    pending: Mutex<Pending>,
    wake: Notify,
    bus: watch::Sender<u64>,
}

impl Feed {
    /// A feed that also rings `bus` on every change. It starts empty.
    pub(crate) fn new(bus: watch::Sender<u64>) -> Self {
        Self {
            pending: Mutex::default(),
            wake: Notify::new(),
            bus,
        }
    }

    /// The row called `name` was written or removed.
    pub(crate) fn row(&self, name: &str) {
        self.update(|pending| {
            if !pending.names.contains(name) {
                pending.names.insert(name.to_owned());
            }
        });
    }

    /// The `ready` mark came or went.
    pub(crate) fn mark(&self) {
        self.update(|_| ());
    }

    /// Events may have been lost.
    pub(crate) fn rescan(&self) {
        self.update(|pending| pending.rescan = true);
    }

    /// The directories have to be watched anew.
    pub(crate) fn rearm(&self) {
        self.update(|pending| {
            pending.rearm = true;
            pending.rescan = true;
        });
    }

    /// What is to be done, or `None`.
    pub(crate) fn take(&self) -> Option<Pending> {
        let mut pending = self.pending.held();
        pending.touched.then(|| std::mem::take(&mut *pending))
    }

    /// Waits for the next change. One waiter.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// Has everything looked at again after a pause: something failed that may pass, such as a lack of descriptors.
    pub(crate) fn retry_later(self: &Arc<Self>, pause: Duration) {
        let feed = Arc::downgrade(self);
        // A thread because there may be no runtime here; there is at most one per failing reader and pause.
        let spawned = std::thread::Builder::new()
            .name("bus-retry".into())
            .spawn(move || {
                std::thread::sleep(pause);
                if let Some(feed) = feed.upgrade() {
                    feed.rearm();
                }
            });
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread to retry a subscription; it waits for the next change");
        }
    }

    /// Notes something and wakes the reader.
    fn update(&self, change: impl FnOnce(&mut Pending)) {
        {
            let mut pending = self.pending.held();
            change(&mut pending);
            pending.touched = true;
        }
        self.wake.notify_one();
        self.bus.send_modify(|count| *count = count.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn changes_of_one_row_are_one_entry_and_ring_the_bus() {
        let (bus, mut changed) = watch::channel(0);
        changed.mark_unchanged();
        let feed = Feed::new(bus);
        assert!(feed.take().is_none());
        for _ in 0..1000 {
            feed.row("a");
        }
        feed.mark();
        assert!(changed.has_changed().unwrap());
        let pending = feed.take().unwrap();
        assert!(pending.names.len() == 1 && pending.names.contains("a"));
        assert!(!pending.rescan && !pending.rearm);
        assert!(feed.take().is_none());
    }
}
