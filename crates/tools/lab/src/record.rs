//! What a world writes down about itself (`world.json` in its directory), so that other processes
//! find it, enter it and, when its owner is dead, clear it away.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Every world's name, and its directory's, starts so.
pub const PREFIX: &str = "eve-";
const FILE: &str = "world.json";

/// One process, safe against reuse of its PID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The PID as seen by the owner.
    pub pid: i32,
    /// Start time in clock ticks since boot.
    pub started: u64,
}

impl ProcessId {
    /// The calling process.
    #[must_use]
    pub fn own() -> ProcessId {
        let pid = Pid::this().as_raw();
        ProcessId {
            pid,
            started: started(pid).unwrap_or(0),
        }
    }

    /// Whether this very process still runs.
    #[must_use]
    pub fn alive(&self) -> bool {
        started(self.pid) == Some(self.started)
    }
}

/// Field 22 of `/proc/PID/stat`; `None` for a zombie, which runs no more.
fn started(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in field 2 may hold spaces and brackets; the last bracket ends it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.nth(18)?.parse().ok(),
    }
}

/// A world as its owner wrote it down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `eve-` and four hex digits.
    pub name: String,
    /// The process whose end ends the world.
    pub owner: ProcessId,
    /// PID 1 of the routers' and the outside's jail.
    pub outside_init: i32,
    /// PID 1 of the device's jail; another one after each power cut.
    pub device_init: i32,
    /// Where each network namespace is found while the owner lives: `device`, `outside`, `uplink0`...
    pub namespaces: BTreeMap<String, PathBuf>,
    /// How each uplink is laid out: NAT, lease seconds.
    pub uplinks: Vec<(bool, u32)>,
}

impl Record {
    /// Writes the record into the world's directory, all or nothing.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let temporary = dir.join(".world.json");
        std::fs::write(&temporary, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(temporary, dir.join(FILE))
    }

    /// Reads the record of the world in `dir`.
    pub fn read(dir: &Path) -> io::Result<Record> {
        Ok(serde_json::from_slice(&std::fs::read(dir.join(FILE))?)?)
    }
}

/// Where worlds have their directories: `$EVE_LAB_DIR`, else the system's temporary directory. Short,
/// because unix socket paths inside may have 107 bytes at most.
#[must_use]
pub fn base() -> PathBuf {
    std::env::var_os("EVE_LAB_DIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

/// Directories of all worlds below `base`, with their records where they are readable.
#[must_use]
pub fn worlds(base: &Path) -> Vec<(PathBuf, Option<Record>)> {
    let Ok(entries) = std::fs::read_dir(base) else {
        return Vec::new();
    };
    let mut found: Vec<_> = entries
        .filter_map(Result::ok)
        .filter(|entry| is_world_name(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .map(|path| {
            let record = Record::read(&path).ok();
            (path, record)
        })
        .collect();
    found.sort_by(|(left, _), (right, _)| left.cmp(right));
    found
}

fn is_world_name(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .is_some_and(|hex| hex.len() == 4 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A directory without a record this old was left by an owner that died while making it.
const UNFINISHED: Duration = Duration::from_mins(1);

/// Removes what dead owners left below `base`, and returns the names. The kernel ends their processes
/// and namespaces by itself; what remains is a directory. One with a file `keep` in it stays.
pub fn collect(base: &Path) -> io::Result<Vec<String>> {
    let mut removed = Vec::new();
    for (dir, record) in worlds(base) {
        if dir.join("keep").exists() {
            continue;
        }
        let dead = match &record {
            Some(record) => !record.owner.alive(),
            None => age(&dir).is_some_and(|age| age > UNFINISHED),
        };
        if dead {
            clear(&dir)?;
            removed.push(name_of(&dir));
        }
    }
    Ok(removed)
}

/// Ends the world in `dir`: terminates its owner if that lives, waits, removes what is left.
pub fn end(dir: &Path, record: &Record, limit: Duration) -> io::Result<()> {
    if record.owner.alive() {
        kill(Pid::from_raw(record.owner.pid), Signal::SIGTERM)?;
        let deadline = Instant::now() + limit;
        while record.owner.alive() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        if record.owner.alive() {
            kill(Pid::from_raw(record.owner.pid), Signal::SIGKILL)?;
        }
    }
    // Its keeper removes the directory when the last process is dead.
    let deadline = Instant::now() + limit;
    while dir.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    clear(dir)
}

fn clear(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn age(dir: &Path) -> Option<Duration> {
    dir.metadata().ok()?.modified().ok()?.elapsed().ok()
}

fn name_of(dir: &Path) -> String {
    dir.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn record(owner: ProcessId) -> Record {
        Record {
            name: "eve-0a1b".into(),
            owner,
            outside_init: 1,
            device_init: 1,
            namespaces: BTreeMap::new(),
            uplinks: vec![(false, 3600)],
        }
    }

    #[test]
    fn only_worlds_of_dead_owners_are_collected() {
        let base = tempfile::tempdir().unwrap();
        let live = base.path().join("eve-0a1b");
        let dead = base.path().join("eve-0a1c");
        let other = base.path().join("eve-notes");
        for dir in [&live, &dead, &other] {
            std::fs::create_dir(dir).unwrap();
        }
        record(ProcessId::own()).write(&live).unwrap();
        let reused = ProcessId {
            started: ProcessId::own().started + 1,
            ..ProcessId::own()
        };
        record(reused).write(&dead).unwrap();
        assert_eq!(collect(base.path()).unwrap(), ["eve-0a1c"]);
        assert!(live.exists() && other.exists() && !dead.exists());
    }

    #[test]
    fn a_record_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let written = record(ProcessId::own());
        written.write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), written);
    }
}
