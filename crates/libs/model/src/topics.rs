//! The wiring diagram of the device: one line per topic, nothing else.
//!
//! The writer is the first argument; nobody else can publish. Who reads a topic is listed in
//! `docs/topics.md`, generated from the services' own declarations.

use bus::Topic;

use crate::{
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
    vault::{EncryptedVaultKey, ExpectedPcrs, VaultStatus},
    volume::{DiskMetric, VolumeConfig, VolumeRefConfig, VolumeRefStatus, VolumeStatus},
};

/// A line of the wiring diagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Name of the constant in this module.
    pub constant: &'static str,
    /// Type of its objects.
    pub object: &'static str,
    /// The only writer.
    pub service: &'static str,
    /// Name on the bus.
    pub name: &'static str,
    /// Survives a reboot.
    pub persistent: bool,
}

macro_rules! topics {
    ($($const:ident: $object:ty = $kind:ident($service:literal, $name:literal);)+) => {
        $(
            #[doc = concat!("`", $service, "/", $name, "`")]
            pub const $const: Topic<$object> = Topic::$kind($service, $name);
        )+

        /// Every topic, for tools and generated pages.
        pub const ALL: &[Entry] = &[$(Entry {
            constant: stringify!($const),
            object: stringify!($object),
            service: $service,
            name: $name,
            persistent: $const.is_persistent(),
        }),+];
    };
}

topics! {
    SERVICE_STATUS: ServiceStatus = run("supervisor", "ServiceStatus");

    ONBOARDING_STATUS: OnboardingStatus = persist("zedagent", "OnboardingStatus");
    CONTROLLER_CERT: ControllerCert = persist("zedagent", "ControllerCert");
    CIPHER_CONTEXT: CipherContext = run("zedagent", "CipherContext");
    CONFIG_ITEMS: ConfigItemValueMap = persist("zedagent", "ConfigItemValueMap");
    ZEDAGENT_STATUS: ZedAgentStatus = run("zedagent", "ZedAgentStatus");
    DEVICE_PORT_CONFIG: DevicePortConfig = run("zedagent", "DevicePortConfig");
    PHYSICAL_IO_ADAPTERS: PhysicalIoAdapterList = run("zedagent", "PhysicalIOAdapterList");
    DATASTORE_CONFIG: DatastoreConfig = run("zedagent", "DatastoreConfig");
    CONTENT_TREE_CONFIG: ContentTreeConfig = run("zedagent", "ContentTreeConfig");
    VOLUME_CONFIG: VolumeConfig = run("zedagent", "VolumeConfig");
    NETWORK_INSTANCE_CONFIG: NetworkInstanceConfig = run("zedagent", "NetworkInstanceConfig");
    APP_INSTANCE_CONFIG: AppInstanceConfig = run("zedagent", "AppInstanceConfig");

    DEVICE_NETWORK_STATUS: DeviceNetworkStatus = run("nim", "DeviceNetworkStatus");
    DEVICE_PORT_CONFIG_LIST: DevicePortConfigList = persist("nim", "DevicePortConfigList");
    DHCP_LEASE: DhcpLease = run("nim", "DhcpLease");

    APP_INSTANCE_STATUS: AppInstanceStatus = run("zedmanager", "AppInstanceStatus");
    APP_COMMAND_COUNTERS: AppCommandCounters = persist("zedmanager", "AppCommandCounters");
    VOLUME_REF_CONFIG: VolumeRefConfig = run("zedmanager", "VolumeRefConfig");
    APP_NETWORK_CONFIG: AppNetworkConfig = run("zedmanager", "AppNetworkConfig");
    DOMAIN_CONFIG: DomainConfig = run("zedmanager", "DomainConfig");

    CONTENT_TREE_STATUS: ContentTreeStatus = run("volumemgr", "ContentTreeStatus");
    BLOB_STATUS: BlobStatus = run("volumemgr", "BlobStatus");
    VOLUME_STATUS: VolumeStatus = run("volumemgr", "VolumeStatus");
    VOLUME_REF_STATUS: VolumeRefStatus = run("volumemgr", "VolumeRefStatus");
    DOWNLOADER_CONFIG: DownloaderConfig = run("volumemgr", "DownloaderConfig");
    VERIFY_IMAGE_CONFIG: VerifyImageConfig = run("volumemgr", "VerifyImageConfig");
    DISK_METRIC: DiskMetric = run("volumemgr", "DiskMetric");

    DOWNLOADER_STATUS: DownloaderStatus = run("downloader", "DownloaderStatus");
    VERIFY_IMAGE_STATUS: VerifyImageStatus = run("verifier", "VerifyImageStatus");
    SIGNATURE_STATUS: SignatureStatus = run("verifier", "SignatureStatus");

    DOMAIN_STATUS: DomainStatus = run("domainmgr", "DomainStatus");
    DOMAIN_METRIC: DomainMetric = run("domainmgr", "DomainMetric");
    CAPABILITIES: Capabilities = run("domainmgr", "Capabilities");

    NETWORK_INSTANCE_STATUS: NetworkInstanceStatus = run("zedrouter", "NetworkInstanceStatus");
    APP_NETWORK_STATUS: AppNetworkStatus = run("zedrouter", "AppNetworkStatus");
    NETWORK_METRICS: NetworkMetrics = run("zedrouter", "NetworkMetrics");
    UUID_PAIR_TO_NUM: AssignedNumber = persist("zedrouter", "UUIDPairToNum");
    APP_INTERFACE_TO_NUM: AssignedAddress = persist("zedrouter", "AppInterfaceToNum");

    DELIVERY_JOURNAL: DeliveryRecord = persist("reporter", "DeliveryJournal");

    VAULT_STATUS: VaultStatus = run("vaultmgr", "VaultStatus");
    VAULT_KEY_FROM_DEVICE: EncryptedVaultKey = run("vaultmgr", "EncryptedVaultKeyFromDevice");
    VAULT_KEY_FROM_CONTROLLER: EncryptedVaultKey = run("zedagent", "EncryptedVaultKeyFromController");
    EXPECTED_PCRS: ExpectedPcrs = run("baseosmgr", "ExpectedPcrs");

    ACCESS_STATUS: AccessStatus = run("accessmgr", "AccessStatus");

    NEWLOG_METRICS: NewlogMetrics = run("newlogd", "NewlogMetrics");

    EDGE_NODE_CERT: EdgeNodeCert = persist("tpmmgr", "EdgeNodeCert");
    TPM_SANITY_STATUS: TpmSanityStatus = run("tpmmgr", "TpmSanityStatus");

    NODE_AGENT_STATUS: NodeAgentStatus = run("nodeagent", "NodeAgentStatus");
    DEVICE_OP_COUNTERS: DeviceOpCounters = persist("nodeagent", "DeviceOpCounters");
    REBOOT_RECORD: RebootRecord = persist("nodeagent", "RebootRecord");
}
