//! The supervisor: starts, watches and restarts every process of the device.
//!
//! Services come from one table (`table.rs`); other long-lived processes are *transient units* that
//! services ask for over gRPC (`proto/supervisor`, crate `units`). A unit runs as its own user, with
//! the capabilities, paths and limits that it declares and no others; when it crashes or hangs, the
//! evidence is saved and it is started again with growing pauses. It never reboots the device for a
//! unit; only nodeagent asks for that.
//!
//! ```text
//!  table ----.                       .--> processes, signals, cgroups   (world.rs, cgroup.rs, shim.rs)
//!  requests --+--> engine --> plan --+--> state files                   (records.rs)
//!  sd_notify -+   (engine.rs) (pure) +--> gRPC board, ServiceStatus     (server.rs, publish.rs)
//!  exits ----'                       `--> watchdog, the machine's end   (watchdog.rs, power.rs)
//! ```
//!
//! *Its own restart.* Units are not tied to it: their output goes to files, their state is in
//! `<root>/run/supervisor/units/`, and after a crash the next supervisor finds the same processes again
//! (pid and start time, then a pidfd). Only the exit status of adopted ones is lost: it goes to
//! their parent, and they are no longer our children. When it is told to end (SIGTERM) it stops
//! its units first, in reverse order, but those that asked to outlive it.
//!
//! Where to look: what happens when, `plan.rs` and `machine.rs`; who may what, `table.rs` (services),
//! `transient.rs` (their units) and `authority.rs` (requests); how rights are given up, `shim.rs`,
//! `sandbox.rs` and `filter.rs`.
#![forbid(unsafe_code)]

mod authority;
pub mod calls;
mod cgroup;
mod devices;
mod directories;
mod engine;
mod evidence;
mod filter;
mod machine;
mod notify;
mod options;
mod output;
mod plan;
mod power;
mod procfs;
mod publish;
mod records;
mod sandbox;
mod server;
mod shim;
mod status;
pub mod table;
mod time;
pub mod transient;
mod watchdog;
mod world;

pub use authority::{Caller, Facts};
pub use filter::Filter;
pub use notify::Message;
pub use power::{EXIT_POWER_OFF, EXIT_REBOOT};

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use dirwatch::DirWatch;
use rustix::fs::FlockOperation;
use tracing_subscriber::filter::LevelFilter;

use crate::engine::{Engine, Parts};
use crate::machine::{Policy, Unit};
use crate::options::{Mode, Options};
use crate::publish::OnBus;
use crate::records::Records;
use crate::world::{Places, World};

/// Why the supervisor can't run at all.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("{0:?} is not a log level: error, warn, info, debug, trace")]
    LogLevel(String),
    #[error("it gives units their users and rights: run it as root")]
    NotRoot,
    #[error(transparent)]
    Table(#[from] table::TableError),
    #[error(transparent)]
    TableFile(#[from] options::TableFileError),
    #[error(transparent)]
    Name(#[from] units::NameError),
    #[error("another supervisor runs the device below {root}", root = root.display())]
    Running { root: PathBuf },
    #[error("can't {what}: {source}")]
    System {
        what: &'static str,
        source: io::Error,
    },
}

fn system<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> StartError {
    move |source| StartError::System {
        what,
        source: source.into(),
    }
}

/// The whole program.
pub fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(Mode::UnitExec) = options.mode {
        return shim::run();
    }
    match run(&options) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("supervisor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<u8, StartError> {
    log_to_stderr(&options.log)?;
    // Whoever started it may have blocked what it is to hear.
    let unmasked = nix::sys::signal::SigSet::empty().thread_set_mask();
    unmasked.map_err(system("unblock signals"))?;
    if !rustix::process::geteuid().is_root() {
        return Err(StartError::NotRoot);
    }
    // Without links: what units may open is told by paths, and compared.
    std::fs::create_dir_all(&options.root).map_err(system("make the root"))?;
    let root = std::fs::canonicalize(&options.root).map_err(system("resolve the root"))?;
    let here = std::env::current_exe().map_err(system("find its own binary"))?;
    let bin_dir = match &options.bin_dir {
        Some(dir) => std::path::absolute(dir).map_err(system("resolve the binaries' directory"))?,
        None => here.parent().unwrap_or(Path::new("/")).to_owned(),
    };
    let services = table::select(&options.units)?;
    let (mut units, policy) = match &options.table {
        Some(file) => options::read_table(file)?,
        None => (table::units(&services, &root, &bin_dir)?, None),
    };
    let mut policy = policy.unwrap_or_default();
    policy.seed = rand::random();
    for unit in &mut units {
        options.lab.apply(unit);
    }

    for error in directories::make(&root, &directories::needed(&services, table::AREAS)) {
        tracing::error!(%error, "directory");
    }
    if let Some(blocked) = directories::blocked_ancestor(&root) {
        let directory = blocked.display();
        tracing::error!(%directory, "services can't pass this directory to reach the root");
    }
    let _lock = lock(&root)?;
    if let Err(error) = devices::share(&root) {
        tracing::warn!(%error, "guests may not be able to use this device");
    }
    nix::sys::prctl::set_child_subreaper(true).map_err(system("take in orphans"))?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("make a runtime"))?
        .block_on(serve(options, &root, units, policy))
}

async fn serve(
    options: &Options,
    root: &Path,
    units: Vec<Unit>,
    policy: Policy,
) -> Result<u8, StartError> {
    let places = Places::below(root);
    let parts = Parts {
        world: World::new(root).map_err(system("watch processes"))?,
        records: Records::open(&places.run),
        publish: Box::new(OnBus::new(root)),
        watchdog: watchdog::choose(root, options.watchdog.as_deref(), &places.run)
            .map_err(system("open the watchdog"))?,
        power: power::choose(root),
        policy,
        root: root.to_owned(),
        socket: root.join(units::SOCKET),
    };
    let engine = Engine::new(parts, units);
    let tidy = tokio::spawn(keep_logs(places.log, engine.board()));
    let code = engine.run().await.map_err(system("wait for events"));
    tidy.abort();
    code
}

/// Keeps the logs of units within bounds; sleeps while nobody prints.
async fn keep_logs(dir: PathBuf, board: server::Board) {
    let watch = DirWatch::on(vec![dir.clone()]);
    loop {
        watch.take(|_| true);
        let known: Vec<_> = board.borrow().keys().cloned().collect();
        let dir = dir.clone();
        // A panic in there is reported by the runtime; the next round tries again.
        let _ = tokio::task::spawn_blocking(move || output::tidy(&dir, &known)).await;
        // What can be printed in this time is how far a log may get beyond its bound.
        tokio::time::sleep(Duration::from_secs(1)).await;
        watch.changed().await;
    }
}

/// Makes sure that this is the only supervisor of the device, for as long as the file is open.
fn lock(root: &Path) -> Result<File, StartError> {
    let file = File::create(root.join("run/supervisor/lock")).map_err(system("open its lock"))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StartError::Running {
            root: root.to_owned(),
        }),
        Err(error) => Err(system("take its lock")(error)),
    }
}

fn log_to_stderr(level: &str) -> Result<(), StartError> {
    use std::io::IsTerminal;
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let level: LevelFilter = level
        .parse()
        .map_err(|_| StartError::LogLevel(level.to_owned()))?;
    let filter = tracing_subscriber::filter::Targets::new()
        .with_default(LevelFilter::WARN.min(level))
        .with_target("supervisor", level);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    // A subscriber that is set already (in a test) stays.
    let _ = if io::stderr().is_terminal() {
        registry.with(lines).try_init()
    } else {
        registry.with(lines.json().flatten_event(true)).try_init()
    };
    Ok(())
}
