//! Writing a topic.
//!
//! A publisher keeps the typed rows as they were last published. Publishing compares with those first, so that an
//! unchanged object costs neither serialization nor I/O. A service doesn't call this by hand: the agent runtime replaces
//! the whole table by the report of each turn.
//!
//! On restart: opening a publisher makes the topic *not ready* (subscribers keep the last complete table), loads the rows
//! of the former run, and the first [`Publisher::set_ready`] declares the table complete again.

use serde_json::to_vec;

use crate::{
    BusError, DecodeError, Object, Rows, Topic,
    store::{Durable, Raw, Writer},
    topic::{Place, decode},
};

/// What [`Publisher::replace`] did. Empty when the table was the same already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys that are new or have a new value.
    pub published: Vec<String>,
    /// Keys that are gone.
    pub removed: Vec<String>,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.published.is_empty() && self.removed.is_empty()
    }
}

/// A row that couldn't be read and was moved to `.quarantine/` of its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// The key, or the file's name if the key is not known.
    pub key: String,
    /// What was wrong with it.
    pub reason: String,
    /// Whether an earlier good copy took its place.
    pub restored: bool,
}

/// Write access to one topic. There is one at a time.
pub struct Publisher<T> {
    place: Place,
    writer: Box<dyn Writer>,
    rows: Rows<T>,
    generation: Option<u64>,
    quarantined: Vec<Quarantined>,
}

impl<T: Object> Publisher<T> {
    /// Takes the topic over and loads the rows that are there.
    pub(crate) fn open(topic: &Topic<T>, mut writer: Box<dyn Writer>) -> Result<Self, BusError> {
        let place = topic.place()?;
        let mut rows = Rows::new();
        let mut broken = Vec::new();
        writer.load(&mut |raw| match read(topic, &raw) {
            Ok((key, object)) => {
                rows.insert(key, object);
            }
            Err(reason) => broken.push((raw.name.to_owned(), raw.key, reason)),
        })?;
        let mut quarantined = Vec::new();
        for (name, key, reason) in broken {
            let earlier = match &key {
                Ok(key) => writer
                    .last_good(&name)?
                    .and_then(|json| Some((key, topic.decode(&json).ok()?))),
                Err(_) => None,
            };
            writer.quarantine(&name, earlier.is_some())?;
            let restored = earlier.is_some();
            if let Some((key, object)) = earlier {
                rows.insert(key.clone(), object);
            }
            let key = key.unwrap_or(name);
            tracing::error!(topic = %place, %key, %reason, restored, "unreadable object quarantined");
            quarantined.push(Quarantined {
                key,
                reason,
                restored,
            });
        }
        writer.flush()?;
        Ok(Self {
            place,
            writer,
            rows,
            generation: None,
            quarantined,
        })
    }

    /// The rows as they were last published.
    pub fn rows(&self) -> &Rows<T> {
        &self.rows
    }

    /// The rows that could not be read when the publisher was opened.
    pub fn quarantined(&self) -> &[Quarantined] {
        &self.quarantined
    }

    /// The generation, once [`set_ready`](Self::set_ready) was called.
    pub fn generation(&self) -> Option<u64> {
        self.generation
    }

    /// Publishes one object; false if it was published with the same value already. A persistent one is on the medium
    /// when this returns. After an error the old object counts as the published one, so that the next call tries again.
    pub fn publish(&mut self, key: &str, object: &T) -> Result<bool, BusError> {
        if self.rows.get(key) == Some(object) {
            return Ok(false);
        }
        // Whether the directory is still ours is looked at afterwards: readers need not wait for that.
        if let Err(error) = self.put(key, object, Durable::Now) {
            if self.writer.intact()? {
                return Err(error);
            }
            self.restore_if_lost()?;
            self.put(key, object, Durable::Now)?;
        }
        self.keep(key, object);
        self.restore_if_lost()?;
        Ok(true)
    }

    /// Removes one object; false if there was none.
    pub fn unpublish(&mut self, key: &str) -> Result<bool, BusError> {
        if !self.rows.contains_key(key) {
            return Ok(false);
        }
        self.restore_if_lost()?;
        self.writer.delete(key, Durable::Now)?;
        self.rows.remove(key);
        Ok(true)
    }

    /// Makes the table exactly `rows`: publishes what differs, then removes the rest. An error with one object doesn't
    /// keep the others back; the first one is returned when all were tried.
    pub fn replace(&mut self, rows: &Rows<T>) -> Result<Changes, BusError> {
        let published: Vec<_> = rows
            .iter()
            .filter(|(key, object)| self.rows.get(*key) != Some(*object))
            .collect();
        let removed: Vec<_> = self
            .rows
            .keys()
            .filter(|key| !rows.contains_key(*key))
            .cloned()
            .collect();
        let mut changes = Changes::default();
        if published.is_empty() && removed.is_empty() {
            return Ok(changes);
        }
        self.restore_if_lost()?;
        let mut failed = None;
        let mut written = Vec::with_capacity(published.len());
        for (key, object) in published {
            match self.put(key, object, Durable::AtFlush) {
                Ok(()) => written.push((key, object)),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        for key in removed {
            match self.writer.delete(&key, Durable::AtFlush) {
                Ok(_) => changes.removed.push(key),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        self.writer.flush()?;
        for (key, object) in written {
            self.keep(key, object);
            changes.published.push(key.clone());
        }
        for key in &changes.removed {
            self.rows.remove(key);
        }
        failed.map_or(Ok(changes), Err)
    }

    /// Declares that the table is complete: a turn has been made since the start. The first call begins a new
    /// generation; further calls return the same one and cost nothing.
    pub fn set_ready(&mut self) -> Result<u64, BusError> {
        if let Some(generation) = self.generation {
            return Ok(generation);
        }
        self.restore_if_lost()?;
        let generation = self.writer.set_ready()?;
        self.generation = Some(generation);
        Ok(generation)
    }

    fn put(&mut self, key: &str, object: &T, durable: Durable) -> Result<(), BusError> {
        let json = to_vec(object).map_err(|source| BusError::Encode {
            topic: self.place.to_string(),
            key: key.to_owned(),
            source,
        })?;
        self.writer.put(key, &json, durable)
    }

    fn keep(&mut self, key: &str, object: &T) {
        match self.rows.get_mut(key) {
            Some(kept) => kept.clone_from(object),
            None => {
                self.rows.insert(key.to_owned(), object.clone());
            }
        }
    }

    /// Writes the whole table again if its directory was removed or replaced under us.
    fn restore_if_lost(&mut self) -> Result<(), BusError> {
        if self.writer.intact()? {
            return Ok(());
        }
        tracing::warn!(topic = %self.place, rows = self.rows.len(), "the topic's directory was replaced; writing it again");
        self.writer.recreate()?;
        let rows = std::mem::take(&mut self.rows);
        let result = rows
            .iter()
            .try_for_each(|(key, object)| self.put(key, object, Durable::AtFlush));
        self.rows = rows;
        result?;
        self.writer.flush()?;
        if self.generation.is_some() {
            self.generation = Some(self.writer.set_ready()?);
        }
        Ok(())
    }
}

/// Key and object of a stored row, or why it can't be read.
fn read<T: Object>(topic: &Topic<T>, raw: &Raw<'_>) -> Result<(String, T), String> {
    let key = raw.key.clone()?;
    let bytes = raw.bytes.as_ref().map_err(Clone::clone)?;
    let object =
        decode(topic.migration(), bytes).map_err(|error: DecodeError| error.to_string())?;
    Ok((key, object))
}
