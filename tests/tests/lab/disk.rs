//! A device whose disk is full to the last block.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use model::{app::AppPhase, code::Code, node::BootReason, topics::NODE_AGENT_STATUS};

use crate::support::{PATIENCE, answers, deploy_app, field, manifest, onboarded_on, page, view};

/// Enough for one application and the reserve, not for two.
const SIZE: u64 = 640 << 20;

/// A small file system for `/persist`.
fn small_disk(dir: &Path) -> PathBuf {
    let image = dir.join("image");
    fs::File::create(&image).unwrap().set_len(SIZE).unwrap();
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-b", "4096", "-m", "0"])
        .arg(&image)
        .status()
        .unwrap();
    assert!(made.success());
    image
}

fn fill(balloon: &Path) {
    use std::io::Write;
    let file = fs::File::options()
        .append(true)
        .create(true)
        .open(balloon)
        .unwrap();
    for size in [1 << 20, 1 << 12] {
        let bytes = vec![1; size];
        while (&file).write_all(&bytes).is_ok() && file.sync_data().is_ok() {}
    }
}

#[test]
#[cfg_attr(not(has_disks), ignore = "needs root, FUSE, loop devices and ext4")]
fn campaign_disk_full_device_keeps_its_guest_says_why_and_reboots_by_command() {
    scenarios::disk::seclude();
    // Not so secluded that the device would not see what is mounted for it.
    let shared = Command::new("mount").args(["--make-rshared", "/"]).status();
    assert!(shared.unwrap().success());
    let dir = tempfile::tempdir().unwrap();
    let (stage, mounted) = onboarded_on(1, &small_disk(dir.path()));
    deploy_app(&stage);
    let boot = field(&page(&stage).unwrap(), "boot-id").unwrap();

    let balloon = mounted.path().join("balloon");
    fill(&balloon);
    // A second application does not fit.
    let text = fs::read_to_string(manifest()).unwrap();
    let second = stage.world().dir().join("second.json");
    let text = text.replace("\"web\"", "\"web2\"").replace("8080", "8081");
    fs::write(&second, text).unwrap();
    stage.deploy(&second, "edge", "tiny.qcow2", &[]).unwrap();
    stage
        .wait(
            "the second application is refused for lack of space",
            PATIENCE,
            || {
                fill(&balloon);
                let view = view(&stage);
                Ok(view.apps.values().any(|app| {
                    app.fault
                        .as_ref()
                        .is_some_and(|f| f.code == Code::VolumeSpace)
                }))
            },
        )
        .unwrap();
    assert!(stage.why().contains("volume.space"), "{}", stage.why());
    stage
        .wait("the controller hears of it", PATIENCE, || {
            fill(&balloon);
            let info = stage.evc(&["info", "--device", "edge"])?.to_string();
            Ok(info.contains("space"))
        })
        .unwrap();
    assert_eq!(field(&page(&stage).unwrap(), "boot-id").unwrap(), boot);

    // A command is carried out once, with its reason, though there is no block left.
    fill(&balloon);
    stage.evc(&["device", "reboot", "edge"]).unwrap();
    stage
        .wait("the device boots again", PATIENCE, || {
            Ok(stage.device().starts().0 == 2)
        })
        .unwrap();
    fill(&balloon);
    answers(&stage).unwrap();
    let bus = stage.bus().unwrap();
    let node = bus.read(&NODE_AGENT_STATUS).unwrap().unwrap()["nodeagent"].clone();
    assert_eq!(node.boot_reason, BootReason::RebootCmd);
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(stage.device().starts().0, 2, "carried out once");

    // Room again: nobody has to help.
    fs::remove_file(&balloon).unwrap();
    stage
        .wait("both applications run", PATIENCE, || {
            let view = view(&stage);
            let running = |phase: &AppPhase| matches!(phase, AppPhase::Running { .. });
            Ok(view.apps.values().filter(|app| running(&app.phase)).count() == 2)
        })
        .unwrap();
}
