//! The nodeagent service.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use nodeagent::{Nodeagent, world::Supervisor};

fn main() -> ExitCode {
    agent::run::<Nodeagent, _, _, _>(|boot| async { Ok(Supervisor::new(boot.root)) })
}
