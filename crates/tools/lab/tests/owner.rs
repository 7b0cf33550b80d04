//! A world whose owner is killed: the kernel and the keeper end it, no code of the owner's runs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use lab::record::{self, Record};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn lab(base: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
    command.env("EVE_LAB_DIR", base);
    command
}

/// Brings a world up in a process of its own; returns that process and the world's directory.
fn up(base: &Path) -> (Child, PathBuf) {
    let mut owner = lab(base)
        .args(["up", "--uplinks", "2"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut name = String::new();
    BufReader::new(owner.stdout.as_mut().unwrap())
        .read_line(&mut name)
        .unwrap();
    (owner, base.join(name.trim()))
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn kill_9_of_the_owner_ends_everything() {
    let base = tempfile::tempdir().unwrap();
    let (mut owner, dir) = up(base.path());
    let record = Record::read(&dir).unwrap();
    // A program of another process in the world: it belongs to the world all the same.
    let mut guest = lab(base.path())
        .args(["exec", "device", "--", "sleep", "600"])
        .spawn()
        .unwrap();
    wait_until("the program runs in the world", || {
        let entrance = lab::jail::Entrance::of(record.device_init).unwrap();
        entrance
            .processes()
            .iter()
            .any(|running| running.name == "sleep")
    });
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_until("the directory goes", || !dir.exists());
    wait_until("the jails go", || {
        !exists(record.outside_init) && !exists(record.device_init)
    });
    assert!(!guest.wait().unwrap().success());
}

#[test]
fn the_command_shows_breaks_and_ends_a_world() {
    let base = tempfile::tempdir().unwrap();
    let output = |words: &[&str]| {
        let output = lab(base.path()).args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = output(&["up", "--detach", "--uplinks", "2", "--nat", "1"]);
    assert!(
        shown.contains("eth1 192.168.101.2 by DHCP from 192.168.101.1, behind NAT"),
        "{shown}"
    );
    assert!(output(&["list"]).contains("2 uplink(s)"));
    assert!(output(&["exec", "device", "--", "ip", "-br", "link"]).contains("eth1"));
    assert!(output(&["exec", "uplink0", "--", "ip", "-br", "addr"]).contains("192.168.100.1/24"));
    assert!(output(&["exec", "outside", "--", "cat", "/etc/hosts"]).contains("evc.lab.internal"));
    output(&["fault", "link-down", "1"]);
    wait_until("the device loses its carrier", || {
        output(&["exec", "device", "--", "ip", "link"]).contains("NO-CARRIER")
    });
    output(&["fault", "dns-down", "0"]);
    output(&["fault", "dns-up", "0"]);
    assert!(output(&["down"]).contains("is gone"));
    assert!(record::worlds(base.path()).is_empty());
    let failed = lab(base.path())
        .args(["exec", "device", "--", "true"])
        .output()
        .unwrap();
    assert!(
        String::from_utf8(failed.stderr)
            .unwrap()
            .contains("no world")
    );
}
