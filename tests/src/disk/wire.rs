//! As much of the kernel's FUSE protocol as one file needs (see `fuse(4)` and `linux/fuse.h`).

use std::fmt::Debug;

/// Of a request's header.
pub(super) const HEADER: usize = 40;
/// Of the arguments of reads and writes.
const TRANSFER: usize = 40;
/// The most that the kernel may write at once.
pub(super) const MAX_WRITE: u32 = 1 << 20;
/// Version of the protocol that is spoken.
const VERSION: [u32; 2] = [7, 31];
/// Reads may overtake each other; writes may be large; requests may have this many pages.
const FEATURES: u32 = 1 | 1 << 5 | 1 << 22;
/// Each write comes here at once, none stays in the kernel's cache of this file.
const DIRECT_IO: u32 = 1;

pub(super) const ENOENT: i32 = 2;
pub(super) const EIO: i32 = 5;
pub(super) const ENOSYS: i32 = 38;
pub(super) const EOPNOTSUPP: i32 = 95;

pub(super) const ROOT: u64 = 1;
pub(super) const FILE: u64 = 2;

/// What the kernel asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Question<'a> {
    Init,
    Lookup(&'a [u8]),
    Attributes,
    Open,
    Read {
        offset: u64,
        size: u32,
    },
    Write {
        offset: u64,
        data: &'a [u8],
    },
    Sync,
    Space,
    /// Answered with success and nothing else.
    Nod,
    Allocate,
    /// Not answered at all.
    Silent,
    End,
    Unknown,
}

/// A request.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) number: u64,
    pub(super) node: u64,
    pub(super) question: Question<'a>,
}

impl<'a> Request<'a> {
    /// `None` when the kernel sent less than it said.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (head, body) = bytes.split_at_checked(HEADER)?;
        let question = match u32_at(head, 4)? {
            26 => Question::Init,
            1 => Question::Lookup(body.split(|byte| *byte == 0).next()?),
            3 | 4 => Question::Attributes,
            14 | 27 => Question::Open,
            15 => Question::Read {
                offset: u64_at(body, 8)?,
                size: u32_at(body, 16)?,
            },
            16 => Question::Write {
                offset: u64_at(body, 8)?,
                data: body.get(TRANSFER..)?.get(..u32_at(body, 16)? as usize)?,
            },
            20 => Question::Sync,
            17 => Question::Space,
            18 | 25 | 29 | 34 => Question::Nod,
            43 => Question::Allocate,
            2 | 36 | 42 => Question::Silent,
            38 => Question::End,
            _ => Question::Unknown,
        };
        Some(Self {
            number: u64_at(head, 8)?,
            node: u64_at(head, 16)?,
            question,
        })
    }
}

/// An answer in the making.
pub(super) struct Answer(Vec<u8>);

impl Answer {
    /// A success, with nothing to tell yet.
    pub(super) fn new(number: u64) -> Self {
        let mut answer = vec![0; 8];
        answer.extend(number.to_le_bytes());
        Self(answer)
    }

    pub(super) fn error(number: u64, errno: i32) -> Vec<u8> {
        let mut answer = Self::new(number);
        answer.0[4..8].copy_from_slice(&(-errno).to_le_bytes());
        answer.finish()
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_le_bytes());
        self.0
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn u32s(mut self, values: &[u32]) -> Self {
        for value in values {
            self.0.extend(value.to_le_bytes());
        }
        self
    }

    fn u64s(mut self, values: &[u64]) -> Self {
        for value in values {
            self.0.extend(value.to_le_bytes());
        }
        self
    }

    pub(super) fn init(self) -> Self {
        let background: u32 = 32 | 24 << 16;
        let pages: u32 = MAX_WRITE >> 12;
        self.u32s(&VERSION)
            .u32s(&[0, FEATURES, background, MAX_WRITE, 1, pages])
            .u32s(&[0; 8])
    }

    /// Node, generation, for how long both names and attributes hold, attributes.
    pub(super) fn entry(self, size: u64) -> Self {
        self.u64s(&[FILE, 0, 0, 0]).u32s(&[0, 0]).file(FILE, size)
    }

    pub(super) fn attributes(self, node: u64, size: u64) -> Self {
        self.u64s(&[0]).u32s(&[0, 0]).file(node, size)
    }

    fn file(self, node: u64, size: u64) -> Self {
        let (mode, size) = if node == ROOT {
            (0o040_755, 0)
        } else {
            (0o100_600, size)
        };
        self.u64s(&[node, size, size / 512, 0, 0, 0])
            .u32s(&[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0])
    }

    pub(super) fn opened(self) -> Self {
        self.u64s(&[0]).u32s(&[DIRECT_IO, 0])
    }

    pub(super) fn written(self, size: u32) -> Self {
        self.u32s(&[size, 0])
    }

    pub(super) fn space(self, size: u64) -> Self {
        self.u64s(&[size / 4096, 0, 0, 2, 0])
            .u32s(&[4096, 255, 4096, 0, 0, 0, 0, 0, 0, 0])
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    bytes.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + 8)?;
    bytes.try_into().ok().map(u64::from_le_bytes)
}
