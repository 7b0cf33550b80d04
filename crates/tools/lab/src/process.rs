//! A program that runs in a world: its PID, its log, its end.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A running or ended program of a world; clones are the same program.
#[derive(Debug, Clone)]
pub struct Process {
    name: String,
    pid: i32,
    log: PathBuf,
    child: Arc<Mutex<Child>>,
}

impl Process {
    pub(crate) fn new(name: &str, log: PathBuf, child: Child) -> Process {
        Process {
            name: name.to_owned(),
            pid: i32::try_from(child.id()).unwrap_or(i32::MAX),
            log,
            child: Arc::new(Mutex::new(child)),
        }
    }

    /// The name it was started under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its PID as seen by the world's owner.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The file with all that it printed.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// What it printed so far; empty when the log is unreadable.
    #[must_use]
    pub fn output(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Sends `signal`, unless it has ended: its PID may be another's then.
    pub fn signal(&self, signal: Signal) {
        let mut child = self.child();
        if matches!(child.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// How it ended, or `None` while it runs.
    #[must_use]
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    /// Waits until it ends, `limit` at most.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.ended();
            if ended.is_some() || Instant::now() >= deadline {
                return ended;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM, and SIGKILL if that took longer than `limit`.
    pub fn stop(&self, limit: Duration) -> Option<ExitStatus> {
        self.signal(Signal::SIGTERM);
        self.wait(limit).or_else(|| self.kill())
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&self) -> Option<ExitStatus> {
        self.signal(Signal::SIGKILL);
        self.wait(Duration::from_secs(10))
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends both outputs of `command` to the end of `log`, and gives it no input.
pub(crate) fn logged(command: &mut Command, log: &Path) -> std::io::Result<()> {
    if let Some(dir) = log.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(log)?;
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file);
    Ok(())
}
