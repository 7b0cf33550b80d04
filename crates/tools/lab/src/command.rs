//! Runs an outside program to its end, with errors that name the program and quote what it said.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// Why a program did not do what it was started for.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The program could not be started; most often its package is not installed.
    #[error("{program} cannot be started (is its package installed?): {source}")]
    Start {
        /// The program's name or path.
        program: String,
        /// What the kernel answered.
        source: std::io::Error,
    },
    /// The program ended with something else than success.
    #[error("`{line}` ended with {status}: {stderr}")]
    Failed {
        /// The command line.
        line: String,
        /// Exit code or signal.
        status: String,
        /// Its standard error, trimmed.
        stderr: String,
    },
    /// The program's input could not be written or its output not read.
    #[error("lost the pipe to {program}: {source}")]
    Pipe {
        /// The program's name or path.
        program: String,
        /// What the kernel answered.
        source: std::io::Error,
    },
}

/// Runs `command` and returns its standard output.
pub fn run(command: &mut Command) -> Result<String, CommandError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| CommandError::Start {
            program: program(command),
            source,
        })?;
    checked(command, &output)
}

/// Runs `command`, feeds it `input`, and returns its standard output.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Result<String, CommandError> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| CommandError::Start {
            program: program(command),
            source,
        })?;
    // A program that stops reading early says why on stderr: its exit status is the better error.
    if let Some(mut pipe) = child.stdin.take() {
        let _ = pipe.write_all(input);
    }
    let output = child
        .wait_with_output()
        .map_err(|source| CommandError::Pipe {
            program: program(command),
            source,
        })?;
    checked(command, &output)
}

fn checked(command: &Command, output: &Output) -> Result<String, CommandError> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(CommandError::Failed {
        line: line(command),
        status: output.status.to_string(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn line(command: &Command) -> String {
    let mut words = vec![program(command)];
    words.extend(
        command
            .get_args()
            .map(|arg| arg.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_quotes_it() {
        let error = run(Command::new("sh").args(["-c", "echo no such thing >&2; exit 3"]))
            .expect_err("exit 3 is a failure");
        let text = error.to_string();
        assert!(text.contains("sh -c"), "{text}");
        assert!(text.contains("no such thing"), "{text}");
        assert!(text.contains('3'), "{text}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error =
            run(&mut Command::new("eve-no-such-program")).expect_err("there is no such program");
        assert!(error.to_string().contains("eve-no-such-program"));
    }

    #[test]
    fn input_reaches_the_program() {
        assert_eq!(
            run_with_input(&mut Command::new("cat"), b"words").unwrap(),
            "words"
        );
    }
}
