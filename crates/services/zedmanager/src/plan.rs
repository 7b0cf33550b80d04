//! The whole plan: one application after the other, independent of each other.

mod app;
mod leave;
mod phase;

use std::{collections::BTreeSet, sync::Arc};

use agent::{Action, Outbox, Plan, Service, Tables, Turn};
use bus::Rows;
use model::{
    app::{AppCommandCounters, AppInstanceConfig, AppInstanceStatus},
    domain::{DomainConfig, DomainStatus},
    network::{AppNetworkConfig, AppNetworkStatus},
    node::NodeAgentStatus,
    topics::{
        APP_COMMAND_COUNTERS, APP_INSTANCE_CONFIG, APP_INSTANCE_STATUS, APP_NETWORK_CONFIG,
        APP_NETWORK_STATUS, DOMAIN_CONFIG, DOMAIN_STATUS, NODE_AGENT_STATUS, VOLUME_REF_CONFIG,
        VOLUME_REF_STATUS,
    },
    volume::{VolumeRefConfig, VolumeRefStatus},
};

/// The service.
pub struct Zedmanager;

/// What is wanted, and what the others say about it.
pub struct Desired {
    /// The controller's wishes.
    pub apps: Arc<Rows<AppInstanceConfig>>,
    /// Whether the device is about to halt; unknown counts as no.
    pub node: Option<Arc<Rows<NodeAgentStatus>>>,
    /// Unknown until volumemgr has spoken.
    pub volumes: Option<Arc<Rows<VolumeRefStatus>>>,
    /// Unknown until zedrouter has spoken.
    pub networks: Option<Arc<Rows<AppNetworkStatus>>>,
    /// Unknown until domainmgr has spoken.
    pub domains: Option<Arc<Rows<DomainStatus>>>,
    /// Our own rows: the last good state.
    pub own: Own,
}

/// zedmanager's rows as published, see [`Report`].
#[derive(Default)]
pub struct Own {
    /// Commands carried out, per application.
    pub counters: Arc<Rows<AppCommandCounters>>,
    /// Wishes for volumes.
    pub volume_refs: Arc<Rows<VolumeRefConfig>>,
    /// Wishes for interfaces.
    pub networks: Arc<Rows<AppNetworkConfig>>,
    /// Wishes for guests.
    pub domains: Arc<Rows<DomainConfig>>,
    /// How far each application is.
    pub apps: Arc<Rows<AppInstanceStatus>>,
}

impl Own {
    /// Wishes for volumes of one application.
    fn volume_refs_of(&self, app: &str) -> impl Iterator<Item = (&String, &VolumeRefConfig)> {
        // The keys begin with the application's, so its rows lie together.
        let prefix = format!("{app}.");
        self.volume_refs
            .range(prefix.clone()..)
            .take_while(move |(key, _)| key.starts_with(&prefix))
    }
}

/// Every row that zedmanager publishes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Commands carried out, per application.
    pub counters: Rows<AppCommandCounters>,
    /// Wishes for volumes.
    pub volume_refs: Rows<VolumeRefConfig>,
    /// Wishes for interfaces.
    pub networks: Rows<AppNetworkConfig>,
    /// Wishes for guests.
    pub domains: Rows<DomainConfig>,
    /// How far each application is.
    pub apps: Rows<AppInstanceStatus>,
}

impl agent::Report for Report {
    fn put(self, out: &mut Outbox) {
        // The counter first: a command whose effect is visible must never be carried out again.
        out.put(&APP_COMMAND_COUNTERS, Some(self.counters));
        out.put(&VOLUME_REF_CONFIG, Some(self.volume_refs));
        out.put(&APP_NETWORK_CONFIG, Some(self.networks));
        out.put(&DOMAIN_CONFIG, Some(self.domains));
        out.put(&APP_INSTANCE_STATUS, Some(self.apps));
    }
}

/// zedmanager acts through the bus alone.
#[derive(Debug, Clone, PartialEq)]
pub enum NoAction {}

impl Action for NoAction {
    fn subject(&self) -> String {
        match *self {}
    }
}

impl Service for Zedmanager {
    const NAME: &'static str = "zedmanager";
    type Desired = Desired;
    type Actual = ();
    type Action = NoAction;
    type Report = Report;

    fn read(tables: &mut Tables) -> Option<Desired> {
        let apps = tables.get(&APP_INSTANCE_CONFIG);
        let desired = Desired {
            node: tables.peek(&NODE_AGENT_STATUS),
            volumes: tables.peek(&VOLUME_REF_STATUS),
            networks: tables.peek(&APP_NETWORK_STATUS),
            domains: tables.peek(&DOMAIN_STATUS),
            own: Own {
                counters: tables.own(&APP_COMMAND_COUNTERS),
                volume_refs: tables.own(&VOLUME_REF_CONFIG),
                networks: tables.own(&APP_NETWORK_CONFIG),
                domains: tables.own(&DOMAIN_CONFIG),
                apps: tables.own(&APP_INSTANCE_STATUS),
            },
            apps: apps?,
        };
        Some(desired)
    }

    fn plan(turn: &Turn<'_, Self>) -> Plan<Self> {
        let mut plan = Plan::report(Report::default());
        for (key, config) in turn.desired.apps.iter() {
            app::plan(turn, key, config, &mut plan);
        }
        for key in leaving(turn.desired) {
            leave::plan(turn, &key, &mut plan.report);
        }
        plan
    }
}

/// Applications that the config no longer names but of which something is left.
fn leaving(desired: &Desired) -> BTreeSet<String> {
    let own = &desired.own;
    let refs = own.volume_refs.values().map(|r| r.app.to_string());
    let keys = own
        .apps
        .keys()
        .chain(own.domains.keys())
        .chain(own.networks.keys())
        .cloned();
    refs.chain(keys)
        .filter(|key| !desired.apps.contains_key(key))
        .collect()
}
