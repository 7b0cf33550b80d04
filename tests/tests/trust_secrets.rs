//! A login and user data on their way from an operator to where they are used: real controller, real services on a real
//! bus, a datastore that lets nobody else in. Afterwards everything that the device has written, said and packed for
//! somebody else is searched.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use agent::{Boot, Clock};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bus::Rows;
use controller::KeyFiles;
use jiff::Timestamp;
use model::{
    topics::{APP_INSTANCE_CONFIG, CIPHER_CONTEXT, DATASTORE_CONFIG, VOLUME_STATUS},
    vault::{DOWNLOADS, VERIFIED},
    volume::VolumePhase,
};
use scenarios::outside::{Front, Lives, Site, Store, ground, memory_tpm};
use sha2::{Digest as _, Sha256};
use tracing_subscriber::{Layer as _, filter::Targets, layer::SubscriberExt as _};

/// In every secret.
const CANARY: &str = "CANARY";

/// What the services log, at every level.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<u8>>>);

impl io::Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Files below a directory that hold the canary, as it is or in base64 at any of three offsets.
fn found_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() && holds_canary(&fs::read(entry.path()).unwrap()) {
                found.push(entry.path());
            }
        }
    }
    found
}

fn holds_canary(bytes: &[u8]) -> bool {
    let base64 = (0..3).map(|offset| {
        let shifted = [&b"xxx"[..offset], CANARY.as_bytes()].concat();
        let text = STANDARD.encode(shifted);
        // Without what the neighbours have a part in.
        text.trim_end_matches('=')[4 * usize::from(offset > 0)..text.len() - 4].to_owned()
    });
    std::iter::once(CANARY.to_owned())
        .chain(base64)
        .any(|word| bytes.windows(word.len()).any(|w| w == word.as_bytes()))
}

/// Everything in a support bundle.
fn bundle(root: &Path) -> Vec<u8> {
    let out = root.with_extension("tar.gz");
    let eve = root.with_extension("bin").join("eve");
    fs::create_dir_all(eve.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_device"), &eve).unwrap();
    let output = Command::new(&eve)
        .args(["--root", root.to_str().unwrap(), "support-bundle", "--out"])
        .arg(&out)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut all = output.stdout;
    let archive = flate2::read::GzDecoder::new(fs::File::open(&out).unwrap());
    for entry in tar::Archive::new(archive).entries().unwrap() {
        entry.unwrap().read_to_end(&mut all).unwrap();
    }
    fs::remove_file(&out).unwrap();
    all
}

#[tokio::test]
async fn trust_secrets_are_found_nowhere_on_the_way() {
    let heard = Heard::default();
    let log = heard.clone();
    let layer = tracing_subscriber::fmt::layer().with_writer(move || log.clone());
    // The libraries below log headers as they are; what a service may log is decided in `agent`.
    let ours = Targets::new()
        .with_default(tracing::Level::DEBUG)
        .with_targets(["hyper", "h2", "rustls", "evc"].map(|t| (t, tracing::Level::INFO)));
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(ours));
    let _logging = tracing::subscriber::set_default(subscriber);

    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("device");
    let persist = root.join("persist");
    let site = Site::new().await;
    let bus = ground(&root);
    let (clock, hand) = Clock::by_hand(Timestamp::now());
    let front = Front::before(site.address, &site.pki(), clock.clone()).await;
    let config = root.join("config");
    site.partition(&config, front.address);
    let tpm = memory_tpm(&config, &bus);
    let boot = Boot {
        root: root.clone(),
        bus: bus.clone(),
        clock: clock.clone(),
        dry_run: false,
    };
    let keys = Arc::new(KeyFiles::of(&config));
    let exchange = Arc::new(tpm::DeviceExchange(Arc::new(tpm.clone())));
    let mut lives = Lives::new(&bus, clock, hand);
    lives.start::<zedagent::Zedagent, _>(zedagent::world::Evc::open(
        &boot,
        keys.clone(),
        Arc::new(tpm.clone()),
    ));
    lives.start::<reporter::Reporter, _>(reporter::world::Evc::open(&boot, keys));
    lives.start::<zedmanager::Zedmanager, _>(zedmanager::world::BusOnly);
    let shell = downloader::Shell::at(root.clone()).with_exchange(exchange);
    lives.start::<downloader::Downloader, _>(shell);
    let (downloads, verified) = (root.join(DOWNLOADS), root.join(VERIFIED));
    lives.start::<verifier::Verifier, _>(verifier::Disk::at(downloads, verified));
    lives.start::<volumemgr::Volumemgr, _>(volumemgr::Disk::at(persist.clone()));

    let image = vec![7_u8; 100_000];
    // hans:CANARY-pear
    let store = Store::locked(&image, "Basic aGFuczpDQU5BUlktcGVhcg==").await;
    let there = async || site.devices_are_there().await;
    assert!(lives.until(Duration::from_secs(300), there).await.is_some());
    let yaml = format!(
        "properties: {{timer.config.interval: 60, datastore.http.security.allowinsecureauth: true}}\n\
         networks: [{{name: dhcp}}]\nports: [{{name: eth0, network: dhcp}}]\n\
         datastores: [{{name: d, url: \"http://{}\", user: hans, password: CANARY-pear}}]\n\
         images: [{{name: i, datastore: d, file: x.img, size: 100000B, sha256: {}}}]\n\
         volumes: [{{name: v, image: i}}]\n\
         apps: [{{name: vm, activate: false, memory: 64MiB, volumes: [v], user_data: \"#!/bin/sh\\n# CANARY-plum\\n\"}}]\n",
        store.address,
        hex::encode(Sha256::digest(&image)),
    );
    site.want(&yaml).await;
    let made = async || {
        // The bus tells of changes by the kernel's events, in real time.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let volumes = bus.read(&VOLUME_STATUS).unwrap().unwrap_or_default();
        volumes.len() == 1 && volumes.values().all(|v| v.phase == VolumePhase::Created)
    };
    let took = lives.until(Duration::from_secs(1200), made).await;
    let volumes = bus.read(&VOLUME_STATUS).unwrap();
    assert!(took.is_some(), "the login did not do: {volumes:?}");
    assert_eq!(site.device().await.secrets, "encrypted for the device");
    lives.pass(Duration::from_secs(900)).await;

    // They are there, encrypted, also in what was saved.
    let rows = |rows: Option<Rows<_>>| rows.unwrap_or_default();
    assert_eq!(rows(bus.read(&CIPHER_CONTEXT).unwrap()).len(), 1);
    let stores = bus.read(&DATASTORE_CONFIG).unwrap().unwrap();
    assert!(
        stores
            .values()
            .all(|d| d.credentials.is_some() && d.fault.is_none())
    );
    let apps = bus.read(&APP_INSTANCE_CONFIG).unwrap().unwrap();
    assert!(
        apps.values()
            .all(|a| a.secret_user_data.is_some() && a.user_data.is_empty())
    );
    for name in ["lastconfig", "lastconfig.bak"] {
        assert!(persist.join("checkpoint").join(name).exists(), "{name}");
    }

    // And nowhere else. The search itself works:
    let planted = root.join("planted");
    fs::write(&planted, STANDARD.encode("xyCANARY-x")).unwrap();
    assert_eq!(found_below(&root), std::slice::from_ref(&planted));
    fs::remove_file(planted).unwrap();
    assert_eq!(found_below(&root), Vec::<PathBuf>::new());
    let log = heard.0.lock().unwrap().clone();
    assert!(log.len() > 1000 && !holds_canary(&log), "in a log");
    assert!(!holds_canary(&bundle(&root)), "in a bundle");
}
