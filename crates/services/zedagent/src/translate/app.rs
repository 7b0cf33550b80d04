//! Applications and their access rules.

use std::collections::BTreeSet;

use api::config::{
    Ace, AceAction, AceMatch, EdgeDevConfig, NetworkAdapter, Target, VmBootMode, VmConfig,
    VmMode as WireVmMode,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use ipnet::IpNet;
use jiff::Timestamp;
use model::{
    app::{
        AclAction, AclMatch, AclRule, AppInstanceConfig, BootMode, DiskTarget, PortRange, Protocol,
        RateUnit, Resources, VifConfig, VmMode, VolumeAttachment,
    },
    id::{AppId, LogicalLabel, NetworkInstanceId, VolumeKey},
    volume::{ImageFormat, VolumeOrigin},
};

use super::{Check, Problem, Translated, id_of, insert, optional, secret, sound};

pub(super) fn apps(config: &EdgeDevConfig, now: Timestamp, to: &mut Translated) {
    let volumes = sound(&to.volumes, |v| v.fault.is_some());
    let networks = sound(&to.network_instances, |n| n.fault.is_some());
    for (position, from) in config.apps.iter().enumerate() {
        let (uuid, version) = from
            .uuidandversion
            .as_ref()
            .map_or(("", ""), |id| (id.uuid.as_str(), id.version.as_str()));
        let Some(id) = id_of::<AppId>("app", position, uuid, now, to) else {
            continue;
        };
        let mut check = Check::default();
        let attachments =
            check.or_default("volumeRefList", attachments(config, from, to, &volumes));
        let vifs = check.or_default("interfaces", vifs(from, &networks));
        let mut resources =
            check.or_default("fixedresources", resources(from.fixedresources.as_ref()));
        resources.enable_vnc |= from.remote_console;
        let secret_user_data = check.or_default(
            "cipherData",
            secret::block(
                from.cipher_data.as_ref(),
                secret::USER_DATA,
                &to.cipher_contexts,
            ),
        );
        // A controller that encrypts may send the old form beside it, for devices that can't decrypt.
        let user_data = match from.cipher_data {
            Some(_) => String::new(),
            None => check.or_default("userData", user_data(&from.user_data)),
        };
        let row = AppInstanceConfig {
            id,
            display_name: from.displayname.clone(),
            version: version.to_owned(),
            activate: from.activate,
            resources,
            volumes: attachments,
            vifs,
            user_data,
            secret_user_data,
            restart_counter: from.restart.as_ref().map_or(0, |c| c.counter),
            purge_counter: from.purge.as_ref().map_or(0, |c| c.counter),
            start_delay_seconds: from.start_delay_in_seconds,
            fault: check.fault(format!("app {id}"), now),
        };
        insert(
            "app",
            &mut to.apps,
            id.to_string(),
            row,
            &mut to.faults,
            now,
        );
    }
}

fn attachments(
    config: &EdgeDevConfig,
    app: &api::config::AppInstanceConfig,
    to: &Translated,
    known: &BTreeSet<String>,
) -> Result<Vec<VolumeAttachment>, Problem> {
    app.volume_ref_list
        .iter()
        .map(|reference| {
            let generation = u64::try_from(reference.generation_count).map_err(|_| {
                Problem::invalid(format!(
                    "generation {} is negative",
                    reference.generation_count
                ))
            })?;
            let volume = VolumeKey {
                volume: reference.uuid.parse()?,
                generation,
            };
            if !known.contains(&volume.to_string()) {
                return Err(Problem::dangling(format!(
                    "volume {volume} is not (correctly) in the config"
                )));
            }
            let wire = config
                .volumes
                .iter()
                .find(|v| v.uuid == reference.uuid)
                .map_or(Ok(Target::Disk), |v| Target::try_from(v.target));
            let target = match wire {
                Ok(Target::Kernel) => DiskTarget::Kernel,
                Ok(Target::Initrd | Target::RamDisk) => DiskTarget::Initrd,
                Ok(Target::TgtUnknown | Target::Disk) if is_iso(volume, to) => DiskTarget::Cdrom,
                Ok(Target::TgtUnknown | Target::Disk) => DiskTarget::Disk,
                Ok(Target::AppCustom) => {
                    return Err(Problem::invalid(format!(
                        "volume {volume}: target AppCustom is not supported"
                    )));
                }
                Err(_) => {
                    return Err(Problem::invalid(format!(
                        "volume {volume}: its target is not known"
                    )));
                }
            };
            Ok(VolumeAttachment {
                volume,
                target,
                mount_dir: reference.mount_dir.clone(),
            })
        })
        .collect()
}

fn is_iso(volume: VolumeKey, to: &Translated) -> bool {
    match to.volumes.get(&volume.to_string()).map(|v| &v.origin) {
        Some(VolumeOrigin::Content(tree)) => to
            .content_trees
            .get(&tree.to_string())
            .is_some_and(|t| t.format == ImageFormat::Iso),
        Some(VolumeOrigin::Blank) | None => false,
    }
}

fn resources(from: Option<&VmConfig>) -> Result<Resources, Problem> {
    let from = from.ok_or_else(|| Problem::invalid("it is missing"))?;
    if from.memory == 0 {
        return Err(Problem::invalid("memory is 0"));
    }
    let vm_mode = match WireVmMode::try_from(from.virtualization_mode) {
        Ok(WireVmMode::Pv) => VmMode::Pv,
        Ok(WireVmMode::Hvm) => VmMode::Hvm,
        Ok(WireVmMode::Fml) => VmMode::Fml,
        Ok(WireVmMode::Nohyper) => VmMode::NoHyper,
        Ok(WireVmMode::Legacy) => VmMode::Legacy,
        Ok(WireVmMode::Filler) | Err(_) => {
            return Err(Problem::invalid(format!(
                "virtualizationMode {} is not known",
                from.virtualization_mode
            )));
        }
    };
    let boot_mode = match VmBootMode::try_from(from.boot_mode) {
        Ok(VmBootMode::Unspecified | VmBootMode::Legacy) => BootMode::Legacy,
        Ok(VmBootMode::Uefi) => BootMode::Uefi,
        Err(_) => {
            return Err(Problem::invalid(format!(
                "boot_mode {} is not known",
                from.boot_mode
            )));
        }
    };
    Ok(Resources {
        vcpus: from.vcpus.max(1),
        memory_kib: u64::from(from.memory),
        vm_mode,
        boot_mode,
        enable_vnc: from.enable_vnc,
        vnc_password: from.vnc_passwd.clone(),
        vnc_display: from.vnc_display,
    })
}

/// User data travels as base64.
fn user_data(text: &str) -> Result<String, Problem> {
    let bytes = STANDARD
        .decode(text.trim())
        .map_err(|e| Problem::invalid(format!("it is not base64: {e}")))?;
    String::from_utf8(bytes).map_err(|_| Problem::invalid("it is not UTF-8 text"))
}

fn vifs(
    app: &api::config::AppInstanceConfig,
    known: &BTreeSet<String>,
) -> Result<Vec<VifConfig>, Problem> {
    let mut vifs = Vec::new();
    for from in &app.interfaces {
        let name = |p: Problem| Problem {
            text: format!("{}: {}", from.name, p.text),
            ..p
        };
        let vif = vif(from, known).map_err(name)?;
        if vifs.iter().any(|v: &VifConfig| v.name == vif.name) {
            return Err(Problem::invalid(format!(
                "two interfaces are called {:?}",
                vif.name
            )));
        }
        vifs.push(vif);
    }
    Ok(vifs)
}

fn vif(from: &NetworkAdapter, known: &BTreeSet<String>) -> Result<VifConfig, Problem> {
    let network_instance: NetworkInstanceId = from.network_id.parse()?;
    if !known.contains(&network_instance.to_string()) {
        return Err(Problem::dangling(format!(
            "network instance {network_instance} is not (correctly) in the config"
        )));
    }
    Ok(VifConfig {
        name: from.name.clone(),
        network_instance,
        mac: optional(&from.mac_address, "a MAC address")?,
        ip: optional(&from.addr, "an address")?,
        acls: from.acls.iter().map(rule).collect::<Result<_, _>>()?,
    })
}

fn rule(from: &Ace) -> Result<AclRule, Problem> {
    let name = |p: Problem| Problem {
        text: format!("rule {}: {}", from.id, p.text),
        ..p
    };
    let id = u32::try_from(from.id)
        .ok()
        .filter(|id| *id < 1 << 24)
        .ok_or_else(|| Problem::invalid(format!("rule id {} is not a 24-bit number", from.id)))?;
    let matches: Vec<AclMatch> = from
        .matches
        .iter()
        .map(condition)
        .collect::<Result<_, _>>()
        .map_err(name)?;
    let action = match from.actions.as_slice() {
        [] => AclAction::Allow,
        [one] => action(one).map_err(name)?,
        _ => {
            return Err(name(Problem::invalid(
                "it has several actions; each rule has one",
            )));
        }
    };
    if matches!(action, AclAction::PortMap { .. }) {
        let single = |m: &AclMatch| matches!(m, AclMatch::LocalPort(p) if p.first == p.last);
        let transport =
            |m: &AclMatch| matches!(m, AclMatch::Protocol(Protocol::Tcp | Protocol::Udp));
        if !matches.iter().any(single) || !matches.iter().any(transport) {
            return Err(name(Problem::invalid(
                "a port map needs a protocol (tcp or udp) and one lport",
            )));
        }
    }
    Ok(AclRule {
        id,
        matches,
        action,
    })
}

fn condition(from: &AceMatch) -> Result<AclMatch, Problem> {
    let value = from.value.trim();
    match from.r#type.as_str() {
        "ip" => {
            let net = value
                .parse::<IpNet>()
                .or_else(|_| value.parse::<std::net::IpAddr>().map(IpNet::from));
            net.map(|n| AclMatch::Ip(n.trunc()))
                .map_err(|_| Problem::invalid(format!("ip {value:?} is not an address or prefix")))
        }
        "host" => host(value).map(AclMatch::Host),
        "protocol" => match value.to_ascii_lowercase().as_str() {
            "tcp" => Ok(AclMatch::Protocol(Protocol::Tcp)),
            "udp" => Ok(AclMatch::Protocol(Protocol::Udp)),
            "icmp" => Ok(AclMatch::Protocol(Protocol::Icmp)),
            _ => Err(Problem::invalid(format!(
                "protocol {value:?} is not tcp, udp or icmp"
            ))),
        },
        "lport" => ports(value).map(AclMatch::LocalPort),
        "fport" => ports(value).map(AclMatch::RemotePort),
        "adapter" => Ok(AclMatch::Adapter(LogicalLabel(value.to_owned()))),
        other => Err(Problem::invalid(format!(
            "match type {other:?} is not ip, host, protocol, lport, fport or adapter"
        ))),
    }
}

/// A DNS name that can go into the configuration of a DNS server as it is.
fn host(value: &str) -> Result<String, Problem> {
    let name = value
        .trim_start_matches('.')
        .trim_end_matches('.')
        .to_ascii_lowercase();
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        Ok(name)
    } else {
        Err(Problem::invalid(format!(
            "host {value:?} is not a DNS name"
        )))
    }
}

fn ports(value: &str) -> Result<PortRange, Problem> {
    let bad = || {
        Problem::invalid(format!(
            "port {value:?} is not a number from 1 to 65535 or a range a-b"
        ))
    };
    let (first, last) = value.split_once('-').unwrap_or((value, value));
    let parse = |text: &str| {
        text.trim()
            .parse::<u16>()
            .ok()
            .filter(|p| *p > 0)
            .ok_or_else(bad)
    };
    let range = PortRange {
        first: parse(first)?,
        last: parse(last)?,
    };
    if range.first <= range.last {
        Ok(range)
    } else {
        Err(bad())
    }
}

fn action(from: &AceAction) -> Result<AclAction, Problem> {
    match (from.drop, from.limit, from.portmap) {
        (false, false, false) => Ok(AclAction::Allow),
        (true, false, false) => Ok(AclAction::Drop),
        (false, false, true) => match u16::try_from(from.app_port) {
            Ok(app_port) if app_port > 0 => Ok(AclAction::PortMap { app_port }),
            _ => Err(Problem::invalid(format!(
                "appPort {} is not a port",
                from.app_port
            ))),
        },
        (false, true, false) => {
            let unit = match from.limitunit.as_str() {
                "s" | "second" => RateUnit::Second,
                "m" | "minute" => RateUnit::Minute,
                "h" | "hour" => RateUnit::Hour,
                other => {
                    return Err(Problem::invalid(format!(
                        "limitunit {other:?} is not s, m or h"
                    )));
                }
            };
            if from.limitrate == 0 {
                return Err(Problem::invalid("limitrate is 0"));
            }
            Ok(AclAction::Limit {
                rate: from.limitrate,
                unit,
                burst: from.limitburst,
            })
        }
        _ => Err(Problem::invalid(
            "it mixes drop, limit and portmap; each rule has one action",
        )),
    }
}
