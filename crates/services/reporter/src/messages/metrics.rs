//! Metrics: what is consumed.

use api::metrics::{
    AppCpuMetric, AppDiskMetric, AppMemoryMetric, AppMetric, DeviceMetric, DiskMetric as WireDisk,
    MemoryMetric, NetworkMetric, ZMetricMsg, ZMetricNetworkInstance, ZMetricVolume,
    z_metric_msg::MetricContent,
};
use jiff::Timestamp;
use model::{
    app::AppInstanceStatus,
    network::{InterfaceMetric, NetworkInstanceKind},
};

use super::time;
use crate::Desired;

/// What the kernel says of the machine.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct System {
    /// Architecture (`x86_64`).
    pub machine: String,
    /// Processors.
    pub cpus: u32,
    /// Memory in KiB.
    pub memory_kib: u64,
    /// Memory not in use in KiB.
    pub available_kib: u64,
    /// Busy processor time of all processors together, in nanoseconds.
    pub busy_ns: u64,
    /// Counters of the device's own interfaces, received and sent as the device sees it.
    pub interfaces: Vec<InterfaceMetric>,
}

/// The message about everything.
pub fn metrics(desired: &Desired, system: &System, now: Timestamp) -> ZMetricMsg {
    ZMetricMsg {
        dev_id: desired
            .onboarding
            .device
            .map(|d| d.to_string())
            .unwrap_or_default(),
        at_time_stamp: Some(time(now)),
        am: desired
            .apps
            .iter()
            .flat_map(|apps| apps.iter())
            .map(|(key, app)| self::app(desired, key, app))
            .collect(),
        nm: network_instances(desired),
        vm: volumes(desired),
        metric_content: Some(MetricContent::Dm(device(desired, system))),
        ..ZMetricMsg::default()
    }
}

fn device(desired: &Desired, system: &System) -> DeviceMetric {
    let used = system.memory_kib.saturating_sub(system.available_kib);
    DeviceMetric {
        memory: Some(memory(used, system.memory_kib)),
        network: system.interfaces.iter().map(interface).collect(),
        disk: desired
            .disk
            .iter()
            .map(|disk| WireDisk {
                mount_path: "/persist".to_owned(),
                total: disk.total_bytes >> 20,
                used: disk.used_bytes >> 20,
                free: disk.total_bytes.saturating_sub(disk.used_bytes) >> 20,
                ..WireDisk::default()
            })
            .collect(),
        cpu_metric: Some(cpu(system.busy_ns)),
        ..DeviceMetric::default()
    }
}

fn memory(used_kib: u64, total_kib: u64) -> MemoryMetric {
    let mib = |kib: u64| u32::try_from(kib / 1024).unwrap_or(u32::MAX);
    let available = total_kib.saturating_sub(used_kib);
    let share = |kib: u64| f64::from(mib(kib)) * 100.0 / f64::from(mib(total_kib).max(1));
    MemoryMetric {
        used_mem: mib(used_kib),
        avail_mem: mib(available),
        used_percentage: share(used_kib),
        avail_percentage: share(available),
    }
}

fn cpu(total_ns: u64) -> AppCpuMetric {
    AppCpuMetric {
        total: total_ns / 1_000_000_000,
        total_ns,
        ..AppCpuMetric::default()
    }
}

fn app(desired: &Desired, key: &str, status: &AppInstanceStatus) -> AppMetric {
    let metric = desired.domain_metrics.as_ref().and_then(|t| t.get(key));
    let traffic = desired
        .network_metrics
        .as_ref()
        .map(|m| m.interfaces.as_slice())
        .unwrap_or_default();
    let mib = |kib: u64| u32::try_from(kib / 1024).unwrap_or(u32::MAX);
    AppMetric {
        app_id: key.to_owned(),
        app_name: status.display_name.clone(),
        app_version: status.version.clone(),
        cpu: metric.map(|m| cpu(m.cpu_ns)),
        memory: metric.map(|m| memory(m.used_memory_kib, m.max_memory_kib)),
        app_memory: metric.map(|m| AppMemoryMetric {
            allocated_mb: mib(m.max_memory_kib),
            used_mb: mib(m.used_memory_kib),
        }),
        network: status
            .vifs
            .iter()
            .filter_map(|vif| {
                traffic
                    .iter()
                    .find(|t| t.name == vif.vif)
                    .map(|t| NetworkMetric {
                        i_name: vif.name.clone(),
                        ..interface(t)
                    })
            })
            .collect(),
        disk: app_disks(desired, status),
        ..AppMetric::default()
    }
}

fn app_disks(desired: &Desired, status: &AppInstanceStatus) -> Vec<AppDiskMetric> {
    let Some(volumes) = &desired.volumes else {
        return Vec::new();
    };
    let of = status
        .volumes
        .iter()
        .filter_map(|key| volumes.get(&key.to_string()));
    of.map(|v| AppDiskMetric {
        disk: v
            .path
            .as_ref()
            .map(|p| p.display().to_string())
            .unwrap_or_default(),
        provisioned: v.virtual_size_bytes >> 20,
        used: v.used_bytes >> 20,
        disk_type: format!("{:?}", v.format).to_lowercase(),
        dirty: false,
    })
    .collect()
}

fn interface(from: &InterfaceMetric) -> NetworkMetric {
    NetworkMetric {
        i_name: from.name.clone(),
        local_name: from.name.clone(),
        tx_bytes: from.tx_bytes,
        rx_bytes: from.rx_bytes,
        tx_drops: from.tx_drops,
        rx_drops: from.rx_drops,
        tx_pkts: from.tx_packets,
        rx_pkts: from.rx_packets,
        ..NetworkMetric::default()
    }
}

fn network_instances(desired: &Desired) -> Vec<ZMetricNetworkInstance> {
    let Some(instances) = &desired.network_instances else {
        return Vec::new();
    };
    let traffic = desired
        .network_metrics
        .as_ref()
        .map(|m| m.interfaces.as_slice())
        .unwrap_or_default();
    instances
        .iter()
        .map(|(key, status)| ZMetricNetworkInstance {
            network_id: key.clone(),
            displayname: status.display_name.clone(),
            inst_type: match status.kind {
                NetworkInstanceKind::Switch => 1,
                NetworkInstanceKind::Local => 2,
            },
            activated: true,
            network: traffic
                .iter()
                .filter(|t| t.name == status.bridge)
                .map(interface)
                .collect(),
            ..ZMetricNetworkInstance::default()
        })
        .collect()
}

fn volumes(desired: &Desired) -> Vec<ZMetricVolume> {
    let Some(volumes) = &desired.volumes else {
        return Vec::new();
    };
    volumes
        .values()
        .map(|v| ZMetricVolume {
            uuid: v.key.volume.to_string(),
            display_name: v.display_name.clone(),
            total_bytes: v.virtual_size_bytes,
            used_bytes: v.used_bytes,
            free_bytes: v.virtual_size_bytes.saturating_sub(v.used_bytes),
            ..ZMetricVolume::default()
        })
        .collect()
}
