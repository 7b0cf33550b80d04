//! What depends on the size of a table only: unchanged publishes, and how long a new subscriber needs for all of it.

use std::path::Path;

use anyhow::Result;

use crate::{
    bus::{
        latency::ratio,
        peer::{Peer, Role, Table, Took},
        stream::{SERVICE, fill},
    },
    clock::{now_ns, per_second},
    object::{Sample, key},
    stats::Summary,
    stop::Stop,
};

/// Nanoseconds that publishing what is published already takes.
pub fn unchanged(root: &Path, size: u64, turns: u32) -> Result<Summary> {
    const CALLS: u32 = 1000;
    let table = Table {
        root: root.to_owned(),
        service: SERVICE.to_owned(),
        topic: format!("Unchanged{size}"),
        size,
    };
    let mut publisher = fill(&table)?;
    // A round through the whole table, as a service makes it; objects of its own, as a report has.
    let rows: Vec<_> = (0..size.min(2000))
        .map(|number| number * (size / size.min(2000)))
        .map(|number| (key(number), Sample::new(number)))
        .collect();
    let mut round = rows.iter().cycle();
    let mut took = Vec::new();
    for _ in 0..turns {
        let begin = now_ns();
        for (key, object) in round.by_ref().take(usize::try_from(CALLS)?) {
            anyhow::ensure!(
                !publisher.publish(key, object)?,
                "{key} was published again"
            );
        }
        let ns = u32::try_from(now_ns() - begin).unwrap_or(u32::MAX);
        took.push(f64::from(ns) / f64::from(CALLS));
    }
    Ok(Summary::of(took))
}

/// The figures of reading a whole table.
#[derive(Debug, Clone, Default)]
pub struct Sync {
    /// Rows.
    pub size: u64,
    /// Rows per second of a new subscriber in a new process.
    pub keys_per_s: Summary,
    /// The same for reading the files one by one without looking at what is in them.
    pub floor_per_s: Summary,
    /// How many times the floor's time.
    pub ratio: f64,
}

/// How fast a new subscriber has a whole table.
pub fn sync(root: &Path, size: u64, turns: u32, stop: &Stop) -> Result<Sync> {
    let table = Table {
        root: root.to_owned(),
        service: SERVICE.to_owned(),
        topic: format!("Sync{size}"),
        size,
    };
    drop(fill(&table)?);
    let dir = root.join("run").join(SERVICE).join(&table.topic);
    let keys = u32::try_from(size)?;
    let (mut with_bus, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        for (role, rates) in [
            (Role::SyncRaw { dir: dir.clone() }, &mut floor),
            (
                Role::Sync {
                    table: table.clone(),
                },
                &mut with_bus,
            ),
        ] {
            stop.check()?;
            let took: Took = Peer::start(&role)?.hear()?;
            rates.push(per_second(keys, took.ns));
        }
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(Sync {
        size,
        ratio: ratio(&floor, &with_bus),
        keys_per_s: Summary::of(with_bus),
        floor_per_s: Summary::of(floor),
    })
}
