//! A device on which all is well.

use eve::Device;
use model::{
    app::{
        AclAction, AclMatch, AclRule, AppInstanceConfig, AppPhase, PortRange, Resources, VifConfig,
        VolumeAttachment,
    },
    content::{
        ContentPhase, ContentTreeConfig, DatastoreConfig, DatastoreKind, VerifyImageConfig,
        VerifyPhase,
    },
    domain::{Accelerator, Capabilities, DomainConfig, DomainPhase},
    id::LogicalLabel,
    network::{
        AppNetworkConfig, AppNetworkPhase, AppVif, NetworkInstanceConfig, NetworkInstanceKind,
        NetworkInstancePhase,
    },
    node::{
        AttestPhase, ConfigSource, NodeAgentStatus, OnboardPhase, OnboardingStatus, ZedAgentStatus,
    },
    port::{DeviceNetworkStatus, DevicePortConfig, DpcState, PortConfig, PortStatus, ProxyConfig},
    report::DeliveryRecord,
    vault::{UnlockMethod, VaultPhase, VaultStatus},
    volume::{DiskMetric, ImageFormat, VolumeConfig, VolumeOrigin, VolumePhase, VolumeRefConfig},
};

use super::*;

/// Everything runs and is reported: one application with one volume and one interface.
pub(crate) fn healthy() -> Device {
    let mut d = bare();
    let units = SERVICES
        .iter()
        .enumerate()
        .map(|(n, name)| unit(name, running(100 + u32::try_from(n).unwrap(), 3600)));
    fill(&mut d.services, units);
    fill(
        &mut d.services,
        [
            unit(&format!("domainmgr/{APP}"), running(200, 1800)),
            unit("zedrouter/dns-bn1", running(201, 1801)),
        ],
    );
    controller(&mut d);
    ports(&mut d);
    content(&mut d);
    networks(&mut d);
    guest(&mut d);
    d
}

fn controller(d: &mut Device) {
    one(
        &mut d.onboarding,
        "global",
        OnboardingStatus {
            phase: OnboardPhase::Onboarded,
            device: Some("00000000-0000-4000-8000-000000000001".parse().unwrap()),
            hardware_model: "Lab 1".to_owned(),
            server: "evc.example:443".to_owned(),
            ..OnboardingStatus::default()
        },
    );
    fill(&mut d.controller_certs, []);
    one(
        &mut d.config_items,
        "global",
        model::config_item::ConfigItemValueMap::default(),
    );
    one(
        &mut d.zedagent,
        "zedagent",
        ZedAgentStatus {
            config_source: ConfigSource::Controller,
            config_hash: "h1".to_owned(),
            config_at: Some(before(1900)),
            last_contact: Some(before(5)),
            attest: AttestPhase::Complete,
            ..ZedAgentStatus::default()
        },
    );
    one(
        &mut d.node,
        "nodeagent",
        NodeAgentStatus {
            phase: model::node::DevicePhase::Online,
            boot_time: Some(before(3700)),
            reboot_text: "first boot".to_owned(),
            ..NodeAgentStatus::default()
        },
    );
    for key in ["device".to_owned(), format!("app.{APP}")] {
        let record = DeliveryRecord {
            acknowledged: Some(digest()),
            at: Some(before(60)),
            ..DeliveryRecord::default()
        };
        one(&mut d.journal, &key, record);
    }
}

fn ports(d: &mut Device) {
    let config = |port: &PortStatus| PortConfig {
        if_name: port.if_name.clone(),
        label: port.label.clone(),
        is_mgmt: port.is_mgmt,
        cost: port.cost,
        addressing: port.addressing.clone(),
        dns_servers: Vec::new(),
        ntp_servers: Vec::new(),
        domain_name: String::new(),
        proxy: ProxyConfig::default(),
        mtu: 0,
        wireless: vec![],
    };
    let ports = vec![port("eth0", "mgmt", 0)];
    one(
        &mut d.port_configs,
        "zedagent",
        DevicePortConfig {
            key: "zedagent".to_owned(),
            time_priority: before(1900),
            ports: ports.iter().map(config).collect(),
            fault: None,
        },
    );
    one(
        &mut d.network,
        "global",
        DeviceNetworkStatus {
            dpc_key: "zedagent".to_owned(),
            state: DpcState::Success,
            ports,
        },
    );
}

fn content(d: &mut Device) {
    one(
        &mut d.datastores,
        STORE,
        DatastoreConfig {
            id: store(),
            kind: DatastoreKind::Https,
            fqdn: "ds.example".to_owned(),
            dpath: "images".to_owned(),
            region: String::new(),
            certificates_pem: Vec::new(),
            credentials: None,
            fault: None,
        },
    );
    one(
        &mut d.content_tree_configs,
        TREE,
        ContentTreeConfig {
            id: tree(),
            display_name: "web-image".to_owned(),
            datastores: vec![store()],
            relative_url: "web.qcow2".to_owned(),
            format: ImageFormat::Qcow2,
            sha256: digest(),
            max_download_bytes: 60 << 20,
            signature: None,
            fault: None,
        },
    );
    one(
        &mut d.volume_configs,
        VOLUME,
        VolumeConfig {
            id: volume().volume,
            generation: 0,
            display_name: "web-disk".to_owned(),
            origin: VolumeOrigin::Content(tree()),
            max_size_bytes: 1 << 30,
            read_only: false,
            clear_text: false,
            fault: None,
        },
    );
    let reference = VolumeRefConfig {
        app: app(),
        volume: volume(),
        device_generation: 0,
        target: model::app::DiskTarget::Disk,
    };
    let answer = reference.key();
    one(&mut d.volume_refs, &answer, reference);
    set_content(d, ContentPhase::Loaded, VolumePhase::Created, None);
    fill(&mut d.download_configs, []);
    fill(&mut d.downloads, []);
    one(
        &mut d.verify_configs,
        DIGEST,
        VerifyImageConfig {
            sha256: digest(),
            path: "/persist/vault/downloader/downloads/x".into(),
            size_bytes: 60 << 20,
            attempt: 0,
        },
    );
    set_verification(
        d,
        VerifyPhase::Verified {
            path: "/persist/vault/verifier/verified/x".into(),
            size_bytes: 60 << 20,
        },
        None,
    );
    one(
        &mut d.vault,
        "vault",
        VaultStatus {
            phase: VaultPhase::Open,
            unlocked_by: Some(UnlockMethod::Sealed),
            key: Some("b5d1c0ffee00112233445566778899aa".to_owned()),
            sealed: true,
            ..VaultStatus::disabled()
        },
    );
    one(
        &mut d.disk,
        "global",
        DiskMetric {
            total_bytes: 10 << 30,
            used_bytes: 3 << 30,
            reserved_bytes: 2 << 30,
            available_bytes: 5 << 30,
        },
    );
}

fn networks(d: &mut Device) {
    one(
        &mut d.network_instance_configs,
        NETWORK,
        NetworkInstanceConfig {
            id: network(),
            display_name: "lan".to_owned(),
            kind: NetworkInstanceKind::Local,
            port: LogicalLabel("mgmt".to_owned()),
            subnet: None,
            gateway: None,
            dhcp_range: None,
            dns_servers: Vec::new(),
            ntp_servers: Vec::new(),
            domain_name: String::new(),
            dns_entries: Vec::new(),
            mtu: 0,
            fault: None,
        },
    );
    set_network_instance(d, NetworkInstancePhase::Up, None);
    one(
        &mut d.app_network_configs,
        APP,
        AppNetworkConfig {
            app: app(),
            display_name: "web".to_owned(),
            activate: true,
            vifs: vec![AppVif {
                name: "eth0".to_owned(),
                network_instance: network(),
                mac: None,
                ip: None,
                acls: Vec::new(),
            }],
        },
    );
    set_interfaces(d, AppNetworkPhase::Ready, None);
}

fn guest(d: &mut Device) {
    let resources = Resources {
        vcpus: 1,
        memory_kib: 256 << 10,
        ..Resources::default()
    };
    one(
        &mut d.app_configs,
        APP,
        AppInstanceConfig {
            id: app(),
            display_name: "web".to_owned(),
            version: "1".to_owned(),
            activate: true,
            resources: resources.clone(),
            volumes: vec![VolumeAttachment {
                volume: volume(),
                target: model::app::DiskTarget::Disk,
                mount_dir: String::new(),
            }],
            vifs: vec![VifConfig {
                name: "eth0".to_owned(),
                network_instance: network(),
                mac: None,
                ip: None,
                acls: vec![AclRule {
                    id: 1,
                    matches: vec![AclMatch::LocalPort(PortRange {
                        first: 8080,
                        last: 8080,
                    })],
                    action: AclAction::PortMap { app_port: 80 },
                }],
            }],
            user_data: String::new(),
            secret_user_data: None,
            restart_counter: 0,
            purge_counter: 0,
            start_delay_seconds: 0,
            fault: None,
        },
    );
    one(
        &mut d.domain_configs,
        APP,
        DomainConfig {
            app: app(),
            display_name: "web".to_owned(),
            activate: true,
            incarnation: 0,
            resources,
            disks: Vec::new(),
            vifs: Vec::new(),
            user_data: String::new(),
            secret_user_data: None,
        },
    );
    one(
        &mut d.capabilities,
        "global",
        Capabilities {
            accelerator: Accelerator::Kvm,
            cpus: 4,
            memory_kib: 8 << 20,
            qemu_version: "7.2".to_owned(),
        },
    );
    set_app(
        d,
        AppPhase::Running {
            since: before(1800),
        },
        None,
    );
    set_domain(
        d,
        DomainPhase::Running {
            unit: format!("domainmgr/{APP}"),
            pid: 200,
            since: before(1800),
        },
        None,
    );
}
