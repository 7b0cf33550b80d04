//! The newlogd service.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use newlogd::{Newlogd, world};

fn main() -> ExitCode {
    agent::run::<Newlogd, _, _, _>(world::open)
}
