//! Log files: one gzip member, whose header says whose lines they are.
//!
//! A device's file has the header field *comment*, JSON of a `LogBundle` without entries; an application's has the field
//! *name*, its display name. Both are Latin-1 without NUL by the format; other characters are escaped.

use std::{
    fmt::Write as _,
    io::{self, Read as _, Write as _},
};

use flate2::{Compression, GzBuilder, bufread::GzDecoder, write::GzEncoder};
use serde::{Deserialize, Serialize};

/// Files are made at most this large,
pub const TARGET: usize = 50_000;
/// and controllers take none above this.
pub const LIMIT: usize = 65_536;
/// A file with less room than this is complete.
const SLACK: usize = 2_048;
/// What a member needs at its end.
const END: usize = 32;

/// What the header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// Of the device.
    Device(Origin),
    /// Of the application of this name.
    App(String),
}

/// The device, as it was when the lines became a file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Origin {
    /// Its UUID; empty before it was onboarded.
    #[serde(rename = "devID")]
    pub device: String,
    /// Partition that it ran from.
    pub image: String,
    /// Version that it ran.
    #[serde(rename = "eveVersion")]
    pub version: String,
}

impl Header {
    fn builder(&self, mtime: u32) -> GzBuilder {
        let builder = GzBuilder::new().mtime(mtime);
        match self {
            Self::Device(origin) => {
                let comment = serde_json::to_string(origin).unwrap_or_default();
                builder.comment(latin1(&comment))
            }
            Self::App(name) => builder.filename(latin1(name)),
        }
    }
}

/// Text in a header: Latin-1, other characters as `\uXXXX` (so JSON stays JSON).
pub fn latin1(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for c in text.chars() {
        match u8::try_from(u32::from(c)) {
            Ok(byte) if byte != 0 => bytes.push(byte),
            Ok(_) | Err(_) => {
                let mut escaped = String::new();
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    let _ = write!(escaped, "\\u{unit:04x}");
                }
                bytes.extend(escaped.bytes());
            }
        }
    }
    bytes
}

/// A complete file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Lines in it.
    pub lines: u64,
    /// Bytes of the lines.
    pub content: u64,
}

/// Makes files of lines.
#[derive(Debug)]
pub struct Packer {
    header: Header,
    mtime: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    encoder: GzEncoder<Vec<u8>>,
    /// Bytes compressed of lines that don't wait in the encoder.
    known: usize,
    /// Bytes of lines that may wait there.
    waiting: usize,
    lines: u64,
    content: u64,
}

impl Packer {
    /// Files with this header, made at `mtime` (seconds since 1970).
    pub fn new(header: Header, mtime: u32) -> Self {
        Self {
            header,
            mtime,
            open: None,
        }
    }

    /// Adds a line. Gives the file before it if that is full.
    pub fn push(&mut self, line: &str) -> io::Result<Option<Packed>> {
        let size = line.len() + 1;
        let full = match &mut self.open {
            Some(open) => open.is_full(size)?,
            None => false,
        };
        let packed = if full { self.finish()? } else { None };
        let open = self.open.get_or_insert_with(|| Open {
            encoder: self
                .header
                .builder(self.mtime)
                .write(Vec::new(), Compression::best()),
            known: 0,
            waiting: 0,
            lines: 0,
            content: 0,
        });
        open.encoder.write_all(line.as_bytes())?;
        open.encoder.write_all(b"\n")?;
        open.waiting += size;
        open.lines += 1;
        open.content += size as u64;
        Ok(packed)
    }

    /// The last file, if a line was added after the one before.
    pub fn finish(&mut self) -> io::Result<Option<Packed>> {
        let Some(open) = self.open.take() else {
            return Ok(None);
        };
        Ok(Some(Packed {
            bytes: open.encoder.finish()?,
            lines: open.lines,
            content: open.content,
        }))
    }
}

impl Open {
    /// Whether a line of `size` bytes may lead beyond the target. Lines that wait in the encoder count as if they could not be
    /// compressed; if that is too much it is made to say how large they have become.
    fn is_full(&mut self, size: usize) -> io::Result<bool> {
        if self.known + self.waiting + size + END <= TARGET {
            return Ok(false);
        }
        self.encoder.flush()?;
        self.known = self.encoder.get_ref().len();
        self.waiting = 0;
        Ok(self.known + size.max(SLACK) + END > TARGET)
    }
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The device, of a device's file.
    pub origin: Option<Origin>,
    /// The application's name, of an application's file.
    pub app: Option<String>,
    /// Its lines.
    pub text: String,
}

/// Reads a file.
pub fn unpack(bytes: &[u8]) -> io::Result<Content> {
    let mut decoder = GzDecoder::new(bytes);
    let mut text = String::new();
    decoder.read_to_string(&mut text)?;
    let header = decoder.header();
    let latin1 = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| char::from(*byte))
            .collect::<String>()
    };
    let comment = header.and_then(|h| h.comment()).map(latin1);
    Ok(Content {
        origin: comment.and_then(|json| serde_json::from_str(&json).ok()),
        app: header.and_then(|h| h.filename()).map(latin1),
        text,
    })
}

/// The file with the device's UUID in its header, if that was not known when it was made; the lines stay as they are.
pub fn with_device(file: &[u8], device: &str) -> Option<Vec<u8>> {
    let mut decoder = GzDecoder::new(file);
    // The header is read before the first byte.
    decoder.read_exact(&mut [0; 1]).ok()?;
    let header = decoder.header()?;
    let comment = header.comment()?;
    let text: String = comment.iter().map(|byte| char::from(*byte)).collect();
    let origin: Origin = serde_json::from_str(&text).ok()?;
    if !origin.device.is_empty() {
        return None;
    }
    // Magic to operating system, then the comment and its end: such a file has no other fields.
    let lines = file.get(10 + comment.len() + 1..)?;
    let origin = Origin {
        device: device.to_owned(),
        ..origin
    };
    let fresh = Header::Device(origin)
        .builder(header.mtime())
        .write(Vec::new(), Compression::best());
    let mut bytes = fresh.finish().ok()?;
    let end = bytes.iter().skip(10).position(|byte| *byte == 0)?;
    bytes.truncate(10 + end + 1);
    bytes.extend_from_slice(lines);
    Some(bytes)
}

#[cfg(test)]
#[path = "gzip_tests.rs"]
mod tests;
