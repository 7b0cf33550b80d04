//! Network namespaces that nobody can leak.
//!
//! A namespace here has no name in `/run/netns`: it lives as long as this process holds its file
//! descriptor or a process runs in it. When the owner dies, however it dies, the kernel takes the
//! namespace down and with it every link, tap, bridge, route and nft table inside.
//! Other processes of the same machine enter by [`Netns::path`].

use crate::command::{self, CommandError};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// Why something in a network namespace was not done.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The kernel refused to make or enter the namespace; most often for want of root.
    #[error("cannot {action} network namespace {name} (are you root?): {source}")]
    Kernel {
        /// Make, open or enter.
        action: &'static str,
        /// The namespace.
        name: String,
        /// What the kernel answered.
        source: std::io::Error,
    },
    /// A program in the namespace failed.
    #[error("in network namespace {name}: {source}")]
    Command {
        /// The namespace.
        name: String,
        /// What the program said.
        source: CommandError,
    },
}

/// A network namespace; clones are the same namespace.
#[derive(Debug, Clone)]
pub struct Netns {
    name: String,
    file: Arc<OwnedFd>,
}

impl Netns {
    /// Makes an empty namespace with its loopback up. `name` is for messages only.
    pub fn create(name: &str) -> Result<Netns, NetnsError> {
        let made = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let netns = Netns {
            name: name.to_owned(),
            file: Arc::new(made.map_err(|source| kernel("make", name, source))?.into()),
        };
        netns.exec(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        Ok(netns)
    }

    /// Opens a namespace of another process by its [`Netns::path`].
    pub fn open(name: &str, path: &Path) -> Result<Netns, NetnsError> {
        let file = File::open(path).map_err(|source| kernel("open", name, source))?;
        Ok(Netns {
            name: name.to_owned(),
            file: Arc::new(file.into()),
        })
    }

    /// What messages call this namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where other processes find the namespace, for as long as this one lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.file.as_raw_fd()
        ))
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets made there, and programs
    /// started there, stay in the namespace. A panic of `work` is passed on.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        on_thread(|| {
            self.enter()?;
            Ok(work())
        })
        .map_err(|source| kernel("enter", &self.name, source))
    }

    /// Runs `command` inside the namespace to its end and returns its standard output.
    pub fn exec(&self, command: &mut Command) -> Result<String, NetnsError> {
        self.run(|| command::run(command))?
            .map_err(|source| self.failed(source))
    }

    /// Like [`Netns::exec`], with `input` on the program's standard input.
    pub fn exec_with_input(
        &self,
        command: &mut Command,
        input: &str,
    ) -> Result<String, NetnsError> {
        self.run(|| command::run_with_input(command, input.as_bytes()))?
            .map_err(|source| self.failed(source))
    }

    /// Runs `ip -batch` with one command a line.
    pub fn ip(&self, batch: &str) -> Result<(), NetnsError> {
        self.exec_with_input(Command::new("ip").args(["-batch", "-"]), batch)?;
        Ok(())
    }

    /// Moves the calling thread into the namespace, for good.
    pub(crate) fn enter(&self) -> std::io::Result<()> {
        Ok(setns(&self.file, CloneFlags::CLONE_NEWNET)?)
    }

    fn failed(&self, source: CommandError) -> NetnsError {
        NetnsError::Command {
            name: self.name.clone(),
            source,
        }
    }
}

/// Namespaces belong to threads: whoever enters one for a while does it on a thread made for that.
pub(crate) fn on_thread<T: Send>(
    work: impl FnOnce() -> std::io::Result<T> + Send,
) -> std::io::Result<T> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn kernel(action: &'static str, name: &str, source: std::io::Error) -> NetnsError {
    NetnsError::Kernel {
        action,
        name: name.to_owned(),
        source,
    }
}
