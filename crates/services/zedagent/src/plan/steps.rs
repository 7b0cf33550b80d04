//! The next steps, each derived from what is known rather than from where we were.

use std::{collections::BTreeSet, time::Duration};

use agent::{Plan, Turn};
use model::{
    clock,
    id::DeviceId,
    node::{BootReason, ConfigSource, OnboardingStatus},
    security::{EdgeNodeCert, EdgeNodeCertKind},
};

use super::{Step, Zedagent};
use crate::facts::{AttestStep, CertsWanted, Facts};

/// A config must have been in force for so long before it counts as proven.
const PROOF: Duration = Duration::from_secs(600);
/// How long the controller has to answer after start before the saved config is taken.
const SAVED_AFTER: Duration = Duration::from_secs(5);
/// How long tpmmgr has to tell the device's certificates.
const CERTS_WITHIN: Duration = Duration::from_secs(10);
/// The device asks again who it is at most so often.
const DISOWNED_PAUSE: Duration = Duration::from_secs(600);
pub(super) fn steps(
    turn: &Turn<'_, Zedagent>,
    onboarding: &OnboardingStatus,
    plan: &mut Plan<Zedagent>,
) {
    let facts = turn.actual;
    let Some(partition) = &facts.partition else {
        // Observed again until it is there.
        plan.wake_in(Duration::from_secs(5));
        return;
    };
    if facts.device_cert.is_none() {
        // A certificate made by a clock that was never set would have expired long ago. The roots in the CONFIG partition tell
        // a later time, unless they were made by such a clock themselves.
        if clock::was_set(partition.at_least(turn.now)) {
            plan.actions.push(Step::LearnIdentity);
        } else {
            plan.wake_in(Duration::from_secs(5));
        }
        return;
    }
    if let Some(device) = onboarding.device {
        use_saved(turn, device, plan);
        keep_as_backup(turn, plan);
    }
    if !turn
        .desired
        .network
        .as_ref()
        .is_some_and(model::port::DeviceNetworkStatus::has_usable_address)
    {
        return;
    }
    note_maintenance(turn, plan);
    fetch_certs(turn, plan);
    if facts.certs.is_empty() && !facts.v1 {
        return;
    }
    introduce(turn, onboarding, plan);
    if let Some(device) = onboarding.device {
        attest(turn, device, plan);
        escrow(turn, device, plan);
        fetch_config(turn, device, plan);
    }
}

fn note_maintenance(turn: &Turn<'_, Zedagent>, plan: &mut Plan<Zedagent>) {
    let Some(node) = &turn.desired.node else {
        return;
    };
    let on = node.values().any(|node| !node.maintenance.is_empty());
    if on != turn.actual.in_maintenance {
        plan.actions.push(Step::NoteMaintenance { on });
    }
}

fn fetch_certs(turn: &Turn<'_, Zedagent>, plan: &mut Plan<Zedagent>) {
    let facts = turn.actual;
    // One that only spoke version 1 so far is asked too: it may have been replaced.
    if facts.partition.as_ref().is_some_and(|p| p.force_v1) {
        return;
    }
    let interval = turn
        .desired
        .items
        .seconds("timer.cert.interval")
        .max(Duration::from_secs(60));
    let period = turn.uptime.saturating_sub(facts.started).as_secs() / interval.as_secs();
    let known_hash = facts
        .certs_for
        .as_ref()
        .map_or(String::new(), |w| w.hash.clone());
    let wanted = CertsWanted {
        hash: facts
            .in_force
            .as_ref()
            .map_or(known_hash, |c| c.content.certs_hash.clone()),
        misses: facts.cert_misses,
        period,
    };
    if facts.certs_for.as_ref() != Some(&wanted) {
        plan.actions.push(Step::FetchCerts { wanted });
    }
    plan.wake_in(interval);
}

fn introduce(turn: &Turn<'_, Zedagent>, onboarding: &OnboardingStatus, plan: &mut Plan<Zedagent>) {
    let facts = turn.actual;
    let register = facts.partition.as_ref().is_some_and(|p| p.can_register);
    if onboarding.device.is_none() {
        plan.actions.push(Step::Introduce {
            register,
            again: false,
        });
    } else if facts.disowned {
        let pause = facts.named_at.map_or(Duration::ZERO, |at| {
            (at + DISOWNED_PAUSE).saturating_sub(turn.uptime)
        });
        if pause.is_zero() {
            plan.actions.push(Step::Introduce {
                register,
                again: true,
            });
        } else {
            plan.wake_in(pause);
        }
    }
}

fn attest(turn: &Turn<'_, Zedagent>, device: DeviceId, plan: &mut Plan<Zedagent>) {
    if turn.actual.v1 {
        return;
    }
    let attest = &turn.actual.attest;
    let round = attest.round;
    match &attest.step {
        AttestStep::SendCerts => match certs(turn) {
            Ok(certs) => plan.actions.push(Step::SendCerts {
                certs,
                round,
                device,
            }),
            Err(left) => plan.wake_in(left),
        },
        AttestStep::AskNonce => plan.actions.push(Step::AskNonce { round, device }),
        AttestStep::SendQuote(nonce) => plan.actions.push(Step::SendQuote {
            round,
            nonce: nonce.clone(),
            device,
        }),
        AttestStep::Complete(_) => {
            // They came late, or are others since: the controller encrypts to them.
            if turn.desired.certs.is_some()
                && let Ok(certs) = certs(turn)
                && turn.actual.attest.certs_sent.as_ref() != Some(&hashes(&certs))
            {
                plan.actions.push(Step::SendCerts {
                    certs,
                    round,
                    device,
                });
            }
        }
        AttestStep::Pause { until, .. } => match until.checked_sub(turn.uptime) {
            Some(left) if !left.is_zero() => plan.wake_in(left),
            _ => plan.actions.push(Step::ResumeAttest { round }),
        },
    }
}

/// The controller keeps the vault's key for the day on which the TPM does not give it out.
fn escrow(turn: &Turn<'_, Zedagent>, device: DeviceId, plan: &mut Plan<Zedagent>) {
    let attest = &turn.actual.attest;
    if let (AttestStep::Complete(token), Some(key)) = (&attest.step, &turn.desired.vault_key)
        && attest.escrowed.as_ref() != Some(&key.sha256)
    {
        plan.actions.push(Step::StoreKey {
            key: key.clone(),
            token: token.clone(),
            device,
        });
    }
}

/// The certificates to send, or how long to wait for them: without them the controller would send secrets in the clear.
fn certs(turn: &Turn<'_, Zedagent>) -> Result<Vec<EdgeNodeCert>, Duration> {
    let Some(rows) = &turn.desired.certs else {
        let until = turn.actual.started + CERTS_WITHIN;
        return match until.checked_sub(turn.uptime) {
            Some(left) if !left.is_zero() => Err(left),
            _ => Ok(Vec::new()),
        };
    };
    // Those of another version have no place in the protocol that we speak.
    let known = |cert: &&EdgeNodeCert| cert.kind != EdgeNodeCertKind::Unknown;
    Ok(rows.values().filter(known).cloned().collect())
}

/// What tells sets of certificates apart.
pub(crate) fn hashes(certs: &[EdgeNodeCert]) -> BTreeSet<String> {
    certs.iter().map(|cert| cert.hash.clone()).collect()
}

fn fetch_config(turn: &Turn<'_, Zedagent>, device: DeviceId, plan: &mut Plan<Zedagent>) {
    let facts = turn.actual;
    // The first request would only be refused while attestation is on its way; if that
    // does not work, the controller may not insist on it.
    let attested = matches!(facts.attest.step, AttestStep::Complete(_));
    let in_vain = facts.attest.in_vain || turn.jobs.fault("attestation").is_some();
    // What is on its way is not called back because attestation is tried once more meanwhile.
    if !attested && !facts.v1 && !in_vain && !turn.jobs.is_running("config") {
        return;
    }
    let due = next_request(turn, facts);
    if let Some(left) = due.checked_sub(turn.uptime).filter(|left| !left.is_zero()) {
        plan.wake_in(left);
        return;
    }
    plan.actions.push(Step::FetchConfig {
        number: facts.asked.as_ref().map_or(0, |a| a.number + 1),
        hash: facts.received_hash.clone(),
        token: facts.attest.token().to_vec(),
        device,
    });
}

/// Uptime at which to ask for the config: at a random point of the interval's last 70 %.
fn next_request(turn: &Turn<'_, Zedagent>, facts: &Facts) -> Duration {
    let interval = turn.desired.items.seconds("timer.config.interval");
    facts.asked.as_ref().map_or(Duration::ZERO, |asked| {
        asked.at + interval.mul_f64(0.3 + 0.7 * asked.jitter)
    })
}

fn use_saved(turn: &Turn<'_, Zedagent>, device: DeviceId, plan: &mut Plan<Zedagent>) {
    let facts = turn.actual;
    let saved = &facts.saved;
    if facts.in_force.is_some() || (saved.primary.is_none() && saved.backup.is_none()) {
        return;
    }
    let left = (facts.started + SAVED_AFTER).saturating_sub(turn.uptime);
    if !left.is_zero() {
        plan.wake_in(left);
        return;
    }
    let reason = turn
        .desired
        .node
        .as_ref()
        .and_then(|n| n.values().next())
        .map(|n| n.boot_reason);
    let backup =
        saved.backup.is_some() && (saved.primary.is_none() || distrusts_last_config(reason));
    plan.actions.push(Step::UseSaved { backup, device });
}

/// After a boot that the last config may have caused, the one before it is taken.
pub(super) fn distrusts_last_config(reason: Option<BootReason>) -> bool {
    match reason {
        Some(BootReason::First | BootReason::Fallback | BootReason::HwWatchdog) => true,
        Some(
            BootReason::None
            | BootReason::RebootCmd
            | BootReason::PoweroffCmd
            | BootReason::Update
            | BootReason::Disconnect
            | BootReason::PowerFail
            | BootReason::Unknown,
        )
        | None => false,
    }
}

fn keep_as_backup(turn: &Turn<'_, Zedagent>, plan: &mut Plan<Zedagent>) {
    let facts = turn.actual;
    let (Some(config), Some(digest)) = (&facts.in_force, facts.saved.primary) else {
        return;
    };
    if config.source != ConfigSource::Controller || facts.saved.backup == Some(digest) {
        return;
    }
    // What is on the disk is not what is in force.
    if facts.unsaved.is_some() {
        return;
    }
    match (config.uptime + PROOF).checked_sub(turn.uptime) {
        Some(left) if !left.is_zero() => plan.wake_in(left),
        _ => plan.actions.push(Step::KeepAsBackup { digest }),
    }
}
