//! What was done to a disk, and what a power cut makes of it.
//!
//! A disk keeps what was written before its last flush. Of what came later it may have done any part in any order, each
//! block as a whole: [`Cut`] chooses which.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufReader, Read, Write},
    os::unix::fs::FileExt,
    path::Path,
};

use rand::{Rng, rngs::SmallRng};

/// What a disk writes as a whole.
const BLOCK: usize = 4096;

/// Something done to the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// Bytes were written.
    Write {
        /// Where.
        offset: u64,
        /// Which.
        data: Vec<u8>,
    },
    /// Everything before it was made durable.
    Flush,
}

impl Entry {
    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Write { offset, data } => {
                to.write_all(&[1])?;
                to.write_all(&offset.to_le_bytes())?;
                to.write_all(&(data.len() as u64).to_le_bytes())?;
                to.write_all(data)
            }
            Self::Flush => to.write_all(&[0]),
        }
    }

    fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut kind = [0];
        from.read_exact(&mut kind)?;
        if kind == [0] {
            return Ok(Self::Flush);
        }
        let mut number = [0; 8];
        from.read_exact(&mut number)?;
        let offset = u64::from_le_bytes(number);
        from.read_exact(&mut number)?;
        let length = usize::try_from(u64::from_le_bytes(number)).map_err(io::Error::other)?;
        let mut data = vec![0; length];
        from.read_exact(&mut data)?;
        Ok(Self::Write { offset, data })
    }
}

/// Everything that was done to a disk.
#[derive(Debug, Default)]
pub struct Record(Vec<Entry>);

impl Record {
    /// The first `count` entries of a disk's log.
    pub fn read(log: &Path, count: u64) -> io::Result<Self> {
        let mut file = BufReader::new(File::open(log)?);
        let entries: io::Result<Vec<_>> = (0..count).map(|_| Entry::read(&mut file)).collect();
        entries.map(Self)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was done.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Positions right after a flush.
    pub fn flushes(&self) -> Vec<usize> {
        let flushes = self.0.iter().enumerate();
        flushes
            .filter(|(_, entry)| **entry == Entry::Flush)
            .map(|(at, _)| at + 1)
            .collect()
    }
}

/// When the power goes, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cut {
    /// So many entries have been done.
    pub at: usize,
    /// What of those after the last flush.
    pub tail: Tail,
}

/// What becomes of what was not flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tail {
    /// All of it is there.
    Whole,
    /// Nothing is.
    Lost,
    /// Each block of it is there or not, by chance.
    Torn,
}

/// The content of the disk as cuts go on through a record.
#[derive(Debug)]
pub struct Replay<'a> {
    record: &'a Record,
    content: Vec<u8>,
    touched: BTreeSet<usize>,
    /// Entries before this are in the content.
    durable: usize,
}

impl<'a> Replay<'a> {
    /// From a disk full of zeros.
    pub fn new(record: &'a Record, size: usize) -> Self {
        Self {
            record,
            content: vec![0; size],
            touched: BTreeSet::new(),
            durable: 0,
        }
    }

    /// Writes the disk as it is after the power was cut. Cuts come in the order of their positions.
    pub fn image(&mut self, cut: Cut, rng: &mut SmallRng, path: &Path) -> io::Result<()> {
        let before = &self.record.0[..cut.at];
        let flushed = before
            .iter()
            .rposition(|entry| *entry == Entry::Flush)
            .map_or(0, |at| at + 1);
        for entry in &before[self.durable.min(flushed)..flushed] {
            if let Entry::Write { offset, data } = entry {
                let begin = place(*offset);
                self.content[begin..begin + data.len()].copy_from_slice(data);
                self.touched
                    .extend(begin / BLOCK..=(begin + data.len() - 1) / BLOCK);
            }
        }
        self.durable = self.durable.max(flushed);
        let file = File::create(path)?;
        file.set_len(self.content.len() as u64)?;
        for block in &self.touched {
            let begin = block * BLOCK;
            let end = self.content.len().min(begin + BLOCK);
            file.write_all_at(&self.content[begin..end], begin as u64)?;
        }
        for entry in &before[self.durable..] {
            let Entry::Write { offset, data } = entry else {
                continue;
            };
            // Up to the next boundary of a block each.
            let (mut at, mut rest) = (*offset, data.as_slice());
            while !rest.is_empty() {
                let step = (BLOCK - place(at) % BLOCK).min(rest.len());
                let (block, after) = rest.split_at(step);
                let there = match cut.tail {
                    Tail::Whole => true,
                    Tail::Lost => false,
                    Tail::Torn => rng.random(),
                };
                if there {
                    file.write_all_at(block, at)?;
                }
                at += step as u64;
                rest = after;
            }
        }
        Ok(())
    }
}

pub(super) fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn write(offset: u64, byte: u8) -> Entry {
        Entry::Write {
            offset,
            data: vec![byte; BLOCK],
        }
    }

    #[test]
    fn what_was_flushed_is_there_and_the_rest_may_be() {
        let record = Record(vec![
            write(0, 1),
            Entry::Flush,
            write(0, 2),
            write(4096, 3),
            Entry::Flush,
            write(4096, 4),
        ]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut replay = Replay::new(&record, 2 * BLOCK);
        let mut rng = SmallRng::seed_from_u64(1);
        let mut look = |at, tail| {
            replay.image(Cut { at, tail }, &mut rng, &path).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            (bytes[0], bytes[BLOCK])
        };
        assert_eq!(look(1, Tail::Lost), (0, 0));
        assert_eq!(look(1, Tail::Whole), (1, 0));
        assert_eq!(look(4, Tail::Lost), (1, 0));
        assert_eq!(look(4, Tail::Whole), (2, 3));
        let torn: BTreeSet<_> = (0..64).map(|_| look(4, Tail::Torn)).collect();
        assert_eq!(torn, [(1, 0), (1, 3), (2, 0), (2, 3)].into());
        assert_eq!(look(5, Tail::Lost), (2, 3));
        assert_eq!(look(6, Tail::Lost), (2, 3));
        assert_eq!(look(6, Tail::Whole), (2, 4));
    }

    #[test]
    fn a_log_is_read_as_it_was_written() {
        let entries = vec![write(7, 1), Entry::Flush, write(0, 0)];
        let file = tempfile::NamedTempFile::new().unwrap();
        for entry in &entries {
            entry.write(&mut file.as_file()).unwrap();
        }
        assert_eq!(Record::read(file.path(), 3).unwrap().0, entries);
        assert!(Record::read(file.path(), 4).is_err());
    }
}
