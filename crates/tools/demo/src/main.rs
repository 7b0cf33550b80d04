//! `make demo`: the product's main job in a terminal, then it stays up until Ctrl-C.
//! `--once` does the same without a terminal, proves it from outside and writes a result.
#![forbid(unsafe_code)]

mod screen;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use demo::{Mark, Marks, Options, Stage, Stop, View};
use serde_json::json;

use screen::Screen;

/// Handed to the guest.
const USER_DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/user-data");
/// Port of the device that the manifest maps to the guest's web server.
const MAPPED: u16 = 8080;
/// A port that nothing allows.
const CLOSED: u16 = 8081;

#[derive(Parser)]
#[command(
    about = "A controller, a datastore and a device on this machine, from power-on to an application that answers"
)]
struct Arguments {
    /// Prove it, write the result, and end.
    #[arg(long)]
    once: bool,
    /// Where the result is written.
    #[arg(long, default_value = "target/demo.json")]
    result: PathBuf,
    /// The application.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/manifest.json"))]
    manifest: PathBuf,
    /// How long the application may take to answer, in seconds.
    #[arg(long, default_value_t = 180)]
    limit: u64,
    /// Whether the device has a TPM, a simulated one [default: if swtpm is installed].
    #[arg(long)]
    tpm: Option<bool>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let stop = match Stop::watch() {
        Ok(stop) => stop,
        Err(error) => {
            eprintln!("demo: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    match run(&arguments, &stop) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if stop.is_wanted() => ExitCode::from(130),
        Err(error) => {
            eprintln!("demo: {error:#}");
            let _ = write_result(&arguments.result, "failed", &[], &format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, stop: &Stop) -> Result<()> {
    let image = lab::guest::image(lab::guest::Kind::Tiny, &lab::guest::default_cache())
        .context("build the guest image")?;
    let began = Instant::now();
    let mut marks = Marks::default();
    let options = Options {
        tpm: arguments.tpm.unwrap_or_else(lab::tpm::is_installed),
        ..Options::of_this_build()?
    };
    println!("A world of network namespaces: uplink, DHCP and DNS, datastore, controller, device.");
    let stage = Stage::build(&options)?;
    stage.add_image("tiny.qcow2", &image.path)?;
    marks.note(Mark::World);
    stop.check()?;
    stage.power_on()?;
    let screen = Screen::new(arguments.once);
    let bus = stage.bus()?;
    let deadline = Instant::now() + Duration::from_secs(arguments.limit);
    let guest = SocketAddr::new(stage.device_address(), MAPPED);
    let mut claimed = false;
    let mut page = String::new();
    while !marks.has(Mark::Answers) {
        stop.check()?;
        let view = View::read(&bus)?;
        marks.look(&view);
        screen.draw(&view.lines());
        if !claimed {
            claimed = claim(&stage, arguments, &options)?;
        }
        if marks.has(Mark::Started)
            && let Ok(body) = stage.get_from_outside(guest, "/")
        {
            page = body;
            marks.note(Mark::Answers);
        }
        if Instant::now() >= deadline {
            screen.finish();
            bail!(
                "the application did not answer within {} s\n{}",
                arguments.limit,
                stage.why()
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let view = View::read(&bus)?;
    screen.draw(&view.lines());
    screen.finish();
    let closed = stage.is_closed_from_outside(SocketAddr::new(stage.device_address(), CLOSED))?;
    ensure!(closed, "port {CLOSED}, which no rule allows, is open");
    let phases = marks.phases(began);
    println!(
        "{}",
        screen::summary(&stage, &view, &phases, &page, guest, CLOSED)
    );
    write_result(&arguments.result, "ok", &phases, "")?;
    if arguments.once {
        return Ok(());
    }
    println!("It stays up until Ctrl-C.");
    while !stop.is_wanted() {
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("Taking everything down.");
    drop(stage);
    Ok(())
}

/// When the device has registered: tells it what it shall be, then lets it in.
fn claim(stage: &Stage, arguments: &Arguments, options: &Options) -> Result<bool> {
    let devices = stage.evc(&["device", "list"])?;
    let name = devices.pointer("/0/name").and_then(|n| n.as_str());
    let Some(name) = name else { return Ok(false) };
    let interval = options.config_interval.to_string();
    stage.set_properties(name, &[("timer.config.interval", &interval)])?;
    stage.deploy(
        &arguments.manifest,
        name,
        "tiny.qcow2",
        &["--user-data", USER_DATA],
    )?;
    stage.evc(&["device", "claim", name])?;
    Ok(true)
}

fn write_result(path: &Path, result: &str, phases: &[(Mark, u128)], why: &str) -> Result<()> {
    let phases: Vec<_> = phases
        .iter()
        .map(|(mark, ms)| json!({"name": mark, "ms": ms}))
        .collect();
    let mut document = json!({"result": result, "phases": phases, "versions": versions()});
    if !why.is_empty() {
        document["why"] = json!(why);
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, format!("{document:#}\n")).with_context(|| format!("write {}", path.display()))
}

fn versions() -> serde_json::Value {
    let first_line = |program: &str| {
        let out = Command::new(program).arg("--version").output().ok()?;
        String::from_utf8_lossy(&out.stdout)
            .lines()
            .next()
            .map(str::to_owned)
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "eve": env!("CARGO_PKG_VERSION"),
        "kernel": kernel.trim(),
        "qemu": first_line("qemu-system-x86_64"),
        "dnsmasq": first_line("dnsmasq"),
    })
}
