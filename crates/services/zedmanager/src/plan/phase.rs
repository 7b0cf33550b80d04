//! What is said about an application: how far it is, and the first thing that keeps it.

use std::mem::discriminant;

use agent::Turn;
use jiff::Timestamp;
use model::{
    app::{AppInstanceConfig, AppInstanceStatus, AppPhase, VifAddress},
    code::Code,
    domain::{DomainConfig, DomainPhase},
    fault::Fault,
    network::AppNetworkPhase,
    volume::{VolumePhase, VolumeRefStatus},
};

use super::{
    Zedmanager,
    app::{View, complete, incarnation, wants_to_run},
};

pub(super) fn status(
    turn: &Turn<'_, Zedmanager>,
    view: &View<'_>,
    domain: Option<&DomainConfig>,
) -> AppInstanceStatus {
    let old = turn.desired.own.apps.get(view.key);
    let (phase, fault) = phase(turn, view, domain);
    AppInstanceStatus {
        id: view.config.id,
        display_name: view.config.display_name.clone(),
        version: view.config.version.clone(),
        activate: view.config.activate,
        since: since(old, &phase, turn.now),
        restart_counter: view.counters.restart,
        purge_counter: view.counters.purge,
        boot_time: view
            .domain
            .and_then(|d| d.boot_time)
            .or(old.and_then(|o| o.boot_time)),
        vifs: addresses(view),
        volumes: view
            .wanted
            .iter()
            .map(model::volume::VolumeRefConfig::device_volume)
            .collect(),
        fault: deferred(view, old, turn.now)
            .or(fault)
            .or_else(|| waits_for_restart(view, domain, old, turn.now)),
        phase,
    }
}

/// The config of this application is faulty; what ran before goes on.
pub(super) fn status_of_faulty(
    turn: &Turn<'_, Zedmanager>,
    key: &str,
    config: &AppInstanceConfig,
) -> AppInstanceStatus {
    let old = turn.desired.own.apps.get(key);
    let running = turn
        .desired
        .domains
        .as_ref()
        .and_then(|t| t.get(key))
        .and_then(|d| match d.phase {
            DomainPhase::Running { since, .. } => Some(AppPhase::Running { since }),
            DomainPhase::Halted
            | DomainPhase::Booting { .. }
            | DomainPhase::Halting { .. }
            | DomainPhase::Failed => None,
        });
    let phase = running.unwrap_or(AppPhase::Failed);
    let fresh = AppInstanceStatus {
        id: config.id,
        display_name: config.display_name.clone(),
        version: config.version.clone(),
        activate: config.activate,
        since: since(old, &phase, turn.now),
        phase,
        restart_counter: config.restart_counter,
        purge_counter: config.purge_counter,
        boot_time: None,
        vifs: Vec::new(),
        volumes: Vec::new(),
        fault: config.fault.clone(),
    };
    match old {
        None => fresh,
        Some(old) => AppInstanceStatus {
            phase: fresh.phase,
            since: fresh.since,
            fault: fresh.fault,
            display_name: fresh.display_name,
            activate: fresh.activate,
            ..old.clone()
        },
    }
}

/// When the phase was entered: percentages do not count.
pub(super) fn since(
    old: Option<&AppInstanceStatus>,
    phase: &AppPhase,
    now: Timestamp,
) -> Timestamp {
    old.filter(|o| discriminant(&o.phase) == discriminant(phase))
        .map_or(now, |o| o.since)
}

fn phase(
    turn: &Turn<'_, Zedmanager>,
    view: &View<'_>,
    domain: Option<&DomainConfig>,
) -> (AppPhase, Option<Fault>) {
    let want = wants_to_run(view);
    if let Some(status) = view.domain {
        let fault = status.fault.clone();
        let current = status.incarnation == incarnation(&view.counters);
        match status.phase {
            DomainPhase::Running { .. } | DomainPhase::Halting { .. } if !want => {
                return (AppPhase::Halting, fault);
            }
            DomainPhase::Running { .. } if view.purging => {
                return (AppPhase::Purging, slowest(view).and_then(|(_, f)| f));
            }
            DomainPhase::Running { since, .. } if current => {
                return (AppPhase::Running { since }, fault);
            }
            DomainPhase::Running { .. } | DomainPhase::Halting { .. } => {
                return (AppPhase::Restarting, fault);
            }
            DomainPhase::Booting { .. } => return (AppPhase::Booting, fault),
            DomainPhase::Failed if want => return (AppPhase::Failed, fault),
            DomainPhase::Halted | DomainPhase::Failed => {}
        }
    }
    if let Some((phase, fault)) = slowest(view) {
        return (phase, fault);
    }
    if !want {
        return match view.delay {
            Some(delay) if view.config.activate && !view.halted_by_device => (
                AppPhase::StartDelayed {
                    until: turn.now.checked_add(delay).unwrap_or(turn.now),
                },
                None,
            ),
            Some(_) | None => (AppPhase::Halted, None),
        };
    }
    if domain.is_some_and(|d| d.activate) {
        return (AppPhase::Booting, None);
    }
    match view.network {
        Some(network) if network.phase == AppNetworkPhase::Failed => {
            (AppPhase::Failed, network.fault.clone())
        }
        Some(network) => (AppPhase::AwaitNetwork, network.fault.clone()),
        None => (AppPhase::AwaitNetwork, None),
    }
}

/// The volume that is least far, unless all are ready.
fn slowest(view: &View<'_>) -> Option<(AppPhase, Option<Fault>)> {
    let percents: Vec<u8> = view.volumes.iter().map(|s| s.map_or(0, percent)).collect();
    let ready = |s: Option<&VolumeRefStatus>| s.is_some_and(|s| s.phase == VolumePhase::Created);
    // A volume with a fault is named before one that is merely slow.
    let (index, status) = view
        .volumes
        .iter()
        .enumerate()
        .filter(|(_, s)| !ready(**s))
        .min_by_key(|(i, s)| (s.is_none_or(|s| s.fault.is_none()), percents[*i]))?;
    let total: u32 = percents.iter().map(|p| u32::from(*p)).sum();
    let percent =
        u8::try_from(total / u32::try_from(percents.len()).unwrap_or(1).max(1)).unwrap_or(100);
    let volume = view.wanted[index].device_volume();
    let fault = status.and_then(|s| s.fault.clone());
    Some(match status.map(|s| &s.phase) {
        Some(VolumePhase::Failed) => (AppPhase::Failed, fault),
        Some(
            VolumePhase::AwaitContent { .. }
            | VolumePhase::AwaitSpace
            | VolumePhase::Creating { .. }
            | VolumePhase::Created
            | VolumePhase::Deleting,
        )
        | None => (AppPhase::Preparing { volume, percent }, fault),
    })
}

/// Fetching is most of the work, creating the rest.
fn percent(status: &VolumeRefStatus) -> u8 {
    match status.phase {
        VolumePhase::AwaitContent {
            done_bytes,
            total_bytes,
            ..
        } => {
            let percent = u128::from(done_bytes) * 90 / u128::from(total_bytes.max(1));
            u8::try_from(percent.min(90)).unwrap_or(90)
        }
        VolumePhase::Creating { percent } => 90 + percent / 10,
        VolumePhase::Created => 100,
        VolumePhase::AwaitSpace | VolumePhase::Deleting | VolumePhase::Failed => 0,
    }
}

fn addresses(view: &View<'_>) -> Vec<VifAddress> {
    let Some(network) = view.network else {
        return Vec::new();
    };
    network
        .vifs
        .iter()
        .map(|v| VifAddress {
            name: v.name.clone(),
            vif: v.vif.clone(),
            mac: v.mac,
            ip: v.ip,
            leased: v.lease_expires.is_some(),
        })
        .collect()
}

/// The device takes on nothing new.
fn deferred(view: &View<'_>, old: Option<&AppInstanceStatus>, now: Timestamp) -> Option<Fault> {
    if view.deferred.is_empty() {
        return None;
    }
    let reasons: Vec<_> = view.deferred.iter().map(ToString::to_string).collect();
    let fault = Fault::new(
        Code::AppDeferred,
        format!("app {}", view.config.id),
        format!(
            "the device is in maintenance mode and takes on nothing new: {}",
            reasons.join(", ")
        ),
        now,
    );
    Some(fault.continuing(old.and_then(|o| o.fault.as_ref())))
}

/// A running guest whose config asks for other hardware goes on as it is, and says so.
fn waits_for_restart(
    view: &View<'_>,
    domain: Option<&DomainConfig>,
    old: Option<&AppInstanceStatus>,
    now: Timestamp,
) -> Option<Fault> {
    let (in_force, wanted) = (domain?, complete(view)?);
    if !in_force.activate || in_force.incarnation != wanted.incarnation {
        return None;
    }
    let mut changed = Vec::new();
    let mut note = |differs: bool, what: &'static str| {
        if differs {
            changed.push(what);
        }
    };
    note(in_force.resources != wanted.resources, "resources");
    note(in_force.disks != wanted.disks, "volumes");
    note(in_force.vifs != wanted.vifs, "interfaces");
    let secret = match (&in_force.secret_user_data, &wanted.secret_user_data) {
        (Some(in_force), Some(wanted)) => !in_force.is_same_secret(wanted),
        (None, None) => false,
        (Some(_), None) | (None, Some(_)) => true,
    };
    note(
        in_force.user_data != wanted.user_data || secret,
        "user data",
    );
    if changed.is_empty() {
        return None;
    }
    let since = old
        .and_then(|o| o.fault.as_ref())
        .filter(|f| f.code == Code::AppNeedsRestart)
        .map_or(now, |f| f.since);
    Some(Fault::new(
        Code::AppNeedsRestart,
        format!("app {}", view.config.id),
        format!(
            "the config changed {}; the guest goes on unchanged until it is restarted",
            changed.join(", ")
        ),
        since,
    ))
}
