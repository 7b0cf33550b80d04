//! A round: lines become files, and sources are read exactly so far. Or files are removed, and how many lines that were is
//! remembered until it is said. Runs on a thread of its own; see [`State`] for why a crash does no harm.

use std::{cmp, collections::BTreeMap, fs::File, io, path::PathBuf, time::Duration};

use jiff::Timestamp;
use logfile::Read;
use model::id::AppId;

use crate::{
    Levels,
    entry::{Entry, Level, Time},
    gzip::{Header, Origin, Packed, Packer, unpack},
    limit::{Bucket, RATE},
    line,
    name::{FileName, Queue, Stream},
    state::{KernelPosition, Place, Position, Rename, State},
    world::{
        kmsg::Records,
        sources::Seen,
        store::{Store, StoreError},
    },
};

/// Bytes of lines of one stream that a round takes, all sources together; a bound on memory.
const ROUND: usize = 1024 * 1024;
/// A source gets at least so much of it.
const SHARE: usize = 32 * 1024;
/// Bytes read at once.
const CHUNK: usize = 128 * 1024;

/// What a round takes and how.
#[derive(Debug)]
pub struct Round {
    /// Whose lines.
    pub streams: Vec<Stream>,
    /// Their sources.
    pub sources: Vec<(String, Seen)>,
    /// The kernel's messages, if the device's lines are taken.
    pub kernel: Option<Records>,
    /// Least levels of lines that are kept.
    pub levels: Levels,
    /// Names of applications.
    pub names: BTreeMap<AppId, String>,
    /// For the headers of the device's files.
    pub origin: Origin,
    /// Wall clock.
    pub now: Timestamp,
    /// Uptime.
    pub uptime: Duration,
}

/// A file that a round made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Its name.
    pub name: FileName,
    /// Its size.
    pub bytes: u64,
    /// Lines in it.
    pub lines: u64,
    /// Bytes of them.
    pub content: u64,
}

/// What a round came to.
#[derive(Debug, Default)]
pub struct Harvest {
    /// Files made.
    pub files: Vec<Made>,
    /// Lines that were too many, by source.
    pub limited: BTreeMap<String, u64>,
    /// Bytes that were gone, by source.
    pub missed: BTreeMap<String, u64>,
    /// Bytes read, by source.
    pub read: BTreeMap<String, u64>,
    /// How far the kernel's messages were read, and how many were told to be missed.
    pub kernel: Option<(KernelPosition, u64)>,
}

/// Makes and removes files. The only one who writes the state.
#[derive(Debug)]
pub struct Collector {
    store: Store,
    logs: PathBuf,
    state: State,
    buckets: BTreeMap<String, Bucket>,
}

/// The tag that says how many lines are missing.
const LINES_LOST: &str = "linesLost";

/// Entries with the times that they are ordered by.
type Dated = Vec<(Time, Entry)>;

impl Collector {
    /// Opens the store of lines that are printed below `logs`.
    pub fn open(store: Store, logs: PathBuf) -> Result<Self, StoreError> {
        Ok(Self {
            state: store.open()?,
            store,
            logs,
            buckets: BTreeMap::new(),
        })
    }

    /// What is remembered.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The next state: what was decided before is done.
    fn next(&self) -> Result<State, StoreError> {
        self.store.redo(&self.state)?;
        let mut next = self.state.clone();
        next.renames.clear();
        next.removals.clear();
        Ok(next)
    }

    fn commit(&mut self, mut next: State) -> Result<(), StoreError> {
        self.store.save(&mut next)?;
        self.state = next;
        self.store.redo(&self.state)
    }

    /// Makes files of what waits in the round's streams.
    pub fn collect(&mut self, round: &Round) -> Result<Harvest, StoreError> {
        let mut next = self.next()?;
        let mut buckets = self.buckets.clone();
        let mut harvest = Harvest::default();
        for stream in &round.streams {
            let mut dated = notices(*stream, &mut next, round);
            let sources: Vec<_> = round
                .sources
                .iter()
                .filter(|(_, seen)| seen.source.stream == *stream)
                .collect();
            let active = sources.iter().filter(|(_, seen)| seen.unread() > 0).count();
            let share = (ROUND / active.max(1)).max(SHARE);
            for (key, seen) in sources {
                let bucket = buckets
                    .entry(key.clone())
                    .or_insert_with(|| Bucket::new(round.uptime));
                bucket.fill(round.uptime);
                let position = next.sources.entry(key.clone()).or_default();
                let mut taking = Taking {
                    seen,
                    round,
                    bucket,
                    dated: Vec::new(),
                    kept: 0,
                    limited: (0, 0),
                    missed: 0,
                };
                let from = position.offset_in(&seen.extent);
                let read = match taking.read(from, share) {
                    Ok(read) => read,
                    // The others must not wait for this one.
                    Err(error) => {
                        tracing::warn!(%error, log = %seen.source.path.display(), "not readable");
                        from
                    }
                };
                *position = Position {
                    inode: seen.extent.inode,
                    born: seen.extent.born,
                    offset: read,
                };
                taking.close(&mut harvest, read - from);
                dated.extend(taking.dated);
            }
            if let (Stream::Device, Some(records)) = (stream, &round.kernel) {
                dated.extend(kernel(records, round));
                next.kernel = records.position();
                harvest.kernel = Some((records.position(), records.missed));
            }
            // Stable: each source's lines stay in their order.
            dated.sort_by_key(|(at, _)| *at);
            self.pack(*stream, dated, round, &mut next, &mut harvest)?;
        }
        // Logs that are no more.
        next.sources
            .retain(|key, _| self.logs.join(key).symlink_metadata().is_ok());
        self.commit(next)?;
        self.buckets = buckets;
        Ok(harvest)
    }

    fn pack(
        &self,
        stream: Stream,
        dated: Dated,
        round: &Round,
        next: &mut State,
        harvest: &mut Harvest,
    ) -> Result<(), StoreError> {
        let header = match stream {
            Stream::Device => Header::Device(round.origin.clone()),
            Stream::App(app) => {
                let name = round.names.get(&app);
                Header::App(name.cloned().unwrap_or_else(|| app.to_string()))
            }
        };
        let seconds = u32::try_from(round.now.as_second()).unwrap_or(0);
        let mut packer = Packer::new(header, seconds);
        let packing = |source: io::Error| StoreError {
            what: "pack",
            path: PathBuf::from(stream.to_string()),
            source,
        };
        for (_, mut entry) in dated {
            next.last_msgid += 1;
            entry.msgid = next.last_msgid;
            if let Some(packed) = packer.push(&entry.json()).map_err(packing)? {
                self.stage(stream, &packed, round.now, next, harvest)?;
            }
        }
        if let Some(packed) = packer.finish().map_err(packing)? {
            self.stage(stream, &packed, round.now, next, harvest)?;
        }
        Ok(())
    }

    fn stage(
        &self,
        stream: Stream,
        packed: &Packed,
        now: Timestamp,
        next: &mut State,
        harvest: &mut Harvest,
    ) -> Result<(), StoreError> {
        let now = u64::try_from(now.as_millisecond()).unwrap_or(0);
        next.last_ms = cmp::max(now, next.last_ms + 1);
        let name = FileName {
            ms: next.last_ms,
            stream,
        };
        let temporary = self.store.stage(name, &packed.bytes)?;
        next.renames.push(Rename {
            temporary,
            to: place(Queue::of(stream), name),
        });
        harvest.files.push(Made {
            name,
            bytes: packed.bytes.len() as u64,
            lines: packed.lines,
            content: packed.content,
        });
        Ok(())
    }

    /// Removes files, and remembers how many lines were in those that the controller does not have. Gives their number.
    pub fn remove(&mut self, files: &[(Queue, FileName)]) -> Result<u64, StoreError> {
        let mut next = self.next()?;
        let mut lost = 0;
        for (queue, name) in files {
            let lines = match queue {
                Queue::Sent => None,
                // A file that is gone or damaged has no lines to miss.
                Queue::Device | Queue::App | Queue::Failed => {
                    let bytes = self.store.read(*queue, *name).ok();
                    let content = bytes.and_then(|bytes| unpack(&bytes).ok());
                    Some(content.map_or(0, |content| lines_lost_with(&content.text)))
                }
            };
            if let Some(lines) = lines {
                let stream = name.stream.to_string();
                next.losses.entry(stream).or_default().add(name.ms, lines);
                lost += lines;
            }
            next.removals.push(place(*queue, *name));
        }
        self.commit(next)?;
        Ok(lost)
    }
}

/// Lines that are lost with a file of this content: its own, and those whose loss it told of.
fn lines_lost_with(text: &str) -> u64 {
    let told = |line: &str| {
        if !line.contains(LINES_LOST) {
            return None;
        }
        let entry: Entry = serde_json::from_str(line).ok()?;
        let is_ours = entry.source == "newlogd";
        entry.tags.get(LINES_LOST).filter(|_| is_ours)?.parse().ok()
    };
    text.lines().map(|line| told(line).unwrap_or(1)).sum()
}

fn place(queue: Queue, name: FileName) -> Place {
    Place {
        dir: queue.dir().to_owned(),
        name: name.to_string(),
    }
}

/// An entry on behalf of lines that are missing.
fn notice(round: &Round, content: String, tags: &[(&str, String)]) -> (Time, Entry) {
    let at = Time::from(round.now);
    let tags = tags
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()));
    let entry = Entry {
        severity: Level::Warning.word().to_owned(),
        source: "newlogd".to_owned(),
        content,
        tags: tags.collect(),
        timestamp: at,
        ..Entry::default()
    };
    (at, entry)
}

/// What is to be said of files of the stream that were removed.
fn notices(stream: Stream, next: &mut State, round: &Round) -> Dated {
    let Some(loss) = next.losses.remove(&stream.to_string()) else {
        return Vec::new();
    };
    let at = |ms: u64| {
        let at = i64::try_from(ms).ok();
        let at = at.and_then(|ms| Timestamp::from_millisecond(ms).ok());
        at.unwrap_or_default().to_string()
    };
    let content = format!(
        "{} log files with {} lines were removed unsent because there was no more room: those made from {} to {}",
        loss.files,
        loss.lines,
        at(loss.first_ms),
        at(loss.last_ms)
    );
    let tags = [
        ("filesLost", loss.files.to_string()),
        (LINES_LOST, loss.lines.to_string()),
    ];
    vec![notice(round, content, &tags)]
}

fn kernel(records: &Records, round: &Round) -> Dated {
    let mut dated = Vec::new();
    if records.missed > 0 {
        let content = format!(
            "{} messages of the kernel were overwritten before they were read",
            records.missed
        );
        let tags = [
            ("source", "kernel".to_owned()),
            (LINES_LOST, records.missed.to_string()),
        ];
        let (now, notice) = notice(round, content, &tags);
        let first = records
            .waiting
            .first()
            .map_or(now, |(at, _)| Time::from(*at));
        dated.push((first, notice));
    }
    let entries = records.waiting.iter().filter_map(|(at, record)| {
        let (level, entry) = line::kernel(record, *at);
        (level >= round.levels.kernel).then_some((entry.timestamp, entry))
    });
    dated.extend(entries);
    dated
}

/// Reading of one source.
struct Taking<'a> {
    seen: &'a Seen,
    round: &'a Round,
    bucket: &'a mut Bucket,
    dated: Dated,
    /// Bytes of lines that were kept.
    kept: usize,
    /// Lines that were too many, and their bytes.
    limited: (u64, u64),
    missed: u64,
}

impl Taking<'_> {
    /// Reads from `from` on until the end that was seen, or until `share` bytes are kept. Gives the position of the first
    /// byte that was not taken.
    fn read(&mut self, from: u64, share: usize) -> io::Result<u64> {
        let end = self.seen.extent.end;
        let quiet = self.seen.is_quiet(self.round.uptime);
        let now = logfile::extent(&self.seen.source.path)?;
        if now.is_none_or(|now| !self.seen.is(&now)) {
            // It is being cut, or another one since: at the next look.
            return Ok(from);
        }
        if end > from {
            // What the state says was read must still be there after a power cut: a shorter log would be taken for
            // one that was not read.
            File::open(&self.seen.source.path)?.sync_data()?;
        }
        // Position of the first byte in `bytes`: what was read and not taken.
        let mut at = from;
        let mut bytes = Vec::new();
        while self.kept < share {
            let position = at + bytes.len() as u64;
            if position >= end {
                break;
            }
            let wanted = usize::try_from(end - position)
                .unwrap_or(CHUNK)
                .min(CHUNK.min(share));
            let (found, more) = match logfile::read(&self.seen.source.path, position, wanted)? {
                Read::Data { at, bytes } if !bytes.is_empty() => (at, bytes),
                // At the next round.
                Read::Data { .. } | Read::Busy | Read::Absent => break,
            };
            if found > position {
                // What came before the gap is all there will be of its line.
                self.take(at, &bytes, true);
                bytes.clear();
                self.missed += found - position;
                at = found;
            }
            bytes.extend(more);
            let all = quiet && at + bytes.len() as u64 >= end;
            let taken = self.take(at, &bytes, all);
            bytes.drain(..taken);
            at += taken as u64;
        }
        if quiet && at + bytes.len() as u64 >= end {
            at += self.take(at, &bytes, true) as u64;
        }
        Ok(at)
    }

    fn take(&mut self, at: u64, bytes: &[u8], all: bool) -> usize {
        let (pieces, taken) = line::pieces(bytes, all);
        for (offset, piece) in pieces {
            let size = piece.len() + 1;
            if !self.bucket.take(size) {
                self.limited.0 += 1;
                self.limited.1 += size as u64;
                continue;
            }
            self.kept += size;
            let seen = self.seen.at(at + offset as u64, self.round.now);
            let entry = match self.seen.source.stream {
                Stream::Device => line::unit(&self.seen.source.name, piece, seen)
                    .filter(|(level, _)| *level >= self.round.levels.unit(&self.seen.source.name))
                    .map(|(_, entry)| entry),
                Stream::App(app) => line::console(&app.to_string(), piece, seen),
            };
            if let Some(entry) = entry {
                // A clock that was set back does not change the order of a source's lines.
                let last = self.dated.last().map(|(at, _)| *at);
                let at = last.map_or(entry.timestamp, |last| last.max(entry.timestamp));
                self.dated.push((at, entry));
            }
        }
        taken
    }

    /// Says what is missing.
    fn close(&mut self, harvest: &mut Harvest, read: u64) {
        let name = &self.seen.source.name;
        let source = ("source", name.clone());
        *harvest.read.entry(name.clone()).or_default() += read;
        if self.missed > 0 {
            let content = format!(
                "{} bytes of {name} were overwritten before they were read",
                self.missed
            );
            let tags = [source.clone(), ("bytesLost", self.missed.to_string())];
            let (now, notice) = notice(self.round, content, &tags);
            let first = self.dated.first().map_or(now, |(at, _)| *at);
            self.dated.insert(0, (first, notice));
            *harvest.missed.entry(name.clone()).or_default() += self.missed;
        }
        let (lines, bytes) = self.limited;
        if lines > 0 {
            let content = format!(
                "{name} prints more than {RATE} bytes per second: {lines} lines of {bytes} bytes were not kept"
            );
            let tags = [
                source,
                (LINES_LOST, lines.to_string()),
                ("bytesLost", bytes.to_string()),
            ];
            self.dated.push(notice(self.round, content, &tags));
            *harvest.limited.entry(name.clone()).or_default() += lines;
        }
    }
}
