//! The tables that a service reads.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bus::{Bus, BusError, Object, Publisher, Rows, Subscription, Topic};
use tracing::warn;

/// What a table cell holds: a `Subscription<T>`, `Publisher<T>` or `Arc<Rows<T>>` behind `Any`.
type Slot = Box<dyn Any + Send + Sync>;

/// The input tables of a service, subscribed when first asked for.
pub struct Tables {
    bus: Bus,
    subscriptions: BTreeMap<(&'static str, &'static str), Slot>,
    missing: Vec<String>,
    asked: Vec<(&'static str, &'static str)>,
    own: BTreeMap<&'static str, Own>,
    /// Own topics that the service reads back: a change of one is an input of the next turn.
    read_back: BTreeSet<&'static str>,
    /// Why the last reading does not count.
    broken: Option<BusError>,
    /// A topic could not be subscribed: nothing but another try will tell.
    unwatched: bool,
    look_only: bool,
}

/// A topic that the service writes.
struct Own {
    publisher: Slot,
    /// Its rows as handed to the plan, until one changes.
    shared: Option<Slot>,
}

impl Tables {
    pub(crate) fn new(bus: Bus) -> Self {
        Self {
            bus,
            subscriptions: BTreeMap::new(),
            missing: Vec::new(),
            asked: Vec::new(),
            own: BTreeMap::new(),
            read_back: BTreeSet::new(),
            broken: None,
            unwatched: false,
            look_only: false,
        }
    }

    /// From here on nothing is taken over for writing: the service itself may be running.
    pub(crate) fn look_only(&mut self) {
        self.look_only = true;
    }

    pub(crate) fn begin(&mut self) {
        self.missing.clear();
        self.broken = None;
        self.unwatched = false;
    }

    /// Why what was read since [`begin`](Self::begin) must not be planned from.
    pub(crate) fn broken(&mut self) -> Option<BusError> {
        self.broken.take()
    }

    /// Whether a topic has to be asked for again, because no change of it would be seen.
    pub(crate) fn is_unwatched(&self) -> bool {
        self.unwatched
    }

    /// Needed topics that were asked for in the last reading and are not ready, as `service/Topic`.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Every topic that was ever asked for: the service's inputs.
    pub fn asked(&self) -> &[(&'static str, &'static str)] {
        &self.asked
    }

    /// The rows of a topic that the service cannot plan without, or `None` while its writer has not
    /// said that they are complete.
    pub fn get<T: Object>(&mut self, topic: &Topic<T>) -> Option<Arc<Rows<T>>> {
        let rows = self.peek(topic);
        if rows.is_none() {
            self.missing
                .push(format!("{}/{}", topic.service(), topic.name()));
        }
        rows
    }

    /// The rows of a topic once they let the service begin; until then it waits, as for a topic that is not ready.
    pub fn get_when<T: Object>(
        &mut self,
        topic: &Topic<T>,
        begins: impl Fn(&Rows<T>) -> bool,
    ) -> Option<Arc<Rows<T>>> {
        let rows = self.get(topic)?;
        if begins(&rows) {
            return Some(rows);
        }
        self.missing
            .push(format!("{}/{}", topic.service(), topic.name()));
        None
    }

    /// The rows of a topic that the service can do without, or `None` while they are unknown: the
    /// same as [`get`](Self::get), but nobody is told that the service waits for them.
    pub fn peek<T: Object>(&mut self, topic: &Topic<T>) -> Option<Arc<Rows<T>>> {
        let key = (topic.service(), topic.name());
        if !self.subscriptions.contains_key(&key) {
            if !self.asked.contains(&key) {
                self.asked.push(key);
            }
            match self.bus.subscribe(topic) {
                Ok(subscription) => {
                    self.subscriptions.insert(key, Box::new(subscription));
                }
                // Asked again at the next turn: the directory tree may not be there yet.
                Err(error) => {
                    warn!(topic = ?topic, %error, "cannot subscribe");
                    self.unwatched = true;
                }
            }
        }
        self.subscriptions
            .get(&key)
            .and_then(|slot| slot.downcast_ref::<Subscription<T>>())
            .and_then(Subscription::rows)
    }

    /// The service's own rows as last published, also those of before its restart (and, for a
    /// persistent topic, of before the reboot): the memory of what cannot be observed. If they cannot
    /// be read there is no turn: a service that forgot what it did must not go on.
    pub fn own<T: Object>(&mut self, topic: &Topic<T>) -> Arc<Rows<T>> {
        let name = topic.name();
        self.read_back.insert(name);
        if self.look_only {
            return Arc::new(self.look(topic));
        }
        let shared = self.own.get(name).and_then(|own| own.shared.as_ref());
        if let Some(rows) = shared.and_then(|slot| slot.downcast_ref::<Arc<Rows<T>>>()) {
            return Arc::clone(rows);
        }
        let rows = match self.publisher(topic) {
            Ok(publisher) => Arc::new(publisher.rows().clone()),
            Err(error) => {
                self.broken.get_or_insert(error);
                return Arc::default();
            }
        };
        if let Some(own) = self.own.get_mut(name) {
            own.shared = Some(Box::new(Arc::clone(&rows)));
        }
        rows
    }

    /// Own rows without taking the topic over, ready or not.
    fn look<T: Object>(&mut self, topic: &Topic<T>) -> Rows<T> {
        let rows = match self.bus.read_raw(topic.service(), topic.name()) {
            Ok(rows) => rows,
            Err(BusError::NoTopic { .. }) => return Rows::new(),
            Err(error) => {
                self.broken.get_or_insert(error);
                return Rows::new();
            }
        };
        rows.into_iter()
            .filter_map(|(key, value)| {
                let json = serde_json::to_vec(&value).ok()?;
                Some((key, topic.decode(&json).ok()?))
            })
            .collect()
    }

    pub(crate) fn reads_back(&self, topic: &str) -> bool {
        self.read_back.contains(topic)
    }

    /// Rows of an own topic changed: what was handed out is not what is published any more.
    pub(crate) fn changed(&mut self, topic: &str) {
        if let Some(own) = self.own.get_mut(topic) {
            own.shared = None;
        }
    }

    pub(crate) fn publisher<T: Object>(
        &mut self,
        topic: &Topic<T>,
    ) -> Result<&mut Publisher<T>, BusError> {
        let name = topic.name();
        if !self.own.contains_key(name) {
            let publisher = Box::new(self.bus.publisher(topic)?);
            let shared = None;
            self.own.insert(name, Own { publisher, shared });
        }
        self.own
            .get_mut(name)
            .and_then(|own| own.publisher.downcast_mut::<Publisher<T>>())
            // Two topics of one name and different types: only one of them can be on the bus.
            .ok_or_else(|| BusError::NoTopic {
                topic: format!("{}/{name}", topic.service()),
            })
    }
}
