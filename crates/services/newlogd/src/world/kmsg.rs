//! The kernel's messages: `/dev/kmsg`.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use jiff::Timestamp;
use rustix::{fs::OFlags, io::Errno};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    line::{KernelRecord, kernel_record},
    state::KernelPosition,
};

/// More bytes than this don't wait; the kernel's own buffer is about as large.
const MOST: u64 = 1024 * 1024;
/// A record is never larger.
const RECORD: usize = 8 * 1024;

/// The device, open for reading.
#[derive(Debug)]
pub(crate) struct Kmsg(AsyncFd<File>);

/// Messages that are in no file yet.
#[derive(Debug, Clone, Default)]
pub struct Records {
    boot: String,
    /// They, with their wall-clock times.
    pub(crate) waiting: Vec<(Timestamp, KernelRecord)>,
    /// Bytes of them.
    pub(crate) bytes: u64,
    /// Uptime since which the first of them waits.
    pub(crate) since: Duration,
    /// The number that the next message should have.
    next: u64,
    /// Messages that the kernel overwrote, or that were too many.
    pub(crate) missed: u64,
}

impl Kmsg {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)?;
        // The other constructor is unsafe code; what it asks for, that the value owns its descriptor, holds for a file.
        #[allow(deprecated, reason = "see above")]
        AsyncFd::new(file).map(Self)
    }

    /// Resolves when there is a message.
    pub(crate) async fn readable(&self) {
        // An error shows at the next reading.
        let _ = self.0.readable().await;
    }

    /// Takes all messages there are.
    pub(crate) fn read(&self, records: &mut Records, now: Timestamp, uptime: Duration) {
        let mut buffer = vec![0; RECORD];
        loop {
            // Also takes note that there is nothing more, so that `readable` waits.
            let read = |mut file: &File| file.read(&mut buffer);
            match self.0.try_io(Interest::READABLE, read) {
                Ok(0) => return,
                Ok(count) => records.take(&buffer[..count], now, uptime),
                // Overwritten before it was read; the numbers tell how many.
                Err(error) if error.raw_os_error() == Some(Errno::PIPE.raw_os_error()) => {}
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        tracing::debug!(%error, "the kernel's messages can't be read");
                    }
                    return;
                }
            }
        }
    }
}

impl Records {
    /// Nothing yet; `known` is how far they were read before.
    pub(crate) fn new(boot: &str, known: &KernelPosition) -> Self {
        Self {
            boot: boot.to_owned(),
            next: if known.boot == boot { known.next } else { 0 },
            ..Self::default()
        }
    }

    fn take(&mut self, bytes: &[u8], now: Timestamp, uptime: Duration) {
        let Some(record) = kernel_record(bytes) else {
            return;
        };
        if record.sequence < self.next {
            return;
        }
        self.missed = self.missed.saturating_add(record.sequence - self.next);
        self.next = record.sequence.saturating_add(1);
        if self.bytes >= MOST {
            self.missed += 1;
            return;
        }
        if self.waiting.is_empty() {
            self.since = uptime;
        }
        self.bytes += record.text.len() as u64 + 1;
        let ago = uptime.saturating_sub(Duration::from_micros(record.at_us));
        let at = now.checked_sub(ago).unwrap_or(now);
        self.waiting.push((at, record));
    }

    /// How far they are read with these.
    pub(crate) fn position(&self) -> KernelPosition {
        KernelPosition {
            boot: self.boot.clone(),
            next: self.next,
        }
    }

    /// Forgets what became a file: everything before `position`, and `missed` messages that were told of.
    pub(crate) fn done(&mut self, position: &KernelPosition, missed: u64, uptime: Duration) {
        self.waiting
            .retain(|(_, record)| record.sequence >= position.next);
        let left = self.waiting.iter().map(|(_, r)| r.text.len() as u64 + 1);
        self.bytes = left.sum();
        self.missed = self.missed.saturating_sub(missed);
        self.since = uptime;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const T: Timestamp = Timestamp::UNIX_EPOCH;

    fn record(sequence: u64) -> Vec<u8> {
        format!("6,{sequence},1000000,-;message {sequence}\n").into_bytes()
    }

    #[test]
    fn each_message_once_and_gaps_counted() {
        let known = KernelPosition {
            boot: "b".to_owned(),
            next: 5,
        };
        let mut records = Records::new("b", &known);
        for n in [3, 4, 5, 6, 9] {
            records.take(&record(n), T, Duration::from_secs(3));
        }
        let numbers: Vec<u64> = records.waiting.iter().map(|(_, r)| r.sequence).collect();
        assert_eq!((numbers, records.missed), (vec![5, 6, 9], 2));
        // One second after boot, and now it is three.
        assert_eq!(records.waiting[0].0.as_second(), -2);
        let taken = records.clone();
        records.take(&record(10), T, Duration::from_secs(3));
        records.done(&taken.position(), taken.missed, Duration::from_secs(4));
        assert_eq!((records.waiting.len(), records.missed), (1, 0));
        assert_eq!(Records::new("another boot", &taken.position()).next, 0);
    }

    #[tokio::test]
    #[cfg_attr(not(has_kmsg), ignore = "needs /dev/kmsg")]
    async fn the_real_device() {
        let kmsg = Kmsg::open(Path::new("/dev/kmsg")).unwrap();
        let mut records = Records::new("b", &KernelPosition::default());
        tokio::time::timeout(Duration::from_secs(2), kmsg.readable())
            .await
            .unwrap();
        kmsg.read(&mut records, T, Duration::from_secs(3));
        assert!(!records.waiting.is_empty());
    }
}
