//! The device as a whole.

use api::info::{
    BootReason as WireBootReason, Capabilities, CertInfo, CertStatus, DataSecAtRest,
    DataSecAtRestStatus, DevicePort, DevicePortStatus, ErrorInfo, HwSecurityModuleStatus,
    MaintenanceModeReason, PcrStatus, Severity, SystemAdapterInfo, VaultInfo, ZDeviceState,
    ZInfoAppInstance, ZInfoConfigItem, ZInfoConfigItemStatus, ZInfoDevSw, ZInfoDevice, ZInfoDns,
    ZInfoNetwork, ZInfoTypes, z_info_msg::InfoContent,
};
use model::{
    access::AccessReason,
    config_item::{ConfigItemValueMap, spec},
    domain::Accelerator,
    node::{BootReason, DeviceOperationKind, DevicePhase, MaintenanceReason, NodeAgentStatus},
    port::{DevicePortConfigList, DpcEntry, PortAddressing, PortStatus},
    security::{ControllerCertKind, EndingCert, KeyKeeper, TpmSanityStatus},
    vault::{UnlockMethod, VaultPhase, VaultStatus},
};

use super::{Content, System, error, time};
use crate::Desired;

pub(super) fn info(desired: &Desired, system: &System) -> Content {
    let node = desired.node.clone().unwrap_or_default();
    let capabilities = desired.capabilities.as_ref();
    let counter = |kind: DeviceOperationKind| {
        let operations = desired
            .zedagent
            .as_ref()
            .map(|z| z.operations.as_slice())
            .unwrap_or_default();
        operations
            .iter()
            .find(|o| o.kind == kind)
            .map_or(0, |o| o.counter)
    };
    let ports = desired
        .network
        .as_ref()
        .map(|n| n.ports.as_slice())
        .unwrap_or_default();
    let kvm = capabilities.is_some_and(|c| c.accelerator == Accelerator::Kvm);
    let dinfo = ZInfoDevice {
        machine_arch: system.machine.clone(),
        cpu_arch: system.machine.clone(),
        platform: desired.onboarding.hardware_model.clone(),
        ncpu: capabilities.map_or(system.cpus, |c| c.cpus),
        memory: capabilities.map_or(system.memory_kib, |c| c.memory_kib) / 1024,
        storage: desired.disk.as_ref().map_or(0, |d| d.total_bytes >> 20),
        network: ports.iter().map(network).collect(),
        boot_time: node.boot_time.map(time),
        sw_list: vec![ZInfoDevSw {
            activated: true,
            partition_label: "IMGA".to_owned(),
            short_version: env!("CARGO_PKG_VERSION").to_owned(),
            long_version: env!("CARGO_PKG_VERSION").to_owned(),
            partition_state: "active".to_owned(),
            ..ZInfoDevSw::default()
        }],
        host_name: desired
            .onboarding
            .device
            .map(|d| d.to_string())
            .unwrap_or_default(),
        last_reboot_reason: node.reboot_text.clone(),
        last_reboot_time: node.reboot_time.map(time),
        system_adapter: desired
            .port_configs
            .as_ref()
            .map(|list| adapters(list, ports)),
        restart_counter: node.restart_counter,
        config_item_status: Some(items(&desired.items)),
        app_instances: desired
            .apps
            .iter()
            .flat_map(|apps| apps.iter())
            .map(|(key, app)| ZInfoAppInstance {
                uuid: key.clone(),
                name: app.display_name.clone(),
                ..ZInfoAppInstance::default()
            })
            .collect(),
        reboot_config_counter: counter(DeviceOperationKind::Reboot),
        shutdown_config_counter: counter(DeviceOperationKind::Shutdown),
        last_boot_reason: boot_reason(node.boot_reason).into(),
        reboot_inprogress: is_going_down(&node),
        capabilities: Some(Capabilities {
            hw_assisted_virtualization: kvm,
            io_virtualization: false,
        }),
        state: state(&node).into(),
        data_sec_at_rest_info: desired.vault.as_ref().map(data_at_rest),
        enrolled_certs: desired
            .zedagent
            .iter()
            .flat_map(|z| &z.ending_certs)
            .map(ending_cert)
            .collect(),
        hsm_status: hsm(desired.tpm.as_ref()).into(),
        hsm_info: desired.tpm.as_ref().map(hsm_text).unwrap_or_default(),
        maintenance_mode: !node.maintenance.is_empty(),
        maintenance_mode_reasons: node.maintenance.iter().copied().map(maintenance).collect(),
        remote_access_disabled: desired
            .ssh
            .as_ref()
            .is_some_and(|ssh| ssh.reason == AccessReason::Disabled),
        ..ZInfoDevice::default()
    };
    Content::new(ZInfoTypes::ZiDevice, InfoContent::Dinfo(dinfo), false)
}

/// Whether who steals the disk can read it.
fn data_at_rest(vault: &VaultStatus) -> DataSecAtRest {
    let status = match (vault.phase, &vault.fault) {
        (VaultPhase::Open, _) => DataSecAtRestStatus::DatasecAtRestEnabled,
        (VaultPhase::Locked, Some(_)) => DataSecAtRestStatus::DatasecAtRestError,
        (VaultPhase::Locked, None) => DataSecAtRestStatus::DatasecAtRestUnknown,
        (VaultPhase::Disabled, _) => DataSecAtRestStatus::DatasecAtRestDisabled,
    };
    let info = match (vault.phase, vault.unlocked_by) {
        (VaultPhase::Locked, _) => "locked",
        (VaultPhase::Disabled, _) if vault.fault.is_none() => {
            "not encrypted: the device has no TPM"
        }
        (VaultPhase::Disabled, _) => "not encrypted",
        (VaultPhase::Open, Some(UnlockMethod::Sealed)) => "opened by the TPM",
        (VaultPhase::Open, Some(UnlockMethod::Expected)) => {
            "opened by the TPM, as expected of an update"
        }
        (VaultPhase::Open, Some(UnlockMethod::Controller)) => {
            "opened by the controller's copy of the key"
        }
        (VaultPhase::Open, Some(UnlockMethod::Created)) => "made",
        (VaultPhase::Open, None) => "open",
    };
    let pcr_status = match (vault.phase, vault.sealed) {
        (VaultPhase::Open, true) => PcrStatus::PcrEnabled,
        (VaultPhase::Open, false) | (VaultPhase::Disabled, _) => PcrStatus::PcrDisabled,
        (VaultPhase::Locked, _) => PcrStatus::PcrUnknown,
    };
    DataSecAtRest {
        status: status.into(),
        info: info.to_owned(),
        vault_list: vec![VaultInfo {
            name: "Application Data Store".to_owned(),
            status: status.into(),
            vault_err: vault.fault.as_ref().map(error),
            pcr_status: pcr_status.into(),
        }],
    }
}

/// Of the controller's own certificates those that end soon: whoever looks after it is told before devices turn away.
fn ending_cert(cert: &EndingCert) -> CertInfo {
    let kind = match cert.kind {
        ControllerCertKind::Signing => "signing",
        ControllerCertKind::Intermediate => "intermediate",
        ControllerCertKind::EcdhExchange => "key exchange",
    };
    let (status, ends) = if cert.has_ended {
        (CertStatus::Expired, "has ended")
    } else {
        (CertStatus::RenewalPending, "ends")
    };
    CertInfo {
        cert_enrollment_profile_name: format!("controller: {kind}"),
        expiration_timestamp: Some(time(cert.not_after)),
        sha256_fingerprint: cert.hash.clone(),
        status: status.into(),
        err: Some(ErrorInfo {
            description: format!(
                "the controller's {kind} certificate {ends} on {}: rotate it (`evc pki rotate`); the device fetches the new one by itself",
                cert.not_after.strftime("%F")
            ),
            timestamp: Some(time(cert.not_after)),
            severity: Severity::Warning.into(),
            ..ErrorInfo::default()
        }),
        ..CertInfo::default()
    }
}

/// A device whose keys are a file says so loudly: its controller decides whether it may have secrets.
fn hsm(tpm: Option<&TpmSanityStatus>) -> HwSecurityModuleStatus {
    match tpm.map(|tpm| (tpm.keeper, &tpm.fault, tpm.unused_tpm)) {
        None | Some((KeyKeeper::Unknown, ..)) => HwSecurityModuleStatus::Unknown,
        Some((KeyKeeper::Tpm, None, _)) => HwSecurityModuleStatus::Enabled,
        Some((KeyKeeper::Tpm, Some(_), _) | (KeyKeeper::Software, _, true)) => {
            HwSecurityModuleStatus::Disabled
        }
        Some((KeyKeeper::Software, _, false)) => HwSecurityModuleStatus::Notfound,
    }
}

fn hsm_text(tpm: &TpmSanityStatus) -> String {
    match (&tpm.fault, tpm.keeper) {
        (Some(fault), _) => fault.line(),
        (None, KeyKeeper::Tpm) => format!("{} {}", tpm.vendor, tpm.firmware),
        (None, KeyKeeper::Software) => {
            "the device key is a FILE: whoever copies it is this device".to_owned()
        }
        (None, KeyKeeper::Unknown) => String::new(),
    }
}

fn maintenance(reason: MaintenanceReason) -> i32 {
    match reason {
        MaintenanceReason::UserRequested => MaintenanceModeReason::UserRequested,
        MaintenanceReason::VaultLockedUp => MaintenanceModeReason::VaultLockedUp,
        MaintenanceReason::LowDiskSpace => MaintenanceModeReason::LowDiskSpace,
        MaintenanceReason::TpmEncFailure => MaintenanceModeReason::TpmEncryptionFailure,
        MaintenanceReason::TpmQuoteFailure => MaintenanceModeReason::TpmQuoteFailure,
        MaintenanceReason::EdgeNodeCertsRefused => MaintenanceModeReason::EdgeNodeCertsRefused,
        // The protocol has no word for it.
        MaintenanceReason::Unknown => MaintenanceModeReason::None,
    }
    .into()
}

fn is_going_down(node: &NodeAgentStatus) -> bool {
    match node.phase {
        DevicePhase::Halting { .. } | DevicePhase::Rebooting => true,
        DevicePhase::Onboarding | DevicePhase::Online | DevicePhase::ShutDown => false,
    }
}

fn state(node: &NodeAgentStatus) -> ZDeviceState {
    let power_off = node
        .operation
        .as_ref()
        .is_some_and(|o| o.kind != DeviceOperationKind::Reboot);
    match (&node.phase, power_off) {
        (DevicePhase::Onboarding, _) => ZDeviceState::ZdeviceStateBooting,
        (DevicePhase::Online, _) if !node.maintenance.is_empty() => {
            ZDeviceState::ZdeviceStateMaintenanceMode
        }
        (DevicePhase::Online, _) => ZDeviceState::ZdeviceStateOnline,
        (DevicePhase::Halting { .. }, true) => ZDeviceState::ZdeviceStatePreparingPoweroff,
        (DevicePhase::ShutDown, _) => ZDeviceState::ZdeviceStatePreparedPoweroff,
        (DevicePhase::Rebooting, true) => ZDeviceState::ZdeviceStatePoweringOff,
        (DevicePhase::Halting { .. } | DevicePhase::Rebooting, false) => {
            ZDeviceState::ZdeviceStateRebooting
        }
    }
}

fn boot_reason(reason: BootReason) -> WireBootReason {
    match reason {
        BootReason::None => WireBootReason::Unspecified,
        BootReason::First => WireBootReason::First,
        BootReason::RebootCmd => WireBootReason::RebootCmd,
        BootReason::PoweroffCmd => WireBootReason::PoweroffCmd,
        BootReason::Update => WireBootReason::Update,
        BootReason::Fallback => WireBootReason::Fallback,
        BootReason::Disconnect => WireBootReason::Disconnect,
        BootReason::PowerFail => WireBootReason::PowerFail,
        BootReason::HwWatchdog => WireBootReason::WatchdogHung,
        BootReason::Unknown => WireBootReason::Unknown,
    }
}

fn dns(port: &PortStatus) -> ZInfoDns {
    ZInfoDns {
        dn_sservers: port.dns_servers.iter().map(ToString::to_string).collect(),
        dn_sdomain: port.domain_name.clone(),
        dn_ssearch: Vec::new(),
    }
}

fn network(port: &PortStatus) -> ZInfoNetwork {
    ZInfoNetwork {
        mac_addr: port.mac.map(|m| m.to_string()).unwrap_or_default(),
        dev_name: port.if_name.to_string(),
        alias: port.label.to_string(),
        ip_addrs: port
            .addresses
            .iter()
            .map(|a| a.addr().to_string())
            .collect(),
        default_routers: port.gateways.iter().map(ToString::to_string).collect(),
        dns: Some(dns(port)),
        ipv4_up: port.usable_addresses().any(|a| a.is_ipv4()),
        uplink: port.is_mgmt,
        network_err: port.fault.as_ref().map(error),
        ntp_servers: port.ntp_servers.clone(),
        ..ZInfoNetwork::default()
    }
}

fn adapters(list: &DevicePortConfigList, ports: &[PortStatus]) -> SystemAdapterInfo {
    let current = list.current_index;
    SystemAdapterInfo {
        current_index: current
            .and_then(|i| u32::try_from(i).ok())
            .unwrap_or_default(),
        status: list
            .list
            .iter()
            .enumerate()
            .map(|(i, e)| entry(e, (Some(i) == current).then_some(ports)))
            .collect(),
    }
}

fn entry(entry: &DpcEntry, in_use: Option<&[PortStatus]>) -> DevicePortStatus {
    DevicePortStatus {
        version: 1,
        key: entry.config.key.clone(),
        time_priority: Some(time(entry.config.time_priority)),
        last_failed: entry.last_failed.map(time),
        last_succeeded: entry.last_succeeded.map(time),
        ports: entry
            .config
            .ports
            .iter()
            .map(|port| {
                let status =
                    in_use.and_then(|ports| ports.iter().find(|s| s.if_name == port.if_name));
                DevicePort {
                    ifname: port.if_name.to_string(),
                    name: port.label.to_string(),
                    is_mgmt: port.is_mgmt,
                    free: port.cost == 0,
                    dhcp_type: match port.addressing {
                        PortAddressing::Static { .. } => 1,
                        PortAddressing::None => 2,
                        PortAddressing::Dhcp => 4,
                    },
                    cost: u32::from(port.cost),
                    mtu: u32::from(port.mtu),
                    dns_servers: port.dns_servers.iter().map(ToString::to_string).collect(),
                    mac_addr: status
                        .and_then(|s| s.mac)
                        .map(|m| m.to_string())
                        .unwrap_or_default(),
                    ip_addrs: status
                        .map(|s| s.addresses.iter().map(|a| a.addr().to_string()).collect())
                        .unwrap_or_default(),
                    default_routers: status
                        .map(|s| s.gateways.iter().map(ToString::to_string).collect())
                        .unwrap_or_default(),
                    dns: status.map(dns),
                    up: status.is_some_and(|s| s.link_up),
                    err: status.and_then(|s| s.fault.as_ref()).map(error),
                    ..DevicePort::default()
                }
            })
            .collect(),
        last_error: entry
            .fault
            .as_ref()
            .map(model::fault::Fault::line)
            .unwrap_or_default(),
    }
}

fn items(map: &ConfigItemValueMap) -> ZInfoConfigItemStatus {
    let mut status = ZInfoConfigItemStatus::default();
    let names = map.values.keys().chain(map.errors.keys());
    for name in names {
        let item = ZInfoConfigItem {
            value: map.values.get(name).cloned().unwrap_or_default(),
            error: map.errors.get(name).cloned().unwrap_or_default(),
        };
        let of = if spec(name).is_some() {
            &mut status.config_items
        } else {
            &mut status.unknown_config_items
        };
        of.insert(name.clone(), item);
    }
    status
}
