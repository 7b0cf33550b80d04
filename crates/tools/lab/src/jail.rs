//! Process trees that cannot outlive their owner.
//!
//! A jail is a PID and mount namespace. Its PID 1 is a `cat` that reads a pipe whose other end only
//! the owner holds: when the owner ends, by return, panic, Ctrl-C or `kill -9`, `cat` reads the end
//! of its input and exits, and the kernel kills everything in the namespace. No signal handler and no
//! clean-up code has to run for that. `cat` ignores SIGCHLD, so orphans in the jail are reaped.

use crate::netns::{Netns, on_thread};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why a jail could not be made or entered.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// The keeper could not be started or did not come up.
    #[error("cannot start the keeper of a process namespace (are you root?): {0}")]
    Start(std::io::Error),
    /// A program could not be started in the jail.
    #[error("cannot start {program} in the jail: {source}")]
    Spawn {
        /// The program.
        program: String,
        /// What the kernel answered.
        source: std::io::Error,
    },
    /// The jail's PID 1 is gone: its processes are dead.
    #[error("the jail with PID 1 = {pid} is gone: {source}")]
    Gone {
        /// PID of its first process, seen from outside.
        pid: i32,
        /// What the kernel answered.
        source: std::io::Error,
    },
}

/// Entrance to a jail; anyone who knows the PID of its first process can make one.
#[derive(Debug)]
pub struct Entrance {
    init: Pid,
    pid: File,
    mount: File,
}

impl Entrance {
    /// The entrance to the jail whose PID 1 is `init`, as seen from outside.
    pub fn of(init: i32) -> Result<Entrance, JailError> {
        let open = |kind: &str| {
            File::open(format!("/proc/{init}/ns/{kind}"))
                .map_err(|source| JailError::Gone { pid: init, source })
        };
        Ok(Entrance {
            init: Pid::from_raw(init),
            pid: open("pid")?,
            mount: open("mnt")?,
        })
    }

    /// PID of the jail's first process, seen from outside.
    #[must_use]
    pub fn init(&self) -> i32 {
        self.init.as_raw()
    }

    /// Starts `command` in the jail and in `netns`, in a process group of its own. The child's
    /// working directory is `/` unless the command sets one: paths should be absolute.
    pub fn spawn(&self, netns: &Netns, command: &mut Command) -> Result<Child, JailError> {
        self.spawn_in_group(netns, command.process_group(0))
    }

    /// Like [`Entrance::spawn`], in the caller's process group: a terminal's Ctrl-C reaches it.
    pub fn spawn_in_group(&self, netns: &Netns, command: &mut Command) -> Result<Child, JailError> {
        on_thread(|| {
            netns.enter()?;
            // A thread shares its root and working directory with the process until it says otherwise.
            unshare(CloneFlags::CLONE_FS)?;
            setns(&self.mount, CloneFlags::CLONE_NEWNS)?;
            // Concerns the children of this thread only.
            setns(&self.pid, CloneFlags::CLONE_NEWPID)?;
            command.spawn()
        })
        .map_err(|source| JailError::Spawn {
            program: command.get_program().to_string_lossy().into_owned(),
            source,
        })
    }

    /// PIDs, seen from outside, of the jail's processes and their names; PID 1 is not among them.
    #[must_use]
    pub fn processes(&self) -> Vec<Running> {
        let Ok(namespace) = std::fs::read_link(format!("/proc/{}/ns/pid", self.init)) else {
            return Vec::new();
        };
        let Ok(entries) = std::fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| *pid != self.init.as_raw())
            .filter(|pid| {
                std::fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|ns| ns == namespace)
            })
            .filter_map(Running::read)
            .collect()
    }
}

/// A process in a jail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its PID seen from outside.
    pub pid: i32,
    /// File name of the program, as it was started.
    pub name: String,
    /// Its whole command line.
    pub line: String,
}

impl Running {
    fn read(pid: i32) -> Option<Running> {
        let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<String> = bytes
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        let name = Path::new(words.first()?).file_name()?;
        Some(Running {
            pid,
            name: name.to_string_lossy().into_owned(),
            line: words.join(" "),
        })
    }

    /// Sends `signal`; a process that is already gone is no error.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.pid), signal);
    }
}

/// A jail that this process owns: dropped, everything in it dies. The kernel ends a jail only when its
/// last zombie is reaped: call [`Jail::doom`] and wait for the [`Child`]ren from [`Entrance::spawn`]
/// before dropping it.
#[derive(Debug)]
pub struct Jail {
    entrance: Arc<Entrance>,
    keeper: Child,
    /// The pipe that keeps PID 1 alive.
    pipe: Option<ChildStdin>,
}

/// How long the kernel may take to end a jail's processes.
const END_LIMIT: Duration = Duration::from_secs(10);

impl Jail {
    /// Makes a jail. When the last process is dead, even if the owner is dead too, `home` is removed
    /// unless a file `keep` lies in it, and so are the control groups whose paths end with the shell
    /// pattern `control_groups`, or lie below.
    pub fn new(home: &Path, control_groups: &str) -> Result<Jail, JailError> {
        let mut command = Command::new("sh");
        // The outer shell sees the end of the namespace and is the only one left to remove the home.
        command
            .arg("-c")
            .arg(format!("{}; {CLEAR}", UNSHARE.join(" ")))
            .arg(home)
            .arg(control_groups)
            .process_group(0);
        let keeper = piped(&mut command).spawn().map_err(JailError::Start)?;
        Jail::settle(keeper)
    }

    /// Makes a jail inside another: it ends with its owner, and at the latest with the outer one.
    pub fn inside(outer: &Entrance, netns: &Netns) -> Result<Jail, JailError> {
        let mut command = Command::new(UNSHARE[0]);
        command.args(&UNSHARE[1..]);
        let keeper = outer.spawn(netns, piped(&mut command))?;
        Jail::settle(keeper)
    }

    /// The way in.
    #[must_use]
    pub fn entrance(&self) -> &Arc<Entrance> {
        &self.entrance
    }

    fn settle(mut keeper: Child) -> Result<Jail, JailError> {
        let missing = || JailError::Start(std::io::Error::other("no pipe to the keeper"));
        let mut pipe = keeper.stdin.take().ok_or_else(missing)?;
        let mut answer = keeper.stdout.take().ok_or_else(missing)?;
        // `cat` answers when all of `unshare` and `env` lies behind it.
        let mut echo = [0; 3];
        pipe.write_all(b"up\n")
            .and_then(|()| answer.read_exact(&mut echo))
            .map_err(|source| {
                let mut said = String::new();
                if let Some(stderr) = &mut keeper.stderr {
                    let _ = stderr.read_to_string(&mut said);
                }
                let _ = keeper.wait();
                JailError::Start(std::io::Error::other(format!("{source}: {}", said.trim())))
            })?;
        let init = descendant(keeper.id(), "cat")
            .ok_or_else(|| JailError::Start(std::io::Error::other("the keeper has no cat")))?;
        Ok(Jail {
            entrance: Arc::new(Entrance::of(init)?),
            keeper,
            pipe: Some(pipe),
        })
    }

    /// Asks the kernel to kill everything in the jail; returns at once.
    pub fn doom(&mut self) {
        drop(self.pipe.take());
        let _ = kill(self.entrance.init, Signal::SIGKILL);
    }
}

impl Drop for Jail {
    fn drop(&mut self) {
        self.doom();
        let deadline = Instant::now() + END_LIMIT;
        while Instant::now() < deadline {
            match self.keeper.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                Ok(Some(_)) | Err(_) => return,
            }
        }
        tracing::warn!(init = %self.entrance.init, "a jail did not end in time");
    }
}

/// `--kill-child`: should the keeper itself be killed, the jail goes too. What is mounted outside later, on a device's
/// `/persist`, say, is seen inside; what is mounted inside stays there.
const UNSHARE: [&str; 11] = [
    "unshare",
    "--pid",
    "--fork",
    "--kill-child",
    "--propagation",
    "slave",
    "--mount-proc",
    "--",
    "env",
    "--ignore-signal=CHLD",
    "cat",
];

/// What the keeper does at the very end; `$0` is the home, `$1` the pattern. Deepest groups first,
/// then their common parent if nobody else has groups there.
const CLEAR: &str = r#"
find /sys/fs/cgroup -depth -type d \( -path "*/$1" -o -path "*/$1/*" \) -exec rmdir -- {} + 2>/dev/null
rmdir /sys/fs/cgroup/"${1%/*}" /sys/fs/cgroup/*/"${1%/*}" 2>/dev/null
test -e "$0/keep" || rm -rf --one-file-system -- "$0""#;

fn piped(command: &mut Command) -> &mut Command {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
}

/// The process called `name` among `pid`'s descendants, followed along first children.
fn descendant(pid: u32, name: &str) -> Option<i32> {
    let mut pid = i32::try_from(pid).ok()?;
    loop {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        if comm.trim() == name {
            return Some(pid);
        }
        let path = PathBuf::from(format!("/proc/{pid}/task/{pid}/children"));
        let children = std::fs::read_to_string(path).ok()?;
        pid = children.split_whitespace().next()?.parse().ok()?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn alive(pid: i32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn a_dropped_jail_takes_its_processes_and_its_home() {
        let home = tempfile::tempdir().unwrap().keep();
        let netns = Netns::create("jail-test").unwrap();
        let jail = Jail::new(&home, "eve/jail-test-*").unwrap();
        let mut inner = Jail::inside(jail.entrance(), &netns).unwrap();
        let mut child = inner
            .entrance()
            .spawn(
                &netns,
                // The second is an orphan that ends at once: PID 1 must not leave a zombie of it.
                Command::new("sh")
                    .args(["-c", "setsid sleep 600 & (setsid true &); exec sleep 601"]),
            )
            .unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let running = inner.entrance().processes();
        assert_eq!(running.len(), 2, "{running:?}");
        inner.doom();
        child.wait().unwrap();
        drop(inner);
        assert!(running.iter().all(|process| !alive(process.pid)));
        drop(jail);
        assert!(!home.exists());
    }
}
