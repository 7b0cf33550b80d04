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
    /// Puts a table. `None` leaves the topic as it is, and not ready if it never was.
    pub fn put<T: Object>(&mut self, topic: &Topic<T>, rows: Option<Rows<T>>) {
        self.topics.push((topic.service(), topic.name()));
        if let Some(rows) = rows {
            self.tables.push(Box::new(Table {
                topic: *topic,
                rows,
            }));
        }
    }

    /// Every topic that the report names, also those not known yet.
    pub fn topics(&self) -> &[(&'static str, &'static str)] {
        &self.topics
    }

    /// Publishes in order, removes in reverse order, then marks each topic as ready.
    /// Goes on after an error with what is left and returns the first one.
    /// Returns how many rows changed, and whether the service reads one of them back.
    pub(crate) fn flush(
        self,
        tables: &mut Tables,
        ready: &mut BTreeSet<&'static str>,
    ) -> Result<(usize, bool), BusError> {
        let mut first = Ok(());
        let mut changed = BTreeMap::<&str, usize>::new();
        let mut note = |name: &'static str, result: Result<usize, BusError>| match result {
            Ok(n) => *changed.entry(name).or_default() += n,
            Err(error) => {
                warn!(%error, "cannot publish");
                if first.is_ok() {
                    first = Err(error);
                }
            }
        };
        for table in &self.tables {
            note(table.name(), table.publish(tables));
        }
        for table in self.tables.iter().rev() {
            note(table.name(), table.prune(tables));
        }
        for table in &self.tables {
            if !ready.contains(table.name()) {
                let result = table.set_ready(tables);
                if result.is_ok() {
                    ready.insert(table.name());
                }
                note(table.name(), result.map(|()| 0));
            }
        }
        let again = changed
            .iter()
            .any(|(name, n)| *n > 0 && tables.reads_back(name));
        first.map(|()| (changed.values().sum(), again))
    }
}

/// A table of any type, to be published.
trait Pending: Send {
    fn name(&self) -> &'static str;
    fn publish(&self, tables: &mut Tables) -> Result<usize, BusError>;
    fn prune(&self, tables: &mut Tables) -> Result<usize, BusError>;
    fn set_ready(&self, tables: &mut Tables) -> Result<(), BusError>;
}

struct Table<T> {
    topic: Topic<T>,
    rows: Rows<T>,
}

impl<T: Object> Pending for Table<T> {
    fn name(&self) -> &'static str {
        self.topic.name()
    }

    fn publish(&self, tables: &mut Tables) -> Result<usize, BusError> {
        let Some(publisher) = tables.publisher(&self.topic) else {
            return Ok(0);
        };
        let mut changed = 0;
        for (key, row) in &self.rows {
            let old = publisher.rows().get(key);
            if old == Some(row) {
                continue;
            }
            log_change(&self.topic, key, old, row);
            publisher.publish(key, row)?;
            changed += 1;
        }
        Ok(changed)
    }

    fn prune(&self, tables: &mut Tables) -> Result<usize, BusError> {
        let Some(publisher) = tables.publisher(&self.topic) else {
            return Ok(0);
        };
        let gone: Vec<String> = publisher
            .rows()
            .keys()
            .filter(|k| !self.rows.contains_key(*k))
            .cloned()
            .collect();
        for key in &gone {
            info!(topic = self.topic.name(), key, "removed");
            publisher.unpublish(key)?;
        }
        Ok(gone.len())
    }

    fn set_ready(&self, tables: &mut Tables) -> Result<(), BusError> {
        match tables.publisher(&self.topic) {
            Some(publisher) => publisher.set_ready().map(|_| ()),
            None => Ok(()),
        }
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
