//! Log files that their writers keep open for years: bounded by cutting off their heads, read by position
//! without losing or repeating a byte.
//!
//! ```text
//!  position:  0 ............ base of .2 ....... base of .1 ......... base ............ end
//!  bytes:     (gone)         <log>.2            <log>.1             <log>  <- the writer appends here
//! ```
//!
//! A *position* counts the bytes that were ever written to a log. What a file begins with is its *base*, kept in the
//! extended attribute `user.eve.log` of the file itself: so it goes where the file goes, and a new file begins at 0.
//! [`bound`] (whoever owns the log's directory) copies the head to `<log>.1`, cuts it off and raises the base. While it
//! does, the attribute says so (`base+head`), and [`read`] and [`extent`] of other processes give way ([`Read::Busy`]);
//! they never block the one that cuts. One that died in between is continued by the next [`bound`].
//!
//! The cut is `FALLOC_FL_COLLAPSE_RANGE` (ext4, XFS): no byte that is appended meanwhile is lost. Other file systems have
//! the file emptied after the copy (what is printed in these microseconds is lost), and those without extended attributes
//! have bases of 0, so that their readers see a file that shrinks.
#![forbid(unsafe_code)]

mod bound;
mod mark;
mod read;

use std::path::{Path, PathBuf};

pub use bound::bound;
pub use read::{Extent, Read, extent, read};

/// More parts than this are not looked for.
const MOST_PARTS: u32 = 9;

/// The file of an older part of a log; 1 is the youngest.
pub fn part_path(log: &Path, part: u32) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{part}"));
    name.into()
}
