//! The zedrouter service.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use zedrouter::{Zedrouter, world::Kernel};

fn main() -> ExitCode {
    agent::run::<Zedrouter, _, _, _>(Kernel::open)
}
