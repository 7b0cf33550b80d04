//! The `eve` command; all of it is in [`eve::cli`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    eve::cli::main()
}
