//! The command as a whole, with too few samples to mean anything: figures are for people, never for tests.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::Value;

#[test]
fn every_figure_of_the_bus_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new/bus.json");
    let ran = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args([
            "bus",
            "--samples=60",
            "--pace=100",
            "--sizes=1,20",
            "--sync-sizes=1,600",
            "--turns=2",
        ])
        .arg("--memory")
        .arg(dir.path())
        .arg("--disk")
        .arg(dir.path())
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    let table = String::from_utf8(ran.stdout).unwrap();
    assert!(table.contains("persistent publish"), "{table}");
    let result: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    for (figure, size) in [
        ("publish_to_handler_p50_us", "20"),
        ("publish_to_handler_p99_us", "1"),
        ("publishes_per_s", "20"),
        ("unchanged_ns", "1"),
        ("sync_keys_per_s", "600"),
    ] {
        assert!(
            result[figure][size].as_f64().unwrap() > 0.0,
            "{figure}: {result:#}"
        );
    }
    for figure in ["floor_p50_us", "late_publisher_p50_us", "persistent_p50_us"] {
        assert!(
            result[figure].as_f64().unwrap() > 0.0,
            "{figure}: {result:#}"
        );
    }
    // Only the result is left.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn every_figure_of_the_keys_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("tls.json");
    let ran = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["tls", "--turns=2", "--samples=2", "--out"])
        .arg(&out)
        .output()
        .unwrap();
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    let table = String::from_utf8(ran.stdout).unwrap();
    assert!(table.contains("handshakes/s"), "{table}");
    let result: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    let mut keys = vec!["in this process", "file, by tpmmgr"];
    if lab::tpm::is_installed() {
        keys.push("TPM, by tpmmgr");
    }
    for key in keys {
        for figure in ["signature_p50_us", "handshake_p50_us", "handshakes_per_s"] {
            assert!(
                result[figure][key].as_f64().unwrap() > 0.0,
                "{figure} {key}: {result:#}"
            );
        }
    }
}
