//! The writer's side: cutting a file that stays open.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, fchown},
    path::Path,
};

use rustix::fs::{FallocateFlags, fallocate};

use crate::{mark::Mark, part_path};

/// Ranges that are cut off are multiples of this (the largest block size in use).
const BLOCK: u64 = 64 * 1024;

/// Cuts `log` when it has more than `max` bytes, keeping `parts` older parts (at least one). Also completes a cut that a
/// crash left half done. A log that is not there is in order. Cheap when there is nothing to do, so it can be called every
/// second. Only one process may do this for a log.
pub fn bound(log: &Path, max: u64, parts: u32) -> io::Result<()> {
    let present = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Ok(None),
        _ => Err(error),
    };
    let found = fs::metadata(log)
        .and_then(|metadata| Ok(Some((metadata.len(), Mark::of_path(log)?))))
        .or_else(present)?;
    let Some((length, mark)) = found else {
        return Ok(());
    };
    if length <= max && mark.cutting.is_none() {
        return Ok(());
    }
    let file = OpenOptions::new().read(true).write(true).open(log)?;
    let base = match mark.cutting {
        Some(head) => settle(&file, log, mark.base, head)?,
        None => mark.base,
    };
    if file.metadata()?.len() > max {
        cut(&file, log, base, parts)?;
    }
    Ok(())
}

/// Finds out whether a cut that was begun did happen, and notes it. Gives the base.
///
/// The copy is complete and on the disk before the cut; so with an incomplete one there was no cut, and with a complete one
/// the file still begins with it unless there was.
fn settle(file: &File, log: &Path, base: u64, head: u64) -> io::Result<u64> {
    let part = part_path(log, 1);
    let copy = match File::open(&part) {
        Ok(copy) => Some(copy),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let was_cut = match &copy {
        Some(copy) if copy.metadata()?.len() >= head && Mark::of(copy)?.base == base => {
            !same(file, copy, head)?
        }
        // Without a copy the cut happened if less than the head is left: there was no room for one.
        Some(_) | None => file.metadata()?.len() <= head,
    };
    let base = if was_cut {
        base + head
    } else {
        if copy.is_some_and(|copy| Mark::of(&copy).is_ok_and(|mark| mark.base == base)) {
            fs::remove_file(&part)?;
        }
        base
    };
    Mark {
        base,
        cutting: None,
    }
    .put(file)?;
    Ok(base)
}

fn same(one: &File, other: &File, length: u64) -> io::Result<bool> {
    let (mut a, mut b) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut at = 0;
    while at < length {
        let want = usize::try_from(length - at).unwrap_or(a.len()).min(a.len());
        let (left, right) = (
            one.read_at(&mut a[..want], at)?,
            other.read_at(&mut b[..want], at)?,
        );
        let both = left.min(right);
        if both == 0 || a[..both] != b[..both] {
            return Ok(false);
        }
        at += both as u64;
    }
    Ok(true)
}

fn cut(file: &File, log: &Path, base: u64, parts: u32) -> io::Result<()> {
    let length = file.metadata()?.len();
    // The range must end before the end of the file.
    let head = length.saturating_sub(1) / BLOCK * BLOCK;
    if head == 0 {
        return Ok(());
    }
    let begun = Mark {
        base,
        cutting: Some(head),
    };
    begun.put(file)?;
    for part in (1..parts).rev() {
        match fs::rename(part_path(log, part), part_path(log, part + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    let part = part_path(log, 1);
    match copy(file, head, &part, base) {
        // A log must stay bounded on a full disk above all; readers see how much they missed.
        Err(error) if error.kind() == io::ErrorKind::StorageFull => fs::remove_file(&part)?,
        other => drop(other?),
    }
    let collapsed = fallocate(file, FallocateFlags::COLLAPSE_RANGE, 0, head).is_ok();
    let gone = if collapsed {
        head
    } else {
        let copied = copy(file, u64::MAX, &part, base)?;
        file.set_len(0)?;
        copied
    };
    Mark {
        base: base + gone,
        cutting: None,
    }
    .put(file)
}

fn copy(file: &File, bytes: u64, to: &Path, base: u64) -> io::Result<u64> {
    let part = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(to)?;
    // Who may read the log may read its parts.
    fchown(&part, None, Some(file.metadata()?.gid()))?;
    Mark {
        base,
        cutting: None,
    }
    .put(&part)?;
    let mut from = file;
    io::Seek::rewind(&mut from)?;
    // A writer that never pauses must not keep the copy going.
    let length = file.metadata()?.len();
    let copied = io::copy(&mut from.take(bytes.min(length)), &mut &part)?;
    // The cut is in the file system's journal, the copy is not: it has to come first.
    part.sync_data()?;
    Ok(copied)
}

#[cfg(test)]
#[path = "bound_tests.rs"]
mod tests;
