//! Reading a topic as it changes.
//!
//! The store only notes which rows changed ([`Feed`]); reading and parsing happen when the owner of the subscription asks.
//! So a burst costs one parse per changed key, and nothing is parsed that nobody looks at.
//!
//! A table is handed out only when it is complete. The writer removes its `ready` mark before it touches anything after a
//! restart and sets a new one when it has completed a turn. The reader therefore looks at the mark, reads the rows, and
//! looks again: the same mark before and after means that what lies between belongs to a complete table. A new mark means
//! that everything is compared again; no mark means that the last complete table stays as it is.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{
    BusError, Object, Rows, Topic,
    feed::{Feed, Pending},
    lock::Lock,
    store::{Known, Raw, ReadyMark, Sink, Stamp, Store},
    topic::{Migration, Place, decode},
};

/// How long a reader waits before it tries again after an error such as a lack of descriptors.
const RETRY: Duration = Duration::from_secs(1);
/// How often a reader starts over at once because the writer changed under it.
const ATTEMPTS: usize = 8;

/// A live view of one topic.
pub struct Subscription<T> {
    place: Place,
    store: Arc<dyn Store>,
    feed: Arc<Feed>,
    view: Mutex<View<T>>,
}

/// What the reader has of the topic.
struct View<T> {
    migration: Option<Migration>,
    /// Show rows whether the writer is ready or not.
    always: bool,
    /// The last complete table.
    table: Option<Arc<Rows<T>>>,
    /// Which completion `table` belongs to.
    mark: Option<ReadyMark>,
    /// Which version of each row is in `table`, by the store's name.
    have: Have,
    /// Rows whose stored form can't be read: key to reason. `table` has their last good value, if there was one.
    unreadable: BTreeMap<String, String>,
    /// Counts the changes of `table`.
    version: u64,
    /// The version that was handed out last.
    seen: u64,
}

/// One difference between the stored rows and the table.
enum Delta<T> {
    Value {
        name: String,
        key: String,
        stamp: Stamp,
        object: T,
    },
    Unreadable {
        name: String,
        key: Option<String>,
        stamp: Stamp,
        reason: String,
        earlier: Option<T>,
    },
    Gone {
        name: String,
    },
}

#[derive(Default)]
struct Have(HashMap<String, Slot>);

struct Slot {
    stamp: Stamp,
    /// `None`: the same as the name.
    key: Option<String>,
}

impl Known for Have {
    fn stamp(&self, name: &str) -> Option<Stamp> {
        self.0.get(name).map(|slot| slot.stamp)
    }
}

impl<T: Object> Subscription<T> {
    pub(crate) fn open(
        topic: &Topic<T>,
        store: Arc<dyn Store>,
        feed: Feed,
    ) -> Result<Self, BusError> {
        Self::at(topic.place()?, topic.migration(), false, store, feed)
    }

    pub(crate) fn at(
        place: Place,
        migration: Option<Migration>,
        always: bool,
        store: Arc<dyn Store>,
        feed: Feed,
    ) -> Result<Self, BusError> {
        let view = Mutex::new(View::new(migration, always));
        let subscription = Self {
            place,
            store,
            feed: Arc::new(feed),
            view,
        };
        // First watch, then look: what changes from here on is noted.
        subscription
            .store
            .attach(&subscription.place, &subscription.feed)?;
        let first = Pending {
            rescan: true,
            ..Pending::default()
        };
        let looked = subscription.catch_up(&mut subscription.view.held(), first);
        if let Err(error) = looked {
            tracing::debug!(topic = %subscription.place, %error, "the first look failed; there will be another");
            subscription.feed.rescan();
        }
        Ok(subscription)
    }

    /// The last complete table; `None` until the writer was ready once. While the writer restarts this stays as it was,
    /// then jumps to the new complete table. What was published before the call is in it. Drop the table before asking for the next one: a change is then made in
    /// place instead of on a copy.
    pub fn rows(&self) -> Option<Arc<Rows<T>>> {
        let mut view = self.view.held();
        self.store.catch_up();
        self.refresh(&mut view);
        view.seen = view.version;
        view.table.clone()
    }

    /// The generation of the table, `None` while its writer is not ready; as of the last [`rows`](Self::rows).
    pub fn generation(&self) -> Option<u64> {
        self.view.held().mark.map(|mark| mark.generation)
    }

    /// Rows whose stored form can't be read now: key to reason. The table has their last good value, if there is one.
    pub fn unreadable(&self) -> BTreeMap<String, String> {
        self.view.held().unreadable.clone()
    }

    /// Waits until the table differs from what [`rows`](Self::rows) returned last. Safe to cancel.
    pub async fn changed(&mut self) {
        loop {
            {
                let mut view = self.view.held();
                self.refresh(&mut view);
                if view.seen != view.version {
                    view.seen = view.version;
                    return;
                }
            }
            self.store.follow();
            self.feed.changed().await;
        }
    }

    /// Brings the view up to date with what the feed has noted.
    fn refresh(&self, view: &mut View<T>) {
        let Some(pending) = self.feed.take() else {
            return;
        };
        if let Err(error) = self.catch_up(view, pending) {
            tracing::warn!(topic = %self.place, %error, "can't read the topic; its last complete table stays in use");
            self.feed.retry_later(RETRY);
        }
    }

    fn catch_up(&self, view: &mut View<T>, pending: Pending) -> Result<(), BusError> {
        if pending.rearm {
            self.store.attach(&self.place, &self.feed)?;
        }
        if !pending.rescan && self.catch_up_some(view, pending.names)? {
            return Ok(());
        }
        for _ in 0..ATTEMPTS {
            let before = self.store.ready(&self.place, view.mark.as_ref())?;
            if before.is_none() && !view.always {
                // Whatever mark comes next, everything is compared then.
                view.mark = None;
                return Ok(());
            }
            let deltas = self.compare_all(view)?;
            let after = self.store.ready(&self.place, before.as_ref())?;
            if view.always || same(before.as_ref(), after.as_ref()) {
                view.mark = after;
                view.apply(&self.place, deltas);
                return Ok(());
            }
        }
        // The writer is restarting over and over. Whatever it does next wakes us again.
        self.feed.rescan();
        Ok(())
    }

    /// Takes over single rows if the table is still the one that the mark is known of; false if everything has to be
    /// compared.
    fn catch_up_some(&self, view: &mut View<T>, names: HashSet<String>) -> Result<bool, BusError> {
        if view.mark.is_none() && !(view.always && view.table.is_some()) {
            return Ok(false);
        }
        let deltas = self.read_some(view, names)?;
        let after = self.store.ready(&self.place, view.mark.as_ref())?;
        let still = same(view.mark.as_ref(), after.as_ref());
        if still || view.always {
            view.mark = after;
            view.apply(&self.place, [deltas]);
        }
        Ok(still || view.always)
    }

    /// Every difference between what is stored and the view.
    fn compare_all(&self, view: &View<T>) -> Result<[Vec<Delta<T>>; 2], BusError> {
        // Two, for a large table is read and parsed in two threads.
        let mut deltas = [Vec::new(), Vec::new()];
        let mut failed = [None, None];
        let there = {
            let [first, second] = &mut deltas;
            let [first_failed, second_failed] = &mut failed;
            let first: &mut Sink<'_> = &mut |raw| match self.delta(view, raw) {
                Ok(delta) => first.push(delta),
                Err(error) => *first_failed = Some(error),
            };
            let second: &mut Sink<'_> = &mut |raw| match self.delta(view, raw) {
                Ok(delta) => second.push(delta),
                Err(error) => *second_failed = Some(error),
            };
            self.store
                .scan(&self.place, &view.have, &mut [first, second])?
        };
        if let Some(error) = failed.into_iter().flatten().next() {
            return Err(error);
        }
        if !view.have.0.is_empty() {
            let there: HashSet<_> = there.iter().collect();
            let gone = view.have.0.keys().filter(|name| !there.contains(&***name));
            deltas[1].extend(gone.map(|name| Delta::Gone { name: name.clone() }));
        }
        Ok(deltas)
    }

    /// The differences of the rows that were noted as changed.
    fn read_some(&self, view: &View<T>, names: HashSet<String>) -> Result<Vec<Delta<T>>, BusError> {
        let mut deltas = Vec::with_capacity(names.len());
        let mut buffer = Vec::new();
        for name in names {
            deltas.push(match self.store.fetch(&self.place, &name, &mut buffer)? {
                Some(raw) => self.delta(view, raw)?,
                None => Delta::Gone { name },
            });
        }
        Ok(deltas)
    }

    fn delta(&self, view: &View<T>, raw: Raw<'_>) -> Result<Delta<T>, BusError> {
        let Raw {
            name,
            key,
            stamp,
            bytes,
        } = raw;
        let key = match key {
            Ok(key) => key,
            Err(reason) => {
                return Ok(Delta::Unreadable {
                    name: name.to_owned(),
                    key: None,
                    stamp,
                    reason,
                    earlier: None,
                });
            }
        };
        let object =
            bytes.and_then(|json| decode(view.migration, json).map_err(|error| error.to_string()));
        match object {
            Ok(object) => Ok(Delta::Value {
                name: name.to_owned(),
                key,
                stamp,
                object,
            }),
            Err(reason) => {
                let known = view
                    .table
                    .as_ref()
                    .is_some_and(|table| table.contains_key(&key));
                let earlier = if known {
                    None
                } else {
                    self.store.last_good(&self.place, name)?
                };
                let earlier = earlier.and_then(|json| decode(view.migration, &json).ok());
                Ok(Delta::Unreadable {
                    name: name.to_owned(),
                    key: Some(key),
                    stamp,
                    reason,
                    earlier,
                })
            }
        }
    }
}

impl<T> Drop for Subscription<T> {
    fn drop(&mut self) {
        self.store.detach(&self.place, &self.feed);
    }
}

impl<T: Object> View<T> {
    fn new(migration: Option<Migration>, always: bool) -> Self {
        Self {
            migration,
            always,
            table: None,
            mark: None,
            have: Have::default(),
            unreadable: BTreeMap::new(),
            version: 0,
            seen: 0,
        }
    }

    fn apply<const N: usize>(&mut self, place: &Place, deltas: [Vec<Delta<T>>; N]) {
        let table = if let Some(mut table) = self.table.take() {
            for delta in deltas.into_iter().flatten() {
                self.apply_one(place, &mut table, delta);
            }
            table
        } else {
            self.version += 1;
            Arc::new(self.build(place, deltas))
        };
        self.table = Some(table);
    }

    /// The first table at once: a tree from a sequence is built several times faster than row by row.
    fn build<const N: usize>(&mut self, place: &Place, deltas: [Vec<Delta<T>>; N]) -> Rows<T> {
        let count = deltas.iter().map(Vec::len).sum();
        let mut rows = Vec::with_capacity(count);
        self.have.0.reserve(count);
        for delta in deltas.into_iter().flatten() {
            match delta {
                Delta::Value {
                    name,
                    key,
                    stamp,
                    object,
                } => {
                    self.note(name, &key, stamp);
                    rows.push((key, object));
                }
                Delta::Unreadable {
                    name,
                    key,
                    stamp,
                    reason,
                    earlier,
                } => {
                    let key = self.note_unreadable(place, name, key, stamp, reason);
                    rows.extend(earlier.map(|object| (key, object)));
                }
                Delta::Gone { .. } => {}
            }
        }
        rows.into_iter().collect()
    }

    fn apply_one(&mut self, place: &Place, table: &mut Arc<Rows<T>>, delta: Delta<T>) {
        match delta {
            Delta::Value {
                name,
                key,
                stamp,
                object,
            } => {
                self.unreadable.remove(&key);
                self.note(name, &key, stamp);
                if table.get(&key) != Some(&object) {
                    self.version += 1;
                    Arc::make_mut(table).insert(key, object);
                }
            }
            Delta::Unreadable {
                name,
                key,
                stamp,
                reason,
                earlier,
            } => {
                let key = self.note_unreadable(place, name, key, stamp, reason);
                if let Some(object) = earlier
                    && !table.contains_key(&key)
                {
                    self.version += 1;
                    Arc::make_mut(table).insert(key, object);
                }
            }
            Delta::Gone { name } => {
                let Some(slot) = self.have.0.remove(&name) else {
                    return;
                };
                let key = slot.key.unwrap_or(name);
                self.unreadable.remove(&key);
                if table.contains_key(&key) {
                    self.version += 1;
                    Arc::make_mut(table).remove(&key);
                }
            }
        }
    }

    fn note(&mut self, name: String, key: &str, stamp: Stamp) {
        let key = (key != name).then(|| key.to_owned());
        self.have.0.insert(name, Slot { stamp, key });
    }

    fn note_unreadable(
        &mut self,
        place: &Place,
        name: String,
        key: Option<String>,
        stamp: Stamp,
        reason: String,
    ) -> String {
        let key = key.unwrap_or_else(|| name.clone());
        self.note(name, &key, stamp);
        if self.unreadable.get(&key) != Some(&reason) {
            tracing::error!(topic = %place, %key, %reason, "unreadable object; its last good value stays in use");
            self.unreadable.insert(key.clone(), reason);
        }
        key
    }
}

/// Whether both marks stand for the same complete table.
fn same(a: Option<&ReadyMark>, b: Option<&ReadyMark>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.same(b),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// One look at a topic, with no watch: `None` if its writer is not ready.
pub(crate) fn read_once<T: Object>(
    topic: &Topic<T>,
    store: Arc<dyn Store>,
    feed: Feed,
) -> Result<Option<Rows<T>>, BusError> {
    let view = Mutex::new(View::new(topic.migration(), false));
    let reader = Subscription {
        place: topic.place()?,
        store,
        feed: Arc::new(feed),
        view,
    };
    let mut view = reader.view.held();
    reader.catch_up(
        &mut view,
        Pending {
            rescan: true,
            ..Pending::default()
        },
    )?;
    Ok(view.table.take().map(Arc::unwrap_or_clone))
}
