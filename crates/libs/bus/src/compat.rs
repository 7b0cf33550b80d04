//! Objects that other versions wrote must stay readable: both slots of a device share `/persist`.
//!
//! Fixtures are real objects, kept below a directory (`tests/compat` of the repository) as
//! `<service>/<Topic>/<version>/<anything>.json`. [`check`] reads those of one topic the way the bus does and makes sure of
//! both directions:
//!
//! - older to newer: the object decodes, through the topic's migration if there is one, and reading what is then written
//!   gives the same object;
//! - newer to older: every field of the fixture is still there, with the same JSON type, in what is written now. A topic
//!   with a migration changes fields on purpose and is exempt.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::Value;
use thiserror::Error;

use crate::{DecodeError, Object, Topic};

/// A fixture that this version doesn't get along with.
#[derive(Debug, Error)]
pub enum CompatError {
    /// The fixtures can't be read.
    #[error("can't read {path}: {source}", path = path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// This version can't read the object.
    #[error("{path} is not readable any more: {source}", path = path.display())]
    Unreadable {
        /// The fixture.
        path: PathBuf,
        /// Why not.
        source: DecodeError,
    },
    /// Writing and reading again gives another object.
    #[error("{path} changes when it is written and read again", path = path.display())]
    Unstable {
        /// The fixture.
        path: PathBuf,
    },
    /// The version that wrote the object would miss a field in what this one writes.
    #[error("{path}: {field} is gone or has another type in what is written now", path = path.display())]
    Lost {
        /// The fixture.
        path: PathBuf,
        /// Where in the object, as a JSON pointer.
        field: String,
    },
}

/// Checks all fixtures of `topic` below `fixtures`; returns how many there are.
pub fn check<T: Object>(topic: &Topic<T>, fixtures: &Path) -> Result<usize, CompatError> {
    let mut checked = 0;
    for version in list(&fixtures.join(topic.service()).join(topic.name()))? {
        for path in list(&version)? {
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                check_one(topic, path)?;
                checked += 1;
            }
        }
    }
    Ok(checked)
}

fn check_one<T: Object>(topic: &Topic<T>, path: PathBuf) -> Result<(), CompatError> {
    let unreadable = |source| CompatError::Unreadable {
        path: path.clone(),
        source,
    };
    let json = fs::read(&path).map_err(|source| CompatError::Io {
        path: path.clone(),
        source,
    })?;
    let object = topic.decode(&json).map_err(unreadable)?;
    let now = serde_json::to_value(&object).map_err(|error| unreadable(error.into()))?;
    let again = topic
        .decode(now.to_string().as_bytes())
        .map_err(unreadable)?;
    if again != object {
        return Err(CompatError::Unstable { path });
    }
    let then: Value = serde_json::from_slice(&json).map_err(|error| unreadable(error.into()))?;
    match lost(&then, &now, "") {
        Some(field) if !topic.has_migration() => Err(CompatError::Lost { path, field }),
        Some(_) | None => Ok(()),
    }
}

/// The first field of `then` that is not in `now`. What says nothing (null, false, zero, empty) may be left out.
fn lost(then: &Value, now: &Value, at: &str) -> Option<String> {
    match (then, now) {
        (Value::Object(then), Value::Object(now)) => then.iter().find_map(|(field, value)| {
            let at = format!("{at}/{field}");
            match now.get(field) {
                Some(now) => lost(value, now, &at),
                None if says_nothing(value) => None,
                None => Some(at),
            }
        }),
        (Value::Array(then), Value::Array(now)) if then.len() == now.len() => then
            .iter()
            .zip(now)
            .enumerate()
            .find_map(|(index, (then, now))| lost(then, now, &format!("{at}/{index}"))),
        (Value::Null, _)
        | (Value::Bool(_), Value::Bool(_))
        | (Value::Number(_), Value::Number(_))
        | (Value::String(_), Value::String(_)) => None,
        (
            Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_),
            _,
        ) => Some(if at.is_empty() { "/".into() } else { at.into() }),
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// What is in a directory, in order; nothing if it doesn't exist.
fn list(dir: &Path) -> Result<Vec<PathBuf>, CompatError> {
    let error = |source| CompatError::Io {
        path: dir.to_owned(),
        source,
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(other) => return Err(error(other)),
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(error)?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize, Clone, PartialEq)]
    #[serde(rename_all = "PascalCase")]
    struct Port {
        name: String,
        #[serde(default)]
        cost: u8,
    }

    const PORT: Topic<Port> = Topic::persist("nim", "Port");

    fn fixture(json: &str) -> (tempfile::TempDir, Result<usize, CompatError>) {
        let dir = tempfile::tempdir().unwrap();
        let version = dir.path().join("nim/Port/1.0");
        fs::create_dir_all(&version).unwrap();
        fs::write(version.join("eth0.json"), json).unwrap();
        let result = check(&PORT, dir.path());
        (dir, result)
    }

    #[test]
    fn objects_of_other_versions_are_judged() {
        assert_eq!(fixture(r#"{"Name":"eth0"}"#).1.unwrap(), 1);
        assert_eq!(
            fixture(r#"{"Name":"eth0","Cost":3,"Old":""}"#).1.unwrap(),
            1
        );
        let lost = fixture(r#"{"Name":"eth0","Mtu":1500}"#).1.unwrap_err();
        assert!(matches!(lost, CompatError::Lost { field, .. } if field == "/Mtu"));
        assert!(matches!(
            fixture(r#"{"IfName":"eth0"}"#).1,
            Err(CompatError::Unreadable { .. })
        ));
        assert_eq!(check(&PORT, Path::new("/nonexistent")).unwrap(), 0);
    }
}
