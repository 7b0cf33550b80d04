//! The JSON that the controller speaks with people's tools, and a [`Client`] for it.
//!
//! Plain HTTP on an address of its own, every request with `Authorization: Bearer <token>`; the
//! token lies in the controller's directory, readable by its owner only. [`crate::serve::admin`]
//! is the other side.

mod client;
pub mod files;
mod trust;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

pub use client::{Client, ClientError};
pub use trust::*;

use crate::config::Problem;
use crate::config::deploy::Options;
use crate::decide::messages::Kind;
use crate::store::apps::AppOrders;
use crate::store::devices::Orders;

/// A time as text, RFC 3339; none for 0.
pub fn time(ms: i64) -> Option<String> {
    if ms == 0 {
        return None;
    }
    jiff::Timestamp::from_millisecond(ms)
        .ok()
        .map(|t| t.to_string())
}

/// A device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceView {
    /// The UUID that we gave it.
    pub uuid: Uuid,
    /// What people call it.
    pub name: String,
    /// The serial that it was admitted by.
    pub serial: String,
    /// The serial that its installer chose.
    pub soft_serial: String,
    /// SHA-256 of its certificate's DER, hex.
    pub cert: String,
    /// Whether it may come in.
    pub claimed: bool,
    /// When it was entered.
    pub created: Option<String>,
    /// Last contact.
    pub seen: Option<String>,
    /// `v1` or `v2`, how it last spoke.
    pub api: String,
    /// Version of its configuration.
    pub version: i64,
    /// Version that it was last sent.
    pub sent_version: i64,
    /// When it attested last.
    pub attested: Option<String>,
    /// How that went.
    pub attestation: String,
    /// Names of its applications.
    pub apps: Vec<String>,
    /// Orders given.
    pub orders: Orders,
    /// How its secrets are sent; only for a device shown alone.
    #[serde(default)]
    pub secrets: String,
}

/// Entering a device that has no onboarding certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewDevice {
    /// Its certificate, PEM.
    pub cert: String,
    /// What people call it.
    pub name: String,
    /// Its serial.
    #[serde(default)]
    pub serial: String,
    /// It waits for a claim.
    #[serde(default)]
    pub hold: bool,
}

/// Admitting a device that waits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// A better name for it.
    #[serde(default)]
    pub name: Option<String>,
}

/// Admitting serials.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewAdmission {
    /// Onboarding certificate, PEM; the one of `evc init` without it.
    #[serde(default)]
    pub cert: Option<String>,
    /// Hardware or soft serial; `*` admits any.
    pub serial: String,
    /// Name for the device.
    #[serde(default)]
    pub name: Option<String>,
    /// Registered devices wait for a claim.
    #[serde(default)]
    pub hold: bool,
    /// The claim needs a code, which is made now.
    #[serde(default)]
    pub code: bool,
    /// The endorsement key of the TPM that the device must be in: SHA-256 of its public key, hex.
    #[serde(default)]
    pub ek: Option<String>,
}

/// An order to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceOrder {
    /// Reboot.
    Reboot,
    /// Stop all applications and switch off.
    Shutdown,
    /// Attest again before the next configuration.
    Attest,
}

/// An order to an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppOrder {
    /// Stop and start again.
    Restart,
    /// Start again with fresh volumes.
    Purge,
    /// Run.
    Start,
    /// Don't run.
    Stop,
}

/// The body of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order<T> {
    /// What to do.
    pub order: T,
}

/// What an order came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordered {
    /// Counter of this kind of order; none for those that have none.
    pub counter: Option<u32>,
    /// Version of the configuration that carries it.
    pub version: i64,
}

/// What a device should be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigView {
    /// Version of it.
    pub version: i64,
    /// The hash that the device compares.
    pub hash: String,
    /// How its secrets are sent.
    #[serde(default)]
    pub secrets: String,
    /// In the operator's words.
    pub spec: Value,
    /// As the device receives it (proto3 JSON of `EdgeDevConfig`).
    pub config: Value,
}

/// Saying what devices should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apply {
    /// YAML documents, one per device.
    pub yaml: String,
    /// Only check.
    #[serde(default)]
    pub dry_run: bool,
}

/// What applying one document came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The device.
    pub device: String,
    /// Version of its configuration now.
    pub version: i64,
    /// Whether anything changed.
    pub changed: bool,
}

/// Putting an application on a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deploy {
    /// The VMManifest.
    pub manifest: Value,
    /// What it leaves open.
    #[serde(default)]
    pub options: Options,
}

/// What that came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployed {
    /// Name of the application.
    pub app: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// Version of the configuration that carries it.
    pub version: i64,
    /// What people should know.
    pub notes: Vec<String>,
}

/// An application: what it should be and what the device says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppView {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// Name of its device.
    pub device: String,
    /// Whether it should run.
    pub activate: bool,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory, bytes.
    pub memory: u64,
    /// Orders given.
    pub orders: AppOrders,
    /// State as reported, such as `RUNNING`; none before the first report.
    pub state: Option<String>,
    /// Addresses as reported.
    pub addresses: Vec<String>,
    /// Errors as reported.
    pub errors: Vec<String>,
    /// When that was reported.
    pub reported: Option<String>,
}

/// One report of a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MessageView {
    /// Grows with time of receipt.
    pub id: i64,
    /// UUID of the device.
    pub device: String,
    /// What it tells about, such as `app/<uuid>`.
    pub object: String,
    /// When the device made it.
    pub made: Option<String>,
    /// When it came.
    pub received: Option<String>,
    /// The message as proto3 JSON.
    pub message: Value,
}

/// Which reports are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageQuery {
    /// What kind.
    pub kind: Kind,
    /// Name, UUID or serial of one device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// One object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Only the newest of each object.
    #[serde(default)]
    pub latest: bool,
    /// Only those after this number, going forward; without it the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
    /// At most so many.
    #[serde(default = "hundred")]
    pub limit: u32,
    /// Wait so many seconds for the first one.
    #[serde(default)]
    pub wait: u64,
}

fn hundred() -> u32 {
    100
}

impl MessageQuery {
    /// The newest hundred of a kind.
    pub fn of(kind: Kind) -> Self {
        Self {
            kind,
            device: None,
            object: None,
            latest: false,
            after: None,
            limit: 100,
            wait: 0,
        }
    }
}

/// One log line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogView {
    /// Grows with time of receipt.
    pub id: i64,
    /// UUID of the device.
    pub device: String,
    /// UUID of the application, none for the device's own.
    pub app: Option<String>,
    /// When it was written.
    pub time: Option<String>,
    /// `debug`, `info`, `warning`, `error`, ...
    pub severity: String,
    /// The program that wrote it.
    pub source: String,
    /// The text.
    pub content: String,
    /// Counts the device's lines: a number that is missing is a line that is missing. 0 where it does not count.
    #[serde(default)]
    pub msgid: u64,
    /// More about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

/// Which log lines are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogQuery {
    /// Name, UUID or serial of one device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Name or UUID of one application (a name needs `device`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// One program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Only those after this number, going forward; without it the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
    /// At most so many.
    #[serde(default = "hundred")]
    pub limit: u32,
    /// Wait so many seconds for the first one.
    #[serde(default)]
    pub wait: u64,
}

/// The body of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorView {
    /// What is wrong.
    pub error: String,
    /// All that is wrong with a document.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}
