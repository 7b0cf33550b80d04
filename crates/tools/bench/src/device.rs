//! `bench device`: a whole device on the demo's stage, from power-on to an application, and then at rest.
//!
//! Times are those that the device itself writes on its bus. While it rests nothing looks at its files: every look is
//! work for those who watch them.

pub mod processes;
pub mod shipped;
pub mod starts;
pub mod timeline;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bus::Subscription;
use clap::Args;
use demo::Stage;
use jiff::Timestamp;
use lab::guest;
use model::{
    domain::DomainStatus,
    node::ZedAgentStatus,
    service::ServiceStatus,
    topics::{DOMAIN_STATUS, SERVICE_STATUS, ZEDAGENT_STATUS},
};
use serde_json::{Value, json};

use crate::{
    clock::{now_ns, us},
    report::{Table, figure, machine, rounded, write},
    stats::Summary,
    stop::Stop,
};
use processes::{Memory, Process, Used};
use shipped::Shipped;

/// The image in the datastore.
const IMAGE: &str = "tiny.qcow2";
/// How often something is looked at that nothing announces.
const LOOK: Duration = Duration::from_millis(100);

/// What is measured, and how often.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Directory with the device's program as it was built (zedbox); without it that of this one.
    #[arg(long)]
    pub product: Option<PathBuf>,
    /// Directory with a program for each service instead: how it would be without the one for all.
    #[arg(long, conflicts_with = "product")]
    pub apart: Option<PathBuf>,
    /// The application.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/manifest.json"))]
    pub manifest: PathBuf,
    /// Whether the device has a TPM, a simulated one [default: if swtpm is installed].
    #[arg(long)]
    pub tpm: Option<bool>,
    /// New devices that are brought up one after the other.
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Seconds that the last one is left alone before it counts as at rest.
    #[arg(long, default_value_t = 30)]
    pub settle: u64,
    /// Seconds at rest: long enough for what a device does once a minute.
    #[arg(long, default_value_t = 120)]
    pub idle: u64,
    /// Seconds that a step on the way may take.
    #[arg(long, default_value_t = 120)]
    pub limit: u64,
    /// Where the result goes.
    #[arg(long, default_value = "target/bench/device.json")]
    pub out: PathBuf,
}

/// How long a new device took, in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    /// From the start of the supervisor until every service was ready.
    ready: f64,
    /// From the config's arrival to the start of QEMU's process: with download, verification, volume and network.
    config_to_qemu: f64,
    /// From the config's arrival until the guest's processors ran.
    config_to_guest: f64,
}

/// What a service takes at rest, all its processes together.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rest {
    /// Its memory.
    pub memory: Memory,
    /// Its share of a processor.
    pub cpu_percent: f64,
    /// How often it wakes up.
    pub wakeups_per_s: f64,
    /// Threads.
    pub threads: u64,
    /// Open descriptors.
    pub descriptors: u64,
}

/// All figures.
#[derive(Debug, Clone, Default)]
struct Figures {
    rounds: Vec<Round>,
    rest: BTreeMap<String, Rest>,
    sizes_kib: BTreeMap<String, u64>,
}

/// Measures, prints and writes.
pub fn run(options: &Options, stop: &Stop) -> Result<()> {
    let before = machine();
    let figures = measure(options, stop)?;
    for table in tables_of(&figures) {
        println!("{table}");
    }
    let mut result = json_of(&figures);
    result["machine"] = before;
    write(&options.out, &result)
}

fn measure(options: &Options, stop: &Stop) -> Result<Figures> {
    let mut of_stage = demo::Options::of_this_build()?;
    of_stage.tpm = options.tpm.unwrap_or_else(lab::tpm::is_installed);
    // Held until the end: the device's programs are links to these files.
    let _shipped = if let Some(apart) = &options.apart {
        of_stage.binaries = std::path::absolute(apart)?;
        None
    } else {
        let product = options.product.as_ref().unwrap_or(&of_stage.binaries);
        let shipped = Shipped::of(&std::path::absolute(product)?, &of_stage.binaries)?;
        of_stage.binaries = shipped.dir();
        Some(shipped)
    };
    let image = guest::image(guest::Kind::Tiny, &guest::default_cache());
    let image = image.context("build the guest image")?;
    let mut figures = Figures::default();
    for round in 1..=options.rounds.max(1) {
        stop.check()?;
        let stage = Stage::build(&of_stage)?;
        stage.add_image(IMAGE, &image.path)?;
        figures.rounds.push(bring_up(&stage, options, stop)?);
        if round >= options.rounds {
            wait(Duration::from_secs(options.settle), stop)?;
            figures.rest = rest(&stage, Duration::from_secs(options.idle), stop)?;
        }
    }
    figures.sizes_kib = sizes(&of_stage.binaries, &figures.rest)?;
    Ok(figures)
}

/// Sizes of all that a device has, by file.
pub fn sizes(programs: &Path, rest: &BTreeMap<String, Rest>) -> Result<BTreeMap<String, u64>> {
    let together = programs.join(shipped::SERVICES).exists();
    let first = together.then_some(shipped::SERVICES).into_iter();
    let services = rest.keys().map(String::as_str);
    let names = first
        .chain(services)
        .chain([shipped::CHIP, shipped::COMMAND]);
    processes::sizes(programs, &names.collect::<Vec<_>>())
}

/// What is followed of the device.
struct Watched {
    services: Subscription<ServiceStatus>,
    zedagent: Subscription<ZedAgentStatus>,
    domains: Subscription<DomainStatus>,
}

fn bring_up(stage: &Stage, options: &Options, stop: &Stop) -> Result<Round> {
    let limit = Duration::from_secs(options.limit);
    let bus = stage.bus()?;
    let watched = Watched {
        services: bus.subscribe(&SERVICE_STATUS)?,
        zedagent: bus.subscribe(&ZEDAGENT_STATUS)?,
        domains: bus.subscribe(&DOMAIN_STATUS)?,
    };
    let begin = now_ns();
    stage.power_on()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut changed = bus.changed();
    let mut follow = |what: &str, done: &mut dyn FnMut(&Watched) -> bool| -> Result<()> {
        let deadline = now_ns() + u64::try_from(limit.as_nanos())?;
        while !done(&watched) {
            stop.check()?;
            ensure!(
                now_ns() < deadline,
                "{what}: not within {limit:?}\n{}",
                stage.why()
            );
            // The pause is for Ctrl-C and the limit; changes are told.
            let next = async { tokio::time::timeout(LOOK, changed.changed()).await };
            drop(runtime.block_on(next));
        }
        Ok(())
    };
    follow("every service ready", &mut |now| {
        now.services
            .rows()
            .is_some_and(|rows| timeline::all_ready(&rows))
    })?;
    let ready = us(now_ns() - begin) / 1000.0;
    stage.claim(limit, |stage, device| {
        stage
            .deploy(&options.manifest, device, IMAGE, &[])
            .map(drop)
    })?;
    let mut times: Option<(Timestamp, (Timestamp, Timestamp))> = None;
    follow("the application's guest runs", &mut |now| {
        let received = now
            .zedagent
            .rows()
            .and_then(|rows| timeline::config_received(&rows));
        let domains = now.domains.rows().zip(now.services.rows());
        let started =
            domains.and_then(|(domains, services)| timeline::guest_started(&domains, &services));
        times = received.zip(started);
        times.is_some()
    })?;
    let (received, (process, processors)) = times.unwrap_or_default();
    Ok(Round {
        ready,
        config_to_qemu: timeline::ms_between(received, process),
        config_to_guest: timeline::ms_between(received, processors),
    })
}

/// What each service takes while nothing happens.
pub fn rest(stage: &Stage, span: Duration, stop: &Stop) -> Result<BTreeMap<String, Rest>> {
    let found = processes::services(stage.world(), stage.device().root());
    ensure!(!found.is_empty(), "no process of the device runs");
    let look = |found: &[Process]| -> Result<Vec<Used>> {
        let all = found.iter();
        all.map(|process| {
            processes::used(process.pid).with_context(|| format!("{} is gone", process.name))
        })
        .collect()
    };
    let begin = now_ns();
    let before = look(&found)?;
    wait(span, stop)?;
    let after = look(&found)?;
    let seconds = us(now_ns() - begin) / 1e6;
    let mut rest = BTreeMap::<String, Rest>::new();
    for (process, (before, after)) in found.iter().zip(before.iter().zip(&after)) {
        let one = rest.entry(process.name.clone()).or_default();
        let (memory, handles) = (
            processes::memory(process.pid)?,
            processes::handles(process.pid)?,
        );
        one.memory.pss += memory.pss;
        one.memory.rss += memory.rss;
        one.memory.private += memory.private;
        one.threads += handles.0;
        one.descriptors += handles.1;
        one.cpu_percent += us(after.cpu_ns.saturating_sub(before.cpu_ns)) / 1e6 / seconds * 100.0;
        let sleeps = u32::try_from(after.sleeps.saturating_sub(before.sleeps)).unwrap_or(u32::MAX);
        one.wakeups_per_s += f64::from(sleeps) / seconds;
    }
    Ok(rest)
}

/// Waits, unless it is to stop.
pub fn wait(span: Duration, stop: &Stop) -> Result<()> {
    let deadline = now_ns() + u64::try_from(span.as_nanos())?;
    while now_ns() < deadline {
        stop.check()?;
        sleep(LOOK.min(span));
    }
    Ok(())
}

impl Figures {
    fn summary(&self, of: impl Fn(&Round) -> f64) -> Summary {
        Summary::of(self.rounds.iter().map(of))
    }

    fn cpu_percent(&self) -> f64 {
        self.rest.values().map(|rest| rest.cpu_percent).sum()
    }

    fn pss_kib(&self) -> u64 {
        self.rest.values().map(|rest| rest.memory.pss).sum()
    }

    fn wakeups(&self) -> f64 {
        self.rest.values().map(|rest| rest.wakeups_per_s).sum()
    }
}

fn tables_of(figures: &Figures) -> Vec<Table> {
    let title = format!("a new device, {} rounds, ms", figures.rounds.len());
    let mut times = Table::new(title, &["", "p10", "median", "p90", "MAD"]);
    for (name, summary) in [
        (
            "power-on -> all services ready",
            figures.summary(|round| round.ready),
        ),
        (
            "config received -> QEMU started",
            figures.summary(|round| round.config_to_qemu),
        ),
        (
            "config received -> guest runs",
            figures.summary(|round| round.config_to_guest),
        ),
    ] {
        let cells = [summary.p10, summary.p50, summary.p90, summary.mad].map(figure);
        times.row(std::iter::once(name.to_owned()).chain(cells));
    }
    let mut rest = Table::new(
        "services with an application running and nothing to do",
        &[
            "",
            "PSS KiB",
            "private KiB",
            "RSS KiB",
            "CPU %",
            "wake-ups/s",
            "threads",
            "fds",
            "binary KiB",
        ],
    );
    let names: BTreeSet<_> = figures
        .rest
        .keys()
        .chain(figures.sizes_kib.keys())
        .collect();
    let dash = || "-".to_owned();
    for name in names {
        let here = figures.rest.get(name);
        rest.row([
            name.clone(),
            here.map_or_else(dash, |rest| rest.memory.pss.to_string()),
            here.map_or_else(dash, |rest| rest.memory.private.to_string()),
            here.map_or_else(dash, |rest| rest.memory.rss.to_string()),
            here.map_or_else(dash, |rest| format!("{:.3}", rest.cpu_percent)),
            here.map_or_else(dash, |rest| figure(rest.wakeups_per_s)),
            here.map_or_else(dash, |rest| rest.threads.to_string()),
            here.map_or_else(dash, |rest| rest.descriptors.to_string()),
            figures
                .sizes_kib
                .get(name)
                .map_or_else(dash, u64::to_string),
        ]);
    }
    let sum = |of: fn(&Rest) -> u64| figures.rest.values().map(of).sum::<u64>().to_string();
    rest.row([
        "together".to_owned(),
        figures.pss_kib().to_string(),
        sum(|rest| rest.memory.private),
        sum(|rest| rest.memory.rss),
        format!("{:.3}", figures.cpu_percent()),
        figure(figures.wakeups()),
        sum(|rest| rest.threads),
        sum(|rest| rest.descriptors),
        figures.sizes_kib.values().sum::<u64>().to_string(),
    ]);
    vec![times, rest]
}

fn json_of(figures: &Figures) -> Value {
    let by_service = |value: &dyn Fn(&Rest) -> Value| -> Value {
        let rest = figures.rest.iter();
        rest.map(|(name, rest)| (name.clone(), value(rest)))
            .collect()
    };
    json!({
        "ready_ms": rounded(figures.summary(|round| round.ready).p50),
        "config_to_qemu_ms": rounded(figures.summary(|round| round.config_to_qemu).p50),
        "config_to_guest_ms": rounded(figures.summary(|round| round.config_to_guest).p50),
        "rounds": figures.rounds.len(),
        "pss_total_kib": figures.pss_kib(),
        "pss_by_service": by_service(&|rest| json!(rest.memory.pss)),
        "private_by_service": by_service(&|rest| json!(rest.memory.private)),
        "threads_by_service": by_service(&|rest| json!(rest.threads)),
        "descriptors_by_service": by_service(&|rest| json!(rest.descriptors)),
        "binaries_kib": figures.sizes_kib.values().sum::<u64>(),
        "binaries_by_name": figures.sizes_kib,
        "idle_cpu_percent": rounded(figures.cpu_percent()),
        "idle_cpu_by_service": by_service(&|rest| rounded(rest.cpu_percent)),
        "wakeups_per_s": by_service(&|rest| rounded(rest.wakeups_per_s)),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn totals_are_sums_and_times_are_medians() {
        let round = |ready| Round {
            ready,
            config_to_qemu: 2.0 * ready,
            config_to_guest: 3.0 * ready,
        };
        let rest = |pss| Rest {
            memory: Memory {
                pss,
                rss: 2 * pss,
                private: pss / 2,
            },
            cpu_percent: 0.25,
            wakeups_per_s: 0.5,
            threads: 1,
            descriptors: 10,
        };
        let figures = Figures {
            rounds: vec![round(100.0), round(900.0), round(200.0)],
            rest: [
                ("nim".to_owned(), rest(1000)),
                ("zedagent".to_owned(), rest(2000)),
            ]
            .into(),
            sizes_kib: [("nim".to_owned(), 3000), ("eve".to_owned(), 1000)].into(),
        };
        let result = json_of(&figures);
        assert_eq!(result["ready_ms"], json!(200.0));
        assert_eq!(result["config_to_qemu_ms"], json!(400.0));
        assert_eq!(result["pss_total_kib"], json!(3000));
        assert_eq!(result["pss_by_service"]["zedagent"], json!(2000));
        assert_eq!(result["binaries_kib"], json!(4000));
        assert_eq!(result["idle_cpu_percent"], json!(0.5));
        assert_eq!(result["wakeups_per_s"]["nim"], json!(0.5));
        let table = tables_of(&figures)[1].to_string();
        let words = |start: &str| -> Vec<&str> {
            let line = table.lines().find(|line| line.trim().starts_with(start));
            line.unwrap().split_whitespace().collect()
        };
        let eve = ["eve", "-", "-", "-", "-", "-", "-", "-", "1000"];
        assert_eq!(words("eve"), eve);
        let together = [
            "together", "3000", "1500", "6000", "0.500", "1.00", "2", "20", "4000",
        ];
        assert_eq!(words("together"), together);
    }
}
