//! What units print: `<root>/persist/log/<stem>.log`, and its rotation.
//!
//! A unit's standard output and error are this file itself, opened for appending. So nothing that
//! happens to the supervisor can block or lose what a unit prints, and a unit that was adopted goes
//! on writing where it wrote. The price is that rotation works on a file that stays open: its head
//! is copied to `<stem>.log.1` and then cut off. How, and how newlogd reads on without losing or
//! repeating a byte, is in the crate `logfile`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use logfile::part_path;
use units::{UnitName, ids};

/// A log is rotated at this size,
const ROTATE_AT: u64 = 1024 * 1024;
/// and this many older parts are kept.
const PARTS: u32 = 2;
/// Logs kept of units that are no more.
const KEEP_ENDED: usize = 100;

/// The log of a unit.
pub(crate) fn path(dir: &Path, name: &UnitName) -> PathBuf {
    dir.join(format!("{}.log", name.stem()))
}

/// Opens the log of a unit to be its output.
pub(crate) fn open(dir: &Path, name: &UnitName) -> io::Result<File> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path(dir, name))?;
    fchown(&file, None, Some(ids::EVE_GID))?;
    Ok(file)
}

/// Rotates every log that has grown too large, and removes the oldest logs of units that are not in
/// `known` when there are too many. An error with one file doesn't keep the others back.
pub(crate) fn tidy(dir: &Path, known: &[UnitName]) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    let known: Vec<_> = known.iter().map(|name| path(dir, name)).collect();
    let mut ended = Vec::new();
    for entry in entries.flatten() {
        let log = entry.path();
        if log.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if let Err(error) = logfile::bound(&log, ROTATE_AT, PARTS) {
            tracing::warn!(log = %log.display(), %error, "log can't be rotated");
        }
        if !known.contains(&log) {
            ended.push((metadata.modified().ok(), log));
        }
    }
    ended.sort();
    let surplus = ended.len().saturating_sub(KEEP_ENDED);
    for (_, log) in &ended[..surplus] {
        // What stays is tried again at the next turn.
        let _ = fs::remove_file(log);
        for part in 1..=PARTS {
            let _ = fs::remove_file(part_path(log, part));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    #[test]
    fn rotation_keeps_every_line_of_a_writer_that_keeps_the_file_open() {
        // On the disk, not on tmpfs: the cut without loss needs a file system that can.
        let dir = tempfile::tempdir().unwrap();
        let name: UnitName = "nim".parse().unwrap();
        let log = dir.path().join("nim.log");
        let mut writer = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&log)
            .unwrap();
        let line = |n: u32| format!("{n:0>127}\n");
        let mut n = 0;
        for _ in 0..2 {
            while fs::metadata(&log).unwrap().len() <= ROTATE_AT {
                writer.write_all(line(n).as_bytes()).unwrap();
                n += 1;
            }
            tidy(dir.path(), std::slice::from_ref(&name));
        }
        writer.write_all(line(n).as_bytes()).unwrap();
        assert!(fs::metadata(&log).unwrap().len() < ROTATE_AT / 2);
        let mut all = String::new();
        for part in [part_path(&log, 2), part_path(&log, 1), log] {
            all += &fs::read_to_string(part).unwrap();
        }
        let expected: String = (0..=n).map(line).collect();
        assert!(all == expected, "lines are lost or out of order");
    }

    #[test]
    fn logs_of_units_that_are_gone_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..KEEP_ENDED + 20 {
            fs::write(dir.path().join(format!("domainmgr+{n}.log")), "x").unwrap();
        }
        let known: UnitName = "domainmgr/0".parse().unwrap();
        tidy(dir.path(), std::slice::from_ref(&known));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), KEEP_ENDED + 1);
        assert!(path(dir.path(), &known).exists());
    }
}
