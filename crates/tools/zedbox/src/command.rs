//! What the program does under its own name: install itself, or be one of its programs for once.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::{PROGRAMS, install, named};

/// The supervisor, all services of the device and the operator's command in one program.
///
/// Under the name of one of them (a link) it is that one.
#[derive(Debug, Parser)]
#[command(name = "zedbox", version)]
enum Asked {
    /// Prints the names of its programs.
    List,
    /// Installs itself in a directory, under its own name and those of its programs.
    Install {
        /// The directory.
        dir: PathBuf,
    },
    /// Is a program for once: `zedbox nim --root /tmp/dev --once`.
    #[command(external_subcommand)]
    Be(Vec<OsString>),
}

pub(crate) fn main() -> ExitCode {
    match run(Asked::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("zedbox: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(asked: Asked) -> Result<()> {
    match asked {
        Asked::List => {
            for program in PROGRAMS {
                println!("{}", program.name);
            }
            Ok(())
        }
        Asked::Install { dir } => {
            let own = std::env::current_exe().context("find this program")?;
            install(&own, &dir)
        }
        Asked::Be(words) => be(&words),
    }
}

/// Starts over as the program that the first word names.
fn be(words: &[OsString]) -> Result<()> {
    let Some((name, arguments)) = words.split_first() else {
        bail!("which program?");
    };
    let Some(program) = named(name) else {
        bail!("{} is none of its programs", name.display());
    };
    let mut command = Command::new("/proc/self/exe");
    let failed = command.arg0(program.name).args(arguments).exec();
    Err(failed).with_context(|| format!("become {}", program.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Asked::command().debug_assert();
    }
}
