//! The decision: what to verify, what to keep, what to say. Pure.

use std::{cell::OnceCell, time::Duration};

use agent::{Plan, Turn};
use bus::Rows;
use chain::{Flaw, SigningRoots, When};
use jiff::Timestamp;
use model::{
    code::Code,
    content::{ImageSignature, SignatureStatus, VerifyImageConfig, VerifyImageStatus, VerifyPhase},
    fault::Fault,
    id::Digest,
};

use crate::{
    Desired, Do, Found, Published, Verified, Verifier,
    signature::{self, SignatureError},
    subject,
};

/// So often a signature is judged again that only time can mend: the clock, or the partition's coming.
const JUDGED_AGAIN: Duration = Duration::from_mins(1);

/// See the crate's documentation for the rules.
pub fn plan(turn: &Turn<'_, Verifier>) -> Plan<Verifier> {
    let Turn {
        desired,
        actual,
        jobs,
        now,
        ..
    } = *turn;
    let mut plan: Plan<Verifier> = Plan::report(Published::default());
    for (digest, name) in &actual.partials {
        // A copy in the making belongs to its job; two for one digest mean that a replaced job
        // has not noticed yet, and it removes its own.
        if !jobs.is_running(&subject(*digest)) {
            plan.actions.push(Do::RemovePartial(name.clone()));
        }
    }
    match &desired.images {
        None => keep_everything(turn, &mut plan.report),
        Some(images) => {
            for config in images.values() {
                let VerifyImageConfig {
                    sha256, attempt, ..
                } = config;
                let old = desired.own.get(&sha256.to_string());
                let (phase, fault) = if let Some(file) = actual.verified.get(sha256) {
                    (verified(file), None)
                } else if let Some(found) = actual.mismatches.get(&(*sha256, *attempt)) {
                    let fault = wrong_digest(*sha256, *found, now)
                        .continuing(old.and_then(|row| row.fault.as_ref()));
                    (
                        VerifyPhase::Mismatch {
                            found: found.digest,
                        },
                        Some(fault),
                    )
                } else if let Some(row) = known_mismatch(desired, config) {
                    (row.phase.clone(), row.fault.clone())
                } else {
                    plan.actions.push(Do::Verify(config.clone()));
                    let percent = jobs
                        .progress(&subject(*sha256))
                        .map_or(0, agent::Progressed::percent);
                    (
                        VerifyPhase::Verifying { percent },
                        jobs.fault(&subject(*sha256)).cloned(),
                    )
                };
                let row = VerifyImageStatus {
                    sha256: *sha256,
                    attempt: *attempt,
                    phase,
                    fault,
                };
                plan.report.images.insert(sha256.to_string(), row);
            }
            let unwanted = actual
                .verified
                .keys()
                .filter(|digest| !images.contains_key(&digest.to_string()));
            plan.actions.extend(unwanted.copied().map(Do::Remove));
        }
    }
    signatures(turn, &mut plan);
    plan
}

/// Who vouches for the images of the config.
fn signatures(turn: &Turn<'_, Verifier>, plan: &mut Plan<Verifier>) {
    let Turn { desired, now, .. } = *turn;
    let Some(trees) = &desired.trees else {
        return;
    };
    let mut rows = Rows::new();
    let roots = OnceCell::new();
    for tree in trees.values() {
        let Some(signature) = &tree.signature else {
            continue;
        };
        let key = tree.id.to_string();
        let old = desired.judged.get(&key).filter(|row| row.is_of(tree));
        let row = match old {
            Some(row) if row.signer.is_some() => row.clone(),
            Some(_) | None => {
                let (signer, fault) = match vouched(turn, &roots, signature, tree.sha256) {
                    Ok(signer) => (Some(signer), None),
                    Err(error) => {
                        let mends_itself = error.mends_itself();
                        if mends_itself {
                            plan.wake_in(JUDGED_AGAIN);
                        }
                        let object = format!("content tree {}", tree.id);
                        let fault =
                            Fault::new(Code::VerifySignature, object, error.to_string(), now)
                                .caused_by(&error)
                                .transient(mends_itself);
                        (
                            None,
                            Some(fault.continuing(old.and_then(|row| row.fault.as_ref()))),
                        )
                    }
                };
                SignatureStatus {
                    id: tree.id,
                    sha256: tree.sha256,
                    signature: signature.clone(),
                    signer,
                    fault,
                }
            }
        };
        rows.insert(key, row);
    }
    plan.report.signatures = Some(rows);
}

/// `roots` are read once for all signatures of a turn, when the first is judged.
fn vouched(
    turn: &Turn<'_, Verifier>,
    roots: &OnceCell<Result<SigningRoots, SignatureError>>,
    signature: &ImageSignature,
    image: Digest,
) -> Result<String, SignatureError> {
    let Turn { actual, now, .. } = *turn;
    let read = || match &actual.roots_pem {
        Some(pem) => Ok(SigningRoots::from_pem(pem)?),
        None => Err(SignatureError::NoRoots),
    };
    let roots = roots.get_or_init(read).as_ref().map_err(Clone::clone)?;
    let when = When::new(now, roots.made());
    match signature::judge(signature, image, roots, when) {
        // It was good when the image came. What it vouched for has not changed since.
        Err(SignatureError::Chain { signer, error })
            if error.flaw == Flaw::Ended && actual.verified.contains_key(&image) =>
        {
            Ok(signer)
        }
        verdict => verdict,
    }
}

/// Before volumemgr has spoken: what is there, and what was said about what is not.
fn keep_everything(turn: &Turn<'_, Verifier>, report: &mut Published) {
    let Turn {
        desired, actual, ..
    } = *turn;
    for (key, row) in desired.own.iter() {
        if !matches!(row.phase, VerifyPhase::Verified { .. }) {
            report.images.insert(key.clone(), row.clone());
        }
    }
    for (digest, file) in &actual.verified {
        let attempt = desired
            .own
            .get(&digest.to_string())
            .map_or(0, |row| row.attempt);
        let row = VerifyImageStatus {
            sha256: *digest,
            attempt,
            phase: verified(file),
            fault: None,
        };
        report.images.insert(digest.to_string(), row);
    }
}

fn verified(file: &Verified) -> VerifyPhase {
    VerifyPhase::Verified {
        path: file.path.clone(),
        size_bytes: file.size_bytes,
    }
}

fn known_mismatch<'a>(
    desired: &'a Desired,
    config: &VerifyImageConfig,
) -> Option<&'a VerifyImageStatus> {
    let row = desired.own.get(&config.sha256.to_string())?;
    (row.attempt == config.attempt && matches!(row.phase, VerifyPhase::Mismatch { .. }))
        .then_some(row)
}

fn wrong_digest(expected: Digest, found: Found, now: Timestamp) -> Fault {
    let text = format!(
        "the file of {} bytes has SHA-256 {}",
        found.size_bytes, found.digest
    );
    Fault::new(Code::VerifyDigest, subject(expected), text, now)
}
