//! Configuration properties: names, ranges and defaults (`docs/properties.md` is generated from here).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::access::{self, KeysError, keys_text, parse_keys};

/// Value range of a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemKind {
    /// A whole number between two bounds, both included.
    Int {
        /// Default.
        default: u64,
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// `true` or `false`.
    Bool {
        /// Default.
        default: bool,
    },
    /// `none`, `enabled` or `disabled`.
    TriState {
        /// Default.
        default: &'static str,
    },
    /// Any text.
    Text {
        /// Default.
        default: &'static str,
    },
    /// A log level: `trace`, `debug`, `info`, `warning`, `error`.
    LogLevel {
        /// Default.
        default: &'static str,
    },
    /// OpenSSH public keys, one a line; empty by default.
    SshKeys,
    /// Known from the Go implementation, has no effect here.
    NoEffect,
}

/// A property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ItemSpec {
    /// Its name in the controller's config.
    pub name: &'static str,
    /// Its range.
    pub kind: ItemKind,
    /// One sentence for the reference page.
    pub help: &'static str,
}

const fn int(name: &'static str, default: u64, min: u64, max: u64, help: &'static str) -> ItemSpec {
    ItemSpec {
        name,
        kind: ItemKind::Int { default, min, max },
        help,
    }
}
const fn flag(name: &'static str, default: bool, help: &'static str) -> ItemSpec {
    ItemSpec {
        name,
        kind: ItemKind::Bool { default },
        help,
    }
}
const fn text(name: &'static str, default: &'static str, help: &'static str) -> ItemSpec {
    ItemSpec {
        name,
        kind: ItemKind::Text { default },
        help,
    }
}
const fn level(name: &'static str, help: &'static str) -> ItemSpec {
    ItemSpec {
        name,
        kind: ItemKind::LogLevel { default: "info" },
        help,
    }
}

const ANY: u64 = u32::MAX as u64;
const GIB: u64 = 1 << 30;

/// Every property that the device knows, by name. A property is listed with the capability that obeys it.
pub const ITEMS: &[ItemSpec] = &[
    int(
        "timer.config.interval",
        60,
        5,
        86_400,
        "Seconds between two requests for the config.",
    ),
    int(
        "timer.metric.interval",
        60,
        5,
        3600,
        "Seconds between two reports of metrics.",
    ),
    int(
        "timer.deviceinfo.interval",
        600,
        30,
        ANY,
        "Seconds between two reports of an unchanged device.",
    ),
    int(
        "timer.cert.interval",
        86_400,
        60,
        ANY,
        "Seconds between two fetches of the controller's certificates.",
    ),
    int(
        "timer.send.timeout",
        120,
        0,
        3600,
        "Seconds that a request may take over one port.",
    ),
    int(
        "timer.dial.timeout",
        10,
        0,
        3600,
        "Seconds that a connection may take.",
    ),
    int(
        "timer.download.retry",
        600,
        60,
        ANY,
        "Seconds until a refused download is tried again.",
    ),
    int(
        "timer.download.stalled",
        600,
        20,
        ANY,
        "Seconds without a byte after which a download is begun anew.",
    ),
    int(
        "network.download.max.cost",
        0,
        0,
        255,
        "Highest cost of a port that downloads may use.",
    ),
    ItemSpec {
        name: "network.fallback.any.eth",
        kind: ItemKind::TriState {
            default: "disabled",
        },
        help: "Use DHCP on every Ethernet port when no configured port exists, though one has worked before.",
    },
    int(
        "timer.boot.retry",
        600,
        10,
        ANY,
        "Seconds until a guest that did not start is tried again.",
    ),
    int(
        "storage.dom0.disk.minusage.percent",
        20,
        20,
        80,
        "Percent of /persist kept for the device itself.",
    ),
    int(
        "storage.dom0.disk.maxusagebytes",
        2 * GIB,
        0,
        u64::MAX,
        "Most bytes of /persist kept for the device itself.",
    ),
    flag(
        "datastore.http.security.allowinsecureauth",
        false,
        "Log in to datastores over plain HTTP too, where anybody on the way can read the password.",
    ),
    flag(
        "storage.apps.ignore.disk.check",
        false,
        "Make volumes even if the disk may become full.",
    ),
    flag(
        "memory.apps.ignore.check",
        false,
        "Start guests even if memory may become scarce.",
    ),
    ItemSpec {
        name: "maintenance.mode",
        kind: ItemKind::TriState { default: "none" },
        help: "Take on no new application and no other base OS: enabled; disabled: whatever else asks for it; none: when the config or the device itself has a reason.",
    },
    text(
        "vault.allow.clean",
        "",
        "Name of a vault's key (hex, from the vault's status): a vault that this key locks may be emptied and made anew. All volumes in it are lost.",
    ),
    ItemSpec {
        name: access::SSH,
        kind: ItemKind::SshKeys,
        help: "Public keys (OpenSSH lines without options) that may log in as root over the network, for as long as they stand here; empty: nobody listens.",
    },
    flag(
        access::CONSOLE,
        false,
        "Run a shell on the serial console, for whoever has its cable.",
    ),
    flag(access::USB, false, "Let USB keyboards and disks be used."),
    flag(
        access::VGA,
        false,
        "Run a shell on the screen, for whoever has a keyboard.",
    ),
    text(
        "vmm.accel",
        "auto",
        "What runs guests' instructions: auto, kvm or tcg.",
    ),
    level(
        "debug.default.loglevel",
        "Log level of every service that has none of its own.",
    ),
    level("agent.*.debug.loglevel", "Log level of the named service."),
    level(
        "debug.default.remote.loglevel",
        "Least level of services' lines that go to the controller.",
    ),
    level(
        "agent.*.debug.remote.loglevel",
        "Least level of the named service's lines that go to the controller.",
    ),
    level(
        "debug.syslog.loglevel",
        "Least level of lines of helper programs (dnsmasq, QEMU) that are kept.",
    ),
    level(
        "debug.syslog.remote.loglevel",
        "Least level of lines of helper programs that go to the controller.",
    ),
    level(
        "debug.kernel.loglevel",
        "Least level of the kernel's messages that are kept.",
    ),
    level(
        "debug.kernel.remote.loglevel",
        "Least level of the kernel's messages that go to the controller.",
    ),
    flag(
        "newlog.allow.fastupload",
        false,
        "Make log files every 10 s and send one every 3 s.",
    ),
    int(
        "newlog.gzipfiles.ondisk.maxmegabytes",
        2048,
        10,
        ANY,
        "Megabytes of log files kept, at most a tenth of /persist; the oldest are removed first.",
    ),
];

/// The spec of a property, also of those with a service's name in the middle.
pub fn spec(name: &str) -> Option<&'static ItemSpec> {
    ITEMS.iter().find(|s| match s.name.split_once('*') {
        None => s.name == name,
        Some((head, tail)) => {
            name.len() > head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail)
        }
    })
}

/// Values in force: only those that differ from the default are listed.
/// Topic `zedagent/ConfigItemValueMap` (persistent), key `global`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ConfigItemValueMap {
    /// Name to value in its canonical text.
    #[serde(default)]
    pub values: BTreeMap<String, String>,
    /// Properties of the config that were refused, and why.
    #[serde(default)]
    pub errors: BTreeMap<String, String>,
}

impl ConfigItemValueMap {
    /// A whole number, the default when it is not set or not readable.
    pub fn int(&self, name: &str) -> u64 {
        match spec(name).map(|s| s.kind) {
            Some(ItemKind::Int { default, min, max }) => self
                .values
                .get(name)
                .and_then(|v| v.parse().ok())
                .filter(|v| (min..=max).contains(v))
                .unwrap_or(default),
            _ => 0,
        }
    }

    /// A duration of whole seconds.
    pub fn seconds(&self, name: &str) -> std::time::Duration {
        std::time::Duration::from_secs(self.int(name))
    }

    /// A flag.
    pub fn flag(&self, name: &str) -> bool {
        match spec(name).map(|s| s.kind) {
            Some(ItemKind::Bool { default }) => {
                self.values.get(name).map_or(default, |v| v == "true")
            }
            _ => false,
        }
    }

    /// A text.
    pub fn text(&self, name: &str) -> &str {
        let default = match spec(name).map(|s| s.kind) {
            Some(
                ItemKind::Text { default }
                | ItemKind::LogLevel { default }
                | ItemKind::TriState { default },
            ) => default,
            _ => "",
        };
        self.values.get(name).map_or(default, String::as_str)
    }

    /// The log level of a service.
    pub fn log_level(&self, service: &str) -> &str {
        self.level_of(service, "debug.loglevel", "debug.default.loglevel")
    }

    /// The least level of a service's lines that go to the controller.
    pub fn remote_log_level(&self, service: &str) -> &str {
        self.level_of(
            service,
            "debug.remote.loglevel",
            "debug.default.remote.loglevel",
        )
    }

    fn level_of(&self, service: &str, own: &str, default: &str) -> &str {
        match self.values.get(&format!("agent.{service}.{own}")) {
            Some(level) => level,
            None => self.text(default),
        }
    }
}

/// Why a property is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    /// No such name.
    #[error("unknown property{}", .0.as_ref().map(|n| format!("; did you mean {n}?")).unwrap_or_default())]
    Unknown(Option<String>),
    /// Not of the property's form.
    #[error("{value:?} is not {expected}")]
    Value {
        /// What was given, cut to 80 characters.
        value: String,
        /// What is accepted.
        expected: String,
    },
    /// Not a list of keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
}

/// Checks one property and gives its canonical text.
pub fn parse_item(name: &str, value: &str) -> Result<String, ItemError> {
    let spec = spec(name).ok_or_else(|| ItemError::Unknown(nearest(name)))?;
    let value = value.trim();
    let bad = |expected: String| ItemError::Value {
        value: value.chars().take(80).collect(),
        expected,
    };
    match spec.kind {
        ItemKind::Int { min, max, .. } => match value.parse::<u64>() {
            Ok(n) if (min..=max).contains(&n) => Ok(n.to_string()),
            _ => Err(bad(format!("a whole number from {min} to {max}"))),
        },
        ItemKind::Bool { .. } => match value.to_ascii_lowercase().as_str() {
            "true" | "1" => Ok("true".to_owned()),
            "false" | "0" => Ok("false".to_owned()),
            _ => Err(bad("true or false".to_owned())),
        },
        ItemKind::TriState { .. } => match value.to_ascii_lowercase().as_str() {
            "none" => Ok("none".to_owned()),
            "enabled" | "enable" | "on" => Ok("enabled".to_owned()),
            "disabled" | "disable" | "off" => Ok("disabled".to_owned()),
            _ => Err(bad("none, enabled or disabled".to_owned())),
        },
        ItemKind::LogLevel { .. } => match value.to_ascii_lowercase().as_str() {
            "warn" => Ok("warning".to_owned()),
            l @ ("trace" | "debug" | "info" | "warning" | "error") => Ok(l.to_owned()),
            _ => Err(bad("trace, debug, info, warning or error".to_owned())),
        },
        ItemKind::SshKeys => Ok(keys_text(&parse_keys(value)?)),
        ItemKind::Text { .. } | ItemKind::NoEffect => Ok(value.to_owned()),
    }
}

/// The known name that is at most three edits away.
fn nearest(name: &str) -> Option<String> {
    ITEMS
        .iter()
        // Each edit changes the length by one letter at most: a name of megabytes is near to none.
        .filter(|s| s.name.len().abs_diff(name.len()) <= 3 * char::MAX.len_utf8())
        .map(|s| (distance(name, s.name), s.name))
        .filter(|(d, _)| *d <= 3)
        .min()
        .map(|(_, n)| n.to_owned())
}

/// Levenshtein distance; names are short.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let next = (diagonal + usize::from(ca != *cb))
                .min(row[j] + 1)
                .min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values_out_of_range_and_typos_are_named() {
        assert_eq!(
            parse_item("timer.config.interval", " 30 "),
            Ok("30".to_owned())
        );
        assert!(matches!(
            parse_item("timer.config.interval", "4"),
            Err(ItemError::Value { .. })
        ));
        assert_eq!(
            parse_item("timer.config.intervall", "30"),
            Err(ItemError::Unknown(Some("timer.config.interval".to_owned())))
        );
        assert_eq!(
            parse_item("agent.nim.debug.loglevel", "WARN"),
            Ok("warning".to_owned())
        );
    }

    #[test]
    fn who_may_log_in_is_a_list_of_keys_or_nobody() {
        assert_eq!(parse_item(access::SSH, "  \n"), Ok(String::new()));
        let error = parse_item(access::SSH, "true").unwrap_err();
        assert!(matches!(error, ItemError::Keys(KeysError { line: 1, .. })));
        assert_eq!(ConfigItemValueMap::default().text(access::SSH), "");
        for name in [access::CONSOLE, access::USB, access::VGA] {
            assert!(!ConfigItemValueMap::default().flag(name), "{name}");
        }
    }

    #[test]
    fn the_services_own_level_wins() {
        let mut items = ConfigItemValueMap::default();
        assert_eq!(items.log_level("nim"), "info");
        items
            .values
            .insert("debug.default.loglevel".to_owned(), "error".to_owned());
        assert_eq!(items.log_level("nim"), "error");
        items
            .values
            .insert("agent.nim.debug.loglevel".to_owned(), "trace".to_owned());
        assert_eq!(
            (items.log_level("nim"), items.log_level("zedagent")),
            ("trace", "error")
        );
        assert_eq!(items.int("timer.config.interval"), 60);
        let remote = parse_item("agent.nim.debug.remote.loglevel", "error").unwrap_or_default();
        items
            .values
            .insert("agent.nim.debug.remote.loglevel".to_owned(), remote);
        assert_eq!(
            (
                items.remote_log_level("nim"),
                items.remote_log_level("zedagent")
            ),
            ("error", "info")
        );
    }
}
