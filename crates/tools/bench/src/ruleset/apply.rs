//! How long `nft` and the kernel need until the rules are in force: each table in one transaction.

use std::{
    fmt::Write as _,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use lab::Netns;
use model::network::NetworkInstanceKind;
use nft::{Nft, Table};
use nix::sys::resource::{UsageWho, getrusage};

use super::{
    Options,
    site::{self, Site},
};
use crate::{bus::latency::ratio, stats::Summary, stop::Stop};

/// The figures of a number of applications.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// How many.
    pub apps: u8,
    /// Milliseconds for both tables where none was.
    pub anew_ms: Summary,
    /// What `nft` had of the processor meanwhile, the kernel's part included.
    pub processor_ms: Summary,
    /// Milliseconds that `nft` needs for as many rules that do nothing, in one chain.
    pub bare_ms: Summary,
    /// How many times the bare rules.
    pub ratio: f64,
    /// Milliseconds for both tables when one application has one rule more.
    pub changed_ms: Summary,
}

/// Measures each number of applications.
pub fn measure(options: &Options, stop: &Stop) -> Result<Vec<Applied>> {
    let root = tempfile::tempdir()?;
    let site = Site::new()?;
    let mut figures = Vec::new();
    for &apps in &options.apps {
        let kind = NetworkInstanceKind::Local;
        let mut configs = site::configs(apps, options.rules, kind);
        let tables = site::tables(root.path(), &site, &configs)?;
        if let Some(last) = configs.last_mut() {
            *last = super::wishes::app(apps, options.rules + 1, kind);
        }
        let changed = site::tables(root.path(), &site, &configs)?;
        figures.push(one(apps, options, [&tables, &changed], stop)?);
    }
    Ok(figures)
}

fn one(apps: u8, options: &Options, tables: [&[Table]; 2], stop: &Stop) -> Result<Applied> {
    let netns = Netns::create("bench-rules")?;
    let [tables, changed] = tables;
    let (mut anew, mut processor, mut floor, mut update) = (vec![], vec![], vec![], vec![]);
    let bare = bare_rules(u32::from(apps) * u32::from(options.rules))?;
    for _ in 0..options.turns {
        stop.check()?;
        let begin = Instant::now();
        netns.exec_with_input(Command::new("nft").args(["-f", "-"]), &bare)?;
        floor.push(ms(begin.elapsed()));
        netns.exec(Command::new("nft").args(["flush", "ruleset"]))?;
        let before = processor_time()?;
        let begin = Instant::now();
        apply(&netns, tables, false)?;
        anew.push(ms(begin.elapsed()));
        processor.push(ms(processor_time()?.saturating_sub(before)));
        let begin = Instant::now();
        apply(&netns, changed, true)?;
        update.push(ms(begin.elapsed()));
        netns.exec(Command::new("nft").args(["flush", "ruleset"]))?;
    }
    Ok(Applied {
        apps,
        ratio: ratio(&anew, &floor),
        anew_ms: Summary::of(anew),
        processor_ms: Summary::of(processor),
        bare_ms: Summary::of(floor),
        changed_ms: Summary::of(update),
    })
}

/// As zedrouter does it.
fn apply(netns: &Netns, tables: &[Table], are_there: bool) -> Result<()> {
    netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let mut changed = false;
            for table in tables {
                let nft = Nft::default();
                let applied = if are_there {
                    nft.apply(table).await?
                } else {
                    nft.create(table).await?
                };
                changed |= applied.changed;
            }
            anyhow::ensure!(changed, "all of it was there already");
            Ok(())
        })
    })?
}

fn bare_rules(count: u32) -> Result<String> {
    let mut script =
        "table inet bench {\nchain bench {\ntype filter hook forward priority 0;\n".to_owned();
    for number in 0..count {
        writeln!(script, "tcp dport {} accept", number % 60_000 + 1)?;
    }
    script.push_str("}\n}\n");
    Ok(script)
}

/// What children that have ended had of the processor.
fn processor_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("ask for the children's time")?;
    let micros = |value: nix::sys::time::TimeVal| {
        let micros = value.tv_sec() * 1_000_000 + value.tv_usec();
        u64::try_from(micros).unwrap_or(0)
    };
    Ok(Duration::from_micros(
        micros(usage.user_time()) + micros(usage.system_time()),
    ))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
