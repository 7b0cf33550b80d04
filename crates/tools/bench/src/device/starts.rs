//! What a start takes: the system calls of each service from its `exec` until it says that it is ready.
//!
//! A whole device boots under strace, with its users, sandboxes and environment. Unlike a time this count says the same
//! on a busy machine and on an idle one.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use demo::Stage;

use super::{timeline, wait};
use crate::stop::Stop;
use model::topics::SERVICE_STATUS;

/// How strace names its files: this, a dot, and the thread.
const PREFIX: &str = "calls";
/// How often it is looked whether all are ready.
const LOOK: Duration = Duration::from_millis(200);

/// Boots the device of a new stage once; system calls by service.
pub fn calls(stage: &Stage, limit: Duration, stop: &Stop) -> Result<BTreeMap<String, u64>> {
    let traces = tempfile::tempdir()?;
    let root = stage.device().root();
    let supervisor = root.join("usr/bin/supervisor");
    let mut command = Command::new("strace");
    command
        .args(["-ff", "-ttt", "-qq", "-s", "256", "-o"])
        .arg(traces.path().join(PREFIX))
        .arg(supervisor)
        .arg("--root")
        .arg(root)
        .current_dir(root);
    let begin = Instant::now();
    let _device = stage
        .world()
        .spawn_device("strace", &mut command)
        .context("run strace")?;
    let bus = stage.bus()?;
    while !bus
        .read(&SERVICE_STATUS)?
        .is_some_and(|rows| timeline::all_ready(&rows))
    {
        ensure!(
            begin.elapsed() < limit,
            "not every service ready: {}",
            stage.why()
        );
        wait(LOOK, stop)?;
    }
    stage.world().power_cut()?;
    count(traces.path(), &root.join("usr/bin"))
}

/// Reads what strace wrote.
fn count(traces: &Path, programs: &Path) -> Result<BTreeMap<String, u64>> {
    let mut threads = BTreeMap::new();
    for entry in fs::read_dir(traces)? {
        let path = entry?.path();
        let thread = path.extension().and_then(|id| id.to_str()?.parse().ok());
        let thread: u32 = thread.with_context(|| format!("{} is no trace", path.display()))?;
        let text = fs::read(&path)?;
        threads.insert(thread, Trace::of(&String::from_utf8_lossy(&text)));
    }
    Ok(by_program(&threads, programs))
}

/// The calls of one thread: when, and what strace says of it.
#[derive(Debug, Clone, Default)]
struct Trace(Vec<(f64, String)>);

impl Trace {
    fn of(text: &str) -> Self {
        let calls = text.lines().filter_map(|line| {
            let (at, call) = line.split_once(' ')?;
            // Signals and ends are no calls.
            let is_call = !call.starts_with("---") && !call.starts_with("+++");
            Some((at.parse().ok()?, call.to_owned())).filter(|_| is_call)
        });
        Self(calls.collect())
    }

    /// The threads that this one made.
    fn children(&self) -> impl Iterator<Item = u32> {
        let made = self
            .0
            .iter()
            .filter(|(_, call)| call.starts_with("clone") && call.contains("CLONE_THREAD"));
        made.filter_map(|(_, call)| call.rsplit_once("= ")?.1.trim().parse().ok())
    }
}

fn by_program(threads: &BTreeMap<u32, Trace>, programs: &Path) -> BTreeMap<String, u64> {
    let start = format!("execve(\"{}/", programs.display());
    let mut counts = BTreeMap::new();
    for (thread, trace) in threads {
        // The last one: before it runs the shim that gives up the unit's rights.
        let calls = trace.0.iter().enumerate().rev();
        let begun = calls
            .filter(|(_, (_, call))| call.ends_with("= 0"))
            .find_map(|(index, (_, call))| {
                Some((index, call.strip_prefix(&start)?.split('"').next()?))
            });
        let Some((first, name)) = begun else { continue };
        let ready = trace.0[first..]
            .iter()
            .find(|(_, call)| call.contains("\"READY=1"));
        let Some(&(until, _)) = ready else { continue };
        let own = trace.0[first..]
            .iter()
            .filter(|(at, _)| *at <= until)
            .count();
        let others = descendants(threads, *thread);
        let theirs = others.map(|trace| trace.0.iter().filter(|(at, _)| *at <= until).count());
        let all = own + theirs.sum::<usize>();
        counts.insert(name.to_owned(), u64::try_from(all).unwrap_or(u64::MAX));
    }
    counts
}

/// All threads of the process with this main thread, but for it.
fn descendants(threads: &BTreeMap<u32, Trace>, main: u32) -> impl Iterator<Item = &Trace> {
    let mut found = Vec::new();
    let mut next = vec![main];
    while let Some(thread) = next.pop() {
        let Some(trace) = threads.get(&thread) else {
            continue;
        };
        next.extend(trace.children());
        if thread != main {
            found.push(trace);
        }
    }
    found.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_count_from_the_last_exec_to_the_word_on_all_threads() {
        let main = "1.0 execve(\"/proc/self/exe\", [\"supervisor\", \"unit-exec\"], 0x7 /* 0 vars */) = 0\n\
            1.1 setsid() = 7\n\
            1.2 execve(\"/w/usr/bin/nim\", [\"/w/usr/bin/nim\"], 0x7 /* 3 vars */) = 0\n\
            1.3 brk(NULL) = 0x1000\n\
            1.4 clone3({flags=CLONE_VM|CLONE_THREAD, child_tid=0x1} => {parent_tid=[9]}, 88) = 9\n\
            1.5 sendto(3, \"READY=1\\n\", 8, 0, NULL, 0) = 8\n\
            1.6 write(2, \"later\", 5) = 5\n";
        let other = "1.45 futex(0x1, FUTEX_WAKE, 1) = 0\n--- SIGCHLD ---\n1.7 exit(0) = ?\n";
        let supervisor =
            "0.5 execve(\"/w/usr/bin/supervisor\", [], 0x7) = 0\n0.6 brk(NULL) = 0x1\n";
        let threads = [(7, main), (9, other), (2, supervisor)];
        let threads = threads
            .map(|(thread, text)| (thread, Trace::of(text)))
            .into();
        let counts = by_program(&threads, Path::new("/w/usr/bin"));
        assert_eq!(counts, [("nim".to_owned(), 5)].into());
    }
}
