//! Counters of orders given to applications.

use std::collections::BTreeMap;

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{StoreError, devices, now_ms};

/// Counters that make an application act when they grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppOrders {
    /// Restarts ordered.
    pub restarts: u32,
    /// When the last one was, milliseconds since 1970.
    pub restart_ms: i64,
    /// Purges ordered: fresh volumes.
    pub purges: u32,
    /// When the last one was.
    pub purge_ms: i64,
}

/// What an application is ordered to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppOrder {
    /// Stop and start again.
    Restart,
    /// Start again with fresh volumes.
    Purge,
}

/// The orders of all applications of a device, by the application's name.
pub fn orders(conn: &Connection, device: Uuid) -> Result<BTreeMap<String, AppOrders>, StoreError> {
    let sql = "SELECT app, restarts, restart_ms, purges, purge_ms FROM app_ops WHERE device = ?1";
    Ok(conn
        .prepare_cached(sql)?
        .query_map([device.to_string()], |row| {
            Ok((
                row.get(0)?,
                AppOrders {
                    restarts: row.get(1)?,
                    restart_ms: row.get(2)?,
                    purges: row.get(3)?,
                    purge_ms: row.get(4)?,
                },
            ))
        })?
        .collect::<Result<_, _>>()?)
}

/// Gives an order; returns its counter.
pub fn order(
    conn: &Connection,
    device: Uuid,
    app: &str,
    order: AppOrder,
) -> Result<u32, StoreError> {
    let sql = match order {
        AppOrder::Restart => {
            "INSERT INTO app_ops (device, app, restarts, restart_ms) VALUES (?1, ?2, 1, ?3) \
             ON CONFLICT DO UPDATE SET restarts = restarts + 1, restart_ms = excluded.restart_ms \
             RETURNING restarts"
        }
        AppOrder::Purge => {
            "INSERT INTO app_ops (device, app, purges, purge_ms) VALUES (?1, ?2, 1, ?3) \
             ON CONFLICT DO UPDATE SET purges = purges + 1, purge_ms = excluded.purge_ms \
             RETURNING purges"
        }
    };
    let counter = conn
        .prepare_cached(sql)?
        .query_row(params![device.to_string(), app, now_ms()], |row| row.get(0))?;
    devices::touch(conn, device)?;
    Ok(counter)
}
