//! `bench download`: from the wish for an image to its verified copy, beside what `curl` and `sha256sum` need.
//!
//! The downloader and the verifier run as they do on a device, each in a process of its own; this one speaks for the
//! services around them, and looks at how long it takes until the verified copy is said to be there. Server and clients
//! are on the loopback of a namespace of this process.

pub mod asked;
pub mod server;
pub mod shell;

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use clap::Args;
use lab::Netns;
use model::id::Digest;
use serde_json::{Map, Value, json};

use crate::{
    bus::latency::ratio,
    clock::now_ns,
    report::{Table, figure, machine, rounded, write},
    stats::Summary,
    stop::Stop,
};
use asked::{Pair, Peak};
use server::Server;
use shell::{LANES, Lane};

/// What is measured, and how often.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Size of the image in MiB.
    #[arg(long, default_value_t = 1024)]
    pub size: u64,
    /// Sizes whose peaks of memory are compared, in MiB.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 256])]
    pub memory_sizes: Vec<u64>,
    /// Repetitions.
    #[arg(long, default_value_t = 3)]
    pub turns: u32,
    /// Where images go: as on a device, on a disk.
    #[arg(long, default_value = "target/bench")]
    pub disk: PathBuf,
    /// Where the result goes.
    #[arg(long, default_value = "target/bench/download.json")]
    pub out: PathBuf,
}

/// All figures.
#[derive(Debug, Clone, Default)]
struct Figures {
    /// Seconds of each turn, in the order of [`LANES`].
    lanes: Vec<Vec<f64>>,
    /// Seconds until the download was complete, and until the copy was verified.
    downloaded: Vec<f64>,
    verified: Vec<f64>,
    /// Peaks of memory by size.
    peaks: Vec<(u64, Peak)>,
}

/// Measures, prints and writes.
pub fn run(options: &Options, stop: &Stop) -> Result<()> {
    let before = machine();
    let figures = measure(options, stop)?;
    for table in tables_of(&figures, options) {
        println!("{table}");
    }
    let mut result = json_of(&figures, options);
    result["machine"] = before;
    write(&options.out, &result)
}

fn measure(options: &Options, stop: &Stop) -> Result<Figures> {
    std::fs::create_dir_all(&options.disk)
        .with_context(|| format!("make {}", options.disk.display()))?;
    let dir = tempfile::Builder::new()
        .prefix("eve-bench-")
        .tempdir_in(&options.disk)?;
    let netns = Netns::create("bench-download")?;
    netns.ip(&format!("addr add {}/32 dev lo", server::ADDRESS))?;
    let server = Server::start(&netns)?;
    let mut figures = Figures {
        lanes: vec![Vec::new(); LANES.len()],
        ..Figures::default()
    };
    for &size in &options.memory_sizes {
        stop.check()?;
        let mut pair = Pair::start(&netns, &dir.path().join(format!("{size}")))?;
        pair.fetch(&server, size, stop)?;
        figures.peaks.push((size, pair.peak()?));
    }
    let digest = server::digest(options.size);
    let mut pair = Pair::start(&netns, &dir.path().join("device"))?;
    for _ in 0..options.turns.max(1) {
        for (lane, seconds) in LANES.iter().zip(&mut figures.lanes) {
            stop.check()?;
            seconds.push(floor(
                lane,
                &netns,
                &server,
                options.size,
                digest,
                dir.path(),
            )?);
        }
        stop.check()?;
        let took = pair.fetch(&server, options.size, stop)?;
        figures.downloaded.push(took.downloaded);
        figures.verified.push(took.verified);
    }
    figures.peaks.push((options.size, pair.peak()?));
    Ok(figures)
}

fn floor(
    lane: &Lane,
    netns: &Netns,
    server: &Server,
    size: u64,
    digest: Digest,
    dir: &std::path::Path,
) -> Result<f64> {
    let begin = now_ns();
    let said = netns.exec(
        Command::new("sh")
            .arg("-c")
            .arg(lane.script)
            .env("URL", server.url(size))
            .current_dir(dir),
    )?;
    let took = seconds(now_ns() - begin);
    ensure!(
        said.starts_with(&digest.to_string()),
        "{}: {said}",
        lane.name
    );
    // Not part of it, but what is removed is not written to the disk during the next one.
    for file in ["one", "two"] {
        let _ = std::fs::remove_file(dir.join(file));
    }
    Ok(took)
}

fn seconds(ns: u64) -> f64 {
    std::time::Duration::from_nanos(ns).as_secs_f64()
}

fn tables_of(figures: &Figures, options: &Options) -> Vec<Table> {
    let title = format!(
        "{} MiB on loopback, {} turns",
        options.size,
        options.turns.max(1)
    );
    let columns = ["what", "p50 s", "MAD", "MiB/s", "device is at % of it"];
    let mut times = Table::new(title, &columns);
    let all = LANES.iter().map(|lane| lane.name).zip(&figures.lanes);
    let own = [
        ("the device, until downloaded", &figures.downloaded),
        ("the device, until verified", &figures.verified),
    ];
    for (name, lane) in all.chain(own) {
        let Summary { p50, mad, .. } = Summary::of(lane.iter().copied());
        times.row([
            name.to_owned(),
            figure(p50),
            figure(mad),
            figure(rate(options.size, p50)),
            figure(share(lane, &figures.verified)),
        ]);
    }
    let columns = ["MiB", "downloader", "verifier"];
    let mut peaks = Table::new("peak of memory in KiB", &columns);
    for (size, peak) in &figures.peaks {
        peaks.row([
            size.to_string(),
            peak.downloader_kib.to_string(),
            peak.verifier_kib.to_string(),
        ]);
    }
    vec![times, peaks]
}

fn rate(size: u64, seconds: f64) -> f64 {
    let mib = f64::from(u32::try_from(size).unwrap_or(u32::MAX));
    if seconds > 0.0 { mib / seconds } else { 0.0 }
}

/// Which part of the lane's speed the device has, in percent: the median of the turns.
fn share(lane: &[f64], device: &[f64]) -> f64 {
    100.0 * ratio(lane, device)
}

fn json_of(figures: &Figures, options: &Options) -> Value {
    let lanes = || LANES.iter().map(|lane| lane.key).zip(&figures.lanes);
    let by_lane = |value: &dyn Fn(&[f64]) -> f64| -> Value {
        let pairs = lanes().map(|(key, lane)| (key.to_owned(), rounded(value(lane))));
        Value::Object(pairs.collect::<Map<_, _>>())
    };
    let p50 = |lane: &[f64]| Summary::of(lane.iter().copied()).p50;
    let peaks = |value: fn(&Peak) -> u64| -> Value {
        let rows = figures.peaks.iter();
        let pairs = rows.map(|(size, peak)| (size.to_string(), json!(value(peak))));
        Value::Object(pairs.collect::<Map<_, _>>())
    };
    json!({
        "size_mib": options.size,
        "downloaded_p50_s": rounded(p50(&figures.downloaded)),
        "verified_p50_s": rounded(p50(&figures.verified)),
        "floor_p50_s": by_lane(&p50),
        "percent_of_floor": by_lane(&|lane| share(lane, &figures.verified)),
        "peak_downloader_kib": peaks(|peak| peak.downloader_kib),
        "peak_verifier_kib": peaks(|peak| peak.verifier_kib),
    })
}
