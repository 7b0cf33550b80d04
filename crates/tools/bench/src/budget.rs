//! `bench budget`: what a device may take of its machine, as limits in a file, and whether it keeps to them.
//!
//! Only what says the same on a busy machine is limited: sizes, memory, threads, descriptors, wake-ups of a device that has
//! nothing to do, system calls of a start. No times. A change that needs more has to say so in the file, where the
//! review sees it; `BLESS=1` writes it, but no limit above the goals of the product.

mod limits;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use demo::Stage;
use model::topics::SERVICE_STATUS;

use crate::{
    device::{self, shipped::Shipped, starts, timeline},
    report::Table,
    stop::Stop,
};
pub use limits::Profile;
use limits::{Budget, Figures, Kind, Verdict, blessed, judge, read, written};

/// What is checked.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Directory with the device's program as it was built (zedbox); without it that of this one.
    #[arg(long)]
    pub product: Option<PathBuf>,
    /// How they were built: `release` is what is shipped and has to reach the goals; `debug` is what CI has already, and shows
    /// that something grew.
    #[arg(long, default_value = "debug")]
    pub profile: Profile,
    /// The limits.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../tests/budget.json"))]
    pub file: PathBuf,
    /// Seconds that the device is left alone before it counts as at rest.
    #[arg(long, default_value_t = 20)]
    pub settle: u64,
    /// Seconds at rest.
    #[arg(long, default_value_t = 40)]
    pub idle: u64,
    /// Seconds that a boot may take.
    #[arg(long, default_value_t = 120)]
    pub limit: u64,
    /// Write what was found, and some room, as the limits.
    #[arg(long, env = "BLESS", value_parser = clap::builder::FalseyValueParser::new())]
    pub bless: bool,
}

/// Measures and judges.
pub fn run(options: &Options, stop: &Stop) -> Result<()> {
    let found = measure(options, stop)?;
    let profile = options.profile;
    let mut budget = budget_of(&options.file)?;
    if options.bless {
        budget.insert(profile, blessed(profile, &found)?);
        fs::write(&options.file, written(&budget)?)
            .with_context(|| format!("write {}", options.file.display()))?;
    }
    let limits = budget.remove(&profile).unwrap_or_default();
    let verdicts = judge(profile, &limits, &found);
    println!("{}", table(&verdicts));
    let bad = verdicts.iter().filter(|verdict| verdict.trouble.is_some());
    match bad.count() {
        0 => Ok(()),
        count => bail!(
            "{count} figures are not within {}; what needs more says so there (BLESS=1)",
            options.file.display()
        ),
    }
}

fn budget_of(file: &Path) -> Result<Budget> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    read(&text).with_context(|| format!("understand {}", file.display()))
}

fn measure(options: &Options, stop: &Stop) -> Result<Figures> {
    let mut of_stage = demo::Options::of_this_build()?;
    let product = options.product.as_ref().unwrap_or(&of_stage.binaries);
    let shipped = Shipped::of(&std::path::absolute(product)?, &of_stage.binaries)?;
    of_stage.binaries = shipped.dir();
    // As a device in the field asks.
    of_stage.config_interval = 60;
    let limit = Duration::from_secs(options.limit);

    let stage = Stage::build(&of_stage)?;
    stage.power_on()?;
    stage.claim(limit, |_, _| Ok(()))?;
    let bus = stage.bus()?;
    let ready = || -> Result<bool> {
        let rows = bus.read(&SERVICE_STATUS)?;
        Ok(rows.is_some_and(|rows| timeline::all_ready(&rows)))
    };
    while !ready()? {
        device::wait(Duration::from_millis(500), stop)?;
    }
    device::wait(Duration::from_secs(options.settle), stop)?;
    let rest = device::rest(&stage, Duration::from_secs(options.idle), stop)?;
    drop(stage);
    let sizes = device::sizes(&of_stage.binaries, &rest)?;
    let stage = Stage::build(&of_stage)?;
    let calls = starts::calls(&stage, limit, stop)?;
    drop(stage);

    let per_minute = |rest: &device::Rest| whole(rest.wakeups_per_s * 60.0);
    let by_service = |of: &dyn Fn(&device::Rest) -> u64| -> BTreeMap<String, u64> {
        let services = rest.iter();
        services
            .map(|(name, rest)| (name.clone(), of(rest)))
            .collect()
    };
    Ok([
        (Kind::SizeKib, sizes),
        (Kind::PssKib, by_service(&|rest| rest.memory.pss)),
        (Kind::PrivateKib, by_service(&|rest| rest.memory.private)),
        (Kind::Threads, by_service(&|rest| rest.threads)),
        (Kind::Descriptors, by_service(&|rest| rest.descriptors)),
        (Kind::WakeupsPerMinute, by_service(&per_minute)),
        (Kind::StartCalls, calls),
    ]
    .into_iter()
    .collect())
}

/// The next whole number; none of these figures is negative or large.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(value: f64) -> u64 {
    value.ceil() as u64
}

fn table(verdicts: &[Verdict]) -> Table {
    let mut table = Table::new("budget", &["", "limit", "found", ""]);
    let number =
        |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    for verdict in verdicts {
        table.row([
            format!("{} {}", verdict.kind, verdict.name),
            number(verdict.limit),
            number(verdict.found),
            verdict
                .trouble
                .map_or_else(String::new, |trouble| trouble.to_string()),
        ]);
    }
    table
}
