//! The service on a bus in memory with real files.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    io::{Seek, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
};

use agent::{Clock, Runtime, Settled};
use bus::{Bus, Publisher};
use jiff::Timestamp;
use model::{
    code::Code,
    content::{VerifyImageConfig, VerifyImageStatus, VerifyPhase},
    id::Digest,
    topics::{VAULT_STATUS, VERIFY_IMAGE_CONFIG, VERIFY_IMAGE_STATUS},
    vault::VaultStatus,
};
use sha2::Digest as _;
use verifier::{Disk, Verifier};

struct Device {
    dir: tempfile::TempDir,
    bus: Bus,
    config: Publisher<VerifyImageConfig>,
    runtime: Runtime<Verifier, Disk>,
}

impl Device {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("downloads")).unwrap();
        fs::create_dir(dir.path().join("verified")).unwrap();
        let bus = Bus::memory();
        let mut vault = bus.acting_as("vaultmgr").publisher(&VAULT_STATUS).unwrap();
        vault.publish("vault", &VaultStatus::disabled()).unwrap();
        vault.set_ready().unwrap();
        let config = bus
            .acting_as("volumemgr")
            .publisher(&VERIFY_IMAGE_CONFIG)
            .unwrap();
        let runtime = Self::start(&bus, &dir);
        Self {
            dir,
            bus,
            config,
            runtime,
        }
    }

    fn start(bus: &Bus, dir: &tempfile::TempDir) -> Runtime<Verifier, Disk> {
        let disk = Disk::at(dir.path().join("downloads"), dir.path().join("verified"));
        Runtime::new(
            bus.acting_as("verifier"),
            disk,
            Clock::tokio(Timestamp::UNIX_EPOCH),
            1,
        )
    }

    fn download(&self, name: Digest, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join("downloads").join(name.to_string());
        fs::write(&path, bytes).unwrap();
        path
    }

    fn ask(&mut self, sha256: Digest, path: PathBuf, attempt: u32) {
        let config = VerifyImageConfig {
            sha256,
            path,
            size_bytes: 5,
            attempt,
        };
        self.config.publish(&sha256.to_string(), &config).unwrap();
        self.config.set_ready().unwrap();
    }

    fn told(&self, digest: Digest) -> Option<VerifyImageStatus> {
        self.bus
            .read(&VERIFY_IMAGE_STATUS)
            .unwrap()
            .unwrap()
            .get(&digest.to_string())
            .cloned()
    }

    fn verified(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.dir.path().join("verified"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest(sha2::Sha256::digest(bytes).into())
}

#[tokio::test]
async fn what_is_verified_is_private_and_stays_when_the_downloader_writes_again() {
    let mut device = Device::new();
    let digest = sha256(b"image");
    let path = device.download(digest, b"image");
    let mut held_open = fs::OpenOptions::new().write(true).open(&path).unwrap();
    device.ask(digest, path, 0);
    assert_eq!(device.runtime.settle().await.unwrap(), Settled::Quiet);
    let VerifyPhase::Verified {
        path,
        size_bytes: 5,
    } = device.told(digest).unwrap().phase
    else {
        panic!("{:?}", device.told(digest));
    };
    held_open.rewind().unwrap();
    held_open.write_all(b"EVIL!").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"image");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o440
    );
    assert_eq!(device.verified(), [digest.to_string()]);
}

#[tokio::test]
async fn a_wrong_digest_leaves_no_copy_and_a_new_attempt_is_verified() {
    let mut device = Device::new();
    let digest = sha256(b"image");
    let path = device.download(digest, b"imagf");
    device.ask(digest, path.clone(), 0);
    device.runtime.settle().await.unwrap();
    let told = device.told(digest).unwrap();
    assert_eq!(
        told.phase,
        VerifyPhase::Mismatch {
            found: sha256(b"imagf")
        }
    );
    assert_eq!(told.fault.unwrap().code, Code::VerifyDigest);
    assert!(device.verified().is_empty());
    // A restart neither forgets nor repeats.
    device.runtime = Device::start(&device.bus, &device.dir);
    assert_eq!(device.runtime.turn().await.unwrap().started, 0);

    device.download(digest, b"image");
    device.ask(digest, path, 1);
    device.runtime.settle().await.unwrap();
    assert!(matches!(
        device.told(digest).unwrap().phase,
        VerifyPhase::Verified { .. }
    ));
}

#[tokio::test]
async fn garbage_of_a_crash_goes_foreign_files_stay_and_unwanted_ones_wait_for_volumemgr() {
    let mut device = Device::new();
    let (kept, dropped) = (sha256(b"kept"), sha256(b"dropped"));
    let dir = device.dir.path().join("verified");
    fs::write(dir.join(kept.to_string()), b"kept").unwrap();
    fs::write(dir.join(dropped.to_string()), b"dropped").unwrap();
    fs::write(dir.join(format!("{kept}.77-0.partial")), b"ke").unwrap();
    fs::write(dir.join("notes.txt"), b"mine").unwrap();
    assert_eq!(device.runtime.settle().await.unwrap(), Settled::Quiet);
    let mut expected = vec![
        kept.to_string(),
        dropped.to_string(),
        "notes.txt".to_owned(),
    ];
    expected.sort();
    assert_eq!(device.verified(), expected);
    assert!(matches!(
        device.told(dropped).unwrap().phase,
        VerifyPhase::Verified { size_bytes: 7, .. }
    ));

    device.ask(kept, dir.join(kept.to_string()), 0);
    device.runtime.settle().await.unwrap();
    expected.retain(|name| *name != dropped.to_string());
    assert_eq!(device.verified(), expected);
    assert_eq!(device.told(dropped), None);
}

#[tokio::test]
async fn only_plain_files_of_the_downloader_are_read() {
    let mut device = Device::new();
    let secret = device.dir.path().join("secret");
    fs::write(&secret, b"image").unwrap();
    let digest = sha256(b"image");
    let link = device.dir.path().join("downloads").join(digest.to_string());
    symlink(&secret, &link).unwrap();
    for path in [
        secret,
        link,
        device.dir.path().join("downloads").join("missing"),
    ] {
        device.ask(digest, path, 0);
        device.runtime.turn().await.unwrap();
        // The task ends at once; its failure is in the next report.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        device.runtime.turn().await.unwrap();
        let told = device.told(digest).unwrap();
        assert_eq!(told.fault.unwrap().code, Code::VerifyRead);
        assert!(device.verified().is_empty());
    }
}
