//! What a guest takes: processor time and memory from `/proc`, disks from QEMU.

use std::{fs, io, path::Path};

use jiff::Timestamp;
use model::domain::DiskIo;
use vmm::qmp::BlockStats;

use crate::Sample;

/// Nanoseconds per clock tick of `/proc/<pid>/stat`: 100 a second on every architecture.
const TICK_NS: u64 = 10_000_000;

/// A measurement of a process that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{path:?} of QEMU can't be read")]
pub(super) struct MeasureError {
    path: std::path::PathBuf,
    source: io::Error,
}

pub(super) fn sample(
    proc: &Path,
    pid: u32,
    disks: &[BlockStats],
    at: Timestamp,
) -> Result<Sample, MeasureError> {
    let read = |name: &str| {
        let path = proc.join(pid.to_string()).join(name);
        let text = fs::read_to_string(&path);
        (path, text)
    };
    let parsed = |name: &str, parse: fn(&str) -> Option<u64>| {
        let (path, text) = read(name);
        let number = text.and_then(|text| {
            parse(&text).ok_or_else(|| io::Error::other("it has not the usual form"))
        });
        number.map_err(|source| MeasureError { path, source })
    };
    Ok(Sample {
        at,
        cpu_ns: parsed("stat", ticks)? * TICK_NS,
        memory_kib: parsed("status", resident_kib)?,
        disks: disks
            .iter()
            .map(|disk| {
                let io = DiskIo {
                    read_bytes: disk.read_bytes,
                    write_bytes: disk.written_bytes,
                    read_count: disk.reads,
                    write_count: disk.writes,
                };
                (disk.node.clone(), io)
            })
            .collect(),
    })
}

/// Time in user and kernel mode. The process's name, in parentheses, may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    Some(user + kernel)
}

fn resident_kib(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_with_parentheses_and_blanks_confuse_nobody() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 30 12 0 0 20 0 1 0 5 6 7";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (x) S 1"), None);
        assert_eq!(resident_kib("Name:\tx\nVmRSS:\t  1234 kB\n"), Some(1234));
    }

    #[test]
    fn a_process_can_be_measured() {
        let me = std::process::id();
        let sample = sample(Path::new("/proc"), me, &[], Timestamp::UNIX_EPOCH).unwrap();
        assert!(sample.memory_kib > 100, "{sample:?}");
    }
}
