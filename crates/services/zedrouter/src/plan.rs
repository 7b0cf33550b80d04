//! The whole plan: resolve what is wanted, compare it with what is there, report.

mod dns;
mod filter;
mod instance;
mod intended;
pub mod item;
mod metric;
mod numbers;
mod pool;
mod portmap;
mod ports;
mod present;
mod routing;
mod status;
mod vif;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use agent::{Action, Backoff, Outbox, Plan, Service, Tables, Turn};
use bus::Rows;
use graph::{Item as _, Step};
use jiff::Timestamp;
use model::{
    id::{MacAddr, NetworkInstanceId},
    network::{
        AppNetworkConfig, AppNetworkStatus, AssignedAddress, AssignedNumber, NetworkInstanceConfig,
        NetworkInstanceStatus, NetworkMetrics,
    },
    port::DeviceNetworkStatus,
    topics::{
        APP_INTERFACE_TO_NUM, APP_NETWORK_CONFIG, APP_NETWORK_STATUS, DEVICE_NETWORK_STATUS,
        NETWORK_INSTANCE_CONFIG, NETWORK_INSTANCE_STATUS, NETWORK_METRICS, UUID_PAIR_TO_NUM,
    },
};
use netlink::{Address, Link, Rule, Stats};
use nft::{Count, Listing, Table};

use instance::Instance;
use item::{Item, Layer, Setting};
use ports::Port;
use vif::{App, Vif};

pub use filter::{TABLE, host_set};

pub(crate) use filter::{set_owner, table_id};
pub(crate) use instance::DEFAULT_MTU;
pub(crate) use present::{FLOWS, LOADED};

/// Counters are read and published so often.
pub(crate) const METRICS_PACE: Duration = Duration::from_secs(30);

/// The service.
pub struct Zedrouter;

/// What is wanted, and what the others say about it.
pub struct Desired {
    /// Network instances.
    pub instances: Arc<Rows<NetworkInstanceConfig>>,
    /// Unknown until zedmanager has spoken; then no interface is taken away.
    pub apps: Option<Arc<Rows<AppNetworkConfig>>>,
    /// Unknown until nim has spoken; then what is there is left as it is.
    pub ports: Option<Arc<Rows<DeviceNetworkStatus>>>,
    /// Our own rows.
    pub own: Own,
}

/// Our own rows as last published.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// Numbers, kept for good.
    pub numbers: Arc<Rows<AssignedNumber>>,
    /// Addresses and subnets, kept for good.
    pub addresses: Arc<Rows<AssignedAddress>>,
    /// States of network instances: since when a fault is known.
    pub instances: Arc<Rows<NetworkInstanceStatus>>,
    /// States of applications: which interface has which number.
    pub apps: Arc<Rows<AppNetworkStatus>>,
}

/// What is there. Of interfaces all, of everything else what is ours.
#[derive(Debug, Clone, Default)]
pub struct Actual {
    /// Where the files are; absolute.
    pub directory: PathBuf,
    /// Interfaces by name.
    pub links: BTreeMap<String, Link>,
    /// Addresses.
    pub addresses: Vec<Address>,
    /// Policy rules.
    pub rules: Vec<Rule>,
    /// Tables of the packet filter.
    pub filters: BTreeMap<Layer, Present>,
    /// Settings that have the value that we set.
    pub settings: BTreeSet<Setting>,
    /// Files by name.
    pub files: BTreeMap<String, String>,
    /// Resolvers by bridge; unknown while the supervisor has not answered.
    pub resolvers: Option<BTreeMap<String, Resolver>>,
    /// Leases of all resolvers.
    pub leases: Vec<Lease>,
    /// Counters, at most half a minute old.
    pub sample: Sample,
}

/// A table that is there.
#[derive(Debug, Clone)]
pub enum Present {
    /// As the kernel lists it.
    Listed(Listing),
    /// Exactly this one: for worlds without a kernel.
    Exactly(Box<Table>),
}

/// A resolver that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolver {
    /// Digest of the configuration that it was started with; empty for one that ends or has ended.
    pub config: String,
    /// Number of the bridge that it was started for.
    pub index: u32,
    /// Why it does not run now.
    pub trouble: Option<String>,
}

/// A lease that a guest holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Bridge of the instance.
    pub bridge: String,
    /// The guest's hardware address.
    pub mac: MacAddr,
    /// Until when.
    pub expires: Timestamp,
}

/// Counters.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// Of interfaces, by name.
    pub interfaces: BTreeMap<String, Stats>,
    /// Of both tables, by name.
    pub counters: BTreeMap<String, Count>,
}

/// Every row that zedrouter publishes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Numbers.
    pub numbers: Rows<AssignedNumber>,
    /// Addresses and subnets.
    pub addresses: Rows<AssignedAddress>,
    /// States of network instances.
    pub instances: Rows<NetworkInstanceStatus>,
    /// States of applications; not known while what they want is not.
    pub apps: Option<Rows<AppNetworkStatus>>,
    /// Counters.
    pub metrics: NetworkMetrics,
}

impl agent::Report for Report {
    fn put(self, out: &mut Outbox) {
        // Numbers and addresses first: what is made after them must never be made otherwise.
        out.put(&UUID_PAIR_TO_NUM, Some(self.numbers));
        out.put(&APP_INTERFACE_TO_NUM, Some(self.addresses));
        out.put(&NETWORK_INSTANCE_STATUS, Some(self.instances));
        out.put(&APP_NETWORK_STATUS, self.apps);
        out.put(
            &NETWORK_METRICS,
            Some([("global".to_owned(), self.metrics)].into()),
        );
    }
}

/// One step towards what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Do(pub Step<Item>);

impl Action for Do {
    fn subject(&self) -> String {
        self.0.id()
    }

    fn needs(&self) -> Vec<String> {
        match &self.0 {
            Step::Delete(_) => Vec::new(),
            Step::Create(item) | Step::Change { to: item, .. } => item.needs(),
        }
    }

    // The end of a process is waited for, and that a new one is ready for signals.
    fn is_slow(&self) -> bool {
        matches!(self.0.item(), Item::Resolver { .. } | Item::Loaded { .. })
    }

    fn backoff(&self) -> Backoff {
        Backoff {
            max: Duration::from_secs(60),
            permanent: Some(Duration::from_secs(60)),
            ..Backoff::default()
        }
    }
}

impl Service for Zedrouter {
    const NAME: &'static str = "zedrouter";
    type Desired = Desired;
    type Actual = Actual;
    type Action = Do;
    type Report = Report;

    fn read(tables: &mut Tables) -> Option<Desired> {
        let instances = tables.get(&NETWORK_INSTANCE_CONFIG);
        let desired = Desired {
            apps: tables.peek(&APP_NETWORK_CONFIG),
            ports: tables.peek(&DEVICE_NETWORK_STATUS),
            own: Own {
                numbers: tables.own(&UUID_PAIR_TO_NUM),
                addresses: tables.own(&APP_INTERFACE_TO_NUM),
                instances: tables.own(&NETWORK_INSTANCE_STATUS),
                apps: tables.own(&APP_NETWORK_STATUS),
            },
            instances: instances?,
        };
        Some(desired)
    }

    fn plan(turn: &Turn<'_, Self>) -> Plan<Self> {
        let model = Model::of(turn);
        let mut intended = intended::items(turn, &model);
        let current = present::items(turn, &model, &mut intended);
        let diff = graph::diff(&current, &intended.items);
        let report = status::report(turn, &model, &current, &intended);
        let mut plan = Plan::report(report);
        plan.actions = steps(diff);
        plan.wake_in(METRICS_PACE);
        let expiries = turn.actual.leases.iter().map(|lease| lease.expires);
        if let Some(next) = expiries.filter(|at| *at > turn.now).min() {
            plan.wake_in(Duration::try_from(next.duration_since(turn.now)).unwrap_or_default());
        }
        plan
    }
}

/// Everything wanted, resolved.
struct Model {
    ports: Vec<Port>,
    instances: Vec<Instance>,
    apps: Vec<App>,
    numbers: Rows<AssignedNumber>,
    addresses: Rows<AssignedAddress>,
}

impl Model {
    fn of(turn: &Turn<'_, Zedrouter>) -> Self {
        let desired = turn.desired;
        let statuses = desired.ports.iter().flat_map(|rows| rows.values());
        let ports: Vec<Port> = statuses.flat_map(ports::ports).collect();
        let numbers = numbers(turn);
        let (instances, mut addresses) = instance::resolve(turn, &ports, &numbers);
        let (apps, of_apps) = vif::resolve(turn, &instances, &numbers);
        addresses.extend(of_apps);
        Self {
            ports,
            instances,
            apps,
            numbers,
            addresses,
        }
    }

    fn vifs(&self) -> impl Iterator<Item = &Vif> {
        self.apps.iter().flat_map(|app| &app.vifs)
    }

    /// The interfaces in an instance.
    fn vifs_of(&self, id: NetworkInstanceId) -> impl Iterator<Item = &Vif> {
        self.vifs()
            .filter(move |vif| vif.wanted.network_instance == id)
    }
}

fn numbers(turn: &Turn<'_, Zedrouter>) -> Rows<AssignedNumber> {
    let desired = turn.desired;
    let instances = desired.instances.values().map(|row| row.id);
    let mut wanted: BTreeSet<String> = instances.map(numbers::instance_key).collect();
    let apps = desired.apps.iter().flat_map(|rows| rows.values());
    wanted.extend(apps.map(|row| numbers::app_key(row.app)));
    let is_left = |name: &str, app: u16| vif::numbers_of(name).is_some_and(|(_, n)| n == app);
    numbers::assign(&desired.own.numbers, &wanted, |key, number| {
        // A number whose objects are still there would lead a new owner to them.
        let mut links = turn.actual.links.keys();
        desired.apps.is_none()
            || if key.starts_with("ni.") {
                links.any(|name| *name == instance::bridge(number))
                    || instance::accepted(turn)
                        .iter()
                        .any(|config| numbers::instance_key(config.id) == key)
            } else {
                links.any(|name| is_left(name, number))
            }
    })
}

/// The steps of a plan, without those that would come too early: what is made anew is made when the
/// old one is gone, and what stands on it after that.
fn steps(diff: graph::Diff<Item>) -> Vec<Do> {
    let mut doomed: BTreeSet<String> = diff
        .steps()
        .filter(|step| matches!(step, Step::Delete(_)))
        .map(Step::id)
        .collect();
    let mut actions = Vec::new();
    for step in diff {
        match &step {
            Step::Delete(_) => {}
            Step::Create(item) | Step::Change { to: item, .. } => {
                let waits = doomed.contains(&item.id())
                    || item.needs().iter().any(|need| doomed.contains(need));
                if waits {
                    doomed.insert(item.id());
                    continue;
                }
            }
        }
        actions.push(Do(step));
    }
    actions.sort_by_key(turn_of);
    actions
}

/// What goes, goes while the filter still knows it; what comes, comes when the filter knows it; and
/// what old rules let through ends when they are gone. The order by need stays within each group.
fn turn_of(action: &Do) -> u8 {
    match &action.0 {
        Step::Delete(_) => 0,
        Step::Create(item) | Step::Change { to: item, .. } => match item {
            Item::Filter { .. } => 1,
            Item::Link { .. }
            | Item::Bridge { .. }
            | Item::Setting(_)
            | Item::Mtu { .. }
            | Item::Address { .. }
            | Item::Up { .. }
            | Item::Member { .. }
            | Item::Vif { .. }
            | Item::Port { .. }
            | Item::Isolated { .. }
            | Item::Rule(_)
            | Item::File { .. }
            | Item::Resolver { .. } => 2,
            Item::Loaded { .. } | Item::Flows { .. } => 3,
        },
    }
}
