//! The machine around the supervisor, with a stand-in for that: boots, reboots, crashes, power cuts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use lab::{Device, Side, World};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Ends with what the file `exit` says, when it says something; leaves a daemon and a mark in /run.
const SUPERVISOR: &str = r#"#!/bin/sh
root=$2
echo "$@" >> $root/persist/starts
mkdir -p $root/run
[ -e $root/run/mark ] && kind=warm || kind=cold
touch $root/run/mark
setsid sleep 600 &
echo $kind >> $root/persist/kind
trap 'exit 0' TERM
while :; do
  if [ -s $root/exit ]; then code=$(cat $root/exit); rm $root/exit; exit $code; fi
  sleep 0.05
done
"#;

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn boots_reboots_and_survives_its_supervisor() {
    let binaries = tempfile::tempdir().unwrap();
    let program = binaries.path().join("supervisor");
    std::fs::write(&program, SUPERVISOR).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(binaries.path().join("notes.d"), "no program").unwrap();

    let world = Arc::new(World::builder().build().unwrap());
    let device = Device::install_with(&world, binaries.path(), &["--units", "nim"]).unwrap();
    device.configure("server", "evc.lab.internal\n").unwrap();
    let root = device.root().to_owned();
    assert!(root.join("usr/bin/supervisor").exists() && !root.join("usr/bin/notes.d").exists());
    let kinds = || lines(&root.join("persist/kind"));
    let sleepers = || {
        let running = world.site().processes(Side::Device);
        running.iter().filter(|one| one.line == "sleep 600").count()
    };

    device.start().unwrap();
    wait_until("it boots", || kinds() == ["cold"]);
    let arguments = format!("--root {} --units nim", root.display());
    assert_eq!(lines(&root.join("persist/starts")), [arguments]);

    device.kill_supervisor();
    wait_until("a killed supervisor comes back warm", || {
        kinds() == ["cold", "warm"]
    });
    wait_until("units outlive the supervisor", || sleepers() == 2);
    assert_eq!(device.starts(), (1, 1));

    std::fs::write(root.join("exit"), "10").unwrap();
    wait_until("a reboot is cold", || kinds() == ["cold", "warm", "cold"]);
    wait_until("nothing of the last boot runs", || sleepers() == 1);

    device.power_cut().unwrap();
    assert_eq!(sleepers(), 0);
    assert!(device.supervisor().is_none() && root.join("config/server").exists());
    device.start().unwrap();
    wait_until("it boots after a power cut", || kinds().len() == 4);
    assert_eq!(device.starts(), (3, 1));

    std::fs::write(root.join("exit"), "11").unwrap();
    let ended = device.wait_off(Duration::from_secs(10)).unwrap();
    assert_eq!(ended.code(), Some(lab::device::EXIT_POWER_OFF));
    device.start().unwrap();
    wait_until("it boots after having been off", || kinds().len() == 5);
    let stopped = device.stop(Duration::from_secs(5)).unwrap().unwrap();
    assert_eq!(stopped.code(), Some(0));
    assert_eq!(sleepers(), 0);
}
