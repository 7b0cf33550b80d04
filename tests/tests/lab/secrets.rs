//! User data that only the guest may know: the real controller encrypts it, the real keeper of the keys helps, and a real
//! guest reads it. Then the whole device is searched.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use model::topics::{APP_INSTANCE_CONFIG, DOMAIN_CONFIG};

use crate::support::{answers, manifest, onboarded, user_data};

const CANARY: &str = "CANARY-in-user-data";

/// Plain files below a directory that hold the canary. Sockets, devices and what others mounted there are left out.
fn found_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        // What a service removes meanwhile is gone.
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file()
                && fs::read(entry.path())
                    .is_ok_and(|bytes| bytes.windows(CANARY.len()).any(|w| w == CANARY.as_bytes()))
            {
                found.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn trust_user_data_is_in_the_guests_seed_and_nowhere_else() {
    let stage = onboarded(1);
    let secret = tempfile::NamedTempFile::new().unwrap();
    let text = fs::read_to_string(user_data()).unwrap();
    fs::write(secret.path(), format!("{text}# {CANARY}\n")).unwrap();
    let file = secret.path().to_str().unwrap();
    stage
        .deploy(&manifest(), "edge", "tiny.qcow2", &["--user-data", file])
        .unwrap();
    answers(&stage).unwrap();

    let bus = stage.bus().unwrap();
    let apps = bus.read(&APP_INSTANCE_CONFIG).unwrap().unwrap();
    assert!(
        apps.values()
            .all(|a| a.user_data.is_empty() && a.secret_user_data.is_some())
    );
    let domains = bus.read(&DOMAIN_CONFIG).unwrap().unwrap();
    assert!(
        domains
            .values()
            .all(|d| d.user_data.is_empty() && d.secret_user_data.is_some())
    );
    let root = stage.device().root();
    let app = apps.keys().next().unwrap();
    let seed = root.join(format!("run/hypervisor/kvm/{app}/seed.iso"));
    // The demo's guest prints it on its console: what a guest does with it is its own affair.
    let consoles = root.join("persist/log/guests");
    let mut found = found_below(root);
    found.retain(|file| !file.starts_with(&consoles));
    assert_eq!(found, [seed]);

    let out = tempfile::tempdir().unwrap();
    let bundle = out.path().join("bundle.tar.gz");
    let packed = Command::new(lab::device::built_binaries().unwrap().join("eve"))
        .arg("--root")
        .arg(root)
        .args(["support-bundle", "--out"])
        .arg(&bundle)
        .output()
        .unwrap();
    assert!(packed.status.success(), "{packed:?}");
    let unpacked = Command::new("tar")
        .args(["xzf", "bundle.tar.gz"])
        .current_dir(out.path())
        .status()
        .unwrap();
    assert!(unpacked.success());
    assert_eq!(found_below(out.path()), Vec::<PathBuf>::new());
}
