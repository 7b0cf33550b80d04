//! Applications.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::config::{
    Adapter, AppInstanceConfig, InstanceOpsCmd, MetaDataType, NetworkAdapter, UuiDandVersion,
    VmBootMode, VmConfig, VmMode as WireMode, VolumeRef,
};

use super::acl;
use super::build::{Check, Identity, object_id, text};
use super::build_network::io_type;
use super::build_storage::base64;
use super::spec::{App, BootMode, DeviceSpec, Interface, Target, Usage, VmMode, VolumeUse};

/// Less memory boots nothing; it is a number in the wrong unit.
pub(super) const MIN_MEMORY: u64 = 16 << 20;
/// Longest user data that a device takes, bytes.
const MAX_USER_DATA: usize = 1 << 20;

pub(super) fn apps(
    spec: &DeviceSpec,
    identity: &Identity,
    generations: &BTreeMap<String, i64>,
    check: &mut Check<'_>,
) -> Vec<AppInstanceConfig> {
    let mut out = Vec::new();
    for (i, app) in spec.apps.iter().enumerate() {
        let path = format!("apps[{i}]");
        let orders = identity
            .app_orders
            .get(&app.name)
            .copied()
            .unwrap_or_default();
        let ops = |counter: u32, at_ms: i64| {
            (counter > 0).then(|| InstanceOpsCmd {
                counter,
                ops_time: text(at_ms),
            })
        };
        if app.user_data.len() > MAX_USER_DATA {
            check.problem(format!("{path}.user_data"), "is longer than 1 MiB");
        }
        let version = if app.version.is_empty() {
            "1"
        } else {
            &app.version
        };
        out.push(AppInstanceConfig {
            uuidandversion: Some(UuiDandVersion {
                uuid: object_id(check.device, "app", &app.name).to_string(),
                version: version.to_owned(),
            }),
            displayname: app.name.clone(),
            fixedresources: Some(machine(app, &path, check)),
            activate: app.activate,
            interfaces: interfaces(app, &path, check),
            adapters: adapters(spec, app, &path, check),
            restart: ops(orders.restarts, orders.restart_ms),
            purge: ops(orders.purges, orders.purge_ms),
            // The API wants it in base64.
            user_data: base64(&app.user_data),
            remote_console: app.vnc,
            volume_ref_list: volume_refs(spec, app, generations, &path, check),
            meta_data_type: MetaDataType::MetaDataDrive.into(),
            start_delay_in_seconds: app.start_delay,
            ..AppInstanceConfig::default()
        });
    }
    out
}

fn machine(app: &App, path: &str, check: &mut Check<'_>) -> VmConfig {
    let memory = u32::try_from(app.memory.0 / 1024).unwrap_or(u32::MAX);
    if app.memory.0 < MIN_MEMORY {
        check.problem(
            format!("{path}.memory"),
            format!("{} is less than 16MiB; is the unit right?", app.memory),
        );
    } else if memory == u32::MAX {
        check.problem(
            format!("{path}.memory"),
            format!("{} is too much", app.memory),
        );
    }
    if !(1..=255).contains(&app.cpus) {
        check.problem(
            format!("{path}.cpus"),
            format!("{} is not between 1 and 255", app.cpus),
        );
    }
    let mode = match app.mode {
        VmMode::Hvm => WireMode::Hvm,
        VmMode::Pv => WireMode::Pv,
        VmMode::Fml => WireMode::Fml,
        VmMode::Nohyper => WireMode::Nohyper,
        VmMode::Legacy => WireMode::Legacy,
    };
    let boot = match app.boot {
        BootMode::Auto => VmBootMode::Unspecified,
        BootMode::Legacy => VmBootMode::Legacy,
        BootMode::Uefi => VmBootMode::Uefi,
    };
    VmConfig {
        memory,
        maxmem: memory,
        vcpus: app.cpus,
        maxcpus: app.cpus,
        extraargs: app.kernel_args.clone(),
        virtualization_mode: mode.into(),
        enable_vnc: app.vnc,
        disable_logs: app.disable_logs,
        boot_mode: boot.into(),
        ..VmConfig::default()
    }
}

fn volume_refs(
    spec: &DeviceSpec,
    app: &App,
    generations: &BTreeMap<String, i64>,
    path: &str,
    check: &mut Check<'_>,
) -> Vec<VolumeRef> {
    let target = |name: &str| {
        spec.volumes
            .iter()
            .find(|v| v.name == name)
            .map(|v| v.target)
    };
    let boots = app.volumes.iter().any(|v| {
        // A dangling name is reported as such, not as a missing disk.
        matches!(
            target(v.volume()),
            None | Some(Target::Disk | Target::Kernel)
        )
    });
    if !boots {
        check.problem(
            format!("{path}.volumes"),
            "holds neither a disk nor a kernel to boot",
        );
    }
    let mut out = Vec::new();
    for (i, used) in app.volumes.iter().enumerate() {
        let name = used.volume();
        let at = format!("{path}.volumes[{i}]");
        let uuid = check.reference("volume", name, &at);
        let writable = spec.volumes.iter().any(|v| v.name == name && !v.readonly);
        let shared = spec
            .apps
            .iter()
            .filter(|a| a.volumes.iter().any(|v| v.volume() == name));
        if writable && shared.count() > 1 {
            check.problem(
                &at,
                format!("{name:?} is writable and used by more than one app"),
            );
        }
        out.push(VolumeRef {
            uuid,
            generation_count: generations.get(name).copied().unwrap_or(0),
            mount_dir: match used {
                VolumeUse::Name(_) => String::new(),
                VolumeUse::Mount(mount) => mount.mount.clone(),
            },
        });
    }
    out
}

fn interfaces(app: &App, path: &str, check: &mut Check<'_>) -> Vec<NetworkAdapter> {
    let mut out = Vec::new();
    for (i, interface) in app.interfaces.iter().enumerate() {
        let at = format!("{path}.interfaces[{i}]");
        if app
            .interfaces
            .iter()
            .take(i)
            .any(|other| other.name == interface.name)
        {
            check.problem(format!("{at}.name"), "another interface has the same name");
        }
        out.push(network_adapter(interface, i, &at, check));
    }
    out
}

fn network_adapter(
    interface: &Interface,
    order: usize,
    path: &str,
    check: &mut Check<'_>,
) -> NetworkAdapter {
    check.parses::<IpAddr>(
        &interface.address,
        &format!("{path}.address"),
        "an IP address",
    );
    if !interface.mac.is_empty() && !is_mac(&interface.mac) {
        check.problem(
            format!("{path}.mac"),
            format!("{:?} is not a MAC address", interface.mac),
        );
    }
    NetworkAdapter {
        name: interface.name.clone(),
        network_id: check.reference(
            "network instance",
            &interface.network,
            &format!("{path}.network"),
        ),
        addr: interface.address.clone(),
        mac_address: interface.mac.clone(),
        acls: acl::wire(&interface.acls, &format!("{path}.acls"), check),
        interface_order: u32::try_from(order).unwrap_or(u32::MAX),
        ..NetworkAdapter::default()
    }
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<_> = text.split(':').collect();
    parts.len() == 6
        && parts
            .iter()
            .all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn adapters(spec: &DeviceSpec, app: &App, path: &str, check: &mut Check<'_>) -> Vec<Adapter> {
    let mut out = Vec::new();
    for (i, name) in app.adapters.iter().enumerate() {
        let at = format!("{path}.adapters[{i}]");
        let Some(port) = spec
            .ports
            .iter()
            .find(|p| p.group == *name || p.name == *name)
        else {
            check.reference("port", name, &at);
            continue;
        };
        if port.usage != Usage::Direct {
            check.problem(
                &at,
                format!(
                    "{name:?} is used by the device; only ports with `usage: direct` can be \
                         given to an app"
                ),
            );
        }
        out.push(Adapter {
            r#type: io_type(port.kind).into(),
            name: name.clone(),
            interface_order: u32::try_from(app.interfaces.len() + i).unwrap_or(u32::MAX),
            ..Adapter::default()
        });
    }
    out
}
