//! newlogd's store: what is no longer where it was printed, and when lines without a time were printed.
//!
//! A line lies where it was printed until that file is cut at its head, and from the round in which newlogd took it
//! until the controller has it (an application's for longer) also in a file of the store. [`merge`] makes one log of
//! the two, with every line once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufRead as _, BufReader},
    path::Path,
};

use flate2::read::MultiGzDecoder;
use jiff::Timestamp;
use serde::Deserialize;

use crate::logline::{Level, Line};

/// Where the store is, below the device's root.
const STORE: &str = "persist/newlog";
const QUEUES: [&str; 4] = ["devUpload", "appUpload", "keepSentQueue", "failedUpload"];
/// What newlogd says of guests' consoles: their source, and the application's id beside it.
const GUEST: &str = "guest_vm";
/// The source of the kernel's messages.
pub const KERNEL: &str = "kernel";

/// An entry of a file of the store.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    severity: String,
    source: String,
    iid: String,
    content: String,
    msgid: u64,
    timestamp: Time,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Time {
    seconds: i64,
    nanos: i32,
}

/// Lines of the store by source: a unit, [`KERNEL`], or the id of a guest's application. None where there is no store.
pub fn read(root: &Path) -> io::Result<BTreeMap<String, Vec<Line>>> {
    let mut files = Vec::new();
    for queue in QUEUES {
        match fs::read_dir(root.join(STORE).join(queue)) {
            Ok(entries) => files.extend(entries.flatten().map(|entry| entry.path())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let mut entries = Vec::new();
    for file in files {
        if file.extension().is_none_or(|extension| extension != "gz") {
            continue;
        }
        match File::open(&file) {
            Ok(file) => entries.extend(unpack(file)),
            // It was sent while we were looking.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    // The order in which newlogd saw them; a file that moved between two directories may be read twice.
    entries.sort_by_key(|entry| entry.msgid);
    entries.dedup_by_key(|entry| entry.msgid);
    let mut lines: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    for entry in entries {
        let source = if entry.source == GUEST {
            &entry.iid
        } else {
            &entry.source
        };
        let source = source.clone();
        let line = line(&source, entry);
        lines.entry(source).or_default().push(line);
    }
    Ok(lines)
}

/// The entries of a file, up to where it can't be read.
fn unpack(file: File) -> Vec<Entry> {
    let lines = BufReader::new(MultiGzDecoder::new(file)).lines();
    let entries = lines
        .map_while(Result::ok)
        .filter_map(|line| serde_json::from_str(&line).ok());
    entries.collect()
}

fn line(unit: &str, entry: Entry) -> Line {
    let at = Timestamp::new(entry.timestamp.seconds, entry.timestamp.nanos).ok();
    Line {
        at,
        unit: unit.to_owned(),
        level: level(&entry.severity),
        text: entry.content,
        fields: serde_json::Map::new(),
    }
}

fn level(severity: &str) -> Level {
    match severity {
        "trace" => Level::Trace,
        "debug" => Level::Debug,
        "warning" => Level::Warning,
        "emerg" | "alert" | "crit" | "err" | "error" => Level::Error,
        _ => Level::Info,
    }
}

/// One log of what newlogd took of a source and of what is still where it was printed; every line once.
pub fn merge(stored: Vec<Line>, printed: Vec<Line>) -> Vec<Line> {
    let first = printed.iter().find_map(|line| line.at);
    match first {
        // Its lines say when they were printed.
        Some(first) => {
            let older = stored.into_iter().filter(|line| line.at < Some(first));
            older.chain(printed).collect()
        }
        // The store knows when those were printed that it has.
        None => untimed(stored, printed),
    }
}

fn untimed(stored: Vec<Line>, printed: Vec<Line>) -> Vec<Line> {
    if let Some((before, taken)) = seam(&stored, &printed) {
        let mut printed = printed.into_iter();
        let mut all: Vec<Line> = printed.by_ref().take(before).collect();
        all.extend(stored);
        all.extend(printed.skip(taken));
        return all;
    }
    // Some of them were not kept: what is still there counts.
    let there: BTreeSet<&str> = printed.iter().map(|line| line.text.as_str()).collect();
    let gone = |line: &Line| !there.contains(line.text.as_str());
    let older: Vec<Line> = stored.into_iter().filter(gone).collect();
    older.into_iter().chain(printed).collect()
}

/// Where the lines of the store are among what is printed: so many lines before them, and so many in both. What the
/// store has begins before what is printed (its head was cut off), or within it (the rest was sent).
fn seam(stored: &[Line], printed: &[Line]) -> Option<(usize, usize)> {
    let same = |stored: &[Line], printed: &[Line]| {
        stored.len() <= printed.len() && stored.iter().zip(printed).all(|(a, b)| a.text == b.text)
    };
    let cut = (0..stored.len())
        .find(|from| same(&stored[*from..], printed))
        .map(|from| (0, stored.len() - from));
    let within = || {
        (1..printed.len())
            .find(|from| same(stored, &printed[*from..]))
            .map(|from| (from, stored.len()))
    };
    cut.or_else(within)
        .or_else(|| (stored.is_empty() || printed.is_empty()).then_some((0, 0)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn second(n: i64) -> Timestamp {
        Timestamp::from_second(n).unwrap()
    }

    fn says(text: &str, at: Option<Timestamp>) -> Line {
        Line {
            at,
            unit: "x".to_owned(),
            level: Level::Info,
            text: text.to_owned(),
            fields: serde_json::Map::new(),
        }
    }

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn what_is_still_there_is_not_told_twice() {
        let stored = vec![
            says("a", Some(second(1))),
            says("b", Some(second(2))),
            says("c", Some(second(3))),
        ];
        let printed = vec![
            says("b", Some(second(2))),
            says("c", Some(second(3))),
            says("d", Some(second(4))),
        ];
        let all = merge(stored.clone(), printed);
        assert_eq!(texts(&all), ["a", "b", "c", "d"]);
        // Nor what does not say when it was printed; the store knows.
        let printed = vec![says("b", None), says("c", None), says("d", None)];
        let all = merge(stored.clone(), printed);
        assert_eq!(texts(&all), ["a", "b", "c", "d"]);
        assert_eq!(all[2].at, Some(second(3)));
        assert_eq!(texts(&merge(stored.clone(), Vec::new())), ["a", "b", "c"]);
        // The first were sent, or some were not kept.
        let printed = ["x", "a", "b", "c", "d"].map(|text| says(text, None));
        let all = merge(stored.clone(), printed.to_vec());
        assert_eq!(texts(&all), ["x", "a", "b", "c", "d"]);
        let printed = ["b", "y", "c", "d"].map(|text| says(text, None));
        assert_eq!(
            texts(&merge(stored, printed.to_vec())),
            ["a", "b", "y", "c", "d"]
        );
    }

    proptest! {
        #[test]
        fn every_line_is_there_once(
            lines in 0..30_usize, from in 0..30_usize, until in 0..30_usize, sent in 0..30_usize, timed: bool,
        ) {
            let (from, until) = (from.min(lines), until.min(lines));
            let line = |n: usize| says(&n.to_string(), Some(second(i64::try_from(n).unwrap())));
            // newlogd took the first `until`, and of the file the first `from` were cut off, but never what it lacks.
            let from = from.min(until);
            // The first of what it took were sent since, but it was cut off before.
            let sent = sent.min(until);
            let stored: Vec<Line> = (sent..until).map(line).collect();
            let printed = (from..lines).map(line).map(|line| if timed { line } else { Line { at: None, ..line } });
            let all = merge(stored, printed.collect());
            let wanted: Vec<String> = (sent.min(from)..lines).map(|n| n.to_string()).collect();
            prop_assert_eq!(texts(&all), wanted);
        }
    }
}
