//! The readers' side: rows, marks and counts, without ever changing anything.

use std::{
    collections::HashSet,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
    sync::mpsc,
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    BusError,
    error::Doing,
    file::layout::{GENERATION, KEYS, LAST, Layout, QUARANTINE, READY, row},
    key::{Unescaped, belongs, unescape},
    store::{Known, Raw, ReadyMark, Stamp, Summary},
    topic::Place,
};

/// Larger files are not objects of ours; reading them would only fill the memory.
const LARGEST: u64 = 64 << 20;
/// File systems stamp times in steps of up to 10 ms. A version older than this differs from any later one in its times.
const SETTLED_NS: i64 = 50_000_000;

/// Tables that are larger are read and parsed by two threads.
const LARGE: usize = 500;

/// Hands every row that isn't `known` to `sink`; returns the names of all rows.
pub(super) fn scan(
    dir: &Path,
    known: &dyn Known,
    sink: &mut dyn FnMut(Raw),
) -> Result<Vec<String>, BusError> {
    let mut names = Vec::new();
    for_each_row(dir, &mut |name| {
        names.push(name);
        Ok(())
    })?;
    let gone = if names.len() < LARGE {
        read_rows(dir, &names, known, sink)?
    } else {
        read_rows_beside(dir, &names, known, sink)?
    };
    if !gone.is_empty() {
        names.retain(|name| !gone.contains(name));
    }
    Ok(names)
}

/// Hands those of the rows that aren't `known` to `sink`; returns the names of those that are gone.
fn read_rows(
    dir: &Path,
    names: &[String],
    known: &dyn Known,
    sink: &mut dyn FnMut(Raw),
) -> Result<HashSet<String>, BusError> {
    let mut gone = HashSet::new();
    for name in names {
        let is_known = known.stamp(name).is_some_and(|stamp| {
            fs::symlink_metadata(row(dir, name)).is_ok_and(|found| stamp.still(&stamp_of(&found)))
        });
        if is_known {
            continue;
        }
        match fetch(dir, name)? {
            Some(raw) => sink(raw),
            None => drop(gone.insert(name.clone())),
        }
    }
    Ok(gone)
}

/// The same, with the files read on a thread of its own while `sink` parses what came before.
fn read_rows_beside(
    dir: &Path,
    names: &[String],
    known: &dyn Known,
    sink: &mut dyn FnMut(Raw),
) -> Result<HashSet<String>, BusError> {
    const BATCH: usize = 64;
    let (batches, arriving) = mpsc::sync_channel::<Vec<Raw>>(8);
    let read = move || {
        let mut batch = Vec::with_capacity(BATCH);
        let gone = read_rows(dir, names, known, &mut |raw| {
            batch.push(raw);
            if batch.len() == BATCH {
                // An error means that the other side is gone, and that shows there.
                let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
                drop(batches.send(full));
            }
        });
        drop(batches.send(batch));
        gone
    };
    thread::scope(|scope| {
        let reader = thread::Builder::new()
            .name("bus-read".into())
            .spawn_scoped(scope, read);
        let reader = reader.doing("start a thread to read", dir)?;
        arriving.into_iter().flatten().for_each(sink);
        match reader.join() {
            Ok(gone) => gone,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Changes when a file in the directory comes, goes or is replaced.
pub(super) fn version(dir: &Path) -> Result<Option<Stamp>, BusError> {
    match fs::symlink_metadata(dir) {
        Ok(found) => Ok(Some(stamp_of(&found))),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error).doing("look at", dir),
    }
}

/// One row; `None` if it isn't there.
pub(super) fn fetch(dir: &Path, name: &str) -> Result<Option<Raw>, BusError> {
    let path = row(dir, name);
    let (stamp, bytes) = match open(&path).and_then(|file| read_all(file, LARGEST)) {
        Ok((stamp, bytes)) => (stamp, Ok(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if will_pass(&error) => return Err(error).doing("read", path),
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
        name: name.to_owned(),
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
        match fs::symlink_metadata(&path) {
            Ok(found) if seen.stamp.still(&stamp_of(&found)) => return Ok(Some(*seen)),
            Ok(_) => {}
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error).doing("look at", path),
        }
    }
    match open(&path).and_then(|file| read_all(file, 64)) {
        Ok((stamp, text)) => Ok(Some(ReadyMark {
            generation: generation_in(&text),
            stamp,
        })),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error).doing("read", path),
    }
}

/// The highest generation that the topic has had.
pub(super) fn generation(dir: &Path) -> Result<Option<u64>, BusError> {
    let mark = ready(dir, None)?.map(|mark| mark.generation);
    let kept = read_if_there(&dir.join(GENERATION))?.map(|text| generation_in(&text));
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

/// Calls `each` with the name of every row's file in `dir`. A directory that doesn't exist is empty.
pub(super) fn for_each_row(
    dir: &Path,
    each: &mut dyn FnMut(String) -> Result<(), BusError>,
) -> Result<(), BusError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(()),
        Err(error) => return Err(error).doing("list", dir),
    };
    for entry in entries {
        let entry = entry.doing("list", dir)?;
        let Some(name) = row_name(entry.file_name().to_str()) else {
            continue;
        };
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            each(name)?;
        }
    }
    Ok(())
}

/// The row that a file of this name holds, if it can hold one.
pub(super) fn row_name(file: Option<&str>) -> Option<String> {
    let name = file?.strip_suffix(".json")?;
    (!name.is_empty() && !name.starts_with('.')).then(|| name.to_owned())
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
    let entries = match fs::read_dir(dir) {
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

/// Opens a file, but nothing that would block or lead elsewhere.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// Content and version of an open file.
fn read_all(mut file: File, largest: u64) -> io::Result<(Stamp, Vec<u8>)> {
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if found.len() > largest {
        return Err(io::Error::other(format!(
            "{} bytes are more than any object has ({largest})",
            found.len()
        )));
    }
    let stamp = stamp_of(&found);
    // A published file never changes, so its size is how much there is to read: no second look for the end.
    let mut bytes = vec![0; usize::try_from(found.len()).map_err(io::Error::other)?];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok((stamp, bytes))
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, BusError> {
    match open(path).and_then(|file| read_all(file, LARGEST)) {
        Ok((_, bytes)) => Ok(Some(bytes)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error).doing("read", path),
    }
}

fn generation_in(text: &[u8]) -> u64 {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

fn stamp_of(found: &Metadata) -> Stamp {
    let ns = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
    let mtime = ns(found.mtime(), found.mtime_nsec());
    let ctime = ns(found.ctime(), found.ctime_nsec());
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |age| i64::try_from(age.as_nanos()).unwrap_or(0));
    Stamp {
        id: found.ino(),
        size: found.len(),
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
