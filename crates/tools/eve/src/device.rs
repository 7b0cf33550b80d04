//! The same, typed: every topic of [`model::topics`] as a table of its objects.

use std::collections::BTreeMap;

use bus::{Object, Topic};
use jiff::Timestamp;
use model::{
    access::AccessStatus,
    adapter::PhysicalIoAdapterList,
    app::{AppCommandCounters, AppInstanceConfig, AppInstanceStatus},
    config_item::ConfigItemValueMap,
    content::{
        BlobStatus, ContentTreeConfig, ContentTreeStatus, DatastoreConfig, DownloaderConfig,
        DownloaderStatus, SignatureStatus, VerifyImageConfig, VerifyImageStatus,
    },
    domain::{Capabilities, DomainConfig, DomainMetric, DomainStatus},
    log::NewlogMetrics,
    network::{
        AppNetworkConfig, AppNetworkStatus, AssignedAddress, AssignedNumber, NetworkInstanceConfig,
        NetworkInstanceStatus, NetworkMetrics,
    },
    node::{DeviceOpCounters, NodeAgentStatus, OnboardingStatus, RebootRecord, ZedAgentStatus},
    port::{DeviceNetworkStatus, DevicePortConfig, DevicePortConfigList, DhcpLease},
    report::DeliveryRecord,
    security::{CipherContext, ControllerCert, EdgeNodeCert, TpmSanityStatus},
    service::ServiceStatus,
    topics,
    vault::{EncryptedVaultKey, ExpectedPcrs, VaultStatus},
    volume::{DiskMetric, VolumeConfig, VolumeRefConfig, VolumeRefStatus, VolumeStatus},
};
use serde_json::Value;

use crate::snapshot::{RawTable, Snapshot, Supervisor, path};

/// A topic with typed objects.
#[derive(Debug, Clone, PartialEq)]
pub struct Table<T> {
    /// Its writer.
    pub service: &'static str,
    /// Its name.
    pub name: &'static str,
    /// It was published at least once.
    pub known: bool,
    /// The writer has completed a turn since it started.
    pub ready: bool,
    /// Its objects by key.
    pub rows: BTreeMap<String, T>,
    /// Objects that are there and can't be read: key to reason.
    pub unreadable: BTreeMap<String, String>,
    /// Names of objects that were moved away because they could not be read.
    pub quarantined: Vec<String>,
    /// When objects were last written.
    pub changed: BTreeMap<String, Timestamp>,
    /// When the writer completed it.
    pub ready_at: Option<Timestamp>,
}

impl<T: Object> Table<T> {
    fn of(snapshot: &Snapshot, topic: &Topic<T>) -> Self {
        let mut table = Self {
            service: topic.service(),
            name: topic.name(),
            known: false,
            ready: false,
            rows: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            quarantined: Vec::new(),
            changed: BTreeMap::new(),
            ready_at: None,
        };
        let Some(raw) = snapshot.topics.get(&path(topic.service(), topic.name())) else {
            return table;
        };
        let RawTable {
            info,
            rows,
            unreadable,
            quarantined,
            changed,
            ready_at,
        } = raw;
        table.known = true;
        table.ready = info.ready;
        for (key, value) in rows {
            match serde_json::from_value(value.clone()) {
                Ok(object) => drop(table.rows.insert(key.clone(), object)),
                Err(error) => drop(table.unreadable.insert(key.clone(), error.to_string())),
            }
        }
        for name in unreadable {
            table.unreadable.insert(name.clone(), "not JSON".to_owned());
        }
        table.quarantined.clone_from(quarantined);
        table.changed.clone_from(changed);
        table.ready_at = *ready_at;
        table
    }

    /// An object by its key.
    pub fn get(&self, key: &str) -> Option<&T> {
        self.rows.get(key)
    }

    /// The topic without its objects.
    pub fn state(&self) -> TopicState<'_> {
        TopicState {
            service: self.service,
            name: self.name,
            known: self.known,
            ready: self.ready,
            unreadable: &self.unreadable,
            quarantined: &self.quarantined,
            newest: self.changed.values().max().copied(),
            ready_at: self.ready_at,
        }
    }
}

/// A topic without its objects.
#[derive(Debug, Clone, Copy)]
pub struct TopicState<'a> {
    /// Its writer.
    pub service: &'static str,
    /// Its name.
    pub name: &'static str,
    /// It was published at least once.
    pub known: bool,
    /// The writer has completed a turn since it started.
    pub ready: bool,
    /// Objects that are there and can't be read: key to reason.
    pub unreadable: &'a BTreeMap<String, String>,
    /// Names of objects that were moved away.
    pub quarantined: &'a [String],
    /// When the newest object was written.
    pub newest: Option<Timestamp>,
    /// When the writer completed it.
    pub ready_at: Option<Timestamp>,
}

macro_rules! tables {
    ($($field:ident: $object:ty = $topic:ident;)+) => {
        /// A device as its bus tells it.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Device {
            /// When.
            pub at: Timestamp,
            /// Whether the supervisor lives.
            pub supervisor: Supervisor,
            $(
                #[doc = concat!("[`topics::", stringify!($topic), "`]")]
                pub $field: Table<$object>,
            )+
        }

        impl Device {
            /// Reads the types out of a snapshot. What can't be read is noted in its table.
            pub fn of(snapshot: &Snapshot) -> Self {
                Self {
                    at: snapshot.at,
                    supervisor: snapshot.supervisor,
                    $($field: Table::of(snapshot, &topics::$topic),)+
                }
            }

            /// Every topic, in the order of the wiring diagram.
            pub fn topics(&self) -> Vec<TopicState<'_>> {
                vec![$(self.$field.state()),+]
            }
        }

        /// Whether a value is an object of the topic; `None` when this version does not know the topic.
        pub fn check(service: &str, name: &str, value: &Value) -> Option<Result<(), String>> {
            $(
                if (service, name) == (topics::$topic.service(), topics::$topic.name()) {
                    let object = serde_json::from_value::<$object>(value.clone());
                    return Some(object.map(drop).map_err(|error| error.to_string()));
                }
            )+
            None
        }
    };
}

tables! {
    services: ServiceStatus = SERVICE_STATUS;
    onboarding: OnboardingStatus = ONBOARDING_STATUS;
    controller_certs: ControllerCert = CONTROLLER_CERT;
    config_items: ConfigItemValueMap = CONFIG_ITEMS;
    zedagent: ZedAgentStatus = ZEDAGENT_STATUS;
    port_configs: DevicePortConfig = DEVICE_PORT_CONFIG;
    adapters: PhysicalIoAdapterList = PHYSICAL_IO_ADAPTERS;
    cipher_contexts: CipherContext = CIPHER_CONTEXT;
    datastores: DatastoreConfig = DATASTORE_CONFIG;
    content_tree_configs: ContentTreeConfig = CONTENT_TREE_CONFIG;
    volume_configs: VolumeConfig = VOLUME_CONFIG;
    network_instance_configs: NetworkInstanceConfig = NETWORK_INSTANCE_CONFIG;
    app_configs: AppInstanceConfig = APP_INSTANCE_CONFIG;
    network: DeviceNetworkStatus = DEVICE_NETWORK_STATUS;
    port_config_list: DevicePortConfigList = DEVICE_PORT_CONFIG_LIST;
    leases: DhcpLease = DHCP_LEASE;
    apps: AppInstanceStatus = APP_INSTANCE_STATUS;
    app_counters: AppCommandCounters = APP_COMMAND_COUNTERS;
    volume_refs: VolumeRefConfig = VOLUME_REF_CONFIG;
    app_network_configs: AppNetworkConfig = APP_NETWORK_CONFIG;
    domain_configs: DomainConfig = DOMAIN_CONFIG;
    content_trees: ContentTreeStatus = CONTENT_TREE_STATUS;
    blobs: BlobStatus = BLOB_STATUS;
    volumes: VolumeStatus = VOLUME_STATUS;
    volume_ref_statuses: VolumeRefStatus = VOLUME_REF_STATUS;
    download_configs: DownloaderConfig = DOWNLOADER_CONFIG;
    verify_configs: VerifyImageConfig = VERIFY_IMAGE_CONFIG;
    vault: VaultStatus = VAULT_STATUS;
    vault_key: EncryptedVaultKey = VAULT_KEY_FROM_DEVICE;
    escrowed_key: EncryptedVaultKey = VAULT_KEY_FROM_CONTROLLER;
    expected_pcrs: ExpectedPcrs = EXPECTED_PCRS;
    access: AccessStatus = ACCESS_STATUS;
    disk: DiskMetric = DISK_METRIC;
    downloads: DownloaderStatus = DOWNLOADER_STATUS;
    verifications: VerifyImageStatus = VERIFY_IMAGE_STATUS;
    signatures: SignatureStatus = SIGNATURE_STATUS;
    domains: DomainStatus = DOMAIN_STATUS;
    domain_metrics: DomainMetric = DOMAIN_METRIC;
    capabilities: Capabilities = CAPABILITIES;
    network_instances: NetworkInstanceStatus = NETWORK_INSTANCE_STATUS;
    app_networks: AppNetworkStatus = APP_NETWORK_STATUS;
    network_metrics: NetworkMetrics = NETWORK_METRICS;
    numbers: AssignedNumber = UUID_PAIR_TO_NUM;
    addresses: AssignedAddress = APP_INTERFACE_TO_NUM;
    journal: DeliveryRecord = DELIVERY_JOURNAL;
    newlog: NewlogMetrics = NEWLOG_METRICS;
    edge_node_certs: EdgeNodeCert = EDGE_NODE_CERT;
    tpm: TpmSanityStatus = TPM_SANITY_STATUS;
    node: NodeAgentStatus = NODE_AGENT_STATUS;
    op_counters: DeviceOpCounters = DEVICE_OP_COUNTERS;
    reboots: RebootRecord = REBOOT_RECORD;
}

impl Device {
    /// The configuration properties in force.
    pub fn items(&self) -> ConfigItemValueMap {
        self.config_items.get("global").cloned().unwrap_or_default()
    }

    /// When the newest object was written.
    pub fn newest(&self) -> Option<Timestamp> {
        self.topics()
            .into_iter()
            .filter_map(|topic| topic.newest)
            .max()
    }

    /// The device's own network.
    pub fn ports(&self) -> Option<&DeviceNetworkStatus> {
        self.network.get("global")
    }

    /// One topic without its objects.
    pub fn topic(&self, service: &str, name: &str) -> Option<TopicState<'_>> {
        let mut topics = self.topics().into_iter();
        topics.find(|state| state.service == service && state.name == name)
    }

    /// Name of an application for people, from its config or its status.
    pub fn app_name(&self, key: &str) -> Option<&str> {
        let config = self.app_configs.get(key).map(|app| &app.display_name);
        let status = self.apps.get(key).map(|app| &app.display_name);
        config.or(status).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_of_the_wiring_diagram_is_known_here() {
        for entry in topics::ALL {
            let checked = check(entry.service, entry.name, &Value::Null);
            assert!(checked.is_some(), "{}/{}", entry.service, entry.name);
        }
        let empty = Snapshot {
            at: Timestamp::UNIX_EPOCH,
            supervisor: Supervisor::Unknown,
            topics: BTreeMap::new(),
        };
        assert_eq!(Device::of(&empty).topics().len(), topics::ALL.len());
    }
}
