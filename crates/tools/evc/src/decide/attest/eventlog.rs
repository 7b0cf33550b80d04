//! The firmware's log of what it measured: the binary log of "TCG PC Client Platform Firmware Profile",
//! section 10 (crypto agile format, little-endian).
//!
//! The log itself proves nothing. Replayed, it must give the PCRs that the TPM signed; then it tells what is behind
//! their values. A PCR that it does not give was extended by somebody who keeps no log here.

use std::collections::BTreeMap;
use std::io::Read as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Bytes of an unpacked log: some ten times as many as firmware makes.
pub const MAX_LOG: usize = 2 << 20;
/// Events of a log.
const MAX_EVENTS: usize = 4096;
/// Characters of an event's text.
const MAX_TEXT: usize = 160;

const ALG_SHA256: u16 = 0x000b;
const EV_NO_ACTION: u32 = 3;

/// Why a log can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Not what was packed with gzip, or larger than any.
    #[error("the event log can't be unpacked: {0}")]
    Packed(String),
    /// Bytes that are no log.
    #[error("the event log is malformed at byte {at}: {what}")]
    Malformed {
        /// Where.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The register that it extended.
    pub pcr: u32,
    /// Number of its type.
    pub kind: u32,
    /// SHA-256 of what was measured, hex.
    pub digest: String,
    /// What the log says about it, for people.
    pub text: String,
}

/// A log as read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventLog {
    /// Measurements in order.
    pub events: Vec<Event>,
    /// The locality at which the firmware started the TPM; it is in PCR 0 from the beginning.
    pub locality: u8,
}

/// Unpacks a log as devices send it; empty for none.
pub fn unpack(packed: &[u8]) -> Result<Vec<u8>, LogError> {
    if packed.is_empty() {
        return Ok(Vec::new());
    }
    let mut log = Vec::new();
    let limit = u64::try_from(MAX_LOG).unwrap_or(u64::MAX);
    flate2::read::GzDecoder::new(packed)
        .take(limit + 1)
        .read_to_end(&mut log)
        .map_err(|e| LogError::Packed(e.to_string()))?;
    if log.len() > MAX_LOG {
        return Err(LogError::Packed(format!(
            "it has more than {MAX_LOG} bytes"
        )));
    }
    Ok(log)
}

/// Reads a log; an empty one has no events.
pub fn parse(log: &[u8]) -> Result<EventLog, LogError> {
    let mut read = Reader { log, at: 0 };
    let mut found = EventLog::default();
    if log.is_empty() {
        return Ok(found);
    }
    let banks = read.head()?;
    while read.at < log.len() {
        if found.events.len() >= MAX_EVENTS {
            return Err(read.malformed("more events than any firmware measures"));
        }
        let (pcr, kind) = (read.u32()?, read.u32()?);
        // Some firmware gives the whole buffer, of which the end is empty.
        if (pcr, kind) == (u32::MAX, u32::MAX) || (pcr == 0 && kind == 0 && read.is_blank()) {
            break;
        }
        let mut sha256 = None;
        let digests = read.u32()?;
        if digests > 16 {
            return Err(read.malformed("more digests than there are algorithms"));
        }
        for _ in 0..digests {
            let alg = read.u16()?;
            let size = banks.get(&alg).copied().ok_or_else(|| {
                read.malformed("a digest of an algorithm that the head does not name")
            })?;
            let digest = read.take(usize::from(size))?;
            if alg == ALG_SHA256 {
                sha256 = Some(digest);
            }
        }
        let size = usize::try_from(read.u32()?).unwrap_or(usize::MAX);
        let data = read.take(size)?;
        if kind == EV_NO_ACTION {
            if let Some(locality) = data.strip_prefix(b"StartupLocality\0") {
                found.locality = locality.first().copied().unwrap_or(0);
            }
            continue;
        }
        let digest = sha256.ok_or_else(|| read.malformed("an event without a SHA-256 digest"))?;
        if digest.len() != 32 || pcr >= 24 {
            return Err(read.malformed("a digest of another size, or a PCR that does not exist"));
        }
        found.events.push(Event {
            pcr,
            kind,
            digest: hex::encode(digest),
            text: text(kind, data),
        });
    }
    Ok(found)
}

impl EventLog {
    /// The values that the measurements lead to, of every PCR that the log names.
    pub fn replay(&self) -> BTreeMap<u32, [u8; 32]> {
        let mut pcrs = BTreeMap::new();
        for event in &self.events {
            let value = pcrs.entry(event.pcr).or_insert_with(|| {
                let mut start = [0; 32];
                if event.pcr == 0 {
                    start[31] = self.locality;
                }
                start
            });
            let mut hash = Sha256::new();
            hash.update(*value);
            hash.update(hex::decode(&event.digest).unwrap_or_default());
            *value = hash.finalize().into();
        }
        pcrs
    }
}

/// The name of an event's type, as the specification has it.
pub fn kind_name(kind: u32) -> String {
    let name = match kind {
        0x0 => "PREBOOT_CERT",
        0x1 => "POST_CODE",
        0x4 => "SEPARATOR",
        0x5 => "ACTION",
        0x6 => "EVENT_TAG",
        0x7 => "S_CRTM_CONTENTS",
        0x8 => "S_CRTM_VERSION",
        0x9 => "CPU_MICROCODE",
        0xa => "PLATFORM_CONFIG_FLAGS",
        0xb => "TABLE_OF_DEVICES",
        0xc => "COMPACT_HASH",
        0xd => "IPL",
        0xe => "IPL_PARTITION_DATA",
        0xf => "NONHOST_CODE",
        0x10 => "NONHOST_CONFIG",
        0x11 => "NONHOST_INFO",
        0x12 => "OMIT_BOOT_DEVICE_EVENTS",
        0x8000_0001 => "EFI_VARIABLE_DRIVER_CONFIG",
        0x8000_0002 => "EFI_VARIABLE_BOOT",
        0x8000_0003 => "EFI_BOOT_SERVICES_APPLICATION",
        0x8000_0004 => "EFI_BOOT_SERVICES_DRIVER",
        0x8000_0005 => "EFI_RUNTIME_SERVICES_DRIVER",
        0x8000_0006 => "EFI_GPT_EVENT",
        0x8000_0007 => "EFI_ACTION",
        0x8000_0008 => "EFI_PLATFORM_FIRMWARE_BLOB",
        0x8000_0009 => "EFI_HANDOFF_TABLES",
        0x8000_000a => "EFI_PLATFORM_FIRMWARE_BLOB2",
        0x8000_000b => "EFI_HANDOFF_TABLES2",
        0x8000_000c => "EFI_VARIABLE_BOOT2",
        0x8000_0010 => "EFI_HCRTM_EVENT",
        0x8000_00e0 => "EFI_VARIABLE_AUTHORITY",
        0x8000_00e1 => "EFI_SPDM_FIRMWARE_BLOB",
        0x8000_00e2 => "EFI_SPDM_FIRMWARE_CONFIG",
        _ => return format!("0x{kind:x}"),
    };
    name.to_owned()
}

/// What an event's data tells people.
fn text(kind: u32, data: &[u8]) -> String {
    let told = match kind {
        0x8000_0001 | 0x8000_0002 | 0x8000_000c | 0x8000_00e0 => variable(data),
        0x8000_0003..=0x8000_0005 => image(data),
        _ => None,
    };
    told.unwrap_or_else(|| printable(data))
}

/// The name of an UEFI variable (`UEFI_VARIABLE_DATA`).
fn variable(data: &[u8]) -> Option<String> {
    let length = data.get(16..24)?.try_into().ok().map(u64::from_le_bytes)?;
    let bytes = usize::try_from(length).ok()?.checked_mul(2)?;
    let name = data.get(32..)?.get(..bytes)?;
    Some(utf16(name))
}

/// The path of a program that was started (`UEFI_IMAGE_LOAD_EVENT`): the file in its device path.
fn image(data: &[u8]) -> Option<String> {
    let mut path = data.get(32..)?;
    let mut files = Vec::new();
    while let [kind, sub, low, high, ..] = *path {
        let length = usize::from(u16::from_le_bytes([low, high]));
        let node = path.get(4..length)?;
        if (kind, sub) == (4, 4) {
            files.push(utf16(node));
        }
        path = &path[length..];
    }
    (!files.is_empty()).then(|| files.join(""))
}

fn utf16(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .take_while(|unit| *unit != 0)
        .take(MAX_TEXT)
        .collect();
    printable(String::from_utf16_lossy(&units).as_bytes())
}

/// Text as it is, without what would disturb a terminal; of anything else the size.
fn printable(data: &[u8]) -> String {
    let begin = data.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = std::str::from_utf8(begin.get(..MAX_TEXT * 4).unwrap_or(begin)).unwrap_or_default();
    let text: String = text.trim().chars().take(MAX_TEXT).collect();
    if text.is_empty() || text.chars().any(char::is_control) {
        return format!("{} bytes", data.len());
    }
    text
}

struct Reader<'a> {
    log: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn malformed(&self, what: &'static str) -> LogError {
        LogError::Malformed { at: self.at, what }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], LogError> {
        let end = self.at.checked_add(length);
        let bytes = end
            .and_then(|end| self.log.get(self.at..end))
            .ok_or_else(|| self.malformed("it ends in the middle of an event"))?;
        self.at += length;
        Ok(bytes)
    }

    fn u16(&mut self) -> Result<u16, LogError> {
        let bytes = self.take(2)?;
        Ok(bytes.iter().rev().fold(0, |n, b| (n << 8) | u16::from(*b)))
    }

    fn u32(&mut self) -> Result<u32, LogError> {
        let bytes = self.take(4)?;
        Ok(bytes.iter().rev().fold(0, |n, b| (n << 8) | u32::from(*b)))
    }

    fn is_blank(&self) -> bool {
        self.log[self.at..].iter().all(|byte| *byte == 0)
    }

    /// The first event, in the old format: which algorithms there are, and the size of their digests.
    fn head(&mut self) -> Result<BTreeMap<u16, u16>, LogError> {
        let (_, kind) = (self.u32()?, self.u32()?);
        self.take(20)?;
        let size = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        if kind != EV_NO_ACTION {
            return Err(self.malformed("it does not begin with a specification event"));
        }
        let data = self.take(size)?;
        if !data.starts_with(b"Spec ID Event03\0") {
            return Err(self.malformed("not the crypto agile format"));
        }
        let mut spec = Self { log: data, at: 24 };
        let mut banks = BTreeMap::new();
        for _ in 0..spec.u32()?.min(16) {
            banks.insert(spec.u16()?, spec.u16()?);
        }
        Ok(banks)
    }
}

#[cfg(test)]
#[path = "eventlog_tests.rs"]
pub(crate) mod tests;
