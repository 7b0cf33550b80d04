//! The decision: which guests to start, to stop, to measure, and what to say of them. Pure.

mod budget;
mod domain;
pub mod evidence;
mod metric;
mod uids;

use std::collections::BTreeSet;

use agent::{Plan, Turn};
use model::{
    domain::{Accelerator, Capabilities, DomainConfig},
    id::AppId,
    security::{CipherBlock, Octets},
};
use sha2::{Digest, Sha256};
use vmm::probe::{Force, TcgReason};

use crate::{Do, Domainmgr, Probe, Published, subject};
use budget::Budget;
use domain::View;

pub use domain::{GRACE, PRESS_AGAIN};
pub use metric::MEASURE_EVERY;

/// See the crate's documentation for the rules.
pub fn plan(turn: &Turn<'_, Domainmgr>) -> Plan<Domainmgr> {
    let Turn {
        desired, actual, ..
    } = *turn;
    let mut plan: Plan<Domainmgr> = Plan::report(Published::default());
    let accelerator = if let Some(probe) = &actual.probe {
        let accelerator = accelerator(desired.properties.accel, probe);
        let row = Capabilities {
            accelerator: accelerator.clone(),
            cpus: actual.host.cpus,
            memory_kib: actual.host.memory_kib,
            qemu_version: probe.qemu_version.clone(),
        };
        plan.report.capabilities = Some([("global".to_owned(), row)].into());
        Some(accelerator)
    } else {
        plan.actions.push(Do::Probe);
        None
    };
    let apps = apps(turn);
    let uids = uids::assign(&apps, &actual.guests);
    let mut budget = Budget::new(actual, desired.properties.ignore_memory);
    // A start in flight keeps what it was granted, whatever is wanted since.
    let (in_flight, others): (Vec<AppId>, Vec<AppId>) = apps
        .iter()
        .partition(|app| turn.jobs.is_running(&subject(**app)));
    for app in in_flight.into_iter().chain(others) {
        let uid = uids.get(&app).copied();
        let view = View::new(turn, app, accelerator.as_ref(), uid);
        domain::plan(&view, &mut budget, &mut plan);
        metric::plan(&view, &mut plan);
    }
    plan
}

/// Everybody who is wanted, there, or spoken of.
fn apps(turn: &Turn<'_, Domainmgr>) -> BTreeSet<AppId> {
    let desired = turn.desired;
    let wanted = desired.domains.values().map(|config| config.app);
    let spoken_of = desired.own.statuses.values().map(|status| status.app);
    let there = turn.actual.guests.keys().copied();
    wanted.chain(spoken_of).chain(there).collect()
}

/// What the configuration says goes before what was found out.
fn accelerator(force: Force, probe: &Probe) -> Accelerator {
    match force {
        Force::Auto => probe.accelerator.clone(),
        Force::Kvm => Accelerator::Kvm,
        Force::Tcg => Accelerator::Tcg {
            reason: TcgReason::Forced.to_string(),
        },
    }
}

/// Identifies everything that a guest is made from; its name for people is no part of that.
pub fn digest(config: &DomainConfig) -> String {
    let hardware = DomainConfig {
        display_name: String::new(),
        activate: true,
        // The same secret encrypted anew is no other hardware.
        secret_user_data: config.secret_user_data.as_ref().map(|secret| CipherBlock {
            context: String::new(),
            initial_value: Octets::default(),
            cipher_data: Octets::default(),
            clear_text_sha256: secret.clear_text_sha256,
        }),
        ..config.clone()
    };
    // A plain value always has a JSON form.
    let text = serde_json::to_vec(&hardware).unwrap_or_default();
    hex::encode(&Sha256::digest(text)[..16])
}
