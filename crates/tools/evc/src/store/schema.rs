//! Tables, one migration per schema version.

use std::path::Path;

use rusqlite::Connection;

use super::StoreError;

/// `MIGRATIONS[n]` leads from version `n` to `n + 1`; never changed once released.
const MIGRATIONS: [&str; 2] = [
    "
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE onboarding (
    cert_hash BLOB PRIMARY KEY, cert_pem TEXT NOT NULL, created_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE admission (
    cert_hash BLOB NOT NULL REFERENCES onboarding ON DELETE CASCADE,
    serial TEXT NOT NULL, name TEXT, hold INTEGER NOT NULL, created_ms INTEGER NOT NULL,
    PRIMARY KEY (cert_hash, serial)
) STRICT;
CREATE TABLE device (
    uuid TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, serial TEXT NOT NULL,
    soft_serial TEXT NOT NULL, onboarding BLOB, cert_hash BLOB NOT NULL UNIQUE,
    cert_pem TEXT NOT NULL, claimed INTEGER NOT NULL, created_ms INTEGER NOT NULL,
    seen_ms INTEGER NOT NULL DEFAULT 0, seen_api TEXT NOT NULL DEFAULT '',
    spec TEXT NOT NULL DEFAULT '{}', version INTEGER NOT NULL DEFAULT 0,
    changed_ms INTEGER NOT NULL, reboots INTEGER NOT NULL DEFAULT 0,
    reboot_ms INTEGER NOT NULL DEFAULT 0, shutdowns INTEGER NOT NULL DEFAULT 0,
    shutdown_ms INTEGER NOT NULL DEFAULT 0, sent_version INTEGER NOT NULL DEFAULT 0,
    nonce BLOB, token BLOB, attested_ms INTEGER NOT NULL DEFAULT 0,
    attest_note TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX device_serial ON device (onboarding, serial);
CREATE TABLE app_ops (
    device TEXT NOT NULL REFERENCES device ON DELETE CASCADE, app TEXT NOT NULL,
    restarts INTEGER NOT NULL DEFAULT 0, restart_ms INTEGER NOT NULL DEFAULT 0,
    purges INTEGER NOT NULL DEFAULT 0, purge_ms INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (device, app)
) STRICT;
CREATE TABLE config_history (
    device TEXT NOT NULL REFERENCES device ON DELETE CASCADE, version INTEGER NOT NULL,
    spec TEXT NOT NULL, changed_ms INTEGER NOT NULL, PRIMARY KEY (device, version)
) STRICT;
CREATE TABLE message (
    id INTEGER PRIMARY KEY AUTOINCREMENT, device TEXT NOT NULL REFERENCES device ON DELETE CASCADE,
    kind TEXT NOT NULL, object TEXT NOT NULL, made_ms INTEGER NOT NULL,
    received_ms INTEGER NOT NULL, body BLOB NOT NULL
) STRICT;
CREATE INDEX message_object ON message (device, kind, object, id);
CREATE INDEX message_kind ON message (kind, id);
CREATE TABLE log_file (
    device TEXT NOT NULL REFERENCES device ON DELETE CASCADE, digest BLOB NOT NULL,
    app TEXT, received_ms INTEGER NOT NULL, PRIMARY KEY (device, digest)
) STRICT;
CREATE TABLE log_line (
    id INTEGER PRIMARY KEY AUTOINCREMENT, device TEXT NOT NULL REFERENCES device ON DELETE CASCADE,
    app TEXT, source TEXT NOT NULL, severity TEXT NOT NULL, made_ms INTEGER NOT NULL,
    line TEXT NOT NULL
) STRICT;
CREATE INDEX log_line_device ON log_line (device, id);
CREATE TABLE device_cert (
    device TEXT NOT NULL REFERENCES device ON DELETE CASCADE, kind INTEGER NOT NULL,
    hash BLOB NOT NULL, pem TEXT NOT NULL, tpm_public BLOB NOT NULL, received_ms INTEGER NOT NULL,
    PRIMARY KEY (device, kind)
) STRICT;
CREATE TABLE storage_key (
    device TEXT NOT NULL REFERENCES device ON DELETE CASCADE, kind INTEGER NOT NULL,
    key BLOB NOT NULL, received_ms INTEGER NOT NULL, PRIMARY KEY (device, kind)
) STRICT;
",
    "
ALTER TABLE admission ADD COLUMN ek BLOB;
ALTER TABLE admission ADD COLUMN code BLOB;
ALTER TABLE admission ADD COLUMN tries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE device ADD COLUMN ek BLOB;
ALTER TABLE device ADD COLUMN code BLOB;
ALTER TABLE device ADD COLUMN tries INTEGER NOT NULL DEFAULT 0;
CREATE TABLE measurement (
    device TEXT PRIMARY KEY REFERENCES device ON DELETE CASCADE,
    state TEXT NOT NULL, comparison TEXT NOT NULL, at_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE baseline (
    id INTEGER PRIMARY KEY AUTOINCREMENT, device TEXT REFERENCES device ON DELETE CASCADE,
    model TEXT, name TEXT NOT NULL, state TEXT NOT NULL, accepted_ms INTEGER NOT NULL,
    CHECK ((device IS NULL) <> (model IS NULL))
) STRICT;
",
];

/// Brings the database to the present schema.
pub(super) fn migrate(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    let found: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let done = usize::try_from(found)
        .ok()
        .filter(|n| *n <= MIGRATIONS.len());
    let Some(done) = done else {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found,
            known,
        });
    };
    for (version, sql) in (1_i64..).zip(MIGRATIONS).skip(done) {
        conn.execute_batch(&format!(
            "BEGIN; {sql} PRAGMA user_version = {version}; COMMIT;"
        ))?;
    }
    Ok(())
}
