//! The zedagent service.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use zedagent::{Zedagent, world::Evc};

fn main() -> ExitCode {
    agent::run::<Zedagent, _, _, _>(|boot| async move { Ok(Evc::open(&boot)) })
}
