//! Everything that is reported.

use std::sync::Arc;

use agent::Tables;
use bus::{Object, Rows, Topic};
use model::{
    access::{AccessStatus, Way},
    app::AppInstanceStatus,
    config_item::ConfigItemValueMap,
    content::ContentTreeStatus,
    domain::{Capabilities, DomainMetric, DomainStatus},
    network::{AppNetworkStatus, NetworkInstanceStatus, NetworkMetrics},
    node::{NodeAgentStatus, OnboardingStatus, ZedAgentStatus},
    port::{DeviceNetworkStatus, DevicePortConfigList},
    report::DeliveryRecord,
    security::TpmSanityStatus,
    service::ServiceStatus,
    topics::{
        ACCESS_STATUS, APP_INSTANCE_STATUS, APP_NETWORK_STATUS, CAPABILITIES, CONFIG_ITEMS,
        CONTENT_TREE_STATUS, DELIVERY_JOURNAL, DEVICE_NETWORK_STATUS, DEVICE_PORT_CONFIG_LIST,
        DISK_METRIC, DOMAIN_METRIC, DOMAIN_STATUS, NETWORK_INSTANCE_STATUS, NETWORK_METRICS,
        NODE_AGENT_STATUS, ONBOARDING_STATUS, SERVICE_STATUS, TPM_SANITY_STATUS, VAULT_STATUS,
        VOLUME_STATUS, ZEDAGENT_STATUS,
    },
    vault::VaultStatus,
    volume::{DiskMetric, VolumeStatus},
};

/// Every input. Tables are `None` while their writer has not spoken since boot: then nothing is said about
/// their objects, neither that they are there nor that they are gone.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// Who we are.
    pub onboarding: OnboardingStatus,
    /// Properties in force.
    pub items: ConfigItemValueMap,
    /// The config channel.
    pub zedagent: Option<ZedAgentStatus>,
    /// The device as a whole.
    pub node: Option<NodeAgentStatus>,
    /// The device's network.
    pub network: Option<DeviceNetworkStatus>,
    /// Sets of ports with their test results.
    pub port_configs: Option<DevicePortConfigList>,
    /// The encrypted part of the disk.
    pub vault: Option<VaultStatus>,
    /// Logins over the network.
    pub ssh: Option<AccessStatus>,
    /// What the device can run.
    pub capabilities: Option<Capabilities>,
    /// The device's disk.
    pub disk: Option<DiskMetric>,
    /// Who keeps the device's keys, and how that is.
    pub tpm: Option<TpmSanityStatus>,
    /// Services and helpers.
    pub services: Option<Arc<Rows<ServiceStatus>>>,
    /// Applications.
    pub apps: Option<Arc<Rows<AppInstanceStatus>>>,
    /// Interfaces of applications.
    pub app_networks: Option<Arc<Rows<AppNetworkStatus>>>,
    /// Guests.
    pub domains: Option<Arc<Rows<DomainStatus>>>,
    /// Network instances.
    pub network_instances: Option<Arc<Rows<NetworkInstanceStatus>>>,
    /// Volumes.
    pub volumes: Option<Arc<Rows<VolumeStatus>>>,
    /// Images.
    pub content_trees: Option<Arc<Rows<ContentTreeStatus>>>,
    /// Guests' consumption.
    pub domain_metrics: Option<Arc<Rows<DomainMetric>>>,
    /// Traffic.
    pub network_metrics: Option<NetworkMetrics>,
    /// Our own memory: what was acknowledged.
    pub journal: Arc<Rows<DeliveryRecord>>,
}

impl Desired {
    /// Whether the same messages follow from `other`. Of the journal only its keys matter to them.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        fn same<T>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
            match (a, b) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            }
        }
        let Self {
            onboarding,
            items,
            zedagent,
            node,
            network,
            port_configs,
            vault,
            ssh,
            capabilities,
            disk,
            tpm,
            services,
            apps,
            app_networks,
            domains,
            network_instances,
            volumes,
            content_trees,
            domain_metrics,
            network_metrics,
            journal,
        } = self;
        // Cheap ones first; a table that is the same allocation is the same table.
        same(services.as_ref(), other.services.as_ref())
            && same(apps.as_ref(), other.apps.as_ref())
            && same(app_networks.as_ref(), other.app_networks.as_ref())
            && same(domains.as_ref(), other.domains.as_ref())
            && same(network_instances.as_ref(), other.network_instances.as_ref())
            && same(volumes.as_ref(), other.volumes.as_ref())
            && same(content_trees.as_ref(), other.content_trees.as_ref())
            && same(domain_metrics.as_ref(), other.domain_metrics.as_ref())
            && *onboarding == other.onboarding
            && *items == other.items
            && *zedagent == other.zedagent
            && *node == other.node
            && *network == other.network
            && *port_configs == other.port_configs
            && *vault == other.vault
            && *ssh == other.ssh
            && *capabilities == other.capabilities
            && *disk == other.disk
            && *tpm == other.tpm
            && *network_metrics == other.network_metrics
            && (Arc::ptr_eq(journal, &other.journal) || journal.keys().eq(other.journal.keys()))
    }

    pub(crate) fn read(tables: &mut Tables) -> Option<Self> {
        fn one<T: Object>(tables: &mut Tables, topic: &Topic<T>, key: &str) -> Option<T> {
            tables.peek(topic).and_then(|rows| rows.get(key).cloned())
        }
        let onboarding = tables.get(&ONBOARDING_STATUS);
        let desired = Self {
            items: one(tables, &CONFIG_ITEMS, "global").unwrap_or_default(),
            zedagent: one(tables, &ZEDAGENT_STATUS, "zedagent"),
            node: one(tables, &NODE_AGENT_STATUS, "nodeagent"),
            network: one(tables, &DEVICE_NETWORK_STATUS, "global"),
            port_configs: one(tables, &DEVICE_PORT_CONFIG_LIST, "global"),
            vault: one(tables, &VAULT_STATUS, "vault"),
            ssh: one(tables, &ACCESS_STATUS, Way::Ssh.key()),
            capabilities: one(tables, &CAPABILITIES, "global"),
            disk: one(tables, &DISK_METRIC, "global"),
            tpm: one(tables, &TPM_SANITY_STATUS, "global"),
            services: tables.peek(&SERVICE_STATUS),
            apps: tables.peek(&APP_INSTANCE_STATUS),
            app_networks: tables.peek(&APP_NETWORK_STATUS),
            domains: tables.peek(&DOMAIN_STATUS),
            network_instances: tables.peek(&NETWORK_INSTANCE_STATUS),
            volumes: tables.peek(&VOLUME_STATUS),
            content_trees: tables.peek(&CONTENT_TREE_STATUS),
            domain_metrics: tables.peek(&DOMAIN_METRIC),
            network_metrics: one(tables, &NETWORK_METRICS, "global"),
            journal: tables.own(&DELIVERY_JOURNAL),
            onboarding: onboarding?.get("global").cloned().unwrap_or_default(),
        };
        Some(desired)
    }
}
