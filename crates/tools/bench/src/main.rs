//! `make bench`: what the product takes of the machine, as a table and as JSON.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::{Result, ensure};
use bench::{
    budget, bus, bus::peer::Role, curve, device, download, handshake, ruleset, stop::Stop,
};
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
    /// Whether a device keeps to its limits of size, memory and work.
    Budget(budget::Options),
    /// An image from the wish for it to its verified copy.
    Download(download::Options),
    /// The packet filter of many applications.
    Ruleset(ruleset::Options),
    /// Signatures and TLS handshakes by the device's key, wherever that is.
    Tls(handshake::Options),
    /// Turns and memory of a device in memory, as its applications become more.
    Curve(curve::Options),
    /// All of these.
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
        What::Budget(options) => budget::run(options, &stop),
        What::Download(options) => download::run(options, &stop),
        What::Ruleset(options) => ruleset::run(options, &stop),
        What::Tls(options) => handshake::run(options, &stop),
        What::Curve(options) => curve::run(options, &stop),
        What::All => all(&stop),
    };
    stop.or_done(done)
}

/// One part that fails keeps no other one back.
fn all(stop: &Stop) -> Result<()> {
    let mut failed = Vec::new();
    for part in ["bus", "ruleset", "download", "tls", "curve", "device"] {
        stop.check()?;
        let what = Arguments::try_parse_from(["bench", part])?.what;
        if let Err(error) = run(&what) {
            eprintln!("bench {part}: {error:#}");
            failed.push(part);
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}
