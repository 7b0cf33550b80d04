//! What differs between two JSON values, and between two states of a bus.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Snapshot;

/// A place where two values differ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Difference {
    /// Where: `Phase.Preparing.Percent`, `Vifs[0].Ip`; empty for the whole value.
    pub path: String,
    /// The value before; none if it was not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Value>,
    /// The value after; none if it is no longer there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Value>,
}

/// Every place where two values differ, in the order of the new one.
pub fn values(old: &Value, new: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(String::new(), Some(old), Some(new), &mut found);
    found
}

fn compare(path: String, old: Option<&Value>, new: Option<&Value>, found: &mut Vec<Difference>) {
    match (old, new) {
        (Some(old), Some(new)) if old == new => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let gone = old.keys().filter(|key| !new.contains_key(*key));
            for key in new.keys().chain(gone) {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                compare(path, old.get(key), new.get(key), found);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            for index in 0..old.len().max(new.len()) {
                compare(
                    format!("{path}[{index}]"),
                    old.get(index),
                    new.get(index),
                    found,
                );
            }
        }
        (old, new) => found.push(Difference {
            path,
            old: old.cloned(),
            new: new.cloned(),
        }),
    }
}

/// A difference on one line: `Phase.Preparing.Percent 40 -> 45`.
pub fn line(difference: &Difference) -> String {
    let Difference { path, old, new } = difference;
    let blank = if path.is_empty() { "" } else { " " };
    match (old, new) {
        (Some(old), Some(new)) => format!("{path}{blank}{} -> {}", brief(old), brief(new)),
        (None, Some(new)) => format!("+{path}{blank}{}", brief(new)),
        (Some(old), None) => format!("-{path}{blank}{}", brief(old)),
        (None, None) => path.clone(),
    }
}

/// A value in at most some 80 characters.
fn brief(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = value.to_string();
    if text.chars().count() <= LONGEST {
        return text;
    }
    let mut cut: String = text.chars().take(LONGEST - 3).collect();
    cut.push_str("...");
    cut
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// It is new.
    Added,
    /// It differs.
    Changed,
    /// It is gone.
    Removed,
}

/// An object that differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ObjectChange {
    /// The topic's writer.
    pub service: String,
    /// The topic.
    pub topic: String,
    /// The object's key.
    pub key: String,
    /// What happened.
    pub change: Change,
    /// Where it differs; of a new or removed object nothing.
    pub differences: Vec<Difference>,
    /// The object after; before, if it is gone.
    pub value: Value,
}

/// What differs between two tables of one topic.
pub fn tables(
    service: &str,
    topic: &str,
    old: &BTreeMap<String, Value>,
    new: &BTreeMap<String, Value>,
) -> Vec<ObjectChange> {
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut changes = Vec::new();
    for key in keys {
        let (change, differences, value) = match (old.get(key), new.get(key)) {
            (None, Some(value)) => (Change::Added, Vec::new(), value),
            (Some(value), None) => (Change::Removed, Vec::new(), value),
            (Some(old), Some(new)) if old != new => (Change::Changed, values(old, new), new),
            (Some(_), Some(_)) | (None, None) => continue,
        };
        changes.push(ObjectChange {
            service: service.to_owned(),
            topic: topic.to_owned(),
            key: key.clone(),
            change,
            differences,
            value: value.clone(),
        });
    }
    changes
}

/// What differs between two states of a bus, by topic and key.
pub fn snapshots(old: &Snapshot, new: &Snapshot) -> Vec<ObjectChange> {
    let names: BTreeSet<&String> = old.topics.keys().chain(new.topics.keys()).collect();
    let none = BTreeMap::new();
    let mut changes = Vec::new();
    for name in names {
        let Some((service, topic)) = name.split_once('/') else {
            continue;
        };
        let rows =
            |snapshot: &'_ Snapshot| snapshot.topics.get(name).map(|table| table.rows.clone());
        let (before, after) = (rows(old), rows(new));
        changes.extend(tables(
            service,
            topic,
            before.as_ref().unwrap_or(&none),
            after.as_ref().unwrap_or(&none),
        ));
    }
    changes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_differs_is_named() {
        let old = json!({"A": 1, "B": {"C": [1, 2]}, "D": null});
        let new = json!({"A": 1, "B": {"C": [1, 3, 4]}, "E": "x"});
        let lines: Vec<String> = values(&old, &new).iter().map(line).collect();
        assert_eq!(lines, ["B.C[1] 2 -> 3", "+B.C[2] 4", "+E \"x\"", "-D null"]);
        let phases: Vec<String> = values(
            &json!({"Phase": "Booting"}),
            &json!({"Phase": {"Running": {}}}),
        )
        .iter()
        .map(line)
        .collect();
        assert_eq!(phases, ["Phase \"Booting\" -> {\"Running\":{}}"]);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0_u8..5).prop_map(Value::from),
            "[a-z]{0,100}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[A-C]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn equal_values_and_only_those_have_no_difference(a in value(), b in value()) {
            prop_assert!(values(&a, &a).is_empty());
            prop_assert_eq!(values(&a, &b).is_empty(), a == b);
            for difference in values(&a, &b) {
                prop_assert!(line(&difference).chars().count() < 300);
            }
        }
    }
}
