//! `lab`: the lab's worlds and guest images for people. See the library for what they are.

mod cli;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// A whole device and the network around it on this machine, for real.
#[derive(Debug, Parser)]
#[command(name = "lab", version)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Bring a world up; it stays until Ctrl-C, or until `lab down` with --detach.
    Up {
        /// Number of uplinks (eth0, eth1, ...).
        #[arg(long, default_value_t = 1)]
        uplinks: usize,
        /// Put these uplinks behind NAT.
        #[arg(long, value_name = "INDEX")]
        nat: Vec<u8>,
        /// DHCP lease time.
        #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
        lease: u32,
        /// Leave the world in the background.
        #[arg(long)]
        detach: bool,
    },
    /// Show the worlds that are up.
    List,
    /// Run a command in a world: `lab exec device -- ip addr`.
    Exec {
        /// Which world; needed when more than one is up.
        #[arg(long)]
        world: Option<String>,
        /// device, outside or uplinkN.
        side: lab::Side,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Break something, or mend it.
    #[command(after_help = lab::fault::FAULTS)]
    Fault {
        /// Which world; needed when more than one is up.
        #[arg(long)]
        world: Option<String>,
        /// The fault: `link-down 0`, `blackhole 198.51.100.10`, `kill nim`, ...
        #[arg(required = true)]
        words: Vec<String>,
    },
    /// End worlds and remove what they left.
    Down {
        /// Which world; needed when more than one is up.
        world: Option<String>,
        /// All of them, and what dead owners left.
        #[arg(long, conflicts_with = "world")]
        all: bool,
    },
    /// Remove what the worlds of dead owners left.
    Gc,
    /// Guest images.
    Guest {
        /// Which image.
        #[command(subcommand)]
        image: GuestAction,
    },
}

#[derive(Debug, Subcommand)]
enum GuestAction {
    /// Build the tiny guest, unless it is there: a few MB, ready in seconds.
    Build {
        /// Where images are kept.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Build the Debian guest, unless it is there: takes minutes.
    Debian {
        /// Where images are kept.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let outcome = match Arguments::parse().action {
        Action::Up {
            uplinks,
            nat,
            lease,
            detach: false,
        } => cli::up(uplinks, &nat, lease),
        Action::Up { detach: true, .. } => cli::up_detached(),
        Action::List => {
            cli::list();
            Ok(ExitCode::SUCCESS)
        }
        Action::Exec {
            world,
            side,
            command,
        } => cli::exec(world.as_deref(), side, &command),
        Action::Fault { world, words } => cli::fault(world.as_deref(), &words.join(" ")),
        Action::Down { world, all } => cli::down(world.as_deref(), all),
        Action::Gc => cli::collect(),
        Action::Guest { image } => match image {
            GuestAction::Build { out } => cli::guest(lab::guest::Kind::Tiny, out),
            GuestAction::Debian { out } => cli::guest(lab::guest::Kind::Debian, out),
        },
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("lab: {error}");
        ExitCode::FAILURE
    })
}
