//! The thread that writes and hashes, so that the network never waits for the disk longer
//! than a few chunks and no async worker is blocked.
//!
//! It owns the part. It ends when its [`Writer`] is dropped: what it was given is written,
//! then the lock on the part is released.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::num::NonZeroU64;

use bytes::Bytes;
use model::id::Digest;
use rustix::fs::{Advice, fadvise};
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::error::FetchError;
use crate::partial::{Origin, Paths, local};
use crate::source::Validator;

/// Chunks in flight between network and disk; one is at most a TLS record or a few.
const CHUNKS: usize = 16;
/// So often the disk is asked to begin with what has come. It works while the network does, instead of doing everything
/// when the last byte is there.
const BEGIN_EVERY: u64 = 16 << 20;
/// Bytes of the kept part that are read at once.
const READ: usize = 1 << 20;

enum Order {
    Chunk(Bytes),
    /// Begin at 0, with bytes of this origin.
    Restart(Origin),
    /// The bytes go on, with what is now known of their origin.
    Continue(Origin),
    Finish(oneshot::Sender<(u64, Digest)>),
    Commit,
}

/// What of an earlier download can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) offset: u64,
    pub(crate) validator: Option<Validator>,
}

/// The thread's handle.
pub(crate) struct Writer {
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<Result<(), FetchError>>,
}

impl Writer {
    /// Opens the part, hashes what of it can be used for `wanted`, throws away the rest.
    pub(crate) async fn start(paths: Paths, wanted: Origin) -> Result<(Self, Kept), FetchError> {
        let (orders, inbox) = mpsc::channel(CHUNKS);
        let (ready, kept) = oneshot::channel();
        let thread = tokio::task::spawn_blocking(move || work(&paths, &wanted, inbox, ready));
        let writer = Self { orders, thread };
        match kept.await {
            Ok(kept) => Ok((writer, kept)),
            Err(_) => Err(writer.failure().await),
        }
    }

    pub(crate) async fn chunk(&self, bytes: Bytes) -> Result<(), Gone> {
        self.order(Order::Chunk(bytes)).await
    }

    pub(crate) async fn restart(&self, origin: Origin) -> Result<(), Gone> {
        self.order(Order::Restart(origin)).await
    }

    pub(crate) async fn go_on(&self, origin: Origin) -> Result<(), Gone> {
        self.order(Order::Continue(origin)).await
    }

    /// Everything is on the disk; size and digest of it.
    pub(crate) async fn finish(&self) -> Result<(u64, Digest), Gone> {
        let (reply, answer) = oneshot::channel();
        self.order(Order::Finish(reply)).await?;
        answer.await.map_err(|_| Gone)
    }

    /// Makes the part the file and ends.
    pub(crate) async fn commit(self) -> Result<(), FetchError> {
        // When the thread is gone already, the end tells why.
        let _ = self.order(Order::Commit).await;
        self.end().await
    }

    /// Ends after everything is written.
    pub(crate) async fn end(self) -> Result<(), FetchError> {
        drop(self.orders);
        match self.thread.await {
            Ok(result) => result,
            Err(error) => Err(died(&error)),
        }
    }

    /// Why the thread ended by itself.
    pub(crate) async fn failure(self) -> FetchError {
        match self.end().await {
            Err(error) => error,
            Ok(()) => died(&"it ended early"),
        }
    }

    async fn order(&self, order: Order) -> Result<(), Gone> {
        self.orders.send(order).await.map_err(|_| Gone)
    }
}

/// The thread has ended; [`Writer::failure`] tells why.
#[derive(Debug)]
pub(crate) struct Gone;

fn died(why: &dyn std::fmt::Display) -> FetchError {
    let source = std::io::Error::other(format!("the writing thread failed: {why}"));
    FetchError::Local {
        doing: "writing",
        path: std::path::PathBuf::new(),
        source,
    }
}

struct Part<'a> {
    paths: &'a Paths,
    file: File,
    hash: Sha256,
    size: u64,
    /// Bytes that the disk has been asked to begin with.
    begun: u64,
}

fn work(
    paths: &Paths,
    wanted: &Origin,
    mut inbox: mpsc::Receiver<Order>,
    ready: oneshot::Sender<Kept>,
) -> Result<(), FetchError> {
    let file = paths.open()?;
    let mut part = Part {
        paths,
        file,
        hash: Sha256::new(),
        size: 0,
        begun: 0,
    };
    let usable = paths.origin().and_then(|origin| origin.resume_for(wanted));
    let validator = match usable {
        None => {
            part.empty()?;
            None
        }
        Some(validator) => {
            if !part.hash_kept(&inbox)? {
                return Ok(());
            }
            validator
        }
    };
    // A caller that is gone has cancelled.
    if ready
        .send(Kept {
            offset: part.size,
            validator,
        })
        .is_err()
    {
        return Ok(());
    }
    while let Some(order) = inbox.blocking_recv() {
        match order {
            Order::Chunk(bytes) => part.append(&bytes)?,
            Order::Restart(origin) => {
                part.empty()?;
                paths.set_origin(&origin)?;
            }
            Order::Continue(origin) => paths.set_origin(&origin)?,
            Order::Finish(reply) => {
                part.file
                    .sync_all()
                    .map_err(|error| local("writing", &paths.part, error))?;
                let digest = Digest(part.hash.clone().finalize().into());
                // Nobody waiting means cancelled; the part stays.
                let _ = reply.send((part.size, digest));
            }
            Order::Commit => return paths.commit(),
        }
    }
    Ok(())
}

impl Part<'_> {
    fn empty(&mut self) -> Result<(), FetchError> {
        let result = self
            .file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)));
        result.map_err(|error| local("emptying", &self.paths.part, error))?;
        self.hash = Sha256::new();
        self.size = 0;
        self.begun = 0;
        Ok(())
    }

    /// Hashes what is there; false if the download was cancelled meanwhile.
    fn hash_kept(&mut self, inbox: &mpsc::Receiver<Order>) -> Result<bool, FetchError> {
        let mut buffer = vec![0; READ];
        loop {
            let count = self
                .file
                .read(&mut buffer)
                .map_err(|error| local("reading", &self.paths.part, error))?;
            if count == 0 {
                return Ok(true);
            }
            if inbox.is_closed() {
                return Ok(false);
            }
            self.hash.update(&buffer[..count]);
            self.size += count as u64;
            self.begun = self.size;
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        self.file
            .write_all(bytes)
            .map_err(|error| local("writing", &self.paths.part, error))?;
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        if self.size - self.begun >= BEGIN_EVERY {
            self.begin();
        }
        Ok(())
    }

    /// Asks the disk to begin with what is new. Nothing waits for it here, and [`Order::Finish`] is what makes it sure.
    fn begin(&mut self) {
        // Of pages that are not needed any more the kernel writes those that are not on the disk yet; what is on its way
        // there stays in memory, where the verifier finds it. Advice may be ignored, so there is no error to handle.
        let length = NonZeroU64::new(self.size - self.begun);
        let _ = fadvise(&self.file, self.begun, length, Advice::DontNeed);
        self.begun = self.size;
    }
}
