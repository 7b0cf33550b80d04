//! `make bench`: what the product takes of the machine, as a table and as JSON.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use bench::{bus, bus::peer::Role, device, stop::Stop};
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
    /// A whole device: times to ready and to a guest, memory, processor, sizes.
    Device(device::Options),
    /// Both.
    All,
    /// A process at the other end.
    #[command(hide = true)]
    Peer {
        #[command(subcommand)]
        role: Role,
    },
}

fn main() -> ExitCode {
    match run(&Arguments::parse().what) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: &What) -> Result<()> {
    let stop = Stop::watch()?;
    let done = match what {
        What::Peer { role } => return role.play(),
        What::Bus(options) => bus::run(options, &stop),
        What::Device(options) => device::run(options, &stop),
        What::All => {
            for part in ["bus", "device"] {
                run(&Arguments::try_parse_from(["bench", part])?.what)?;
            }
            Ok(())
        }
    };
    stop.or_done(done)
}
