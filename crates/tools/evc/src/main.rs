//! The `evc` command; all of it is in [`evc::cli`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    evc::cli::main()
}
