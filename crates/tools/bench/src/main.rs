//! `make bench`: what the product takes of the machine, as a table and as JSON.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use bench::{bus, bus::peer::Role, stop::Stop};
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(about = "Measures the product against the limits of this machine")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The bus, beside what the kernel needs for the same files.
    Bus(bus::Options),
    /// A process at the other end.
    #[command(hide = true)]
    Peer {
        #[command(subcommand)]
        role: Role,
    },
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.what {
        What::Bus(options) => {
            let stop = Stop::watch()?;
            stop.or_done(bus::run(options, &stop))
        }
        What::Peer { role } => role.play(),
    }
}
