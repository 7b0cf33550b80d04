//! A device's life on the recorded disk: the services in their real worlds, the real controller, a datastore whose
//! transfers break off. What was seen of it, with the mark of the record, is what a boot after a cut must find.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use agent::{Boot, Clock};
use bus::Bus;
use controller::KeyFiles;
use jiff::Timestamp;
use model::{
    content::VerifyPhase,
    id::{Digest, VolumeKey},
    topics::{VERIFY_IMAGE_STATUS, VOLUME_STATUS, ZEDAGENT_STATUS},
    vault::{DOWNLOADS, VERIFIED},
    volume::VolumePhase,
};
use newlogd::world::{Logs, Places, store::Store as LogStore};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::Rig;
use crate::outside::{Front, Ill, Lives, Site, Store, ground, without_tpm};

/// Persistent topics whose rows stay while what they are about stays.
const LASTING: [(&str, &str); 6] = [
    ("nodeagent", "DeviceOpCounters"),
    ("reporter", "DeliveryJournal"),
    ("zedagent", "ConfigItemValueMap"),
    ("zedagent", "ControllerCert"),
    ("zedagent", "OnboardingStatus"),
    ("zedmanager", "AppCommandCounters"),
];
const SAVED: [&str; 3] = ["lastconfig", "lastconfig.bak", "controllercerts"];

/// What was on the disk at a mark of the record, acknowledged by the services.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    pub(super) mark: u64,
    /// Rows by `service/Topic/key`.
    pub(super) rows: BTreeMap<String, Value>,
    /// Files that zedagent saved: name and digest.
    pub(super) saved: BTreeMap<String, Digest>,
    /// Volumes that are said to be created.
    pub(super) volumes: BTreeSet<VolumeKey>,
    /// Images that are said to be verified.
    pub(super) verified: BTreeSet<PathBuf>,
    /// Records of what parts of downloads are of.
    pub(super) partials: BTreeSet<String>,
}

impl Seen {
    /// How many entries of the record were there.
    pub fn at(&self) -> usize {
        usize::try_from(self.mark).unwrap()
    }

    /// What there was of each kind of thing: rows, saved files, volumes, images, records of parts.
    pub fn counts(&self) -> [usize; 5] {
        [
            self.rows.len(),
            self.saved.len(),
            self.volumes.len(),
            self.verified.len(),
            self.partials.len(),
        ]
    }
}

/// Rows of [`LASTING`] topics below a root.
pub(super) fn rows(root: &Path) -> BTreeMap<String, Value> {
    let bus = Bus::open(root, "judge").unwrap();
    let mut all = BTreeMap::new();
    for (service, topic) in LASTING {
        for (key, row) in bus.read_raw(service, topic).unwrap_or_default() {
            all.insert(format!("{service}/{topic}/{key}"), row);
        }
    }
    all
}

/// Files that zedagent saved below a root.
pub(super) fn saved(root: &Path) -> BTreeMap<String, Digest> {
    let read = |name: &str| fs::read(root.join("persist/checkpoint").join(name)).ok();
    SAVED
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), Digest(Sha256::digest(read(name)?).into()))))
        .collect()
}

/// Records of what parts of downloads are of, below a root.
pub(super) fn partials(root: &Path) -> BTreeSet<String> {
    fs::read_dir(root.join("persist/vault/downloader/downloads"))
        .unwrap()
        .map(|part| part.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".part.json"))
        .collect()
}

fn look(rig: &Rig, bus: &Bus) -> Seen {
    let root = rig.root();
    let volumes = bus.read(&VOLUME_STATUS).unwrap().unwrap_or_default();
    let images = bus.read(&VERIFY_IMAGE_STATUS).unwrap().unwrap_or_default();
    Seen {
        rows: rows(&root),
        saved: saved(&root),
        volumes: volumes
            .values()
            .filter(|volume| volume.phase == VolumePhase::Created)
            .map(|volume| volume.key)
            .collect(),
        verified: images
            .values()
            .filter_map(|image| match &image.phase {
                VerifyPhase::Verified { path, .. } => {
                    Some(path.strip_prefix(&root).unwrap().into())
                }
                VerifyPhase::Verifying { .. } | VerifyPhase::Mismatch { .. } => None,
            })
            .collect(),
        partials: partials(&root),
        // Last, so that all of the above is before it.
        mark: rig.mark(),
    }
}

/// A device, what is around it, and what was seen.
pub struct Life<'a> {
    rig: &'a Rig,
    site: Site,
    _front: Front,
    lives: Lives,
    bus: Bus,
    seen: Vec<Seen>,
}

impl<'a> Life<'a> {
    /// A new device starts on the disk. Its CONFIG partition is at `config` of the root, on another disk.
    pub async fn begin(rig: &'a Rig) -> Self {
        let (root, persist) = (rig.root(), rig.persist());
        let site = Site::new().await;
        let bus = ground(&root);
        let (clock, hand) = Clock::by_hand(Timestamp::now());
        let front = Front::before(site.address, &site.pki(), clock.clone()).await;
        site.partition(&root.join("config"), front.address);
        let boot = || Boot {
            root: root.clone(),
            bus: bus.clone(),
            clock: clock.clone(),
            dry_run: false,
        };
        let places = Places {
            logs: persist.join("log"),
            newlog: persist.join("newlog"),
            kmsg: None,
            release: root.join("run/eve-release"),
            disk: None,
        };
        let keys = || Arc::new(KeyFiles::of(&root.join("config")));
        let evc = newlogd::world::evc::Evc::new(root.clone(), keys(), clock.clone());
        let store = LogStore::at(places.newlog.clone());
        let logs = Logs::open(places, store, clock.clone(), evc).unwrap();
        let mut lives = Lives::new(&bus, clock.clone(), hand);
        lives.start::<zedagent::Zedagent, _>(zedagent::world::Evc::open(
            &boot(),
            keys(),
            without_tpm(),
        ));
        lives.start::<reporter::Reporter, _>(reporter::world::Evc::open(&boot(), keys()));
        lives.start::<newlogd::Newlogd, _>(logs);
        lives.start::<zedmanager::Zedmanager, _>(zedmanager::world::BusOnly);
        lives.start::<nodeagent::Nodeagent, _>(nodeagent::world::Supervisor::new(root.clone()));
        lives.start::<downloader::Downloader, _>(downloader::Shell::at(root.clone()));
        let (downloads, verified) = (root.join(DOWNLOADS), root.join(VERIFIED));
        lives.start::<verifier::Verifier, _>(verifier::Disk::at(downloads, verified));
        lives.start::<volumemgr::Volumemgr, _>(volumemgr::Disk::at(persist));
        let mut life = Self {
            rig,
            site,
            _front: front,
            lives,
            bus,
            seen: Vec::new(),
        };
        life.until("it registers", async |life| {
            life.site.devices_are_there().await
        })
        .await;
        life
    }

    /// One config after another, each with a volume more; what was in force long enough becomes the backup.
    pub async fn work(&mut self) {
        let mut images = Vec::new();
        for number in 1..=3_u8 {
            let image: Vec<u8> = (0..200_000_u32)
                .map(|at| (at.wrapping_mul(31 + u32::from(number)) >> 3).to_le_bytes()[0])
                .collect();
            let store = Store::with(&image, Some(Ill::Resets)).await;
            images.push((store.address.to_string(), Sha256::digest(&image), store));
            let old = self.hash();
            self.site.want(&wanted(&images)).await;
            let count = images.len();
            self.until(
                "its config is in force and its volumes are made",
                async |life| {
                    let volumes = life.bus.read(&VOLUME_STATUS).unwrap().unwrap_or_default();
                    life.hash() != old
                        && volumes.len() == count
                        && volumes.values().all(|v| v.phase == VolumePhase::Created)
                },
            )
            .await;
            super::load::append(
                &self.rig.persist().join("log/nim.log"),
                &format!("line {number}\n"),
                true,
            );
            for _ in 0..12 {
                self.pass(Duration::from_secs(60)).await;
            }
        }
    }

    /// What was seen, in the order of time.
    pub fn end(self) -> Vec<Seen> {
        self.seen
    }

    fn hash(&self) -> String {
        let rows = self.bus.read(&ZEDAGENT_STATUS).unwrap().unwrap_or_default();
        rows.get("zedagent")
            .map(|status| status.config_hash.clone())
            .unwrap_or_default()
    }

    async fn pass(&mut self, time: Duration) {
        self.lives.pass(time).await;
        // The bus tells of changes by the kernel's events, in real time.
        tokio::time::sleep(Duration::from_millis(10)).await;
        self.seen.push(look(self.rig, &self.bus));
    }

    async fn until(&mut self, what: &str, mut is_so: impl AsyncFnMut(&Self) -> bool) {
        for _ in 0..900 {
            if is_so(self).await {
                return;
            }
            self.pass(Duration::from_secs(1)).await;
        }
        panic!("never: {what}; {:#?}", self.seen.last());
    }
}

fn wanted(images: &[(String, impl AsRef<[u8]>, Store)]) -> String {
    let numbered = |line: &dyn Fn(usize) -> String| (0..images.len()).map(line).collect::<String>();
    let datastores = numbered(&|number| {
        let address = &images[number].0;
        format!("- {{name: store{number}, url: \"http://{address}\", path: images}}\n")
    });
    let files = numbered(&|number| {
        let sha256 = Digest(images[number].1.as_ref().try_into().unwrap());
        format!(
            "- {{name: image{number}, datastore: store{number}, file: a.iso, format: iso, size: 200000, sha256: {sha256}}}\n"
        )
    });
    let volumes = numbered(&|number| format!("- {{name: volume{number}, image: image{number}}}\n"));
    let used = numbered(&|number| format!("volume{number}, "));
    let count = images.len() as u64;
    format!(
        r"
properties: {{timer.config.interval: 60, timer.send.timeout: 10, timer.dial.timeout: 10, timer.metric.interval: {}}}
networks: [{{name: dhcp}}]
ports: [{{name: eth0, network: dhcp}}]
datastores:
{datastores}images:
{files}volumes:
{volumes}apps:
- name: vm
  activate: false
  memory: 512MiB
  volumes: [{used}]
",
        300 + count
    )
}
