//! The plan as a function: what it never does, and where it ends.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use agent::{Action as _, Failure, Job, Jobs, Plan, Service, Turn};
use bus::Rows;
use jiff::Timestamp;
use model::{
    code::Code,
    content::{VerifyImageConfig, VerifyImageStatus, VerifyPhase},
    id::Digest,
};
use proptest::prelude::*;
use verifier::{Actual, Desired, Do, Found, Verified, Verifier, subject};

fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

fn config(n: u8, attempt: u32) -> VerifyImageConfig {
    let path = PathBuf::from(format!("/persist/vault/downloader/downloads/{}", digest(n)));
    VerifyImageConfig {
        sha256: digest(n),
        path,
        size_bytes: 10,
        attempt,
    }
}

type Images = Option<Arc<Rows<VerifyImageConfig>>>;

#[allow(clippy::unnecessary_wraps, reason = "as it is in Desired")]
fn rows(configs: &[VerifyImageConfig]) -> Images {
    Some(Arc::new(
        configs
            .iter()
            .map(|c| (c.sha256.to_string(), c.clone()))
            .collect(),
    ))
}

/// Files, and a runtime that carries everything out at once.
#[derive(Debug, Default)]
struct Simulated {
    actual: Actual,
    own: Rows<VerifyImageStatus>,
    failed: BTreeMap<String, Job>,
    /// What lies at the downloader: digest of the name to digest of the bytes.
    downloads: BTreeMap<Digest, Digest>,
}

impl Simulated {
    fn plan(&self, images: Images) -> Plan<Verifier> {
        let desired = Desired {
            images,
            own: Arc::new(self.own.clone()),
            ..Desired::default()
        };
        let jobs = Jobs::of(self.failed.clone());
        let (now, uptime) = (Timestamp::UNIX_EPOCH, Duration::ZERO);
        Verifier::plan(&Turn {
            desired: &desired,
            actual: &self.actual,
            jobs: &jobs,
            now,
            uptime,
        })
    }

    fn apply(&mut self, action: &Do) {
        match action {
            Do::Verify(config) => match self.downloads.get(&config.sha256) {
                None => {
                    let failure =
                        Failure::new(Code::VerifyRead, action.subject(), "missing").transient();
                    self.failed.insert(
                        action.subject(),
                        Job::Failed(failure.into_fault(Timestamp::UNIX_EPOCH)),
                    );
                }
                Some(found) if *found == config.sha256 => {
                    let file = Verified {
                        path: PathBuf::from("/v").join(found.to_string()),
                        size_bytes: 10,
                    };
                    assert!(
                        self.actual.verified.insert(*found, file).is_none(),
                        "verified twice"
                    );
                }
                Some(found) => {
                    let found = Found {
                        digest: *found,
                        size_bytes: 10,
                    };
                    self.actual
                        .mismatches
                        .insert((config.sha256, config.attempt), found);
                }
            },
            Do::Remove(digest) => {
                assert!(
                    self.actual.verified.remove(digest).is_some(),
                    "removed what is not there"
                );
            }
            Do::RemovePartial(name) => {
                let before = self.actual.partials.len();
                self.actual.partials.retain(|(_, n)| n != name);
                assert!(self.actual.partials.len() < before);
            }
        }
    }

    /// Turns until only failed actions are left; returns the number of turns.
    #[allow(clippy::ref_option, reason = "planned with several times")]
    fn settle(&mut self, images: &Images) -> usize {
        for turn in 0..10 {
            let plan = self.plan(images.clone());
            self.own = plan.report.images;
            let fresh: Vec<Do> = plan
                .actions
                .into_iter()
                .filter(|a| !self.failed.contains_key(&a.subject()))
                .collect();
            if fresh.is_empty() {
                return turn;
            }
            for action in &fresh {
                if let Do::Remove(digest) = action {
                    let wanted = images
                        .as_ref()
                        .is_none_or(|rows| rows.contains_key(&digest.to_string()));
                    assert!(!wanted, "removes what is wanted or unknown: {digest}");
                }
                self.apply(action);
            }
        }
        panic!("does not settle: {self:#?}");
    }
}

#[test]
fn nothing_is_removed_before_volumemgr_has_spoken_and_what_is_there_is_published() {
    let mut world = Simulated::default();
    let file = Verified {
        path: "/v/1".into(),
        size_bytes: 10,
    };
    world.actual.verified.insert(digest(1), file);
    let plan = world.plan(None);
    assert_eq!(plan.actions, []);
    assert!(matches!(
        plan.report.images[&digest(1).to_string()].phase,
        VerifyPhase::Verified { size_bytes: 10, .. }
    ));
    let plan = world.plan(rows(&[]));
    assert_eq!(plan.actions, [Do::Remove(digest(1))]);
    assert!(plan.report.images.is_empty());
}

#[test]
fn a_wrong_digest_is_told_once_per_attempt_and_remembered_across_a_restart() {
    let mut world = Simulated::default();
    world.downloads.insert(digest(1), digest(9));
    world.settle(&rows(&[config(1, 0)]));
    let row = world.own[&digest(1).to_string()].clone();
    assert_eq!(row.phase, VerifyPhase::Mismatch { found: digest(9) });
    assert_eq!(row.fault.as_ref().unwrap().code, Code::VerifyDigest);

    world.actual.mismatches.clear(); // a restart
    let plan = world.plan(rows(&[config(1, 0)]));
    assert_eq!(
        (plan.actions, &plan.report.images[&digest(1).to_string()]),
        (vec![], &row)
    );
    assert_eq!(world.plan(None).report.images, world.own);
    let plan = world.plan(rows(&[config(1, 1)]));
    assert_eq!(plan.actions, [Do::Verify(config(1, 1))]);
}

#[test]
fn a_copy_in_the_making_is_not_garbage() {
    let mut world = Simulated::default();
    world.actual.partials.insert((digest(1), "p1".to_owned()));
    let running = Job::Running {
        since: Timestamp::UNIX_EPOCH,
        after: None,
        progress: agent::Progressed {
            done: 1,
            total: 4,
            note: String::new(),
        },
    };
    world.failed.insert(subject(digest(1)), running);
    let plan = world.plan(rows(&[config(1, 0)]));
    assert_eq!(plan.actions, [Do::Verify(config(1, 0))]);
    assert_eq!(
        plan.report.images[&digest(1).to_string()].phase,
        VerifyPhase::Verifying { percent: 25 }
    );
    world.failed.clear();
    assert_eq!(
        world.plan(None).actions,
        [Do::RemovePartial("p1".to_owned())]
    );
}

proptest! {
    /// From any state it settles with what is asked for, and a further turn has nothing to do.
    #[test]
    fn settles_from_any_state(
        known: bool,
        wanted in proptest::collection::btree_map(0u8..6, 0u32..3, 0..6),
        downloads in proptest::collection::btree_map(0u8..6, 0u8..6, 0..6),
        verified in proptest::collection::btree_set(0u8..6, 0..6),
        partials in proptest::collection::btree_set((0u8..6, 0u8..3), 0..6),
        old in proptest::collection::btree_map(0u8..6, (0u32..3, 0u8..3), 0..6),
    ) {
        let mut world = Simulated::default();
        for (name, bytes) in downloads {
            world.downloads.insert(digest(name), digest(bytes));
        }
        for n in verified {
            world.actual.verified.insert(digest(n), Verified { path: "/v".into(), size_bytes: 10 });
        }
        for (n, copy) in partials {
            world.actual.partials.insert((digest(n), format!("{n}.{copy}.partial")));
        }
        for (n, (attempt, kind)) in old {
            let phase = match kind {
                0 => VerifyPhase::Verifying { percent: 3 },
                1 => VerifyPhase::Verified { path: "/gone".into(), size_bytes: 1 },
                _ => VerifyPhase::Mismatch { found: digest(77) },
            };
            let row = VerifyImageStatus { sha256: digest(n), attempt, phase, fault: None };
            world.own.insert(digest(n).to_string(), row);
        }
        let had: Vec<Digest> = world.actual.verified.keys().copied().collect();
        let before = world.own.clone();
        let configs: Vec<_> = wanted.iter().map(|(n, attempt)| config(*n, *attempt)).collect();
        let images = if known { rows(&configs) } else { None };
        world.settle(&images);
        prop_assert_eq!(world.settle(&images), 0);
        prop_assert!(world.actual.partials.is_empty());
        if !known {
            prop_assert!(had.iter().all(|d| world.actual.verified.contains_key(d)));
            return Ok(());
        }
        prop_assert_eq!(world.own.len(), configs.len());
        for c in &configs {
            let told = &world.own[&c.sha256.to_string()];
            prop_assert_eq!(told.attempt, c.attempt);
            let remembered = before.get(&c.sha256.to_string()).is_some_and(|row| {
                row.attempt == c.attempt && matches!(row.phase, VerifyPhase::Mismatch { .. })
            });
            let right = match (&told.phase, world.downloads.get(&c.sha256)) {
                (VerifyPhase::Verified { .. }, _) => world.actual.verified.contains_key(&c.sha256),
                (VerifyPhase::Mismatch { found }, bytes) => remembered || bytes == Some(found),
                (VerifyPhase::Verifying { .. }, bytes) => bytes.is_none() && told.fault.is_some(),
            };
            prop_assert!(right, "{told:?}");
        }
    }
}
