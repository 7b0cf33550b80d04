//! The command line: what can be typed, and one file per subcommand.

mod args;
mod bundle;
mod check;
mod diff;
mod get;
mod identity;
mod logs;
mod ps;
mod status;
mod timeline;
mod watch;
mod why;
mod write;

use std::{io, process::ExitCode};

use clap::{CommandFactory as _, Parser as _};
use jiff::Timestamp;

use crate::{Error, Snapshot, output::Output};

pub use args::Cli;
use args::{At, Command, Global};

/// What a command that was carried out says with its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Done; as wanted; the same.
    Good,
    /// Not as wanted; differs.
    NotAsWanted,
}

/// Runs the command of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Also the way `--help` and `--version` take.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(2)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match run(cli) {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::NotAsWanted) => ExitCode::from(1),
        // Whoever read the answer has seen enough.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("eve: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<Verdict, Error> {
    let Cli {
        mut global,
        command,
    } = cli;
    let _opened = match global.bundle.clone() {
        None => None,
        Some(file) => Some(unpack(&file, &mut global, &command)?),
    };
    let out = Output::of_process(global.json);
    match command {
        Command::Ps => ps::ps(&global, out),
        Command::Get(args) => get::get(&global, out, &args),
        Command::Watch(args) => watch::watch(&global, out, &args),
        Command::Put(args) => write::put(&global, &args),
        Command::Delete(args) => write::delete(&global, &args),
        Command::Diff(args) => diff::diff(&global, out, &args),
        Command::Check(args) => check::check(&global, out, &args),
        Command::Why(args) => why::why(&global, out, &args),
        Command::Timeline(args) => timeline::timeline(&global, out, &args),
        Command::SupportBundle(args) => bundle::bundle(&global, out, &args),
        Command::Logs(args) => logs::logs(&global, out, &args),
        Command::Status => status::status(&global, out),
        Command::Identity(command) => identity::identity(&global, &command),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "eve", &mut text);
            crate::output::print(&String::from_utf8_lossy(&text))?;
            Ok(Verdict::Good)
        }
    }
}

/// Makes a bundle the device that is asked about.
fn unpack(
    file: &std::path::Path,
    global: &mut Global,
    command: &Command,
) -> Result<crate::bundle::Opened, Error> {
    if global.root != std::path::Path::new("/") {
        return Err(Error::Usage(
            "a device is in a directory (--root) or in a bundle (--bundle), not in both".to_owned(),
        ));
    }
    match command {
        Command::Put(_)
        | Command::Delete(_)
        | Command::Watch(_)
        | Command::SupportBundle(_)
        | Command::Identity(_) => {
            return Err(Error::Usage(
                "a bundle is read only, and nothing in it changes".to_owned(),
            ));
        }
        Command::Ps
        | Command::Get(_)
        | Command::Diff(_)
        | Command::Why(_)
        | Command::Check(_)
        | Command::Timeline(_)
        | Command::Logs(_)
        | Command::Status
        | Command::Completions { .. } => {}
    }
    let opened = crate::bundle::open(file)?;
    global.root = opened.root();
    global.at = global.at.or(Some(At::Time(opened.at())));
    Ok(opened)
}

/// The device as it is, seen from the time that was asked for.
fn snapshot(global: &Global) -> Result<Snapshot, Error> {
    let mut snapshot = Snapshot::load(&global.root, Timestamp::now())?;
    snapshot.at = match global.at {
        None => snapshot.at,
        Some(At::Time(at)) => at,
        Some(At::Newest) => snapshot.newest().unwrap_or(snapshot.at),
    };
    Ok(snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
