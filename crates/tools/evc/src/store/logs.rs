//! Log lines of devices and applications.

use rusqlite::{Connection, params_from_iter};
use uuid::Uuid;

use super::{StoreError, now_ms};
use crate::decide::logs::Upload;

/// Lines kept per device; the newest are.
const KEEP: i64 = 200_000;
/// Uploads remembered to recognise repeats.
const FILES: i64 = 1_000;

/// One kept line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Grows with time of receipt.
    pub id: i64,
    /// Whose.
    pub device: String,
    /// Of which application, none for the device's own.
    pub app: Option<String>,
    /// When it was written.
    pub made_ms: i64,
    /// JSON of `decide::logs::Line`.
    pub line: String,
}

/// Keeps an upload. A device that missed our answer sends the same file again: `digest`, of the
/// bytes as received, recognises it. Says whether it was new.
pub fn put(
    conn: &Connection,
    device: Uuid,
    app: Option<Uuid>,
    digest: &[u8; 32],
    upload: &Upload,
) -> Result<bool, StoreError> {
    let device = device.to_string();
    let app = app.map(|a| a.to_string());
    let new = conn
        .prepare_cached(
            "INSERT OR IGNORE INTO log_file (device, digest, app, received_ms) \
             VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute((&device, digest.as_slice(), &app, now_ms()))?
        > 0;
    if !new {
        return Ok(false);
    }
    let mut insert = conn.prepare_cached(
        "INSERT INTO log_line (device, app, source, severity, made_ms, line) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for line in &upload.lines {
        let json = serde_json::to_string(line).map_err(|e| StoreError::Corrupt {
            what: "log line",
            key: device.clone(),
            why: e.to_string(),
        })?;
        let ms = line.timestamp.ms();
        insert.execute((&device, &app, &line.source, &line.severity, ms, json))?;
    }
    trim(conn, &device)?;
    Ok(true)
}

fn trim(conn: &Connection, device: &str) -> Result<(), StoreError> {
    conn.prepare_cached(
        "DELETE FROM log_line WHERE device = ?1 AND id <= (SELECT id FROM log_line \
         WHERE device = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
    )?
    .execute((device, KEEP))?;
    conn.prepare_cached(
        "DELETE FROM log_file WHERE device = ?1 AND received_ms < (SELECT received_ms \
         FROM log_file WHERE device = ?1 ORDER BY received_ms DESC LIMIT 1 OFFSET ?2)",
    )?
    .execute((device, FILES))?;
    Ok(())
}

/// Which lines are wanted.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Of one device only.
    pub device: Option<Uuid>,
    /// Of one application only.
    pub app: Option<String>,
    /// Of one program only.
    pub source: Option<String>,
    /// Only those after this number, going forward; without it the newest.
    pub after: Option<i64>,
    /// At most so many.
    pub limit: u32,
}

/// The wanted lines in order of receipt.
pub fn query(conn: &Connection, query: &Query) -> Result<Vec<Stored>, StoreError> {
    let mut sql = "SELECT id, device, app, made_ms, line FROM log_line WHERE id > ?".to_owned();
    let mut values: Vec<rusqlite::types::Value> = vec![query.after.unwrap_or(0).into()];
    let wanted = [
        ("device", query.device.map(|d| d.to_string())),
        ("app", query.app.clone()),
        ("source", query.source.clone()),
    ];
    for (column, value) in wanted {
        if let Some(value) = value {
            sql = sql + " AND " + column + " = ?";
            values.push(value.into());
        }
    }
    let order = if query.after.is_some() { "ASC" } else { "DESC" };
    sql = sql + " ORDER BY id " + order + " LIMIT ?";
    values.push(i64::from(query.limit).into());
    let mut rows: Vec<Stored> = conn
        .prepare_cached(&sql)?
        .query_map(params_from_iter(values), |row| {
            Ok(Stored {
                id: row.get(0)?,
                device: row.get(1)?,
                app: row.get(2)?,
                made_ms: row.get(3)?,
                line: row.get(4)?,
            })
        })?
        .collect::<Result<_, _>>()?;
    rows.sort_by_key(|row| row.id);
    Ok(rows)
}
