//! The reader's side: bytes by position.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    time::UNIX_EPOCH,
};

use crate::{MOST_PARTS, mark::Mark, part_path};

/// So often a reading is repeated because the file was cut meanwhile.
const TRIES: u32 = 4;

/// A log as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Tells the file from a former or later one of the same name: its inode,
    pub inode: u64,
    /// and when it was made, in nanoseconds since 1970; 0 where the file system does not say.
    pub born: u64,
    /// Position of the first byte of the file itself; older ones may be in parts.
    pub base: u64,
    /// Position behind the last byte.
    pub end: u64,
}

/// What a reading brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// There is no such log.
    Absent,
    /// It is being cut: again in a moment.
    Busy,
    /// Bytes from a position on; none at the end.
    Data {
        /// Position of the first of them. Later than what was asked for if that is gone.
        at: u64,
        /// At most as many as were asked for; fewer at the end of a part.
        bytes: Vec<u8>,
    },
}

/// The log as it is now; `None` if it is not there or is being cut.
pub fn extent(log: &Path) -> io::Result<Option<Extent>> {
    for _ in 0..TRIES {
        let Some(file) = open(log)? else {
            return Ok(None);
        };
        let before = Mark::of(&file)?;
        if before.cutting.is_some() {
            return Ok(None);
        }
        let metadata = file.metadata()?;
        if Mark::of(&file)? != before {
            continue;
        }
        let born = metadata
            .created()
            .ok()
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
            .and_then(|since| u64::try_from(since.as_nanos()).ok());
        return Ok(Some(Extent {
            inode: metadata.ino(),
            born: born.unwrap_or(0),
            base: before.base,
            end: before.base + metadata.len(),
        }));
    }
    Ok(None)
}

/// At most `max` bytes of the log and its parts from position `from` on.
pub fn read(log: &Path, from: u64, max: usize) -> io::Result<Read> {
    for _ in 0..TRIES {
        let Some(file) = open(log)? else {
            return Ok(Read::Absent);
        };
        let mark = Mark::of(&file)?;
        if mark.cutting.is_some() {
            return Ok(Read::Busy);
        }
        let found = if from < mark.base {
            match in_parts(log, from, max)? {
                Some(found) => found,
                None => (mark.base, bytes(&file, 0, max)?),
            }
        } else {
            (from, bytes(&file, from - mark.base, max)?)
        };
        if Mark::of(&file)? == mark {
            let (at, bytes) = found;
            return Ok(Read::Data { at, bytes });
        }
    }
    Ok(Read::Busy)
}

/// The first bytes at or after `from` that a part has.
fn in_parts(log: &Path, from: u64, max: usize) -> io::Result<Option<(u64, Vec<u8>)>> {
    let mut oldest = None;
    for number in 1..=MOST_PARTS {
        let Some(part) = open(&part_path(log, number))? else {
            break;
        };
        let base = Mark::of(&part)?.base;
        let end = base + part.metadata()?.len();
        if base <= from && from < end {
            return Ok(Some((from, bytes(&part, from - base, max)?)));
        }
        if end <= from {
            break;
        }
        oldest = Some((base, part));
    }
    let Some((base, part)) = oldest else {
        return Ok(None);
    };
    Ok(Some((base, bytes(&part, 0, max)?)))
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn bytes(file: &File, at: u64, max: usize) -> io::Result<Vec<u8>> {
    let there = file.metadata()?.len().saturating_sub(at);
    let mut buffer = vec![0; usize::try_from(there).unwrap_or(max).min(max)];
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}
