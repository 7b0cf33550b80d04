//! What an operator writes about a device. Unknown fields are errors; everything has a default
//! that is either harmless or the usual choice.

mod app;
mod network;
mod storage;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use app::*;
pub use network::*;
pub use storage::*;

use crate::decide::attest::baseline::Measurements;
use crate::decide::config::Attestation;

/// The whole of what one device should be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceSpec {
    /// How far the device is trusted.
    pub policy: Policy,
    /// Names that the device shows and reports.
    #[serde(skip_serializing_if = "is_default")]
    pub labels: Labels,
    /// Keeps running what runs, takes nothing new.
    #[serde(skip_serializing_if = "is_default")]
    pub maintenance_mode: bool,
    /// Properties such as `timer.config.interval`; numbers and booleans are written as such.
    #[serde(skip_serializing_if = "is_default")]
    pub properties: BTreeMap<String, Property>,
    /// How ports get their addresses.
    #[serde(skip_serializing_if = "is_default")]
    pub networks: Vec<Network>,
    /// The device's hardware that is used.
    #[serde(skip_serializing_if = "is_default")]
    pub ports: Vec<Port>,
    /// Where images come from.
    #[serde(skip_serializing_if = "is_default")]
    pub datastores: Vec<Datastore>,
    /// Images.
    #[serde(skip_serializing_if = "is_default")]
    pub images: Vec<Image>,
    /// Disks of applications.
    #[serde(skip_serializing_if = "is_default")]
    pub volumes: Vec<Volume>,
    /// Networks of applications.
    #[serde(skip_serializing_if = "is_default")]
    pub network_instances: Vec<NetworkInstance>,
    /// Applications.
    #[serde(skip_serializing_if = "is_default")]
    pub apps: Vec<App>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How far a device is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// When it must attest before it gets its configuration.
    pub attestation: Attestation,
    /// Whether a device without a TPM can attest.
    pub software_key: bool,
    /// What follows from measurements that nobody has accepted.
    pub measurements: Measurements,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            attestation: Attestation::Auto,
            software_key: true,
            measurements: Measurements::Report,
        }
    }
}

impl DeviceSpec {
    /// The hardware model that baselines are kept for; none when it is not named in full.
    pub fn model(&self) -> Option<String> {
        let Labels {
            manufacturer,
            product,
            ..
        } = &self.labels;
        let known = !manufacturer.is_empty() && !product.is_empty();
        known.then(|| format!("{manufacturer}.{product}"))
    }
}

/// Names that a device shows and reports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Labels {
    /// Who made it; with `product` it overrides what the hardware says.
    pub manufacturer: String,
    /// Which model.
    pub product: String,
    /// The project that it belongs to.
    pub project: String,
    /// The enterprise that it belongs to.
    pub enterprise: String,
}

/// The value of a property.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Property {
    /// `true` or `false`.
    Flag(bool),
    /// A number.
    Number(i64),
    /// Anything else.
    Text(String),
}

impl std::fmt::Display for Property {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(v) => v.fmt(f),
            Self::Number(v) => v.fmt(f),
            Self::Text(v) => v.fmt(f),
        }
    }
}
