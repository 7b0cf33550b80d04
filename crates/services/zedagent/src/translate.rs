//! From the controller's config to the device's own objects. Pure, one file per domain.
//!
//! The config as a whole is refused when it does not belong to this device; a single bad object is
//! not: it comes out with a [`Fault`] that names the value, its consumers keep their last good
//! state, and everything else goes on.

mod app;
mod device;
mod items;
mod network;
mod port;
mod secret;
mod storage;

use std::{
    collections::{BTreeSet, btree_map::Entry},
    str::FromStr,
};

use api::config::EdgeDevConfig;
use bus::Rows;
use jiff::Timestamp;
use model::{
    adapter::PhysicalIoAdapterList,
    app::AppInstanceConfig,
    code::Code,
    content::{ContentTreeConfig, DatastoreConfig},
    fault::Fault,
    id::{DeviceId, ParseIdError},
    network::NetworkInstanceConfig,
    node::DeviceOperation,
    port::DevicePortConfig,
    security::CipherContext,
    volume::VolumeConfig,
};

pub use items::config_items;

/// Everything that the device's services are told by a config.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Translated {
    /// The keys that secrets are encrypted with.
    pub cipher_contexts: Rows<CipherContext>,
    /// Where images are.
    pub datastores: Rows<DatastoreConfig>,
    /// Images.
    pub content_trees: Rows<ContentTreeConfig>,
    /// Disks.
    pub volumes: Rows<VolumeConfig>,
    /// Networks of applications.
    pub network_instances: Rows<NetworkInstanceConfig>,
    /// Applications.
    pub apps: Rows<AppInstanceConfig>,
    /// The device's own ports; none when the config says nothing about them.
    pub ports: Option<DevicePortConfig>,
    /// What is in the box.
    pub adapters: PhysicalIoAdapterList,
    /// Properties as written: name and value.
    pub items: Vec<(String, String)>,
    /// Reboot and shutdown commands.
    pub operations: Vec<DeviceOperation>,
    /// Nothing new is to be taken on.
    pub maintenance_mode: bool,
    /// Bumped when every report is wanted again.
    pub controller_epoch: i64,
    /// Hash over the controller's certificates; a new one means to fetch them.
    pub certs_hash: String,
    /// Faults of objects that could not even be named.
    pub faults: Vec<Fault>,
}

/// Why a config as a whole is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It names no device.
    #[error("the config's device id {0:?} is not a UUID")]
    Nameless(String),
    /// It is another device's.
    #[error("the config is for device {theirs}, this is {ours}")]
    Foreign {
        /// Named in the config.
        theirs: DeviceId,
        /// This device.
        ours: DeviceId,
    },
    /// It is older than the one in force.
    #[error("the config of {theirs} is older than the one in force, of {ours}")]
    Obsolete {
        /// Its time.
        theirs: Timestamp,
        /// Of the one in force.
        ours: Timestamp,
    },
}

impl Refusal {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Nameless(_) | Self::Obsolete { .. } => Code::ConfigInvalid,
            Self::Foreign { .. } => Code::ConfigForeign,
        }
    }
}

/// When the config was made, if it says so.
pub fn timestamp(config: &EdgeDevConfig) -> Option<Timestamp> {
    let at = config.config_timestamp.as_ref()?;
    Timestamp::new(at.seconds, at.nanos).ok()
}

/// Translates a config for `device`, received at `now`.
pub fn translate(
    config: &EdgeDevConfig,
    device: DeviceId,
    in_force: Option<Timestamp>,
    now: Timestamp,
) -> Result<Translated, Refusal> {
    let id = config.id.as_ref().map_or("", |id| id.uuid.as_str());
    let theirs = DeviceId::from_str(id).map_err(|_| Refusal::Nameless(id.to_owned()))?;
    if theirs != device {
        return Err(Refusal::Foreign {
            theirs,
            ours: device,
        });
    }
    if let (Some(theirs), Some(ours)) = (timestamp(config), in_force)
        && theirs < ours
    {
        return Err(Refusal::Obsolete { theirs, ours });
    }
    let mut to = Translated::default();
    secret::contexts(config, now, &mut to);
    storage::datastores(config, now, &mut to);
    storage::content_trees(config, now, &mut to);
    storage::volumes(config, now, &mut to);
    device::adapters(config, &mut to);
    port::ports(config, now, &mut to);
    network::network_instances(config, now, &mut to);
    app::apps(config, now, &mut to);
    device::operations(config, &mut to);
    to.items = config
        .config_items
        .iter()
        .map(|item| (item.key.clone(), item.value.clone()))
        .collect();
    to.maintenance_mode = config.maintenance_mode;
    to.controller_epoch = config.controller_epoch;
    to.certs_hash.clone_from(&config.controllercert_confighash);
    Ok(to)
}

/// A problem with one value of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Problem {
    code: Code,
    text: String,
}

impl Problem {
    fn invalid(text: impl Into<String>) -> Self {
        Self {
            code: Code::ConfigInvalid,
            text: text.into(),
        }
    }

    fn dangling(text: impl Into<String>) -> Self {
        Self {
            code: Code::ConfigReference,
            text: text.into(),
        }
    }

    fn fault(self, object: String, now: Timestamp) -> Fault {
        Fault::new(self.code, object, self.text, now)
    }
}

impl From<ParseIdError> for Problem {
    fn from(error: ParseIdError) -> Self {
        Self::invalid(error.to_string())
    }
}

/// Collects the first problem of an object and goes on with a default.
#[derive(Default)]
struct Check {
    first: Option<Problem>,
}

impl Check {
    fn or_default<T: Default>(&mut self, what: &str, result: Result<T, impl Into<Problem>>) -> T {
        result.unwrap_or_else(|problem| {
            let problem: Problem = problem.into();
            self.note(Problem {
                text: format!("{what}: {}", problem.text),
                ..problem
            });
            T::default()
        })
    }

    fn note(&mut self, problem: Problem) {
        self.first.get_or_insert(problem);
    }

    fn fault(self, object: String, now: Timestamp) -> Option<Fault> {
        self.first.map(|problem| problem.fault(object, now))
    }
}

/// The object's id; an object without one can only be reported by its position.
fn id_of<T: FromStr<Err = ParseIdError>>(
    kind: &str,
    position: usize,
    text: &str,
    now: Timestamp,
    to: &mut Translated,
) -> Option<T> {
    match text.parse() {
        Ok(id) => Some(id),
        Err(error) => {
            let object = format!("{kind} number {}", position + 1);
            to.faults.push(Problem::from(error).fault(object, now));
            None
        }
    }
}

/// Inserts a row; two objects with one id are a mistake of which the first is kept.
fn insert<T>(
    kind: &str,
    rows: &mut Rows<T>,
    key: String,
    row: T,
    faults: &mut Vec<Fault>,
    now: Timestamp,
) {
    match rows.entry(key) {
        Entry::Occupied(first) => faults.push(
            Problem::invalid("the config has it twice; the first is used")
                .fault(format!("{kind} {}", first.key()), now),
        ),
        Entry::Vacant(place) => {
            place.insert(row);
        }
    }
}

/// Keys of rows that are in order.
fn sound<T>(rows: &Rows<T>, fault: impl Fn(&T) -> bool) -> BTreeSet<String> {
    rows.iter()
        .filter(|(_, row)| !fault(row))
        .map(|(key, _)| key.clone())
        .collect()
}

/// An optional text: empty means not given.
fn optional<T: FromStr>(text: &str, expected: &str) -> Result<Option<T>, Problem> {
    match text.trim() {
        "" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| Problem::invalid(format!("{text:?} is not {expected}"))),
    }
}

/// A list of texts; the first that does not parse is named.
fn all<T: FromStr>(texts: &[String], expected: &str) -> Result<Vec<T>, Problem> {
    texts
        .iter()
        .filter_map(|text| optional(text, expected).transpose())
        .collect()
}
