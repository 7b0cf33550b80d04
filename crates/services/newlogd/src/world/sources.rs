//! Where lines come from, and how much of them there is.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use logfile::Extent;
use model::id::AppId;
use units::UnitName;

use crate::{name::Stream, state::State};

/// What guests print, below the directory of logs.
pub(super) const GUESTS: &str = "guests";
/// At most so many times of growth are remembered of a log.
const MARKS: usize = 512;
/// A line without an end is taken as it is after so long: a prompt, or the last words of a guest.
const QUIET: Duration = Duration::from_secs(10);

/// A log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Whose lines they are.
    pub stream: Stream,
    /// Its name for people: of a unit, or `console`.
    pub name: String,
    /// Where.
    pub path: PathBuf,
}

/// A log as it was seen.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Which.
    pub source: Source,
    /// How much there is.
    pub extent: Extent,
    /// When it was found to have grown to which end: what lines are dated by that don't say when they were printed.
    marks: Vec<(u64, Timestamp)>,
    /// Uptime at which it last grew.
    grown: Duration,
    /// Uptime since which lines wait.
    since: Duration,
    /// Position of the first byte that was not read.
    offset: u64,
    /// As of the file system: if it is the same the log is.
    glance: (u64, u64, i64, i64),
}

impl Seen {
    /// When the byte at a position was first seen.
    pub fn at(&self, position: u64, now: Timestamp) -> Timestamp {
        let mark = self.marks.partition_point(|(end, _)| *end <= position);
        self.marks.get(mark).map_or(now, |(_, at)| *at)
    }

    /// Whether this is the same file.
    pub fn is(&self, extent: &Extent) -> bool {
        (self.extent.inode, self.extent.born) == (extent.inode, extent.born)
    }

    /// Whether a line without an end is to be taken as it is.
    pub fn is_quiet(&self, uptime: Duration) -> bool {
        uptime.saturating_sub(self.grown) >= QUIET
    }

    /// Bytes that were not read.
    pub fn unread(&self) -> u64 {
        self.extent.end.saturating_sub(self.offset)
    }

    /// Uptime since which they wait.
    pub fn since(&self) -> Duration {
        self.since
    }
}

/// All logs that were seen, by their key: the path below the directory of logs.
#[derive(Debug, Default)]
pub(crate) struct Sources(BTreeMap<String, Seen>);

/// A log that is gone with bytes that nobody read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

impl Sources {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Seen)> {
        self.0.iter()
    }

    /// The logs of a stream.
    pub(crate) fn of(&self, stream: Stream) -> Vec<(String, Seen)> {
        let of = self.0.iter().filter(|(_, s)| s.source.stream == stream);
        of.map(|(key, seen)| (key.clone(), seen.clone())).collect()
    }

    /// Looks at the directory again. Gives the logs that are gone unread.
    pub(crate) fn look(
        &mut self,
        dir: &Path,
        state: &State,
        now: Timestamp,
        uptime: Duration,
    ) -> io::Result<Vec<Gone>> {
        let found = list(dir)?;
        let mut gone = Vec::new();
        self.0.retain(|key, seen| {
            let stays = found.contains_key(key);
            if !stays && seen.unread() > 0 {
                gone.push(Gone {
                    name: seen.source.name.clone(),
                    bytes: seen.unread(),
                });
            }
            stays
        });
        for (key, source) in found {
            let Ok(metadata) = fs::metadata(&source.path) else {
                continue;
            };
            let glance = (
                metadata.ino(),
                metadata.len(),
                metadata.mtime(),
                metadata.mtime_nsec(),
            );
            if self.0.get(&key).is_some_and(|seen| seen.glance == glance) {
                continue;
            }
            let extent = match logfile::extent(&source.path) {
                Ok(Some(extent)) => extent,
                // It is being cut, or was removed since: at the next look.
                Ok(None) => continue,
                Err(error) => {
                    tracing::debug!(%error, log = %source.path.display(), "not readable");
                    continue;
                }
            };
            match self.0.get_mut(&key) {
                Some(seen) if seen.is(&extent) && seen.offset <= extent.end => {
                    seen.grow(extent, now, uptime);
                    seen.glance = glance;
                }
                Some(_) | None => {
                    let position = state.sources.get(&key);
                    let offset = position.map_or(0, |p| p.offset_in(&extent));
                    let seen = Seen {
                        source,
                        extent,
                        marks: vec![(extent.end, now)],
                        grown: uptime,
                        since: uptime,
                        offset,
                        glance,
                    };
                    if let Some(old) = self.0.insert(key, seen).filter(|old| old.unread() > 0) {
                        gone.push(Gone {
                            name: old.source.name.clone(),
                            bytes: old.unread(),
                        });
                    }
                }
            }
        }
        Ok(gone)
    }

    /// Takes note of what was read of these streams.
    pub(crate) fn read(&mut self, state: &State, streams: &[Stream], uptime: Duration) {
        for (key, seen) in &mut self.0 {
            if !streams.contains(&seen.source.stream) {
                continue;
            }
            let Some(position) = state.sources.get(key) else {
                continue;
            };
            let offset = position.offset_in(&seen.extent);
            if offset != seen.offset {
                seen.offset = offset;
                seen.marks.retain(|(end, _)| *end > offset);
            }
            // What is left (a line without an end) waits from now on.
            seen.since = uptime;
        }
    }
}

impl Seen {
    fn grow(&mut self, extent: Extent, now: Timestamp, uptime: Duration) {
        if extent.end > self.extent.end {
            if self.unread() == 0 {
                self.since = uptime;
            }
            self.grown = uptime;
            if self.marks.len() >= MARKS {
                let mut keep = false;
                self.marks.retain(|_| {
                    keep = !keep;
                    keep
                });
            }
            self.marks.push((extent.end, now));
        }
        self.extent = extent;
    }
}

/// `<unit>.log` and `guests/<app>.console`.
fn list(dir: &Path) -> io::Result<BTreeMap<String, Source>> {
    let mut found = BTreeMap::new();
    for name in names(dir)? {
        let unit = name
            .strip_suffix(".log")
            .and_then(|stem| UnitName::from_stem(stem).ok());
        if let Some(unit) = unit {
            let source = Source {
                stream: Stream::Device,
                name: unit.as_str().to_owned(),
                path: dir.join(&name),
            };
            found.insert(name, source);
        }
    }
    for name in names(&dir.join(GUESTS))? {
        let app = name
            .strip_suffix(".console")
            .and_then(|id| id.parse().ok())
            .map(AppId);
        if let Some(app) = app {
            let source = Source {
                stream: Stream::App(app),
                name: format!("app {app}"),
                path: dir.join(GUESTS).join(&name),
            };
            found.insert(format!("{GUESTS}/{name}"), source);
        }
    }
    Ok(found)
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
