//! What to run and what it may do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Capability, StopSignal, UnitName};

/// A process to be run by the supervisor.
///
/// Make one with [`UnitSpec::new`] and change what differs; the defaults are those of a small
/// helper process: no capabilities, no limits, output to the unit's log, never restarted, `SIGTERM`
/// and ten seconds to end, ended with the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitSpec {
    /// Its name.
    pub name: UnitName,
    /// The command line; `argv[0]` is the absolute path of the program.
    pub argv: Vec<String>,
    /// The environment. The supervisor adds `PATH` (unless given), `NOTIFY_SOCKET`, `WATCHDOG_USEC`.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Absolute working directory.
    #[serde(default = "slash")]
    pub cwd: PathBuf,
    /// User, capabilities and paths.
    pub sandbox: Sandbox,
    /// Memory and CPU limits.
    #[serde(default)]
    pub limits: Limits,
    /// Where its output goes.
    #[serde(default)]
    pub output: Output,
    /// What happens when its process ends by itself.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// How it is asked to end.
    #[serde(default)]
    pub stop: Stop,
    /// Longest silence on `NOTIFY_SOCKET` before the process counts as hung; `None`: not watched.
    #[serde(default)]
    pub heartbeat: Option<Duration>,
    /// It keeps running when the supervisor itself is told to end (it always survives a crash or a
    /// restart of the supervisor).
    #[serde(default)]
    pub outlives_supervisor: bool,
    /// The owner's own notes, given back with the state: what it needs to recognise the unit.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// The name under which services know it.
pub type TransientUnit = UnitSpec;

fn slash() -> PathBuf {
    PathBuf::from("/")
}

/// As whom a unit runs and what it can reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Further groups (that of `/dev/kvm`, say).
    #[serde(default)]
    pub groups: Vec<u32>,
    /// Capabilities, ambient; all others leave the bounding set.
    #[serde(default)]
    pub capabilities: BTreeSet<Capability>,
    /// Landlock rules; `None`: the file system's own permissions only.
    #[serde(default)]
    pub paths: Option<Paths>,
}

/// Landlock rules, in addition to the system's own (programs, libraries, `/etc`, `/proc`,
/// `/dev/null` and the like). Paths that don't exist when the unit starts are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paths {
    /// Files and directories (with all below) to read.
    #[serde(default)]
    pub read: Vec<PathBuf>,
    /// Those to read, write, create and delete in.
    #[serde(default)]
    pub write: Vec<PathBuf>,
    /// Those to read and execute.
    #[serde(default)]
    pub execute: Vec<PathBuf>,
}

/// Resource limits of a unit's cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// At this many bytes the kernel kills the unit (and only it).
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Hundredths of one CPU's time: 150 is one and a half CPUs.
    #[serde(default)]
    pub cpu_percent: Option<u32>,
}

/// Where a unit's standard output and error go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// `<root>/persist/log/<stem>.log`, rotated by the supervisor.
    #[default]
    Log,
    /// Appended to this file, which its owner looks after.
    File(PathBuf),
    /// Nowhere.
    Discard,
}

/// What happens when a unit's process ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// The unit has ended.
    #[default]
    Never,
    /// It is started again, unless it exited with 0. An unknown exit (see
    /// [`crate::ExitKind::Unknown`]) counts as a failure.
    OnFailure,
    /// It is started again.
    Always,
}

/// How a unit is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// First this signal to its main process,
    pub signal: StopSignal,
    /// and after this time `SIGKILL` to all its processes.
    pub timeout: Duration,
}

impl Default for Stop {
    fn default() -> Self {
        Self {
            signal: StopSignal::Term,
            timeout: Duration::from_secs(10),
        }
    }
}

/// Why a spec can't be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The name is none.
    #[error(transparent)]
    Name(#[from] crate::NameError),
    /// A path must be absolute, without `..`.
    #[error("{field} {path:?} is not an absolute path without \"..\"")]
    Path {
        /// Which field.
        field: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// `argv` is empty.
    #[error("the command line is empty")]
    NoProgram,
    /// A text that goes to the kernel holds a NUL, or a variable's name holds `=` or is empty.
    #[error("{field} holds a text that no process can be given: {text:?}")]
    Text {
        /// Which field.
        field: &'static str,
        /// Its value.
        text: String,
    },
    /// No such capability.
    #[error("capability {text:?} is not one that units can have")]
    Capability {
        /// What was asked for.
        text: String,
    },
    /// No such signal.
    #[error("signal {text:?} is not one that ends a unit")]
    Signal {
        /// What was asked for.
        text: String,
    },
    /// A number is out of its range.
    #[error("{field} is {value}, not in {range}")]
    Range {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What is allowed.
        range: &'static str,
    },
    /// A field that must be there is absent.
    #[error("{field} is missing")]
    Missing {
        /// Which field.
        field: &'static str,
    },
    /// More text than a unit can carry.
    #[error("the unit's texts take {bytes} bytes, more than {max}")]
    TooLarge {
        /// How much.
        bytes: usize,
        /// The limit.
        max: usize,
    },
}

/// All texts of a spec together: below what one `execve` takes, and it bounds the state files.
const TEXT_MAX: usize = 256 * 1024;
/// Below this no program starts; it would only restart for ever.
const MEMORY_MIN: u64 = 1024 * 1024;
const STOP_MAX: Duration = Duration::from_hours(1);

impl UnitSpec {
    /// A unit that runs `program` as `uid` in group `eve`, with defaults for the rest.
    pub fn new(name: UnitName, program: impl Into<String>, uid: u32) -> Self {
        Self {
            name,
            argv: vec![program.into()],
            env: BTreeMap::new(),
            cwd: slash(),
            sandbox: Sandbox {
                uid,
                gid: crate::ids::EVE_GID,
                groups: Vec::new(),
                capabilities: BTreeSet::new(),
                paths: None,
            },
            limits: Limits::default(),
            output: Output::default(),
            restart: RestartPolicy::default(),
            stop: Stop::default(),
            heartbeat: None,
            outlives_supervisor: false,
            labels: BTreeMap::new(),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.argv.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds capabilities.
    #[must_use]
    pub fn capabilities(mut self, capabilities: impl IntoIterator<Item = Capability>) -> Self {
        self.sandbox.capabilities.extend(capabilities);
        self
    }

    /// Sets a label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Checks what the types can't: that a process can be made from this at all.
    pub fn check(&self) -> Result<(), SpecError> {
        let program = self.argv.first().ok_or(SpecError::NoProgram)?;
        check_path("argv[0]", Path::new(program))?;
        check_path("cwd", &self.cwd)?;
        if let Output::File(path) = &self.output {
            check_path("output", path)?;
        }
        if let Some(paths) = &self.sandbox.paths {
            for path in [&paths.read, &paths.write, &paths.execute]
                .into_iter()
                .flatten()
            {
                check_path("sandbox.paths", path)?;
            }
        }
        for text in &self.argv {
            check_text("argv", text, |text| !text.contains('\0'))?;
        }
        for (key, value) in &self.env {
            check_text("env", key, |text| {
                !text.is_empty() && !text.contains(['\0', '='])
            })?;
            check_text("env", value, |text| !text.contains('\0'))?;
        }
        self.check_numbers()?;
        self.check_size()
    }

    fn check_numbers(&self) -> Result<(), SpecError> {
        if let Some(value) = self.limits.memory_bytes.filter(|bytes| *bytes < MEMORY_MIN) {
            return Err(range("limits.memory_bytes", value, "1 MiB and more"));
        }
        if let Some(value) = self
            .limits
            .cpu_percent
            .filter(|percent| !(1..=100_000).contains(percent))
        {
            return Err(range("limits.cpu_percent", value.into(), "1..=100000"));
        }
        if self.stop.timeout > STOP_MAX {
            return Err(range(
                "stop.timeout",
                self.stop.timeout.as_secs(),
                "0..=3600 s",
            ));
        }
        if let Some(value) = self.heartbeat.filter(|value| {
            !(Duration::from_millis(100)..=Duration::from_hours(24)).contains(value)
        }) {
            return Err(range("heartbeat", value.as_secs(), "0.1 s to one day"));
        }
        Ok(())
    }

    fn check_size(&self) -> Result<(), SpecError> {
        let texts = self.argv.iter().map(String::len).sum::<usize>();
        let maps = [&self.env, &self.labels]
            .into_iter()
            .flatten()
            .map(|(key, value)| key.len() + value.len())
            .sum::<usize>();
        let bytes = texts + maps;
        if bytes > TEXT_MAX {
            return Err(SpecError::TooLarge {
                bytes,
                max: TEXT_MAX,
            });
        }
        Ok(())
    }
}

fn range(field: &'static str, value: u64, range: &'static str) -> SpecError {
    SpecError::Range {
        field,
        value,
        range,
    }
}

fn check_path(field: &'static str, path: &Path) -> Result<(), SpecError> {
    let climbs = path
        .components()
        .any(|part| matches!(part, std::path::Component::ParentDir));
    if path.is_absolute() && !climbs {
        Ok(())
    } else {
        Err(SpecError::Path {
            field,
            path: path.to_owned(),
        })
    }
}

fn check_text(
    field: &'static str,
    text: &str,
    allowed: impl Fn(&str) -> bool,
) -> Result<(), SpecError> {
    if allowed(text) {
        Ok(())
    } else {
        Err(SpecError::Text {
            field,
            text: text.chars().take(100).collect(),
        })
    }
}
