//! The service in its runtime, on a bus in memory, with a disk that checks what is asked of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(unreachable_pub, dead_code, reason = "shared with another test")]
mod simulation;

use std::sync::{Arc, Mutex};

use agent::{Clock, Failure, Progress, Runtime, Settled, World};
use bus::{Bus, Object, Publisher, Rows, Topic};
use jiff::Timestamp;
use model::{
    code::Code,
    content::{ContentTreeConfig, DownloadPhase, DownloaderStatus, VerifyImageStatus},
    topics::{
        CONTENT_TREE_CONFIG, DOWNLOADER_CONFIG, DOWNLOADER_STATUS, VAULT_STATUS,
        VERIFY_IMAGE_CONFIG, VERIFY_IMAGE_STATUS, VOLUME_CONFIG, VOLUME_REF_CONFIG,
        VOLUME_REF_STATUS, VOLUME_STATUS,
    },
    vault::VaultStatus,
    volume::{VolumeConfig, VolumePhase, VolumeRefConfig},
};
use simulation::{IMAGE_BYTES, MIB, digest, download, is_verified, key, reference, tree, volume};
use volumemgr::{Actual, Desired, Do, Image, Space, VolumeFile, Volumemgr};

#[derive(Debug, Default, Clone)]
struct FakeDisk(Arc<Mutex<Actual>>, Arc<Mutex<Option<Failure>>>);

impl World<Volumemgr> for FakeDisk {
    async fn observe(&self, desired: &Desired) -> Result<Actual, Failure> {
        let mut actual = self.0.lock().unwrap().clone();
        let rows = desired.verified.iter().flat_map(|rows| rows.values());
        let image = Image {
            file_bytes: IMAGE_BYTES,
            qcow2: Ok(IMAGE_BYTES),
        };
        actual.images = rows
            .filter(|r| r.phase == is_verified(r.sha256))
            .map(|r| (r.sha256, image.clone()))
            .collect();
        Ok(actual)
    }

    async fn apply(&self, action: Do, _: Progress) -> Result<(), Failure> {
        if let Some(failure) = self.1.lock().unwrap().clone() {
            return Err(failure);
        }
        let mut actual = self.0.lock().unwrap();
        match action {
            Do::Create(recipe) => {
                let file = VolumeFile {
                    path: format!("/v/{}", recipe.key).into(),
                    format: recipe.format,
                    virtual_bytes: recipe.size_bytes,
                    used_bytes: MIB,
                };
                assert!(
                    actual.volumes.insert(recipe.key, file).is_none(),
                    "made again"
                );
            }
            Do::Remove(key) => assert!(actual.volumes.remove(&key).is_some(), "not there"),
            Do::RemovePartial(name) => actual.partials.retain(|(_, n)| *n != name),
        }
        Ok(())
    }
}

struct Device {
    bus: Bus,
    disk: FakeDisk,
    runtime: Runtime<Volumemgr, FakeDisk>,
    trees: Publisher<ContentTreeConfig>,
    volumes: Publisher<VolumeConfig>,
    refs: Publisher<VolumeRefConfig>,
    downloads: Publisher<DownloaderStatus>,
    verified: Publisher<VerifyImageStatus>,
}

impl Device {
    fn new() -> Self {
        let bus = Bus::memory();
        let mut vault = bus.acting_as("vaultmgr").publisher(&VAULT_STATUS).unwrap();
        say(&mut vault, [("vault".to_owned(), VaultStatus::disabled())]);
        let disk = FakeDisk::default();
        disk.0.lock().unwrap().space = Space {
            total_bytes: 1000 * MIB,
            free_bytes: 900 * MIB,
        };
        Self {
            runtime: Self::start(&bus, &disk),
            trees: bus
                .acting_as("zedagent")
                .publisher(&CONTENT_TREE_CONFIG)
                .unwrap(),
            volumes: bus.acting_as("zedagent").publisher(&VOLUME_CONFIG).unwrap(),
            refs: bus
                .acting_as("zedmanager")
                .publisher(&VOLUME_REF_CONFIG)
                .unwrap(),
            downloads: bus
                .acting_as("downloader")
                .publisher(&DOWNLOADER_STATUS)
                .unwrap(),
            verified: bus
                .acting_as("verifier")
                .publisher(&VERIFY_IMAGE_STATUS)
                .unwrap(),
            bus,
            disk,
        }
    }

    fn start(bus: &Bus, disk: &FakeDisk) -> Runtime<Volumemgr, FakeDisk> {
        Runtime::new(
            bus.acting_as("volumemgr"),
            disk.clone(),
            Clock::tokio(Timestamp::UNIX_EPOCH),
            1,
        )
    }

    fn read<T: Object>(&self, topic: &Topic<T>) -> Option<Rows<T>> {
        self.bus.read(topic).unwrap()
    }

    fn phase(&self, n: u8) -> VolumePhase {
        self.read(&VOLUME_STATUS).unwrap()[&key(n, 0).to_string()]
            .phase
            .clone()
    }
}

fn say<T: Object>(publisher: &mut Publisher<T>, rows: impl IntoIterator<Item = (String, T)>) {
    publisher.replace(&rows.into_iter().collect()).unwrap();
    publisher.set_ready().unwrap();
}

#[tokio::test]
async fn nothing_happens_before_the_config_and_everything_after() {
    let mut device = Device::new();
    let waiting = device.runtime.settle().await.unwrap();
    let Settled::Waiting(topics) = waiting else {
        panic!("{waiting:?}")
    };
    assert!(topics.iter().any(|t| t.contains("VolumeConfig")));

    say(&mut device.trees, [(tree(1, 7).id.to_string(), tree(1, 7))]);
    say(
        &mut device.volumes,
        [volume(1, 0, Some(1)), volume(2, 0, None)].map(|v| (v.key().to_string(), v)),
    );
    device.runtime.settle().await.unwrap();
    assert_eq!(device.phase(2), VolumePhase::Created);
    assert!(matches!(device.phase(1), VolumePhase::AwaitContent { .. }));
    assert_eq!(
        device.read(&DOWNLOADER_CONFIG),
        None,
        "the downloader would remove what it has"
    );

    say(
        &mut device.refs,
        [reference(1, 1, 0, 0)].map(|r| (r.key(), r)),
    );
    say(&mut device.downloads, []);
    say(&mut device.verified, []);
    device.runtime.settle().await.unwrap();
    let blob = digest(7).to_string();
    assert_eq!(
        device.read(&DOWNLOADER_CONFIG).unwrap()[&blob].relative_url,
        "images/1"
    );
    assert!(device.read(&VERIFY_IMAGE_CONFIG).unwrap().is_empty());

    let path = "/persist/vault/downloader/downloads/x".into();
    let phase = DownloadPhase::Downloaded {
        path,
        size_bytes: IMAGE_BYTES,
    };
    say(
        &mut device.downloads,
        [(
            blob.clone(),
            DownloaderStatus {
                phase,
                ..download(digest(7), 0, 0)
            },
        )],
    );
    device.runtime.settle().await.unwrap();
    assert_eq!(
        device.read(&VERIFY_IMAGE_CONFIG).unwrap()[&blob].size_bytes,
        IMAGE_BYTES
    );
    assert_eq!(
        device.read(&DOWNLOADER_CONFIG).unwrap().len(),
        1,
        "kept until it is verified"
    );

    let row = VerifyImageStatus {
        sha256: digest(7),
        attempt: 0,
        phase: is_verified(digest(7)),
        fault: None,
    };
    say(&mut device.verified, [(blob, row)]);
    assert_eq!(device.runtime.settle().await.unwrap(), Settled::Quiet);
    assert_eq!(device.phase(1), VolumePhase::Created);
    assert!(device.read(&DOWNLOADER_CONFIG).unwrap().is_empty());
    let answer = device.read(&VOLUME_REF_STATUS).unwrap();
    assert_eq!(
        answer[&reference(1, 1, 0, 0).key()].phase,
        VolumePhase::Created
    );
}

#[tokio::test]
async fn a_restart_beside_a_restarting_zedmanager_changes_nothing() {
    let mut device = Device::new();
    say(&mut device.trees, []);
    say(
        &mut device.volumes,
        [(key(1, 0).to_string(), volume(1, 0, None))],
    );
    say(
        &mut device.refs,
        [reference(1, 1, 0, 1)].map(|r| (r.key(), r)),
    );
    say(&mut device.downloads, []);
    say(&mut device.verified, []);
    device.runtime.settle().await.unwrap();
    let before = (
        device.read(&VOLUME_REF_STATUS).unwrap(),
        device.disk.0.lock().unwrap().volumes.clone(),
    );
    assert_eq!(before.1.keys().collect::<Vec<_>>(), [&key(1, 1)]);

    // Its table is not complete until it has completed a turn.
    device.refs = device
        .bus
        .acting_as("zedmanager")
        .publisher(&VOLUME_REF_CONFIG)
        .unwrap();
    device.runtime = Device::start(&device.bus, &device.disk);
    assert_eq!(device.runtime.settle().await.unwrap(), Settled::Quiet);
    let after = (
        device.read(&VOLUME_REF_STATUS).unwrap(),
        device.disk.0.lock().unwrap().volumes.clone(),
    );
    assert_eq!(before, after);

    say(&mut device.refs, []);
    say(&mut device.volumes, []);
    device.runtime.settle().await.unwrap();
    assert!(device.disk.0.lock().unwrap().volumes.is_empty());
    assert!(device.read(&VOLUME_STATUS).unwrap().is_empty());
}

#[tokio::test]
async fn a_volume_that_can_not_be_made_says_why_and_when_it_is_tried_again() {
    let mut device = Device::new();
    say(&mut device.trees, []);
    say(
        &mut device.volumes,
        [(key(1, 0).to_string(), volume(1, 0, None))],
    );
    *device.disk.1.lock().unwrap() =
        Some(Failure::new(Code::VolumeCreate, "volume x", "disk on fire").transient());
    device.runtime.settle().await.unwrap();
    let row = device.read(&VOLUME_STATUS).unwrap()[&key(1, 0).to_string()].clone();
    let fault = row.fault.unwrap();
    assert_eq!(
        (row.phase, fault.code, fault.attempts),
        (VolumePhase::Failed, Code::VolumeCreate, 1)
    );
    assert!(fault.next.is_some() && fault.text == "disk on fire");
}
