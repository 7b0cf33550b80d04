//! The plan as a function, against a simulated device.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(unreachable_pub, reason = "a module of this test alone")]
mod simulation;

use std::{collections::BTreeMap, time::Duration};

use model::{
    code::Code,
    content::{ContentPhase, ImageSignature, SignatureStatus, VerifyImageStatus},
    fault::Fault,
    id::VolumeKey,
    security::Octets,
    volume::{ImageFormat, VolumePhase},
};
use proptest::prelude::*;
use simulation::{
    IMAGE_BYTES, MIB, Sim, digest, download, is_verified, key, reference, tree, volume,
};
use volumemgr::{Do, Space, VolumeFile};

fn file(key: VolumeKey) -> (VolumeKey, VolumeFile) {
    let path = format!("/persist/vault/volumemgr/volumes/{key}.qcow2").into();
    (
        key,
        VolumeFile {
            path,
            format: ImageFormat::Qcow2,
            virtual_bytes: 20 * MIB,
            used_bytes: MIB,
        },
    )
}

#[test]
fn a_volume_comes_from_its_content_and_the_download_goes_when_it_is_verified() {
    let mut sim = Sim::new();
    sim.trees = vec![tree(1, 7), tree(2, 7)];
    sim.volumes = vec![volume(1, 0, Some(1)), volume(2, 0, None)];
    sim.refs = Some(vec![reference(1, 1, 0, 0)]);
    sim.settle();
    let row = sim.row(key(1, 0));
    assert_eq!(
        (&row.phase, row.virtual_size_bytes),
        (&VolumePhase::Created, 20 * MIB)
    );
    assert_eq!(row.referenced_by, [reference(1, 1, 0, 0).app]);
    assert!(sim.is_created(key(2, 0)));
    let blobs = sim.last.blobs.clone().unwrap();
    let blob = &blobs[&digest(7).to_string()];
    assert_eq!(
        (&blob.phase, blob.referenced_by.len()),
        (&ContentPhase::Loaded, 2),
        "one blob for two trees"
    );
    assert_eq!(sim.last.trees.as_ref().unwrap().len(), 2);
    assert!(sim.last.downloads.as_ref().unwrap().is_empty());
    assert_eq!(sim.last.verifications.as_ref().unwrap().len(), 1);
    let answer = sim.last.refs.values().next().unwrap();
    assert_eq!(
        (&answer.phase, answer.volume),
        (&VolumePhase::Created, key(1, 0))
    );

    // The trees leave the config: the blob goes, the volume stays.
    sim.trees.clear();
    sim.settle();
    assert!(sim.last.verifications.as_ref().unwrap().is_empty());
    assert!(sim.is_created(key(1, 0)));
}

#[test]
fn content_that_no_missing_volume_needs_is_not_fetched() {
    let mut sim = Sim::new();
    sim.trees = vec![tree(1, 7)];
    sim.settle();
    assert!(sim.last.downloads.as_ref().unwrap().is_empty());
    assert_eq!(
        sim.last
            .trees
            .as_ref()
            .unwrap()
            .values()
            .next()
            .unwrap()
            .phase,
        ContentPhase::Waiting
    );
    sim.actual.volumes.extend([file(key(1, 0))]);
    sim.volumes = vec![volume(1, 0, Some(1))];
    sim.settle();
    assert!(sim.last.downloads.as_ref().unwrap().is_empty());
    assert!(sim.fetched.is_empty());
}

#[test]
fn of_a_signed_image_nothing_is_fetched_before_the_signature_is_good() {
    let mut sim = Sim::new();
    let signature = ImageSignature {
        signature: Octets(vec![1; 70]),
        signer_pem: "signer".to_owned(),
        between_pem: String::new(),
    };
    let mut signed = tree(1, 7);
    signed.signature = Some(signature.clone());
    sim.trees = vec![signed.clone()];
    sim.volumes = vec![volume(1, 0, Some(1))];
    sim.settle();
    let phase = |sim: &Sim| sim.last.trees.as_ref().unwrap()[&signed.id.to_string()].clone();
    assert_eq!(
        (phase(&sim).phase, phase(&sim).fault),
        (ContentPhase::Waiting, None)
    );
    assert!(sim.fetched.is_empty(), "nobody has judged it");

    let fault = Fault::new(
        Code::VerifySignature,
        "content tree 1",
        "a stranger's",
        sim.now,
    );
    let judged = |signature: &ImageSignature, fault: Option<&Fault>| SignatureStatus {
        id: signed.id,
        sha256: signed.sha256,
        signature: signature.clone(),
        signer: fault.is_none().then(|| "CN=builder".to_owned()),
        fault: fault.cloned(),
    };
    let key_of_tree = signed.id.to_string();
    let refused = judged(&signature, Some(&fault));
    sim.signatures.insert(key_of_tree.clone(), refused);
    sim.settle();
    assert!(sim.fetched.is_empty());
    assert_eq!(phase(&sim).phase, ContentPhase::Failed);
    let row = sim.row(key(1, 0));
    assert_eq!(
        (&row.phase, row.fault.as_ref()),
        (&VolumePhase::Failed, Some(&fault))
    );

    // What was found about another signature says nothing about this one.
    let other = ImageSignature {
        signature: Octets(vec![2; 70]),
        ..signature.clone()
    };
    sim.signatures
        .insert(key_of_tree.clone(), judged(&other, None));
    sim.settle();
    assert!(sim.fetched.is_empty());

    // An unsigned tree with the same file is fetched, and does not make the signed one good.
    sim.trees.push(tree(2, 7));
    sim.volumes.push(volume(2, 0, Some(2)));
    sim.settle();
    assert!(sim.is_created(key(2, 0)) && !sim.is_created(key(1, 0)));

    sim.signatures
        .insert(key_of_tree.clone(), judged(&signature, None));
    sim.settle();
    assert!(sim.is_created(key(1, 0)));
    assert_eq!(phase(&sim).phase, ContentPhase::Loaded);

    // A device that was installed so uses no other images.
    sim.actual.signed_only = true;
    sim.trees.push(tree(3, 9));
    sim.volumes.push(volume(3, 0, Some(3)));
    sim.settle();
    let fault = sim.row(key(3, 0)).fault.clone().unwrap();
    assert_eq!(fault.code, Code::VerifySignature);
    assert!(fault.text.contains("signed_images_only"), "{}", fault.text);
    assert!(!sim.fetched.contains(&(digest(9), 0)));
    assert!(sim.is_created(key(2, 0)), "what was made stays");

    // A volume that was made stays, whatever is found later.
    sim.signatures
        .insert(key_of_tree, judged(&signature, Some(&fault)));
    sim.settle();
    assert!(sim.is_created(key(1, 0)));
}

#[test]
fn a_wrong_digest_is_fetched_again_later_each_time() {
    for hashes_early in [false, true] {
        let mut sim = Sim::new();
        sim.trees = vec![tree(1, 7)];
        sim.volumes = vec![volume(1, 0, Some(1))];
        sim.bad_until.insert(digest(7), 2);
        sim.hashes_early = hashes_early;
        for (attempt, minutes) in [(0, 10), (1, 20)] {
            sim.settle();
            let row = sim.row(key(1, 0));
            let fault = row.fault.clone().unwrap();
            assert_eq!(
                (&row.phase, fault.code),
                (&VolumePhase::Failed, Code::VerifyDigest)
            );
            let wait = Duration::from_mins(minutes);
            assert_eq!(
                (fault.attempts, fault.next),
                (attempt + 1, Some(sim.now + wait))
            );
            let blob = sim.last.blobs.as_ref().unwrap().values().next().unwrap();
            assert_eq!(
                (&blob.phase, blob.fault.as_ref()),
                (&ContentPhase::Failed, Some(&fault))
            );
            // Wrong bytes take no space; a downloader that found out has thrown them away itself.
            assert_eq!(
                sim.last.downloads.as_ref().unwrap().is_empty(),
                !hashes_early
            );
            assert!(sim.plan().wake.unwrap() <= wait);
            let second = Duration::from_secs(1);
            sim.now += wait.checked_sub(second).unwrap();
            sim.settle();
            assert!(!sim.fetched.contains(&(digest(7), attempt + 1)));
            sim.now += second;
        }
        sim.settle();
        assert!(sim.is_created(key(1, 0)));
        assert_eq!(sim.fetched.len(), 3);
    }
}

#[test]
fn a_purge_makes_the_next_generation_beside_the_old_one_and_then_replaces_it() {
    let mut sim = Sim::new();
    sim.volumes = vec![volume(1, 0, None)];
    sim.refs = Some(vec![reference(1, 1, 0, 0)]);
    sim.settle();
    sim.refs = Some(vec![reference(1, 1, 0, 0), reference(1, 1, 0, 1)]);
    sim.settle();
    assert!(sim.is_created(key(1, 0)) && sim.is_created(key(1, 1)));
    sim.refs = Some(vec![reference(1, 1, 0, 1)]);
    sim.settle();
    assert_eq!(sim.actual.volumes.keys().collect::<Vec<_>>(), [&key(1, 1)]);
    // The application goes, the volume stays in the config: data is kept.
    sim.refs = Some(vec![]);
    sim.settle();
    assert_eq!(sim.actual.volumes.keys().collect::<Vec<_>>(), [&key(1, 1)]);
    sim.volumes.clear();
    sim.settle();
    assert!(sim.actual.volumes.is_empty());
}

#[test]
fn an_application_keeps_a_volume_that_left_the_config() {
    let mut sim = Sim::new();
    sim.volumes = vec![volume(1, 0, None)];
    sim.refs = Some(vec![reference(1, 1, 0, 0)]);
    sim.settle();
    sim.volumes.clear();
    sim.settle();
    assert_eq!(
        (
            sim.row(key(1, 0)).phase.clone(),
            sim.row(key(1, 0)).display_name.as_str()
        ),
        (VolumePhase::Created, "volume 1")
    );
    sim.refs = Some(vec![]);
    sim.settle();
    assert!(sim.actual.volumes.is_empty() && sim.last.volumes.is_empty());
}

#[test]
fn a_full_disk_waits_with_a_clear_fault_and_goes_on_when_there_is_space() {
    let mut sim = Sim::new();
    sim.trees = vec![tree(1, 7)];
    sim.volumes = vec![volume(1, 0, Some(1)), volume(2, 0, None)];
    // 200 MiB of 1000 are kept free; 15 are left: neither volume fits.
    sim.actual.space = Space {
        total_bytes: 1000 * MIB,
        free_bytes: 215 * MIB,
    };
    sim.settle();
    for n in [1, 2] {
        let row = sim.row(key(n, 0));
        let fault = row.fault.clone().unwrap();
        assert_eq!(
            (&row.phase, fault.code),
            (&VolumePhase::AwaitSpace, Code::VolumeSpace)
        );
        assert!(
            fault.text.contains("15.0 MiB are available"),
            "{}",
            fault.text
        );
    }
    assert!(
        sim.fetched.is_empty(),
        "nothing is fetched that can't become a volume"
    );
    assert!(sim.plan().wake.unwrap() <= Duration::from_secs(10));
    assert_eq!(sim.last.disk["global"].available_bytes, 15 * MIB);
    sim.actual.space.free_bytes = 300 * MIB;
    sim.settle();
    assert!(sim.is_created(key(1, 0)) && sim.is_created(key(2, 0)));
    // Once fetched it goes on whatever the disk says, and the properties can ask for it.
    let mut sim = Sim::new();
    sim.volumes = vec![volume(2, 0, None)];
    sim.actual.space.free_bytes = 30 * MIB;
    sim.limits.ignore_disk_check = true;
    sim.settle();
    assert!(sim.is_created(key(2, 0)));
}

#[test]
fn what_is_not_known_deletes_nothing_and_tells_nobody_what_to_keep() {
    let mut sim = Sim::new();
    sim.actual
        .volumes
        .extend([file(key(1, 0)), file(key(2, 3))]);
    sim.actual
        .partials
        .insert((key(4, 0), "garbage".to_owned()));
    sim.volumes = vec![volume(1, 0, None)];
    sim.trees = vec![tree(1, 7)];
    sim.refs = None;
    let plan = sim.plan();
    assert_eq!(plan.actions, [Do::RemovePartial("garbage".to_owned())]);
    assert_eq!(
        (plan.report.downloads, plan.report.verifications),
        (None, None)
    );
    assert_eq!(
        plan.report.volumes[&key(2, 3).to_string()].phase,
        VolumePhase::Created
    );
    sim.refs = Some(vec![]);
    sim.downloads = None;
    let plan = sim.plan();
    assert_eq!(
        (plan.report.downloads, plan.report.verifications),
        (None, None)
    );
    sim.downloads = Some([(digest(7).to_string(), download(digest(7), 2, MIB))].into());
    sim.verified = None;
    let plan = sim.plan();
    assert_eq!(
        (
            plan.report.downloads,
            plan.report.verifications,
            plan.report.blobs
        ),
        (None, None, None)
    );
}

#[test]
fn a_reboot_goes_on_with_what_is_on_the_disk() {
    let mut sim = Sim::new();
    sim.trees = vec![tree(1, 7), tree(2, 8)];
    sim.volumes = vec![volume(1, 0, Some(1)), volume(2, 0, Some(2))];
    let row = VerifyImageStatus {
        sha256: digest(7),
        attempt: 0,
        phase: is_verified(digest(7)),
        fault: None,
    };
    sim.verified = Some([(digest(7).to_string(), row)].into());
    // Third attempt, half done.
    sim.downloads = Some(
        [(
            digest(8).to_string(),
            download(digest(8), 2, IMAGE_BYTES / 2),
        )]
        .into(),
    );
    sim.settle();
    assert!(sim.is_created(key(1, 0)) && sim.is_created(key(2, 0)));
    assert!(
        sim.fetched.is_empty(),
        "neither verified nor fetched bytes are fetched again"
    );
}

#[test]
fn what_can_not_become_a_disk_says_so() {
    let mut sim = Sim::new();
    let mut container = tree(1, 7);
    container.format = ImageFormat::Container;
    sim.trees = vec![container];
    let mut nothing = volume(2, 0, None);
    nothing.max_size_bytes = 0;
    sim.volumes = vec![volume(1, 0, Some(1)), nothing, volume(3, 0, Some(99))];
    sim.settle();
    let code = |n| sim.row(key(n, 0)).fault.as_ref().map(|f| f.code);
    assert_eq!(
        (code(1), code(2)),
        (Some(Code::VolumeCreate), Some(Code::ConfigInvalid))
    );
    assert_eq!(code(3), None, "a tree that is not there yet is waited for");
    assert!(
        matches!(&sim.row(key(3, 0)).phase, VolumePhase::AwaitContent { content, .. } if content.contains("config"))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    /// From any state it settles with what is wanted; the simulation checks every step.
    #[test]
    fn settles_from_any_state(
        trees in proptest::collection::btree_map(0u8..4, 0u8..3, 0..4),
        volumes in proptest::collection::btree_map((0u8..4, 0u64..2), proptest::option::of(0u8..5), 0..5),
        refs in proptest::option::of(proptest::collection::btree_set((0u8..2, 0u8..4, 0u64..2, 0u64..3), 0..5)),
        files in proptest::collection::btree_set((0u8..4, 0u64..4), 0..6),
        partials in proptest::collection::btree_set((0u8..4, 0u64..2), 0..3),
        downloads in proptest::option::of(proptest::collection::btree_map(0u8..4, (0u32..3, 1u64..10), 0..4)),
        verified in proptest::option::of(proptest::collection::btree_set(0u8..4, 0..4)),
        bad in proptest::collection::btree_map(0u8..3, 0u32..3, 0..2),
        hashes_early: bool,
        free in prop_oneof![Just(1000u64), 200u64..400],
    ) {
        let mut sim = Sim::new();
        sim.trees = trees.iter().map(|(n, blob)| tree(*n, *blob)).collect();
        sim.volumes = volumes.iter().map(|((n, g), content)| volume(*n, *g, *content)).collect();
        // As on the bus: one row per key.
        sim.refs = refs.map(|refs| {
            let rows = refs.iter().map(|(app, n, g, d)| reference(*app, *n, *g, *d)).map(|r| (r.key(), r));
            rows.collect::<BTreeMap<_, _>>().into_values().collect()
        });
        sim.actual.volumes.extend(files.iter().map(|(n, g)| file(key(*n, *g))));
        sim.actual.partials.extend(partials.iter().map(|(n, g)| (key(*n, *g), format!("{n}.{g}"))));
        sim.downloads = downloads.map(|rows| rows.iter().map(|(n, (attempt, done))| {
            (digest(*n).to_string(), download(digest(*n), *attempt, done * MIB))
        }).collect());
        sim.verified = verified.map(|rows| rows.iter().map(|n| {
            let row = VerifyImageStatus { sha256: digest(*n), attempt: 0, phase: is_verified(digest(*n)), fault: None };
            (digest(*n).to_string(), row)
        }).collect());
        sim.bad_until = bad.iter().map(|(n, until)| (digest(*n), *until)).collect();
        sim.hashes_early = hashes_early;
        sim.actual.space.free_bytes = free * MIB;
        let had: Vec<VolumeKey> = sim.actual.volumes.keys().copied().collect();
        let (known, verified_before) = (sim.refs.is_some(), sim.verified.clone());

        for _ in 0..4 {
            sim.settle();
            prop_assert_eq!(sim.settle(), 0, "a further turn does something");
            sim.now += Duration::from_hours(24);
        }
        sim.settle();
        prop_assert!(sim.actual.partials.is_empty());
        if !known {
            prop_assert!(had.iter().all(|k| sim.actual.volumes.contains_key(k)));
            prop_assert_eq!(&sim.verified, &verified_before);
        }
        // Every row that can't be done says what it waits for.
        for row in sim.last.volumes.values() {
            let fine = match &row.phase {
                VolumePhase::Created => sim.actual.volumes.contains_key(&row.key),
                VolumePhase::AwaitSpace | VolumePhase::Failed => row.fault.is_some(),
                VolumePhase::AwaitContent { content, .. } => {
                    let told = sim.downloads.is_some() && sim.verified.is_some() && known;
                    !told || content.contains("not in the config")
                }
                VolumePhase::Creating { .. } | VolumePhase::Deleting => false,
            };
            prop_assert!(fine, "{row:#?}");
        }
        if free == 1000 && known && sim.downloads.is_some() && sim.verified.is_some() {
            // Where the config has one volume in two generations, an application may ask for the one under the
            // number of the other: one of them gives way. A volume with one generation is always made.
            let alone = |id| sim.volumes.iter().filter(|v| v.id == id).count() == 1;
            for config in sim.volumes.iter().filter(|v| alone(v.id)) {
                let content = match config.origin {
                    model::volume::VolumeOrigin::Blank => true,
                    model::volume::VolumeOrigin::Content(id) => sim.trees.iter().any(|t| t.id == id),
                };
                let kept = sim.actual.volumes.keys().any(|k| k.volume == config.id);
                prop_assert!(!content || kept, "{config:#?}");
            }
            let blobs: Vec<_> = sim.trees.iter().map(|t| t.sha256.to_string()).collect();
            let left = sim.verified.as_ref().unwrap().keys().all(|k| blobs.contains(k));
            prop_assert!(left, "a blob that no tree names is kept");
        }
    }
}

#[test]
fn a_faulty_config_begins_nothing_and_throws_nothing_away_that_has_begun() {
    let fault = || {
        let at = "2026-01-01T00:00:00Z".parse().unwrap();
        Some(Fault::new(Code::ConfigReference, "x", "dangles", at))
    };
    let digest_key = digest(7).to_string();
    for reboots in [false, true] {
        let mut sim = Sim::new();
        sim.trees = vec![tree(1, 7)];
        sim.volumes = vec![volume(1, 0, Some(1))];
        sim.trees[0].fault = fault();
        sim.volumes[0].fault = fault();
        sim.turn();
        assert!(
            sim.last.downloads.as_ref().unwrap().is_empty(),
            "nothing begins"
        );

        sim.trees[0].fault = None;
        sim.volumes[0].fault = None;
        for _ in 0..3 {
            sim.turn();
        }
        let begun = sim.last.downloads.as_ref().unwrap()[&digest_key].clone();
        sim.trees[0].fault = fault();
        sim.volumes[0].fault = fault();
        sim.downloads = Some([(digest_key.clone(), download(digest(7), 0, 5 * MIB))].into());
        if reboots {
            sim.own = volumemgr::Own::default();
        }
        let report = sim.plan().report;
        let kept = &report.downloads.unwrap()[&digest_key];
        assert_eq!(kept.attempt, begun.attempt, "reboot: {reboots}");
        if reboots {
            assert!(
                kept.datastores.is_empty(),
                "a faulty config is not acted upon"
            );
        } else {
            assert_eq!(*kept, begun);
        }
        sim.trees[0].fault = None;
        sim.volumes[0].fault = None;
        sim.settle();
        assert!(sim.is_created(key(1, 0)));
    }
}
