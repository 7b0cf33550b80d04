//! The `evc` command line.
//!
//! `init`, `pki`, `serve` and `datastore` work on files; everything else talks to a running
//! controller through [`crate::admin::Client`]. Tables for people, `--json` for machines.

mod app;
mod args;
mod attest;
mod datastore;
mod device;
mod inline;
mod local;
mod output;
mod reports;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;

pub use args::Cli;
use args::Command;

/// Runs the command of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging(&cli);
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        tracing::debug!("a TLS provider was installed already");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    match runtime.block_on(run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("evc: {error:#}");
    ExitCode::FAILURE
}

fn start_logging(cli: &Cli) {
    let level = match &cli.command {
        Command::Serve(serve) => serve.log,
        Command::Datastore(_) => tracing::Level::INFO,
        _ => tracing::Level::WARN,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Init(args) => local::init(&args),
        Command::Pki(args) => local::pki(&args),
        Command::Serve(args) => local::serve(args).await,
        Command::Onboarding(args) => device::onboarding(args).await,
        Command::Device(args) => device::device(args).await,
        Command::Attest(args) => attest::attest(args).await,
        Command::Apply(args) => device::apply(args).await,
        Command::App(args) => app::app(args).await,
        Command::Info(args) => reports::messages(crate::decide::messages::Kind::Info, args).await,
        Command::Metrics(args) => {
            reports::messages(crate::decide::messages::Kind::Metrics, args).await
        }
        Command::Logs(args) => reports::logs(args).await,
        Command::Datastore(args) => datastore::datastore(args).await,
    }
}
