//! An application that the config no longer names: guest first, then interfaces, then volumes.

use agent::Turn;
use model::{
    app::{AppInstanceStatus, AppPhase},
    domain::DomainConfig,
};

use super::{Report, Zedmanager, phase};

pub(super) fn plan(turn: &Turn<'_, Zedmanager>, key: &str, report: &mut Report) {
    let desired = turn.desired;
    let own = &desired.own;
    let network = own.networks.get(key);
    let refs: Vec<_> = own.volume_refs_of(key).collect();
    // Not known counts as still there: what another service may still use is not taken away.
    let domain_there = own.domains.contains_key(key)
        || desired.domains.as_ref().is_none_or(|t| t.contains_key(key));
    let network_there = network.is_some()
        || desired
            .networks
            .as_ref()
            .is_none_or(|t| t.contains_key(key));

    // domainmgr speaks of every guest that it is told of. Until it does it may be starting this one.
    let halted = desired
        .domains
        .as_ref()
        .and_then(|t| t.get(key))
        .is_some_and(|d| d.phase == model::domain::DomainPhase::Halted);
    if let Some(domain) = own.domains.get(key)
        && (!halted || domain.activate)
    {
        report.domains.insert(
            key.to_owned(),
            DomainConfig {
                activate: false,
                ..domain.clone()
            },
        );
    }
    if let Some(network) = network
        && domain_there
    {
        report.networks.insert(key.to_owned(), network.clone());
    }
    if domain_there || network_there {
        report
            .volume_refs
            .extend(refs.iter().map(|(k, r)| ((*k).clone(), (*r).clone())));
    }
    let anything_left = domain_there || network_there || !refs.is_empty();
    if let Some(status) = own.apps.get(key)
        && anything_left
    {
        let fault = desired
            .domains
            .as_ref()
            .and_then(|t| t.get(key))
            .and_then(|d| d.fault.clone());
        let phase = AppPhase::Deleting;
        let since = phase::since(Some(status), &phase, turn.now);
        report.apps.insert(
            key.to_owned(),
            AppInstanceStatus {
                phase,
                since,
                fault,
                activate: false,
                ..status.clone()
            },
        );
    }
}
