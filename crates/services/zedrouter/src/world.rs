//! The kernel, the files of the resolvers, and the supervisor that runs them.

mod apply;
mod files;
mod resolver;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent::{Boot, Failure, Progress, World};
use dirwatch::DirWatch;
use model::code::Code;
use netlink::{Kind, Link, Netlink, NetlinkError, Owner, Sysctl};
use nft::{Count, Nft, TableId};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use units::{Client, Units, Watch};

use crate::{
    Actual, Desired, Do, Present, Sample, Zedrouter,
    item::{Layer, Setting},
};
pub use files::leases_in;
use watch::Task;

/// Directory of the resolvers' files, below the root. Flat, and gone with the boot.
pub const DIRECTORY: &str = "run/zedrouter-net";

/// How long the first look waits for the supervisor.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// The real world.
pub struct Kernel {
    directory: PathBuf,
    netlink: Netlink,
    nft: Nft,
    units: Arc<dyn Units>,
    units_seen: Watch,
    changed: Arc<Notify>,
    cache: Mutex<Cache>,
    _tasks: Vec<Task>,
}

/// What costs a process to look at, and when it was looked at.
#[derive(Default)]
struct Cache {
    filters: Option<(Instant, BTreeMap<Layer, Present>)>,
    sample: Option<(Instant, Sample)>,
    waited: bool,
}

impl Kernel {
    /// Opens the world of a device. Nothing is asked of the supervisor yet.
    #[allow(
        clippy::unused_async,
        reason = "the runtime opens worlds asynchronously"
    )]
    pub async fn open(boot: Boot) -> Result<Self, Failure> {
        let client = Client::connect(&boot.root)
            .map_err(|e| Failure::of(Code::SupervisorUnreachable, "supervisor", &e))?;
        Self::with(&boot.root, Arc::new(client), boot.dry_run)
    }

    /// The same with any supervisor. With `look_only` nothing is made.
    pub fn with(root: &Path, units: Arc<dyn Units>, look_only: bool) -> Result<Self, Failure> {
        let object = || format!("root {}", root.display());
        let unusable = |e: std::io::Error| Failure::of(Code::AgentObserve, object(), &e);
        let directory = std::path::absolute(root).map_err(unusable)?.join(DIRECTORY);
        if !look_only {
            std::fs::create_dir_all(&directory).map_err(unusable)?;
        }
        let netlink = Netlink::open().map_err(|e| unseen(&e))?;
        let changed = Arc::new(Notify::new());
        let units_seen = units.watch(resolver::PREFIX);
        let files = DirWatch::on(vec![directory.clone()]);
        let tasks = vec![
            Task::spawn(watch::links(Arc::clone(&changed))),
            Task::spawn(watch::units(units_seen.clone(), Arc::clone(&changed))),
            Task::spawn(watch::leases(files, Arc::clone(&changed))),
        ];
        Ok(Self {
            directory,
            netlink,
            nft: Nft::default(),
            units,
            units_seen,
            changed,
            cache: Mutex::default(),
            _tasks: tasks,
        })
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Both tables as they are. What others do to them is seen at the next reading of counters.
    async fn filters(&self) -> Result<BTreeMap<Layer, Present>, Failure> {
        let known = self.cache().filters.clone();
        if let Some((at, filters)) = known
            && at.elapsed() < crate::plan::METRICS_PACE
        {
            return Ok(filters);
        }
        let mut filters = BTreeMap::new();
        for layer in [Layer::Frames, Layer::Packets] {
            let listing = self.nft.list(&table_id(layer)?).await;
            if let Some(listing) = listing.map_err(|e| unseen(&e))? {
                filters.insert(layer, Present::Listed(listing));
            }
        }
        self.cache().filters = Some((Instant::now(), filters.clone()));
        Ok(filters)
    }

    fn forget_filters(&self) {
        self.cache().filters = None;
    }

    async fn sample(&self, has_filters: bool) -> Result<Sample, Failure> {
        let known = self.cache().sample.clone();
        if let Some((at, sample)) = known
            && at.elapsed() < crate::plan::METRICS_PACE
        {
            return Ok(sample);
        }
        let interfaces = self.netlink.stats().await.map_err(|e| unseen(&e))?;
        let mut counters: BTreeMap<String, Count> = BTreeMap::new();
        for layer in [Layer::Frames, Layer::Packets] {
            if !has_filters {
                break;
            }
            let some = self.nft.counters(&table_id(layer)?).await;
            for (name, count) in some.map_err(|e| unseen(&e))? {
                let sum = counters.entry(name).or_default();
                sum.packets += count.packets;
                sum.bytes += count.bytes;
            }
        }
        let sample = Sample {
            interfaces,
            counters,
        };
        self.cache().sample = Some((Instant::now(), sample.clone()));
        Ok(sample)
    }

    /// What the supervisor last said; only the first look waits for it.
    async fn units_table(&self) -> Option<Arc<units::UnitTable>> {
        let mut seen = self.units_seen.clone();
        let waits = !std::mem::replace(&mut self.cache().waited, true);
        if waits {
            let _ = timeout(FIRST_ANSWER, seen.wait_for(Option::is_some)).await;
        }
        seen.borrow().clone()
    }
}

/// The table of a layer.
fn table_id(layer: Layer) -> Result<TableId, Failure> {
    crate::plan::table_id(layer).map_err(|e| Failure::of(Code::NetworkRules, "packet filter", &e))
}

fn unseen(error: &dyn std::error::Error) -> Failure {
    Failure::of(Code::AgentObserve, "service zedrouter", error).transient()
}

/// Which of our settings have our value. A setting that this kernel has not counts as set where its
/// absence does the same.
fn settings(links: &BTreeMap<String, Link>) -> BTreeSet<Setting> {
    let bridges = links
        .iter()
        .filter(|(_, link)| link.owner == Owner::ZEDROUTER && link.kind == Kind::Bridge);
    let of_bridges = bridges.flat_map(|(name, _)| Setting::of_bridge(name));
    Setting::GENERAL
        .into_iter()
        .chain(of_bridges)
        .filter(is_set)
        .collect()
}

fn is_set(setting: &Setting) -> bool {
    match sysctl(setting).and_then(|file| file.get()) {
        Ok(value) => value == setting.values().0,
        Err(error) => error.errno() == Some(nix::libc::ENOENT) && is_met_by_absence(setting),
    }
}

fn is_met_by_absence(setting: &Setting) -> bool {
    match setting {
        Setting::IpBypass | Setting::Ip6Bypass | Setting::ArpBypass | Setting::NoIp6(_) => true,
        Setting::Forwarding | Setting::ProxyArp(_) | Setting::PromptArp(_) => false,
    }
}

/// Where a setting is.
fn sysctl(setting: &Setting) -> Result<Sysctl, NetlinkError> {
    use netlink::Family::{Ipv4, Ipv6};
    match setting {
        Setting::Forwarding => Ok(Sysctl::net("ipv4/ip_forward")),
        Setting::IpBypass => Ok(Sysctl::net("bridge/bridge-nf-call-iptables")),
        Setting::Ip6Bypass => Ok(Sysctl::net("bridge/bridge-nf-call-ip6tables")),
        Setting::ArpBypass => Ok(Sysctl::net("bridge/bridge-nf-call-arptables")),
        Setting::ProxyArp(bridge) => Sysctl::interface(Ipv4, bridge, "proxy_arp_pvlan"),
        Setting::PromptArp(bridge) => Sysctl::neighbours(Ipv4, bridge, "proxy_delay"),
        Setting::NoIp6(bridge) => Sysctl::interface(Ipv6, bridge, "disable_ipv6"),
    }
}

impl World<Zedrouter> for Kernel {
    async fn observe(&self, _: &Desired) -> Result<Actual, Failure> {
        let links = self.netlink.links().await.map_err(|e| unseen(&e))?;
        let addresses = self.netlink.addresses().await.map_err(|e| unseen(&e))?;
        let addresses = addresses.into_iter().map(|(address, _)| address);
        let rules = self.netlink.rules().await.map_err(|e| unseen(&e))?;
        let filters = self.filters().await?;
        let sample = self.sample(!filters.is_empty()).await?;
        let files = files::read(&self.directory).map_err(|e| unseen(&e))?;
        let table = self.units_table().await;
        Ok(Actual {
            directory: self.directory.clone(),
            addresses: addresses
                .filter(|address| address.owner == Owner::ZEDROUTER)
                .collect(),
            rules: rules
                .into_iter()
                .filter(|rule| rule.owner == Owner::ZEDROUTER)
                .collect(),
            filters,
            settings: settings(&links),
            leases: files::leases(&files),
            files,
            resolvers: table.map(|table| resolver::resolvers(&table)),
            links,
            sample,
        })
    }

    async fn apply(&self, action: Do, _: Progress) -> Result<(), Failure> {
        apply::step(self, action.0).await
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }
}
