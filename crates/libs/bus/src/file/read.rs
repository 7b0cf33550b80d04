//! The readers' side: rows, marks and counts, without ever changing anything.

use std::{
    collections::HashSet,
    io,
    mem::MaybeUninit,
    ops::Range,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat, fstat, openat, statat},
    io::Errno,
};

use crate::{
    BusError,
    error::Doing,
    file::layout::{GENERATION, KEYS, LAST, Layout, QUARANTINE, READY, row},
    key::{Unescaped, belongs, unescape},
    store::{Known, Names, Raw, ReadyMark, Sink, Stamp, Summary},
    topic::Place,
};

/// Larger files are not objects of ours; reading them would only fill the memory.
const LARGEST: u64 = 64 << 20;
/// File systems stamp times in steps of up to 10 ms. A version older than this differs from any later one in its times.
const SETTLED_NS: i64 = 50_000_000;

/// From so many rows on it pays to start a thread that reads and parses a part of them.
const LARGE: usize = 500;

/// Hands every row that isn't `known` to one of `sinks`; returns the names of all rows.
pub(super) fn scan(
    dir: &Path,
    known: &dyn Known,
    sinks: &mut [&mut Sink<'_>],
) -> Result<Names, BusError> {
    let mut names = Names::default();
    let Some(open) = open_dir(dir)? else {
        return Ok(names);
    };
    list_rows(&open, dir, &mut |name| {
        names.push(name);
        Ok(())
    })?;
    let rows = Scan {
        dir,
        open: &open,
        names: &names,
        known,
        // Earlier than the looks at the files: that makes fewer versions count as settled, never more.
        now: now(),
    };
    let gone = rows.read(sinks)?;
    if !gone.is_empty() {
        names = names.iter().filter(|name| !gone.contains(*name)).collect();
    }
    Ok(names)
}

/// The rows of one directory that are to be read.
#[derive(Clone, Copy)]
struct Scan<'a> {
    dir: &'a Path,
    open: &'a OwnedFd,
    names: &'a Names,
    known: &'a dyn Known,
    now: i64,
}

impl<'a> Scan<'a> {
    /// Hands those that aren't known to the sinks, in as many threads as there are sinks if it is worth it; returns the
    /// names of those that are gone.
    fn read(self, sinks: &mut [&mut Sink<'_>]) -> Result<HashSet<&'a str>, BusError> {
        let parts = if self.names.len() < LARGE {
            1
        } else {
            sinks.len()
        };
        let size = self.names.len().div_ceil(parts.max(1));
        let Some((own, others)) = sinks.split_first_mut() else {
            return Ok(HashSet::new());
        };
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for (part, sink) in (1..parts).zip(others) {
                let read = move || self.read_part(part * size..(part + 1) * size, *sink);
                let thread = thread::Builder::new().name("bus-read".into());
                let thread = thread.spawn_scoped(scope, read);
                threads.push(thread.doing("start a thread to read", self.dir)?);
            }
            let mut gone = self.read_part(0..size, *own)?;
            for thread in threads {
                match thread.join() {
                    Ok(also) => gone.extend(also?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok(gone)
        })
    }

    fn read_part(
        self,
        part: Range<usize>,
        sink: &mut Sink<'_>,
    ) -> Result<HashSet<&'a str>, BusError> {
        let mut gone = HashSet::new();
        let (mut buffer, mut file) = (Vec::new(), String::new());
        // A table is in the order of its keys: sorting names here, in each thread, is cheaper than sorting rows later.
        let mut names: Vec<_> = self.names.range(part).collect();
        names.sort_unstable();
        for name in names {
            file.clear();
            file.push_str(name);
            file.push_str(".json");
            let is_known = self.known.stamp(name).is_some_and(|stamp| {
                statat(self.open, &*file, AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|found| stamp.still(&stamp_of(&found, self.now)))
            });
            if is_known {
                continue;
            }
            let read = open_at(self.open, &*file)
                .and_then(|file| read_all(&file, LARGEST, self.now, &mut buffer));
            match raw(self.dir, name, read)? {
                Some(raw) => sink(raw),
                None => drop(gone.insert(name)),
            }
        }
        Ok(gone)
    }
}

/// One row; `None` if it isn't there.
pub(super) fn fetch<'a>(
    dir: &Path,
    name: &'a str,
    buffer: &'a mut Vec<u8>,
) -> Result<Option<Raw<'a>>, BusError> {
    let file = open(&row(dir, name));
    raw(
        dir,
        name,
        file.and_then(|file| read_all(&file, LARGEST, now(), buffer)),
    )
}

/// Makes a row of what was read of it; `None` if it isn't there.
fn raw<'a>(
    dir: &Path,
    name: &'a str,
    read: io::Result<(Stamp, &'a [u8])>,
) -> Result<Option<Raw<'a>>, BusError> {
    let (stamp, bytes) = match read {
        Ok((stamp, bytes)) => (stamp, Ok(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if will_pass(&error) => return Err(error).doing("read", row(dir, name)),
        Err(error) => (
            Stamp {
                id: 0,
                size: 0,
                mtime: 0,
                ctime: 0,
                settled: false,
            },
            Err(error.to_string()),
        ),
    };
    Ok(Some(Raw {
        name,
        key: key_of(dir, name)?,
        stamp,
        bytes,
    }))
}

/// The previous version of a row, if one was kept.
pub(super) fn last_good(dir: &Path, name: &str) -> Result<Option<Vec<u8>>, BusError> {
    read_if_there(&row(&dir.join(LAST), name))
}

/// The `ready` mark. Looking is one system call when it is still the one that was `seen`.
pub(super) fn ready(dir: &Path, seen: Option<&ReadyMark>) -> Result<Option<ReadyMark>, BusError> {
    let path = dir.join(READY);
    if let Some(seen) = seen {
        match statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from) {
            Ok(found) if seen.stamp.still(&stamp_of(&found, now())) => return Ok(Some(*seen)),
            Ok(_) => {}
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error).doing("look at", path),
        }
    }
    let mut text = Vec::new();
    match open(&path).and_then(|file| read_all(&file, LARGEST, now(), &mut text)) {
        Ok((stamp, text)) => Ok(Some(ReadyMark {
            generation: generation_in(text),
            stamp,
        })),
        Err(error) if is_absent(&error) || is_damage(&error) => Ok(None),
        Err(error) => Err(error).doing("read", path),
    }
}

/// Whether there is something that never was a file of ours: no reason to have no bus.
fn is_damage(error: &io::Error) -> bool {
    error.raw_os_error().is_none()
}

/// The highest generation that the topic has had.
pub(super) fn generation(dir: &Path) -> Result<Option<u64>, BusError> {
    let mark = ready(dir, None)?.map(|mark| mark.generation);
    let kept = match read_if_there(&dir.join(GENERATION)) {
        Ok(text) => text.map(|text| generation_in(&text)),
        Err(BusError::Io { source, .. }) if is_damage(&source) => None,
        Err(error) => return Err(error),
    };
    Ok(mark.max(kept))
}

/// Every directory that a publisher has made.
pub(super) fn places(layout: &Layout) -> Result<Vec<Place>, BusError> {
    let mut places = Vec::new();
    for persistent in [false, true] {
        for service in dirs_in(&layout.base(persistent))? {
            // Beside the services' directories there are others in /run, some of which are nobody else's business.
            let Ok(topics) = dirs_in(&layout.base(persistent).join(&service)) else {
                continue;
            };
            for topic in topics {
                let Ok(place) = Place::new(&service, &topic, persistent) else {
                    continue;
                };
                let dir = layout.topic(&place);
                if dir.join(GENERATION).exists() || dir.join(READY).exists() {
                    places.push(place);
                }
            }
        }
    }
    places.sort();
    Ok(places)
}

/// Counts of one topic.
pub(super) fn summary(dir: &Path) -> Result<Summary, BusError> {
    let mut counts = [0, 0];
    for (count, dir) in counts.iter_mut().zip([dir, &dir.join(QUARANTINE)]) {
        for_each_row(dir, &mut |_| {
            *count += 1;
            Ok(())
        })?;
    }
    let [rows, quarantined] = counts;
    let ready = ready(dir, None)?.is_some();
    Ok(Summary {
        ready,
        generation: generation(dir)?.unwrap_or(0),
        rows,
        quarantined,
    })
}

/// Calls `each` with the name of every row in `dir`. A directory that doesn't exist is empty.
pub(super) fn for_each_row(
    dir: &Path,
    each: &mut dyn FnMut(&str) -> Result<(), BusError>,
) -> Result<(), BusError> {
    match open_dir(dir)? {
        Some(open) => list_rows(&open, dir, each),
        None => Ok(()),
    }
}

fn list_rows(
    open: &OwnedFd,
    dir: &Path,
    each: &mut dyn FnMut(&str) -> Result<(), BusError>,
) -> Result<(), BusError> {
    const BUFFER: usize = 32 << 10;
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
    let mut entries = RawDir::new(open, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(io::Error::from).doing("list", dir)?;
        let Some(name) = row_name(entry.file_name().to_str().ok()) else {
            continue;
        };
        let kind = match entry.file_type() {
            // Not every file system says.
            FileType::Unknown => statat(open, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                .map_or(FileType::Unknown, |found| kind_of(&found)),
            kind => kind,
        };
        if kind.is_file() {
            each(name)?;
        }
    }
    Ok(())
}

/// The row that a file of this name holds, if it can hold one.
pub(super) fn row_name(file: Option<&str>) -> Option<&str> {
    let name = file?.strip_suffix(".json")?;
    (!name.is_empty() && !name.starts_with('.')).then_some(name)
}

/// Whether there is nothing at the path.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn key_of(dir: &Path, name: &str) -> Result<Result<String, String>, BusError> {
    Ok(match unescape(name) {
        Unescaped::Key(key) => Ok(key),
        Unescaped::Foreign => Err("no key has this file name".to_owned()),
        Unescaped::Kept => {
            match read_if_there(&dir.join(KEYS).join(name))?.map(String::from_utf8) {
                Some(Ok(key)) if belongs(name, &key) => Ok(key),
                Some(_) => Err("the file that holds its key is damaged".to_owned()),
                None => Err("the file that holds its key is missing".to_owned()),
            }
        }
    })
}

fn dirs_in(dir: &Path) -> Result<Vec<String>, BusError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error).doing("list", dir),
    };
    let mut dirs = Vec::new();
    for entry in entries {
        let entry = entry.doing("list", dir)?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Ok(name) = entry.file_name().into_string()
        {
            dirs.push(name);
        }
    }
    Ok(dirs)
}

/// A directory to read from, `None` if there is none.
fn open_dir(dir: &Path) -> Result<Option<OwnedFd>, BusError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat(CWD, dir, flags, Mode::empty()).map_err(io::Error::from) {
        Ok(open) => Ok(Some(open)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error).doing("list", dir),
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    open_at(CWD, path)
}

/// Opens a file, but nothing that would block or lead elsewhere.
fn open_at(dir: impl AsFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(openat(dir, path, flags, Mode::empty())?)
}

/// Content and version of an open file. The content is in `buffer`, which grows as needed and keeps its size.
fn read_all<'a>(
    file: &OwnedFd,
    largest: u64,
    now: i64,
    buffer: &'a mut Vec<u8>,
) -> io::Result<(Stamp, &'a [u8])> {
    let found = fstat(file)?;
    if !kind_of(&found).is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let stamp = stamp_of(&found, now);
    if stamp.size > largest {
        return Err(io::Error::other(format!(
            "{} bytes are more than any object has ({largest})",
            stamp.size
        )));
    }
    // A published file never changes, so its size is how much there is to read: no second look for the end.
    let size = usize::try_from(stamp.size).map_err(io::Error::other)?;
    if buffer.len() < size {
        buffer.resize(size, 0);
    }
    let mut filled = 0;
    while filled < size {
        match rustix::io::read(file, &mut buffer[filled..size]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok((stamp, &buffer[..filled]))
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, BusError> {
    let mut bytes = Vec::new();
    match open(path).and_then(|file| Ok(read_all(&file, LARGEST, now(), &mut bytes)?.1.len())) {
        Ok(filled) => {
            bytes.truncate(filled);
            Ok(Some(bytes))
        }
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error).doing("read", path),
    }
}

/// The number in a generation's file. One from which nobody can count on is damage, and as good as none.
fn generation_in(text: &[u8]) -> u64 {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .filter(|generation| *generation < u64::MAX / 2)
        .unwrap_or(0)
}

fn kind_of(found: &Stat) -> FileType {
    FileType::from_raw_mode(found.st_mode)
}

/// Nanoseconds on the clock that files are stamped with.
fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| i64::try_from(age.as_nanos()).unwrap_or(0))
}

fn stamp_of(found: &Stat, now: i64) -> Stamp {
    let ns = |seconds: i64, rest: u64| {
        let rest = i64::try_from(rest).unwrap_or(0);
        seconds.saturating_mul(1_000_000_000).saturating_add(rest)
    };
    let mtime = ns(found.st_mtime, found.st_mtime_nsec);
    let ctime = ns(found.st_ctime, found.st_ctime_nsec);
    Stamp {
        id: found.st_ino,
        size: u64::try_from(found.st_size).unwrap_or(0),
        mtime,
        ctime,
        settled: now.saturating_sub(mtime.max(ctime)) > SETTLED_NS,
    }
}

/// Whether the same call may succeed later, when others have given descriptors or memory back.
fn will_pass(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EIO)
    )
}
