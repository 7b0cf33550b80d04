//! What newlogd did not keep of what units and guests print.

use std::collections::BTreeMap;

use super::Asked;
use crate::{Device, words};

/// Lines of one source that are missing in the logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unkept {
    /// A service or an application.
    pub asked: Asked,
    /// Its key on the bus.
    pub key: String,
    /// Its name for people.
    pub name: String,
    /// What is missing.
    pub text: String,
}

/// Sources that print more than is kept of them, since newlogd started.
pub fn unkept(device: &Device) -> Vec<Unkept> {
    let Some(logs) = device.newlog.get("global") else {
        return Vec::new();
    };
    let mut missing: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (source, lines) in &logs.lines_limited {
        let lines = words::count(usize::try_from(*lines).unwrap_or(usize::MAX), "line");
        let text = format!("{lines} too many, not kept");
        missing.entry(source).or_default().push(text);
    }
    for (source, bytes) in &logs.bytes_missed {
        let text = format!("{} overwritten before they were read", words::size(*bytes));
        missing.entry(source).or_default().push(text);
    }
    let unkept = missing.into_iter().map(|(source, texts)| {
        let app = source.strip_prefix("app ");
        let (asked, key) = app.map_or((Asked::Service, source), |app| (Asked::App, app));
        let name = app
            .and_then(|app| device.app_name(app))
            .map_or_else(|| words::short(source), |name| format!("app {name}"));
        Unkept {
            asked,
            key: key.to_owned(),
            name,
            text: texts.join(", "),
        }
    });
    unkept.collect()
}
