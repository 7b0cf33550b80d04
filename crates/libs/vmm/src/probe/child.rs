//! The child process that runs the vCPU, from both sides.
//!
//! It says `kvm-probe: running` right before the vCPU starts and then `kvm-probe: in-time` or
//! `kvm-probe: failed WHY`, one line each; other lines are ignored. Its own alarm ends it if the
//! parent dies.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};
use tokio::time::timeout;

use super::{CHILD_ARGUMENT, Outcome};

/// Starting a process and making a VM takes 10 ms; a loaded machine gets this long.
const START_LIMIT: Duration = Duration::from_secs(3);
/// A killed child is normally gone within 15 ms; one that sits in the kernel is abandoned.
const REAP_LIMIT: Duration = Duration::from_millis(500);
/// The child ends itself after this many seconds.
const ALARM_SECONDS: u32 = 10;
/// Bytes of the child's output that are looked at.
const MAX_OUTPUT: u64 = 64 << 10;
const MARK: &str = "kvm-probe: ";

/// The program that calls [`child_main`].
#[derive(Debug, Clone)]
pub struct Child {
    program: PathBuf,
    arg0: Option<OsString>,
    arguments: Vec<OsString>,
}

impl Child {
    /// This program, under the name it was started with (a multi-call binary looks at it). Not by
    /// its path: an update may have replaced the file since.
    pub fn this_program() -> Self {
        Self {
            program: "/proc/self/exe".into(),
            arg0: std::env::args_os().next(),
            arguments: vec![CHILD_ARGUMENT.into()],
        }
    }

    /// Another program, or this one with other arguments; it must get to [`run_loop`].
    pub fn program(program: impl Into<PathBuf>, arguments: Vec<OsString>) -> Self {
        Self {
            program: program.into(),
            arg0: None,
            arguments,
        }
    }

    /// One attempt. The child is ended when this returns, and also when it is dropped.
    pub async fn run(&self, turns: u32, limit: Duration) -> Outcome {
        let mut command = Command::new(&self.program);
        if let Some(arg0) = &self.arg0 {
            command.arg0(arg0);
        }
        command
            .args(&self.arguments)
            .env(TURNS_VARIABLE, turns.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                let program = self.program.display();
                return Outcome::Failed(format!("starting {program}: {error}"));
            }
        };
        let outcome = match child.stdout.take() {
            Some(stdout) => listen(stdout, limit).await,
            None => Outcome::Failed("the child has no output".into()),
        };
        drop(child.start_kill());
        if timeout(REAP_LIMIT, child.wait()).await.is_err() {
            return Outcome::Failed("the child does not end: KVM blocks in the kernel".into());
        }
        outcome
    }
}

async fn listen(stdout: ChildStdout, limit: Duration) -> Outcome {
    let mut lines = BufReader::new(stdout.take(MAX_OUTPUT)).lines();
    match timeout(START_LIMIT, word(&mut lines)).await {
        Err(_) => return Outcome::Failed("the child made no vCPU in time".into()),
        Ok(Some(word)) if word == "running" => {}
        Ok(said) => return failed(said),
    }
    match timeout(limit, word(&mut lines)).await {
        Err(_) => Outcome::TooSlow,
        Ok(Some(word)) if word == "in-time" => Outcome::InTime,
        Ok(said) => failed(said),
    }
}

async fn word<R: tokio::io::AsyncRead + Unpin>(lines: &mut Lines<BufReader<R>>) -> Option<String> {
    while let Ok(Some(line)) = lines.next_line().await {
        // A test harness prints its own words on the same line.
        if let Some((_, word)) = line.split_once(MARK) {
            return Some(word.trim_end().to_owned());
        }
    }
    None
}

fn failed(said: Option<String>) -> Outcome {
    Outcome::Failed(match said {
        Some(word) => word.strip_prefix("failed ").unwrap_or(&word).to_owned(),
        None => "the child ended without a word".into(),
    })
}

const TURNS_VARIABLE: &str = "KVM_PROBE_TURNS";

/// To be called at the start of `main`, before threads, files and flags: if this process is the
/// child of a probe it does its work and returns the code to exit with, else `None`.
///
/// ```no_run
/// # use std::process::ExitCode;
/// fn main() -> ExitCode {
///     if let Some(code) = vmm::probe::child_main(std::env::args_os().nth(1).as_deref()) {
///         return code;
///     }
///     ExitCode::SUCCESS // the program itself
/// }
/// ```
pub fn child_main(first_argument: Option<&OsStr>) -> Option<ExitCode> {
    (first_argument == Some(OsStr::new(CHILD_ARGUMENT))).then(run_loop)
}

/// The child's work: runs the vCPU and says how it went.
pub fn run_loop() -> ExitCode {
    nix::unistd::alarm::set(ALARM_SECONDS);
    let turns = std::env::var(TURNS_VARIABLE).ok();
    let turns = turns.and_then(|turns| turns.parse().ok());
    match run_vcpu(turns.unwrap_or(super::TURNS)) {
        Ok(()) => {
            say("in-time");
            ExitCode::SUCCESS
        }
        Err(why) => {
            say(&format!("failed {why}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn run_vcpu(turns: u32) -> Result<(), String> {
    crate::kvm::run_loop(turns, || say("running")).map_err(|error| error.to_string())
}

#[cfg(not(target_arch = "x86_64"))]
fn run_vcpu(_turns: u32) -> Result<(), String> {
    Err("no guest code for this CPU architecture".into())
}

/// A parent that no longer listens is no reason to panic.
fn say(word: &str) {
    let mut stdout = std::io::stdout();
    drop(writeln!(stdout, "{MARK}{word}").and_then(|()| stdout.flush()));
}
