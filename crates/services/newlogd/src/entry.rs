//! An entry of a log file, in the form that controllers read: what Go's `encoding/json` makes of a `LogEntry`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One entry. Empty fields are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// `debug`, `info`, `warning`, `error`; of the kernel also its other words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub severity: String,
    /// Who wrote it: a unit, `kernel`, `guest_vm`, or `newlogd` on behalf of what is missing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Which of them.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub iid: String,
    /// The text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub content: String,
    /// Counts the device's entries.
    #[serde(skip_serializing_if = "is_zero")]
    pub msgid: u64,
    /// More about it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// When.
    pub timestamp: Time,
    /// Source file.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filename: String,
    /// Function.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub function: String,
}

/// Seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Time {
    /// Whole seconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub seconds: i64,
    /// The rest.
    #[serde(skip_serializing_if = "is_zero")]
    pub nanos: i32,
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

impl From<Timestamp> for Time {
    fn from(at: Timestamp) -> Self {
        // Before 1970 both parts are negative there, and the nanoseconds positive here.
        let nanos = at.subsec_nanosecond();
        Self {
            seconds: at.as_second() - i64::from(nanos < 0),
            nanos: if nanos < 0 {
                nanos + 1_000_000_000
            } else {
                nanos
            },
        }
    }
}

impl Entry {
    /// The entry on one line, without its end. Go escapes what a browser might take for HTML, and two characters
    /// that end lines in JavaScript; neither occurs outside of strings.
    pub fn json(&self) -> String {
        let plain = serde_json::to_string(self).unwrap_or_default();
        if !plain.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            return plain;
        }
        let mut escaped = String::with_capacity(plain.len() + 64);
        for c in plain.chars() {
            match c {
                '<' => escaped.push_str("\\u003c"),
                '>' => escaped.push_str("\\u003e"),
                '&' => escaped.push_str("\\u0026"),
                '\u{2028}' => escaped.push_str("\\u2028"),
                '\u{2029}' => escaped.push_str("\\u2029"),
                other => escaped.push(other),
            }
        }
        escaped
    }
}

/// Importance, in the words of the configuration properties. The order is that of importance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Trace,
    /// For debugging.
    Debug,
    /// Events.
    Info,
    /// What may need attention.
    Warning,
    /// What went wrong.
    Error,
}

impl Level {
    /// Of a property's value.
    pub fn of_property(text: &str) -> Self {
        match text {
            "trace" => Self::Trace,
            "debug" => Self::Debug,
            "warning" => Self::Warning,
            "error" => Self::Error,
            _ => Self::Info,
        }
    }

    /// The severity of an entry.
    pub fn word(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// What evc's tests read as well.
    #[test]
    fn entries_are_written_as_controllers_read_them() {
        let full = Entry {
            severity: "error".into(),
            source: "zedrouter".into(),
            iid: "712".into(),
            content: "no <lease> for nbu1x1 & none asked for".into(),
            msgid: 4711,
            tags: [
                ("code", "network.addresses"),
                ("object", "AppNetworkConfig/a"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
            timestamp: Time {
                seconds: 1_796_000_000,
                nanos: 5_000_000,
            },
            filename: "plan/vif.rs".into(),
            function: "zedrouter::plan".into(),
        };
        let bare = Entry {
            source: "guest_vm".into(),
            content: "login:".into(),
            msgid: 4712,
            timestamp: Time {
                seconds: 1_796_000_001,
                nanos: 0,
            },
            ..Entry::default()
        };
        assert_eq!(
            format!("{}\n{}\n", full.json(), bare.json()),
            include_str!("../../../../tests/golden/uploaded-log.jsonl")
        );
    }

    #[test]
    fn the_shape_is_that_of_go() {
        let entry = Entry {
            severity: "info".to_owned(),
            source: "nim".to_owned(),
            content: "a<b> & \"c\"\\\t\u{1}\u{2028}\u{7f}é".to_owned(),
            msgid: 7,
            tags: BTreeMap::from([
                ("b".to_owned(), "2".to_owned()),
                ("a".to_owned(), "1".to_owned()),
            ]),
            timestamp: Time {
                seconds: 5,
                nanos: 60,
            },
            ..Entry::default()
        };
        assert_eq!(
            entry.json(),
            concat!(
                r#"{"severity":"info","source":"nim","content":"a\u003cb\u003e \u0026 \"c\"\\\t\u0001\u2028"#,
                "\u{7f}é\",",
                r#""msgid":7,"tags":{"a":"1","b":"2"},"timestamp":{"seconds":5,"nanos":60}}"#
            )
        );
        assert_eq!(Entry::default().json(), r#"{"timestamp":{}}"#);
    }

    #[test]
    fn times_before_1970_count_down_from_whole_seconds() {
        let at: Timestamp = "1969-12-31T23:59:58.5Z".parse().unwrap();
        let expected = Time {
            seconds: -2,
            nanos: 500_000_000,
        };
        assert_eq!(Time::from(at), expected);
    }

    proptest! {
        #[test]
        fn any_text_is_read_back(content in any::<String>(), source in any::<String>(), msgid: u64) {
            let entry = Entry { source, content, msgid, ..Entry::default() };
            let json = entry.json();
            prop_assert!(!json.contains(['\n', '<', '&']));
            prop_assert_eq!(serde_json::from_str::<Entry>(&json).unwrap(), entry);
        }
    }
}
