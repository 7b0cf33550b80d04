//! From a stored device to its configuration.

use api::certs::ZCertType;
use rusqlite::Connection;

use crate::config::{self, Built, DeviceSpec, Identity, Protection, Recipient};
use crate::pki::Pki;
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

/// A device's configuration as it gets it.
#[derive(Debug)]
pub struct Wanted {
    /// What it was made from.
    pub spec: DeviceSpec,
    /// The configuration, with its secrets encrypted.
    pub built: Built,
    /// What became of the secrets.
    pub protection: Protection,
}

/// The configuration of a device.
pub fn configuration(conn: &Connection, device: &Device, pki: &Pki) -> Result<Wanted, StoreError> {
    let spec = spec(device)?;
    let identity = identity(conn, device, &pki.certs_hash())?;
    let mut built = config::build(&spec, &identity).map_err(|e| corrupt(device, &e))?;
    let recipient = recipient(conn, device, pki)?;
    let protection = config::protect(&mut built, recipient.as_ref());
    Ok(Wanted {
        spec,
        built,
        protection,
    })
}

/// The device as one that can read secrets, once it has sent its certificate for that.
fn recipient(
    conn: &Connection,
    device: &Device,
    pki: &Pki,
) -> Result<Option<Recipient>, StoreError> {
    let kind = ZCertType::CertTypeDeviceEcdhExchange.into();
    let Some(pem) = store::attest::cert(conn, device.uuid, kind)? else {
        return Ok(None);
    };
    Recipient::new(pem.as_bytes(), &pki.exchange, &store::salt(conn)?)
        .map(Some)
        .map_err(|e| corrupt(device, &e))
}

fn corrupt(device: &Device, why: &dyn std::fmt::Display) -> StoreError {
    StoreError::Corrupt {
        what: "spec of device",
        key: device.name.clone(),
        why: why.to_string(),
    }
}
