//! downloader: brings files from datastores onto the disk.
//!
//! | | |
//! |---|---|
//! | reads | when known: `volumemgr/DownloaderConfig`, `zedagent/DatastoreConfig`, `nim/DeviceNetworkStatus`, `zedagent/ConfigItemValueMap`, `zedagent/CipherContext`, `zedagent/ControllerCert` |
//! | writes | `DownloaderStatus` |
//! | owns | `/persist/vault/downloader/downloads/<sha256>`, and while it is incomplete `<sha256>.part` and `<sha256>.part.json` |
//!
//! ```text
//!  DownloaderConfig --> for each datastore in order
//!                         for each port by cost up to network.download.max.cost
//!                           GET, resumed by Range, given up after timer.download.stalled without a byte
//!                       --> <sha256>, on the disk, then renamed --> DownloaderStatus: Downloaded
//! ```
//!
//! It talks to the outside and therefore has no keys: logins of datastores come encrypted, and are decrypted with the help of
//! tpmmgr for each fetch, in memory that is wiped after it. It hashes what arrives and throws away what
//! is wrong, which saves work; whether a file is what it should be is for the verifier to say.
//!
//! - What is there is published whether volumemgr has spoken yet or not, because volumemgr asks what there
//!   is before it says what it wants; nothing is removed before it has spoken.
//! - A file whose row left the config is removed, complete or not.
//! - A fetch that is stopped between the last two steps, naming the file and forgetting what it was made from, leaves
//!   the latter: it is removed.
//! - A new `Attempt` in the config throws away what the earlier one brought. After a reboot the attempts
//!   begin anew, and a file that is there belongs to the attempt that is asked for.
//! - A wrong digest ends the attempt; volumemgr decides about another one. The memory of it is the
//!   published row, which lives as long as volumemgr's count of attempts.
//! - Everything else is tried again by itself, and at once when ports or datastores change.
//!
//! Where to look: [`plan`] decides, [`world`] has the files and the fetches, [`failure`] gives every
//! error its code. Protocols, resumption and stall detection are in the crate `fetch`, ports and
//! TLS in `uplink`.
#![forbid(unsafe_code)]

pub mod failure;
pub mod plan;
pub mod world;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use agent::{Action, Backoff, Outbox, Plan, Report, Service, Tables, Turn};
use bus::Rows;
use model::{
    config_item::ConfigItemValueMap,
    content::{DatastoreConfig, DownloaderConfig, DownloaderStatus},
    id::{DatastoreId, Digest},
    port::DeviceNetworkStatus,
    security::{CipherContext, ControllerCert},
    topics::{
        CIPHER_CONTEXT, CONFIG_ITEMS, CONTROLLER_CERT, DATASTORE_CONFIG, DEVICE_NETWORK_STATUS,
        DOWNLOADER_CONFIG, DOWNLOADER_STATUS, VAULT_STATUS,
    },
};

pub use world::Shell;

/// The whole program.
pub fn main() -> std::process::ExitCode {
    agent::run::<Downloader, _, _, _>(Shell::open)
}

/// The service.
#[derive(Debug)]
pub struct Downloader;

/// What is wanted, and the ways to it.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// Files to fetch and to keep; `None` while volumemgr has not spoken.
    pub files: Option<Arc<Rows<DownloaderConfig>>>,
    /// Where from.
    pub datastores: Option<Arc<Rows<DatastoreConfig>>>,
    /// The keys that logins are encrypted with,
    pub contexts: Option<Arc<Rows<CipherContext>>>,
    /// and the controller's halves of them.
    pub certs: Option<Arc<Rows<ControllerCert>>>,
    /// The device's ports.
    pub network: Option<DeviceNetworkStatus>,
    /// Properties.
    pub limits: Limits,
    /// What was published last: which attempt a file belongs to, and which were wrong.
    pub own: Arc<Rows<DownloaderStatus>>,
}

/// The properties that fetches obey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `network.download.max.cost`
    pub max_cost: u8,
    /// `timer.download.stalled`
    pub stall: Duration,
    /// `timer.download.retry`: when a refusal is tried again.
    pub retry: Duration,
    /// `timer.dial.timeout`
    pub connect: Duration,
    /// `datastore.http.security.allowinsecureauth`
    pub insecure_login: bool,
}

impl Limits {
    /// As the properties say.
    pub fn of(items: &ConfigItemValueMap) -> Self {
        Self {
            max_cost: u8::try_from(items.int("network.download.max.cost")).unwrap_or(u8::MAX),
            stall: items.seconds("timer.download.stalled"),
            retry: items.seconds("timer.download.retry"),
            // 0 would mean never to connect.
            connect: items
                .seconds("timer.dial.timeout")
                .max(Duration::from_secs(1)),
            insecure_login: items.flag("datastore.http.security.allowinsecureauth"),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(&ConfigItemValueMap::default())
    }
}

/// What is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actual {
    /// Files by the digest that they shall have.
    pub files: BTreeMap<Digest, Files>,
}

/// What is there of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// The complete file and its size in bytes.
    pub complete: Option<(PathBuf, u64)>,
    /// Bytes of the incomplete one; 0 also when only what belongs to it is there.
    pub partial: Option<u64>,
}

/// What can be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Do {
    /// Fetch a file, going on with what is there.
    Fetch(Box<Order>),
    /// Remove a file, complete or not.
    Discard(Digest),
    /// Remove what is left of the making of a complete file.
    Tidy(Digest),
}

/// A fetch. Whatever changes it begins it anew, with the bytes that are there.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// What.
    pub file: DownloaderConfig,
    /// Where from, in order; never empty.
    pub datastores: Vec<DatastoreConfig>,
    /// What the logins of those that have one are decrypted with.
    pub keys: BTreeMap<DatastoreId, cipher::Keys>,
    /// Over what: the ports that may be used.
    pub ports: Vec<uplink::Port>,
    /// How.
    pub limits: Limits,
}

impl Action for Do {
    fn subject(&self) -> String {
        match self {
            Self::Fetch(order) => subject(order.file.sha256),
            Self::Discard(digest) | Self::Tidy(digest) => subject(*digest),
        }
    }

    fn is_slow(&self) -> bool {
        match self {
            Self::Fetch(_) => true,
            Self::Discard(_) | Self::Tidy(_) => false,
        }
    }

    fn backoff(&self) -> Backoff {
        match self {
            Self::Fetch(order) => {
                let permanent = Some(order.limits.retry);
                Backoff {
                    first: Duration::from_secs(2),
                    max: order.limits.retry,
                    permanent,
                }
            }
            Self::Discard(_) | Self::Tidy(_) => Backoff::default(),
        }
    }
}

/// The subject of everything that concerns a digest.
pub fn subject(digest: Digest) -> String {
    format!("blob {digest}")
}

/// What is published.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Published {
    /// One row per file that is wanted or there.
    pub files: Rows<DownloaderStatus>,
}

impl Report for Published {
    fn put(self, out: &mut Outbox) {
        let Self { files } = self;
        out.put(&DOWNLOADER_STATUS, Some(files));
    }
}

impl Service for Downloader {
    const NAME: &'static str = "downloader";
    type Desired = Desired;
    type Actual = Actual;
    type Action = Do;
    type Report = Published;

    fn read(tables: &mut Tables) -> Option<Desired> {
        // Names in a locked vault are not the real ones: nothing is seen before it is open, and so nothing removed.
        tables.get_when(&VAULT_STATUS, model::vault::is_usable)?;
        let items = tables
            .peek(&CONFIG_ITEMS)
            .and_then(|rows| rows.get("global").cloned());
        Some(Desired {
            files: tables.peek(&DOWNLOADER_CONFIG),
            datastores: tables.peek(&DATASTORE_CONFIG),
            contexts: tables.peek(&CIPHER_CONTEXT),
            certs: tables.peek(&CONTROLLER_CERT),
            network: tables
                .peek(&DEVICE_NETWORK_STATUS)
                .and_then(|rows| rows.get("global").cloned()),
            limits: Limits::of(&items.unwrap_or_default()),
            own: tables.own(&DOWNLOADER_STATUS),
        })
    }

    fn plan(turn: &Turn<'_, Self>) -> Plan<Self> {
        plan::plan(turn)
    }
}
