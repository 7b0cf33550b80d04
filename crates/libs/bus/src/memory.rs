//! The bus in memory, for tests: the behaviour of the file store without its files.
//!
//! Objects are kept as JSON here too, so that what doesn't survive serialization fails in every test.
//! [`MemoryControl`] does to it what reboots and kills do to the files.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, Weak},
};

use crate::{
    BusError,
    feed::Feed,
    lock::Lock,
    store::{Durable, Known, Names, Raw, ReadyMark, Sink, Stamp, Store, Summary, Writer},
    topic::Place,
};

/// All topics of one bus in memory.
#[derive(Default)]
pub(crate) struct MemoryStore {
    tables: Arc<Mutex<BTreeMap<Place, Table>>>,
    limits: Arc<Mutex<BTreeMap<String, Limit>>>,
}

/// What is left of a service that is being killed.
#[derive(Default)]
struct Limit {
    /// Writes that it will still do.
    left: u64,
    /// It has tried to do one more.
    over: bool,
}

/// What happens to a device around its bus in memory. For tests of whole devices.
#[derive(Clone)]
pub struct MemoryControl {
    tables: Arc<Mutex<BTreeMap<Place, Table>>>,
    limits: Arc<Mutex<BTreeMap<String, Limit>>>,
}

impl MemoryControl {
    /// A reboot: topics that are not persistent are gone as if they had never been published. Whoever wrote or read
    /// them has ended before.
    pub fn wipe_run(&self) {
        for (place, table) in self.tables.held().iter_mut() {
            if !place.persistent {
                let feeds = std::mem::take(&mut table.feeds);
                *table = Table {
                    feeds,
                    versions: table.versions,
                    ..Table::default()
                };
                table.tell(Feed::rescan);
            }
        }
    }

    /// A kill: `service` gets `writes` more rows written, then every write fails until [`revive`](Self::revive).
    pub fn kill_after(&self, service: &str, writes: u64) {
        let limit = Limit {
            left: writes,
            over: false,
        };
        self.limits.held().insert(service.to_owned(), limit);
    }

    /// Whether `service` has tried to write after its last write: from there on it does nothing any more.
    pub fn is_killed(&self, service: &str) -> bool {
        self.limits
            .held()
            .get(service)
            .is_some_and(|limit| limit.over)
    }

    /// Ends what [`kill_after`](Self::kill_after) began.
    pub fn revive(&self, service: &str) {
        self.limits.held().remove(service);
    }
}

#[derive(Default)]
struct Table {
    rows: BTreeMap<String, Row>,
    last_good: BTreeMap<String, Vec<u8>>,
    quarantine: BTreeMap<String, Vec<u8>>,
    ready: Option<ReadyMark>,
    generation: u64,
    versions: u64,
    /// Somebody has published here; a mere subscription makes a table too.
    made: bool,
    feeds: Vec<Weak<Feed>>,
}

#[derive(Clone)]
struct Row {
    json: Vec<u8>,
    stamp: Stamp,
}

impl Table {
    fn stamp(&mut self, size: usize) -> Stamp {
        self.versions += 1;
        Stamp {
            id: self.versions,
            size: size as u64,
            mtime: 0,
            ctime: 0,
            settled: true,
        }
    }

    fn tell<R>(&mut self, news: impl Fn(&Feed) -> R) {
        self.feeds.retain(|feed| match feed.upgrade() {
            Some(feed) => {
                news(&feed);
                true
            }
            None => false,
        });
    }
}

impl Row {
    fn raw<'a>(name: &'a str, stamp: Stamp, json: &'a [u8]) -> Raw<'a> {
        Raw {
            name,
            key: Ok(name.to_owned()),
            stamp,
            bytes: Ok(json),
        }
    }
}

impl MemoryStore {
    pub(crate) fn control(&self) -> MemoryControl {
        MemoryControl {
            tables: Arc::clone(&self.tables),
            limits: Arc::clone(&self.limits),
        }
    }

    fn open(&self, place: &Place, take_over: bool) -> Box<dyn Writer> {
        let mut tables = self.tables.held();
        let table = tables.entry(place.clone()).or_default();
        table.made = true;
        if take_over && table.ready.take().is_some() {
            table.tell(Feed::mark);
        }
        Box::new(MemoryWriter {
            tables: Arc::clone(&self.tables),
            limits: Arc::clone(&self.limits),
            place: place.clone(),
        })
    }

    fn with<R>(&self, place: &Place, look: impl FnOnce(&Table) -> R) -> Option<R> {
        self.tables.held().get(place).map(look)
    }
}

impl Store for MemoryStore {
    fn writer(&self, place: &Place) -> Result<Box<dyn Writer>, BusError> {
        Ok(self.open(place, true))
    }

    fn intruder(&self, place: &Place) -> Result<Box<dyn Writer>, BusError> {
        Ok(self.open(place, false))
    }

    fn scan(
        &self,
        place: &Place,
        known: &dyn Known,
        sinks: &mut [&mut Sink<'_>],
    ) -> Result<Names, BusError> {
        // The reader may ask for more while it takes the rows: the table can't stay locked.
        let mut changed = Vec::new();
        let there = self.with(place, |table| {
            for (name, row) in &table.rows {
                if !known
                    .stamp(name)
                    .is_some_and(|stamp| stamp.still(&row.stamp))
                {
                    changed.push((name.clone(), row.clone()));
                }
            }
            table.rows.keys().map(String::as_str).collect()
        });
        if let Some(sink) = sinks.first_mut() {
            for (name, row) in &changed {
                sink(Row::raw(name, row.stamp, &row.json));
            }
        }
        Ok(there.unwrap_or_default())
    }

    fn fetch<'a>(
        &self,
        place: &Place,
        name: &'a str,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<Raw<'a>>, BusError> {
        let found = self.with(place, |table| {
            table.rows.get(name).map(|row| {
                buffer.clone_from(&row.json);
                row.stamp
            })
        });
        Ok(found.flatten().map(|stamp| Row::raw(name, stamp, buffer)))
    }

    fn last_good(&self, place: &Place, name: &str) -> Result<Option<Vec<u8>>, BusError> {
        Ok(self
            .with(place, |table| table.last_good.get(name).cloned())
            .flatten())
    }

    fn ready(
        &self,
        place: &Place,
        _seen: Option<&ReadyMark>,
    ) -> Result<Option<ReadyMark>, BusError> {
        Ok(self.with(place, |table| table.ready).flatten())
    }

    fn attach(&self, place: &Place, feed: &Arc<Feed>) -> Result<(), BusError> {
        let mut tables = self.tables.held();
        let feeds = &mut tables.entry(place.clone()).or_default().feeds;
        let feed = Arc::downgrade(feed);
        if !feeds.iter().any(|known| known.ptr_eq(&feed)) {
            feeds.push(feed);
        }
        Ok(())
    }

    fn detach(&self, place: &Place, feed: &Arc<Feed>) {
        let feed = Arc::downgrade(feed);
        if let Some(table) = self.tables.held().get_mut(place) {
            table.feeds.retain(|known| !known.ptr_eq(&feed));
        }
    }

    fn places(&self) -> Result<Vec<Place>, BusError> {
        Ok(self
            .tables
            .held()
            .iter()
            .filter(|(_, table)| table.made)
            .map(|(place, _)| place.clone())
            .collect())
    }

    fn summary(&self, place: &Place) -> Result<Summary, BusError> {
        let summary = self.with(place, |table| Summary {
            ready: table.ready.is_some(),
            generation: table.generation,
            rows: table.rows.len(),
            quarantined: table.quarantine.len(),
        });
        summary.ok_or_else(|| BusError::NoTopic {
            topic: place.to_string(),
        })
    }
}

struct MemoryWriter {
    tables: Arc<Mutex<BTreeMap<Place, Table>>>,
    limits: Arc<Mutex<BTreeMap<String, Limit>>>,
    place: Place,
}

impl MemoryWriter {
    fn with<R>(&self, change: impl FnOnce(&mut Table) -> R) -> R {
        let mut tables = self.tables.held();
        change(tables.entry(self.place.clone()).or_default())
    }

    /// Counts a write; refused after the last one that a killed service has left.
    fn may_write(&self) -> Result<(), BusError> {
        match self.limits.held().get_mut(&self.place.service) {
            Some(limit) if limit.left == 0 => {
                limit.over = true;
                Err(BusError::Io {
                    action: "write",
                    path: PathBuf::from(self.place.to_string()),
                    source: io::Error::other("the service was killed"),
                })
            }
            Some(limit) => {
                limit.left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Writer for MemoryWriter {
    fn load(&mut self, sink: &mut Sink<'_>) -> Result<(), BusError> {
        let rows = self.with(|table| table.rows.clone());
        for (name, row) in &rows {
            sink(Row::raw(name, row.stamp, &row.json));
        }
        Ok(())
    }

    fn intact(&self) -> Result<bool, BusError> {
        Ok(true)
    }

    fn recreate(&mut self) -> Result<(), BusError> {
        Ok(())
    }

    fn put(&mut self, key: &str, json: &[u8], _durable: Durable) -> Result<(), BusError> {
        self.may_write()?;
        let persistent = self.place.persistent;
        self.with(|table| {
            let stamp = table.stamp(json.len());
            let old = table.rows.insert(
                key.to_owned(),
                Row {
                    json: json.to_vec(),
                    stamp,
                },
            );
            if let Some(old) = old
                && persistent
            {
                table.last_good.insert(key.to_owned(), old.json);
            }
            table.tell(|feed| feed.row(key));
        });
        Ok(())
    }

    fn delete(&mut self, key: &str, _durable: Durable) -> Result<bool, BusError> {
        self.may_write()?;
        Ok(self.with(|table| {
            table.last_good.remove(key);
            let there = table.rows.remove(key).is_some();
            if there {
                table.tell(|feed| feed.row(key));
            }
            there
        }))
    }

    fn flush(&mut self) -> Result<(), BusError> {
        Ok(())
    }

    fn quarantine(&mut self, name: &str, restore: bool) -> Result<(), BusError> {
        self.with(|table| {
            if let Some(row) = table.rows.remove(name) {
                table.quarantine.insert(name.to_owned(), row.json);
            }
            let earlier = table.last_good.remove(name);
            if let Some(json) = earlier
                && restore
            {
                let stamp = table.stamp(json.len());
                table.rows.insert(name.to_owned(), Row { json, stamp });
            }
            table.tell(|feed| feed.row(name));
        });
        Ok(())
    }

    fn last_good(&self, name: &str) -> Result<Option<Vec<u8>>, BusError> {
        Ok(self.with(|table| table.last_good.get(name).cloned()))
    }

    fn set_ready(&mut self) -> Result<u64, BusError> {
        self.may_write()?;
        Ok(self.with(|table| {
            let stamp = table.stamp(0);
            table.generation += 1;
            table.ready = Some(ReadyMark {
                generation: table.generation,
                stamp,
            });
            table.tell(Feed::mark);
            table.generation
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::{Bus, Topic};

    const RUN: Topic<u32> = Topic::run("nim", "Run");
    const KEPT: Topic<u32> = Topic::persist("nim", "Kept");

    #[test]
    fn a_reboot_takes_what_is_not_persistent() {
        let (bus, control) = Bus::memory_with_control();
        let nim = bus.acting_as("nim");
        for topic in [&RUN, &KEPT] {
            let mut publisher = nim.publisher(topic).unwrap();
            publisher.publish("a", &1).unwrap();
            publisher.set_ready().unwrap();
        }
        control.wipe_run();
        assert_eq!(bus.read(&RUN).unwrap(), None);
        assert_eq!(bus.read(&KEPT).unwrap().unwrap()["a"], 1);
        assert_eq!(bus.topics().unwrap().len(), 1);
        assert!(nim.publisher(&RUN).unwrap().rows().is_empty());
    }

    #[test]
    fn a_killed_writer_leaves_what_it_had_written() {
        let (bus, control) = Bus::memory_with_control();
        let mut publisher = bus.acting_as("nim").publisher(&RUN).unwrap();
        control.kill_after("nim", 1);
        publisher.publish("a", &1).unwrap();
        assert!(!control.is_killed("nim"));
        publisher.publish("b", &1).unwrap_err();
        publisher.unpublish("a").unwrap_err();
        publisher.set_ready().unwrap_err();
        assert!(control.is_killed("nim"));
        control.revive("nim");
        let mut next = bus.acting_as("nim").publisher(&RUN).unwrap();
        assert_eq!(next.rows().keys().collect::<Vec<_>>(), ["a"]);
        next.set_ready().unwrap();
    }
}
