//! `supervisor unit-exec`: becomes a unit.
//!
//! The supervisor starts itself again in this mode, for every unit, with one end of a socket pair as
//! standard input. The shim reads its [`Order`] from it, sheds what the unit must not have, and
//! replaces itself by the unit's program; the pid stays. So nothing runs between `fork` and `exec`
//! of a process with threads, and no unsafe code is needed.
//!
//! If the supervisor dies before it wrote the whole order, the shim sees the end of the file and
//! goes away: no process that nobody knows is left. If something can't be done, the shim writes why
//! to the socket and exits with [`FAILED`]; a successful `exec` closes the socket without a word.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use rustix::fs::{OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};
use units::{Output, UnitSpec};

use crate::calls::Calls;
use crate::filter::{self, Filter, FilterError};
use crate::machine::Origin;
use crate::sandbox::{self, SandboxError};

/// The subcommand's name.
pub(crate) const SUBCOMMAND: &str = "unit-exec";

/// Exit code of a shim that could not become its unit.
pub(crate) const FAILED: u8 = 125;

/// Where programs are looked for, unless the unit says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the supervisor tells the shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The unit.
    pub spec: UnitSpec,
    /// Its system calls and its network.
    pub filter: Filter,
    /// Who described it.
    pub origin: Origin,
    /// Its `NOTIFY_SOCKET`, if it sends a heartbeat.
    pub notify: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum ShimError {
    #[error("no order: {0}")]
    Order(io::Error),
    #[error("the order can't be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error("can't {what}: {source}")]
    Kernel {
        what: &'static str,
        source: io::Error,
    },
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error("can't open the output {path}: {source}", path = path.display())]
    Output { path: PathBuf, source: io::Error },
    #[error("can't enter the directory {path}: {source}", path = path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("can't execute {program}: {source}")]
    Exec { program: String, source: io::Error },
}

fn kernel<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> ShimError {
    move |source| ShimError::Kernel {
        what,
        source: source.into(),
    }
}

/// Becomes the unit. Returns only when that failed.
pub(crate) fn run() -> ExitCode {
    let channel = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(fd) => UnixStream::from(fd),
        Err(_) => return ExitCode::from(FAILED),
    };
    let Err(error) = become_unit(&channel);
    // The supervisor may be gone; then nobody is left to be told.
    let _ = (&channel).write_all(error.to_string().as_bytes());
    ExitCode::from(FAILED)
}

fn become_unit(mut channel: &UnixStream) -> Result<std::convert::Infallible, ShimError> {
    let mut text = Vec::new();
    channel.read_to_end(&mut text).map_err(ShimError::Order)?;
    let Order {
        spec,
        filter,
        origin,
        notify,
    } = serde_json::from_slice(&text)?;
    let program = spec.argv.first().cloned().unwrap_or_default();

    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(kernel("open /dev/null"))?;
    dup2_stdin(&null).map_err(kernel("replace standard input"))?;
    setsid().map_err(kernel("leave the session"))?;
    // A mask passes through every `exec`: a unit that inherits a blocked SIGTERM never hears that it is to end.
    let unmasked = SigSet::empty().thread_set_mask();
    unmasked.map_err(kernel("unblock signals"))?;
    umask(Mode::from_bits_truncate(0o027));
    // What protects the supervisor from the kernel's choice of victims is not for units; without
    // the right to change it there is nothing to undo.
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(kernel("forbid core dumps"))?;

    // With the rights that are given up next: the program and the paths of the rules may lie below
    // directories that the unit can't pass.
    let executable = open_program(&program);
    let rules = sandbox::rules(&spec, filter, origin)?;
    let filters = filter::compile(filter)?;
    sandbox::leave_network(filter.network)?;
    if filter.calls == Calls::Login {
        sandbox::become_user(&sandbox::of_login(&spec.sandbox)?)?;
    } else {
        sandbox::become_user(&spec.sandbox)?;
    }

    match &spec.output {
        Output::Log => {}
        Output::Discard => redirect(&null)?,
        Output::File(path) => redirect(&open_output(path)?)?,
    }
    std::env::set_current_dir(&spec.cwd).map_err(|source| ShimError::Directory {
        path: spec.cwd.clone(),
        source,
    })?;
    sandbox::restrict(rules)?;
    filter::apply(&filters)?;
    Err(ShimError::Exec {
        source: exec(&spec, &program, executable.as_ref(), notify.as_deref()),
        program,
    })
}

fn open_program(program: &str) -> Option<OwnedFd> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(program, flags, rustix::fs::Mode::empty()).ok()
}

fn open_output(path: &Path) -> Result<std::fs::File, ShimError> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
    sandbox::open(path, flags, ResolveFlags::NO_SYMLINKS)
        .map(std::fs::File::from)
        .map_err(|source| ShimError::Output {
            path: path.to_owned(),
            source,
        })
}

fn redirect(file: &std::fs::File) -> Result<(), ShimError> {
    dup2_stdout(file).map_err(kernel("replace standard output"))?;
    dup2_stderr(file).map_err(kernel("replace standard error"))
}

fn exec(
    spec: &UnitSpec,
    program: &str,
    executable: Option<&OwnedFd>,
    notify: Option<&Path>,
) -> io::Error {
    let build = |path: &str| {
        let mut command = Command::new(path);
        command
            .arg0(program)
            .args(spec.argv.iter().skip(1))
            .env_clear()
            .env("PATH", PATH)
            .envs(&spec.env);
        if let (Some(socket), Some(heartbeat)) = (notify, spec.heartbeat) {
            command
                .env("NOTIFY_SOCKET", socket)
                .env("WATCHDOG_USEC", heartbeat.as_micros().to_string());
        }
        command
    };
    let error = build(program).exec();
    // A program below a directory that the unit can't pass (a build tree in somebody's home, say):
    // it was opened before the rights were given up.
    match executable {
        Some(fd) if error.kind() == io::ErrorKind::PermissionDenied => {
            let again = build(&format!("/proc/self/fd/{}", fd.as_raw_fd())).exec();
            if again.kind() == io::ErrorKind::NotFound {
                error
            } else {
                again
            }
        }
        _ => error,
    }
}
