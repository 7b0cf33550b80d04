//! Files whose blocks are allocated in advance.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

use crate::MODE;

/// Room for a few small files on a disk that is full.
#[derive(Debug)]
pub struct Reserve {
    dir: PathBuf,
    name: String,
    count: u32,
    size: u64,
    /// Some may be missing.
    incomplete: bool,
}

impl Reserve {
    /// `count` files of `size` bytes in `dir`, named `<name>.reserve.<number>`. Nothing is made before
    /// [`fill`](Self::fill).
    pub fn new(dir: PathBuf, name: impl Into<String>, count: u32, size: u64) -> Self {
        Self {
            dir,
            name: name.into(),
            count,
            size,
            incomplete: true,
        }
    }

    /// Makes what is missing, as far as there is room. Costs nothing while nothing is missing.
    pub fn fill(&mut self) {
        if !self.incomplete {
            return;
        }
        let made = (0..self.count).try_for_each(|number| self.make(&self.path(number)));
        // It is tried again after the next file that was written.
        self.incomplete = made.is_err();
    }

    fn make(&self, path: &Path) -> io::Result<()> {
        if fs::metadata(path).is_ok_and(|is| is.len() == self.size) {
            return Ok(());
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(MODE)
            .open(path)?;
        let allocated = match fallocate(&file, FallocateFlags::empty(), 0, self.size) {
            // A file system that cannot allocate in advance keeps what is written.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                io::copy(&mut io::Read::take(io::repeat(0), self.size), &mut &file).map(drop)
            }
            other => other.map_err(io::Error::from),
        };
        allocated.inspect_err(|_| drop(fs::remove_file(path)))
    }

    /// Makes one of them the file `path`, durable, with this content.
    pub fn write(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        let file = self.take(path)?;
        (&file).write_all(content)?;
        file.set_len(content.len() as u64)?;
        file.sync_data()
    }

    /// Makes one of them the file `path`. What is written from its beginning up to its size needs no more room.
    fn take(&mut self, path: &Path) -> io::Result<File> {
        self.incomplete = true;
        let found = (0..self.count).find_map(|number| {
            let renamed = fs::rename(self.path(number), path);
            renamed.is_ok().then_some(())
        });
        if found.is_none() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        OpenOptions::new().write(true).open(path)
    }

    fn path(&self, number: u32) -> PathBuf {
        self.dir.join(format!("{}.reserve.{number}", self.name))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn blocks_are_there_before_they_are_needed() {
        let dir = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::new(dir.path().to_owned(), "x", 2, 16384);
        reserve.fill();
        let one = dir.path().join("x.reserve.1");
        assert!(fs::metadata(&one).unwrap().blocks() * 512 >= 16384);
        let target = dir.path().join("target");
        for content in ["first", "and second"] {
            reserve.write(&target, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&target).unwrap(), content);
        }
        let error = reserve.write(&target, b"third").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read_to_string(&target).unwrap(), "and second");
        reserve.fill();
        reserve.write(&target, b"third").unwrap();
        assert!(one.exists());
    }
}
