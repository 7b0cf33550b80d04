//! The service's decisions carried out on a real ext4, with a TPM in memory: every way to open a vault, and a power cut
//! after every step of each.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../../../libs/fscrypt/tests/disk/mod.rs"]
mod disk;

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc, time::Duration};

use agent::{Clock, Hand, Jobs, Service, Turn, World};
use disk::Ext4;
use jiff::Timestamp;
use model::{
    code::Code,
    vault::{EncryptedVaultKey, ExpectedPcrs, UnlockMethod, VOLUMES, VaultPhase, VaultStatus},
};
use sha2::{Digest as _, Sha256};
use tpm::{CertificateKind, MemoryTpm, Pcr, PcrValues, SoftKey, Trouble, TroubleKind};
use vaultmgr::{Desired, Published, Vaultmgr, world::Disk};

/// More steps than any way to open a vault has.
const MOST: usize = 40;

fn now() -> Timestamp {
    Timestamp::constant(1_796_000_000, 0)
}

fn key(seed: u8) -> SoftKey {
    SoftKey::from_bytes(&[seed; 32]).unwrap()
}

fn pcr(index: u32) -> Pcr {
    Pcr::new(index).unwrap()
}

/// The PCRs of a boot of this software.
fn booted(software: u8) -> PcrValues {
    [
        (pcr(0), [1; 32]),
        (pcr(8), [software; 32]),
        (pcr(13), [software; 32]),
    ]
    .into()
}

/// What baseosmgr says of such a boot.
fn expects(software: u8) -> ExpectedPcrs {
    let values = booted(software).into_iter();
    ExpectedPcrs {
        values: values
            .map(|(pcr, value)| (pcr.index(), hex::encode(value)))
            .collect(),
    }
}

/// A device: its disk, which survives it, its TPM, and the service since its last start.
struct Device {
    disk: Ext4,
    tpm: MemoryTpm,
    world: Disk,
    desired: Desired,
    hand: Hand,
    clock: Clock,
}

impl Device {
    fn on(disk: Ext4, tpm: MemoryTpm) -> Self {
        fs::create_dir_all(disk.root().join("persist/vault")).unwrap();
        let (clock, hand) = Clock::by_hand(now());
        let world = Disk::with(disk.root(), clock.clone(), Arc::new(tpm.clone()));
        Self {
            disk,
            tpm,
            world,
            desired: Desired::default(),
            hand,
            clock,
        }
    }

    /// A new one with a TPM.
    fn new() -> Self {
        let tpm = MemoryTpm::new(key(1), key(2), key(3));
        tpm.certify(CertificateKind::Ecdh, certificate(&key(2)));
        tpm.boot(&booted(1));
        Self::on(Ext4::new("encrypt"), tpm)
    }

    /// Starts the service again.
    fn restart(&mut self) {
        self.world = Disk::with(
            self.disk.root(),
            self.clock.clone(),
            Arc::new(self.tpm.clone()),
        );
    }

    /// Starts the device again, with other software.
    fn boot(&mut self, software: u8) {
        self.disk.unmount();
        self.disk.mount();
        self.tpm.boot(&booted(software));
        self.desired.own = None;
        self.restart();
    }

    /// Does at most so many steps; false when there was more to do.
    async fn steps(&mut self, most: usize) -> (Published, bool) {
        for step in 0.. {
            let actual = self.world.observe(&self.desired).await.unwrap();
            let plan = Vaultmgr::plan(&Turn {
                desired: &self.desired,
                actual: &actual,
                jobs: &Jobs::default(),
                now: now(),
                uptime: self.clock.uptime(),
            });
            self.desired.own = Some(plan.report.status.clone());
            let Some(action) = plan.actions.into_iter().next() else {
                return (plan.report, true);
            };
            if step == most {
                return (plan.report, false);
            }
            if let Err(failure) = self
                .world
                .apply(action.clone(), agent::Progress::default())
                .await
            {
                eprintln!("{action:?}: {failure}");
            }
        }
        unreachable!()
    }

    async fn settle(&mut self) -> VaultStatus {
        let (report, settled) = self.steps(MOST).await;
        assert!(settled, "it goes on for ever: {:?}", report.status);
        report.status
    }

    /// What the controller keeps.
    async fn copy(&mut self) -> EncryptedVaultKey {
        self.steps(MOST).await.0.copy.expect("a copy")
    }

    fn volume(&self) -> PathBuf {
        self.disk.root().join(VOLUMES).join("disk.qcow2")
    }

    fn use_it(&self) {
        fs::write(self.volume(), "a volume").unwrap();
        fs::File::open(self.volume()).unwrap().sync_all().unwrap();
        fs::File::open(self.disk.root().join(VOLUMES))
            .unwrap()
            .sync_all()
            .unwrap();
    }

    fn is_used(&self) -> bool {
        fs::read(self.volume()).is_ok_and(|bytes| bytes == b"a volume")
    }
}

fn code(status: &VaultStatus) -> Option<Code> {
    status.fault.as_ref().map(|fault| fault.code)
}

#[tokio::test]
async fn a_new_device_makes_its_vault_and_every_boot_opens_it() {
    let mut device = Device::new();
    let made = device.settle().await;
    assert_eq!(made.phase, VaultPhase::Open, "{made:?}");
    assert_eq!(made.unlocked_by, Some(UnlockMethod::Created));
    assert!(made.sealed && made.fault.is_none());
    device.use_it();
    for _ in 0..2 {
        device.boot(1);
        assert!(!device.is_used(), "locked before the key is given");
        let opened = device.settle().await;
        assert_eq!(opened.phase, VaultPhase::Open);
        assert_eq!(opened.unlocked_by, Some(UnlockMethod::Sealed));
        assert_eq!(opened.key, made.key);
        assert!(device.is_used());
    }
    // A restart of the service alone, also without the TPM.
    device.restart();
    assert_eq!(
        device.settle().await.unlocked_by,
        Some(UnlockMethod::Sealed)
    );
    device.tpm.set_unreachable(true);
    device.restart();
    assert_eq!(device.steps(3).await.0.status.phase, VaultPhase::Open);
}

#[tokio::test]
async fn a_device_without_a_tpm_uses_it_as_it_is() {
    let disk = Ext4::new("encrypt");
    let mut device = Device::on(disk, MemoryTpm::software(key(1)));
    let status = device.settle().await;
    assert_eq!((status.phase, status.fault), (VaultPhase::Disabled, None));
    device.use_it();
    device.boot(1);
    assert!(device.is_used());
    // The TPM comes later: what is there stays readable, and it is said.
    device.tpm = MemoryTpm::new(key(1), key(2), key(3));
    device.restart();
    let status = device.settle().await;
    assert_eq!(status.phase, VaultPhase::Disabled);
    assert_eq!(code(&status), Some(Code::VaultUnencrypted));
}

#[tokio::test]
async fn a_file_system_that_cannot_encrypt_is_used_and_told() {
    let disk = Ext4::new("^encrypt");
    let mut device = Device::on(disk, MemoryTpm::new(key(1), key(2), key(3)));
    let status = device.settle().await;
    assert_eq!(status.phase, VaultPhase::Disabled);
    assert_eq!(code(&status), Some(Code::VaultUnencrypted));
}

#[tokio::test]
async fn other_software_is_locked_out_until_the_controller_gives_its_copy() {
    let mut device = Device::new();
    device.settle().await;
    device.use_it();
    let copy = device.copy().await;
    device.boot(2);
    let locked = device.settle().await;
    assert_eq!(locked.phase, VaultPhase::Locked);
    assert_eq!(code(&locked), Some(Code::VaultLocked));
    assert_eq!(locked.mismatching_pcrs, [8, 13]);
    assert!(!device.is_used());

    let other = EncryptedVaultKey {
        sha256: "00".repeat(32),
        ..copy.clone()
    };
    device.desired.escrowed = Some(other);
    assert_eq!(device.steps(5).await.0.status.phase, VaultPhase::Locked);

    device.desired.escrowed = Some(copy.clone());
    let opened = device.settle().await;
    assert_eq!(opened.phase, VaultPhase::Open);
    assert_eq!(opened.unlocked_by, Some(UnlockMethod::Controller));
    assert!(opened.sealed && device.is_used());
    assert_eq!(device.copy().await, copy);
    // Sealed anew: the controller is not needed again.
    device.desired.escrowed = None;
    device.boot(2);
    assert_eq!(
        device.settle().await.unlocked_by,
        Some(UnlockMethod::Sealed)
    );
    assert!(device.is_used());
}

#[tokio::test]
async fn the_copy_of_another_vault_opens_nothing() {
    let (mut one, mut two) = (Device::new(), Device::new());
    one.settle().await;
    two.settle().await;
    two.use_it();
    two.boot(2);
    two.desired.escrowed = Some(one.copy().await);
    let status = two.steps(5).await.0.status;
    assert_eq!(status.phase, VaultPhase::Locked);
    assert!(!two.is_used());
}

#[tokio::test]
async fn an_expected_update_and_its_fallback_need_no_rescue() {
    let mut device = Device::new();
    device.settle().await;
    device.use_it();
    let rows = |software: &[u8]| {
        let rows: BTreeMap<_, _> = software
            .iter()
            .map(|one| (format!("IMG{one}"), expects(*one)))
            .collect();
        Some(Arc::new(rows))
    };
    device.desired.expected = rows(&[2]);
    assert!(device.settle().await.sealed);
    // The update is tested while the old image may come back.
    device.boot(2);
    device.desired.expected = None;
    let opened = device.settle().await;
    assert_eq!(opened.unlocked_by, Some(UnlockMethod::Expected));
    assert!(opened.sealed && device.is_used());
    device.desired.expected = rows(&[1]);
    assert!(device.settle().await.sealed);
    device.boot(1);
    assert_eq!(
        device.settle().await.unlocked_by,
        Some(UnlockMethod::Expected)
    );
    // It is committed at last, and the old one is shut out.
    device.desired.expected = rows(&[2]);
    device.settle().await;
    device.boot(2);
    device.desired.expected = rows(&[]);
    assert!(device.settle().await.sealed);
    device.boot(1);
    assert_eq!(device.settle().await.phase, VaultPhase::Locked);
}

#[tokio::test]
async fn it_is_emptied_only_when_its_own_key_is_named() {
    let mut device = Device::new();
    let first = device.settle().await.key.unwrap();
    device.use_it();
    device.desired.allow_clean.clone_from(&first);
    assert!(device.settle().await.phase == VaultPhase::Open && device.is_used());
    device.boot(2);
    device.desired.allow_clean = "0".repeat(32);
    assert_eq!(device.settle().await.phase, VaultPhase::Locked);
    device.desired.allow_clean.clone_from(&first);
    let made = device.settle().await;
    assert_eq!(made.phase, VaultPhase::Open, "{made:?}");
    assert_eq!(made.unlocked_by, Some(UnlockMethod::Created));
    assert_ne!(made.key.unwrap(), first);
    assert!(!device.volume().exists());
    device.use_it();
    // The permission is still there, and void.
    device.boot(3);
    assert_eq!(device.settle().await.phase, VaultPhase::Locked);
}

#[tokio::test]
async fn a_tpm_in_trouble_keeps_it_locked_and_is_asked_again() {
    let mut device = Device::new();
    device.settle().await;
    device.use_it();
    device.boot(1);
    device.tpm.set_trouble(Some(Trouble {
        kind: TroubleKind::Lockout,
        text: "10 wrong authorizations".to_owned(),
        since: now(),
    }));
    let locked = device.settle().await;
    assert_eq!(locked.phase, VaultPhase::Locked);
    assert_eq!(code(&locked), Some(Code::VaultKeeper));
    device.tpm.set_trouble(None);
    device.hand.advance(Duration::from_secs(20));
    assert_eq!(device.settle().await.phase, VaultPhase::Open);
    assert!(device.is_used());
}

#[tokio::test]
async fn a_keeper_that_starts_is_asked_soon_and_is_no_fault() {
    let mut device = Device::new();
    device.settle().await;
    device.boot(1);
    device.tpm.set_trouble(Some(Trouble {
        kind: TroubleKind::Starting,
        text: "the keys are being prepared".to_owned(),
        since: now(),
    }));
    let locked = device.settle().await;
    assert_eq!((locked.phase, code(&locked)), (VaultPhase::Locked, None));
    device.tpm.set_trouble(None);
    device.hand.advance(Duration::from_millis(400));
    assert_eq!(device.settle().await.phase, VaultPhase::Open);
}

#[tokio::test]
async fn a_cleared_tpm_is_no_reason_to_lose_anything() {
    let mut device = Device::new();
    device.settle().await;
    device.use_it();
    let copy = device.copy().await;
    tpm::Tpm::erase(&device.tpm, vaultmgr::VAULT).await.unwrap();
    device.boot(1);
    let locked = device.settle().await;
    assert_eq!(
        (locked.phase, code(&locked)),
        (VaultPhase::Locked, Some(Code::VaultLocked))
    );
    device.desired.escrowed = Some(copy);
    assert_eq!(
        device.settle().await.unlocked_by,
        Some(UnlockMethod::Controller)
    );
    assert!(device.is_used());
    device.boot(1);
    assert_eq!(
        device.settle().await.unlocked_by,
        Some(UnlockMethod::Sealed)
    );
}

/// It is open, and will be at the next boot.
fn is_ready(status: &VaultStatus) {
    assert!(
        status.phase == VaultPhase::Open && status.sealed,
        "{status:?}"
    );
}

/// After each number of steps of what `begin` has prepared, the power fails; the next boot has to end as `check` says.
async fn cut_everywhere(
    prepare: impl AsyncFn() -> Device,
    after: u8,
    check: impl Fn(&Device, &VaultStatus),
) {
    for steps in 0..MOST {
        let mut device = prepare().await;
        let (_, done) = device.steps(steps).await;
        let desired = Desired {
            own: None,
            ..device.desired.clone()
        };
        let mut next = Device::on(device.disk.cut(), device.tpm.clone());
        next.desired = desired;
        next.tpm.boot(&booted(after));
        let status = next.settle().await;
        eprintln!("cut after {steps} steps: {status:?}");
        check(&next, &status);
        if done {
            return;
        }
    }
    panic!("more than {MOST} steps");
}

#[tokio::test]
async fn power_cuts_while_a_vault_is_made() {
    cut_everywhere(async || Device::new(), 1, |_, status| is_ready(status)).await;
}

#[tokio::test]
async fn power_cuts_while_the_key_is_sealed_for_an_update() {
    let prepare = async || {
        let mut device = Device::new();
        device.settle().await;
        device.use_it();
        device.desired.expected = Some(Arc::new([("IMGB".to_owned(), expects(2))].into()));
        device
    };
    let check = |device: &Device, status: &VaultStatus| {
        is_ready(status);
        assert!(device.is_used());
    };
    cut_everywhere(prepare, 1, check).await;
}

#[tokio::test]
async fn power_cuts_while_the_controllers_copy_opens_it() {
    let prepare = async || {
        let mut device = Device::new();
        device.settle().await;
        device.use_it();
        let copy = device.copy().await;
        device.boot(2);
        device.desired.escrowed = Some(copy);
        device
    };
    let check = |device: &Device, status: &VaultStatus| {
        is_ready(status);
        assert!(device.is_used());
    };
    cut_everywhere(prepare, 2, check).await;
}

#[tokio::test]
async fn power_cuts_while_it_is_emptied() {
    let prepare = async || {
        let mut device = Device::new();
        let key = device.settle().await.key.unwrap();
        device.use_it();
        device.boot(2);
        device.desired.allow_clean = key;
        device
    };
    let check = |device: &Device, status: &VaultStatus| {
        is_ready(status);
        assert!(!device.volume().exists());
    };
    cut_everywhere(prepare, 2, check).await;
}

/// A self-signed certificate of a key, as tpmmgr has them.
fn certificate(key: &SoftKey) -> String {
    let key = Certified(key.clone(), key.point());
    let params = rcgen::CertificateParams::default();
    params.self_signed(&key).unwrap().pem()
}

struct Certified(SoftKey, Vec<u8>);

impl rcgen::PublicKeyData for Certified {
    fn der_bytes(&self) -> &[u8] {
        &self.1
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Certified {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.0.sign(&Sha256::digest(message).into()).unwrap();
        let signature = p256::ecdsa::Signature::from_slice(&signature.0).unwrap();
        Ok(signature.to_der().as_bytes().to_vec())
    }
}
