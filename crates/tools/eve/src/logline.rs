//! A line of a log: JSON of a service, or whatever a helper printed.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    output::{Output, Paint, printable},
    words,
};

/// Importance. The order is that of importance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
pub enum Level {
    /// Everything
    Trace,
    /// For debugging
    Debug,
    /// Events
    Info,
    /// What may need attention
    #[value(alias = "warn")]
    Warning,
    /// What went wrong
    Error,
}

/// A line as it was meant.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Line {
    /// When, if the line says so.
    pub at: Option<Timestamp>,
    /// The unit that printed it.
    pub unit: String,
    /// Its importance; lines that don't say count as info.
    pub level: Level,
    /// What it says.
    pub text: String,
    /// What else it says, by name.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
}

/// Reads a line of `unit`'s log. Anything is a line.
pub fn parse(unit: &str, line: &str) -> Line {
    let mut plain = Line {
        at: None,
        unit: unit.to_owned(),
        level: Level::Info,
        text: line.to_owned(),
        fields: Map::new(),
    };
    let Ok(Value::Object(mut fields)) = serde_json::from_str::<Value>(line) else {
        return plain;
    };
    let Some(Value::String(at)) = fields.get("timestamp") else {
        return plain;
    };
    let Ok(at) = at.parse() else { return plain };
    plain.at = Some(at);
    fields.remove("timestamp");
    plain.level = match fields.remove("level").as_ref().and_then(Value::as_str) {
        Some("TRACE") => Level::Trace,
        Some("DEBUG") => Level::Debug,
        Some("WARN") => Level::Warning,
        Some("ERROR") => Level::Error,
        Some(_) | None => Level::Info,
    };
    plain.text = match fields.remove("message") {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    };
    // Where in the code matters when debugging only.
    if plain.level >= Level::Info {
        fields.remove("target");
    }
    plain.fields = fields;
    plain
}

/// A line for people. `width` is that of the units' names.
pub fn text(out: Output, line: &Line, width: usize) -> String {
    let Line {
        at,
        unit,
        level,
        text,
        fields,
    } = line;
    let (word, paint) = match level {
        Level::Trace => ("trace", Paint::Dim),
        Level::Debug => ("debug", Paint::Dim),
        Level::Info => ("info ", Paint::Plain),
        Level::Warning => ("WARN ", Paint::Busy),
        Level::Error => ("ERROR", Paint::Bad),
    };
    let time = at.map_or_else(
        || " ".repeat(24),
        |at| at.strftime("%Y-%m-%d %H:%M:%S%.3fZ").to_string(),
    );
    let name = printable(&short_unit(unit));
    let mut line = format!(
        "{} {} {name:width$}  {}",
        out.paint(Paint::Dim, &time),
        out.paint(paint, word),
        out.paint(paint, &printable(text))
    );
    for (name, value) in fields {
        let value = match value {
            Value::String(text) if !text.is_empty() && !text.contains([' ', '"', '=']) => {
                text.clone()
            }
            other => other.to_string(),
        };
        let _ = write!(
            line,
            " {}",
            out.paint(Paint::Dim, &printable(&format!("{name}={value}")))
        );
    }
    line.truncate(line.trim_end().len());
    line.push('\n');
    line
}

/// A unit's name with ids shortened.
pub fn short_unit(unit: &str) -> String {
    match unit.split_once('/') {
        Some((owner, name)) => format!("{owner}/{}", words::short(name)),
        None => unit.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OUT: Output = Output {
        json: false,
        colour: false,
        width: None,
    };

    #[test]
    fn a_line_of_a_service_and_one_of_a_helper() {
        let json = r#"{"timestamp":"2026-01-02T03:04:05.678901Z","level":"WARN","message":"download failed","app":"web 1","n":3,"target":"downloader::world"}"#;
        assert_eq!(
            text(OUT, &parse("nim", json), 5),
            "2026-01-02 03:04:05.678Z WARN  nim    download failed app=\"web 1\" n=3\n"
        );
        let plain = parse("zedrouter/dns-bn1", "dnsmasq: started\t1");
        assert_eq!((plain.at, plain.level), (None, Level::Info));
        assert_eq!(
            text(OUT, &plain, 0),
            "                         info  zedrouter/dns-bn1  dnsmasq: started 1\n"
        );
    }

    proptest! {
        #[test]
        fn anything_is_a_line(line in any::<String>()) {
            let shown = text(OUT, &parse("nim", &line), 3);
            prop_assert_eq!(shown.matches('\n').count(), 1);
        }
    }
}
