//! The reporter service.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use reporter::{Reporter, world::Evc};

fn main() -> ExitCode {
    agent::run::<Reporter, _, _, _>(|boot| async move { Ok(Evc::open(&boot)) })
}
