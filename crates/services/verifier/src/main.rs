//! The verifier's binary; see the library.

use std::process::ExitCode;

use verifier::{Disk, Verifier};

fn main() -> ExitCode {
    agent::run::<Verifier, _, _, _>(Disk::open)
}
