//! What the kernel knows of the device's processes: memory, processor time, switches.
//!
//! The services' pids on the bus are those of the device's own PID namespace; the lab gives the same processes as this
//! side sees them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use lab::{World, jail::Running, site::Side};

/// Ticks per second in `/proc/PID/stat`, on every architecture that Linux has here.
const TICKS: u64 = 100;

/// A service's process.
#[derive(Debug, Clone)]
pub struct Process {
    /// The service.
    pub name: String,
    /// Its pid as seen from here.
    pub pid: i32,
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    /// Processor time in nanoseconds.
    pub cpu_ns: u64,
    /// How often one of its threads went to sleep, so how often one woke up.
    pub sleeps: u64,
}

/// The processes of the device that run a program of the device, by pid: services and the supervisor, not what they
/// started from elsewhere (QEMU, dnsmasq). Under a name there may be several.
pub fn services(world: &World, root: &Path) -> Vec<Process> {
    let programs = root.join("usr/bin");
    let found = world.site().processes(Side::Device).into_iter();
    let ours = found.filter_map(|running: Running| {
        let exe = fs::read_link(format!("/proc/{}/exe", running.pid)).ok()?;
        is_ours(&exe, &programs).map(|name| Process {
            name,
            pid: running.pid,
        })
    });
    ours.collect()
}

/// The name of a program in `programs`, also of one that was replaced since it started.
fn is_ours(exe: &Path, programs: &Path) -> Option<String> {
    let name = exe.strip_prefix(programs).ok()?.to_str()?;
    Some(name.trim_end_matches(" (deleted)").to_owned())
}

/// What a process has of the machine's memory, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Proportional set size: shared pages count by their share.
    pub pss: u64,
    /// Pages that are in memory for it, shared ones in full.
    pub rss: u64,
    /// Pages that are there for this process alone and on no disk: heap, stacks, relocated tables.
    pub private: u64,
}

/// What the process has of the memory now.
pub fn memory(pid: i32) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let of = |word| kib(&text, word).with_context(|| format!("no {word} in {path}"));
    Ok(Memory {
        pss: of("Pss:")?,
        rss: of("Rss:")?,
        private: of("Private_Dirty:")?,
    })
}

/// Its threads and its open descriptors.
pub fn handles(pid: i32) -> Result<(u64, u64)> {
    let count = |what: &str| -> Result<u64> {
        let dir = format!("/proc/{pid}/{what}");
        let entries = fs::read_dir(&dir).with_context(|| format!("read {dir}"))?;
        Ok(u64::try_from(entries.count())?)
    };
    Ok((count("task")?, count("fd")?))
}

/// What the process has used up to now.
pub fn used(pid: i32) -> Result<Used> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let mut used = Used {
        cpu_ns: ticks(&stat).context("no times in the process's stat")? * (1_000_000_000 / TICKS),
        sleeps: 0,
    };
    let mut threads_ns = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread: PathBuf = thread?.path();
        // A thread may end while it is looked at; what it used stays in the process's own count.
        let read = |file: &str| fs::read_to_string(thread.join(file)).unwrap_or_default();
        threads_ns += run_time(&read("schedstat")).unwrap_or(0);
        used.sleeps += kib(&read("status"), "voluntary_ctxt_switches:").unwrap_or(0);
    }
    // Ticks are coarse but count threads that have ended, too.
    used.cpu_ns = used.cpu_ns.max(threads_ns);
    Ok(used)
}

/// A number after a word at the begin of a line.
fn kib(text: &str, word: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(word))?;
    line.split_whitespace().next()?.parse().ok()
}

/// utime and stime, fields 14 and 15 of `/proc/PID/stat`.
fn ticks(stat: &str) -> Option<u64> {
    // The name in field 2 may hold spaces and brackets; the last bracket ends it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Time on a processor in nanoseconds, the first field of `/proc/PID/task/TID/schedstat`.
fn run_time(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

/// Stripped sizes in KiB of `names` in `binaries`. Of several names of one file the first counts.
pub fn sizes(binaries: &Path, names: &[&str]) -> Result<BTreeMap<String, u64>> {
    let copies = tempfile::tempdir()?;
    let mut sizes = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for &name in names {
        let (from, to) = (binaries.join(name), copies.path().join(name));
        let file = fs::metadata(&from).with_context(|| format!("look at {}", from.display()))?;
        if !seen.insert((file.dev(), file.ino())) {
            continue;
        }
        let stripped = std::process::Command::new("strip")
            .arg("-o")
            .arg(&to)
            .arg(&from)
            .output()
            .context("run strip, of the package binutils")?;
        let said = String::from_utf8_lossy(&stripped.stderr);
        ensure!(
            stripped.status.success(),
            "strip {}: {said}",
            from.display()
        );
        sizes.insert(name.to_owned(), fs::metadata(&to)?.len().div_ceil(1024));
        fs::remove_file(to)?;
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_programs_of_the_device_are_its_services() {
        let programs = Path::new("/tmp/w/device/usr/bin");
        let name = |exe: &str| is_ours(Path::new(exe), programs);
        assert_eq!(name("/tmp/w/device/usr/bin/nim").as_deref(), Some("nim"));
        assert_eq!(
            name("/tmp/w/device/usr/bin/nim (deleted)").as_deref(),
            Some("nim")
        );
        assert_eq!(name("/usr/bin/qemu-system-x86_64"), None);
    }

    #[test]
    fn the_kernels_files_are_understood() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194560 7 0 0 0 30 12 0 0 20 0";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(run_time("130264222 223588760 272\n"), Some(130_264_222));
        assert_eq!(
            kib("Rss: 10 kB\nPss:   11734 kB\nPss_Dirty: 8 kB\n", "Pss:"),
            Some(11734)
        );
        let status = "voluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t545\n";
        assert_eq!(kib(status, "voluntary_ctxt_switches:"), Some(150));
    }

    #[test]
    fn a_file_with_two_names_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let own = std::env::current_exe().unwrap();
        fs::copy(own, dir.path().join("one")).unwrap();
        fs::hard_link(dir.path().join("one"), dir.path().join("two")).unwrap();
        let sizes = sizes(dir.path(), &["one", "two"]).unwrap();
        assert_eq!(sizes.keys().collect::<Vec<_>>(), ["one"]);
        assert!(super::sizes(dir.path(), &["three"]).is_err());
    }

    #[test]
    fn this_process_has_used_something() {
        let own = i32::try_from(std::process::id()).unwrap();
        let memory = memory(own).unwrap();
        assert!(memory.private > 100 && memory.private <= memory.pss && memory.pss <= memory.rss);
        let (threads, descriptors) = handles(own).unwrap();
        assert!(threads > 0 && descriptors > 2);
        assert!(used(own).unwrap().cpu_ns > 0);
    }
}
