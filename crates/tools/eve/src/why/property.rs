//! Which properties of the configuration change when a failed thing is tried again, or whether it fails.

use model::{
    code::Code,
    config_item::{ConfigItemValueMap, ItemKind, spec},
};
use serde::Serialize;

/// A property as it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Property {
    /// Its name in the controller's config.
    pub name: String,
    /// Its value.
    pub value: String,
    /// The value is the default.
    pub is_default: bool,
    /// What it means.
    pub help: String,
}

/// A property's value and meaning; nothing for a name that is not a property.
pub(super) fn property(items: &ConfigItemValueMap, name: &str) -> Option<Property> {
    let spec = spec(name)?;
    let value = match spec.kind {
        ItemKind::Int { .. } => items.int(name).to_string(),
        ItemKind::Bool { .. } => items.flag(name).to_string(),
        ItemKind::TriState { .. } | ItemKind::Text { .. } | ItemKind::LogLevel { .. } => {
            items.text(name).to_owned()
        }
        ItemKind::NoEffect => String::new(),
    };
    Some(Property {
        name: name.to_owned(),
        value,
        is_default: !items.values.contains_key(name),
        help: spec.help.to_owned(),
    })
}

/// Names of the properties that matter for a code.
pub(super) fn names(code: Code) -> &'static [&'static str] {
    match code {
        Code::DownloadRefused
        | Code::DownloadShort
        | Code::DownloadTooBig
        | Code::DownloadWrite
        | Code::VerifyDigest => &["timer.download.retry"],
        Code::DownloadNetwork => &["timer.download.retry", "network.download.max.cost"],
        Code::DownloadStalled => &["timer.download.stalled", "timer.download.retry"],
        Code::VolumeSpace => &[
            "storage.dom0.disk.minusage.percent",
            "storage.dom0.disk.maxusagebytes",
            "storage.apps.ignore.disk.check",
        ],
        Code::DomainStart | Code::DomainCrashed => &["timer.boot.retry"],
        Code::MemoryBudget => &["memory.apps.ignore.check"],
        // What the controller did not answer is asked for again at the latest after the interval.
        Code::ConfigParse | Code::ConfigSignature | Code::ConfigForeign => {
            &["timer.config.interval"]
        }
        Code::ControllerCert => &["timer.cert.interval"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_property_that_is_named_exists() {
        let items = ConfigItemValueMap::default();
        for code in Code::ALL {
            for name in names(*code) {
                assert!(property(&items, name).is_some(), "{code}: {name}");
            }
        }
    }
}
