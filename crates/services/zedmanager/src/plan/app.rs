//! One application that the config wants.

use std::{collections::BTreeSet, time::Duration};

use agent::{Plan, Turn};
use model::{
    app::{AppCommandCounters, AppInstanceConfig, DiskTarget},
    domain::{DiskConfig, DomainConfig, DomainPhase, DomainStatus, DomainVif},
    id::{AppId, VolumeKey},
    network::{AppNetworkConfig, AppNetworkPhase, AppNetworkStatus, AppVif},
    node::MaintenanceReason,
    volume::{VolumePhase, VolumeRefConfig, VolumeRefStatus},
};

use super::{Desired, Zedmanager, phase};

/// Everything that is known about one application.
pub(super) struct View<'a> {
    pub(super) key: &'a str,
    pub(super) config: &'a AppInstanceConfig,
    pub(super) counters: AppCommandCounters,
    /// A purge command whose volumes are being made.
    pub(super) purging: bool,
    /// Volumes of the generation that the guest shall have, in the config's order.
    pub(super) wanted: Vec<VolumeRefConfig>,
    pub(super) volumes: Vec<Option<&'a VolumeRefStatus>>,
    pub(super) network: Option<&'a AppNetworkStatus>,
    pub(super) domain: Option<&'a DomainStatus>,
    /// The guest's configuration as published so far.
    pub(super) own_domain: Option<&'a DomainConfig>,
    /// The device halts all applications.
    pub(super) halted_by_device: bool,
    /// The device takes on nothing new, and this application is: why.
    pub(super) deferred: Vec<MaintenanceReason>,
    /// Left of the start delay.
    pub(super) delay: Option<Duration>,
}

pub(super) fn plan(
    turn: &Turn<'_, Zedmanager>,
    key: &str,
    config: &AppInstanceConfig,
    plan: &mut Plan<Zedmanager>,
) {
    let desired = turn.desired;
    if config.fault.is_some() {
        keep_last_good(turn, key, config, plan);
        return;
    }
    let view = view(turn, key, config);
    if let Some(delay) = view.delay {
        plan.wake_in(delay);
    }
    let domain = domain_config(&view);
    let report = &mut plan.report;
    let mut counters = view.counters.clone();
    // Noted with the first start, not after it: power may be lost in between.
    counters.started |= domain.as_ref().is_some_and(|domain| domain.activate);
    report.counters.insert(key.to_owned(), counters);
    for volume_ref in volume_refs(&view, desired) {
        report.volume_refs.insert(volume_ref.key(), volume_ref);
    }
    report
        .networks
        .insert(key.to_owned(), network_config(&view, desired));
    let status = phase::status(turn, &view, domain.as_ref());
    if let Some(domain) = domain {
        report.domains.insert(key.to_owned(), domain);
    }
    report.apps.insert(key.to_owned(), status);
}

/// A faulty new config changes nothing but the status.
fn keep_last_good(
    turn: &Turn<'_, Zedmanager>,
    key: &str,
    config: &AppInstanceConfig,
    plan: &mut Plan<Zedmanager>,
) {
    let own = &turn.desired.own;
    let report = &mut plan.report;
    if let Some(counters) = own.counters.get(key) {
        report.counters.insert(key.to_owned(), counters.clone());
    }
    report
        .volume_refs
        .extend(own.volume_refs_of(key).map(|(k, r)| (k.clone(), r.clone())));
    for volume_ref in remembered(config.id, own.counters.get(key)) {
        report
            .volume_refs
            .entry(volume_ref.key())
            .or_insert(volume_ref);
    }
    if let Some(network) = own.networks.get(key) {
        report.networks.insert(key.to_owned(), network.clone());
    }
    if let Some(domain) = own.domains.get(key) {
        let halt = halted_by_device(turn.desired);
        report.domains.insert(
            key.to_owned(),
            DomainConfig {
                activate: domain.activate && !halt,
                ..domain.clone()
            },
        );
    }
    report
        .apps
        .insert(key.to_owned(), phase::status_of_faulty(turn, key, config));
}

/// The volumes of the last good config, which outlive a reboot: without a wish for them they would be
/// removed because of a reference that dangles.
fn remembered(app: AppId, counters: Option<&AppCommandCounters>) -> Vec<VolumeRefConfig> {
    let Some(counters) = counters else {
        return Vec::new();
    };
    let wish = |volume: &VolumeKey| VolumeRefConfig {
        app,
        volume: *volume,
        device_generation: volume.generation + counters.generation_offset,
        target: DiskTarget::Disk,
    };
    counters.volumes.iter().map(wish).collect()
}

fn view<'a>(turn: &Turn<'a, Zedmanager>, key: &'a str, config: &'a AppInstanceConfig) -> View<'a> {
    let desired = turn.desired;
    let mut counters = desired
        .own
        .counters
        .get(key)
        .cloned()
        .unwrap_or(AppCommandCounters {
            // The first sight of an application: commands of the past are not ours to repeat.
            restart: config.restart_counter,
            purge: config.purge_counter,
            purges: 0,
            generation_offset: 0,
            volumes: volumes(config),
            started: false,
        });
    counters.restart = config.restart_counter;
    let mut purging = false;
    if counters.purge == config.purge_counter {
        // What a later purge has to differ from.
        counters.volumes = volumes(config);
    } else {
        let next = purged(&counters, config);
        let made = refs(config, next.generation_offset);
        let all_made = made
            .iter()
            .all(|r| lookup(desired, r).is_some_and(|s| s.phase == VolumePhase::Created));
        if all_made {
            counters = next;
        } else {
            purging = true;
        }
    }
    let wanted = refs(config, counters.generation_offset);
    let own_domain = desired.own.domains.get(key);
    counters.started |= own_domain.is_some_and(|domain| domain.activate);
    let elapsed = turn.uptime;
    let delay = Duration::from_secs(u64::from(config.start_delay_seconds)).saturating_sub(elapsed);
    View {
        deferred: deferred(desired, &counters),
        key,
        config,
        volumes: wanted.iter().map(|r| lookup(desired, r)).collect(),
        wanted,
        purging,
        counters,
        network: desired.networks.as_ref().and_then(|t| t.get(key)),
        domain: desired.domains.as_ref().and_then(|t| t.get(key)),
        own_domain,
        halted_by_device: halted_by_device(desired),
        // A guest that was started once is not delayed again.
        delay: Some(delay).filter(|d| !d.is_zero() && !own_domain.is_some_and(|d| d.activate)),
    }
}

/// The counters after a purge. A controller that raised the volumes' generations with its command has
/// already named new volumes; otherwise they are named here.
fn purged(before: &AppCommandCounters, config: &AppInstanceConfig) -> AppCommandCounters {
    let volumes = volumes(config);
    let named = volumes != before.volumes;
    AppCommandCounters {
        purge: config.purge_counter,
        purges: before.purges + 1,
        generation_offset: before.generation_offset + u64::from(!named),
        volumes,
        restart: before.restart,
        started: before.started,
    }
}

/// Why an application that never ran does not begin now. Unknown counts as no reason.
fn deferred(desired: &Desired, counters: &AppCommandCounters) -> Vec<MaintenanceReason> {
    let rows = desired.node.iter().flat_map(|rows| rows.values());
    let reasons: Vec<_> = rows.flat_map(|node| node.maintenance.clone()).collect();
    // volumemgr makes no volume on a full disk, and says how much room it lacks; what has its volumes fills no disk.
    let disk_alone = reasons
        .iter()
        .all(|reason| *reason == MaintenanceReason::LowDiskSpace);
    if counters.started || disk_alone {
        return Vec::new();
    }
    reasons
}

fn volumes(config: &AppInstanceConfig) -> Vec<VolumeKey> {
    config
        .volumes
        .iter()
        .map(|attachment| attachment.volume)
        .collect()
}

fn halted_by_device(desired: &Desired) -> bool {
    desired
        .node
        .as_ref()
        .is_some_and(|rows| rows.values().any(|n| n.halt_apps))
}

fn refs(config: &AppInstanceConfig, offset: u64) -> Vec<VolumeRefConfig> {
    config
        .volumes
        .iter()
        .map(|attachment| VolumeRefConfig {
            app: config.id,
            volume: attachment.volume,
            device_generation: attachment.volume.generation + offset,
            target: attachment.target,
        })
        .collect()
}

fn lookup<'a>(desired: &'a Desired, volume_ref: &VolumeRefConfig) -> Option<&'a VolumeRefStatus> {
    desired.volumes.as_ref()?.get(&volume_ref.key())
}

/// The wanted volumes, those that a purge is making, and those that the guest still has open.
fn volume_refs(view: &View<'_>, desired: &Desired) -> Vec<VolumeRefConfig> {
    let mut all = view.wanted.clone();
    if !view.deferred.is_empty() {
        // What was begun before goes on: a volume that is half made is no less on the disk. Those that the config names are
        // made whoever refers to them; who does not would be too late when a later config no longer names them.
        let own = &desired.own.volume_refs;
        let is_named =
            |wanted: &VolumeRefConfig| wanted.device_generation == wanted.volume.generation;
        all.retain(|wanted| is_named(wanted) || own.contains_key(&wanted.key()));
    }
    if view.purging && view.deferred.is_empty() {
        all.extend(refs(
            view.config,
            purged(&view.counters, view.config).generation_offset,
        ));
    }
    let may_run = holds_its_parts(view, desired);
    let moved_on = view
        .domain
        .is_none_or(|d| d.incarnation == incarnation(&view.counters));
    let in_use = |r: &VolumeRefConfig| {
        let disks = view
            .own_domain
            .map(|d| d.disks.as_slice())
            .unwrap_or_default();
        disks.iter().any(|disk| disk.volume == r.device_volume())
    };
    let have: BTreeSet<String> = all.iter().map(VolumeRefConfig::key).collect();
    let old = desired
        .own
        .volume_refs_of(view.key)
        .filter(|(key, r)| !have.contains(*key) && may_run && (!moved_on || in_use(r)));
    all.extend(old.map(|(_, r)| r.clone()));
    all
}

/// The guest may have its disks open and its interfaces up, or may have them at any moment: who is halted and was told to
/// run is on the way to be started, with what it was told. Unknown counts as yes.
fn holds_its_parts(view: &View<'_>, desired: &Desired) -> bool {
    let is_wanted = view.own_domain.is_some_and(|d| d.activate);
    match view.domain {
        Some(domain) => is_wanted || !matches!(domain.phase, DomainPhase::Halted),
        None => is_wanted || desired.domains.is_none(),
    }
}

fn network_config(view: &View<'_>, desired: &Desired) -> AppNetworkConfig {
    let mut vifs: Vec<AppVif> = view
        .config
        .vifs
        .iter()
        .map(|vif| AppVif {
            name: vif.name.clone(),
            network_instance: vif.network_instance,
            mac: vif.mac,
            ip: vif.ip,
            acls: vif.acls.clone(),
        })
        .collect();
    if holds_its_parts(view, desired) {
        // A running guest keeps an interface that the config no longer has until it is restarted without it.
        let moved_on = view
            .domain
            .is_some_and(|d| d.incarnation == incarnation(&view.counters));
        let own = desired
            .own
            .networks
            .get(view.key)
            .map(|n| n.vifs.as_slice())
            .unwrap_or_default();
        let dropped = own.iter().filter(|old| {
            let in_config = view.config.vifs.iter().any(|new| new.name == old.name);
            !in_config && (!moved_on || has_interface(view, &old.name))
        });
        vifs.extend(dropped.cloned());
    }
    AppNetworkConfig {
        app: view.config.id,
        display_name: view.config.display_name.clone(),
        // Interfaces stay while the guest may still hold them.
        activate: wants_to_run(view)
            || view
                .domain
                .is_some_and(|d| !matches!(d.phase, DomainPhase::Halted)),
        vifs,
    }
}

/// The guest's configuration in force has this interface. Unknown counts as yes.
fn has_interface(view: &View<'_>, name: &str) -> bool {
    let tap = view
        .network
        .and_then(|n| n.vifs.iter().find(|vif| vif.name == name));
    let (Some(tap), Some(own)) = (tap, view.own_domain) else {
        return true;
    };
    own.vifs.iter().any(|vif| vif.vif == tap.vif)
}

pub(super) fn wants_to_run(view: &View<'_>) -> bool {
    view.config.activate
        && !view.halted_by_device
        && view.delay.is_none()
        && view.deferred.is_empty()
}

/// Restarts in the low half, purges in the high half: either one makes it another number.
pub(super) fn incarnation(counters: &AppCommandCounters) -> u64 {
    (u64::from(counters.purges) << 32) | u64::from(counters.restart)
}

/// The guest's configuration: new when everything for it is there, else as it was.
fn domain_config(view: &View<'_>) -> Option<DomainConfig> {
    let activate = wants_to_run(view);
    let as_it_was = || {
        view.own_domain.map(|own| DomainConfig {
            activate: activate && own.activate,
            ..own.clone()
        })
    };
    if !activate {
        return as_it_was();
    }
    let Some(complete) = complete(view) else {
        return view.own_domain.cloned();
    };
    match view.own_domain {
        Some(own) if own.incarnation == complete.incarnation && is_up(view) && own.activate => {
            Some(DomainConfig {
                display_name: complete.display_name,
                ..own.clone()
            })
        }
        Some(_) | None => Some(complete),
    }
}

fn is_up(view: &View<'_>) -> bool {
    // Unknown counts as up: what may be running is not changed.
    view.domain.is_none_or(|d| {
        matches!(
            d.phase,
            DomainPhase::Running { .. } | DomainPhase::Booting { .. } | DomainPhase::Halting { .. }
        )
    })
}

/// The configuration that the config asks for now, if every part of it is ready.
pub(super) fn complete(view: &View<'_>) -> Option<DomainConfig> {
    let mut disks = Vec::new();
    for (wanted, status) in view.wanted.iter().zip(&view.volumes) {
        let status = status.filter(|s| s.phase == VolumePhase::Created)?;
        disks.push(DiskConfig {
            volume: wanted.device_volume(),
            path: status.path.clone()?,
            format: status.format,
            target: wanted.target,
            read_only: status.read_only,
        });
    }
    let mut vifs = Vec::new();
    if !view.config.vifs.is_empty() {
        let network = view.network.filter(|n| n.phase == AppNetworkPhase::Ready)?;
        for wanted in &view.config.vifs {
            let vif = network.vifs.iter().find(|v| v.name == wanted.name)?;
            vifs.push(DomainVif {
                vif: vif.vif.clone(),
                bridge: vif.bridge.clone(),
                mac: vif.mac,
                mtu: vif.mtu,
            });
        }
    }
    Some(DomainConfig {
        app: view.config.id,
        display_name: view.config.display_name.clone(),
        activate: true,
        incarnation: incarnation(&view.counters),
        resources: view.config.resources.clone(),
        disks,
        vifs,
        user_data: view.config.user_data.clone(),
        secret_user_data: view.config.secret_user_data.clone(),
    })
}
