//! The zedmanager service.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use zedmanager::{Zedmanager, world::BusOnly};

fn main() -> ExitCode {
    agent::run::<Zedmanager, _, _, _>(|_| async { Ok(BusOnly) })
}
