//! Everything that the controller remembers, in one SQLite file.
//!
//! One thread writes. It takes what is queued, runs it in one transaction, each job in a savepoint
//! of its own, and answers only after the commit reached the disk (WAL with `synchronous=FULL`):
//! an acknowledged message survives `kill -9` and a power cut, and many devices share one fsync.
//! Readers have connections of their own and see committed data only.

pub mod apps;
pub mod attest;
pub mod devices;
pub mod logs;
pub mod measurements;
pub mod messages;
pub mod onboarding;
mod schema;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{mpsc, oneshot, watch};

use crate::secret::random;

/// Jobs of one transaction at most.
const BATCH: usize = 256;
/// Jobs waiting at most; more make their senders wait.
const QUEUE: usize = 4096;
/// Idle read connections that are kept.
const READERS: usize = 8;

/// Why something could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite said no.
    #[error("database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The transaction that the job was part of could not be committed.
    #[error("database: commit failed: {0}")]
    Commit(String),
    /// The writer is gone; the controller is stopping.
    #[error("database: closed")]
    Closed,
    /// The file comes from a newer version.
    #[error("database {path} has schema {found}, this version knows {known}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// Something stored can't be understood.
    #[error("database: {what} {key}: {why}")]
    Corrupt {
        /// Kind of row.
        what: &'static str,
        /// Which one.
        key: String,
        /// What is wrong.
        why: String,
    },
}

type Ack = Box<dyn FnOnce(Result<(), String>) + Send>;
type Job = Box<dyn FnOnce(&Connection) -> Ack + Send>;

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    jobs: mpsc::Sender<Job>,
    readers: Mutex<Vec<Connection>>,
    commits: watch::Receiver<u64>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.inner.path)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens or creates the database file.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let writer = Connection::open(path)?;
        writer.busy_timeout(std::time::Duration::from_secs(10))?;
        writer.pragma_update(None, "journal_mode", "WAL")?;
        writer.pragma_update(None, "synchronous", "FULL")?;
        writer.pragma_update(None, "foreign_keys", "ON")?;
        schema::migrate(&writer, path)?;
        writer.execute(
            "INSERT OR IGNORE INTO meta (key, value) VALUES ('epoch', ?1)",
            [(now_ms() / 1000).to_string()],
        )?;
        writer.execute(
            "INSERT OR IGNORE INTO meta (key, value) VALUES ('salt', ?1)",
            [hex::encode(random::<32>())],
        )?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (committed, commits) = watch::channel(0);
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || write_loop(&writer, queue, &committed))
            .map_err(|e| StoreError::Commit(e.to_string()))?;
        let path = path.to_owned();
        let readers = Mutex::default();
        Ok(Self {
            inner: Arc::new(Inner {
                path,
                jobs,
                readers,
                commits,
            }),
        })
    }

    /// Runs `job` in the writer's next transaction; returns when that is on the disk.
    ///
    /// When `job` fails, nothing of it is kept.
    pub async fn write<T, F>(&self, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.try_write(job).await
    }

    /// As [`Store::write`], for jobs that fail in ways of their own.
    pub async fn try_write<T, E, F>(&self, job: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    {
        let (answer, wait) = oneshot::channel();
        let job: Job = Box::new(move |conn| {
            let outcome = in_savepoint(conn, job);
            Box::new(move |commit| {
                let outcome = commit
                    .map_err(|e| StoreError::Commit(e).into())
                    .and(outcome);
                // Nobody waits when the request was given up; the data is kept all the same.
                let _ = answer.send(outcome);
            })
        });
        self.inner
            .jobs
            .send(job)
            .await
            .map_err(|_| StoreError::Closed)?;
        wait.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs `query` on a read connection, off the async threads.
    pub async fn read<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let store = self.clone();
        tokio::task::spawn_blocking(move || {
            let conn = store.reader()?;
            let out = query(&conn);
            store.give_back(conn);
            out
        })
        .await
        .map_err(|_| StoreError::Closed)?
    }

    /// Changes after every commit: for those who follow messages or logs.
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.inner.commits.clone()
    }

    fn reader(&self) -> Result<Connection, StoreError> {
        let idle = self
            .inner
            .readers
            .lock()
            .ok()
            .and_then(|mut pool| pool.pop());
        if let Some(conn) = idle {
            return Ok(conn);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&self.inner.path, flags)?;
        conn.busy_timeout(std::time::Duration::from_secs(10))?;
        Ok(conn)
    }

    fn give_back(&self, conn: Connection) {
        if let Ok(mut pool) = self.inner.readers.lock()
            && pool.len() < READERS
        {
            pool.push(conn);
        }
    }
}

fn in_savepoint<T, E: From<StoreError>>(
    conn: &Connection,
    job: impl FnOnce(&Connection) -> Result<T, E>,
) -> Result<T, E> {
    let run = |sql: &str| conn.execute_batch(sql).map_err(StoreError::from);
    run("SAVEPOINT job")?;
    match job(conn) {
        Ok(value) => {
            run("RELEASE job")?;
            Ok(value)
        }
        Err(error) => {
            run("ROLLBACK TO job; RELEASE job")?;
            Err(error)
        }
    }
}

fn write_loop(conn: &Connection, mut queue: mpsc::Receiver<Job>, committed: &watch::Sender<u64>) {
    while let Some(first) = queue.blocking_recv() {
        let mut acks = Vec::new();
        let result = conn.execute_batch("BEGIN IMMEDIATE").and_then(|()| {
            acks.push(first(conn));
            while acks.len() < BATCH
                && let Ok(next) = queue.try_recv()
            {
                acks.push(next(conn));
            }
            conn.execute_batch("COMMIT")
        });
        let result = result.map_err(|error| {
            tracing::error!(%error, "a transaction was lost");
            if !conn.is_autocommit()
                && let Err(error) = conn.execute_batch("ROLLBACK")
            {
                tracing::error!(%error, "rolling back");
            }
            error.to_string()
        });
        if result.is_ok() {
            committed.send_modify(|n| *n += 1);
        }
        for ack in acks {
            ack(result.clone());
        }
    }
}

/// Names this database: it changes when the controller starts with an empty one, and devices then
/// report everything again.
pub fn epoch(conn: &Connection) -> Result<i64, StoreError> {
    let text: String = conn.query_row("SELECT value FROM meta WHERE key = 'epoch'", [], |row| {
        row.get(0)
    })?;
    text.parse().map_err(|_| StoreError::Corrupt {
        what: "meta",
        key: "epoch".to_owned(),
        why: format!("{text:?} is not a number"),
    })
}

/// Goes into every encrypted secret, so that nobody can guess one from its digest. Made with the store.
pub fn salt(conn: &Connection) -> Result<[u8; 32], StoreError> {
    let text: String = conn.query_row("SELECT value FROM meta WHERE key = 'salt'", [], |row| {
        row.get(0)
    })?;
    let mut salt = [0; 32];
    hex::decode_to_slice(&text, &mut salt).map_err(|_| StoreError::Corrupt {
        what: "meta",
        key: "salt".to_owned(),
        why: "it is not 32 bytes in hex".to_owned(),
    })?;
    Ok(salt)
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[tokio::test]
    async fn a_failed_job_takes_nobody_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("evc.db")).unwrap();
        let put = |key: &'static str, fail: bool| {
            let store = store.clone();
            async move {
                store
                    .write(move |c| {
                        c.execute("INSERT INTO meta (key, value) VALUES (?1, 'x')", [key])?;
                        if fail {
                            Err(StoreError::Closed)
                        } else {
                            Ok(())
                        }
                    })
                    .await
            }
        };
        let level = store
            .write(|c| Ok(c.pragma_query_value(None, "synchronous", |r| r.get::<_, i64>(0))?))
            .await
            .unwrap();
        assert_eq!(level, 2, "FULL");
        let (a, b, c) = tokio::join!(put("a", false), put("b", true), put("c", false));
        assert!(a.is_ok() && b.is_err() && c.is_ok());
        let keys: i64 = store
            .read(|c| {
                Ok(c.query_row(
                    "SELECT count(*) FROM meta WHERE key IN ('a','b','c')",
                    [],
                    |r| r.get(0),
                )?)
            })
            .await
            .unwrap();
        assert_eq!(keys, 2);
    }

    #[test]
    fn a_newer_database_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("evc.db");
        drop(Store::open(&path).unwrap());
        Connection::open(&path)
            .unwrap()
            .pragma_update(None, "user_version", 9999)
            .unwrap();
        assert!(matches!(
            Store::open(&path),
            Err(StoreError::Newer { found: 9999, .. })
        ));
    }
}
