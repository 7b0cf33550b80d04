//! volumemgr: images become blobs, blobs become volumes, within the disk that there is.
//!
//! | | |
//! |---|---|
//! | reads | `zedagent/ContentTreeConfig`, `zedagent/VolumeConfig`; when known: `zedmanager/VolumeRefConfig`, `downloader/DownloaderStatus`, `verifier/VerifyImageStatus`, `verifier/SignatureStatus`, `zedagent/ConfigItemValueMap` |
//! | writes | `BlobStatus`, `ContentTreeStatus`, `VolumeStatus`, `VolumeRefStatus`, `DownloaderConfig`, `VerifyImageConfig`, `DiskMetric` |
//! | owns | `/persist/vault/volumemgr/volumes/<uuid>#<generation>.<raw\|qcow2\|iso>` |
//!
//! ```text
//!  ContentTreeConfig --> blob --> DownloaderConfig --> (downloader) --> DownloaderStatus --+
//!                          ^                                                               |
//!                          |  Verified: the download goes, the copy stays                  v
//!                          +-- VerifyImageStatus <-- (verifier) <-- VerifyImageConfig <----+
//!                          v
//!  VolumeConfig -----> volume file, under a temporary name, synced, renamed --> VolumeStatus
//!  VolumeRefConfig --^                                                     \-> VolumeRefStatus
//! ```
//!
//! Rules:
//! - A blob is one file, known by its digest, however many content trees name it. Who refers to
//!   what is derived from the tables in every turn; nothing is counted.
//! - A blob is fetched when a content tree names it and a volume that does not exist yet needs it. A verified
//!   blob stays as long as a content tree names it.
//! - A volume that exists is never made again, changed or moved. It is removed when the tables are known
//!   and neither the config nor an application wants it ([`plan::wanted`]).
//! - With a file `signed_images_only` in the CONFIG partition an image that nobody signed is refused.
//! - Of an image that is signed nothing is fetched or made before the verifier has found the signature good.
//! - What is not known deletes nothing: while zedmanager, the downloader or the verifier has not
//!   spoken, the tables that tell the other two what to keep are left as they are.
//! - A wrong digest is tried again as the next attempt after `timer.download.retry`, each time twice as late.
//! - The disk never becomes full: see [`plan::space`].
//!
//! On restart the volumes' directory is the truth. The number of a blob's attempt is in the row of
//! `DownloaderConfig`, which lives as long as what the downloader and the verifier say of it.
//!
//! Where to look: [`plan`] decides (its parts: who wants which volume, where each blob is, what fits on
//! the disk), [`world`] makes and removes files.
#![forbid(unsafe_code)]

pub mod plan;
pub mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use agent::{Action, Outbox, Plan, Report, Service, Tables, Turn};
use bus::Rows;
use model::{
    config_item::ConfigItemValueMap,
    content::{
        BlobStatus, ContentTreeConfig, ContentTreeStatus, DownloaderConfig, DownloaderStatus,
        SignatureStatus, VerifyImageConfig, VerifyImageStatus,
    },
    id::{Digest, VolumeKey},
    topics::{
        BLOB_STATUS, CONFIG_ITEMS, CONTENT_TREE_CONFIG, CONTENT_TREE_STATUS, DISK_METRIC,
        DOWNLOADER_CONFIG, DOWNLOADER_STATUS, SIGNATURE_STATUS, VAULT_STATUS, VERIFY_IMAGE_CONFIG,
        VERIFY_IMAGE_STATUS, VOLUME_CONFIG, VOLUME_REF_CONFIG, VOLUME_REF_STATUS, VOLUME_STATUS,
    },
    volume::{
        DiskMetric, ImageFormat, VolumeConfig, VolumeRefConfig, VolumeRefStatus, VolumeStatus,
    },
};

pub use world::Disk;

/// The whole program.
pub fn main() -> std::process::ExitCode {
    agent::run::<Volumemgr, _, _, _>(Disk::open)
}

/// The service.
#[derive(Debug)]
pub struct Volumemgr;

/// What is wanted, and what others say.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// Images.
    pub trees: Arc<Rows<ContentTreeConfig>>,
    /// Volumes.
    pub volumes: Arc<Rows<VolumeConfig>>,
    /// Who uses which volume; `None` while zedmanager has not spoken.
    pub refs: Option<Arc<Rows<VolumeRefConfig>>>,
    /// What the downloader has.
    pub downloads: Option<Arc<Rows<DownloaderStatus>>>,
    /// What the verifier has.
    pub verified: Option<Arc<Rows<VerifyImageStatus>>>,
    /// What the verifier has found about signatures.
    pub signatures: Option<Arc<Rows<SignatureStatus>>>,
    /// Properties.
    pub limits: Limits,
    /// What was published last.
    pub own: Own,
}

/// The properties that the plan obeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `storage.dom0.disk.minusage.percent`
    pub reserve_percent: u64,
    /// `storage.dom0.disk.maxusagebytes`
    pub reserve_max_bytes: u64,
    /// `storage.apps.ignore.disk.check`
    pub ignore_disk_check: bool,
    /// `timer.download.retry`
    pub download_retry: Duration,
}

impl Limits {
    /// As the properties say.
    pub fn of(items: &ConfigItemValueMap) -> Self {
        Self {
            reserve_percent: items.int("storage.dom0.disk.minusage.percent"),
            reserve_max_bytes: items.int("storage.dom0.disk.maxusagebytes"),
            ignore_disk_check: items.flag("storage.apps.ignore.disk.check"),
            download_retry: items.seconds("timer.download.retry"),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(&ConfigItemValueMap::default())
    }
}

/// The service's own rows: how long a fault has been there, the attempt of each blob, names of
/// what left the config.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// Content trees.
    pub trees: Arc<Rows<ContentTreeStatus>>,
    /// Volumes.
    pub volumes: Arc<Rows<VolumeStatus>>,
    /// References.
    pub refs: Arc<Rows<VolumeRefStatus>>,
    /// Files asked for.
    pub downloads: Arc<Rows<DownloaderConfig>>,
    /// Files to verify and to keep.
    pub verifications: Arc<Rows<VerifyImageConfig>>,
}

/// What is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actual {
    /// Finished volumes.
    pub volumes: BTreeMap<VolumeKey, VolumeFile>,
    /// Unfinished volumes, which nobody but the job that makes them may use.
    pub partials: BTreeSet<(VolumeKey, String)>,
    /// Heads of the verified images.
    pub images: BTreeMap<Digest, Image>,
    /// The file system.
    pub space: Space,
    /// The device was installed to use no image that nobody signed.
    pub signed_only: bool,
}

/// A volume's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFile {
    /// The file.
    pub path: PathBuf,
    /// Its format, as its name says.
    pub format: ImageFormat,
    /// Size that the guest sees, in bytes; 0 when the file can't be read.
    pub virtual_bytes: u64,
    /// Bytes that it takes on the disk.
    pub used_bytes: u64,
}

/// What the head of a verified image says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Size of the file in bytes.
    pub file_bytes: u64,
    /// As a qcow2 image: the size that a guest sees, or why it is not acceptable.
    pub qcow2: Result<u64, String>,
}

/// The file system that holds `/persist`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Its size in bytes.
    pub total_bytes: u64,
    /// Bytes that can still be written.
    pub free_bytes: u64,
}

/// What can be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Do {
    /// Make a volume.
    Create(Recipe),
    /// Remove a volume.
    Remove(VolumeKey),
    /// Remove an unfinished volume that nobody works on.
    RemovePartial(String),
}

/// How a volume is made.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// Which volume.
    pub key: VolumeKey,
    /// Format of its file.
    pub format: ImageFormat,
    /// A verified image of the same format; none for a blank volume.
    pub image: Option<PathBuf>,
    /// Size that the guest sees at least, in bytes.
    pub size_bytes: u64,
}

impl Action for Do {
    fn subject(&self) -> String {
        match self {
            Self::Create(Recipe { key, .. }) | Self::Remove(key) => subject(*key),
            Self::RemovePartial(name) => format!("partial {name}"),
        }
    }

    fn is_slow(&self) -> bool {
        match self {
            // Giving back the blocks of a large file takes its time too.
            Self::Create(_) | Self::Remove(_) => true,
            Self::RemovePartial(_) => false,
        }
    }
}

/// The subject of everything that concerns a volume.
pub fn subject(key: VolumeKey) -> String {
    format!("volume {key}")
}

/// What is published. `None` leaves a table as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Published {
    /// Blobs.
    pub blobs: Option<Rows<BlobStatus>>,
    /// Images.
    pub trees: Option<Rows<ContentTreeStatus>>,
    /// Volumes.
    pub volumes: Rows<VolumeStatus>,
    /// Answers to applications.
    pub refs: Rows<VolumeRefStatus>,
    /// Files to fetch and to keep until they are verified.
    pub downloads: Option<Rows<DownloaderConfig>>,
    /// Files to verify and to keep.
    pub verifications: Option<Rows<VerifyImageConfig>>,
    /// The disk.
    pub disk: Rows<DiskMetric>,
}

impl Report for Published {
    fn put(self, out: &mut Outbox) {
        let Self {
            blobs,
            trees,
            volumes,
            refs,
            downloads,
            verifications,
            disk,
        } = self;
        out.put(&BLOB_STATUS, blobs);
        out.put(&CONTENT_TREE_STATUS, trees);
        out.put(&VOLUME_STATUS, Some(volumes));
        out.put(&VOLUME_REF_STATUS, Some(refs));
        out.put(&DOWNLOADER_CONFIG, downloads);
        out.put(&VERIFY_IMAGE_CONFIG, verifications);
        out.put(&DISK_METRIC, Some(disk));
    }
}

impl Service for Volumemgr {
    const NAME: &'static str = "volumemgr";
    type Desired = Desired;
    type Actual = Actual;
    type Action = Do;
    type Report = Published;

    fn read(tables: &mut Tables) -> Option<Desired> {
        // Names in a locked vault are not the real ones: nothing is seen before it is open, and so nothing removed.
        tables.get_when(&VAULT_STATUS, model::vault::is_usable)?;
        let items = tables
            .peek(&CONFIG_ITEMS)
            .and_then(|rows| rows.get("global").cloned())
            .unwrap_or_default();
        let refs = tables.peek(&VOLUME_REF_CONFIG);
        let downloads = tables.peek(&DOWNLOADER_STATUS);
        let verified = tables.peek(&VERIFY_IMAGE_STATUS);
        let signatures = tables.peek(&SIGNATURE_STATUS);
        let trees = tables.get(&CONTENT_TREE_CONFIG);
        let volumes = tables.get(&VOLUME_CONFIG);
        Some(Desired {
            trees: trees?,
            volumes: volumes?,
            refs,
            downloads,
            verified,
            signatures,
            limits: Limits::of(&items),
            own: Own {
                trees: tables.own(&CONTENT_TREE_STATUS),
                volumes: tables.own(&VOLUME_STATUS),
                refs: tables.own(&VOLUME_REF_STATUS),
                downloads: tables.own(&DOWNLOADER_CONFIG),
                verifications: tables.own(&VERIFY_IMAGE_CONFIG),
            },
        })
    }

    fn plan(turn: &Turn<'_, Self>) -> Plan<Self> {
        plan::plan(turn)
    }
}
