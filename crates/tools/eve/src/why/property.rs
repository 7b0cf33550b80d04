//! Which properties of the configuration change when a failed thing is tried again, or whether it fails.

use model::config_item::{ConfigItemValueMap, ItemKind, spec};
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
        ItemKind::TriState { .. }
        | ItemKind::Text { .. }
        | ItemKind::LogLevel { .. }
        | ItemKind::SshKeys => items.text(name).to_owned(),
        ItemKind::NoEffect => String::new(),
    };
    Some(Property {
        name: name.to_owned(),
        value,
        is_default: !items.values.contains_key(name),
        help: spec.help.to_owned(),
    })
}
