//! The process around a runtime: flags, logs, signals, heartbeat, exit codes.
//!
//! Every service can be run alone, by hand, against any directory: `zedrouter --root /tmp/dev
//! --once`, `--dry-run` (print the plan, apply nothing), `--log debug`.

use std::{
    fmt::Debug,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use bus::Bus;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use crate::{
    Clock, Failure, Report, Runtime, Service, Settled, World, evidence, heartbeat::Heartbeat,
    logging, points::Points,
};

/// Exit code after a panic, as Rust's own.
const PANICKED: u8 = 101;

/// Flags of every service.
#[derive(Debug, Clone, Parser)]
#[command(disable_help_subcommand = true, version)]
pub struct Flags {
    /// Directory that holds run/, persist/ and config/ of the device.
    #[arg(long, default_value = "/")]
    pub root: PathBuf,
    /// Turn until nothing is left to do, then exit.
    #[arg(long)]
    pub once: bool,
    /// Print what the next turn would publish and do; do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Log level: trace, debug, info, warning, error. Overrides the configuration properties.
    #[arg(long)]
    pub log: Option<String>,
}

/// What a world is opened with.
pub struct Boot {
    /// Directory that holds run/, persist/ and config/ of the device.
    pub root: PathBuf,
    /// The bus, acting as this service.
    pub bus: Bus,
    /// Time.
    pub clock: Clock,
    /// True when nothing may be changed.
    pub dry_run: bool,
}

impl Boot {
    /// A path below the root, given as on the device (`/persist/vault/volumemgr/volumes`).
    pub fn path(&self, device_path: &str) -> PathBuf {
        self.root.join(device_path.trim_start_matches('/'))
    }
}

/// Runs a service until it is told to stop. The whole of a `main`:
/// `fn main() -> ExitCode { agent::run::<Zedrouter, _, _, _>(Kernel::open) }`.
///
/// Exit codes: 0 stopped as asked or `--once` settled, 1 the world or the bus cannot be
/// opened, 2 wrong flags, 3 `--once` did not settle, 4 `--once` waits for inputs, 5 `--once` settled
/// but something failed and would be tried again, 101 it panicked.
pub fn run<S, W, F, Opening>(open: F) -> ExitCode
where
    S: Service,
    S::Report: Debug,
    W: World<S>,
    F: FnOnce(Boot) -> Opening,
    Opening: Future<Output = Result<W, Failure>>,
{
    let flags = match Flags::try_parse() {
        Ok(flags) => flags,
        Err(error) => {
            // Also the way `--help` and `--version` take.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(2)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name(evidence::WORKER)
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{}: no event loop: {error}", S::NAME);
            return ExitCode::from(1);
        }
    };
    finish(runtime, serve::<S, W, F, Opening>(flags, open))
}

/// Runs to the end, or to a panic. Both end the process: blocking work may still be inside a system call, and a
/// runtime that is only dropped, as a panic that passes would drop it, waits for that for ever.
fn finish(runtime: tokio::runtime::Runtime, work: impl Future<Output = ExitCode>) -> ExitCode {
    let code = catch_unwind(AssertUnwindSafe(|| runtime.block_on(work)));
    runtime.shutdown_timeout(Duration::from_millis(500));
    // The hook has said what happened (see `evidence`).
    code.unwrap_or(ExitCode::from(PANICKED))
}

async fn serve<S, W, F, Opening>(flags: Flags, open: F) -> ExitCode
where
    S: Service,
    S::Report: Debug,
    W: World<S>,
    F: FnOnce(Boot) -> Opening,
    Opening: Future<Output = Result<W, Failure>>,
{
    let log = logging::init(flags.log.as_deref());
    let stray = evidence::install(flags.root.join("persist/crash").join(S::NAME), S::NAME);
    let bus = match Bus::open(&flags.root, S::NAME) {
        Ok(bus) => bus,
        Err(error) => {
            error!(root = %flags.root.display(), %error, "cannot open the bus");
            return ExitCode::from(1);
        }
    };
    let clock = Clock::real(uptime());
    let boot = Boot {
        root: flags.root.clone(),
        bus: bus.clone(),
        clock: clock.clone(),
        dry_run: flags.dry_run,
    };
    let world = match open(boot).await {
        Ok(world) => world,
        Err(failure) => {
            error!(code = %failure.code, object = failure.object, causes = ?failure.causes, "{}", failure.text);
            return ExitCode::from(1);
        }
    };
    let mut runtime = Runtime::<S, W>::new(bus, world, clock, rand::random())
        .with_heartbeat(Heartbeat::from_env())
        .with_points(Points::from_env(S::NAME))
        .with_log_level(move |level| log.set(level));
    if flags.dry_run {
        return dry_run(&mut runtime).await;
    }
    if flags.once {
        return match runtime.settle().await {
            Ok(Settled::Quiet) => {
                let faults = runtime.faults();
                for fault in &faults {
                    eprintln!("{}: {fault}", S::NAME);
                }
                if faults.is_empty() {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::from(5)
                }
            }
            Ok(Settled::Waiting(topics)) => {
                eprintln!("{}: waits for {}", S::NAME, topics.join(", "));
                ExitCode::from(4)
            }
            Ok(Settled::Busy) => ExitCode::from(3),
            Err(failure) => {
                eprintln!("{}: {failure}", S::NAME);
                ExitCode::from(3)
            }
        };
    }
    info!(root = %flags.root.display(), pid = std::process::id(), "started");
    tokio::select! {
        () = runtime.run(stopped()) => {
            info!("stopped");
            ExitCode::SUCCESS
        }
        () = stray.notified() => {
            error!("a part of it panicked: it ends, to be started again whole");
            ExitCode::from(PANICKED)
        }
    }
}

async fn dry_run<S, W>(runtime: &mut Runtime<S, W>) -> ExitCode
where
    S: Service,
    S::Report: Report + Debug,
    W: World<S>,
{
    match runtime.dry_turn().await {
        Ok(Some(plan)) => {
            println!("report: {:#?}", plan.report);
            println!("actions: {:#?}", plan.actions);
            println!("wake: {:?}", plan.wake);
            ExitCode::SUCCESS
        }
        Ok(None) => {
            println!(
                "no plan: an input is not ready ({})",
                runtime.missing().join(", ")
            );
            ExitCode::from(4)
        }
        Err(failure) => {
            eprintln!("{}: {failure}", S::NAME);
            ExitCode::from(3)
        }
    }
}

/// Resolves at SIGTERM or SIGINT.
async fn stopped() {
    let (term, int) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    match (term, int) {
        (Ok(mut term), Ok(mut int)) => {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        }
        // Without signal handling the default action still ends the process.
        _ => std::future::pending().await,
    }
}

/// Time since the device booted; zero where the kernel does not say.
fn uptime() -> Duration {
    std::fs::read_to_string("/proc/uptime")
        .ok()
        .and_then(|text| {
            text.split_whitespace()
                .next()
                .and_then(|s| s.parse::<f64>().ok())
        })
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_panic_ends_the_process_though_work_is_stuck_in_a_system_call() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let began = Instant::now();
        let code = finish(runtime, async {
            let stuck = tokio::task::spawn_blocking(|| {
                std::thread::sleep(Duration::from_secs(20));
            });
            tokio::task::yield_now().await;
            assert!(stuck.is_finished(), "as a bug would");
            ExitCode::SUCCESS
        });
        // ExitCode has no equality.
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(101)));
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}
