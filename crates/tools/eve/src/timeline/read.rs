//! Events out of the logs below `persist/log`.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

use serde_json::Value;

use super::{Event, What};
use crate::{
    logline::{self, Line},
    tail::part_path,
};

/// At most so much of each part of a log is read.
const PART: u64 = 4 << 20;
/// Older parts of a log, the oldest first.
const PARTS: [u32; 2] = [2, 1];

/// Every event of every service, in the order of time. Logs that can't be read tell nothing.
pub fn events(root: &Path) -> Vec<Event> {
    let dir = root.join("persist/log");
    let mut events = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let file = entry.path();
        let Some(unit) = file
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".log"))
        else {
            continue;
        };
        // Helpers have no phases.
        if unit.contains('+') {
            continue;
        }
        let parts = PARTS.iter().map(|part| part_path(&file, *part));
        for part in parts.chain([file.clone()]) {
            let text = end_of(&part);
            events.extend(text.lines().filter_map(|line| event(unit, line)));
        }
    }
    events.sort_by_key(|event| event.at);
    events
}

fn end_of(file: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(file)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(PART)))?;
        let mut bytes = Vec::new();
        file.take(PART).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// What a line tells, if it tells something that belongs here.
fn event(unit: &str, line: &str) -> Option<Event> {
    let Line {
        at,
        unit,
        text,
        fields,
        level: _,
    } = logline::parse(unit, line);
    let field = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
    let what = match text.as_str() {
        "started" => What::Started,
        "waiting for inputs" => What::Waiting(field("topics")?),
        "phase" => What::Phase {
            topic: field("topic")?,
            key: field("key")?,
            to: field("to")?,
        },
        "fault" => What::Fault {
            topic: field("topic")?,
            key: field("key")?,
            text: field("fault")?,
        },
        "lease" => What::Lease {
            if_name: field("if_name")?,
            address: field("address")?,
        },
        _ => return None,
    };
    Some(Event {
        at: at?,
        unit,
        what,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_that_tell_something_are_events() {
        let line = r#"{"timestamp":"2026-01-02T03:04:05Z","level":"INFO","message":"phase","topic":"VolumeStatus","key":"v","from":"Creating","to":"Created"}"#;
        let found = event("volumemgr", line).unwrap();
        let phase = What::Phase {
            topic: "VolumeStatus".to_owned(),
            key: "v".to_owned(),
            to: "Created".to_owned(),
        };
        assert_eq!((found.unit.as_str(), found.what), ("volumemgr", phase));
        assert_eq!(event("nim", "dnsmasq: started"), None);
        assert_eq!(
            event(
                "nim",
                r#"{"timestamp":"2026-01-02T03:04:05Z","message":"phase"}"#
            ),
            None
        );
    }

    #[test]
    fn parts_are_read_oldest_first() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("persist/log");
        fs::create_dir_all(&dir).unwrap();
        let line = |second: u32| {
            format!("{{\"timestamp\":\"2026-01-02T03:04:{second:02}Z\",\"message\":\"started\"}}\n")
        };
        fs::write(dir.join("nim.log.2"), line(1)).unwrap();
        fs::write(dir.join("nim.log.1"), line(2)).unwrap();
        fs::write(dir.join("nim.log"), line(3)).unwrap();
        fs::write(dir.join("zedrouter+dns.log"), line(4)).unwrap();
        let seconds: Vec<i64> = events(root.path())
            .iter()
            .map(|e| e.at.as_second() % 60)
            .collect();
        assert_eq!(seconds, [1, 2, 3]);
    }
}
