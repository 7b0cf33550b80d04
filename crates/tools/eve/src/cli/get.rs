//! `eve get`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::{
    Verdict,
    args::{Global, SelectArgs},
    snapshot,
};
use crate::{
    Error, Snapshot,
    find::{Candidate, find},
    output::{self, Cell, Output, Paint},
    snapshot::{RawTable, path},
};

/// A topic in the list.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Listed<'a> {
    #[serde(flatten)]
    info: &'a bus::TopicInfo,
    quarantined_keys: &'a [String],
    unreadable_keys: &'a [String],
}

pub(super) fn get(global: &Global, out: Output, args: &SelectArgs) -> Result<Verdict, Error> {
    let snapshot = snapshot(global)?;
    let SelectArgs {
        service,
        topic,
        key,
    } = args;
    match (service, topic, key) {
        (Some(service), Some(topic), key) => {
            let table = table(&snapshot, service, topic)?;
            match key {
                None => output::json(&table.rows)?,
                Some(key) => output::json(object(&table.rows, key)?)?,
            }
        }
        (service, _, _) => list(&snapshot, out, service.as_deref())?,
    }
    Ok(Verdict::Good)
}

fn list(snapshot: &Snapshot, out: Output, service: Option<&str>) -> Result<(), Error> {
    let tables: Vec<&RawTable> = snapshot
        .topics
        .values()
        .filter(|table| service.is_none_or(|service| table.info.service == service))
        .collect();
    if let Some(service) = service.filter(|_| tables.is_empty()) {
        return Err(no_topic(snapshot, "service", service));
    }
    if out.json {
        let listed: Vec<Listed> = tables
            .iter()
            .map(|table| Listed {
                info: &table.info,
                quarantined_keys: &table.quarantined,
                unreadable_keys: &table.unreadable,
            })
            .collect();
        return output::json(&listed);
    }
    let rows: Vec<_> = tables.iter().map(|table| row(table)).collect();
    let header = ["TOPIC", "", "ROWS", "READY", "GENERATION", "QUARANTINED"];
    output::print(&out.table(&header, &rows))
}

fn row(table: &RawTable) -> Vec<Cell> {
    let info = &table.info;
    let bad = info.quarantined + table.unreadable.len();
    vec![
        Cell::new(path(&info.service, &info.name)),
        Cell::new(if info.persistent { "persistent" } else { "" }).paint(Paint::Dim),
        Cell::new(info.rows.to_string()),
        if info.ready {
            Cell::new("ready").paint(Paint::Good)
        } else {
            Cell::new("not ready").paint(Paint::Busy)
        },
        Cell::new(info.generation.to_string()),
        match bad {
            0 => Cell::new("-"),
            bad => Cell::new(bad.to_string()).paint(Paint::Bad),
        },
    ]
}

/// A topic that there is, or why not.
pub(super) fn table<'a>(
    snapshot: &'a Snapshot,
    service: &str,
    topic: &str,
) -> Result<&'a RawTable, Error> {
    let name = path(service, topic);
    let found = snapshot.topics.get(&name);
    found.ok_or_else(|| no_topic(snapshot, "topic", &name))
}

fn no_topic(snapshot: &Snapshot, kind: &str, name: &str) -> Error {
    let service = name.split_once('/').map_or(name, |(service, _)| service);
    let own: Vec<&str> = snapshot
        .topics
        .values()
        .filter(|table| table.info.service == service)
        .map(|table| table.info.name.as_str())
        .collect();
    let hint = if own.is_empty() {
        let mut services: Vec<&str> = snapshot
            .topics
            .values()
            .map(|table| table.info.service.as_str())
            .collect();
        services.dedup();
        format!("; there are topics of {}", services.join(", "))
    } else {
        format!("; {service} has {}", own.join(", "))
    };
    Error::NotFound {
        kind: kind.to_owned(),
        name: name.to_owned(),
        hint,
    }
}

/// The object with this key, or the only one whose key or name begins so.
pub(super) fn object<'a>(
    rows: &'a BTreeMap<String, Value>,
    asked: &str,
) -> Result<&'a Value, Error> {
    let candidates: Vec<Candidate<()>> = rows
        .iter()
        .map(|(key, value)| Candidate {
            what: (),
            key: key.clone(),
            name: value
                .get("DisplayName")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
        })
        .collect();
    let found = find("object", &candidates, asked)?;
    Ok(&rows[&found.key])
}
