//! The bus without types, for tools: list, read, watch, and write beside the writer.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Bus, BusError, Subscription,
    feed::Feed,
    store::{Durable, Known, Sink, Stamp},
    topic::Place,
};

/// One topic as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TopicInfo {
    /// Its writer.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Whether it survives a reboot.
    pub persistent: bool,
    /// Whether the writer has completed a turn since it started.
    pub ready: bool,
    /// How often the writer has become ready.
    pub generation: u64,
    /// Number of objects.
    pub rows: usize,
    /// Number of unreadable objects that were moved away.
    pub quarantined: usize,
}

/// A reader that has nothing yet.
struct Nothing;

impl Known for Nothing {
    fn stamp(&self, _name: &str) -> Option<Stamp> {
        None
    }
}

impl Bus {
    /// Every topic that was ever published, by service and name.
    pub fn topics(&self) -> Result<Vec<TopicInfo>, BusError> {
        let mut topics = Vec::new();
        for place in self.store.places()? {
            let summary = self.store.summary(&place)?;
            topics.push(TopicInfo {
                service: place.service,
                name: place.name,
                persistent: place.persistent,
                ready: summary.ready,
                generation: summary.generation,
                rows: summary.rows,
                quarantined: summary.quarantined,
            });
        }
        topics.sort_by(|a, b| (&a.service, &a.name).cmp(&(&b.service, &b.name)));
        Ok(topics)
    }

    /// The objects of a topic as they are now, ready or not. Unreadable ones are left out.
    pub fn read_raw(
        &self,
        service: &str,
        topic: &str,
    ) -> Result<BTreeMap<String, Value>, BusError> {
        let Some(place) = self.find(service, topic)? else {
            return Err(BusError::NoTopic {
                topic: format!("{service}/{topic}"),
            });
        };
        let mut rows = BTreeMap::new();
        let sink: &mut Sink<'_> = &mut |raw| {
            if let (Ok(key), Ok(json)) = (raw.key, raw.bytes)
                && let Ok(value) = serde_json::from_slice(json)
            {
                rows.insert(key, value);
            }
        };
        self.store.scan(&place, &Nothing, &mut [sink])?;
        Ok(rows)
    }

    /// Puts an object into a topic, whoever its writer is. A running writer doesn't notice, and writes its own value again
    /// when that changes. A topic that doesn't exist is made (a [`run`](crate::Topic::run) one).
    pub fn put_raw(
        &self,
        service: &str,
        topic: &str,
        key: &str,
        value: &Value,
    ) -> Result<(), BusError> {
        let place = self.find_or_run(service, topic)?;
        let json = serde_json::to_vec(value).map_err(|source| BusError::Encode {
            topic: place.to_string(),
            key: key.to_owned(),
            source,
        })?;
        self.store.intruder(&place)?.put(key, &json, Durable::Now)
    }

    /// Removes an object from a topic, whoever its writer is; false if there was none.
    pub fn delete_raw(&self, service: &str, topic: &str, key: &str) -> Result<bool, BusError> {
        let Some(place) = self.find(service, topic)? else {
            return Ok(false);
        };
        self.store.intruder(&place)?.delete(key, Durable::Now)
    }

    /// Declares a topic complete in its writer's place, to feed a service that runs alone. Returns the new generation.
    pub fn set_ready_raw(&self, service: &str, topic: &str) -> Result<u64, BusError> {
        let place = self.find_or_run(service, topic)?;
        self.store.intruder(&place)?.set_ready()
    }

    /// A live view of a topic without its type. It shows the rows as they are, ready or not, so it is never `None`.
    pub fn watch_raw(&self, service: &str, topic: &str) -> Result<Subscription<Value>, BusError> {
        let place = self.find_or_run(service, topic)?;
        Subscription::at(
            place,
            None,
            true,
            Arc::clone(&self.store),
            Feed::new(self.signal.clone()),
        )
    }

    fn find(&self, service: &str, topic: &str) -> Result<Option<Place>, BusError> {
        Place::new(service, topic, false)?;
        Ok(self
            .store
            .places()?
            .into_iter()
            .find(|place| place.service == service && place.name == topic))
    }

    fn find_or_run(&self, service: &str, topic: &str) -> Result<Place, BusError> {
        self.find(service, topic)?
            .map_or_else(|| Place::new(service, topic, false), Ok)
    }
}
