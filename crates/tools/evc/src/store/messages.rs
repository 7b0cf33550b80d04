//! Info, metrics, flow logs and hardware health of all devices.

use rusqlite::{Connection, params_from_iter};
use uuid::Uuid;

use super::{StoreError, now_ms};
use crate::decide::messages::{Kind, Report};

/// Messages kept per object; the newest are.
const KEEP: i64 = 2_000;
/// The surplus is removed whenever a number divides by this.
const SLACK: i64 = 200;

/// One kept message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Grows with time of receipt.
    pub id: i64,
    /// Who sent it.
    pub device: String,
    /// What it tells about.
    pub object: String,
    /// When the device made it.
    pub made_ms: i64,
    /// When it came.
    pub received_ms: i64,
    /// The message.
    pub body: Vec<u8>,
}

/// Keeps a message; returns its number.
pub fn put(conn: &Connection, device: Uuid, report: &Report) -> Result<i64, StoreError> {
    let device = device.to_string();
    let kind = report.kind.word();
    conn.prepare_cached(
        "INSERT INTO message (device, kind, object, made_ms, received_ms, body) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute((
        &device,
        kind,
        &report.object,
        report.made_ms,
        now_ms(),
        &report.body,
    ))?;
    let id = conn.last_insert_rowid();
    if id % SLACK == 0 {
        conn.prepare_cached(
            "DELETE FROM message WHERE id IN (SELECT id FROM (SELECT id, row_number() OVER \
             (PARTITION BY object ORDER BY id DESC) AS age FROM message \
             WHERE device = ?1 AND kind = ?2) WHERE age > ?3)",
        )?
        .execute((&device, kind, KEEP))?;
    }
    Ok(id)
}

/// Which messages are wanted.
#[derive(Debug, Clone)]
pub struct Query {
    /// What kind.
    pub kind: Kind,
    /// Of one device only.
    pub device: Option<Uuid>,
    /// About one object only.
    pub object: Option<String>,
    /// Only the newest of each object.
    pub latest: bool,
    /// Only those after this number, going forward; without it the newest.
    pub after: Option<i64>,
    /// At most so many.
    pub limit: u32,
}

/// The wanted messages, oldest first.
pub fn query(conn: &Connection, query: &Query) -> Result<Vec<Stored>, StoreError> {
    let mut sql = "SELECT id, device, object, made_ms, received_ms, body FROM message m \
                   WHERE kind = ? AND id > ?"
        .to_owned();
    let mut values: Vec<rusqlite::types::Value> = vec![
        query.kind.word().to_owned().into(),
        query.after.unwrap_or(0).into(),
    ];
    if let Some(device) = query.device {
        sql.push_str(" AND device = ?");
        values.push(device.to_string().into());
    }
    if let Some(object) = &query.object {
        sql.push_str(" AND object = ?");
        values.push(object.clone().into());
    }
    if query.latest {
        sql.push_str(
            " AND id = (SELECT max(id) FROM message n WHERE n.device = m.device \
             AND n.kind = m.kind AND n.object = m.object)",
        );
    }
    // Followers go forward from where they are; others want the newest.
    let order = if query.after.is_some() { "ASC" } else { "DESC" };
    sql = sql + " ORDER BY id " + order + " LIMIT ?";
    values.push(i64::from(query.limit).into());
    let mut rows: Vec<Stored> = conn
        .prepare_cached(&sql)?
        .query_map(params_from_iter(values), |row| {
            Ok(Stored {
                id: row.get(0)?,
                device: row.get(1)?,
                object: row.get(2)?,
                made_ms: row.get(3)?,
                received_ms: row.get(4)?,
                body: row.get(5)?,
            })
        })?
        .collect::<Result<_, _>>()?;
    rows.sort_by_key(|row| row.id);
    Ok(rows)
}
