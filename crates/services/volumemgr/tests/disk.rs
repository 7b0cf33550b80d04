//! Real files and the real image tool.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(unreachable_pub, dead_code, reason = "shared with another test")]
mod simulation;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use agent::{Clock, Runtime, Settled};
use bus::{Bus, Object, Publisher, Rows, Topic};
use jiff::Timestamp;
use model::{
    code::Code,
    content::{ContentTreeConfig, VerifyImageStatus, VerifyPhase},
    id::VolumeKey,
    topics::{
        CONTENT_TREE_CONFIG, DISK_METRIC, DOWNLOADER_STATUS, VAULT_STATUS, VERIFY_IMAGE_STATUS,
        VOLUME_CONFIG, VOLUME_REF_CONFIG, VOLUME_STATUS,
    },
    vault::VaultStatus,
    volume::{ImageFormat, VolumeConfig, VolumePhase, VolumeStatus},
};
use simulation::{MIB, digest, key, tree, volume};
use volumemgr::{Disk, Volumemgr};

/// Below the directory that stands for `/persist`.
const VOLUMES: &str = "vault/volumemgr/volumes";

struct Device {
    dir: tempfile::TempDir,
    bus: Bus,
    runtime: Runtime<Volumemgr, Disk>,
    verified: Rows<VerifyImageStatus>,
}

impl Device {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(VOLUMES)).unwrap();
        fs::create_dir(dir.path().join("verified")).unwrap();
        let bus = Bus::memory();
        say(
            &bus,
            &VAULT_STATUS,
            Rows::from([("vault".to_owned(), VaultStatus::disabled())]),
        );
        say(&bus, &VOLUME_REF_CONFIG, Rows::new());
        say(&bus, &DOWNLOADER_STATUS, Rows::new());
        let runtime = Self::start(&bus, dir.path());
        Self {
            dir,
            bus,
            runtime,
            verified: Rows::new(),
        }
    }

    fn start(bus: &Bus, persist: &Path) -> Runtime<Volumemgr, Disk> {
        let clock = Clock::tokio(Timestamp::UNIX_EPOCH);
        Runtime::new(
            bus.acting_as("volumemgr"),
            Disk::at(persist.to_owned()),
            clock,
            1,
        )
    }

    /// A file that the verifier has, made by the tool or from bytes.
    fn verified(&mut self, blob: u8) -> PathBuf {
        let path = self
            .dir
            .path()
            .join("verified")
            .join(digest(blob).to_string());
        let phase = VerifyPhase::Verified {
            path: path.clone(),
            size_bytes: 0,
        };
        let row = VerifyImageStatus {
            sha256: digest(blob),
            attempt: 0,
            phase,
            fault: None,
        };
        self.verified.insert(digest(blob).to_string(), row);
        path
    }

    fn config(&self, trees: Vec<ContentTreeConfig>, volumes: Vec<VolumeConfig>) {
        say(&self.bus, &VERIFY_IMAGE_STATUS, self.verified.clone());
        say(
            &self.bus,
            &CONTENT_TREE_CONFIG,
            trees.into_iter().map(|t| (t.id.to_string(), t)).collect(),
        );
        say(
            &self.bus,
            &VOLUME_CONFIG,
            volumes
                .into_iter()
                .map(|v| (v.key().to_string(), v))
                .collect(),
        );
    }

    fn row(&self, key: VolumeKey) -> VolumeStatus {
        self.bus.read(&VOLUME_STATUS).unwrap().unwrap()[&key.to_string()].clone()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join(VOLUMES)).unwrap();
        let mut names: Vec<_> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[allow(clippy::needless_pass_by_value, reason = "reads better at the calls")]
fn say<T: Object>(bus: &Bus, topic: &Topic<T>, rows: Rows<T>) {
    let mut publisher: Publisher<T> = bus.acting_as(topic.service()).publisher(topic).unwrap();
    publisher.replace(&rows).unwrap();
    publisher.set_ready().unwrap();
}

fn qemu_img(args: &[&str]) -> String {
    let out = Command::new("qemu-img")
        .args(args)
        .output()
        .expect("qemu-img is installed");
    assert!(
        out.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

fn make(path: &Path, format: &str, size: &str) {
    qemu_img(&["create", "-q", "-f", format, path.to_str().unwrap(), size]);
}

fn of_format(n: u8, format: ImageFormat) -> ContentTreeConfig {
    ContentTreeConfig {
        format,
        ..tree(n, n)
    }
}

#[tokio::test]
async fn every_kind_of_content_becomes_a_volume_of_at_least_the_wanted_size() {
    let mut device = Device::new();
    make(&device.verified(1), "qcow2", "3M");
    let raw = device.verified(2);
    let mut bytes = vec![0; 2_000_000];
    bytes[1_000_000..1_000_100].fill(7);
    fs::write(&raw, &bytes).unwrap();
    fs::write(device.verified(3), vec![5; 5000]).unwrap();
    device.config(
        vec![
            of_format(1, ImageFormat::Qcow2),
            of_format(2, ImageFormat::Raw),
            of_format(3, ImageFormat::Iso),
        ],
        vec![
            volume(1, 0, Some(1)),
            volume(2, 0, Some(2)),
            volume(3, 0, Some(3)),
            volume(4, 2, None),
        ],
    );
    assert_eq!(device.runtime.settle().await.unwrap(), Settled::Quiet);
    let expected = [
        (key(1, 0), ImageFormat::Qcow2, 20 * MIB),
        (key(2, 0), ImageFormat::Raw, 20 * MIB),
        (key(3, 0), ImageFormat::Iso, 5000),
        (key(4, 2), ImageFormat::Qcow2, 20 * MIB),
    ];
    for (key, format, size) in expected {
        let row = device.row(key);
        assert_eq!(
            (&row.phase, row.format, row.virtual_size_bytes),
            (&VolumePhase::Created, format, size),
            "{key}"
        );
        let path = row.path.unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o660
        );
        assert_eq!(row.read_only, format == ImageFormat::Iso);
        if format == ImageFormat::Qcow2 {
            let info = qemu_img(&[
                "info",
                "--output=json",
                "-f",
                "qcow2",
                path.to_str().unwrap(),
            ]);
            assert!(
                info.contains(&format!("\"virtual-size\": {size}")),
                "{info}"
            );
            qemu_img(&["check", "-q", "-f", "qcow2", path.to_str().unwrap()]);
        }
    }
    let made = fs::read(device.row(key(2, 0)).path.unwrap()).unwrap();
    assert!(made[..bytes.len()] == bytes);
    let blocks = fs::metadata(device.row(key(2, 0)).path.unwrap())
        .unwrap()
        .blocks();
    assert!(blocks * 512 < 1_000_000, "zeros take no space");
    assert!(fs::read(device.row(key(3, 0)).path.unwrap()).unwrap() == vec![5; 5000]);
    let disk = device.bus.read(&DISK_METRIC).unwrap().unwrap()["global"].clone();
    assert!(disk.total_bytes > disk.used_bytes && disk.total_bytes > disk.available_bytes);
}

#[tokio::test]
async fn a_volume_in_use_is_never_touched_and_a_crash_leaves_only_garbage() {
    let mut device = Device::new();
    make(&device.verified(1), "qcow2", "3M");
    let trees = vec![of_format(1, ImageFormat::Qcow2)];
    device.config(trees.clone(), vec![volume(1, 0, Some(1))]);
    device.runtime.settle().await.unwrap();
    let path = device.row(key(1, 0)).path.unwrap();
    fs::write(&path, b"the guest has written").unwrap();

    // A restart after a crash in the middle of another volume.
    let volumes = device.dir.path().join(VOLUMES);
    fs::write(
        volumes.join(format!("{}.qcow2.99-0.partial", key(2, 0))),
        b"half",
    )
    .unwrap();
    fs::write(volumes.join("mine.txt"), b"foreign").unwrap();
    device.runtime = Device::start(&device.bus, device.dir.path());
    let mut bigger = volume(1, 0, Some(1));
    bigger.max_size_bytes *= 2;
    device.config(trees, vec![bigger]);
    assert_eq!(device.runtime.settle().await.unwrap(), Settled::Quiet);
    assert_eq!(fs::read(&path).unwrap(), b"the guest has written");
    assert_eq!(
        device.names(),
        [format!("{}.qcow2", key(1, 0)), "mine.txt".to_owned()]
    );

    device.config(vec![], vec![]);
    device.runtime.settle().await.unwrap();
    assert_eq!(device.names(), ["mine.txt"]);
}

#[tokio::test]
async fn an_image_that_reads_other_files_is_refused() {
    let mut device = Device::new();
    let secret = device.dir.path().join("secret");
    fs::write(&secret, vec![9; 1 << 20]).unwrap();
    let path = device.verified(1);
    let (base, image) = (secret.to_str().unwrap(), path.to_str().unwrap());
    qemu_img(&[
        "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, image,
    ]);
    fs::write(device.verified(2), b"no image at all").unwrap();
    device.config(
        vec![
            of_format(1, ImageFormat::Qcow2),
            of_format(2, ImageFormat::Qcow2),
        ],
        vec![volume(1, 0, Some(1)), volume(2, 0, Some(2))],
    );
    assert_eq!(device.runtime.settle().await.unwrap(), Settled::Quiet);
    for n in [1, 2] {
        let row = device.row(key(n, 0));
        assert_eq!(
            (row.phase, row.fault.unwrap().code),
            (VolumePhase::Failed, Code::VolumeCreate)
        );
    }
    assert!(device.names().is_empty());
}
