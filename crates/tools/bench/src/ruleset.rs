//! `bench ruleset`: the packet filter that zedrouter makes of many applications' rules: how long it takes to come into
//! force, and what it costs the packets, beside a bare bridge and a bare router.
//!
//! Everything happens in network namespaces of this process, which the kernel takes down with it.

pub mod apply;
pub mod flow;
pub mod site;
pub mod wishes;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::{
    report::{Table, figure, machine, rounded, write},
    stats::Summary,
    stop::Stop,
};
use apply::Applied;
use flow::Cost;

/// What is measured, and how often.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Numbers of applications.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 50, 100])]
    pub apps: Vec<u8>,
    /// Rules of each.
    #[arg(long, default_value_t = 20)]
    pub rules: u16,
    /// Repetitions.
    #[arg(long, default_value_t = 15)]
    pub turns: u32,
    /// Packets of each kind in a repetition.
    #[arg(long, default_value_t = 2000)]
    pub packets: u32,
    /// Where the result goes.
    #[arg(long, default_value = "target/bench/ruleset.json")]
    pub out: PathBuf,
}

/// All figures.
#[derive(Debug, Clone, Default)]
struct Figures {
    applied: Vec<Applied>,
    costs: Vec<Cost>,
}

/// Measures, prints and writes.
pub fn run(options: &Options, stop: &Stop) -> Result<()> {
    let before = machine();
    let figures = Figures {
        applied: apply::measure(options, stop).context("bring rules into force")?,
        costs: flow::measure(options, stop).context("send packets")?,
    };
    for table in tables_of(&figures, options) {
        println!("{table}");
    }
    let mut result = json_of(&figures);
    result["machine"] = before;
    write(&options.out, &result)
}

fn tables_of(figures: &Figures, options: &Options) -> Vec<Table> {
    let title = format!(
        "both tables of the packet filter in force, {} rules each, ms ({} turns)",
        options.rules, options.turns
    );
    let columns = [
        "applications",
        "p10",
        "p50",
        "p90",
        "MAD",
        "processor",
        "bare rules",
        "x bare",
        "one app changed",
    ];
    let mut applied = Table::new(title, &columns);
    for one in &figures.applied {
        let Summary {
            p10, p50, p90, mad, ..
        } = one.anew_ms;
        applied.row([
            one.apps.to_string(),
            figure(p10),
            figure(p50),
            figure(p90),
            figure(mad),
            figure(one.processor_ms.p50),
            figure(one.bare_ms.p50),
            figure(one.ratio),
            figure(one.changed_ms.p50),
        ]);
    }
    let title = format!(
        "a packet of 64 bytes from a guest to the outside and its receipt, ns ({} turns of {})",
        options.turns, options.packets
    );
    let columns = [
        "way",
        "p10",
        "p50",
        "p90",
        "MAD",
        "packets/s",
        "x floor",
        "x one rule",
    ];
    let mut costs = Table::new(title, &columns);
    for cost in &figures.costs {
        let Summary {
            p10, p50, p90, mad, ..
        } = cost.ns;
        costs.row([
            cost.name.clone(),
            figure(p10),
            figure(p50),
            figure(p90),
            figure(mad),
            figure(per_second(p50)),
            figure(cost.x_floor),
            figure(cost.x_one_rule),
        ]);
    }
    vec![applied, costs]
}

fn per_second(ns: f64) -> f64 {
    if ns > 0.0 { 1e9 / ns } else { 0.0 }
}

fn json_of(figures: &Figures) -> Value {
    let by_apps = |value: fn(&Applied) -> f64| -> Value {
        let rows = figures.applied.iter();
        let pairs = rows.map(|one| (one.apps.to_string(), rounded(value(one))));
        Value::Object(pairs.collect::<Map<_, _>>())
    };
    let by_way = |value: fn(&Cost) -> f64| -> Value {
        let rows = figures.costs.iter();
        let pairs = rows.map(|cost| (cost.name.clone(), rounded(value(cost))));
        Value::Object(pairs.collect::<Map<_, _>>())
    };
    json!({
        "anew_p50_ms": by_apps(|one| one.anew_ms.p50),
        "anew_processor_p50_ms": by_apps(|one| one.processor_ms.p50),
        "floor_bare_rules_p50_ms": by_apps(|one| one.bare_ms.p50),
        "anew_x_floor": by_apps(|one| one.ratio),
        "one_app_changed_p50_ms": by_apps(|one| one.changed_ms.p50),
        "packet_ns": by_way(|cost| cost.ns.p50),
        "packets_per_s": by_way(|cost| per_second(cost.ns.p50)),
        "packet_x_floor": by_way(|cost| cost.x_floor),
        "packet_x_one_rule": by_way(|cost| cost.x_one_rule),
    })
}
