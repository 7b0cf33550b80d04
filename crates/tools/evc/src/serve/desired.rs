//! From a stored device to its configuration.

use rusqlite::Connection;

use crate::config::{self, Built, DeviceSpec, Identity};
use crate::store::devices::Device;
use crate::store::{self, StoreError, apps};

/// The spec of a device.
pub(super) fn spec(device: &Device) -> Result<DeviceSpec, StoreError> {
    serde_json::from_str(&device.spec).map_err(|e| corrupt(device, &e))
}

/// What its configuration needs besides the spec.
pub(super) fn identity(
    conn: &Connection,
    device: &Device,
    certs_hash: &str,
) -> Result<Identity, StoreError> {
    Ok(Identity {
        device: device.uuid,
        name: device.name.clone(),
        version: device.version,
        changed_ms: device.changed_ms,
        orders: device.orders,
        app_orders: apps::orders(conn, device.uuid)?,
        certs_hash: certs_hash.to_owned(),
        epoch: store::epoch(conn)?,
    })
}

/// The configuration of a device.
pub fn configuration(
    conn: &Connection,
    device: &Device,
    certs_hash: &str,
) -> Result<(DeviceSpec, Built), StoreError> {
    let spec = spec(device)?;
    let identity = identity(conn, device, certs_hash)?;
    let built = config::build(&spec, &identity).map_err(|e| corrupt(device, &e))?;
    Ok((spec, built))
}

fn corrupt(device: &Device, why: &dyn std::fmt::Display) -> StoreError {
    StoreError::Corrupt {
        what: "spec of device",
        key: device.name.clone(),
        why: why.to_string(),
    }
}
