//! The decision: what to fetch, verify, make, keep and remove, and what to say of it. Pure.
//!
//! In this order: who wants which volume ([`wanted`]), where each blob is ([`blobs`]), which of
//! the missing volumes fit on the disk ([`space`]) and so need their blob, how each volume is to
//! be made ([`volumes`]), and at last the tables.

pub mod blobs;
pub mod space;
pub mod volumes;
pub mod voucher;
pub mod wanted;

use std::{collections::BTreeMap, time::Duration};

use agent::{Plan, Turn};
use bus::Rows;
use model::{
    content::{BlobStatus, ContentPhase, ContentTreeStatus},
    id::{Digest, VolumeKey},
    volume::{DiskMetric, VolumePhase, VolumeRefStatus, VolumeStatus},
};

use crate::{
    Do, Published, Volumemgr,
    plan::{
        blobs::{Blob, State, blobs},
        space::{Budget, reserve},
        voucher::{Voucher, voucher},
    },
    subject,
};

/// So often the disk is looked at though nothing happens.
const LOOK: Duration = Duration::from_mins(1);
/// So often while something waits for space.
const LOOK_FOR_SPACE: Duration = Duration::from_secs(10);
const MIB: u64 = 1 << 20;

/// See the crate's documentation for the rules.
pub fn plan(turn: &Turn<'_, Volumemgr>) -> Plan<Volumemgr> {
    let Turn {
        desired,
        actual,
        jobs,
        ..
    } = *turn;
    let wants = wanted::wanted(desired, actual);
    let mut blobs = blobs(turn);
    let mut budget = Budget::new(actual, &desired.limits);
    let disk = disk_metric(turn, budget);

    let mut plan: Plan<Volumemgr> = Plan::report(Published::default());
    let made = volumes::volumes(turn, &wants, &mut blobs, &mut budget);
    if made
        .iter()
        .any(|(row, _)| row.phase == VolumePhase::AwaitSpace)
    {
        plan.wake_in(LOOK_FOR_SPACE);
    }
    let (mut rows, mut creations): (Rows<VolumeStatus>, Vec<Do>) = (Rows::new(), Vec::new());
    for (row, action) in made {
        rows.insert(row.key.to_string(), row);
        creations.extend(action);
    }
    for (key, file) in actual
        .volumes
        .iter()
        .filter(|(key, _)| !wants.contains_key(key))
    {
        let old = desired.own.volumes.get(&key.to_string());
        let mut row = volumes::existing(*key, file, old);
        // Not known is not unwanted.
        if desired.refs.is_some() {
            row.phase = VolumePhase::Deleting;
            plan.actions.push(Do::Remove(*key));
        }
        rows.insert(key.to_string(), row);
    }
    for (key, name) in &actual.partials {
        if !jobs.is_running(&subject(*key)) {
            plan.actions.push(Do::RemovePartial(name.clone()));
        }
    }
    plan.actions.extend(creations);

    plan.report.refs = refs(turn, &rows);
    plan.report.volumes = rows;
    plan.report.disk = Rows::from([("global".to_owned(), disk)]);
    contents(turn, &blobs, &mut plan);
    plan.wake_in(LOOK);
    plan
}

/// The tables about blobs and content trees, and what the downloader and the verifier are told.
fn contents(
    turn: &Turn<'_, Volumemgr>,
    blobs: &BTreeMap<Digest, Blob<'_>>,
    plan: &mut Plan<Volumemgr>,
) {
    let Turn { desired, now, .. } = *turn;
    for blob in blobs.values() {
        if let State::Wrong { fault, by: _ } = &blob.state {
            let due = fault.next.map_or(Duration::ZERO, |at| {
                at.duration_since(now).try_into().unwrap_or_default()
            });
            plan.wake_in(due.max(Duration::from_millis(10)));
        }
    }
    // Without the verifier's word nothing true can be said.
    if desired.verified.is_none() {
        return;
    }
    plan.report.blobs = Some(
        blobs
            .values()
            .map(|blob| (blob.digest.to_string(), blob_status(blob)))
            .collect(),
    );
    plan.report.trees = Some(
        desired
            .trees
            .iter()
            .filter_map(|(key, tree)| {
                let voucher = voucher(turn, tree);
                Some((
                    key.clone(),
                    tree_status(tree, voucher, blobs.get(&tree.sha256)?),
                ))
            })
            .collect(),
    );
    // What the two are not told to keep they remove, so they are told only when everybody has spoken.
    if desired.refs.is_none() || desired.downloads.is_none() {
        return;
    }
    plan.report.downloads = Some(
        blobs
            .values()
            .filter_map(|b| Some((b.digest.to_string(), b.download(desired)?)))
            .collect(),
    );
    plan.report.verifications = Some(
        blobs
            .values()
            .filter_map(|b| Some((b.digest.to_string(), b.verification(desired)?)))
            .collect(),
    );
}

fn blob_status(blob: &Blob<'_>) -> BlobStatus {
    let loaded = blob.loaded();
    BlobStatus {
        sha256: blob.digest,
        phase: blob.phase(),
        path: loaded.map(|(path, _)| path.clone()),
        size_bytes: loaded.map_or(0, |(_, size)| size),
        referenced_by: blob.trees.iter().map(|tree| tree.id).collect(),
        fault: blob.fault().cloned(),
    }
}

fn tree_status(
    tree: &model::content::ContentTreeConfig,
    voucher: Voucher,
    blob: &Blob<'_>,
) -> ContentTreeStatus {
    let BlobStatus {
        sha256,
        phase,
        path,
        size_bytes,
        referenced_by: _,
        fault,
    } = blob_status(blob);
    let (phase, path, fault) = match (&tree.fault, voucher) {
        (Some(fault), _) => (ContentPhase::Failed, path, Some(fault.clone())),
        (None, Voucher::Refused(fault)) => (ContentPhase::Failed, None, Some(*fault)),
        (None, Voucher::Awaited) => (ContentPhase::Waiting, None, None),
        (None, Voucher::Good) => (phase, path, fault),
    };
    ContentTreeStatus {
        id: tree.id,
        display_name: tree.display_name.clone(),
        sha256,
        format: tree.format,
        phase,
        path,
        size_bytes,
        fault,
    }
}

/// Answers to the applications. Before zedmanager has spoken its former questions keep their
/// answers, so that no application sees a volume vanish because two services restarted at once.
fn refs(turn: &Turn<'_, Volumemgr>, rows: &Rows<VolumeStatus>) -> Rows<VolumeRefStatus> {
    let desired = turn.desired;
    let answer = |app, key: VolumeKey| {
        let row = rows.get(&key.to_string())?;
        Some(VolumeRefStatus {
            app,
            volume: key,
            phase: row.phase.clone(),
            path: row.path.clone(),
            format: row.format,
            read_only: row.read_only,
            fault: row.fault.clone(),
        })
    };
    match &desired.refs {
        Some(refs) => refs
            .iter()
            .filter_map(|(key, r)| Some((key.clone(), answer(r.app, r.device_volume())?)))
            .collect(),
        None => desired
            .own
            .refs
            .iter()
            .map(|(key, old)| {
                (
                    key.clone(),
                    answer(old.app, old.volume).unwrap_or_else(|| old.clone()),
                )
            })
            .collect(),
    }
}

fn disk_metric(turn: &Turn<'_, Volumemgr>, budget: Budget) -> DiskMetric {
    let crate::Space {
        total_bytes,
        free_bytes,
    } = turn.actual.space;
    let whole = |bytes: u64| bytes / MIB * MIB;
    DiskMetric {
        total_bytes,
        used_bytes: whole(total_bytes.saturating_sub(free_bytes)),
        reserved_bytes: reserve(total_bytes, &turn.desired.limits),
        available_bytes: whole(budget.available()),
    }
}
