//! A whole device with a TPM and the real controller: what it measured is looked at by people, a change is named on both
//! sides, and identity outlives CONFIG, disk and the controller's memory.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use demo::{Options, Stage};
use model::{
    code::Code,
    node::{AttestPhase, ConfigSource, OnboardingStatus, ZedAgentStatus},
    topics::{ONBOARDING_STATUS, ZEDAGENT_STATUS},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tpm::{Client, Pcr, Tpm as _};

use crate::support::{PATIENCE, onboarded_with};

const EV_IPL: u32 = 0xd;

/// What firmware and bootloader did at a boot: register, kind, text.
const BOOT: [(u32, u32, &str); 4] = [
    (0, 8, "Acme firmware 7"),
    (4, 0x8000_0004, "shim"),
    (8, EV_IPL, "grub_cmd: linux /vmlinuz quiet"),
    (9, EV_IPL, "/vmlinuz"),
];

fn stage() -> Stage {
    assert!(
        lab::tpm::is_installed(),
        "swtpm is not installed: `make deps` installs it"
    );
    onboarded_with(&Options {
        tpm: true,
        ..Options::of_this_build().unwrap()
    })
}

/// A log as firmware leaves it, of the SHA-256 bank alone.
fn log(events: &[(u32, u32, &str)]) -> Vec<u8> {
    let mut spec = b"Spec ID Event03\0".to_vec();
    spec.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    spec.extend(1_u32.to_le_bytes());
    spec.extend([0x0b, 0, 32, 0, 0]);
    let mut log = [0_u32.to_le_bytes(), 3_u32.to_le_bytes()].concat();
    log.extend([0; 20]);
    log.extend(u32::try_from(spec.len()).unwrap().to_le_bytes());
    log.extend(spec);
    for (pcr, kind, text) in events {
        for number in [*pcr, *kind, 1] {
            log.extend(number.to_le_bytes());
        }
        log.extend([0x0b, 0]);
        log.extend(Sha256::digest(text));
        log.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
        log.extend(text.as_bytes());
    }
    log
}

/// Extends the TPM's registers by an event, as firmware does.
fn measure(stage: &Stage, events: &[(u32, u32, &str)]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = Client::connect(stage.device().root()).unwrap();
        for (pcr, _, text) in events {
            let digest = Sha256::digest(text).into();
            let pcr = Pcr::new(*pcr).unwrap();
            client.extend_pcr(pcr, digest).await.unwrap();
        }
    });
}

/// Writes files below the device's root that are the kernel's on a device.
fn kernels_file(stage: &Stage, path: &str, content: &[u8]) {
    let path = stage.device().root().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn write_log(stage: &Stage, events: &[(u32, u32, &str)]) {
    let path = "sys/kernel/security/tpm0/binary_bios_measurements";
    kernels_file(stage, path, &log(events));
}

fn channel(stage: &Stage) -> ZedAgentStatus {
    let rows = stage.bus().unwrap().read(&ZEDAGENT_STATUS).unwrap();
    rows.unwrap_or_default()
        .remove("zedagent")
        .unwrap_or_default()
}

fn onboarding(stage: &Stage) -> OnboardingStatus {
    let rows = stage.bus().unwrap().read(&ONBOARDING_STATUS).unwrap();
    rows.unwrap()["global"].clone()
}

fn shown(stage: &Stage) -> Value {
    stage.evc(&["attest", "show", "edge"]).unwrap()
}

/// What a person reads.
fn told(stage: &Stage, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(lab::device::built_binaries().unwrap().join(program));
    command.args(arguments);
    if program == "evc" {
        command.env("EVC_DIR", stage.world().dir().join("evc"));
        return stage.outside().exec(&mut command).unwrap();
    }
    command.arg("--root").arg(stage.device().root());
    let Output { stdout, stderr, .. } = command.output().unwrap();
    String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned()
}

/// The controller wants another attestation, and judges it.
fn again(stage: &Stage) -> Value {
    let before = shown(stage)["quoted"].clone();
    stage.evc(&["device", "attest", "edge"]).unwrap();
    stage
        .wait("another quote came", PATIENCE, || {
            Ok(shown(stage)["quoted"] != before)
        })
        .unwrap();
    shown(stage)
}

fn comes_in(stage: &Stage) {
    stage
        .wait("the controller trusts it", PATIENCE, || {
            let channel = channel(stage);
            anyhow::ensure!(channel.fault.is_none(), "{:?}", channel.fault);
            Ok(channel.attest == AttestPhase::Complete)
        })
        .unwrap();
}

/// Somebody has reviewed what the device measured, and nothing else is let in from here on.
fn accept_and_enforce(stage: &Stage, name: &str) {
    stage
        .evc(&["attest", "accept", "edge", "--name", name])
        .unwrap();
    stage
        .apply("device: edge\nproperties: {timer.config.interval: 5}\npolicy: {measurements: enforce}\n")
        .unwrap();
    comes_in(stage);
    assert_eq!(again(stage)["comparison"], "accepted");
    comes_in(stage);
}

#[test]
fn trust_what_a_device_measured_is_looked_at_and_a_change_is_named() {
    let stage = stage();
    comes_in(&stage);
    let view = shown(&stage);
    assert_eq!(
        view["note"], "by TPM quote, nobody has reviewed its measurements yet",
        "{view:#}"
    );
    assert_eq!(
        view["endorsement"]["vouched"], "by the device's own key only",
        "{view:#}"
    );
    assert_eq!(view["state"]["pcrs"].as_object().unwrap().len(), 16);

    // A boot with firmware that tells what it does.
    stage.device().power_cut().unwrap();
    for (name, text) in [
        ("bios_vendor", "Acme\n"),
        ("bios_version", "7\n"),
        ("bios_date", "01/02/2026\n"),
    ] {
        kernels_file(&stage, &format!("sys/class/dmi/id/{name}"), text.as_bytes());
    }
    write_log(&stage, &BOOT);
    stage.power_on().unwrap();
    comes_in(&stage);
    measure(&stage, &BOOT);
    comes_in(&stage);
    let view = again(&stage);
    assert_eq!(view["comparison"], "no_baseline");
    assert_eq!(view["state"]["log_problem"], Value::Null, "{view:#}");
    let events = view["state"]["events"].as_array().unwrap();
    let of_firmware = events.iter().filter(|event| event["pcr"] != 14).count();
    assert_eq!(of_firmware, BOOT.len());
    let versions = view["state"]["versions"].to_string();
    assert!(
        versions.contains("firmware Acme-7-01/02/2026"),
        "{versions}"
    );
    accept_and_enforce(&stage, "as installed");
    println!(
        "{}",
        told(&stage, "evc", &["attest", "show", "edge", "--events"])
    );
    println!("{}", told(&stage, "eve", &["check", "identity"]));

    // Somebody changed what the bootloader tells the kernel.
    let mut changed = BOOT.to_vec();
    changed.push((8, EV_IPL, "grub_cmd: linux /vmlinuz init=/bin/sh"));
    write_log(&stage, &changed);
    measure(&stage, &changed[BOOT.len()..]);
    let view = again(&stage);
    let changes = view["comparison"]["changed"].as_array().unwrap();
    assert_eq!(changes.len(), 1, "{view:#}");
    assert_eq!(changes[0]["pcr"], 8);
    assert_eq!(changes[0]["explained"], true);
    assert!(
        changes[0]["new"][0]
            .as_str()
            .unwrap()
            .contains("init=/bin/sh")
    );
    stage
        .wait("the device says so", PATIENCE, || {
            let fault = channel(&stage).fault;
            Ok(fault.is_some_and(|fault| fault.code == Code::AttestRefused))
        })
        .unwrap();
    assert_eq!(channel(&stage).config_source, ConfigSource::Controller);
    let text = told(&stage, "evc", &["attest", "show", "edge"]);
    println!("{text}");
    for part in [
        "CHANGED since its review",
        "bootloader commands and kernel parameters (PCR 8)",
        "init=/bin/sh",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for arguments in [
        &["why", "config"][..],
        &["why"],
        &["check", "identity"],
        &["status"],
    ] {
        let text = told(&stage, "eve", arguments);
        println!("# eve {}\n{text}", arguments.join(" "));
        let part = "does not accept what the device proves";
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
    let why = told(&stage, "eve", &["why", "config"]);
    assert!(
        why.contains("PCR 8") && why.contains("attest.refused"),
        "{why}"
    );

    stage
        .evc(&["attest", "accept", "edge", "--name", "on purpose"])
        .unwrap();
    comes_in(&stage);
    assert_eq!(shown(&stage)["comparison"], "accepted");
    let why = told(&stage, "eve", &["why", "config"]);
    assert!(!why.contains("attest.refused"), "{why}");
}

#[test]
fn trust_a_file_of_config_that_somebody_changed_on_the_disk_is_named() {
    let stage = stage();
    comes_in(&stage);
    let events = shown(&stage)["state"]["events"].to_string();
    for file in ["CONFIG server", "CONFIG root-certificate.pem"] {
        assert!(events.contains(file), "{events}");
    }
    accept_and_enforce(&stage, "as installed");

    // A boot changes nothing, nor does a keeper that is killed in it.
    stage.device().power_cut().unwrap();
    stage.power_on().unwrap();
    comes_in(&stage);
    assert_eq!(shown(&stage)["comparison"], "accepted");

    stage.device().power_cut().unwrap();
    stage
        .device()
        .configure("authorized_keys", "ssh-ed25519 AAAA thief\n")
        .unwrap();
    stage.power_on().unwrap();
    stage
        .wait("the device says so", PATIENCE, || {
            let fault = channel(&stage).fault;
            Ok(fault.is_some_and(|fault| fault.code == Code::AttestRefused))
        })
        .unwrap();
    let text = told(&stage, "evc", &["attest", "show", "edge"]);
    println!("{text}");
    for part in ["configuration partition (PCR 14)", "CONFIG authorized_keys"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let why = told(&stage, "eve", &["why", "config"]);
    assert!(why.contains("PCR 14"), "{why}");
}

#[test]
fn trust_identity_outlives_config_disk_and_the_controllers_memory() {
    let mut stage = stage();
    comes_in(&stage);
    let cert = stage.device().root().join("config/device.cert.pem");
    let (before, pem) = (onboarding(&stage), fs::read(&cert).unwrap());
    assert!(before.device.is_some());

    // CONFIG is written anew, and the disk is a new one: what is left is the TPM.
    stage.device().power_cut().unwrap();
    fs::remove_file(&cert).unwrap();
    empty(&stage.device().root().join("persist"));
    stage.power_on().unwrap();
    stage
        .wait("the controller gives it its config", PATIENCE, || {
            Ok(demo::View::read(&stage.bus()?)?.has_config())
        })
        .unwrap();
    comes_in(&stage);
    assert_eq!(fs::read(&cert).unwrap(), pem, "from the TPM's memory");
    let after = onboarding(&stage);
    assert_eq!(
        (after.device, after.device_cert),
        (before.device, before.device_cert)
    );

    // A controller with the same keys that has forgotten everything it knew. A device that is on asks ten minutes after
    // it was last told who it is; one that boots asks at once.
    stage.device().power_cut().unwrap();
    stage.forget_everything().unwrap();
    stage.power_on().unwrap();
    stage
        .claim(PATIENCE, |stage, name| {
            stage.set_properties(name, &[("timer.config.interval", "5")])
        })
        .unwrap();
    stage
        .wait(
            "it has the name that this controller gave it",
            PATIENCE,
            || {
                let known = stage.evc(&["device", "show", "edge"])?["uuid"].clone();
                let own = onboarding(&stage).device.map(|d| d.to_string());
                Ok(own.is_some_and(|own| known == *own) && own_config(&stage))
            },
        )
        .unwrap();
    comes_in(&stage);
    let anew = onboarding(&stage);
    assert_eq!(anew.device_cert, before.device_cert);
    assert_ne!(anew.device, before.device);
    assert_eq!(fs::read(&cert).unwrap(), pem);
    let view = shown(&stage);
    assert!(
        view["note"].as_str().unwrap().contains("by TPM quote"),
        "{view:#}"
    );
}

fn own_config(stage: &Stage) -> bool {
    let channel = channel(stage);
    channel.config_source == ConfigSource::Controller && channel.fault.is_none()
}

fn empty(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }
}
