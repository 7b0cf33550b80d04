//! Devices.

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{StoreError, now_ms};
use crate::cert::{CertHash, Certificate};
use crate::decide::authenticate::Caller;
use crate::decide::register::{self, Registered, Verdict};
use crate::decide::{Refusal, route::Api};

/// One device as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The UUID that we gave it.
    pub uuid: Uuid,
    /// What people call it; unique.
    pub name: String,
    /// The serial that it was admitted by.
    pub serial: String,
    /// The serial that its installer chose.
    pub soft_serial: String,
    /// Its certificate.
    pub cert: Certificate,
    /// Whether it may come in.
    pub claimed: bool,
    /// When it was entered, milliseconds since 1970.
    pub created_ms: i64,
    /// Last contact, 0 for never; kept to some seconds.
    pub seen_ms: i64,
    /// `v1` or `v2`, how it last spoke.
    pub seen_api: String,
    /// What it should be, as JSON of `DeviceSpec`.
    pub spec: String,
    /// Grows with every change of what it should be.
    pub version: i64,
    /// The version that it was last sent.
    pub sent_version: i64,
    /// When that changed last.
    pub changed_ms: i64,
    /// Orders given to the device.
    pub orders: Orders,
    /// The nonce it has not answered yet.
    pub nonce: Option<Vec<u8>>,
    /// Its integrity token.
    pub token: Option<Vec<u8>>,
    /// When it attested last, 0 for never.
    pub attested_ms: i64,
    /// How it attested.
    pub attest_note: String,
    /// The endorsement key that it is bound to: a hash of it.
    pub ek: Option<[u8; 32]>,
    /// What is kept of the code that it is claimed with.
    pub code: Option<[u8; 32]>,
    /// Wrong codes so far.
    pub tries: u32,
}

/// Counters that make a device act when they grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// Reboots ordered.
    pub reboots: u32,
    /// When the last one was.
    pub reboot_ms: i64,
    /// Shutdowns ordered.
    pub shutdowns: u32,
    /// When the last one was.
    pub shutdown_ms: i64,
}

impl Device {
    /// The part that authentication asks for.
    pub fn caller(&self) -> Caller {
        Caller {
            uuid: self.uuid,
            cert: self.cert.clone(),
            claimed: self.claimed,
        }
    }
}

/// Former versions of a configuration that are kept.
const HISTORY: i64 = 100;

const COLUMNS: &str = "uuid, name, serial, soft_serial, cert_pem, claimed, created_ms, seen_ms, \
     seen_api, spec, version, sent_version, changed_ms, reboots, reboot_ms, shutdowns, \
     shutdown_ms, nonce, token, attested_ms, attest_note, ek, code, tries";

fn from_row(row: &Row<'_>) -> Result<Device, StoreError> {
    let key: String = row.get("uuid")?;
    let corrupt = |why: String| StoreError::Corrupt {
        what: "device",
        key: key.clone(),
        why,
    };
    let pem: String = row.get("cert_pem")?;
    Ok(Device {
        uuid: Uuid::parse_str(&key).map_err(|e| corrupt(e.to_string()))?,
        name: row.get("name")?,
        serial: row.get("serial")?,
        soft_serial: row.get("soft_serial")?,
        cert: Certificate::from_pem(pem.as_bytes()).map_err(|e| corrupt(e.to_string()))?,
        claimed: row.get("claimed")?,
        created_ms: row.get("created_ms")?,
        seen_ms: row.get("seen_ms")?,
        seen_api: row.get("seen_api")?,
        spec: row.get("spec")?,
        version: row.get("version")?,
        sent_version: row.get("sent_version")?,
        changed_ms: row.get("changed_ms")?,
        orders: Orders {
            reboots: row.get("reboots")?,
            reboot_ms: row.get("reboot_ms")?,
            shutdowns: row.get("shutdowns")?,
            shutdown_ms: row.get("shutdown_ms")?,
        },
        nonce: row.get("nonce")?,
        token: row.get("token")?,
        attested_ms: row.get("attested_ms")?,
        attest_note: row.get("attest_note")?,
        ek: row.get("ek")?,
        code: row.get("code")?,
        tries: row.get("tries")?,
    })
}

fn one(
    conn: &Connection,
    condition: &str,
    value: impl rusqlite::ToSql,
) -> Result<Option<Device>, StoreError> {
    conn.prepare_cached(&format!("SELECT {COLUMNS} FROM device WHERE {condition}"))?
        .query_row([value], |row| Ok(from_row(row)))
        .optional()?
        .transpose()
}

/// The device with this UUID.
pub fn by_uuid(conn: &Connection, uuid: Uuid) -> Result<Option<Device>, StoreError> {
    one(conn, "uuid = ?1", uuid.to_string())
}

/// The device whose certificate's hash starts with `hash` (16 or 32 bytes).
pub fn by_hash(conn: &Connection, hash: &[u8]) -> Result<Option<Device>, StoreError> {
    match hash.len() {
        32 => one(conn, "cert_hash = ?1", hash),
        16 => one(conn, "substr(cert_hash, 1, 16) = ?1", hash),
        _ => Ok(None),
    }
}

/// The device that a person means by a name, UUID or serial.
pub fn by_text(conn: &Connection, text: &str) -> Result<Option<Device>, StoreError> {
    if let Ok(uuid) = Uuid::parse_str(text)
        && let Some(device) = by_uuid(conn, uuid)?
    {
        return Ok(Some(device));
    }
    if let Some(device) = one(conn, "name = ?1", text)? {
        return Ok(Some(device));
    }
    // A serial is only an answer when it is one device's.
    let sql = "SELECT uuid FROM device WHERE serial = ?1 OR soft_serial = ?1 LIMIT 2";
    let found: Vec<String> = conn
        .prepare_cached(sql)?
        .query_map([text], |r| r.get(0))?
        .collect::<Result<_, _>>()?;
    match found.as_slice() {
        [only] => one(conn, "uuid = ?1", only),
        _ => Ok(None),
    }
}

/// All devices by name.
pub fn all(conn: &Connection) -> Result<Vec<Device>, StoreError> {
    let mut statement =
        conn.prepare_cached(&format!("SELECT {COLUMNS} FROM device ORDER BY name"))?;
    let mut rows = statement.query([])?;
    let mut devices = Vec::new();
    while let Some(row) = rows.next()? {
        devices.push(from_row(row)?);
    }
    Ok(devices)
}

/// What a registration came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entered {
    /// The device's UUID.
    pub uuid: Uuid,
    /// Whether it is new.
    pub new: bool,
}

/// Registers a device: looks up the facts, decides and enters it, in one step.
pub fn register(
    conn: &Connection,
    request: &register::Request,
    onboarding: CertHash,
) -> Result<Result<Entered, Refusal>, StoreError> {
    let admissions = super::onboarding::admissions(conn, &onboarding)?;
    let devices = related(conn, request, &onboarding)?;
    let verdict = match register::decide(request, onboarding, admissions.as_deref(), &devices) {
        Ok(verdict) => verdict,
        Err(refusal) => return Ok(Err(refusal)),
    };
    match verdict {
        Verdict::Repeat(uuid) => Ok(Ok(Entered { uuid, new: false })),
        Verdict::New {
            serial,
            name,
            hold,
            ek,
            code,
        } => {
            let uuid = insert(
                conn,
                &NewDevice {
                    name,
                    serial,
                    soft_serial: request.soft_serial.clone(),
                    onboarding: Some(onboarding),
                    cert: request.cert.clone(),
                    claimed: !hold,
                    ek,
                    code,
                },
            )?;
            Ok(Ok(Entered { uuid, new: true }))
        }
    }
}

fn related(
    conn: &Connection,
    request: &register::Request,
    onboarding: &CertHash,
) -> Result<Vec<Registered>, StoreError> {
    let sql = "SELECT uuid, cert_hash, onboarding, serial FROM device \
         WHERE cert_hash = ?1 OR (onboarding = ?2 AND serial IN (?3, ?4))";
    let hash = request.cert.hash();
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params![
        hash.as_slice(),
        onboarding.as_slice(),
        request.serial,
        request.soft_serial
    ])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        found.push(Registered {
            uuid: Uuid::parse_str(&key).map_err(|e| StoreError::Corrupt {
                what: "device",
                key: key.clone(),
                why: e.to_string(),
            })?,
            cert: row.get(1)?,
            onboarding: row.get(2)?,
            serial: row.get(3)?,
        });
    }
    Ok(found)
}

/// A device about to be entered.
#[derive(Debug, Clone)]
pub struct NewDevice {
    /// Wanted name; made unique.
    pub name: String,
    /// Serial that identifies it within its batch.
    pub serial: String,
    /// Serial that the installer chose.
    pub soft_serial: String,
    /// Hash of the onboarding certificate, none when an operator enters it.
    pub onboarding: Option<CertHash>,
    /// Its certificate.
    pub cert: Certificate,
    /// Whether it may come in.
    pub claimed: bool,
    /// The endorsement key that it is bound to: a hash of it.
    pub ek: Option<[u8; 32]>,
    /// What is kept of the code that it is claimed with.
    pub code: Option<[u8; 32]>,
}

/// Enters a device.
pub fn insert(conn: &Connection, new: &NewDevice) -> Result<Uuid, StoreError> {
    let uuid = Uuid::new_v4();
    let name = free_name(conn, &new.name, uuid)?;
    let now = now_ms();
    conn.prepare_cached(
        "INSERT INTO device (uuid, name, serial, soft_serial, onboarding, cert_hash, cert_pem, \
         claimed, created_ms, changed_ms, version, ek, code) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9, 1, ?10, ?11)",
    )?
    .execute(params![
        uuid.to_string(),
        name,
        new.serial,
        new.soft_serial,
        new.onboarding.as_ref().map(CertHash::as_slice),
        new.cert.hash().as_slice(),
        new.cert.pem(),
        new.claimed,
        now,
        new.ek,
        new.code,
    ])?;
    Ok(uuid)
}

fn free_name(conn: &Connection, wanted: &str, uuid: Uuid) -> Result<String, StoreError> {
    let taken: bool = conn
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM device WHERE name = ?1)")?
        .query_row([wanted], |row| row.get(0))?;
    if taken {
        let id = uuid.simple().to_string();
        Ok(format!("{wanted}-{}", id.get(..8).unwrap_or(&id)))
    } else {
        Ok(wanted.to_owned())
    }
}

/// Admits a device that waits.
pub fn claim(conn: &Connection, uuid: Uuid, name: Option<&str>) -> Result<(), StoreError> {
    let sql = "UPDATE device SET claimed = 1, code = NULL, name = coalesce(?2, name) \
               WHERE uuid = ?1";
    conn.prepare_cached(sql)?
        .execute(params![uuid.to_string(), name])?;
    Ok(())
}

/// Notes a wrong code.
pub fn wrong_code(conn: &Connection, uuid: Uuid) -> Result<(), StoreError> {
    let sql = "UPDATE device SET tries = tries + 1 WHERE uuid = ?1";
    conn.execute(sql, [uuid.to_string()])?;
    Ok(())
}

/// Binds a device to an endorsement key, or to none. It has to attest again.
pub fn bind(conn: &Connection, uuid: Uuid, ek: Option<[u8; 32]>) -> Result<(), StoreError> {
    let sql = "UPDATE device SET ek = ?2, token = NULL, nonce = NULL WHERE uuid = ?1";
    conn.execute(sql, params![uuid.to_string(), ek])?;
    Ok(())
}

/// Forgets a device and all that it sent.
pub fn delete(conn: &Connection, uuid: Uuid) -> Result<(), StoreError> {
    conn.execute("DELETE FROM device WHERE uuid = ?1", [uuid.to_string()])?;
    Ok(())
}

/// Notes a contact.
pub fn seen(conn: &Connection, uuid: Uuid, api: Api, at_ms: i64) -> Result<(), StoreError> {
    let api = match api {
        Api::V1 => "v1",
        Api::V2 => "v2",
    };
    conn.prepare_cached("UPDATE device SET seen_ms = ?2, seen_api = ?3 WHERE uuid = ?1")?
        .execute(params![uuid.to_string(), at_ms, api])?;
    Ok(())
}

/// Notes which version of its configuration a device was sent.
pub fn sent(conn: &Connection, uuid: Uuid, version: i64) -> Result<(), StoreError> {
    conn.prepare_cached("UPDATE device SET sent_version = ?2 WHERE uuid = ?1")?
        .execute(params![uuid.to_string(), version])?;
    Ok(())
}

/// Says what a device should be from now on; returns the new version. The old is kept.
pub fn set_spec(conn: &Connection, uuid: Uuid, spec: &str) -> Result<i64, StoreError> {
    let id = uuid.to_string();
    conn.prepare_cached(
        "INSERT OR REPLACE INTO config_history (device, version, spec, changed_ms) \
         SELECT uuid, version, spec, changed_ms FROM device WHERE uuid = ?1",
    )?
    .execute([&id])?;
    conn.prepare_cached(
        "DELETE FROM config_history WHERE device = ?1 AND version <= \
         (SELECT version FROM device WHERE uuid = ?1) - ?2",
    )?
    .execute(params![id, HISTORY])?;
    conn.prepare_cached("UPDATE device SET spec = ?2 WHERE uuid = ?1")?
        .execute(params![id, spec])?;
    touch(conn, uuid)
}

/// Makes a new version after anything that is part of the configuration changed.
pub fn touch(conn: &Connection, uuid: Uuid) -> Result<i64, StoreError> {
    let sql = "UPDATE device SET version = version + 1, changed_ms = max(?2, changed_ms + 1) \
               WHERE uuid = ?1 RETURNING version";
    Ok(conn
        .prepare_cached(sql)?
        .query_row(params![uuid.to_string(), now_ms()], |row| row.get(0))?)
}

/// What a device is ordered to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Reboot.
    Reboot,
    /// Stop all applications and switch off.
    Shutdown,
}

/// Gives an order; returns its counter.
pub fn order(conn: &Connection, uuid: Uuid, order: Order) -> Result<u32, StoreError> {
    let sql = match order {
        Order::Reboot => {
            "UPDATE device SET reboots = reboots + 1, reboot_ms = ?2 WHERE uuid = ?1 \
             RETURNING reboots"
        }
        Order::Shutdown => {
            "UPDATE device SET shutdowns = shutdowns + 1, shutdown_ms = ?2 WHERE uuid = ?1 \
             RETURNING shutdowns"
        }
    };
    let counter = conn
        .prepare_cached(sql)?
        .query_row(params![uuid.to_string(), now_ms()], |r| r.get(0))?;
    touch(conn, uuid)?;
    Ok(counter)
}
