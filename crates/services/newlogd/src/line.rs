//! What a source printed, as entries.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::Value;

use crate::entry::{Entry, Level};

/// A longer line becomes several entries.
pub const LONGEST: usize = 16 * 1024;

/// Pieces of `bytes`, each with its offset, and how many bytes they are together: complete lines without their ends, longer
/// ones in pieces of [`LONGEST`] bytes. What follows the last line's end is left over unless `all`. Zeros are where a power cut
/// took a block that was not written yet: they end a line and are none.
pub fn pieces(bytes: &[u8], all: bool) -> (Vec<(usize, &[u8])>, usize) {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let window = &rest[..rest.len().min(LONGEST + 1)];
        if let Some(length) = window.iter().position(|byte| matches!(byte, b'\n' | 0)) {
            if length > 0 || rest[0] != 0 {
                pieces.push((at, &rest[..length]));
            }
            at += length + 1;
        } else if rest.len() > LONGEST {
            let length = whole_characters(&rest[..LONGEST]);
            pieces.push((at, &rest[..length]));
            at += length;
        } else {
            if all {
                pieces.push((at, rest));
                at = bytes.len();
            }
            break;
        }
    }
    (pieces, at)
}

/// How many bytes to take so that no UTF-8 character is torn.
fn whole_characters(bytes: &[u8]) -> usize {
    let back = bytes
        .iter()
        .rev()
        .take(4)
        .position(|byte| byte & 0xc0 != 0x80);
    match back {
        // The last character begins there; it is torn unless it is plain ASCII.
        Some(back) if bytes[bytes.len() - 1 - back] >= 0x80 => bytes.len() - 1 - back,
        Some(_) | None => bytes.len(),
    }
}

fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim_end_matches(['\r', '\n']).to_owned()
}

/// A line of a unit: of a service JSON (see the runtime's logging), of anything else text. `seen` is when it was first
/// seen, for lines that don't say when they were printed. `None` for an empty line.
pub fn unit(unit: &str, bytes: &[u8], seen: Timestamp) -> Option<(Level, Entry)> {
    let line = text(bytes);
    if line.trim().is_empty() {
        return None;
    }
    Some(service(unit, &line).unwrap_or_else(|| {
        let entry = Entry {
            severity: Level::Info.word().to_owned(),
            source: unit.to_owned(),
            content: line,
            timestamp: seen.into(),
            ..Entry::default()
        };
        (Level::Info, entry)
    }))
}

fn service(unit: &str, line: &str) -> Option<(Level, Entry)> {
    if !line.starts_with('{') {
        return None;
    }
    let Ok(Value::Object(mut fields)) = serde_json::from_str(line) else {
        return None;
    };
    let at: Timestamp = fields.shift_remove("timestamp")?.as_str()?.parse().ok()?;
    let level = match fields.shift_remove("level")?.as_str()? {
        "TRACE" => Level::Trace,
        "DEBUG" => Level::Debug,
        "WARN" => Level::Warning,
        "ERROR" => Level::Error,
        _ => Level::Info,
    };
    let mut content = match fields.shift_remove("message") {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let function = match fields.shift_remove("target") {
        Some(Value::String(target)) => target,
        Some(_) | None => String::new(),
    };
    for (name, value) in fields {
        let value = match value {
            Value::String(text) if !text.is_empty() && !text.contains([' ', '"', '=']) => text,
            other => other.to_string(),
        };
        let blank = if content.is_empty() { "" } else { " " };
        let _ = write!(content, "{blank}{name}={value}");
    }
    let entry = Entry {
        severity: level.word().to_owned(),
        source: unit.to_owned(),
        content,
        timestamp: at.into(),
        function,
        ..Entry::default()
    };
    Some((level, entry))
}

/// A line of a guest's console.
pub fn console(app: &str, bytes: &[u8], seen: Timestamp) -> Option<Entry> {
    let content = text(bytes);
    (!content.trim().is_empty()).then(|| Entry {
        severity: Level::Info.word().to_owned(),
        source: "guest_vm".to_owned(),
        iid: app.to_owned(),
        content,
        timestamp: seen.into(),
        ..Entry::default()
    })
}

/// A record of `/dev/kmsg`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelRecord {
    /// Counts the kernel's messages since boot.
    pub sequence: u64,
    /// Microseconds since boot.
    pub at_us: u64,
    /// Severity, 0 (emergency) to 7 (debug).
    pub severity: u8,
    /// The text.
    pub text: String,
}

/// Parses `<priority>,<sequence>,<microseconds>,<flags>[,...];<text>\n[ <key>=<value>\n ...]`.
pub fn kernel_record(bytes: &[u8]) -> Option<KernelRecord> {
    let record = String::from_utf8_lossy(bytes);
    let (head, rest) = record.split_once(';')?;
    let mut head = head.split(',');
    let priority: u32 = head.next()?.parse().ok()?;
    Some(KernelRecord {
        severity: u8::try_from(priority % 8).ok()?,
        sequence: head.next()?.parse().ok()?,
        at_us: head.next()?.parse().ok()?,
        text: rest.lines().next().unwrap_or_default().to_owned(),
    })
}

/// A record as an entry; `at` is its wall-clock time.
pub fn kernel(record: &KernelRecord, at: Timestamp) -> (Level, Entry) {
    let (level, word) = match record.severity {
        0 => (Level::Error, "emerg"),
        1 => (Level::Error, "alert"),
        2 => (Level::Error, "crit"),
        3 => (Level::Error, "err"),
        4 => (Level::Warning, "warning"),
        5 => (Level::Info, "notice"),
        6 => (Level::Info, "info"),
        _ => (Level::Debug, "debug"),
    };
    let entry = Entry {
        severity: word.to_owned(),
        source: "kernel".to_owned(),
        content: record.text.clone(),
        timestamp: at.into(),
        ..Entry::default()
    };
    (level, entry)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const T: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn a_line_of_a_service_and_one_of_a_helper() {
        let json = br#"{"timestamp":"2026-01-02T03:04:05.25Z","level":"WARN","message":"download failed","app":"web 1","n":3,"target":"downloader::world"}"#;
        let (level, entry) = unit("downloader", json, T).unwrap();
        assert_eq!((level, &*entry.severity), (Level::Warning, "warning"));
        assert_eq!(entry.content, "download failed app=\"web 1\" n=3");
        assert_eq!(entry.function, "downloader::world");
        assert_eq!(entry.timestamp.nanos, 250_000_000);
        let (level, entry) = unit("zedrouter/dns", b"dnsmasq: started\r", T).unwrap();
        assert_eq!(level, Level::Info);
        assert_eq!(
            (&*entry.source, &*entry.content),
            ("zedrouter/dns", "dnsmasq: started")
        );
        assert_eq!(unit("nim", b" ", T), None);
        // Somebody else's JSON is text.
        assert_eq!(unit("nim", b"{\"a\":1}", T).unwrap().1.content, "{\"a\":1}");
    }

    #[test]
    fn a_record_of_the_kernel() {
        let record =
            kernel_record(b"30,507,2501441,-;usb 1-1: new device\n SUBSYSTEM=usb\n").unwrap();
        assert_eq!(
            (record.sequence, record.at_us, record.severity),
            (507, 2_501_441, 6)
        );
        assert_eq!(kernel(&record, T).1.content, "usb 1-1: new device");
        assert_eq!(kernel_record(b"nonsense"), None);
    }

    proptest! {
        #[test]
        fn pieces_are_all_of_it_in_order(
            bytes in prop::collection::vec(prop_oneof![8 => 0_u8..=255, 1 => Just(b'\n'), 1 => Just(0)], 0..400),
            long in prop::sample::select(vec![0, LONGEST - 1, LONGEST, LONGEST + 1, 3 * LONGEST]),
            all: bool,
        ) {
            let mut bytes = bytes;
            bytes.extend(std::iter::repeat_n(b'x', long));
            let (pieces, taken) = pieces(&bytes, all);
            prop_assert_eq!(all, all && taken == bytes.len());
            let mut next = 0;
            // Between two pieces there is nothing, or the end of a line, or zeros.
            let is_gap = |gap: &[u8]| {
                let mut gap = gap.iter().enumerate();
                gap.all(|(at, byte)| *byte == 0 || (at == 0 && *byte == b'\n'))
            };
            for (at, piece) in &pieces {
                prop_assert!(piece.len() <= LONGEST && !piece.contains(&b'\n') && !piece.contains(&0));
                prop_assert!(is_gap(&bytes[next..*at]));
                next = at + piece.len();
            }
            prop_assert!(is_gap(&bytes[next..taken]));
            prop_assert!(all || bytes.len() - taken <= LONGEST);
        }

        #[test]
        fn characters_stay_whole(characters in prop::collection::vec(prop::sample::select(vec!["a", "é", "€", "😀"]), 1..40)) {
            let text = characters.concat().repeat(2 * LONGEST / characters.len());
            let (pieces, taken) = pieces(text.as_bytes(), true);
            prop_assert_eq!(taken, text.len());
            let all: String = pieces.iter().map(|(_, piece)| std::str::from_utf8(piece).unwrap()).collect();
            prop_assert_eq!(all, text);
        }

        #[test]
        fn anything_is_a_line(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (unit("nim", &bytes, T), console("a", &bytes, T), kernel_record(&bytes));
        }
    }
}
