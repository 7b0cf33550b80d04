//! `eve logs`: what the supervisor caught, merged by time.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use jiff::Timestamp;

use super::{
    Verdict,
    args::{Global, LogArgs},
    snapshot,
};
use crate::{
    Device, Error,
    find::{Candidate, find},
    logline::{self, Line},
    output::{self, Output},
    tail::{Tail, part_path},
};

/// So often files are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Rotated parts that the supervisor keeps.
const PARTS: u32 = 2;

pub(super) fn logs(global: &Global, out: Output, args: &LogArgs) -> Result<Verdict, Error> {
    let files = files(global, args)?;
    let mut tails = BTreeMap::new();
    let mut lines = Vec::new();
    for (unit, file) in files {
        let mut tail = Tail::new(&file).map_err(reading(&file))?;
        lines.extend(past(&unit, &file, &mut tail, args)?);
        tails.insert(unit, tail);
    }
    // Stable: lines without a time stay behind the one that they followed.
    lines.sort_by_key(|(at, _)| *at);
    let surplus = match args.lines {
        0 => 0,
        wanted => lines.len().saturating_sub(wanted),
    };
    let lines: Vec<Line> = lines
        .into_iter()
        .skip(surplus)
        .map(|(_, line)| line)
        .collect();
    let width = width(tails.keys());
    lines.iter().try_for_each(|line| show(out, line, width))?;
    if !args.follow {
        return Ok(Verdict::Good);
    }
    loop {
        thread::sleep(LOOK);
        for (unit, file) in files_if_any(global, args)? {
            if let std::collections::btree_map::Entry::Vacant(e) = tails.entry(unit) {
                let tail = Tail::new(&file).map_err(reading(&file))?;
                e.insert(tail);
            }
        }
        let width = self::width(tails.keys());
        for (unit, tail) in &mut tails {
            let new = tail.read().map_err(reading(tail.path()))?;
            for line in new.iter().map(|line| logline::parse(unit, line)) {
                if line.level >= args.level {
                    show(out, &line, width)?;
                }
            }
        }
    }
}

fn reading(file: &Path) -> impl Fn(io::Error) -> Error {
    let path = file.to_owned();
    move |source| Error::Io {
        action: "read",
        path: path.clone(),
        source,
    }
}

fn width<'a>(units: impl Iterator<Item = &'a String>) -> usize {
    let widths = units.map(|unit| logline::short_unit(unit).chars().count());
    widths.max().unwrap_or(0)
}

fn show(out: Output, line: &Line, width: usize) -> Result<(), Error> {
    if out.json {
        output::json_line(line)
    } else {
        output::print(&logline::text(out, line, width))
    }
}

/// The lines that are there, each with a time to sort by: its own, or that of the line before.
fn past(
    unit: &str,
    file: &Path,
    tail: &mut Tail,
    args: &LogArgs,
) -> Result<Vec<(Timestamp, Line)>, Error> {
    let mut texts = tail.read().map_err(reading(file))?;
    let mut part = 1;
    while part <= PARTS && (args.lines == 0 || texts.len() < args.lines) {
        match fs::read(part_path(file, part)) {
            Ok(older) => {
                let older = String::from_utf8_lossy(&older);
                let mut all: Vec<String> = older.lines().map(str::to_owned).collect();
                // A line may have been cut in two.
                if !older.ends_with('\n')
                    && let Some(last) = all.pop()
                {
                    match texts.first_mut() {
                        Some(first) => first.insert_str(0, &last),
                        None => all.push(last),
                    }
                }
                all.append(&mut texts);
                texts = all;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(reading(file)(error)),
        }
        part += 1;
    }
    let written = fs::metadata(file).and_then(|found| found.modified());
    let mut last = written
        .ok()
        .and_then(|at| Timestamp::try_from(at).ok())
        .unwrap_or(Timestamp::UNIX_EPOCH);
    let mut lines: Vec<Line> = texts
        .iter()
        .map(|text| logline::parse(unit, text))
        .collect();
    if let Some(first) = lines.iter().find_map(|line| line.at) {
        last = first;
    }
    let mut timed = Vec::with_capacity(lines.len());
    for line in lines.drain(..) {
        last = line.at.unwrap_or(last);
        if line.level >= args.level {
            timed.push((last, line));
        }
    }
    Ok(timed)
}

fn files_if_any(global: &Global, args: &LogArgs) -> Result<Vec<(String, PathBuf)>, Error> {
    match files(global, args) {
        Err(Error::NotFound { .. }) => Ok(Vec::new()),
        result => result,
    }
}

/// The logs that were asked for, by unit.
fn files(global: &Global, args: &LogArgs) -> Result<Vec<(String, PathBuf)>, Error> {
    if let Some(app) = &args.console {
        return Ok(vec![console(global, app)?]);
    }
    let dir = global.root.join("persist/log");
    let entries = fs::read_dir(&dir).map_err(reading(&dir))?;
    let mut all: Vec<(String, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let file = entry.path();
            let stem = file.file_name()?.to_str()?.strip_suffix(".log")?;
            Some((stem.replacen('+', "/", 1), file))
        })
        .collect();
    all.sort();
    let Some(asked) = &args.unit else {
        return Ok(all);
    };
    let fitting = |fits: &dyn Fn(&str) -> bool| -> Vec<(String, PathBuf)> {
        all.iter().filter(|(unit, _)| fits(unit)).cloned().collect()
    };
    let exact = fitting(&|unit| unit == asked);
    if !exact.is_empty() {
        return Ok(exact);
    }
    let beginning = fitting(&|unit| unit.starts_with(asked.as_str()));
    if !beginning.is_empty() {
        return Ok(beginning);
    }
    let names: Vec<&str> = all.iter().map(|(unit, _)| unit.as_str()).collect();
    Err(Error::NotFound {
        kind: "log of a unit".to_owned(),
        name: asked.clone(),
        hint: match names.as_slice() {
            [] => String::new(),
            names => format!("; there are {}", names.join(", ")),
        },
    })
}

/// The console of an application's guest.
fn console(global: &Global, app: &str) -> Result<(String, PathBuf), Error> {
    let device = Device::of(&snapshot(global)?);
    let statuses = device.domains.rows.keys();
    let candidates: Vec<Candidate<()>> = statuses
        .map(|key| Candidate {
            what: (),
            key: key.clone(),
            name: device.app_name(key).unwrap_or_default().to_owned(),
        })
        .collect();
    let found = find("guest of an app", &candidates, app)?;
    let recorded = device
        .domains
        .get(&found.key)
        .and_then(|row| row.console_log.clone());
    // In a copy the recorded path is another device's.
    let file = format!("persist/log/guests/{}.console", found.key);
    let below = global.root.join(file);
    let file = match recorded {
        Some(recorded) if !below.exists() => recorded,
        Some(_) | None => below,
    };
    let name = if found.name.is_empty() {
        &found.key
    } else {
        &found.name
    };
    Ok((name.clone(), file))
}
