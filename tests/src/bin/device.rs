//! The device's one binary (see `zedbox`), built with these tests so that they never start an old one.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    zedbox::main()
}
