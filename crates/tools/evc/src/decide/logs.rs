//! Uploaded logs: one gzip member of JSON lines.

use std::collections::BTreeMap;
use std::io::Read as _;

use api::logs::LogEntry;
use flate2::bufread::GzDecoder;
use serde::{Deserialize, Serialize};

use super::Refusal;

/// Largest upload: devices never send more.
pub const MAX_COMPRESSED: usize = 65_536;
/// Largest content; more is a compression bomb.
const MAX_CONTENT: u64 = 16 << 20;

/// One line, in the form of Go's JSON of `LogEntry`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Line {
    /// `debug`, `info`, `warning`, `error`, ...
    pub severity: String,
    /// The program that wrote it.
    pub source: String,
    /// Which instance of it, for example a process id.
    pub iid: String,
    /// The text.
    pub content: String,
    /// Counts the messages of a device.
    pub msgid: u64,
    /// More about it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// When it was written.
    pub timestamp: Time,
    /// Source file.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filename: String,
    /// Function.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub function: String,
}

/// Seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Time {
    /// Whole seconds.
    pub seconds: i64,
    /// The rest.
    pub nanos: i32,
}

impl Time {
    /// Milliseconds since 1970.
    pub fn ms(self) -> i64 {
        self.seconds
            .saturating_mul(1000)
            .saturating_add(i64::from(self.nanos) / 1_000_000)
    }
}

/// A parsed upload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upload {
    /// Running partition and version, from the header of a device's file.
    pub origin: Option<Origin>,
    /// Name of the application, from the header of an application's file.
    pub app_name: Option<String>,
    /// The lines in order.
    pub lines: Vec<Line>,
}

/// What a device says about itself in the header of its log files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// The device's UUID.
    #[serde(rename = "devID")]
    pub dev_id: String,
    /// Running partition.
    pub image: String,
    /// Running version.
    #[serde(rename = "eveVersion")]
    pub eve_version: String,
}

/// Parses an upload.
pub fn parse(body: &[u8]) -> Result<Upload, Refusal> {
    let mut decoder = GzDecoder::new(body);
    let mut text = Vec::new();
    decoder
        .by_ref()
        .take(MAX_CONTENT + 1)
        .read_to_end(&mut text)
        .map_err(|e| Refusal::unprocessable(format!("not gzip: {e}")))?;
    if text.len() as u64 > MAX_CONTENT {
        return Err(Refusal::unprocessable("more than 16 MiB when unpacked"));
    }
    let latin1 = |bytes: &[u8]| bytes.iter().map(|b| char::from(*b)).collect::<String>();
    let (name, comment) = decoder.header().map_or((None, None), |h| {
        (h.filename().map(latin1), h.comment().map(latin1))
    });
    if !decoder.into_inner().is_empty() {
        return Err(Refusal::unprocessable("bytes after the gzip member"));
    }
    let origin = comment
        .map(|c| serde_json::from_str::<Origin>(&c))
        .transpose()
        .map_err(|e| Refusal::unprocessable(format!("comment in the gzip header: {e}")))?;
    let text = String::from_utf8(text).map_err(|_| Refusal::unprocessable("not UTF-8"))?;
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| {
            serde_json::from_str::<Line>(line)
                .map_err(|e| Refusal::unprocessable(format!("line {}: {e}", i + 1)))
        })
        .collect::<Result<_, _>>()?;
    Ok(Upload {
        origin,
        app_name: name,
        lines,
    })
}

/// The entries of the old, uncompressed form.
pub fn from_entries(entries: Vec<LogEntry>) -> Upload {
    let lines = entries
        .into_iter()
        .map(|e| Line {
            severity: e.severity,
            source: e.source,
            iid: e.iid,
            content: e.content,
            msgid: e.msgid,
            tags: e.tags.into_iter().collect(),
            timestamp: e.timestamp.map_or_else(Time::default, |t| Time {
                seconds: t.seconds,
                nanos: t.nanos,
            }),
            filename: e.filename,
            function: e.function,
        })
        .collect();
    Upload {
        lines,
        ..Upload::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::io::Write as _;

    use flate2::{Compression, GzBuilder};
    use proptest::prelude::*;

    use super::*;

    fn pack(text: &str, comment: Option<&str>) -> Vec<u8> {
        let mut builder = GzBuilder::new();
        if let Some(comment) = comment {
            builder = builder.comment(comment);
        }
        let mut encoder = builder.write(Vec::new(), Compression::best());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn reads_what_a_device_writes() {
        let comment = r#"{"devID":"d","image":"IMGA","eveVersion":"1.0"}"#;
        let text = concat!(
            r#"{"severity":"info","source":"nim","content":"up","msgid":7,"#,
            r#""timestamp":{"seconds":3,"nanos":5000000}}"#,
            "\n",
            r#"{"content":"second","tags":{"a":"b"}}"#,
            "\n"
        );
        let upload = parse(&pack(text, Some(comment))).unwrap();
        assert_eq!(upload.origin.unwrap().image, "IMGA");
        assert_eq!(upload.lines.len(), 2);
        assert_eq!(upload.lines[0].timestamp.ms(), 3005);
        assert_eq!(upload.lines[1].tags["a"], "b");
    }

    /// What newlogd's tests write.
    #[test]
    fn reads_every_field_of_a_device() {
        let text = include_str!("../../../../../tests/golden/uploaded-log.jsonl");
        let lines = parse(&pack(text, None)).unwrap().lines;
        let [full, bare] = lines.as_slice() else {
            panic!("{lines:?}");
        };
        assert_eq!(full.severity, "error");
        assert_eq!(full.source, "zedrouter");
        assert_eq!(full.iid, "712");
        assert_eq!(full.content, "no <lease> for nbu1x1 & none asked for");
        assert_eq!(full.msgid, 4711);
        assert_eq!(full.tags["code"], "network.addresses");
        assert_eq!(full.timestamp.ms(), 1_796_000_000_005);
        assert_eq!(full.filename, "plan/vif.rs");
        assert_eq!(full.function, "zedrouter::plan");
        assert_eq!(
            *bare,
            Line {
                source: "guest_vm".into(),
                content: "login:".into(),
                msgid: 4712,
                timestamp: Time {
                    seconds: 1_796_000_001,
                    nanos: 0
                },
                ..Line::default()
            }
        );
    }

    #[test]
    fn refuses_other_shapes() {
        let good = pack("{}", None);
        let mut two = good.clone();
        two.extend(&good);
        let proto_json = r#"{"timestamp":"2026-01-01T00:00:00Z"}"#;
        for bad in [
            b"plain".to_vec(),
            good[..good.len() - 3].to_vec(),
            two,
            pack("not json", None),
            pack(proto_json, None),
            pack(r#"{"colour":"red"}"#, None),
            pack("{}", Some("not json")),
        ] {
            assert_eq!(parse(&bad).unwrap_err().status.as_u16(), 422);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn lines_survive(content in ".*", msgid: u64, seconds in 0..4_000_000_000_i64) {
            let line = Line { content, msgid, timestamp: Time { seconds, nanos: 1 },
                ..Line::default() };
            let text = serde_json::to_string(&line).unwrap();
            prop_assert_eq!(parse(&pack(&text, None)).unwrap().lines, vec![line]);
        }
    }
}
