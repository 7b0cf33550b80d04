//! What devices measured, and the states that people have accepted.

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{StoreError, now_ms};
use crate::decide::attest::baseline::{Comparison, Measured};

/// The last good quote of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Last {
    /// What it proved.
    pub state: Measured,
    /// How that compared then.
    pub comparison: Comparison,
    /// When it came, milliseconds since 1970.
    pub at_ms: i64,
}

/// For whom a state was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// For one device.
    Device(Uuid),
    /// For every device of a hardware model.
    Model(String),
}

/// An accepted state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baseline {
    /// Its number.
    pub id: i64,
    /// For whom.
    pub scope: Scope,
    /// What people call it.
    pub name: String,
    /// The state.
    pub state: Measured,
    /// When it was accepted, milliseconds since 1970.
    pub accepted_ms: i64,
}

fn text(value: &impl Serialize, what: &'static str) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::Corrupt {
        what,
        key: String::new(),
        why: e.to_string(),
    })
}

fn value<T: DeserializeOwned>(text: &str, what: &'static str, key: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| StoreError::Corrupt {
        what,
        key: key.to_owned(),
        why: e.to_string(),
    })
}

/// Keeps what a device proved.
pub fn put(
    conn: &Connection,
    device: Uuid,
    state: &Measured,
    comparison: &Comparison,
) -> Result<(), StoreError> {
    conn.execute(
        "INSERT OR REPLACE INTO measurement (device, state, comparison, at_ms) \
         VALUES (?1, ?2, ?3, ?4)",
        params![
            device.to_string(),
            text(state, "measurement")?,
            text(comparison, "measurement")?,
            now_ms()
        ],
    )?;
    Ok(())
}

/// The last that a device proved.
pub fn last(conn: &Connection, device: Uuid) -> Result<Option<Last>, StoreError> {
    let key = device.to_string();
    let found: Option<(String, String, i64)> = conn
        .prepare_cached("SELECT state, comparison, at_ms FROM measurement WHERE device = ?1")?
        .query_row([&key], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
        .optional()?;
    let Some((state, comparison, at_ms)) = found else {
        return Ok(None);
    };
    Ok(Some(Last {
        state: value(&state, "measurement", &key)?,
        comparison: value(&comparison, "measurement", &key)?,
        at_ms,
    }))
}

/// Accepts a state. Gives its number.
pub fn accept(
    conn: &Connection,
    scope: &Scope,
    name: &str,
    state: &Measured,
) -> Result<i64, StoreError> {
    let (device, model) = match scope {
        Scope::Device(uuid) => (Some(uuid.to_string()), None),
        Scope::Model(model) => (None, Some(model)),
    };
    conn.execute(
        "INSERT INTO baseline (device, model, name, state, accepted_ms) \
         VALUES (?1, ?2, ?3, ?4, ?5)",
        params![device, model, name, text(state, "baseline")?, now_ms()],
    )?;
    Ok(conn.last_insert_rowid())
}

/// Accepts a state no longer. Says whether there was one of this number.
pub fn forget(conn: &Connection, id: i64) -> Result<bool, StoreError> {
    Ok(conn.execute("DELETE FROM baseline WHERE id = ?1", [id])? > 0)
}

/// The states that were accepted for a device or its model.
pub fn accepted(
    conn: &Connection,
    device: Uuid,
    model: Option<&str>,
) -> Result<Vec<Baseline>, StoreError> {
    select(
        conn,
        "WHERE device = ?1 OR model = ?2",
        params![device.to_string(), model],
    )
}

/// All of them.
pub fn baselines(conn: &Connection) -> Result<Vec<Baseline>, StoreError> {
    select(conn, "", params![])
}

fn select(
    conn: &Connection,
    condition: &str,
    values: &[&dyn rusqlite::ToSql],
) -> Result<Vec<Baseline>, StoreError> {
    let sql = format!(
        "SELECT id, device, model, name, state, accepted_ms FROM baseline {condition} ORDER BY id"
    );
    let mut statement = conn.prepare_cached(&sql)?;
    let mut rows = statement.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let key = id.to_string();
        let (device, model): (Option<String>, Option<String>) = (row.get(1)?, row.get(2)?);
        let scope = match device {
            Some(device) => {
                Scope::Device(Uuid::parse_str(&device).map_err(|e| StoreError::Corrupt {
                    what: "baseline",
                    key: key.clone(),
                    why: e.to_string(),
                })?)
            }
            None => Scope::Model(model.unwrap_or_default()),
        };
        let state: String = row.get(4)?;
        found.push(Baseline {
            id,
            scope,
            name: row.get(3)?,
            state: value(&state, "baseline", &key)?,
            accepted_ms: row.get(5)?,
        });
    }
    Ok(found)
}
