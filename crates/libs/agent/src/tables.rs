//! The tables that a service reads.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bus::{Bus, Object, Publisher, Rows, Subscription, Topic};
use tracing::warn;

/// What a table cell holds: a `Subscription<T>` or `Publisher<T>` behind `Any`.
type Slot = Box<dyn Any + Send + Sync>;

/// The input tables of a service, subscribed when first asked for.
pub struct Tables {
    bus: Bus,
    subscriptions: BTreeMap<(&'static str, &'static str), Slot>,
    missing: Vec<String>,
    asked: Vec<(&'static str, &'static str)>,
    own: BTreeMap<&'static str, Slot>,
    /// Own topics that the service reads back: a change of one is an input of the next turn.
    read_back: BTreeSet<&'static str>,
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
        }
    }

    pub(crate) fn begin(&mut self) {
        self.missing.clear();
    }

    /// Topics that were asked for in the last reading and are not ready, as `service/Topic`.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Every topic that was ever asked for: the service's inputs.
    pub fn asked(&self) -> &[(&'static str, &'static str)] {
        &self.asked
    }

    /// The rows of a topic, or `None` while its writer has not said that they are complete.
    pub fn get<T: Object>(&mut self, topic: &Topic<T>) -> Option<Arc<Rows<T>>> {
        let key = (topic.service(), topic.name());
        if !self.subscriptions.contains_key(&key) {
            self.asked.push(key);
            match self.bus.subscribe(topic) {
                Ok(subscription) => {
                    self.subscriptions.insert(key, Box::new(subscription));
                }
                // Asked again at the next turn: the directory tree may not be there yet.
                Err(error) => warn!(topic = ?topic, %error, "cannot subscribe"),
            }
        }
        let rows = self
            .subscriptions
            .get(&key)
            .and_then(|slot| slot.downcast_ref::<Subscription<T>>())
            .and_then(Subscription::rows);
        if rows.is_none() {
            self.missing.push(format!("{}/{}", key.0, key.1));
        }
        rows
    }

    /// The service's own rows as last published, also those of before its restart (and, for a
    /// persistent topic, of before the reboot): the memory of what cannot be observed.
    pub fn own<T: Object>(&mut self, topic: &Topic<T>) -> Arc<Rows<T>> {
        self.read_back.insert(topic.name());
        match self.publisher(topic) {
            Some(publisher) => Arc::new(publisher.rows().clone()),
            None => Arc::default(),
        }
    }

    pub(crate) fn reads_back(&self, topic: &str) -> bool {
        self.read_back.contains(topic)
    }

    pub(crate) fn publisher<T: Object>(&mut self, topic: &Topic<T>) -> Option<&mut Publisher<T>> {
        if !self.own.contains_key(topic.name()) {
            match self.bus.publisher(topic) {
                Ok(publisher) => {
                    self.own.insert(topic.name(), Box::new(publisher));
                }
                Err(error) => warn!(topic = ?topic, %error, "cannot open for publishing"),
            }
        }
        self.own
            .get_mut(topic.name())
            .and_then(|slot| slot.downcast_mut::<Publisher<T>>())
    }
}
