//! Who wants which volume.
//!
//! - An application's reference wants the volume in the generation that it names for the device.
//! - A volume in the config that some application refers to is wanted in exactly those generations: after a
//!   purge the next generation replaces the config's own.
//! - A volume in the config that nobody refers to is wanted in its own generation, or, when only a later one
//!   is there (a purge has replaced it, then the application went), in that one: data is kept.

use std::collections::{BTreeMap, BTreeSet};

use bus::Rows;
use model::{
    id::{AppId, VolumeKey},
    volume::{VolumeConfig, VolumeRefConfig},
};

use crate::{Actual, Desired, VolumeFile};

/// A volume that shall exist.
#[derive(Debug, Default)]
pub struct Want<'a> {
    /// How to make it; `None` when it left the config and an application still uses it.
    pub config: Option<&'a VolumeConfig>,
    /// Applications that refer to it, in order.
    pub apps: Vec<AppId>,
}

/// Every volume that shall exist, as far as is known.
pub fn wanted<'a>(desired: &'a Desired, actual: &Actual) -> BTreeMap<VolumeKey, Want<'a>> {
    let mut wants: BTreeMap<VolumeKey, Want<'a>> = BTreeMap::new();
    let none = Rows::default();
    let refs: &Rows<VolumeRefConfig> = desired.refs.as_deref().unwrap_or(&none);
    for VolumeRefConfig {
        app,
        volume,
        device_generation,
        target: _,
    } in refs.values()
    {
        let key = VolumeKey {
            volume: volume.volume,
            generation: *device_generation,
        };
        let want = wants.entry(key).or_default();
        want.config = want
            .config
            .or_else(|| desired.volumes.get(&volume.to_string()));
        if !want.apps.contains(app) {
            want.apps.push(*app);
        }
    }
    let referred: BTreeSet<VolumeKey> = refs.values().map(|r| r.volume).collect();
    for config in desired.volumes.values() {
        if !referred.contains(&config.key()) {
            let key = standing_in(config, &actual.volumes);
            wants.entry(key).or_default().config.get_or_insert(config);
        }
    }
    for want in wants.values_mut() {
        want.apps.sort();
    }
    wants
}

fn standing_in(config: &VolumeConfig, files: &BTreeMap<VolumeKey, VolumeFile>) -> VolumeKey {
    let own = config.key();
    let last = VolumeKey {
        generation: u64::MAX,
        ..own
    };
    let mut at_least = files.range(own..=last).map(|(key, _)| *key);
    match at_least.next() {
        Some(first) if first == own => own,
        first => at_least.next_back().or(first).unwrap_or(own),
    }
}
