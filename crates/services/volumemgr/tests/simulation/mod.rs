//! A whole device in a few maps: the disk, and the other services at their best.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use agent::{Jobs, Plan, Service, Turn};
use bus::Rows;
use jiff::Timestamp;
use model::{
    code::Code,
    content::{
        ContentTreeConfig, DownloadPhase, DownloaderConfig, DownloaderStatus, SignatureStatus,
        VerifyImageConfig, VerifyImageStatus, VerifyPhase,
    },
    fault::Fault,
    id::{AppId, ContentTreeId, Digest, VolumeId, VolumeKey},
    volume::{ImageFormat, VolumeConfig, VolumeOrigin, VolumePhase, VolumeRefConfig, VolumeStatus},
};
use uuid::Uuid;
use volumemgr::{
    Actual, Desired, Do, Image, Limits, Own, Published, Recipe, Space, VolumeFile, Volumemgr,
};

pub const MIB: u64 = 1 << 20;
/// Every image of the simulation.
pub const IMAGE_BYTES: u64 = 10 * MIB;

pub fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

pub fn key(n: u8, generation: u64) -> VolumeKey {
    VolumeKey {
        volume: VolumeId(Uuid::from_u128(u128::from(n))),
        generation,
    }
}

pub fn tree(n: u8, blob: u8) -> ContentTreeConfig {
    ContentTreeConfig {
        id: ContentTreeId(Uuid::from_u128(u128::from(n))),
        display_name: format!("tree {n}"),
        datastores: vec![],
        relative_url: format!("images/{n}"),
        format: ImageFormat::Qcow2,
        sha256: digest(blob),
        max_download_bytes: IMAGE_BYTES,
        signature: None,
        fault: None,
    }
}

pub fn volume(n: u8, generation: u64, content: Option<u8>) -> VolumeConfig {
    VolumeConfig {
        id: key(n, 0).volume,
        generation,
        display_name: format!("volume {n}"),
        origin: content.map_or(VolumeOrigin::Blank, |t| {
            VolumeOrigin::Content(tree(t, 0).id)
        }),
        max_size_bytes: 20 * MIB,
        read_only: false,
        clear_text: false,
        fault: None,
    }
}

pub fn reference(app: u8, n: u8, generation: u64, device_generation: u64) -> VolumeRefConfig {
    VolumeRefConfig {
        app: AppId(Uuid::from_u128(u128::from(app))),
        volume: key(n, generation),
        device_generation,
        target: model::app::DiskTarget::Disk,
    }
}

#[derive(Debug, Default)]
pub struct Sim {
    pub trees: Vec<ContentTreeConfig>,
    pub volumes: Vec<VolumeConfig>,
    pub refs: Option<Vec<VolumeRefConfig>>,
    /// The downloader has spoken; what it says. What it is told counts once it was told something.
    pub downloads: Option<Rows<DownloaderStatus>>,
    pub verified: Option<Rows<VerifyImageStatus>>,
    pub signatures: Rows<SignatureStatus>,
    pub told_downloader: Option<Rows<DownloaderConfig>>,
    pub told_verifier: Option<Rows<VerifyImageConfig>>,
    pub actual: Actual,
    pub own: Own,
    pub limits: Limits,
    pub now: Timestamp,
    /// Attempts before which a blob comes with the wrong bytes.
    pub bad_until: BTreeMap<Digest, u32>,
    /// The downloader finds wrong bytes itself, before the verifier sees them.
    pub hashes_early: bool,
    pub last: Published,
    /// Attempts that were fetched from their first byte.
    pub fetched: BTreeSet<(Digest, u32)>,
}

impl Sim {
    pub fn new() -> Self {
        Self {
            refs: Some(vec![]),
            downloads: Some(Rows::new()),
            verified: Some(Rows::new()),
            actual: Actual {
                space: Space {
                    total_bytes: 1000 * MIB,
                    free_bytes: 1000 * MIB,
                },
                ..Actual::default()
            },
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            ..Self::default()
        }
    }

    pub fn desired(&self) -> Desired {
        Desired {
            trees: Arc::new(
                self.trees
                    .iter()
                    .map(|t| (t.id.to_string(), t.clone()))
                    .collect(),
            ),
            volumes: Arc::new(
                self.volumes
                    .iter()
                    .map(|v| (v.key().to_string(), v.clone()))
                    .collect(),
            ),
            refs: self
                .refs
                .as_ref()
                .map(|refs| Arc::new(refs.iter().map(|r| (r.key(), r.clone())).collect())),
            downloads: self.downloads.clone().map(Arc::new),
            verified: self.verified.clone().map(Arc::new),
            signatures: Some(Arc::new(self.signatures.clone())),
            limits: self.limits,
            own: self.own.clone(),
        }
    }

    pub fn plan(&self) -> Plan<Volumemgr> {
        let (desired, jobs) = (self.desired(), Jobs::default());
        let uptime = Duration::ZERO;
        Volumemgr::plan(&Turn {
            desired: &desired,
            actual: &self.actual,
            jobs: &jobs,
            now: self.now,
            uptime,
        })
    }

    /// One turn and what it brings about. True when nothing happened.
    pub fn turn(&mut self) -> bool {
        self.look_at_images();
        let Plan {
            report, actions, ..
        } = self.plan();
        let same = report == self.last && actions.is_empty();
        self.publish(report);
        for action in actions {
            self.apply(action);
        }
        let others = self.downloader() | self.verifier();
        same && !others
    }

    /// Turns until nothing happens any more; returns their number.
    pub fn settle(&mut self) -> usize {
        for turn in 0..60 {
            if self.turn() {
                return turn;
            }
        }
        panic!("does not settle: {self:#?}");
    }

    fn publish(&mut self, report: Published) {
        self.own.volumes = Arc::new(report.volumes.clone());
        self.own.refs = Arc::new(report.refs.clone());
        if let Some(rows) = &report.downloads {
            self.own.downloads = Arc::new(rows.clone());
            self.told_downloader = Some(rows.clone());
        }
        if let Some(rows) = &report.verifications {
            self.own.verifications = Arc::new(rows.clone());
            self.told_verifier = Some(rows.clone());
        }
        self.last = report;
    }

    fn look_at_images(&mut self) {
        let rows = self.verified.iter().flat_map(|rows| rows.values());
        self.actual.images = rows
            .filter(|row| matches!(row.phase, VerifyPhase::Verified { .. }))
            .map(|row| {
                (
                    row.sha256,
                    Image {
                        file_bytes: IMAGE_BYTES,
                        qcow2: Ok(15 * MIB),
                    },
                )
            })
            .collect();
    }

    /// Does what it is told, and checks that it may.
    fn apply(&mut self, action: Do) {
        match action {
            Do::Create(Recipe {
                key,
                format,
                image,
                size_bytes,
            }) => {
                assert!(!self.actual.volumes.contains_key(&key), "makes {key} again");
                assert!(self.wants(key), "makes {key} that nobody wants");
                if let Some(image) = image {
                    let path = |d: &Digest| verified_path(*d);
                    assert!(
                        self.actual.images.keys().any(|d| path(d) == image),
                        "{} is not verified",
                        image.display()
                    );
                }
                let room =
                    self.limits.ignore_disk_check || size_bytes <= self.actual.space.free_bytes;
                assert!(room, "fills the disk");
                let file = VolumeFile {
                    path: format!("/persist/vault/volumemgr/volumes/{key}").into(),
                    format,
                    virtual_bytes: size_bytes,
                    used_bytes: MIB,
                };
                self.actual.space.free_bytes = self.actual.space.free_bytes.saturating_sub(MIB);
                self.actual.volumes.insert(key, file);
            }
            Do::Remove(key) => {
                assert!(
                    self.refs.is_some(),
                    "removes {key} before zedmanager has spoken"
                );
                assert!(!self.wants(key), "removes {key} that is wanted");
                assert!(self.actual.volumes.remove(&key).is_some());
                self.actual.space.free_bytes += MIB;
            }
            Do::RemovePartial(name) => {
                let before = self.actual.partials.len();
                self.actual.partials.retain(|(_, n)| *n != name);
                assert!(self.actual.partials.len() < before);
            }
        }
    }

    /// Told independently of the plan: an application refers to it; or nobody refers to that
    /// volume of the config, and it is the one, or the last that replaced it.
    fn wants(&self, key: VolumeKey) -> bool {
        let refs = || self.refs.iter().flatten();
        if refs().any(|r| r.device_volume() == key) {
            return true;
        }
        self.volumes
            .iter()
            .filter(|v| v.id == key.volume && !refs().any(|r| r.volume == v.key()))
            .any(|v| {
                let later = self
                    .actual
                    .volumes
                    .keys()
                    .filter(|k| k.volume == v.id && k.generation > v.generation);
                let replaced = !self.actual.volumes.contains_key(&v.key());
                v.key() == key || (replaced && later.max() == Some(&key))
            })
    }

    fn downloader(&mut self) -> bool {
        let (Some(told), Some(rows)) = (&self.told_downloader, &mut self.downloads) else {
            return false;
        };
        let before = rows.clone();
        rows.retain(|key, _| told.contains_key(key));
        for (key, config) in told {
            let DownloaderConfig {
                sha256, attempt, ..
            } = config;
            let row = rows
                .entry(key.clone())
                .or_insert_with(|| download(*sha256, *attempt, 0));
            if row.attempt != *attempt {
                *row = download(*sha256, *attempt, 0);
            }
            let last = DownloadPhase::Downloading {
                done_bytes: IMAGE_BYTES,
                total_bytes: IMAGE_BYTES,
            };
            if row.phase == last && self.hashes_early && self.bad_until.get(sha256) > Some(attempt)
            {
                *row = download(*sha256, *attempt, 0);
                row.fault = Some(Fault::new(
                    Code::VerifyDigest,
                    key.clone(),
                    "wrong",
                    self.now,
                ));
            }
            if row.fault.is_some() {
                continue;
            }
            row.phase = match row.phase.clone() {
                DownloadPhase::Waiting { done_bytes } => {
                    if done_bytes == 0 {
                        assert!(
                            self.fetched.insert((*sha256, *attempt)),
                            "fetched twice from the start"
                        );
                    }
                    DownloadPhase::Downloading {
                        done_bytes,
                        total_bytes: IMAGE_BYTES,
                    }
                }
                DownloadPhase::Downloading { done_bytes, .. } if done_bytes < IMAGE_BYTES => {
                    DownloadPhase::Downloading {
                        done_bytes: done_bytes + 5 * MIB,
                        total_bytes: IMAGE_BYTES,
                    }
                }
                DownloadPhase::Downloading { .. } | DownloadPhase::Downloaded { .. } => {
                    DownloadPhase::Downloaded {
                        path: PathBuf::from("/persist/vault/downloader/downloads").join(key),
                        size_bytes: IMAGE_BYTES,
                    }
                }
            };
        }
        *rows != before
    }

    fn verifier(&mut self) -> bool {
        let (Some(told), Some(rows)) = (&self.told_verifier, &mut self.verified) else {
            return false;
        };
        let before = rows.clone();
        rows.retain(|key, _| told.contains_key(key));
        for (key, config) in told {
            let VerifyImageConfig {
                sha256, attempt, ..
            } = config;
            let fresh = || VerifyImageStatus {
                sha256: *sha256,
                attempt: *attempt,
                phase: VerifyPhase::Verifying { percent: 0 },
                fault: None,
            };
            let row = rows.entry(key.clone()).or_insert_with(fresh);
            match row.phase {
                VerifyPhase::Verified { .. } => {}
                VerifyPhase::Mismatch { .. } if row.attempt == *attempt => {}
                VerifyPhase::Verifying { percent: 50 }
                    if self.bad_until.get(sha256) > Some(attempt) =>
                {
                    row.phase = VerifyPhase::Mismatch { found: digest(255) };
                    row.fault = Some(Fault::new(
                        Code::VerifyDigest,
                        key.clone(),
                        "wrong",
                        self.now,
                    ));
                }
                VerifyPhase::Verifying { percent: 50 } => row.phase = is_verified(*sha256),
                VerifyPhase::Verifying { .. } | VerifyPhase::Mismatch { .. } => {
                    *row = VerifyImageStatus {
                        phase: VerifyPhase::Verifying { percent: 50 },
                        ..fresh()
                    };
                }
            }
        }
        *rows != before
    }

    pub fn row(&self, key: VolumeKey) -> &VolumeStatus {
        &self.last.volumes[&key.to_string()]
    }

    pub fn is_created(&self, key: VolumeKey) -> bool {
        self.last
            .volumes
            .get(&key.to_string())
            .is_some_and(|row| row.phase == VolumePhase::Created)
    }
}

pub fn download(sha256: Digest, attempt: u32, done_bytes: u64) -> DownloaderStatus {
    let phase = DownloadPhase::Waiting { done_bytes };
    DownloaderStatus {
        sha256,
        attempt,
        phase,
        port: String::new(),
        fault: None,
    }
}

pub fn verified_path(digest: Digest) -> PathBuf {
    PathBuf::from("/persist/vault/verifier/verified").join(digest.to_string())
}

pub fn is_verified(digest: Digest) -> VerifyPhase {
    VerifyPhase::Verified {
        path: verified_path(digest),
        size_bytes: IMAGE_BYTES,
    }
}
