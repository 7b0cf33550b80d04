//! Every illness of a datastore, against the real downloader on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{fs, net::SocketAddr, panic::AssertUnwindSafe, time::Duration};

use agent::{Clock, Hand};
use bus::{Bus, Object, Topic};
use downloader::{Downloader, Shell};
use futures::{FutureExt as _, StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use model::{
    code::Code,
    content::{DownloadPhase, DownloaderStatus},
    id::Digest,
    topics::{
        CONFIG_ITEMS, DATASTORE_CONFIG, DEVICE_NETWORK_STATUS, DOWNLOADER_CONFIG,
        DOWNLOADER_STATUS, VAULT_STATUS,
    },
};
use scenarios::outside::{Ill, Lives, Store, network};
use serde_json::{Value, json};
use sha2::Digest as _;
use tempfile::TempDir;

const MINUTE: Duration = Duration::from_secs(60);
/// The datastore is ill for so long.
const TROUBLE: Duration = Duration::from_secs(30 * 60);
/// After that the file is there within so long: the longest pause between two tries, and a bit.
const HEALED: Duration = Duration::from_secs(13 * 60);
const STORE: &str = "00000000-0000-4000-8000-000000000001";

struct Device {
    root: TempDir,
    bus: Bus,
    lives: Lives,
    digest: Digest,
}

fn say<T: Object>(bus: &Bus, topic: &Topic<T>, key: &str, row: Value) {
    let mut publisher = bus.acting_as(topic.service()).publisher(topic).unwrap();
    let row: T = serde_json::from_value(row).unwrap();
    publisher.publish(key, &row).unwrap();
    publisher.set_ready().unwrap();
}

fn image() -> Vec<u8> {
    (0..500_000u32)
        .map(|i| (i.wrapping_mul(31) >> 3).to_le_bytes()[0])
        .collect()
}

impl Device {
    /// That wants the file from there.
    fn wanting(file: &[u8], from: SocketAddr, clock: Clock, hand: Hand) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("persist/vault/downloader/downloads")).unwrap();
        fs::create_dir(root.path().join("config")).unwrap();
        let bus = Bus::memory();
        say(&bus, &VAULT_STATUS, "vault", json!({"Phase": "Disabled"}));
        say(&bus, &DEVICE_NETWORK_STATUS, "global", network());
        let items = json!({"timer.download.stalled": "60", "timer.dial.timeout": "2"});
        say(&bus, &CONFIG_ITEMS, "global", json!({"Values": items}));
        let store = json!({"Id": STORE, "Kind": "Http", "Fqdn": from.to_string(), "Dpath": ""});
        say(&bus, &DATASTORE_CONFIG, STORE, store);
        let digest = Digest(sha2::Sha256::digest(file).into());
        let wish = json!({
            "Sha256": digest, "Datastores": [STORE], "RelativeUrl": "a.img", "MaxBytes": 0, "Attempt": 0,
        });
        say(&bus, &DOWNLOADER_CONFIG, &digest.to_string(), wish);
        let mut lives = Lives::new(&bus, clock, hand);
        lives.start::<Downloader, _>(Shell::at(root.path().to_owned()));
        Self {
            root,
            bus,
            lives,
            digest,
        }
    }

    fn told(&self) -> DownloaderStatus {
        self.bus.read(&DOWNLOADER_STATUS).unwrap().unwrap()[&self.digest.to_string()].clone()
    }

    /// The file is there, and every byte of it is right.
    fn has(&self, file: &[u8]) -> bool {
        match self.told().phase {
            DownloadPhase::Downloaded { path, .. } => {
                assert_eq!(fs::read(path).unwrap(), file);
                true
            }
            DownloadPhase::Waiting { .. } | DownloadPhase::Downloading { .. } => false,
        }
    }

    fn names(&self) -> Vec<String> {
        let entries =
            fs::read_dir(self.root.path().join("persist/vault/downloader/downloads")).unwrap();
        entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

/// What becomes of an ill datastore's file.
enum Course {
    /// It comes all the same, in so few files' worth of bytes.
    Comes(usize),
    /// It is tried again, and this is said.
    Again(Code),
    /// The attempt is over: the config has to change. This is said.
    Over(Code),
}

fn course(ill: Ill) -> Course {
    match ill {
        // Every piece is kept.
        Ill::Resets | Ill::Short | Ill::Stalls => Course::Comes(2),
        Ill::IgnoresRanges => Course::Comes(4),
        Ill::Long => Course::Comes(1),
        Ill::ChangesTag | Ill::Redirects | Ill::Down => Course::Again(Code::DownloadNetwork),
        Ill::WrongPart => Course::Again(Code::DownloadShort),
        Ill::Missing | Ill::Forbidden | Ill::Busy(_) | Ill::Packed => {
            Course::Again(Code::DownloadRefused)
        }
        Ill::Longer | Ill::WrongBytes | Ill::Portal => Course::Over(Code::VerifyDigest),
    }
}

async fn case(ill: Ill) {
    let file = image();
    let store = Store::with(&file, Some(ill)).await;
    let (clock, hand) = Clock::by_hand(Timestamp::now());
    let mut device = Device::wanting(&file, store.address, clock, hand);
    device.lives.pass(TROUBLE).await;
    let (answers, bytes) = store.take();
    let told = device.told();
    println!("{ill:?}: {answers} answers, {bytes} bytes, {told:?}");
    // In half an hour 2, 4, ... 512, 600 s lie between two tries. Each may ask twice, and follow ten redirects.
    let most = if ill == Ill::Redirects { 44 } else { 30 };
    assert!((1..=most).contains(&answers), "{ill:?}: {answers} answers");
    let fault = told.fault.as_ref();
    match course(ill) {
        Course::Comes(files) => {
            assert!(device.has(&file), "{ill:?}: {told:?}");
            assert!(
                bytes <= file.len() * files,
                "{ill:?}: {bytes} bytes of {}",
                file.len()
            );
            return;
        }
        Course::Again(code) => {
            let fault = fault.unwrap_or_else(|| panic!("{ill:?}: nothing is said"));
            assert_eq!(fault.code, code, "{ill:?}: {}", fault.line());
            let next = fault.next.unwrap_or_else(|| panic!("{ill:?}: no next try"));
            let wait = next.duration_since(device.lives.clock.now()).as_secs();
            assert!((-5..=725).contains(&wait), "{ill:?}: next in {wait} s");
            if let Ill::Busy(seconds) = ill {
                let most = usize::try_from(TROUBLE.as_secs() / seconds).unwrap() + 1;
                assert!(answers <= most, "{ill:?}: {answers} answers");
            }
            assert!(!device.has(&file));
        }
        Course::Over(code) => {
            let fault = fault.unwrap_or_else(|| panic!("{ill:?}: nothing is said"));
            assert_eq!(fault.code, code, "{ill:?}: {}", fault.line());
            assert_eq!(answers, 1, "{ill:?}: the same wrong file again");
            assert_eq!(device.names(), [""; 0], "{ill:?}: bytes are left");
            return;
        }
    }
    store.heal();
    let (bus, key) = (device.bus.clone(), device.digest.to_string());
    let is_there = async || {
        let rows = bus.read(&DOWNLOADER_STATUS).unwrap().unwrap();
        matches!(rows[&key].phase, DownloadPhase::Downloaded { .. })
    };
    let took = device.lives.until(HEALED, is_there).await;
    assert!(took.is_some(), "{ill:?}: {:?}", device.told());
    assert!(device.has(&file));
    // What was kept for going on is removed after the file has its name.
    device.lives.pass(MINUTE).await;
    assert_eq!(device.names().len(), 1, "{ill:?}: {:?}", device.names());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaign_datastore_illnesses() {
    // A stall takes a minute, the least that `timer.download.stalled` allows: `ALL=1`, and in the downloader's own tests.
    let is_run = |ill: &Ill| *ill != Ill::Stalls || std::env::var_os("ALL").is_some();
    let ills = Ill::ALL.into_iter().filter(is_run);
    let cases = ills.map(|ill| AssertUnwindSafe(case(ill)).catch_unwind());
    let ended: Vec<_> = stream::iter(cases).buffer_unordered(4).collect().await;
    let failed = ended.iter().filter(|case| case.is_err()).count();
    assert_eq!(failed, 0, "of {}; their words are above", ended.len());
}

/// The wall clock jumps by years while a datastore is away: the next try comes as soon as it would have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaign_datastore_clock_jumps() {
    let years = SignedDuration::from_hours(24 * 365 * 10);
    for jump in [years, -years] {
        let file = image();
        let store = Store::with(&file, Some(Ill::Down)).await;
        let (clock, hand) = Clock::by_hand(Timestamp::now());
        let mut device = Device::wanting(&file, store.address, clock, hand);
        device.lives.pass(5 * MINUTE).await;
        store.take();
        device.lives.hand.jump(jump);
        device.lives.pass(20 * MINUTE).await;
        let (answers, _) = store.take();
        assert!((1..=4).contains(&answers), "{jump}: {answers} answers");
        store.heal();
        device.lives.pass(HEALED).await;
        assert!(device.has(&file), "{jump}: {:?}", device.told());
    }
}
