//! One pass over a file: copy and hash, so that what was hashed is what is kept.
//!
//! Where the file system can share blocks, the copy is made first in no time and then read:
//! nobody else can write to it. Elsewhere each buffer is hashed and written, the two on
//! different threads. The source is never read twice, so a source that changes meanwhile can
//! only make the digest wrong, never the copy.

use std::{
    fs::File,
    io::{self, Read, Write},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use model::id::Digest;
use sha2::{Digest as _, Sha256};

use crate::Found;

/// Bytes per read; a few of them are in flight.
const BUFFER: usize = 1 << 20;
const IN_FLIGHT: usize = 4;
/// So often the disk is given what was written, so that little is left to wait for at the end
/// and a small device's memory does not fill with unwritten pages.
const SYNC_EVERY: u64 = 64 << 20;

/// Why a copy failed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source can't be read.
    #[error("the downloaded file can't be read")]
    Read(#[source] io::Error),
    /// The copy can't be written.
    #[error("the verified copy can't be written")]
    Write(#[source] io::Error),
    /// Nobody wants it any more.
    #[error("cancelled")]
    Cancelled,
}

/// Copies `source` to the empty file `target` and hashes it. When this returns the bytes are
/// on the disk. `progress` gets the bytes done; `cancelled` is looked at between buffers.
pub fn copy_hashed(
    source: &File,
    target: &File,
    mut progress: impl FnMut(u64),
    cancelled: &AtomicBool,
) -> Result<Found, CopyError> {
    let found = if rustix::fs::ioctl_ficlone(target, source).is_ok() {
        hash(target, &mut progress, cancelled)?
    } else {
        hash_and_write(source, target, &mut progress, cancelled)?
    };
    target.sync_all().map_err(CopyError::Write)?;
    Ok(found)
}

fn hash(
    mut file: &File,
    progress: &mut impl FnMut(u64),
    cancelled: &AtomicBool,
) -> Result<Found, CopyError> {
    let mut buffer = vec![0; BUFFER];
    let mut running = Running::default();
    loop {
        match read(&mut file, &mut buffer, cancelled)? {
            0 => return Ok(running.found()),
            n => progress(running.add(&buffer[..n])),
        }
    }
}

fn hash_and_write(
    mut source: &File,
    target: &File,
    progress: &mut impl FnMut(u64),
    cancelled: &AtomicBool,
) -> Result<Found, CopyError> {
    let (full, to_write) = sync_channel::<Vec<u8>>(IN_FLIGHT);
    let (empty, free) = sync_channel::<Vec<u8>>(IN_FLIGHT + 2);
    thread::scope(|scope| {
        let writer = scope.spawn(move || write_all(target, &to_write, &empty));
        let mut made = 0;
        let mut running = Running::default();
        let read_all = loop {
            // A writer that ended has an error to tell.
            let buffer = if made < IN_FLIGHT {
                made += 1;
                Ok(vec![0; BUFFER])
            } else {
                free.recv()
            };
            let Ok(mut buffer) = buffer else { break Ok(()) };
            buffer.resize(BUFFER, 0);
            match read(&mut source, &mut buffer, cancelled) {
                Err(error) => break Err(error),
                Ok(0) => break Ok(()),
                Ok(n) => {
                    buffer.truncate(n);
                    progress(running.add(&buffer));
                    if full.send(buffer).is_err() {
                        break Ok(());
                    }
                }
            }
        };
        drop(full);
        let written = writer
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the writing thread panicked")));
        read_all?;
        written.map_err(CopyError::Write)?;
        Ok(running.found())
    })
}

fn write_all(
    mut target: &File,
    full: &Receiver<Vec<u8>>,
    empty: &SyncSender<Vec<u8>>,
) -> io::Result<()> {
    let mut unsynced = 0;
    while let Ok(buffer) = full.recv() {
        target.write_all(&buffer)?;
        unsynced += buffer.len() as u64;
        if unsynced >= SYNC_EVERY {
            target.sync_data()?;
            unsynced = 0;
        }
        // The reader may be done already.
        let _ = empty.send(buffer);
    }
    Ok(())
}

fn read(
    source: &mut impl Read,
    buffer: &mut [u8],
    cancelled: &AtomicBool,
) -> Result<usize, CopyError> {
    loop {
        if cancelled.load(Ordering::Relaxed) {
            return Err(CopyError::Cancelled);
        }
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CopyError::Read(error)),
            Ok(n) => return Ok(n),
        }
    }
}

#[derive(Default)]
struct Running {
    hash: Sha256,
    bytes: u64,
}

impl Running {
    fn add(&mut self, bytes: &[u8]) -> u64 {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.bytes
    }

    fn found(self) -> Found {
        Found {
            digest: Digest(self.hash.finalize().into()),
            size_bytes: self.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Seek;

    use super::*;

    #[test]
    fn any_size_is_copied_and_hashed() {
        for size in [0, 1, BUFFER - 1, BUFFER, BUFFER + 1, 9 * BUFFER + 17] {
            let bytes: Vec<u8> = (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let mut source = tempfile::tempfile().unwrap();
            source.write_all(&bytes).unwrap();
            source.rewind().unwrap();
            let mut target = tempfile::tempfile().unwrap();
            let mut last = 0;
            let found = copy_hashed(
                &source,
                &target,
                |done| last = done,
                &AtomicBool::new(false),
            )
            .unwrap();
            assert_eq!(
                found,
                Found {
                    digest: Digest(Sha256::digest(&bytes).into()),
                    size_bytes: size as u64
                }
            );
            assert_eq!(last, size as u64);
            let mut copied = Vec::new();
            target.rewind().unwrap();
            target.read_to_end(&mut copied).unwrap();
            assert!(copied == bytes);
        }
    }

    #[test]
    fn a_cancelled_copy_stops() {
        let mut source = tempfile::tempfile().unwrap();
        source.write_all(&vec![7; 3 * BUFFER]).unwrap();
        source.rewind().unwrap();
        let cancelled = AtomicBool::new(false);
        let result = copy_hashed(
            &source,
            &tempfile::tempfile().unwrap(),
            |_| cancelled.store(true, Ordering::Relaxed),
            &cancelled,
        );
        assert!(matches!(result, Err(CopyError::Cancelled)));
    }
}
