//! Onboarding certificates and the serials that they admit.

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use super::{StoreError, now_ms};
use crate::cert::{CertHash, Certificate};
use crate::decide::register::Admission;

/// One admission as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionRow {
    /// SHA-256 of the onboarding certificate's DER, hex.
    pub cert: String,
    /// Hardware or soft serial; `*` admits any.
    pub serial: String,
    /// Name for the device.
    pub name: Option<String>,
    /// Registered devices wait for a claim.
    pub hold: bool,
    /// How many devices came in by it.
    pub devices: i64,
    /// When it was made, milliseconds since 1970.
    pub created_ms: i64,
}

/// The admissions of an onboarding certificate, `None` when it is not known at all.
pub fn admissions(
    conn: &Connection,
    hash: &CertHash,
) -> Result<Option<Vec<Admission>>, StoreError> {
    if cert(conn, hash)?.is_none() {
        return Ok(None);
    }
    let sql = "SELECT serial, name, hold, ek, code FROM admission WHERE cert_hash = ?1";
    let rows = conn
        .prepare_cached(sql)?
        .query_map([hash.as_slice()], |row| {
            Ok(Admission {
                serial: row.get(0)?,
                name: row.get(1)?,
                hold: row.get(2)?,
                ek: row.get(3)?,
                code: row.get(4)?,
            })
        })?
        .collect::<Result<_, _>>()?;
    Ok(Some(rows))
}

/// The PEM text of a known onboarding certificate.
pub fn cert(conn: &Connection, hash: &CertHash) -> Result<Option<String>, StoreError> {
    Ok(conn
        .prepare_cached("SELECT cert_pem FROM onboarding WHERE cert_hash = ?1")?
        .query_row([hash.as_slice()], |row| row.get(0))
        .optional()?)
}

/// Enters a certificate (harmless when it is there) and, with a serial, an admission.
pub fn add(
    conn: &Connection,
    cert: &Certificate,
    admission: Option<&Admission>,
) -> Result<(), StoreError> {
    let hash = cert.hash();
    conn.execute(
        "INSERT OR IGNORE INTO onboarding (cert_hash, cert_pem, created_ms) VALUES (?1, ?2, ?3)",
        params![hash.as_slice(), cert.pem(), now_ms()],
    )?;
    if let Some(a) = admission {
        conn.execute(
            "INSERT INTO admission (cert_hash, serial, name, hold, created_ms, ek, code) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (cert_hash, serial) \
             DO UPDATE SET name = excluded.name, hold = excluded.hold, ek = excluded.ek, \
             code = excluded.code, tries = 0",
            params![
                hash.as_slice(),
                a.serial,
                a.name,
                a.hold,
                now_ms(),
                a.ek,
                a.code
            ],
        )?;
    }
    Ok(())
}

/// The only admission of a serial that a code opens: its certificate, what is kept of the code, wrong ones so far.
pub fn with_code(
    conn: &Connection,
    serial: &str,
) -> Result<Option<(CertHash, [u8; 32], u32)>, StoreError> {
    let sql = "SELECT cert_hash, code, tries FROM admission \
               WHERE serial = ?1 AND code IS NOT NULL LIMIT 2";
    let found: Vec<_> = conn
        .prepare_cached(sql)?
        .query_map([serial], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
        .collect::<Result<_, _>>()?;
    Ok(match found.as_slice() {
        [only] => Some(*only),
        _ => None,
    })
}

/// The device of this serial is claimed before it came: it will not have to wait.
pub fn claim_ahead(
    conn: &Connection,
    hash: &CertHash,
    serial: &str,
    name: Option<&str>,
) -> Result<(), StoreError> {
    let sql = "UPDATE admission SET hold = 0, code = NULL, name = coalesce(?3, name) \
               WHERE cert_hash = ?1 AND serial = ?2";
    conn.execute(sql, params![hash.as_slice(), serial, name])?;
    Ok(())
}

/// Notes a wrong code.
pub fn wrong_code(conn: &Connection, hash: &CertHash, serial: &str) -> Result<(), StoreError> {
    let sql = "UPDATE admission SET tries = tries + 1 WHERE cert_hash = ?1 AND serial = ?2";
    conn.execute(sql, params![hash.as_slice(), serial])?;
    Ok(())
}

/// Withdraws an admission; devices that are in stay in. Says whether there was one.
pub fn remove(conn: &Connection, hash: &CertHash, serial: &str) -> Result<bool, StoreError> {
    let sql = "DELETE FROM admission WHERE cert_hash = ?1 AND serial = ?2";
    Ok(conn.execute(sql, params![hash.as_slice(), serial])? > 0)
}

/// All admissions.
pub fn all(conn: &Connection) -> Result<Vec<AdmissionRow>, StoreError> {
    let sql = "SELECT hex(a.cert_hash), a.serial, a.name, a.hold, a.created_ms, \
         (SELECT count(*) FROM device d WHERE d.onboarding = a.cert_hash \
          AND (a.serial = '*' OR a.serial IN (d.serial, d.soft_serial))) \
         FROM admission a ORDER BY a.created_ms, a.serial";
    Ok(conn
        .prepare_cached(sql)?
        .query_map([], |row| {
            Ok(AdmissionRow {
                cert: row.get::<_, String>(0)?.to_lowercase(),
                serial: row.get(1)?,
                name: row.get(2)?,
                hold: row.get(3)?,
                created_ms: row.get(4)?,
                devices: row.get(5)?,
            })
        })?
        .collect::<Result<_, _>>()?)
}

/// The PEM texts of all onboarding certificates, oldest first.
pub fn certs(conn: &Connection) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT cert_pem FROM onboarding ORDER BY created_ms, cert_hash";
    Ok(conn
        .prepare_cached(sql)?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?)
}
