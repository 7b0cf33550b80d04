//! What a subscription has still to look at: filled by the store, emptied by the reader.
//!
//! A feed holds names, not values: a thousand changes of one key are one entry, and the reader takes the latest.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};

use crate::{lock::Lock, store::Raw};

/// What changed since the reader last asked.
#[derive(Default)]
pub(crate) struct Pending {
    /// Something changed, if only the `ready` mark.
    pub(crate) touched: bool,
    /// Names (as the store calls them) of rows that were written or removed.
    pub(crate) names: HashMap<String, Option<Early>>,
    /// Changes may have been missed: compare everything.
    pub(crate) rescan: bool,
    /// A watched directory came, went or was replaced: attach again.
    pub(crate) rearm: bool,
}

/// A row that was read while its reader was still waking up.
pub(crate) struct Early {
    /// When reading began.
    pub(crate) at: Instant,
    /// The row, `None` if it was not there.
    pub(crate) raw: Option<Raw>,
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

    /// The row called `name` was written or removed. True if the reader had nothing to do before.
    pub(crate) fn row(&self, name: &str) -> bool {
        self.update(|pending| match pending.names.get_mut(name) {
            Some(early) => *early = None,
            None => drop(pending.names.insert(name.to_owned(), None)),
        })
    }

    /// Saves the reader the work of reading `name`, unless it has begun already. To be called by who called
    /// [`row`](Self::row) before it calls that again: then `early` is not older than what was noted.
    pub(crate) fn offer(&self, name: &str, early: Early) {
        if let Some(wanted) = self.pending.held().names.get_mut(name) {
            *wanted = Some(early);
        }
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

    /// Notes something and wakes the reader; true if there was nothing before.
    fn update<R>(&self, change: impl FnOnce(&mut Pending) -> R) -> bool {
        let first = {
            let mut pending = self.pending.held();
            change(&mut pending);
            !std::mem::replace(&mut pending.touched, true)
        };
        self.wake.notify_one();
        self.bus.send_modify(|count| *count = count.wrapping_add(1));
        first
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
        assert!(feed.row("a"));
        feed.offer(
            "a",
            Early {
                at: Instant::now(),
                raw: None,
            },
        );
        for _ in 0..1000 {
            assert!(!feed.row("a"));
        }
        feed.mark();
        assert!(changed.has_changed().unwrap());
        let pending = feed.take().unwrap();
        assert!(pending.names.len() == 1 && pending.names["a"].is_none());
        assert!(!pending.rescan && !pending.rearm);
        assert!(feed.take().is_none());
    }
}
