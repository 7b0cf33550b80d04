//! Structured logs: JSON lines for the supervisor, readable text on a terminal; the level can be
//! changed while the service runs.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Registry, filter::Targets, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

/// Changes the level of a running process.
pub(crate) struct LogControl {
    handle: reload::Handle<Targets, Registry>,
    /// Set on the command line: then the config does not change it.
    fixed: bool,
}

/// Sets up logging to standard error. `level` is that of `--log`.
pub(crate) fn init(level: Option<&str>) -> LogControl {
    let filter = targets(level.unwrap_or("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    // A second call (several services in one test process) keeps the first.
    let _ = if std::io::stderr().is_terminal() {
        registry
            .with(fmt::layer().with_writer(std::io::stderr).with_target(false))
            .try_init()
    } else {
        registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_current_span(false)
                    .with_writer(std::io::stderr),
            )
            .try_init()
    };
    LogControl {
        handle,
        fixed: level.is_some(),
    }
}

impl LogControl {
    /// Sets EVE's level (`trace`, `debug`, `info`, `warning`, `error`).
    pub(crate) fn set(&self, level: &str) {
        if self.fixed {
            return;
        }
        let wanted = targets(level);
        let differs = self
            .handle
            .with_current(|current| *current != wanted)
            .unwrap_or(false);
        if differs && self.handle.modify(|current| *current = wanted).is_ok() {
            tracing::info!(level, "log level");
        }
    }
}

/// Our own crates at `level`; libraries below stay at warnings unless everything is wanted.
fn targets(level: &str) -> Targets {
    let level = match level {
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "warning" | "warn" => LevelFilter::WARN,
        "error" => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    };
    let noisy = if level == LevelFilter::TRACE {
        level
    } else {
        LevelFilter::WARN.min(level)
    };
    [
        "hyper",
        "hyper_util",
        "h2",
        "reqwest",
        "rustls",
        "tower",
        "tonic",
        "netlink_proto",
        "netlink_packet_route",
        "mozim",
        "hickory_resolver",
        "hickory_proto",
    ]
    .iter()
    .fold(Targets::new().with_default(level), |targets, name| {
        targets.with_target(*name, noisy)
    })
}
