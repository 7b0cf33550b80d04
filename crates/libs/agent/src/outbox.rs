//! From a report to the bus: publish what changed, remove the rest, say that it is complete.

use std::collections::{BTreeMap, BTreeSet};

use bus::{BusError, Object, Rows, Topic};
use serde_json::Value;
use tracing::{debug, info, warn};

use crate::Tables;

/// Takes a report's tables in the order in which they are put: referents before referrers.
#[derive(Default)]
pub struct Outbox {
    tables: Vec<Box<dyn Pending>>,
    topics: Vec<(&'static str, &'static str)>,
}

impl Outbox {
    /// Puts a table. `None` leaves the topic as it is, and not ready if it never was. While a row of a persistent topic
    /// cannot be written nothing is done: what an action relies on must survive a power cut.
    pub fn put<T: Object>(&mut self, topic: &Topic<T>, rows: Option<Rows<T>>) {
        self.add(topic, rows, topic.is_persistent());
    }

    /// Puts a table of a persistent topic that no action relies on: actions go on though it cannot be written.
    pub fn remember<T: Object>(&mut self, topic: &Topic<T>, rows: Rows<T>) {
        self.add(topic, Some(rows), false);
    }

    fn add<T: Object>(&mut self, topic: &Topic<T>, rows: Option<Rows<T>>, is_relied_on: bool) {
        self.topics.push((topic.service(), topic.name()));
        if let Some(rows) = rows {
            self.tables.push(Box::new(Table {
                topic: *topic,
                rows,
                is_relied_on,
            }));
        }
    }

    /// Every topic that the report names, also those not known yet.
    pub fn topics(&self) -> &[(&'static str, &'static str)] {
        &self.topics
    }

    /// Publishes in order, removes in reverse order, then marks each topic as ready whose rows are all
    /// there. Goes on after an error with what is left: a row that cannot be written keeps no other back.
    pub(crate) fn flush(self, tables: &mut Tables, ready: &mut BTreeSet<&'static str>) -> Flushed {
        let mut flushed = Flushed::default();
        let mut failed = BTreeSet::new();
        for table in &self.tables {
            let done = table.publish(tables);
            flushed.note(table.as_ref(), done, &mut failed);
        }
        for table in self.tables.iter().rev() {
            let done = table.prune(tables);
            flushed.note(table.as_ref(), done, &mut failed);
        }
        for table in &self.tables {
            // Readers take a ready table for a complete one and remove what it does not name.
            if !ready.contains(table.name()) && !failed.contains(table.name()) {
                let error = table.set_ready(tables).err();
                if error.is_none() {
                    ready.insert(table.name());
                }
                flushed.note(table.as_ref(), Done { rows: 0, error }, &mut failed);
            }
        }
        for (name, rows) in &flushed.changed {
            tables.changed(name);
            flushed.again |= *rows > 0 && tables.reads_back(name);
        }
        flushed
    }
}

/// What became of a report.
#[derive(Default)]
pub(crate) struct Flushed {
    /// Rows that changed, per topic.
    changed: BTreeMap<&'static str, usize>,
    /// The service reads one of them back.
    pub(crate) again: bool,
    /// The first error.
    pub(crate) error: Option<BusError>,
    /// A row that must survive power cuts is not written: nothing may be done that relies on it.
    pub(crate) hold: bool,
}

impl Flushed {
    /// How many rows changed.
    pub(crate) fn rows(&self) -> usize {
        self.changed.values().sum()
    }

    fn note(&mut self, table: &dyn Pending, done: Done, failed: &mut BTreeSet<&'static str>) {
        *self.changed.entry(table.name()).or_default() += done.rows;
        if let Some(error) = done.error {
            warn!(topic = table.name(), %error, "cannot publish");
            self.hold |= table.is_relied_on();
            self.error.get_or_insert(error);
            failed.insert(table.name());
        }
    }
}

/// Rows that changed, and the first error.
#[derive(Default)]
struct Done {
    rows: usize,
    error: Option<BusError>,
}

impl Done {
    fn failed(error: BusError) -> Self {
        Self {
            rows: 0,
            error: Some(error),
        }
    }

    fn note<T>(&mut self, result: Result<T, BusError>) {
        match result {
            Ok(_) => self.rows += 1,
            Err(error) => drop(self.error.get_or_insert(error)),
        }
    }
}

/// A table of any type, to be published.
trait Pending: Send {
    fn name(&self) -> &'static str;
    fn is_relied_on(&self) -> bool;
    fn publish(&self, tables: &mut Tables) -> Done;
    fn prune(&self, tables: &mut Tables) -> Done;
    fn set_ready(&self, tables: &mut Tables) -> Result<(), BusError>;
}

struct Table<T> {
    topic: Topic<T>,
    rows: Rows<T>,
    is_relied_on: bool,
}

impl<T: Object> Pending for Table<T> {
    fn name(&self) -> &'static str {
        self.topic.name()
    }

    fn is_relied_on(&self) -> bool {
        self.is_relied_on
    }

    fn publish(&self, tables: &mut Tables) -> Done {
        let publisher = match tables.publisher(&self.topic) {
            Ok(publisher) => publisher,
            Err(error) => return Done::failed(error),
        };
        let mut done = Done::default();
        for (key, row) in &self.rows {
            let old = publisher.rows().get(key);
            if old == Some(row) {
                continue;
            }
            log_change(&self.topic, key, old, row);
            done.note(publisher.publish(key, row));
        }
        done
    }

    fn prune(&self, tables: &mut Tables) -> Done {
        let publisher = match tables.publisher(&self.topic) {
            Ok(publisher) => publisher,
            Err(error) => return Done::failed(error),
        };
        let mut done = Done::default();
        let gone: Vec<String> = publisher
            .rows()
            .keys()
            .filter(|k| !self.rows.contains_key(*k))
            .cloned()
            .collect();
        for key in &gone {
            info!(topic = self.topic.name(), key, "removed");
            done.note(publisher.unpublish(key));
        }
        done
    }

    fn set_ready(&self, tables: &mut Tables) -> Result<(), BusError> {
        tables.publisher(&self.topic)?.set_ready().map(|_| ())
    }
}

/// One log line per change of phase, by the runtime, so that no service logs its steps.
fn log_change<T: Object>(topic: &Topic<T>, key: &str, old: Option<&T>, new: &T) {
    let glance = |row: &T| {
        let value = serde_json::to_value(row).unwrap_or(Value::Null);
        let phase = value.get("Phase").map(phase_word);
        let fault = value.get("Fault").filter(|f| !f.is_null()).map(|f| {
            let text = |name: &str| {
                f.get(name)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            format!("[{}] {}: {}", text("Code"), text("Object"), text("Text"))
        });
        (phase, fault)
    };
    let (phase, fault) = glance(new);
    let (old_phase, old_fault) = old.map(glance).unwrap_or_default();
    match (&fault, phase == old_phase) {
        (Some(fault), _) if Some(fault) != old_fault.as_ref() => {
            warn!(topic = topic.name(), key, phase, fault, "fault");
        }
        (_, false) => info!(
            topic = topic.name(),
            key,
            from = old_phase,
            to = phase,
            "phase"
        ),
        (_, true) => debug!(topic = topic.name(), key, "changed"),
    }
}

/// `"Running"` and `{"Running": {...}}` both read as `Running`.
fn phase_word(phase: &Value) -> String {
    match phase {
        Value::String(word) => word.clone(),
        Value::Object(fields) => fields.keys().next().cloned().unwrap_or_default(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => phase.to_string(),
    }
}
