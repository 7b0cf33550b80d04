//! `eve logs`: what units, guests and the kernel printed, merged by time.
//!
//! The newest lines are where they were printed, older ones in newlogd's store (`logstore.rs`).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use jiff::Timestamp;
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::{
    Verdict,
    args::{Global, LogArgs},
    snapshot,
};
use crate::{
    Device, Error,
    find::{Candidate, find},
    logline::{self, Line},
    logstore::{self, merge},
    output::{self, Output},
    tail::{Tail, part_path},
};

/// So often files are looked at where the kernel does not say when there is something.
const LOOK: Duration = Duration::from_millis(250);
/// Pause where the kernel says when there is something: a source may have come whose directory did not exist.
const LOOK_ANYWAY: Duration = Duration::from_secs(5);
/// Lines are shown so late, and so many at once as come in that time.
const TOGETHER: Duration = Duration::from_millis(30);
/// Rotated parts that the supervisor keeps.
const PARTS: u32 = 2;

pub(super) fn logs(global: &Global, out: Output, args: &LogArgs) -> Result<Verdict, Error> {
    let now = Timestamp::now();
    let [since, until] = [args.since, args.until].map(|moment| moment.map(|m| m.before(now)));
    let mut stored = stored(global)?;
    let sources = sources(global, args, &stored)?;
    let mut tails = BTreeMap::new();
    let mut lines = Vec::new();
    for source in sources {
        let mut printed = Vec::new();
        if let Some(file) = &source.file {
            let mut tail = Tail::new(file).map_err(reading(file))?;
            printed = past(&source.name, file, &mut tail)?;
            tails.insert(source.name.clone(), tail);
        }
        let mut older = stored.remove(&source.key).unwrap_or_default();
        for line in &mut older {
            line.unit.clone_from(&source.name);
        }
        let written = source.file.as_deref().and_then(written);
        lines.extend(timed(merge(older, printed), written));
    }
    // Stable: lines without a time stay behind the one that they followed.
    lines.sort_by_key(|(at, _)| *at);
    let wanted = |(at, line): &(Timestamp, Line)| {
        line.level >= args.level
            && since.is_none_or(|since| *at >= since)
            && until.is_none_or(|until| *at <= until)
    };
    lines.retain(wanted);
    let surplus = match args.lines {
        0 => 0,
        wanted => lines.len().saturating_sub(wanted),
    };
    let lines: Vec<Line> = lines
        .into_iter()
        .skip(surplus)
        .map(|(_, line)| line)
        .collect();
    let width = width(lines.iter().map(|line| &line.unit).chain(tails.keys()));
    lines.iter().try_for_each(|line| show(out, line, width))?;
    if !args.follow {
        return Ok(Verdict::Good);
    }
    let news = News::of(&global.root.join("persist/log"));
    loop {
        news.wait();
        for source in sources_if_any(global, args)? {
            if let (std::collections::btree_map::Entry::Vacant(e), Some(file)) =
                (tails.entry(source.name), source.file)
            {
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

/// Tells that something was printed.
struct News {
    /// Stops watching when it is dropped. None where the kernel can't be asked: then every look is worth it.
    watcher: Option<RecommendedWatcher>,
    printed: mpsc::Receiver<()>,
}

impl News {
    fn of(logs: &Path) -> Self {
        let (tell, printed) = mpsc::sync_channel(1);
        let heard = move |event: notify::Result<Event>| {
            // Our own opening and reading is not news.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                // One that has not been taken yet is enough.
                let _ = tell.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(heard).and_then(|mut watcher| {
            watcher.watch(logs, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        Self {
            watcher: watcher.ok(),
            printed,
        }
    }

    /// Until something is printed. What is printed within a moment is taken together.
    fn wait(&self) {
        if self.watcher.is_some() {
            let _ = self.printed.recv_timeout(LOOK_ANYWAY);
            thread::sleep(TOGETHER);
        } else {
            thread::sleep(LOOK);
        }
    }
}

/// Where lines come from.
struct Source {
    /// What it is called in the store.
    key: String,
    /// What it is called for people.
    name: String,
    /// Where it prints; none where only the store has something of it.
    file: Option<PathBuf>,
}

/// What newlogd keeps. A device without it has only what is where it was printed.
fn stored(global: &Global) -> Result<BTreeMap<String, Vec<Line>>, Error> {
    logstore::read(&global.root).map_err(reading(&global.root.join("persist/newlog")))
}

/// When a file was written.
fn written(file: &Path) -> Option<Timestamp> {
    let at = fs::metadata(file).and_then(|found| found.modified()).ok()?;
    Timestamp::try_from(at).ok()
}

/// Each line with a time to sort by: its own, or that of the line before.
fn timed(lines: Vec<Line>, written: Option<Timestamp>) -> Vec<(Timestamp, Line)> {
    let first = lines.iter().find_map(|line| line.at);
    let mut last = first.or(written).unwrap_or(Timestamp::UNIX_EPOCH);
    let timed = lines.into_iter().map(|line| {
        last = line.at.unwrap_or(last);
        (last, line)
    });
    timed.collect()
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

/// The lines that are where they were printed.
fn past(unit: &str, file: &Path, tail: &mut Tail) -> Result<Vec<Line>, Error> {
    let mut texts = tail.read().map_err(reading(file))?;
    for part in 1..=PARTS {
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
    }
    let lines = texts.iter().map(|text| logline::parse(unit, text));
    Ok(lines.collect())
}

fn sources_if_any(global: &Global, args: &LogArgs) -> Result<Vec<Source>, Error> {
    match sources(global, args, &BTreeMap::new()) {
        Err(Error::NotFound { .. }) => Ok(Vec::new()),
        result => result,
    }
}

/// The logs that were asked for.
fn sources(
    global: &Global,
    args: &LogArgs,
    stored: &BTreeMap<String, Vec<Line>>,
) -> Result<Vec<Source>, Error> {
    if let Some(app) = &args.console {
        return Ok(vec![console(global, app)?]);
    }
    let dir = global.root.join("persist/log");
    let entries = fs::read_dir(&dir).map_err(reading(&dir))?;
    let mut all: BTreeMap<String, Option<PathBuf>> = entries
        .flatten()
        .filter_map(|entry| {
            let file = entry.path();
            let stem = file.file_name()?.to_str()?.strip_suffix(".log")?;
            Some((stem.replacen('+', "/", 1), Some(file)))
        })
        .collect();
    // Consoles are asked for by themselves: what guests print is theirs.
    let is_guest = |key: &str| uuid::Uuid::parse_str(key).is_ok();
    for key in stored.keys().filter(|key| !is_guest(key)) {
        all.entry(key.clone()).or_default();
    }
    let source = |(name, file): (&String, &Option<PathBuf>)| Source {
        key: name.clone(),
        name: name.clone(),
        file: file.clone(),
    };
    let Some(asked) = &args.unit else {
        return Ok(all.iter().map(source).collect());
    };
    let fitting = |fits: &dyn Fn(&str) -> bool| -> Vec<Source> {
        let fitting = all.iter().filter(|(unit, _)| fits(unit));
        fitting.map(source).collect()
    };
    let exact = fitting(&|unit| unit == asked);
    if !exact.is_empty() {
        return Ok(exact);
    }
    let beginning = fitting(&|unit| unit.starts_with(asked.as_str()));
    if !beginning.is_empty() {
        return Ok(beginning);
    }
    let names: Vec<&str> = all.keys().map(String::as_str).collect();
    Err(Error::NotFound {
        kind: "log of a unit".to_owned(),
        name: asked.clone(),
        hint: match names.as_slice() {
            [] if asked == logstore::KERNEL => "; newlogd has collected nothing of it".to_owned(),
            [] => String::new(),
            names => format!("; there are {}", names.join(", ")),
        },
    })
}

/// The console of an application's guest.
fn console(global: &Global, app: &str) -> Result<Source, Error> {
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
    Ok(Source {
        key: found.key.clone(),
        name: name.clone(),
        file: file.exists().then_some(file),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_line_ends_the_wait_and_reading_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("nim.log");
        fs::write(&log, "one\n").unwrap();
        let news = News::of(dir.path());
        assert!(news.watcher.is_some());
        fs::read(&log).unwrap();
        thread::sleep(TOGETHER);
        assert!(news.printed.try_recv().is_err(), "reading is no news");
        let began = Instant::now();
        let printing = thread::spawn(move || fs::write(log, "one\ntwo\n").unwrap());
        news.wait();
        printing.join().unwrap();
        assert!(began.elapsed() < LOOK_ANYWAY);
    }
}
