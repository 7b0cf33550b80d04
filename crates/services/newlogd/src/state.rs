//! What has to be remembered: how far each source was read, and what was decided but may not have been done.
//!
//! `/persist/newlog/collect/state.json`, replaced as a whole. Writing it is the one moment at which a round happens: new
//! files lie beside it under temporary names until then, and [`State::renames`] and [`State::removals`] are done (again)
//! whenever it is read. So a crash before it leaves everything where it was, and one after it changes nothing: every line is
//! in exactly one file.

use std::collections::BTreeMap;

use logfile::Extent;
use serde::{Deserialize, Serialize};

/// The form that this version writes.
pub const VERSION: u32 = 1;

/// Everything that is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct State {
    /// Form of the file.
    pub version: u32,
    /// Number of the device's last entry.
    pub last_msgid: u64,
    /// Milliseconds in the name of the last file.
    pub last_ms: u64,
    /// How far sources were read, by their key.
    pub sources: BTreeMap<String, Position>,
    /// How far the kernel's messages were read.
    pub kernel: KernelPosition,
    /// Files to be given their names.
    pub renames: Vec<Rename>,
    /// Files to be removed.
    pub removals: Vec<Place>,
    /// What was removed and not yet said, by stream.
    pub losses: BTreeMap<String, Loss>,
}

/// How far a source was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Position {
    /// The file,
    pub inode: u64,
    /// and when it was made.
    pub born: u64,
    /// Position of the first byte that was not read.
    pub offset: u64,
}

impl Position {
    /// Where to read on in the log as it is now: at its beginning if it is another file.
    pub fn offset_in(&self, extent: &Extent) -> u64 {
        let same = (self.inode, self.born) == (extent.inode, extent.born);
        if same && self.offset <= extent.end {
            self.offset
        } else {
            0
        }
    }
}

/// How far the kernel's messages were read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct KernelPosition {
    /// The boot that the number is of.
    pub boot: String,
    /// Sequence number of the first message that was not read.
    pub next: u64,
}

/// A file in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Place {
    /// Directory below `/persist/newlog`.
    pub dir: String,
    /// Name.
    pub name: String,
}

/// A file that gets its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Rename {
    /// Its temporary name beside the state.
    pub temporary: String,
    /// Where it belongs.
    pub to: Place,
}

/// Lines that were removed before the controller had them, also those whose loss removed files told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Loss {
    /// Files.
    pub files: u64,
    /// Lines in them.
    pub lines: u64,
    /// Milliseconds in the name of the first,
    pub first_ms: u64,
    /// and of the last.
    pub last_ms: u64,
}

impl Loss {
    /// Adds a file.
    pub fn add(&mut self, ms: u64, lines: u64) {
        if self.files == 0 || ms < self.first_ms {
            self.first_ms = ms;
        }
        self.last_ms = self.last_ms.max(ms);
        self.files += 1;
        self.lines += lines;
    }
}
