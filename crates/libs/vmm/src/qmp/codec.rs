//! Lines to messages and back; no I/O.
//!
//! Tolerant where QEMU may grow (unknown keys, classes, events), strict where a mistake would be
//! believed: a line is exactly one known kind of message or an error. [`parse_line`] takes any
//! bytes and never panics; it is the entry for fuzzing.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use thiserror::Error;

/// Longest line that is accepted, in bytes. The longest regular answers (block statistics, CPU
/// lists) have a few kilobytes per object.
pub const MAX_LINE: usize = 4 << 20;

/// Something that QEMU said.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// The first line of a connection.
    Greeting(Greeting),
    /// A command was carried out.
    Return {
        /// Number of the command.
        id: Option<u64>,
        /// Its answer.
        value: Value,
    },
    /// A command was refused.
    Error {
        /// Number of the command; absent if QEMU could not read it.
        id: Option<u64>,
        /// Kind of refusal.
        class: ErrorClass,
        /// QEMU's words.
        desc: String,
    },
    /// Something happened to the guest.
    Event(Event),
}

/// The first line of a connection: which QEMU this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// Major version of QEMU.
    pub major: u64,
    /// Minor version.
    pub minor: u64,
    /// Patch version.
    pub micro: u64,
}

/// Something that happened to the guest.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name, such as `SHUTDOWN`.
    pub name: String,
    /// What QEMU says about it; an empty object for most.
    pub data: Value,
    /// When it happened by the host's clock, in microseconds since 1970; 0 if QEMU didn't know.
    pub at_us: u64,
}

/// Kinds of refusals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorClass {
    /// Anything else; the description is all there is.
    Generic,
    /// This QEMU has no such command, or not yet in this state.
    CommandNotFound,
    /// The device exists but can't do this now.
    DeviceNotActive,
    /// No device has this name.
    DeviceNotFound,
    /// Hardware acceleration lacks something that the command needs.
    KvmMissingCap,
    /// A class that this crate doesn't know.
    Other(String),
}

impl From<String> for ErrorClass {
    fn from(name: String) -> Self {
        match name.as_str() {
            "GenericError" => Self::Generic,
            "CommandNotFound" => Self::CommandNotFound,
            "DeviceNotActive" => Self::DeviceNotActive,
            "DeviceNotFound" => Self::DeviceNotFound,
            "KVMMissingCap" => Self::KvmMissingCap,
            _ => Self::Other(name),
        }
    }
}

/// Bytes that are no message.
#[derive(Debug, Error)]
pub enum CodecError {
    /// The peer sends without ever ending a line.
    #[error("a line has more than {limit} bytes")]
    LineTooLong {
        /// The longest line that is accepted, in bytes.
        limit: usize,
    },
    /// Not a JSON object of the protocol.
    #[error("not a message of the protocol: {0}")]
    Json(#[from] serde_json::Error),
    /// An object without any of the keys that make it a message.
    #[error("an object that is neither greeting, answer, error nor event")]
    Unknown,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<RawGreeting>,
    #[serde(rename = "return", default, deserialize_with = "present")]
    value: Option<Value>,
    error: Option<RawError>,
    event: Option<String>,
    data: Option<Value>,
    timestamp: Option<RawTime>,
    id: Option<Value>,
}

#[derive(Deserialize)]
struct RawGreeting {
    version: RawVersion,
}

#[derive(Deserialize)]
struct RawVersion {
    qemu: RawQemu,
}

#[derive(Deserialize)]
struct RawQemu {
    major: u64,
    minor: u64,
    micro: u64,
}

#[derive(Deserialize)]
struct RawError {
    class: String,
    desc: String,
}

#[derive(Deserialize)]
struct RawTime {
    // Signed: QEMU writes -1 when the host's clock failed.
    seconds: i64,
    microseconds: i64,
}

/// An answer may be `null`, which is not the absence of an answer.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

/// One line, with or without its end, as a message.
pub fn parse_line(line: &[u8]) -> Result<Message, CodecError> {
    let line: Line = serde_json::from_slice(line)?;
    let id = line.id.as_ref().and_then(Value::as_u64);
    if let Some(RawGreeting { version }) = line.greeting {
        let RawQemu {
            major,
            minor,
            micro,
        } = version.qemu;
        Ok(Message::Greeting(Greeting {
            major,
            minor,
            micro,
        }))
    } else if let Some(RawError { class, desc }) = line.error {
        let class = class.into();
        Ok(Message::Error { id, class, desc })
    } else if let Some(name) = line.event {
        Ok(Message::Event(Event {
            name,
            data: line.data.unwrap_or_else(|| Value::Object(Map::new())),
            at_us: line.timestamp.map_or(0, |time| time.micros()),
        }))
    } else if let Some(value) = line.value {
        Ok(Message::Return { id, value })
    } else {
        Err(CodecError::Unknown)
    }
}

impl RawTime {
    fn micros(&self) -> u64 {
        let seconds = u64::try_from(self.seconds).unwrap_or(0);
        let micros = u64::try_from(self.microseconds).unwrap_or(0);
        seconds.saturating_mul(1_000_000).saturating_add(micros)
    }
}

/// A command as the line that QEMU reads; `arguments` of `null` are left out.
pub fn command_line(name: &str, arguments: &Value, id: u64) -> Vec<u8> {
    let mut command = json!({ "execute": name });
    if !arguments.is_null() {
        command["arguments"] = arguments.clone();
    }
    command["id"] = id.into();
    let mut line = command.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// Cuts a stream of bytes into lines and never holds more than one line plus one read.
#[derive(Debug)]
pub struct Lines {
    pending: Vec<u8>,
    /// How much of `pending` is known to hold no line end.
    searched: usize,
    limit: usize,
}

impl Lines {
    /// Lines of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            pending: Vec::new(),
            searched: 0,
            limit,
        }
    }

    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole line without its end; blank lines are skipped.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, CodecError> {
        loop {
            let end = self.pending[self.searched..]
                .iter()
                .position(|b| *b == b'\n');
            let length = end.map_or(self.pending.len(), |at| self.searched + at);
            if length > self.limit {
                return Err(CodecError::LineTooLong { limit: self.limit });
            }
            if end.is_none() {
                self.searched = length;
                return Ok(None);
            }
            let rest = self.pending.split_off(length + 1);
            let mut line = std::mem::replace(&mut self.pending, rest);
            self.searched = 0;
            line.truncate(length);
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_greeting_names_the_version() {
        let line = br#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7},
            "package": "Debian 1:7.2"}, "capabilities": ["oob"]}}"#;
        let Message::Greeting(greeting) = parse_line(line).unwrap() else {
            panic!("no greeting");
        };
        assert_eq!((greeting.major, greeting.minor, greeting.micro), (7, 2, 22));
    }

    #[test]
    fn a_null_answer_is_an_answer() {
        let message = parse_line(br#"{"return": null, "id": 7}"#).unwrap();
        let value = Value::Null;
        assert_eq!(message, Message::Return { id: Some(7), value });
    }

    #[test]
    fn a_foreign_id_is_no_id() {
        let message = parse_line(br#"{"return": {}, "id": "theirs"}"#).unwrap();
        assert!(matches!(message, Message::Return { id: None, .. }));
    }

    #[test]
    fn an_error_has_class_and_words() {
        let line = br#"{"id": 3, "error": {"class": "DeviceNotFound", "desc": "no x"}}"#;
        let expected = Message::Error {
            id: Some(3),
            class: ErrorClass::DeviceNotFound,
            desc: "no x".into(),
        };
        assert_eq!(parse_line(line).unwrap(), expected);
    }

    #[test]
    fn an_event_has_data_and_time() {
        let line = br#"{"event": "SHUTDOWN", "data": {"guest": true}, "new": [],
            "timestamp": {"seconds": 12, "microseconds": 34}}"#;
        let Message::Event(event) = parse_line(line).unwrap() else {
            panic!("no event");
        };
        assert_eq!(event.name, "SHUTDOWN");
        assert_eq!(event.data["guest"], true);
        assert_eq!(event.at_us, 12_000_034);
    }

    #[test]
    fn an_event_of_a_broken_clock_is_an_event() {
        let line = br#"{"event": "STOP", "timestamp": {"seconds": -1, "microseconds": -1}}"#;
        assert!(matches!(parse_line(line).unwrap(), Message::Event(e) if e.at_us == 0));
    }

    #[test]
    fn other_objects_are_errors() {
        assert!(matches!(parse_line(b"{}"), Err(CodecError::Unknown)));
        assert!(matches!(parse_line(b"[1]"), Err(CodecError::Json(_))));
        assert!(matches!(parse_line(b"\xff"), Err(CodecError::Json(_))));
    }

    #[test]
    fn a_line_without_end_is_bounded() {
        let mut lines = Lines::new(8);
        lines.push(b"12345678");
        assert!(lines.next_line().unwrap().is_none());
        lines.push(b"9");
        assert!(matches!(
            lines.next_line(),
            Err(CodecError::LineTooLong { limit: 8 })
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes: Vec<u8>) {
            let _ = parse_line(&bytes);
        }

        #[test]
        fn any_json_is_a_message_or_an_error(text in "[\\[\\]{}:,\"a-zQMP0-9 -]{0,64}") {
            let _ = parse_line(text.as_bytes());
        }

        #[test]
        fn lines_do_not_depend_on_how_they_were_read(
            texts in prop::collection::vec("[^\\n]{0,40}", 0..8),
            cuts in prop::collection::vec(1_usize..20, 1..40),
        ) {
            let mut stream: Vec<u8> = Vec::new();
            for text in &texts {
                stream.extend_from_slice(text.as_bytes());
                stream.push(b'\n');
            }
            let (mut lines, mut got, mut rest) = (Lines::new(1024), Vec::new(), &stream[..]);
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                lines.push(now);
                rest = later;
                while let Some(line) = lines.next_line().unwrap() {
                    got.push(line);
                }
            }
            let wanted: Vec<_> = texts
                .iter()
                .filter(|text| !text.as_bytes().trim_ascii().is_empty())
                .map(|text| text.clone().into_bytes())
                .collect();
            prop_assert_eq!(got, wanted);
        }

        #[test]
        fn a_command_is_one_line_of_json(name in "\\PC{0,20}", text in ".{0,40}", id: u64) {
            let line = command_line(&name, &json!({ "x": text }), id);
            prop_assert_eq!(line.iter().position(|b| *b == b'\n'), Some(line.len() - 1));
            let command: Value = serde_json::from_slice(&line).unwrap();
            prop_assert_eq!(&command["execute"], &json!(name));
            prop_assert_eq!(&command["arguments"]["x"], &json!(text));
            prop_assert_eq!(&command["id"], &json!(id));
        }
    }
}
