//! What can be amiss with it.

use eve::{Device, why::Asked};
use model::{
    app::{AppInstanceStatus, AppPhase, VifAddress},
    code::Code,
    content::{
        BlobStatus, ContentPhase, ContentTreeStatus, DownloadPhase, DownloaderConfig,
        DownloaderStatus, VerifyImageStatus, VerifyPhase,
    },
    domain::{DomainPhase, DomainStatus},
    fault::Fault,
    network::{
        AppNetworkPhase, AppNetworkStatus, AppVifStatus, NetworkInstanceKind, NetworkInstancePhase,
        NetworkInstanceStatus,
    },
    port::{DeviceNetworkStatus, PortStatus},
    service::ServicePhase,
    vault::VaultPhase,
    volume::{ImageFormat, VolumePhase, VolumeRefStatus, VolumeStatus},
};

use super::*;

/// A healthy device, spoiled.
pub(crate) fn with(spoil: impl FnOnce(&mut Device)) -> Device {
    let mut device = healthy();
    spoil(&mut device);
    device
}

pub(crate) fn about_app(cases: &[(&'static str, Device)]) -> Vec<(&'static str, String)> {
    let say = |(name, device): &(&'static str, Device)| (*name, why(device, Asked::App, "web"));
    cases.iter().map(say).collect()
}

pub(crate) const HALF: DownloadPhase = DownloadPhase::Waiting {
    done_bytes: 30 << 20,
};

pub(crate) fn eth0(d: &mut Device) -> &mut PortStatus {
    let network: &mut DeviceNetworkStatus = d.network.rows.get_mut("global").unwrap();
    &mut network.ports[0]
}

pub(crate) fn no_lease(d: &mut Device) {
    let port = eth0(d);
    port.addresses.clear();
    port.dns_servers.clear();
    port.gateways.clear();
}

pub(crate) fn down(d: &mut Device, name: &str, seconds: i64) {
    let (_, mut status) = unit(
        name,
        ServicePhase::Backoff {
            until: before(-seconds),
        },
    );
    status.restarts = 3;
    "killed by signal 11".clone_into(&mut status.last_exit);
    status.last_exit_at = Some(before(12));
    let mut fault = fault(
        Code::UnitCrashed,
        &format!("unit {name}"),
        "killed by signal 11",
    );
    fault.attempts = 3;
    fault.since = before(12);
    fault.next = Some(before(-seconds));
    status.fault = Some(fault);
    d.services.rows.insert(name.to_owned(), status);
}

/// The same, ended in another way.
pub(crate) fn ended(d: &mut Device, name: &str, code: Code, how: &units::ExitKind) {
    down(d, name, 4);
    let status = d.services.rows.get_mut(name).unwrap();
    status.last_exit = how.to_string();
    let fault = status.fault.as_mut().unwrap();
    fault.code = code;
    fault.text = how.to_string();
}

/// The same phase for content tree and blob, and one for the volume.
pub(crate) fn set_content(
    d: &mut Device,
    content: ContentPhase,
    volume_phase: VolumePhase,
    fault: Option<Fault>,
) {
    one(
        &mut d.blobs,
        DIGEST,
        BlobStatus {
            sha256: digest(),
            phase: content.clone(),
            path: None,
            size_bytes: 0,
            referenced_by: vec![tree()],
            fault: fault.clone(),
        },
    );
    one(
        &mut d.content_trees,
        TREE,
        ContentTreeStatus {
            id: tree(),
            display_name: "web-image".to_owned(),
            sha256: digest(),
            format: ImageFormat::Qcow2,
            phase: content,
            path: None,
            size_bytes: 0,
            fault: fault.clone(),
        },
    );
    set_volume(d, volume_phase, fault);
}

pub(crate) fn set_volume(d: &mut Device, phase: VolumePhase, fault: Option<Fault>) {
    one(
        &mut d.volumes,
        VOLUME,
        VolumeStatus {
            key: volume(),
            display_name: "web-disk".to_owned(),
            phase: phase.clone(),
            content_tree: Some(tree()),
            path: Some("/persist/vault/volumemgr/volumes/x.qcow2".into()),
            format: ImageFormat::Qcow2,
            virtual_size_bytes: 1 << 30,
            used_bytes: 64 << 20,
            referenced_by: vec![app()],
            read_only: false,
            fault: fault.clone(),
        },
    );
    one(
        &mut d.volume_ref_statuses,
        &format!("{APP}.{VOLUME}"),
        VolumeRefStatus {
            app: app(),
            volume: volume(),
            phase,
            path: Some("/persist/vault/volumemgr/volumes/x.qcow2".into()),
            format: ImageFormat::Qcow2,
            read_only: false,
            fault,
        },
    );
}

/// As after a boot that has not opened the vault: who looks after what is in it has not begun.
pub(crate) fn lock_vault(d: &mut Device, fault: Option<Fault>) {
    let vault = d.vault.rows.get_mut("vault").unwrap();
    vault.phase = VaultPhase::Locked;
    vault.sealed = false;
    vault.fault = fault;
    d.volumes.rows.clear();
    d.volumes.ready = false;
    d.volume_ref_statuses.rows.clear();
    d.volume_ref_statuses.ready = false;
}

pub(crate) fn set_verification(d: &mut Device, phase: VerifyPhase, fault: Option<Fault>) {
    let row = VerifyImageStatus {
        sha256: digest(),
        attempt: 0,
        phase,
        fault,
    };
    one(&mut d.verifications, DIGEST, row);
}

/// The image is being fetched.
pub(crate) fn set_download(d: &mut Device, phase: DownloadPhase, fault: Option<Fault>) {
    d.verify_configs.rows.clear();
    d.verifications.rows.clear();
    one(
        &mut d.download_configs,
        DIGEST,
        DownloaderConfig {
            sha256: digest(),
            datastores: vec![store()],
            relative_url: "web.qcow2".to_owned(),
            max_bytes: 60 << 20,
            attempt: 0,
        },
    );
    let (done_bytes, total_bytes, port) = match &phase {
        DownloadPhase::Waiting { done_bytes } => (*done_bytes, 0, ""),
        DownloadPhase::Downloading {
            done_bytes,
            total_bytes,
        } => (*done_bytes, *total_bytes, "mgmt"),
        DownloadPhase::Downloaded { size_bytes, .. } => (*size_bytes, *size_bytes, "mgmt"),
    };
    one(
        &mut d.downloads,
        DIGEST,
        DownloaderStatus {
            sha256: digest(),
            attempt: 0,
            phase,
            port: port.to_owned(),
            fault: fault.clone(),
        },
    );
    let content = ContentPhase::Downloading {
        done_bytes,
        total_bytes,
    };
    let waits = VolumePhase::AwaitContent {
        done_bytes,
        total_bytes,
        content: "downloading".to_owned(),
    };
    set_content(d, content, waits, fault.clone());
    set_app(
        d,
        AppPhase::Preparing {
            volume: volume(),
            percent: 45,
        },
        fault,
    );
}

pub(crate) fn set_app(d: &mut Device, phase: AppPhase, fault: Option<Fault>) {
    let runs = matches!(phase, AppPhase::Running { .. });
    if !runs {
        d.domains.rows.clear();
        d.services.rows.remove(&format!("domainmgr/{APP}"));
    }
    one(
        &mut d.apps,
        APP,
        AppInstanceStatus {
            id: app(),
            display_name: "web".to_owned(),
            version: "1".to_owned(),
            activate: true,
            phase,
            since: before(300),
            restart_counter: 0,
            purge_counter: 0,
            boot_time: None,
            vifs: vec![VifAddress {
                name: "eth0".to_owned(),
                vif: "nbu1x1".to_owned(),
                mac: "02:16:3e:00:00:01".parse().unwrap(),
                ip: Some("10.1.0.2".parse().unwrap()),
                leased: true,
            }],
            volumes: vec![volume()],
            fault,
        },
    );
}

pub(crate) fn set_network_instance(
    d: &mut Device,
    phase: NetworkInstancePhase,
    fault: Option<Fault>,
) {
    one(
        &mut d.network_instances,
        NETWORK,
        NetworkInstanceStatus {
            id: network(),
            display_name: "lan".to_owned(),
            kind: NetworkInstanceKind::Local,
            phase,
            bridge: "bn1".to_owned(),
            number: 1,
            subnet: Some("10.1.0.0/24".parse().unwrap()),
            gateway: Some("10.1.0.1".parse().unwrap()),
            ports: vec!["eth0".to_owned()],
            vifs: Vec::new(),
            fault,
        },
    );
}

pub(crate) fn set_interfaces(d: &mut Device, phase: AppNetworkPhase, fault: Option<Fault>) {
    one(
        &mut d.app_networks,
        APP,
        AppNetworkStatus {
            app: app(),
            phase,
            number: 1,
            vifs: vec![AppVifStatus {
                name: "eth0".to_owned(),
                network_instance: network(),
                vif: "nbu1x1".to_owned(),
                bridge: "bn1".to_owned(),
                mac: "02:16:3e:00:00:01".parse().unwrap(),
                ip: Some("10.1.0.2".parse().unwrap()),
                lease_expires: None,
                mtu: 1500,
            }],
            fault,
        },
    );
}

pub(crate) fn set_domain(d: &mut Device, phase: DomainPhase, fault: Option<Fault>) {
    one(
        &mut d.domains,
        APP,
        DomainStatus {
            app: app(),
            phase,
            incarnation: 0,
            boot_time: Some(before(1800)),
            boots: 1,
            console_log: None,
            vnc_port: None,
            fault,
        },
    );
}
