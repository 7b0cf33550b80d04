//! The life of a device and its application.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use demo::Stage;
use model::{
    app::AppPhase,
    node::BootReason,
    topics::{NODE_AGENT_STATUS, SERVICE_STATUS},
};

use crate::support::{
    PATIENCE, answers, app, field, guest, is_running, kernel_objects, onboarded, page, pid, view,
    with_app,
};

pub(crate) const SERVICES: [&str; 14] = [
    "tpmmgr",
    "nim",
    "nodeagent",
    "zedagent",
    "downloader",
    "verifier",
    "volumemgr",
    "zedrouter",
    "domainmgr",
    "zedmanager",
    "reporter",
    "newlogd",
    "vaultmgr",
    "accessmgr",
];

/// Kills a process of the device by its pid inside the device's world.
fn kill(stage: &Stage, pid: u32) {
    let mut command = Command::new("kill");
    command.args(["-9", &pid.to_string()]);
    let killer = stage.world().spawn_device("kill", &mut command).unwrap();
    assert!(
        killer.wait(Duration::from_secs(5)).unwrap().success(),
        "{}",
        killer.output()
    );
}

/// Asks the guest again and again in the background of `work`; returns the longest time without an answer.
fn longest_gap(stage: &Stage, work: impl FnOnce()) -> Duration {
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asker = scope.spawn(|| {
            let (mut last, mut gap) = (Instant::now(), Duration::ZERO);
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                if page(stage).is_ok() {
                    gap = gap.max(last.elapsed());
                    last = Instant::now();
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            gap.max(last.elapsed())
        });
        work();
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        asker.join().unwrap()
    })
}

#[test]
fn every_service_killed_in_turn_comes_back_while_the_guest_serves() {
    let stage = with_app();
    let before = page(&stage).unwrap();
    let boot = field(&before, "boot-id").unwrap();
    let boots = view(&stage).apps.values().next().unwrap().boot_time;
    let gap = longest_gap(&stage, || {
        for name in SERVICES {
            let old =
                pid(&view(&stage).services, name).unwrap_or_else(|| panic!("{name} does not run"));
            kill(&stage, old);
            stage
                .wait(&format!("{name} comes back"), PATIENCE, || {
                    Ok(pid(&view(&stage).services, name).is_some_and(|new| new != old))
                })
                .unwrap();
            stage
                .wait("the app runs", PATIENCE, || is_running(&stage))
                .unwrap();
        }
        let services = view(&stage).services;
        stage.device().kill_supervisor();
        stage
            .wait("the supervisor comes back", PATIENCE, || {
                Ok(stage.device().starts().1 == 1)
            })
            .unwrap();
        stage
            .wait("it finds what runs", PATIENCE, || {
                let now = stage.bus()?.read(&SERVICE_STATUS)?.unwrap_or_default();
                Ok(SERVICES.iter().all(|name| {
                    pid(&now, name).is_some() && pid(&now, name) == pid(&services, name)
                }))
            })
            .unwrap();
    });
    assert!(gap < Duration::from_secs(5), "no answer for {gap:?}");
    let after = page(&stage).unwrap();
    assert_eq!(
        field(&after, "boot-id").unwrap(),
        boot,
        "the guest was never rebooted"
    );
    assert_eq!(app(&stage).unwrap().boot_time, boots);
    assert_eq!(stage.device().starts().0, 1, "nor the device");
}

#[test]
fn a_reboot_by_command_says_why_and_brings_the_application_back() {
    let stage = with_app();
    let boot = field(&page(&stage).unwrap(), "boot-id").unwrap();
    stage.evc(&["device", "reboot", "edge"]).unwrap();
    stage
        .wait("the device boots again", PATIENCE, || {
            Ok(stage.device().starts().0 == 2)
        })
        .unwrap();
    answers(&stage).unwrap();
    assert_ne!(field(&page(&stage).unwrap(), "boot-id").unwrap(), boot);
    let node = stage
        .bus()
        .unwrap()
        .read(&NODE_AGENT_STATUS)
        .unwrap()
        .unwrap()["nodeagent"]
        .clone();
    assert_eq!(
        (node.boot_reason, node.restart_counter),
        (BootReason::RebootCmd, 2)
    );
    stage
        .wait("the controller hears of it", PATIENCE, || {
            let info = stage.evc(&["info", "--device", "edge"])?.to_string();
            Ok(info.contains("reboot command"))
        })
        .unwrap();
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(stage.device().starts().0, 2, "carried out once");
}

#[test]
fn restart_purge_and_removal_leave_nothing_behind() {
    let stage = with_app();
    let first = page(&stage).unwrap();
    stage
        .evc(&["app", "restart", "web", "--device", "edge"])
        .unwrap();
    let rebooted = |old: &str| {
        page(&stage)
            .and_then(|p| field(&p, "boot-id"))
            .map(|id| id != old)
    };
    let boot = field(&first, "boot-id").unwrap();
    stage
        .wait("the guest restarts", PATIENCE, || rebooted(&boot))
        .unwrap();
    let second = page(&stage).unwrap();
    assert_eq!(
        field(&second, "instance-id").unwrap(),
        field(&first, "instance-id").unwrap()
    );

    let boot = field(&second, "boot-id").unwrap();
    stage
        .evc(&["app", "purge", "web", "--device", "edge"])
        .unwrap();
    stage
        .wait("the guest starts on a new volume", PATIENCE, || {
            rebooted(&boot)
        })
        .unwrap();
    let third = page(&stage).unwrap();
    assert_ne!(
        field(&third, "instance-id").unwrap(),
        field(&first, "instance-id").unwrap()
    );
    let volumes = stage
        .device()
        .root()
        .join("persist/vault/volumemgr/volumes");
    let files = || std::fs::read_dir(&volumes).map_or(0, Iterator::count);
    stage
        .wait("the old volume is gone", PATIENCE, || Ok(files() == 1))
        .unwrap();

    stage
        .evc(&["app", "delete", "web", "--device", "edge"])
        .unwrap();
    stage
        .wait("the app is gone", PATIENCE, || {
            Ok(view(&stage).apps.is_empty())
        })
        .unwrap();
    stage
        .wait("its volume is gone", PATIENCE, || Ok(files() == 0))
        .unwrap();
    let left = || kernel_objects(&stage);
    stage
        .wait("its interfaces are gone", PATIENCE, || {
            Ok(!left().contains("nbu"))
        })
        .unwrap();
    assert!(stage.is_closed_from_outside(guest(&stage)).unwrap());
    let qemu = stage.world().site().processes(lab::Side::Device);
    assert!(
        !qemu.iter().any(|p| p.line.contains("qemu-system")),
        "a guest is left"
    );
}

#[test]
fn a_debian_guest_that_nobody_here_wrote_runs_too() {
    let debian = crate::support::image(lab::guest::Kind::Debian);
    let stage = onboarded(1);
    stage.add_image("debian.qcow2", &debian.path).unwrap();
    let text = std::fs::read_to_string(crate::support::manifest()).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    manifest["images"][0]["imagename"] = "debian".into();
    manifest["images"][0]["maxsize"] = (2 << 20).into();
    for resource in manifest["resources"].as_array_mut().unwrap() {
        match resource["name"].as_str() {
            Some("memory") => resource["value"] = (512 << 10).into(),
            Some("storage") => resource["value"] = (2 << 20).into(),
            _ => {}
        }
    }
    let file = stage.world().dir().join("debian.json");
    std::fs::write(&file, manifest.to_string()).unwrap();
    stage.deploy(&file, "edge", "debian.qcow2", &[]).unwrap();
    stage
        .wait("Debian answers", Duration::from_secs(300), || {
            page(&stage).map(|_| true)
        })
        .unwrap();
    assert!(matches!(
        app(&stage).unwrap().phase,
        AppPhase::Running { .. }
    ));
    stage
        .evc(&["app", "stop", "web", "--device", "edge"])
        .unwrap();
    stage
        .wait("Debian powers off", PATIENCE, || {
            Ok(app(&stage)?.phase == AppPhase::Halted)
        })
        .unwrap();
}
