//! `bench bus`: the bus beside the floor of the machine.

pub mod latency;
pub mod peer;
pub mod raw;
pub mod single;
pub mod stream;
pub mod tables;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::{
    report::{Table, figure, machine, rounded, write},
    stats::Summary,
    stop::Stop,
};
use latency::{Delay, Lane, Rate};
use single::Durable;
use stream::Stream;
use tables::Sync;

/// Readers of the lane that shows what many readers cost.
const MANY: usize = 10;
/// Rows of that lane.
const MANY_SIZE: u64 = 100;

/// What is measured, and how often.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Objects for each delay.
    #[arg(long, default_value_t = 3000)]
    pub samples: u32,
    /// Microseconds between two of them.
    #[arg(long, default_value_t = 2000)]
    pub pace: u64,
    /// Numbers of rows.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 1000, 10_000])]
    pub sizes: Vec<u64>,
    /// Numbers of rows that a new subscriber reads.
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 10_000, 100_000])]
    pub sync_sizes: Vec<u64>,
    /// Repetitions of everything that takes long.
    #[arg(long, default_value_t = 15)]
    pub turns: u32,
    /// Where run topics are: as on a device, in memory.
    #[arg(long, default_value = "/dev/shm")]
    pub memory: PathBuf,
    /// Where persistent topics are: as on a device, on a disk.
    #[arg(long, default_value = "target/bench")]
    pub disk: PathBuf,
    /// Where the result goes.
    #[arg(long, default_value = "target/bench/bus.json")]
    pub out: PathBuf,
}

/// All figures.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// How many lanes are floors, before those of the bus.
    floors: usize,
    /// The floor, the floor without JSON, those with as many files as the tables have rows; then a table size each.
    delays: Vec<Delay>,
    /// With many readers: the floor, a table.
    many: Vec<Delay>,
    /// In the order of `delays`.
    rates: Vec<Rate>,
    unchanged: Vec<(u64, Summary)>,
    sync: Vec<Sync>,
    late: Summary,
    durable: Durable,
}

/// Measures, prints and writes.
pub fn run(options: &Options, stop: &Stop) -> Result<()> {
    let before = machine();
    let memory = scratch(&options.memory)?;
    let disk = scratch(&options.disk)?;
    let figures = measure(options, memory.path(), disk.path(), stop)?;
    for table in tables_of(&figures, options) {
        println!("{table}");
    }
    let mut result = json_of(&figures);
    result["machine"] = before;
    write(&options.out, &result)
}

fn scratch(above: &Path) -> Result<tempfile::TempDir> {
    fs::create_dir_all(above).with_context(|| format!("make {}", above.display()))?;
    let dir = tempfile::Builder::new()
        .prefix("eve-bench-")
        .tempdir_in(above);
    dir.with_context(|| format!("make a directory in {}", above.display()))
}

fn measure(options: &Options, memory: &Path, disk: &Path, stop: &Stop) -> Result<Figures> {
    let raw =
        |name: &str, files, bare, readers| Stream::raw(&memory.join(name), files, bare, readers);
    let mut lanes = vec![
        Lane::new("floor", 0, raw("floor", 1, false, 1)?),
        Lane::new("floor without JSON", 0, raw("bare", 1, true, 1)?),
    ];
    let mut alike = Vec::new();
    for &size in &options.sizes {
        if size == 1 {
            alike.push(0);
            continue;
        }
        alike.push(lanes.len());
        let name = format!("floor, {size} files");
        lanes.push(Lane::new(&*name, 0, raw(&name, size, false, 1)?));
    }
    let floors = lanes.len();
    for (&size, alike) in options.sizes.iter().zip(alike) {
        let lane = Lane::new(size.to_string(), 0, Stream::bus(memory, size, 1)?);
        lanes.push(lane.beside(alike));
    }
    let single = lanes.len();
    let name = |what: &str| format!("{what}, {MANY} readers");
    lanes.push(Lane::new(name("floor"), 0, raw("many", 1, false, MANY)?));
    let many = Stream::bus(memory, MANY_SIZE, MANY)?;
    lanes.push(Lane::new(name(&MANY_SIZE.to_string()), single, many));
    let pause = Duration::from_micros(options.pace);
    let mut delays = latency::delays(&mut lanes, options.samples, pause, stop)?;
    let many = delays.split_off(single);
    lanes.truncate(single);
    let count = (options.samples / 2).max(1);
    let rates = latency::rates(&mut lanes, options.turns, count, stop)?;
    drop(lanes);
    let unchanged = options.sizes.iter().map(|&size| {
        stop.check()?;
        Ok((size, tables::unchanged(memory, size, options.turns)?))
    });
    let unchanged = unchanged.collect::<Result<_>>()?;
    let sync = options.sync_sizes.iter();
    let sync = sync.map(|&size| tables::sync(memory, size, options.turns, stop));
    Ok(Figures {
        floors,
        delays,
        many,
        rates,
        unchanged,
        sync: sync.collect::<Result<_>>()?,
        late: single::late_publisher(memory, options.turns * 4, stop)?,
        durable: single::durable(disk, (options.samples / 10).max(1), stop)?,
    })
}

fn tables_of(figures: &Figures, options: &Options) -> Vec<Table> {
    let columns = [
        "rows",
        "p10",
        "p50",
        "p90",
        "p99",
        "MAD",
        "x floor",
        "x as many files",
    ];
    let title = format!(
        "publish -> handler in another process, 1 KB, one every {} us, {} samples, us",
        options.pace, options.samples
    );
    let mut delays = Table::new(title, &columns);
    for delay in figures.delays.iter().chain(&figures.many) {
        let alike = delay.ratio_alike.map_or("-".to_owned(), figure);
        let cells = cells(&delay.name, &delay.us, Some(delay.ratio));
        delays.row(cells.into_iter().chain([alike]));
    }
    let mut rates = Table::new(
        "publishes at full speed, per second",
        &["rows", "median", "MAD", "until handled", "x floor's time"],
    );
    for rate in &figures.rates {
        rates.row([
            rate.name.clone(),
            figure(rate.publishes.p50),
            figure(rate.publishes.mad),
            figure(rate.through.p50),
            figure(rate.ratio),
        ]);
    }
    let mut unchanged = Table::new("unchanged publish, ns", &columns[..6]);
    for (size, ns) in &figures.unchanged {
        unchanged.row(cells(&size.to_string(), ns, None));
    }
    let mut sync = Table::new(
        "a new subscriber reads the table, rows per second",
        &["rows", "median", "MAD", "floor", "x floor's time"],
    );
    for one in &figures.sync {
        sync.row([
            one.size.to_string(),
            figure(one.keys_per_s.p50),
            figure(one.keys_per_s.mad),
            figure(one.floor_per_s.p50),
            figure(one.ratio),
        ]);
    }
    let mut single = Table::new("single events, us", &columns[..7]);
    single.row(cells("publisher that starts later", &figures.late, None));
    let durable = &figures.durable;
    single.row(cells(
        "write, fdatasync, rename, fsync",
        &durable.floor,
        None,
    ));
    let persistent = cells("persistent publish", &durable.publish, Some(durable.ratio));
    single.row(persistent);
    vec![delays, rates, unchanged, sync, single]
}

fn cells(name: &str, summary: &Summary, ratio: Option<f64>) -> Vec<String> {
    let Summary {
        count: _,
        p10,
        p50,
        p90,
        p99,
        mad,
    } = *summary;
    let figures = [p10, p50, p90, p99, mad].into_iter().chain(ratio);
    let names = std::iter::once(name.to_owned());
    names.chain(figures.map(figure)).collect()
}

fn json_of(figures: &Figures) -> Value {
    let p50 = |delays: &[Delay], at: usize| rounded(delays.get(at).map_or(0.0, |d| d.us.p50));
    let (floors, sizes) = figures.delays.split_at(figures.floors);
    let (floor_rates, rates) = figures.rates.split_at(figures.floors);
    let many = &figures.many;
    let sync = &figures.sync;
    json!({
        "floor_p50_us": p50(floors, 0),
        "floor_p99_us": rounded(floors.first().map_or(0.0, |d| d.us.p99)),
        "floor_without_json_p50_us": p50(floors, 1),
        "publish_to_handler_p50_us": by_size(sizes.iter().map(|d| (d.name.clone(), d.us.p50))),
        "publish_to_handler_p99_us": by_size(sizes.iter().map(|d| (d.name.clone(), d.us.p99))),
        "publish_to_handler_x_floor": by_size(sizes.iter().map(|d| (d.name.clone(), d.ratio))),
        "publish_to_handler_x_as_many_files":
            by_size(sizes.iter().filter_map(|d| Some((d.name.clone(), d.ratio_alike?)))),
        "readers_10_p50_us": p50(many, 1),
        "floor_readers_10_p50_us": p50(many, 0),
        "readers_10_x_floor": rounded(many.get(1).map_or(0.0, |d| d.ratio)),
        "publishes_per_s": by_size(rates.iter().map(|r| (r.name.clone(), r.publishes.p50))),
        "handled_per_s": by_size(rates.iter().map(|r| (r.name.clone(), r.through.p50))),
        "floor_publishes_per_s": rounded(floor_rates.first().map_or(0.0, |r| r.publishes.p50)),
        "unchanged_ns": by_size(figures.unchanged.iter().map(|(size, ns)| (size.to_string(), ns.p50))),
        "sync_keys_per_s": by_size(sync.iter().map(|s| (s.size.to_string(), s.keys_per_s.p50))),
        "floor_sync_keys_per_s": by_size(sync.iter().map(|s| (s.size.to_string(), s.floor_per_s.p50))),
        "late_publisher_p50_us": rounded(figures.late.p50),
        "late_publisher_p99_us": rounded(figures.late.p99),
        "persistent_p50_us": rounded(figures.durable.publish.p50),
        "floor_persistent_p50_us": rounded(figures.durable.floor.p50),
        "persistent_x_floor": rounded(figures.durable.ratio),
    })
}

fn by_size(figures: impl Iterator<Item = (String, f64)>) -> Value {
    Value::Object(
        figures
            .map(|(size, value)| (size, rounded(value)))
            .collect::<Map<_, _>>(),
    )
}
