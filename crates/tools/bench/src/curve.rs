//! `bench curve`: how turns and memory of a whole device grow with the number of its applications.
//!
//! The device is the one of the scenarios: the real services on a bus in memory, with a machine around them that is made
//! of maps. One process for each number, so that its memory is its own.

use std::{collections::BTreeMap, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    report::{Table, figure, machine, rounded, write},
    stop::Stop,
};

/// Columns of the plot.
const WIDTH: u32 = 40;

/// What is measured.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Numbers of applications.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1000])]
    pub apps: Vec<u16>,
    /// Devices for each number; the fastest turns count, for nothing but other work makes a turn slower.
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,
    /// The program that is a device in memory; without it the one beside this program.
    #[arg(long)]
    pub program: Option<PathBuf>,
    /// Where the result goes.
    #[arg(long, default_value = "target/bench/curve.json")]
    pub out: PathBuf,
}

/// What the program says of a number of applications.
#[derive(Debug, Clone, Default, Deserialize)]
struct Point {
    apps: u16,
    /// Microseconds of the processor for a turn in which nothing changes, by service.
    turn_us: BTreeMap<String, f64>,
    until_all_run_ms: f64,
    memory_kib: u64,
}

impl Point {
    /// Takes over what is better in another one of the same number.
    fn improve(&mut self, other: Self) {
        for (service, us) in other.turn_us {
            let best = self.turn_us.entry(service).or_insert(us);
            *best = best.min(us);
        }
        self.until_all_run_ms = self.until_all_run_ms.min(other.until_all_run_ms);
        self.memory_kib = self.memory_kib.min(other.memory_kib);
    }
}

/// Measures, prints and writes.
pub fn run(options: &Options, stop: &Stop) -> Result<()> {
    let before = machine();
    let program = match &options.program {
        Some(program) => program.clone(),
        None => std::env::current_exe()
            .context("find this program")?
            .with_file_name("curve"),
    };
    let mut points: Vec<Point> = Vec::new();
    for round in 0..options.rounds.max(1) {
        for (at, apps) in options.apps.iter().enumerate() {
            stop.check()?;
            let output = Command::new(&program)
                .arg(apps.to_string())
                .output()
                .with_context(|| format!("run {}", program.display()))?;
            let errors = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{apps} applications: {errors}");
            let point: Point = serde_json::from_slice(&output.stdout)?;
            match points.get_mut(at).filter(|_| round > 0) {
                Some(best) => best.improve(point),
                None => points.push(point),
            }
        }
    }
    for table in tables_of(&points) {
        println!("{table}");
    }
    println!("{}", plot(&points));
    let mut result = json_of(&points);
    result["machine"] = before;
    write(&options.out, &result)
}

/// The exponent of growth between the last two points: 1 is linear, 2 quadratic.
fn growth(points: &[Point], value: impl Fn(&Point) -> f64) -> f64 {
    let [.., before, last] = points else {
        return 0.0;
    };
    let (more, took) = (
        f64::from(last.apps) / f64::from(before.apps.max(1)),
        value(last) / value(before),
    );
    if more > 1.0 && took > 0.0 {
        took.ln() / more.ln()
    } else {
        0.0
    }
}

/// What is followed: a turn of each service, of all, the way to all running, the memory.
fn rows_of(points: &[Point]) -> Vec<(String, Vec<f64>, f64)> {
    let services = points.iter().flat_map(|point| point.turn_us.keys());
    let services: std::collections::BTreeSet<_> = services.collect();
    let row = |name: String, value: &dyn Fn(&Point) -> f64| {
        (
            name,
            points.iter().map(value).collect(),
            growth(points, value),
        )
    };
    let mut rows: Vec<_> = services
        .into_iter()
        .map(|service| {
            row(format!("turn of {service}, us"), &|point| {
                point.turn_us.get(service).copied().unwrap_or(0.0)
            })
        })
        .collect();
    rows.push(row("turn of all services, us".into(), &all_turns));
    rows.push(row("from config to all running, ms".into(), &|point| {
        point.until_all_run_ms
    }));
    rows.push(row("memory, KiB".into(), &memory));
    rows
}

fn all_turns(point: &Point) -> f64 {
    point.turn_us.values().sum()
}

fn memory(point: &Point) -> f64 {
    f64::from(u32::try_from(point.memory_kib).unwrap_or(u32::MAX))
}

fn tables_of(points: &[Point]) -> Vec<Table> {
    let apps: Vec<String> = points.iter().map(|point| point.apps.to_string()).collect();
    let mut columns = vec!["applications"];
    columns.extend(apps.iter().map(String::as_str));
    columns.push("exponent");
    let title = "a device in memory: a turn without news, in time of the processor; memory of all";
    let mut table = Table::new(title, &columns);
    for (name, values, growth) in rows_of(points) {
        let cells = values.into_iter().map(figure);
        table.row(std::iter::once(name).chain(cells).chain([figure(growth)]));
    }
    vec![table]
}

/// Both curves on a logarithmic scale; what grows in proportion grows by the same length from row to row.
fn plot(points: &[Point]) -> String {
    let curves = [("turn", all_turns as fn(&Point) -> f64), ("memory", memory)];
    let lines = curves.into_iter().flat_map(|(name, value)| {
        let smallest = points.iter().map(value).fold(f64::INFINITY, f64::min);
        points.iter().map(move |point| {
            let tens = (value(point) / smallest).max(1.0).log10();
            let end = tens * f64::from(WIDTH) / 3.0;
            let columns = (0..WIDTH * 3).take_while(|column| f64::from(*column) < end);
            let bar = "#".repeat(columns.count() + 1);
            format!("  {name:<7} {:>5} |{bar}\n", point.apps)
        })
    });
    let title = "from the smallest value, in powers of ten\n".to_owned();
    std::iter::once(title).chain(lines).collect()
}

fn json_of(points: &[Point]) -> Value {
    let by_apps = |value: &dyn Fn(&Point) -> Value| -> Value {
        let pairs = points.iter().map(|p| (p.apps.to_string(), value(p)));
        Value::Object(pairs.collect::<Map<_, _>>())
    };
    let exponents = rows_of(points).into_iter();
    let exponents = exponents.map(|(name, _, growth)| (name, rounded(growth)));
    json!({
        "turn_us": by_apps(&|point| {
            let turns = point.turn_us.iter().map(|(name, us)| (name.clone(), rounded(*us)));
            Value::Object(turns.collect::<Map<_, _>>())
        }),
        "all_turns_us": by_apps(&|point| rounded(all_turns(point))),
        "until_all_run_ms": by_apps(&|point| rounded(point.until_all_run_ms)),
        "memory_kib": by_apps(&|point| json!(point.memory_kib)),
        "growth_exponent": Value::Object(exponents.collect::<Map<_, _>>()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_proportion_has_exponent_one() {
        let point = |apps: u16, kib: u64| Point {
            apps,
            memory_kib: kib,
            ..Point::default()
        };
        let linear = [point(10, 100), point(100, 1000), point(1000, 10_000)];
        assert!((growth(&linear, memory) - 1.0).abs() < 1e-9);
        let quadratic = [point(10, 1), point(100, 100)];
        assert!((growth(&quadratic, memory) - 2.0).abs() < 1e-9);
        assert!(growth(&linear[..1], memory).abs() < 1e-9);
    }
}
