//! Configuration properties: a bad one keeps its last good value and says why.

use std::collections::BTreeMap;

use model::config_item::{ConfigItemValueMap, parse_item};

/// The properties in force after a config with `items`, given those `before` it. A property that the
/// config no longer names returns to its default.
pub fn config_items(items: &[(String, String)], before: &ConfigItemValueMap) -> ConfigItemValueMap {
    let mut now = ConfigItemValueMap {
        values: BTreeMap::new(),
        errors: BTreeMap::new(),
    };
    for (name, value) in items {
        let name = name.trim();
        match parse_item(name, value) {
            Ok(value) => {
                now.values.insert(name.to_owned(), value);
            }
            Err(error) => {
                now.errors.insert(name.to_owned(), error.to_string());
                if let Some(last_good) = before.values.get(name) {
                    now.values.insert(name.to_owned(), last_good.clone());
                }
            }
        }
    }
    now
}
