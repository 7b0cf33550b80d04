//! What a topic is: a named table of objects of one type with exactly one writer.
//!
//! Topics are declared as constants (in `model::topics`), so that the wiring of the device is readable in one place and a
//! wrong type or a wrong writer doesn't compile or is refused.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Serialize,
    de::{self, DeserializeOwned},
};
use serde_json::Value;

use crate::{BusError, DecodeError};

/// Anything that can be a row: a plain value with a JSON form. Implemented for every type that fits.
pub trait Object: Serialize + DeserializeOwned + Clone + PartialEq + Send + Sync + 'static {}
impl<T: Serialize + DeserializeOwned + Clone + PartialEq + Send + Sync + 'static> Object for T {}

/// A table: key to object, in key order.
pub type Rows<T> = BTreeMap<String, T>;

/// Rewrites the JSON of an older form into the current one. It sees every object that is read, also current ones, and
/// must leave those as they are.
pub type Migration = fn(Value) -> Value;

/// A declared table: who writes it, its name, whether it survives a reboot, and the type of its objects.
pub struct Topic<T> {
    service: &'static str,
    name: &'static str,
    persistent: bool,
    migration: Option<Migration>,
    object: PhantomData<fn() -> T>,
}

impl<T> Topic<T> {
    /// A topic that lives until reboot, below `<root>/run/<service>/<name>/`.
    pub const fn run(service: &'static str, name: &'static str) -> Self {
        Self {
            service,
            name,
            persistent: false,
            migration: None,
            object: PhantomData,
        }
    }

    /// A topic that survives reboots and power cuts, below `<root>/persist/status/<service>/<name>/`.
    pub const fn persist(service: &'static str, name: &'static str) -> Self {
        Self {
            service,
            name,
            persistent: true,
            migration: None,
            object: PhantomData,
        }
    }

    /// The same topic, reading older forms of its objects through `migration`.
    #[must_use]
    pub const fn with_migration(mut self, migration: Migration) -> Self {
        self.migration = Some(migration);
        self
    }

    /// The only service that may publish this topic.
    pub const fn service(&self) -> &'static str {
        self.service
    }

    /// The topic's name, which is also the name of its directory.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Whether the topic survives a reboot.
    pub const fn is_persistent(&self) -> bool {
        self.persistent
    }

    /// Whether older forms of the objects go through a migration.
    pub const fn has_migration(&self) -> bool {
        self.migration.is_some()
    }
}

impl<T: Object> Topic<T> {
    /// Reads one object from its JSON, through the migration if there is one. Unknown fields are ignored.
    pub fn decode(&self, json: &[u8]) -> Result<T, DecodeError> {
        decode(self.migration, json)
    }

    pub(crate) const fn migration(&self) -> Option<Migration> {
        self.migration
    }

    pub(crate) fn place(&self) -> Result<Place, BusError> {
        Place::new(self.service, self.name, self.persistent)
    }
}

// Derived impls would ask the same of `T`, which a name doesn't need.
impl<T> Clone for Topic<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Topic<T> {}
impl<T> fmt::Debug for Topic<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.name)
    }
}

/// Reads one object, through `migration` if there is one.
pub(crate) fn decode<T: Object>(
    migration: Option<Migration>,
    json: &[u8],
) -> Result<T, DecodeError> {
    // All at once is faster than string by string.
    let json = str::from_utf8(json).map_err(|error| DecodeError(de::Error::custom(error)))?;
    match migration {
        None => serde_json::from_str(json).map_err(DecodeError),
        Some(migrate) => {
            let old: Value = serde_json::from_str(json).map_err(DecodeError)?;
            serde_json::from_value(migrate(old)).map_err(DecodeError)
        }
    }
}

/// Where a topic is, without its type: what stores work with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) persistent: bool,
}

impl Place {
    /// Checks that both names can be directory names: letters, digits, `-` and `_`.
    pub(crate) fn new(service: &str, name: &str, persistent: bool) -> Result<Self, BusError> {
        for part in [service, name] {
            let sound = part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            if part.is_empty() || part.len() > 100 || !sound {
                return Err(BusError::BadName {
                    name: part.to_owned(),
                });
            }
        }
        Ok(Self {
            service: service.to_owned(),
            name: name.to_owned(),
            persistent,
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use serde::Deserialize;

    #[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
    #[serde(rename_all = "PascalCase")]
    struct Port {
        name: String,
        #[serde(default)]
        cost: u8,
    }

    /// Up to version 1 the name was called `IfName`.
    fn rename_if_name(mut old: Value) -> Value {
        if let Some(object) = old.as_object_mut()
            && let Some(name) = object.remove("IfName")
        {
            object.entry("Name").or_insert(name);
        }
        old
    }

    const PORTS: Topic<Port> = Topic::run("nim", "Port").with_migration(rename_if_name);

    #[test]
    fn old_and_current_forms_decode_and_unknown_fields_are_ignored() {
        let want = Port {
            name: "eth0".into(),
            cost: 0,
        };
        assert_eq!(PORTS.decode(br#"{"IfName":"eth0"}"#).unwrap(), want);
        assert_eq!(
            PORTS.decode(br#"{"Name":"eth0","Later":[1]}"#).unwrap(),
            want
        );
        assert!(PORTS.decode(br#"{"Name":"eth"#).is_err());
    }

    #[test]
    fn names_that_would_leave_the_directory_are_refused() {
        for bad in ["", "..", "a/b", "a b", ".hidden"] {
            assert!(
                matches!(
                    Place::new(bad, "Topic", false),
                    Err(BusError::BadName { .. })
                ),
                "{bad:?}"
            );
            assert!(
                matches!(Place::new("nim", bad, false), Err(BusError::BadName { .. })),
                "{bad:?}"
            );
        }
    }
}
