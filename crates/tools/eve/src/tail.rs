//! Reads what is appended to a log, through the supervisor's rotation: the head of the file, which stays open, is
//! copied to `<file>.1` and cut off, so the rest moves towards the beginning.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// At most so much is read at once.
const CHUNK: u64 = 16 << 20;

/// The file of an older part of a log.
pub fn part_path(log: &Path, part: u32) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{part}"));
    name.into()
}

/// Inode and size of the newest rotated part.
type Part = Option<(u64, u64)>;

/// A log that is being read.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    /// Bytes of the log that were read.
    offset: u64,
    /// The newest part when the log was last read.
    part: Part,
    /// A newer part that may still be growing.
    growing: Part,
    /// The beginning of a line whose end is not there yet.
    rest: Vec<u8>,
}

impl Tail {
    /// From the beginning of the log, which needs not exist yet.
    pub fn new(path: &Path) -> io::Result<Self> {
        let part = newest_part(path)?;
        Ok(Self {
            path: path.to_owned(),
            offset: 0,
            part,
            growing: part,
            rest: Vec::new(),
        })
    }

    /// The log.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The lines that were completed since the last time.
    pub fn read(&mut self) -> io::Result<Vec<String>> {
        let mut new = Vec::new();
        let part = newest_part(&self.path)?;
        if part != self.part {
            // The copy comes before the cut: wait until both are done.
            if self.growing != part {
                self.growing = part;
                return Ok(Vec::new());
            }
            let cut = part.map_or(0, |(_, size)| size);
            if self.offset < cut {
                read_from(&part_path(&self.path, 1), self.offset, &mut new)?;
            }
            self.offset = self.offset.saturating_sub(cut);
            self.part = part;
        }
        let size = size(&self.path)?;
        if size < self.offset {
            // Cut off by somebody else.
            self.offset = 0;
        }
        self.offset += read_from(&self.path, self.offset, &mut new)?;
        Ok(self.lines(&new))
    }

    fn lines(&mut self, new: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(new);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let complete: Vec<u8> = self.rest.drain(..=end).collect();
        let text = String::from_utf8_lossy(&complete);
        text.lines().map(str::to_owned).collect()
    }
}

fn newest_part(log: &Path) -> io::Result<Part> {
    match fs::metadata(part_path(log, 1)) {
        Ok(found) => Ok(Some((found.ino(), found.size()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn size(path: &Path) -> io::Result<u64> {
    match fs::metadata(path) {
        Ok(found) => Ok(found.size()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Appends what a file holds from `offset` on; returns how much that was.
fn read_from(path: &Path, offset: u64, into: &mut Vec<u8>) -> io::Result<u64> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    file.seek(SeekFrom::Start(offset))?;
    let count = file.take(CHUNK).read_to_end(into)?;
    Ok(u64::try_from(count).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs::OpenOptions, io::Write};

    use super::*;

    fn append(path: &Path, text: &str) {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// What the supervisor does: copy the head, cut it off.
    fn rotate(path: &Path, head: usize) {
        let text = fs::read(path).unwrap();
        let part = part_path(path, 1);
        let _ = fs::rename(&part, part_path(path, 2));
        fs::write(&part, &text[..head]).unwrap();
        fs::write(path, &text[head..]).unwrap();
    }

    #[test]
    fn every_line_is_read_once_through_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("nim.log");
        let mut tail = Tail::new(&log).unwrap();
        assert!(tail.read().unwrap().is_empty());
        append(&log, "one\ntwo\nthr");
        assert_eq!(tail.read().unwrap(), ["one", "two"]);
        append(&log, "ee\nfour\n");
        // Part of what is cut off was not read yet.
        rotate(&log, 14);
        let mut read = tail.read().unwrap();
        read.extend(tail.read().unwrap());
        assert_eq!(read, ["three", "four"]);
        append(&log, "five\n");
        assert_eq!(tail.read().unwrap(), ["five"]);
        // All that is cut off was read.
        rotate(&log, 5);
        append(&log, "six\n");
        let mut read = tail.read().unwrap();
        read.extend(tail.read().unwrap());
        assert_eq!(read, ["six"]);
    }
}
