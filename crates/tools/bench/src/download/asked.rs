//! The device's own two services, asked as volumemgr asks them.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use agent::{Clock, Runtime, Service, World};
use anyhow::{Context, Result, bail, ensure};
use bus::{Bus, Publisher, Subscription};
use clap::ValueEnum;
use downloader::{Downloader, Shell};
use ipnet::{IpNet, Ipv4Net};
use lab::Netns;
use model::{
    content::{
        DatastoreConfig, DatastoreKind, DownloadPhase, DownloaderConfig, DownloaderStatus,
        VerifyImageConfig, VerifyImageStatus, VerifyPhase,
    },
    id::{DatastoreId, LogicalLabel},
    port::{DeviceNetworkStatus, PortAddressing, PortStatus, ProxyConfig},
    topics::{
        DATASTORE_CONFIG, DEVICE_NETWORK_STATUS, DOWNLOADER_CONFIG, DOWNLOADER_STATUS,
        VAULT_STATUS, VERIFY_IMAGE_CONFIG, VERIFY_IMAGE_STATUS,
    },
    vault::{DOWNLOADS, VERIFIED, VaultStatus},
};
use nix::sched::{CloneFlags, setns};
use uuid::Uuid;
use verifier::{Disk, Verifier};

use super::{
    seconds,
    server::{self, ADDRESS, Server},
};
use crate::{
    bus::peer::{Peer, Role},
    clock::now_ns,
    stop::Stop,
};

/// How long something may take that takes seconds.
const LIMIT: Duration = Duration::from_secs(200);

/// Which service a process is.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Which {
    /// The downloader.
    Downloader,
    /// The verifier.
    Verifier,
}

impl Which {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Downloader => Downloader::NAME,
            Self::Verifier => Verifier::NAME,
        }
    }

    /// Is the service, until killed.
    pub fn be(self, netns: &Path, root: &Path, ready: impl FnOnce() -> Result<()>) -> Result<()> {
        // Before the runtime has threads: they inherit it.
        setns(fs::File::open(netns)?, CloneFlags::CLONE_NEWNET).context("enter the namespace")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            match self {
                Self::Downloader => {
                    serve::<Downloader, _>(root, Shell::at(root.into()), ready).await
                }
                Self::Verifier => {
                    let [from, to] = [DOWNLOADS, VERIFIED];
                    let world = Disk::at(root.join(from), root.join(to));
                    serve::<Verifier, _>(root, world, ready).await
                }
            }
        })
    }
}

async fn serve<S: Service, W: World<S>>(
    root: &Path,
    world: W,
    ready: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let bus = Bus::open(root, S::NAME)?;
    let service = Runtime::<S, W>::new(bus, world, Clock::real(Duration::ZERO), 1);
    ready()?;
    service.run(std::future::pending()).await;
    Ok(())
}

/// What both had of memory at most.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peak {
    /// Of the downloader, in KiB.
    pub downloader_kib: u64,
    /// Of the verifier, in KiB.
    pub verifier_kib: u64,
}

/// Seconds since the wish.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// Until the whole file was there.
    pub downloaded: f64,
    /// Until the verified copy was there.
    pub verified: f64,
}

/// Both services in their processes, and everybody else.
pub struct Pair {
    downloader: Peer,
    verifier: Peer,
    downloads: Publisher<DownloaderConfig>,
    verifications: Publisher<VerifyImageConfig>,
    datastores: Publisher<DatastoreConfig>,
    ports: Publisher<DeviceNetworkStatus>,
    vault: Publisher<VaultStatus>,
    downloaded: Subscription<DownloaderStatus>,
    verified: Subscription<VerifyImageStatus>,
}

impl Pair {
    /// Starts both in the namespace, on a root of their own.
    pub fn start(netns: &Netns, root: &Path) -> Result<Self> {
        for dir in [DOWNLOADS, VERIFIED, "config"] {
            fs::create_dir_all(root.join(dir))?;
        }
        let bus = Bus::open(root, "bench")?;
        let volumemgr = bus.acting_as("volumemgr");
        let start = |which: Which| -> Result<Peer> {
            Peer::ready(&Role::Service {
                which,
                netns: netns.path(),
                root: root.to_owned(),
            })
        };
        let mut pair = Self {
            downloader: start(Which::Downloader)?,
            verifier: start(Which::Verifier)?,
            downloads: volumemgr.publisher(&DOWNLOADER_CONFIG)?,
            verifications: volumemgr.publisher(&VERIFY_IMAGE_CONFIG)?,
            datastores: bus.acting_as("zedagent").publisher(&DATASTORE_CONFIG)?,
            ports: bus.acting_as("nim").publisher(&DEVICE_NETWORK_STATUS)?,
            vault: bus.acting_as("vaultmgr").publisher(&VAULT_STATUS)?,
            downloaded: bus.subscribe(&DOWNLOADER_STATUS)?,
            verified: bus.subscribe(&VERIFY_IMAGE_STATUS)?,
        };
        pair.ports.publish("global", &loopback()?)?;
        pair.ports.set_ready()?;
        pair.vault.publish("vault", &VaultStatus::disabled())?;
        pair.vault.set_ready()?;
        Ok(pair)
    }

    /// Asks for a file, and when its verified copy is there takes the wish back and waits until all of it is gone.
    pub fn fetch(&mut self, server: &Server, size: u64, stop: &Stop) -> Result<Took> {
        let sha256 = server::digest(size);
        let key = sha256.to_string();
        let store = datastore(server);
        self.datastores.publish(&store.id.to_string(), &store)?;
        self.datastores.set_ready()?;
        self.verifications.set_ready()?;
        let begin = now_ns();
        let wish = DownloaderConfig {
            sha256,
            datastores: vec![store.id],
            relative_url: size.to_string(),
            max_bytes: 0,
            attempt: 0,
        };
        self.downloads.publish(&key, &wish)?;
        self.downloads.set_ready()?;
        let (path, size_bytes) = wait(stop, "download", || {
            let rows = self.downloaded.rows()?;
            match &rows.get(&key)?.phase {
                DownloadPhase::Downloaded { path, size_bytes } => Some((path.clone(), *size_bytes)),
                DownloadPhase::Waiting { .. } | DownloadPhase::Downloading { .. } => None,
            }
        })
        .map_err(|error| self.explained(error))?;
        let downloaded = seconds(now_ns() - begin);
        ensure!(size_bytes == size << 20, "{size_bytes} bytes");
        let wish = VerifyImageConfig {
            sha256,
            path,
            size_bytes,
            attempt: 0,
        };
        self.verifications.publish(&key, &wish)?;
        let copy: PathBuf = wait(stop, "verification", || {
            let rows = self.verified.rows()?;
            match &rows.get(&key)?.phase {
                VerifyPhase::Verified { path, .. } => Some(path.clone()),
                VerifyPhase::Verifying { .. } | VerifyPhase::Mismatch { .. } => None,
            }
        })
        .map_err(|error| self.explained(error))?;
        let verified = seconds(now_ns() - begin);
        ensure!(fs::metadata(&copy)?.len() == size << 20, "a short copy");
        self.downloads.unpublish(&key)?;
        self.verifications.unpublish(&key)?;
        wait(stop, "removal", || {
            let gone = self.downloaded.rows()?.is_empty() && self.verified.rows()?.is_empty();
            (gone && !copy.exists()).then_some(())
        })?;
        Ok(Took {
            downloaded,
            verified,
        })
    }

    /// What both say of it.
    fn explained(&self, error: anyhow::Error) -> anyhow::Error {
        error.context(format!(
            "{:?} {:?}",
            self.downloaded.rows(),
            self.verified.rows()
        ))
    }

    /// What both had of memory at most since they were started.
    pub fn peak(&self) -> Result<Peak> {
        Ok(Peak {
            downloader_kib: peak_of(self.downloader.pid())?,
            verifier_kib: peak_of(self.verifier.pid())?,
        })
    }
}

fn datastore(server: &Server) -> DatastoreConfig {
    DatastoreConfig {
        id: DatastoreId(Uuid::from_u128(0xd5)),
        kind: DatastoreKind::Http,
        fqdn: server.host(),
        dpath: String::new(),
        region: String::new(),
        certificates_pem: vec![],
        credentials: None,
        fault: None,
    }
}

/// The loopback as a port of the device.
fn loopback() -> Result<DeviceNetworkStatus> {
    let port = PortStatus {
        if_name: "lo".parse().ok().context("a name of an interface")?,
        label: LogicalLabel("lo".to_owned()),
        is_mgmt: true,
        cost: 0,
        addressing: PortAddressing::Dhcp,
        mac: None,
        link_up: true,
        addresses: vec![IpNet::V4(Ipv4Net::new_assert(ADDRESS, 32))],
        gateways: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        dns_servers: vec![],
        ntp_servers: vec![],
        domain_name: String::new(),
        proxy: ProxyConfig::default(),
        mtu: 1500,
        route_table: 0,
        fault: None,
    };
    Ok(DeviceNetworkStatus {
        ports: vec![port],
        ..DeviceNetworkStatus::default()
    })
}

fn peak_of(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let words = line.context("the kernel says what memory was used")?;
    Ok(words.trim().trim_end_matches(" kB").trim().parse()?)
}

/// Looks often enough that the looking is no part of seconds.
fn wait<T>(stop: &Stop, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let limit = now_ns() + u64::try_from(LIMIT.as_nanos())?;
    while now_ns() < limit {
        stop.check()?;
        if let Some(found) = look() {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    bail!("no {what} within {} s", LIMIT.as_secs())
}
