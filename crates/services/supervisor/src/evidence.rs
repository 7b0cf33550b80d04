//! Evidence of crashes and hangs: what can be known of a process before it is gone.
//!
//! `<root>/persist/crash/<unit>/<time>/` holds `reason.json`, `output.log` (the end of the unit's
//! output) and, for a process that still exists, what the kernel says of it and of each of its
//! threads. Nothing is read that takes a lock of the process's memory (`cmdline`, `maps`): reading
//! it from a process that hangs in the kernel would hang the supervisor too.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;
use units::UnitName;

use crate::procfs;

/// Cases kept per unit.
const KEEP: usize = 5;
/// Bytes of output kept per case.
const TAIL: u64 = 32 * 1024;
/// Threads looked at.
const THREADS: usize = 64;
/// A case in the making.
const NEW: &str = ".new";

/// What happened, for `reason.json`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Case {
    /// The unit.
    pub unit: UnitName,
    /// When.
    pub at: Timestamp,
    /// What, in words.
    pub reason: String,
    /// Its process.
    pub pid: Option<u32>,
    /// How often it was restarted before.
    pub restarts: u32,
    /// Memory that was charged to it.
    pub memory_bytes: Option<u64>,
    /// What it had said of itself.
    pub status_text: String,
}

/// Saves the evidence and gives its directory. `living` says whether to look at the process.
pub(crate) fn save(
    crash: &Path,
    case: &Case,
    living: bool,
    output: Option<&Path>,
) -> io::Result<PathBuf> {
    let unit = crash.join(case.unit.stem());
    let name = case.at.strftime("%Y%m%dT%H%M%S.%3fZ").to_string();
    // Whoever finds a case finds all of it: it gets its name at the end. Only one is made at a time.
    let (case_dir, finished) = (unit.join(NEW), unit.join(name));
    match fs::remove_dir_all(&case_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::create_dir_all(&case_dir)?;
    let reason = serde_json::to_vec_pretty(case).map_err(io::Error::other)?;
    fs::write(case_dir.join("reason.json"), reason)?;
    if let Some(pid) = case.pid.filter(|_| living) {
        let process = PathBuf::from(format!("/proc/{pid}"));
        for file in ["status", "stat", "wchan", "stack", "limits", "cgroup"] {
            if let Some(text) = peek(&process.join(file)) {
                fs::write(case_dir.join(file), text)?;
            }
        }
        fs::write(case_dir.join("threads"), threads(pid))?;
    }
    if let Some(lines) = output.and_then(|path| tail(path, TAIL).ok()) {
        fs::write(case_dir.join("output.log"), lines)?;
    }
    for file in fs::read_dir(&case_dir)? {
        fs::File::open(file?.path())?.sync_data()?;
    }
    fs::File::open(&case_dir)?.sync_all()?;
    fs::rename(&case_dir, &finished)?;
    fs::File::open(&unit)?.sync_all()?;
    rotate(&unit)?;
    Ok(finished)
}

fn peek(path: &Path) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let file = fs::File::open(path).ok()?;
    file.take(64 * 1024).read_to_end(&mut text).ok()?;
    Some(text)
}

fn threads(pid: u32) -> String {
    let mut report = String::new();
    for thread in procfs::threads(pid, THREADS) {
        let id = thread.file_name().unwrap_or_default().to_string_lossy();
        let read = |file: &str| {
            let bytes = peek(&thread.join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).trim_end().to_owned()
        };
        // Writing to a string can't fail.
        let _ = writeln!(
            report,
            "thread {id} {}\n  waits in: {}\n  system call: {}\n{}\n",
            read("comm"),
            read("wchan"),
            read("syscall"),
            read("stack")
        );
    }
    report
}

/// The last `max` bytes of a file, from the beginning of a line.
pub(crate) fn tail(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    let skipped = length.saturating_sub(max);
    file.seek(SeekFrom::Start(skipped))?;
    let mut text = Vec::new();
    file.take(max).read_to_end(&mut text)?;
    if skipped > 0
        && let Some(end) = text.iter().position(|byte| *byte == b'\n')
    {
        text.drain(..=end);
    }
    Ok(text)
}

fn rotate(unit: &Path) -> io::Result<()> {
    let mut cases: Vec<_> = fs::read_dir(unit)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    // Names begin with the time.
    cases.sort();
    let surplus = cases.len().saturating_sub(KEEP);
    for old in &cases[..surplus] {
        fs::remove_dir_all(old)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_last_cases_are_kept_with_what_is_known_of_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("nim.log");
        fs::write(&output, "one\ntwo\n").unwrap();
        let mut last = PathBuf::new();
        for second in 0..8 {
            let case = Case {
                unit: "nim".parse().unwrap(),
                at: Timestamp::from_second(1_700_000_000 + second).unwrap(),
                reason: "no heartbeat".into(),
                pid: Some(std::process::id()),
                restarts: 0,
                memory_bytes: None,
                status_text: String::new(),
            };
            last = save(dir.path(), &case, true, Some(&output)).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path().join("nim")).unwrap().count(), KEEP);
        assert_eq!(
            fs::read_to_string(last.join("output.log")).unwrap(),
            "one\ntwo\n"
        );
        let threads = fs::read_to_string(last.join("threads")).unwrap();
        assert!(
            threads.contains("thread ") && threads.contains("waits in:"),
            "{threads}"
        );
        assert!(last.join("status").exists() && last.join("reason.json").exists());
    }

    #[test]
    fn the_end_of_a_long_output_begins_with_a_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        fs::write(&file, "aaaa\nbbbb\ncccc\n").unwrap();
        assert_eq!(tail(&file, 8).unwrap(), b"cccc\n");
        assert_eq!(tail(&file, 800).unwrap(), b"aaaa\nbbbb\ncccc\n");
    }
}
