//! Files that survive a power cut at any instruction, and can be written on a full disk.
//!
//! [`write`] replaces a file as a whole: after a power cut it is the old one or the new one. That needs room for both for a
//! moment, which a full disk does not have; so those whose words must be kept all the same (which command was carried out,
//! why the device reboots, what it was told to run) hold a [`Reserve`]: a few files whose blocks are allocated while there is
//! room. On a full disk one of them becomes the new file. The old version makes room for another reserve then, if nobody
//! else is faster; that is why there is more than one.
//!
//! On restart [`Reserve::fill`] makes what is missing.
#![forbid(unsafe_code)]

mod reserve;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

pub use reserve::Reserve;

const MODE: u32 = 0o640;

/// Writes a file beside `path` (with the extension `tmp`), makes it durable, puts it in place and makes that durable too.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    replace(path, content, None)
}

/// The same, with a reserve in the same file system for the case that the disk is full.
pub fn write_from(path: &Path, content: &[u8], reserve: &mut Reserve) -> io::Result<()> {
    replace(path, content, Some(reserve))
}

/// Whether there is no more room, for everybody or for this user.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn replace(path: &Path, content: &[u8], mut reserve: Option<&mut Reserve>) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let temporary = path.with_extension("tmp");
    let staged = match (stage(&temporary, content), reserve.as_deref_mut()) {
        (Err(error), Some(reserve)) if is_full(&error) => reserve.write(&temporary, content),
        (staged, _) => staged,
    };
    let placed = staged.and_then(|()| fs::rename(&temporary, path));
    if placed.is_err() {
        // Half a file is of no use to anybody, and may be in the way of what makes room.
        drop(fs::remove_file(&temporary));
    }
    placed?;
    sync_dir(dir)?;
    if let Some(reserve) = reserve {
        reserve.fill();
    }
    Ok(())
}

fn stage(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(MODE)
        .open(path)?;
    file.write_all(content)?;
    file.sync_data()
}

/// Makes the entries of a directory durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/config");
        for content in ["one", "", "three"] {
            write(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1);
    }

    #[test]
    fn what_cannot_be_put_in_place_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        fs::create_dir_all(path.join("in the way")).unwrap();
        write(&path, b"x").unwrap_err();
        assert!(!path.with_extension("tmp").exists());
    }
}
