#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::{
    io::Write as _,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use proptest::prelude::*;

use super::*;
use crate::{Read, extent, read};

const MAX: u64 = 256 * 1024;

struct Log {
    dir: tempfile::TempDir,
    writer: File,
}

impl Log {
    fn new() -> Self {
        // On the disk, not on tmpfs: the cut without loss needs a file system that can.
        let dir = tempfile::tempdir().unwrap();
        let writer = OpenOptions::new()
            .append(true)
            .create(true)
            .open(dir.path().join("a.log"))
            .unwrap();
        Self { dir, writer }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("a.log")
    }

    fn line(&mut self, n: u64) {
        self.writer.write_all(&line(n)).unwrap();
    }
}

fn line(n: u64) -> Vec<u8> {
    format!("{n:0>126}\n").into_bytes()
}

/// Everything from `from` on.
fn rest(log: &Path, mut from: u64) -> (u64, Vec<u8>) {
    let (mut first, mut all) = (None, Vec::new());
    loop {
        match read(log, from, 10_000).unwrap() {
            Read::Data { at, bytes } => {
                let first = first.get_or_insert(at);
                assert_eq!(at, *first + all.len() as u64, "a gap");
                if bytes.is_empty() {
                    return (*first, all);
                }
                from = at + bytes.len() as u64;
                all.extend(bytes);
            }
            Read::Busy => thread::sleep(Duration::from_millis(1)),
            Read::Absent => return (0, all),
        }
    }
}

#[test]
fn a_reader_loses_and_repeats_nothing_while_the_file_is_written_and_cut() {
    let mut log = Log::new();
    let path = log.path();
    let done = AtomicBool::new(false);
    let lines = 60_000;
    let mut got = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..lines {
                log.line(n);
                if n % 500 == 0 {
                    // The reader needs not be faster than two parts on a loaded machine.
                    thread::sleep(Duration::from_millis(1));
                }
            }
            done.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                bound(&path, MAX, 9).unwrap();
                thread::sleep(Duration::from_millis(2));
            }
        });
        let mut position = 0;
        loop {
            let last = done.load(Ordering::Acquire);
            match read(&path, position, 50_000).unwrap() {
                Read::Data { at, bytes } => {
                    assert_eq!(at, position, "bytes were cut before they were read");
                    position += bytes.len() as u64;
                    let end = bytes.is_empty();
                    got.extend(bytes);
                    if end && last {
                        break;
                    }
                }
                Read::Busy | Read::Absent => thread::yield_now(),
            }
        }
    });
    let expected: Vec<u8> = (0..lines).flat_map(line).collect();
    assert!(got == expected, "{} of {} bytes", got.len(), expected.len());
    assert!(extent(&path).unwrap().unwrap().base > 0, "it was cut");
}

#[test]
fn what_is_gone_is_known_to_the_byte() {
    let mut log = Log::new();
    let path = log.path();
    let mut n = 0;
    for _ in 0..5 {
        while fs::metadata(&path).unwrap().len() <= MAX {
            log.line(n);
            n += 1;
        }
        bound(&path, MAX, 2).unwrap();
    }
    let (first, bytes) = rest(&path, 0);
    assert!(first > 0);
    let all: Vec<u8> = (0..n).flat_map(line).collect();
    assert!(bytes == all[usize::try_from(first).unwrap()..]);
    let extent = extent(&path).unwrap().unwrap();
    assert_eq!(extent.end, all.len() as u64);
}

#[test]
fn a_new_file_begins_at_the_beginning() {
    let mut log = Log::new();
    let path = log.path();
    for n in 0..4000 {
        log.line(n);
    }
    bound(&path, MAX, 1).unwrap();
    let old = extent(&path).unwrap().unwrap();
    assert!(old.base > 0 && old.born > 0);
    fs::remove_file(&path).unwrap();
    assert_eq!(extent(&path).unwrap(), None);
    assert_eq!(read(&path, 3, 10).unwrap(), Read::Absent);
    fs::write(&path, "new").unwrap();
    let new = extent(&path).unwrap().unwrap();
    assert_eq!((new.base, new.end), (0, 3));
    assert_ne!((old.inode, old.born), (new.inode, new.born));
}

#[test]
fn nobody_reads_while_it_is_cut() {
    let mut log = Log::new();
    log.line(0);
    let mark = Mark {
        base: 7,
        cutting: Some(BLOCK),
    };
    mark.put(&log.writer).unwrap();
    assert_eq!(extent(&log.path()).unwrap(), None);
    assert_eq!(read(&log.path(), 0, 10).unwrap(), Read::Busy);
}

/// Where the one that cuts dies.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Death {
    Announced,
    HalfCopied,
    Copied,
    Cut,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_cut_that_was_left_half_done_is_completed_or_taken_back(
        lines in 2100_u64..6000,
        former in any::<bool>(),
        death in prop::sample::select(vec![Death::Announced, Death::HalfCopied, Death::Copied, Death::Cut]),
        later in 0_u64..600,
    ) {
        let mut log = Log::new();
        let path = log.path();
        let mut n = 0;
        let mut write = |log: &mut Log, count| {
            for _ in 0..count {
                log.line(n);
                n += 1;
            }
        };
        if former {
            write(&mut log, 3000);
            bound(&path, MAX, 2).unwrap();
        }
        write(&mut log, lines);
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let base = Mark::of(&file).unwrap().base;
        let head = (file.metadata().unwrap().len() - 1) / BLOCK * BLOCK;
        Mark { base, cutting: Some(head) }.put(&file).unwrap();
        if death != Death::Announced {
            let _ = fs::rename(part_path(&path, 1), part_path(&path, 2));
            let bytes = if death == Death::HalfCopied { head / 2 } else { head };
            copy(&file, bytes, &part_path(&path, 1), base).unwrap();
        }
        if death == Death::Cut {
            fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, head).unwrap();
        }
        drop(file);
        write(&mut log, later);
        bound(&path, MAX, 2).unwrap();
        let (first, bytes) = rest(&path, 0);
        let all: Vec<u8> = (0..n).flat_map(line).collect();
        prop_assert_eq!(first, 0);
        prop_assert!(bytes == all, "{} of {} bytes", bytes.len(), all.len());
    }
}
