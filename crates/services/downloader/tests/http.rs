//! The service on a bus in memory, with real files and real servers on the loopback interface.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(unreachable_pub, reason = "a module of this test alone")]
mod server;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use agent::{Clock, Progress, Runtime, Settled, World};
use api::common::EncryptionBlock;
use bus::{Bus, Object, Rows, Topic};
use downloader::{Do, Downloader, Limits, Order, Shell};
use model::{
    code::Code,
    content::{DatastoreConfig, DatastoreKind, DownloadPhase, DownloaderConfig, DownloaderStatus},
    id::{DatastoreId, Digest},
    port::DeviceNetworkStatus,
    security::{CipherBlock, CipherContext, ControllerCert, ControllerCertKind, Octets},
    topics::{
        CIPHER_CONTEXT, CONTROLLER_CERT, DATASTORE_CONFIG, DEVICE_NETWORK_STATUS,
        DOWNLOADER_CONFIG, DOWNLOADER_STATUS, VAULT_STATUS,
    },
    vault::VaultStatus,
};
use p256::pkcs8::DecodePrivateKey as _;
use prost::Message as _;
use server::{Manner, Store, pki, serve};
use sha2::Digest as _;
use uuid::Uuid;

struct Device {
    dir: tempfile::TempDir,
    bus: Bus,
    runtime: Runtime<Downloader, Shell>,
}

impl Device {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("persist/vault/downloader/downloads")).unwrap();
        fs::create_dir(dir.path().join("config")).unwrap();
        let bus = Bus::memory();
        // Two addresses of one port are two ways to try.
        let network: DeviceNetworkStatus = serde_json::from_str(
            r#"{"DpcKey": "x", "Ports": [{"IfName": "lo", "Label": "uplink", "IsMgmt": true,
                "Addresses": ["127.0.0.1/8", "127.0.0.2/8"]}]}"#,
        )
        .unwrap();
        say(
            &bus,
            &DEVICE_NETWORK_STATUS,
            [("global".to_owned(), network)],
        );
        say(
            &bus,
            &VAULT_STATUS,
            [("vault".to_owned(), VaultStatus::disabled())],
        );
        let runtime = Self::start(&bus, dir.path());
        Self { dir, bus, runtime }
    }

    fn start(bus: &Bus, root: &Path) -> Runtime<Downloader, Shell> {
        let clock = Clock::real(Duration::ZERO);
        Runtime::new(
            bus.acting_as("downloader"),
            Shell::at(root.to_owned()),
            clock,
            1,
        )
    }

    fn stores(&self, stores: Vec<DatastoreConfig>) {
        say(
            &self.bus,
            &DATASTORE_CONFIG,
            stores.into_iter().map(|s| (s.id.to_string(), s)),
        );
    }

    fn ask(&self, files: Vec<DownloaderConfig>) {
        say(
            &self.bus,
            &DOWNLOADER_CONFIG,
            files.into_iter().map(|f| (f.sha256.to_string(), f)),
        );
    }

    async fn settle(&mut self) {
        assert_eq!(self.runtime.settle().await.unwrap(), Settled::Quiet);
    }

    fn told(&self, digest: Digest) -> DownloaderStatus {
        self.bus.read(&DOWNLOADER_STATUS).unwrap().unwrap()[&digest.to_string()].clone()
    }

    fn is_downloaded(&self, bytes: &[u8]) -> bool {
        match self.told(sha256(bytes)).phase {
            DownloadPhase::Downloaded { path, size_bytes } => {
                size_bytes == bytes.len() as u64 && fs::read(path).unwrap() == bytes
            }
            DownloadPhase::Waiting { .. } | DownloadPhase::Downloading { .. } => false,
        }
    }

    fn names(&self) -> Vec<PathBuf> {
        let entries =
            fs::read_dir(self.dir.path().join("persist/vault/downloader/downloads")).unwrap();
        entries.map(|e| e.unwrap().file_name().into()).collect()
    }
}

fn say<T: Object>(bus: &Bus, topic: &Topic<T>, rows: impl IntoIterator<Item = (String, T)>) {
    let mut publisher = bus.acting_as(topic.service()).publisher(topic).unwrap();
    publisher
        .replace(&rows.into_iter().collect::<Rows<T>>())
        .unwrap();
    publisher.set_ready().unwrap();
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest(sha2::Sha256::digest(bytes).into())
}

fn image(seed: u8) -> Vec<u8> {
    (0..600_000u32)
        .map(|i| (i.wrapping_mul(31) >> 3).to_le_bytes()[0] ^ seed)
        .collect()
}

fn store(n: u8, kind: DatastoreKind, address: SocketAddr) -> DatastoreConfig {
    DatastoreConfig {
        id: DatastoreId(Uuid::from_u128(u128::from(n))),
        kind,
        fqdn: address.to_string(),
        dpath: String::new(),
        region: String::new(),
        certificates_pem: vec![],
        credentials: None,
        fault: None,
    }
}

fn file(bytes: &[u8], path: &str, stores: &[u8]) -> DownloaderConfig {
    DownloaderConfig {
        sha256: sha256(bytes),
        datastores: stores
            .iter()
            .map(|n| DatastoreId(Uuid::from_u128(u128::from(*n))))
            .collect(),
        relative_url: path.to_owned(),
        max_bytes: 0,
        attempt: 0,
    }
}

/// Port 1 is never served.
fn nobody() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let (mut device, server) = (Device::new(), Arc::new(Store::default()));
    let image = image(1);
    server.put("a", &image, Manner::CutOnce);
    device.stores(vec![store(
        1,
        DatastoreKind::Http,
        serve(&server, None).await,
    )]);
    device.ask(vec![file(&image, "a", &[1])]);
    device.settle().await;
    assert!(device.is_downloaded(&image));
    assert_eq!(
        server.requests(),
        ["/a 0".to_owned(), format!("/a {}", image.len() / 2)]
    );
    assert_eq!(device.names().len(), 1);
    // A restart finds it and asks nobody.
    device.runtime = Device::start(&device.bus, device.dir.path());
    device.settle().await;
    assert!(device.is_downloaded(&image));
    assert_eq!(server.requests().len(), 2);
    // No longer wanted.
    device.ask(vec![]);
    device.settle().await;
    assert!(device.names().is_empty());
}

#[tokio::test]
async fn the_next_datastore_is_asked_when_one_does_not_deliver() {
    let (mut device, server) = (Device::new(), Arc::new(Store::default()));
    let image = image(2);
    server.put("a", &image, Manner::Well);
    let address = serve(&server, None).await;
    device.stores(vec![
        store(1, DatastoreKind::S3, nobody()),
        store(2, DatastoreKind::Http, nobody()),
        store(3, DatastoreKind::Http, address),
    ]);
    device.ask(vec![file(&image, "a", &[1, 2, 3])]);
    device.settle().await;
    assert!(device.is_downloaded(&image));

    // Each reason alone has its code.
    let other = [9; 10];
    for (stores, code, transient) in [
        (vec![1], Code::DatastoreUnsupported, false),
        (vec![2], Code::DownloadNetwork, true),
        (vec![3], Code::DownloadRefused, true),
        (vec![1, 2, 3], Code::DownloadRefused, true),
    ] {
        device.ask(vec![file(&other, "missing", &stores)]);
        device.settle().await;
        let fault = device.told(sha256(&other)).fault.unwrap();
        assert_eq!((fault.code, fault.transient), (code, transient), "{fault}");
        assert!(fault.next.is_some(), "{fault}");
    }
}

#[tokio::test]
async fn a_wrong_file_ends_the_attempt_and_leaves_no_byte() {
    let (mut device, server) = (Device::new(), Arc::new(Store::default()));
    let (image, wrong) = (image(3), image(4));
    server.put("a", &wrong, Manner::Well);
    device.stores(vec![store(
        1,
        DatastoreKind::Http,
        serve(&server, None).await,
    )]);
    let mut asked = file(&image, "a", &[1]);
    device.ask(vec![asked.clone()]);
    device.settle().await;
    let fault = device.told(asked.sha256).fault.unwrap();
    assert_eq!((fault.code, fault.next), (Code::VerifyDigest, None));
    assert!(fault.text.contains(&sha256(&wrong).to_string()), "{fault}");
    assert!(device.names().is_empty());
    let tries = server.requests().len();
    device.settle().await;
    assert_eq!(server.requests().len(), tries);

    server.put("a", &image, Manner::Well);
    asked.attempt = 1;
    device.ask(vec![asked]);
    device.settle().await;
    assert!(device.is_downloaded(&image));
}

#[tokio::test]
async fn https_is_trusted_by_the_devices_root_or_the_datastores_own() {
    let server = Arc::new(Store::default());
    let image = image(5);
    server.put("a", &image, Manner::Well);
    let (root, tls) = pki();
    let address = serve(&server, Some(tls)).await;

    let mut device = Device::new();
    device.stores(vec![store(1, DatastoreKind::Https, address)]);
    device.ask(vec![file(&image, "a", &[1])]);
    device.settle().await;
    let fault = device.told(sha256(&image)).fault.unwrap();
    assert_eq!(fault.code, Code::DownloadNetwork, "{fault}");

    let mut with_own = store(1, DatastoreKind::Https, address);
    with_own.certificates_pem = vec![root.clone()];
    device.stores(vec![with_own]);
    device.settle().await;
    assert!(
        device.is_downloaded(&image),
        "a changed datastore is tried at once"
    );

    let mut device = Device::new();
    fs::write(device.dir.path().join("config/root-certificate.pem"), root).unwrap();
    device.stores(vec![store(1, DatastoreKind::Https, address)]);
    device.ask(vec![file(&image, "a", &[1])]);
    device.settle().await;
    assert!(device.is_downloaded(&image));
}

#[tokio::test]
async fn too_large_a_file_is_refused_and_few_are_fetched_at_once() {
    let (mut device, server) = (Device::new(), Arc::new(Store::default()));
    let images: Vec<Vec<u8>> = (10..18).map(image).collect();
    for (n, image) in images.iter().enumerate() {
        server.put(&n.to_string(), image, Manner::Slowly);
    }
    device.stores(vec![store(
        1,
        DatastoreKind::Http,
        serve(&server, None).await,
    )]);
    let mut asked: Vec<_> = images
        .iter()
        .enumerate()
        .map(|(n, i)| file(i, &n.to_string(), &[1]))
        .collect();
    asked[7].max_bytes = 1000;
    device.ask(asked[..7].to_vec());
    device.settle().await;
    assert!(images[..7].iter().all(|image| device.is_downloaded(image)));
    assert!(server.most_open.load(Ordering::SeqCst) <= 3);
    device.ask(asked);
    device.settle().await;
    let fault = device.told(sha256(&images[7])).fault.unwrap();
    assert_eq!((fault.code, fault.transient), (Code::DownloadTooBig, false));
}

#[tokio::test]
async fn a_withdrawn_fetch_stops_and_its_part_goes() {
    let (mut device, server) = (Device::new(), Arc::new(Store::default()));
    let image = image(6);
    server.put("a", &image, Manner::Hang);
    device.stores(vec![store(
        1,
        DatastoreKind::Http,
        serve(&server, None).await,
    )]);
    device.ask(vec![file(&image, "a", &[1])]);
    for _ in 0..100 {
        device.runtime.turn().await.unwrap();
        if matches!(device.told(sha256(&image)).phase, DownloadPhase::Downloading { total_bytes, .. } if total_bytes > 0)
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let told = device.told(sha256(&image));
    assert_eq!(told.port, "uplink");
    assert!(
        matches!(
            told.phase,
            DownloadPhase::Downloading {
                total_bytes: 600_000,
                ..
            }
        ),
        "{told:?}"
    );
    device.ask(vec![]);
    for _ in 0..100 {
        device.runtime.turn().await.unwrap();
        if device.names().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("left behind: {:?}", device.names());
}

#[tokio::test]
async fn a_stalled_transfer_is_given_up_and_keeps_its_bytes() {
    let (device, server) = (Device::new(), Arc::new(Store::default()));
    let image = image(7);
    server.put("a", &image, Manner::Hang);
    let address = serve(&server, None).await;
    let order = Order {
        file: file(&image, "a", &[1]),
        datastores: vec![store(1, DatastoreKind::Http, address)],
        keys: std::collections::BTreeMap::new(),
        ports: vec![uplink::Port::new("lo", vec!["127.0.0.1".parse().unwrap()])],
        limits: Limits {
            stall: Duration::from_millis(200),
            ..Limits::default()
        },
    };
    let shell = Shell::at(device.dir.path().to_owned());
    let failure = shell
        .apply(Do::Fetch(Box::new(order.clone())), Progress::default())
        .await
        .unwrap_err();
    assert_eq!(
        (failure.code, failure.transient),
        (Code::DownloadStalled, true),
        "{failure}"
    );
    server.put("a", &image, Manner::Well);
    shell
        .apply(Do::Fetch(Box::new(order)), Progress::default())
        .await
        .unwrap();
    assert_eq!(server.requests()[1], format!("/a {}", image.len() / 2));
}

/// The controller's side of a login, and the device's key.
struct Secrets {
    key: cipher::Key,
    device_hash: [u8; 16],
    controller: ControllerCert,
    exchange: Arc<tpm::DeviceExchange>,
    tpm: tpm::MemoryTpm,
}

impl Secrets {
    fn new() -> Self {
        let soft = |n: u8| tpm::SoftKey::from_bytes(&[n; 32]).unwrap();
        let device = tpm::MemoryTpm::new(soft(1), soft(2), soft(3));
        device.certify(tpm::CertificateKind::Ecdh, "the device's certificate");
        let own = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![]).unwrap();
        let pem = params.self_signed(&own).unwrap().pem();
        let secret = p256::SecretKey::from_pkcs8_der(&own.serialize_der()).unwrap();
        let peer = cipher::PeerKey::from_sec1(&soft(2).point()).unwrap();
        Self {
            key: cipher::Key::derive(&cipher::agree(&secret, &peer).unwrap()),
            device_hash: cipher::pem_hash(b"the device's certificate"),
            controller: ControllerCert {
                kind: ControllerCertKind::EcdhExchange,
                pem,
                hash: "c0".to_owned(),
                not_after: jiff::Timestamp::MAX,
            },
            exchange: Arc::new(tpm::DeviceExchange(Arc::new(device.clone()))),
            tpm: device,
        }
    }

    fn login(&self, user: &str, password: &str) -> CipherBlock {
        let clear = EncryptionBlock {
            ds_api_key: user.to_owned(),
            ds_password: password.to_owned(),
            ..EncryptionBlock::default()
        };
        let sealed = self.key.encrypt(&[7; 16], &clear.encode_to_vec());
        CipherBlock {
            context: "x".to_owned(),
            initial_value: Octets(vec![7; 16]),
            cipher_data: Octets(sealed.data),
            clear_text_sha256: sealed.digest,
        }
    }

    fn say(&self, device: &Device) {
        let context = CipherContext {
            id: "x".to_owned(),
            device_cert_hash: hex::encode(self.device_hash),
            controller_cert_hash: "c0".to_owned(),
            fault: None,
        };
        say(&device.bus, &CIPHER_CONTEXT, [("x".to_owned(), context)]);
        let row = ("c0".to_owned(), self.controller.clone());
        say(&device.bus, &CONTROLLER_CERT, [row]);
    }
}

#[tokio::test]
async fn trust_a_login_is_decrypted_for_the_fetch_and_is_nowhere_else() {
    let secrets = Secrets::new();
    let mut device = Device::new();
    let shell = Shell::at(device.dir.path().to_owned()).with_exchange(secrets.exchange.clone());
    device.runtime = Runtime::new(
        device.bus.acting_as("downloader"),
        shell,
        Clock::real(Duration::ZERO),
        1,
    );
    let server = Arc::new(Store::default());
    let image = image(3);
    server.put("a", &image, Manner::Login("Basic aGFuczpDQU5BUlktcGVhcg=="));
    let (root, tls) = pki();
    let address = serve(&server, Some(tls)).await;
    let mut with_login = store(1, DatastoreKind::Https, address);
    with_login.certificates_pem = vec![root];
    with_login.credentials = Some(secrets.login("hans", "CANARY-pear"));
    device.stores(vec![with_login.clone()]);
    device.ask(vec![file(&image, "a", &[1])]);
    device.settle().await;
    assert!(server.requests().is_empty(), "no keys yet: it waits");

    secrets.tpm.set_unreachable(true);
    secrets.say(&device);
    device.settle().await;
    let fault = device.told(sha256(&image)).fault.unwrap();
    assert_eq!(
        (fault.code, fault.transient),
        (Code::CipherKey, true),
        "{fault:?}"
    );

    secrets.tpm.set_unreachable(false);
    // Encrypted with another key, which only the digest tells.
    let other = Secrets::new();
    with_login.credentials = Some(other.login("hans", "CANARY-pear"));
    device.stores(vec![with_login.clone()]);
    device.settle().await;
    let fault = device.told(sha256(&image)).fault.unwrap();
    assert_eq!(fault.code, Code::CipherBlock, "{fault:?}");
    assert!(server.requests().is_empty());

    with_login.credentials = Some(secrets.login("hans", "CANARY-pear"));
    device.stores(vec![with_login]);
    device.settle().await;
    let row = device.told(sha256(&image));
    assert!(
        matches!(row.phase, DownloadPhase::Downloaded { .. }),
        "{row:?}"
    );
    let published = format!("{row:?}{:?}", device.bus.read(&DATASTORE_CONFIG).unwrap());
    assert!(!published.contains("CANARY") && !published.contains("hans"));
}
