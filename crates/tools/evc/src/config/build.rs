//! The device's part of the configuration, and the checks that hold for all parts.

use std::collections::BTreeMap;

use api::config::{ConfigItem, DeviceOpsCmd, EdgeDevConfig, UuiDandVersion};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pbjson_types::Timestamp;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::read::closest;
use super::spec::DeviceSpec;
use super::{Problem, Problems, build_app, build_network, build_storage};
use crate::store::apps::AppOrders;
use crate::store::devices::Orders;

/// What the configuration needs besides the spec.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// The device.
    pub device: Uuid,
    /// What people call it.
    pub name: String,
    /// Version of its configuration.
    pub version: i64,
    /// When that was made, milliseconds since 1970.
    pub changed_ms: i64,
    /// Orders to the device.
    pub orders: Orders,
    /// Orders to its applications, by name.
    pub app_orders: BTreeMap<String, AppOrders>,
    /// Changes with the controller's certificates.
    pub certs_hash: String,
    /// Changes when the controller lost what the device has reported.
    pub epoch: i64,
}

/// A configuration and its hash.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    /// What the device gets.
    pub config: EdgeDevConfig,
    /// How it tells versions apart.
    pub hash: String,
}

/// The UUID of an object: the same for the same device, kind and name.
pub fn object_id(device: Uuid, kind: &str, name: &str) -> Uuid {
    Uuid::new_v5(&device, format!("{kind}/{name}").as_bytes())
}

/// Builds the configuration or says all that is wrong with the spec.
pub fn build(spec: &DeviceSpec, identity: &Identity) -> Result<Built, Problems> {
    let mut check = Check::new(spec, identity.device);
    let networks = build_network::networks(spec, &mut check);
    let (device_io_list, system_adapter_list) = build_network::ports(spec, &mut check);
    let network_instances = build_network::instances(spec, &mut check);
    let datastores = build_storage::datastores(spec, &mut check);
    let content_info = build_storage::content_trees(spec, &mut check);
    let generations = build_storage::generations(spec, &identity.app_orders);
    let volumes = build_storage::volumes(spec, &generations, &mut check);
    let apps = build_app::apps(spec, identity, &generations, &mut check);
    if !check.problems.is_empty() {
        return Err(Problems(check.problems));
    }
    let config = EdgeDevConfig {
        id: Some(UuiDandVersion {
            uuid: identity.device.to_string(),
            version: identity.version.to_string(),
        }),
        apps,
        networks,
        datastores,
        reboot: command(identity.orders.reboots, identity.orders.reboot_ms),
        config_items: spec
            .properties
            .iter()
            .map(|(key, value)| ConfigItem {
                key: key.clone(),
                value: value.to_string(),
            })
            .collect(),
        system_adapter_list,
        device_io_list,
        manufacturer: spec.labels.manufacturer.clone(),
        product_name: spec.labels.product.clone(),
        network_instances,
        content_info,
        volumes,
        controllercert_confighash: identity.certs_hash.clone(),
        maintenance_mode: spec.maintenance_mode,
        controller_epoch: identity.epoch,
        shutdown: command(identity.orders.shutdowns, identity.orders.shutdown_ms),
        device_name: identity.name.clone(),
        project_name: spec.labels.project.clone(),
        enterprise_name: spec.labels.enterprise.clone(),
        config_timestamp: Some(timestamp(identity.changed_ms)),
        ..EdgeDevConfig::default()
    };
    let hash = config_hash(&config);
    Ok(Built { config, hash })
}

/// The hash that devices compare: of the configuration's JSON with sorted keys, since the order of
/// entries in encoded maps changes from one encoding to the next.
pub fn config_hash(config: &EdgeDevConfig) -> String {
    let mut digest = Sha256::new();
    match serde_json::to_value(config) {
        Ok(value) => feed(&value, &mut digest),
        // Not reachable for messages without non-finite numbers; any constant is correct then,
        // as long as it never equals a real hash.
        Err(error) => digest.update(error.to_string()),
    }
    URL_SAFE_NO_PAD.encode(digest.finalize())
}

fn feed(value: &serde_json::Value, digest: &mut Sha256) {
    match value {
        serde_json::Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            digest.update(b"{");
            for (key, inner) in sorted {
                feed(&serde_json::Value::String(key.clone()), digest);
                feed(inner, digest);
            }
            digest.update(b"}");
        }
        serde_json::Value::Array(items) => {
            digest.update(b"[");
            for item in items {
                feed(item, digest);
            }
            digest.update(b"]");
        }
        leaf => {
            digest.update(leaf.to_string());
            digest.update(b",");
        }
    }
}

fn command(counter: u32, at_ms: i64) -> Option<DeviceOpsCmd> {
    (counter > 0).then(|| DeviceOpsCmd {
        counter,
        desired_state: true,
        ops_time: text(at_ms),
    })
}

/// A time as text, RFC 3339.
pub(super) fn text(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms)
        .map(|t| t.to_string())
        .unwrap_or_default()
}

fn timestamp(at_ms: i64) -> Timestamp {
    let nanos = i32::try_from(at_ms.rem_euclid(1000) * 1_000_000).unwrap_or_default();
    Timestamp {
        seconds: at_ms.div_euclid(1000),
        nanos,
    }
}

/// Collects problems and resolves names.
pub(super) struct Check<'a> {
    pub(super) device: Uuid,
    pub(super) problems: Vec<Problem>,
    names: BTreeMap<&'static str, Vec<&'a str>>,
}

impl<'a> Check<'a> {
    fn new(spec: &'a DeviceSpec, device: Uuid) -> Self {
        let mut check = Self {
            device,
            problems: Vec::new(),
            names: BTreeMap::new(),
        };
        check.register(
            "network",
            "networks",
            spec.networks.iter().map(|x| x.name.as_str()),
        );
        check.register("port", "ports", spec.ports.iter().map(|x| x.name.as_str()));
        check.register(
            "datastore",
            "datastores",
            spec.datastores.iter().map(|x| x.name.as_str()),
        );
        check.register(
            "image",
            "images",
            spec.images.iter().map(|x| x.name.as_str()),
        );
        check.register(
            "volume",
            "volumes",
            spec.volumes.iter().map(|x| x.name.as_str()),
        );
        check.register(
            "network instance",
            "network_instances",
            spec.network_instances.iter().map(|x| x.name.as_str()),
        );
        check.register("app", "apps", spec.apps.iter().map(|x| x.name.as_str()));
        check
    }

    fn register(&mut self, kind: &'static str, list: &str, names: impl Iterator<Item = &'a str>) {
        let mut known: Vec<&str> = Vec::new();
        for (i, name) in names.enumerate() {
            let path = format!("{list}[{i}].name");
            if name.trim().is_empty() {
                self.problem(path, "is empty");
            } else if known.contains(&name) {
                self.problem(path, format!("there is another {kind} called {name:?}"));
            }
            known.push(name);
        }
        self.names.insert(kind, known);
    }

    pub(super) fn problem(&mut self, path: impl Into<String>, what: impl Into<String>) {
        self.problems.push(Problem::new(path, what));
    }

    /// The UUID of the object that `path` refers to by name.
    pub(super) fn reference(&mut self, kind: &'static str, name: &str, path: &str) -> String {
        let known = self.names.get(kind).map(Vec::as_slice).unwrap_or_default();
        if !known.contains(&name) {
            let hint = match closest(name, known.iter().copied()) {
                Some(meant) => format!("; did you mean {meant:?}?"),
                None if known.is_empty() => "; there is none".to_owned(),
                None => format!("; there are {}", known.join(", ")),
            };
            self.problem(path, format!("no {kind} called {name:?}{hint}"));
        }
        object_id(self.device, kind, name).to_string()
    }

    /// Checks that `text` is empty or parses as `T`.
    pub(super) fn parses<T: std::str::FromStr>(&mut self, text: &str, path: &str, what: &str) {
        if !text.is_empty() && text.parse::<T>().is_err() {
            self.problem(path, format!("{text:?} is not {what}"));
        }
    }

    /// Checks that every text parses as an IP address.
    pub(super) fn addresses(&mut self, texts: &[String], path: &str) {
        for (i, text) in texts.iter().enumerate() {
            self.parses::<std::net::IpAddr>(text, &format!("{path}[{i}]"), "an IP address");
        }
    }
}
