//! What `/proc` says of processes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::time::Uptime;

/// The parts of `/proc/<pid>/stat` that name a process and say whether it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// `R`, `S`, `D`, `T`, `Z`...
    pub state: char,
    /// Its parent.
    pub parent: u32,
    /// Its start in clock ticks since boot.
    pub start_ticks: u64,
}

impl Stat {
    /// Whether there is still something that can run.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// Reads `/proc/<pid>/stat`; `None` when there is no such process.
pub(crate) fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The program's name is in parentheses and may hold anything, parentheses and spaces too.
fn parse_stat(text: &str) -> Option<Stat> {
    let rest = &text[text.rfind(')')? + 1..];
    let mut fields = rest.split_ascii_whitespace();
    Some(Stat {
        state: fields.next()?.chars().next()?,
        parent: fields.next()?.parse().ok()?,
        start_ticks: fields.nth(17)?.parse().ok()?,
    })
}

/// A handle to one process, which stays that process's when its pid is used again.
#[derive(Debug)]
pub(crate) struct Handle(OwnedFd);

impl Handle {
    /// Opens the process `pid` if it is the one that was started at `start_ticks` and lives.
    pub(crate) fn open(pid: u32, start_ticks: u64) -> Option<Self> {
        let handle = Self::open_any(pid).ok()?;
        // In this order: after the handle is open the pid can't be reused unnoticed.
        let stat = stat(pid)?;
        (stat.start_ticks == start_ticks && stat.is_alive()).then_some(handle)
    }

    /// Opens whatever process has this pid now: right only for one's own child before it is reaped.
    pub(crate) fn open_any(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(Self(pidfd_open(pid, PidfdFlags::NONBLOCK)?))
    }

    /// Sends a signal. A process that has ended is no error.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.0, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The descriptor: readable once the process has ended.
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.0
    }
}

/// Names this boot of the machine: pids and ticks mean nothing in another.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// Time since boot.
pub(crate) fn uptime() -> Uptime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Uptime(Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    ))
}

/// The threads of a process, at most `max`.
pub(crate) fn threads(pid: u32, max: usize) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task")) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.truncate(max);
    paths
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_program_calls_itself() {
        let line = "42 (a) b (c)) S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2 3";
        let stat = parse_stat(line).unwrap();
        assert_eq!(
            (stat.state, stat.parent, stat.start_ticks),
            ('S', 7, 987_654)
        );
        assert_eq!(parse_stat("42 (x) S 7"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn a_handle_is_refused_to_another_process_with_the_same_pid() {
        let pid = std::process::id();
        let me = stat(pid).unwrap();
        assert!(Handle::open(pid, me.start_ticks).is_some());
        assert!(Handle::open(pid, me.start_ticks + 1).is_none());
    }
}
