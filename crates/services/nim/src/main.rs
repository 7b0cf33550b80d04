//! The nim service.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use nim::{Nim, world::Kernel};

fn main() -> ExitCode {
    agent::run::<Nim, _, _, _>(|boot| async { Kernel::open(boot.clock) })
}
