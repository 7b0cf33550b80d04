//! Configs on the disk. What the controller did not sign is not taken (version 2), what is not for this
//! device or is older is not taken at all (both), and then what was in force stays in force.

use std::{sync::Arc, time::Duration};

use api::config::ConfigResponse;
use controller::ApiVersion;
use jiff::SignedDuration;
use model::{id::DeviceId, node::ConfigSource};
use prost::Message as _;
use zedagent::{
    facts::{Facts, Moment},
    saved_config,
    translate::timestamp,
};

use crate::{
    config::{device, example, message, sound},
    keys::{CERTS, now, sealed},
};

fn moment(seconds: i64) -> Moment {
    Moment {
        now: now() + SignedDuration::from_secs(seconds),
        uptime: Duration::from_secs(100),
    }
}

/// Reads it as both versions do, over a config that is in force.
pub fn check(bytes: &[u8]) {
    assert!(saved_config(bytes, ApiVersion::V2, None).is_err());
    let signed = saved_config(bytes, ApiVersion::V2, Some(&CERTS));
    if let Ok(response) = &signed {
        assert!(responses().contains(response), "never signed");
    }
    let bare = saved_config(bytes, ApiVersion::V1, None);
    for response in [signed, bare].into_iter().flatten() {
        taken(&response, device());
        taken(&response, DeviceId::default());
    }
}

fn taken(response: &ConfigResponse, device: DeviceId) {
    let mut facts = Facts::default();
    let first = facts.received(&good(), ConfigSource::Controller, self::device(), moment(0));
    assert!(first, "the example");
    let before = facts.in_force.clone().expect("a config");
    let is_taken = facts.received(response, ConfigSource::Saved, device, moment(5));
    let after = facts.in_force.clone().expect("there was one");
    if !is_taken {
        assert!(Arc::ptr_eq(&before, &after), "refused, and yet in force");
        assert_eq!(facts.refused.is_some(), response.config.is_some());
        return;
    }
    let config = response.config.as_ref().expect("something was taken");
    assert_eq!(after.device, device);
    assert_eq!(after.source, ConfigSource::Saved);
    assert_eq!(after.made, timestamp(config));
    if device == self::device() {
        assert!(after.made.is_none() || after.made >= before.made, "older");
    }
    sound(config, &after.content);
    // Once more is the same.
    assert!(facts.received(response, ConfigSource::Saved, device, moment(5)));
    assert_eq!(
        facts.in_force.map(|c| c.content.clone()),
        Some(after.content.clone())
    );
}

fn good() -> ConfigResponse {
    ConfigResponse {
        config: Some(message(&example())),
        config_hash: "first".to_owned(),
    }
}

fn responses() -> Vec<ConfigResponse> {
    let mut later = good();
    "later".clone_into(&mut later.config_hash);
    if let Some(config) = &mut later.config {
        config.apps.pop();
        if let Some(at) = &mut config.config_timestamp {
            at.seconds += 60;
        }
    }
    let empty = ConfigResponse::default();
    vec![good(), later, empty]
}

/// Answers in the envelope and without.
pub fn seeds() -> Vec<Vec<u8>> {
    let bare: Vec<Vec<u8>> = responses()
        .iter()
        .map(ConfigResponse::encode_to_vec)
        .collect();
    let mut seeds: Vec<Vec<u8>> = bare.iter().map(|bytes| sealed(bytes)).collect();
    seeds.extend(bare);
    seeds
}
