//! Bad input and bad days: one clear error each, everything else goes on.

use std::{fs, time::Duration};

use lab::Fault;
use model::{code::Code, topics::ZEDAGENT_STATUS};

use crate::support::{PATIENCE, answers, app, manifest, onboarded, page, view, with_app};

#[test]
fn an_image_with_a_wrong_digest_is_refused_and_its_correction_taken() {
    let stage = onboarded(1);
    let right = stage.images().join("tiny.qcow2");
    let mut bytes = fs::read(&right).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    let wrong = stage.images().join("damaged.qcow2");
    fs::write(&wrong, bytes).unwrap();
    // What is served is not what the config says.
    stage
        .evc(&[
            "app",
            "deploy",
            "-f",
            &manifest().display().to_string(),
            "--device",
            "edge",
            "--image-url",
            "https://datastore.lab.internal/damaged.qcow2",
            "--image-file",
            &right.display().to_string(),
        ])
        .unwrap();
    stage
        .wait("the digest is found to be wrong", PATIENCE, || {
            Ok(app(&stage)?
                .fault
                .is_some_and(|f| f.code == Code::VerifyDigest))
        })
        .unwrap();
    let volumes = stage
        .device()
        .root()
        .join("persist/vault/volumemgr/volumes");
    assert_eq!(
        fs::read_dir(volumes).map_or(0, Iterator::count),
        0,
        "nothing is made of it"
    );
    assert!(stage.why().contains("verify.digest"), "{}", stage.why());
    stage
        .evc(&["app", "delete", "web", "--device", "edge"])
        .unwrap();
    stage
        .wait("it is gone", PATIENCE, || Ok(view(&stage).apps.is_empty()))
        .unwrap();
    stage
        .deploy(&manifest(), "edge", "tiny.qcow2", &[])
        .unwrap();
    answers(&stage).unwrap();
}

#[test]
fn a_manifest_with_a_mistake_gets_one_clear_error() {
    let stage = onboarded(1);
    let text = fs::read_to_string(manifest()).unwrap();
    for (right, wrong, named) in [
        ("\"target\": \"Disk\"", "\"target\": \"Dusk\"", "Dusk"),
        (
            "\"maxsizeUnit\": \"KB\"",
            "\"maxsizeUnit\": \"parsec\"",
            "parsec",
        ),
        ("\"value\": 131072", "\"value\": -1", "value"),
    ] {
        let file = stage.world().dir().join("wrong.json");
        fs::write(&file, text.replacen(right, wrong, 1)).unwrap();
        let error = stage.deploy(&file, "edge", "tiny.qcow2", &[]).unwrap_err();
        assert!(format!("{error:#}").contains(named), "{error:#}");
    }
    assert!(view(&stage).apps.is_empty());
}

#[test]
fn a_controller_and_a_link_that_go_away_and_come_back_change_nothing_for_the_guest() {
    let mut stage = with_app();
    stage.controller().kill();
    stage
        .wait(
            "the device says that it cannot reach its controller",
            PATIENCE,
            || {
                let rows = stage.bus()?.read(&ZEDAGENT_STATUS)?.unwrap_or_default();
                Ok(rows.values().any(|z| {
                    z.fault
                        .as_ref()
                        .is_some_and(|f| f.code == Code::ControllerUnreachable)
                }))
            },
        )
        .unwrap();
    page(&stage).unwrap();
    stage.restart_controller().unwrap();
    stage.world().fault(&Fault::LinkDown(0)).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    stage.world().fault(&Fault::LinkUp(0)).unwrap();
    answers(&stage).unwrap();
    // What changes now still reaches the controller.
    stage
        .evc(&["app", "stop", "web", "--device", "edge"])
        .unwrap();
    stage
        .wait(
            "the controller hears that the app is halted",
            PATIENCE,
            || {
                Ok(stage
                    .evc(&["info", "--device", "edge"])?
                    .to_string()
                    .contains("HALTED"))
            },
        )
        .unwrap();
}

#[test]
fn a_power_cut_in_the_middle_of_a_deployment_is_survived() {
    let stage = onboarded(1);
    stage
        .deploy(&manifest(), "edge", "tiny.qcow2", &[])
        .unwrap();
    stage
        .wait("the image is on its way", PATIENCE, || {
            Ok(!view(&stage).apps.is_empty())
        })
        .unwrap();
    stage.device().power_cut().unwrap();
    stage.device().start().unwrap();
    answers(&stage).unwrap();
    // Without its controller, the device starts what it was told last.
    stage.controller().kill();
    stage.device().power_cut().unwrap();
    stage.device().start().unwrap();
    answers(&stage).unwrap();
}
