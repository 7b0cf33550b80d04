//! Nonces, integrity tokens, presented certificates and deposited keys.

use api::attest::AttestVolumeKey;
use prost::Message as _;
use rusqlite::{Connection, OptionalExtension as _, params};
use uuid::Uuid;

use super::{StoreError, now_ms};
use crate::decide::attest::DeviceCert;

/// Keeps the certificates that a device presented, one of each kind. Those of other kinds stay: a
/// device that once showed the certificate of a TPM can't become one without by not showing it.
pub fn put_certs(conn: &Connection, device: Uuid, certs: &[DeviceCert]) -> Result<(), StoreError> {
    for cert in certs {
        conn.execute(
            "INSERT OR REPLACE INTO device_cert (device, kind, hash, pem, tpm_public, received_ms) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                device.to_string(),
                cert.kind,
                cert.hash.as_slice(),
                cert.pem,
                cert.tpm_public,
                now_ms()
            ],
        )?;
    }
    Ok(())
}

/// The PEM text of a presented certificate of a kind.
pub fn cert(conn: &Connection, device: Uuid, kind: i32) -> Result<Option<String>, StoreError> {
    Ok(conn
        .prepare_cached("SELECT pem FROM device_cert WHERE device = ?1 AND kind = ?2")?
        .query_row(params![device.to_string(), kind], |row| row.get(0))
        .optional()?)
}

/// The same with the TPM's description of its key.
pub fn with_public(
    conn: &Connection,
    device: Uuid,
    kind: i32,
) -> Result<Option<(String, Vec<u8>)>, StoreError> {
    let sql = "SELECT pem, tpm_public FROM device_cert WHERE device = ?1 AND kind = ?2";
    Ok(conn
        .prepare_cached(sql)?
        .query_row(params![device.to_string(), kind], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?)
}

/// Hands out a nonce; the one before is void.
pub fn set_nonce(conn: &Connection, device: Uuid, nonce: &[u8]) -> Result<(), StoreError> {
    conn.execute(
        "UPDATE device SET nonce = ?2 WHERE uuid = ?1",
        params![device.to_string(), nonce],
    )?;
    Ok(())
}

/// Takes the nonce back when it has been answered, well or badly.
pub fn take_nonce(conn: &Connection, device: Uuid) -> Result<Option<Vec<u8>>, StoreError> {
    let id = device.to_string();
    let nonce = conn
        .query_row("SELECT nonce FROM device WHERE uuid = ?1", [&id], |row| {
            row.get(0)
        })
        .optional()?
        .flatten();
    conn.execute("UPDATE device SET nonce = NULL WHERE uuid = ?1", [&id])?;
    Ok(nonce)
}

/// Gives a device a new token; the one before is void.
pub fn set_token(
    conn: &Connection,
    device: Uuid,
    token: &[u8],
    note: &str,
) -> Result<(), StoreError> {
    conn.execute(
        "UPDATE device SET token = ?2, attest_note = ?3, attested_ms = ?4 WHERE uuid = ?1",
        params![device.to_string(), token, note, now_ms()],
    )?;
    Ok(())
}

/// Notes why an attestation failed. The token of an earlier one stays as it is: it was given to
/// the same key, and a failed attempt of somebody must not throw the device out.
pub fn note_failure(conn: &Connection, device: Uuid, note: &str) -> Result<(), StoreError> {
    conn.execute(
        "UPDATE device SET attest_note = ?2 WHERE uuid = ?1",
        params![device.to_string(), note],
    )?;
    Ok(())
}

/// Voids a device's token, so that it has to attest again.
pub fn void_token(conn: &Connection, device: Uuid) -> Result<(), StoreError> {
    conn.execute(
        "UPDATE device SET token = NULL, nonce = NULL, attest_note = 'ordered to attest again' \
         WHERE uuid = ?1",
        [device.to_string()],
    )?;
    Ok(())
}

/// Keeps deposited keys, one of each kind.
pub fn put_keys(
    conn: &Connection,
    device: Uuid,
    keys: &[AttestVolumeKey],
) -> Result<(), StoreError> {
    for key in keys {
        conn.execute(
            "INSERT OR REPLACE INTO storage_key (device, kind, key, received_ms) \
             VALUES (?1, ?2, ?3, ?4)",
            params![
                device.to_string(),
                key.key_type,
                key.encode_to_vec(),
                now_ms()
            ],
        )?;
    }
    Ok(())
}

/// The deposited keys.
pub fn keys(conn: &Connection, device: Uuid) -> Result<Vec<AttestVolumeKey>, StoreError> {
    let blobs: Vec<Vec<u8>> = conn
        .prepare_cached("SELECT key FROM storage_key WHERE device = ?1 ORDER BY kind")?
        .query_map([device.to_string()], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    blobs
        .iter()
        .map(|blob| {
            AttestVolumeKey::decode(blob.as_slice()).map_err(|e| StoreError::Corrupt {
                what: "storage key",
                key: device.to_string(),
                why: e.to_string(),
            })
        })
        .collect()
}
