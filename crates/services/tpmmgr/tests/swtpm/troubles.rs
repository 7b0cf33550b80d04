//! A TPM that goes wrong.

use std::time::{Duration, Instant};

use model::{code::Code, node::MaintenanceReason};
use tpm::{Key, PcrSelection, Tpm as _, TpmError, TroubleKind};

use crate::chip::Swtpm;
use crate::device::{Device, with_tpm};

fn kind_of(error: &TpmError) -> Option<TroubleKind> {
    match error {
        TpmError::Trouble(trouble) => Some(trouble.kind),
        _ => None,
    }
}

#[tokio::test]
async fn a_tpm_that_is_reset_under_way_is_used_again_at_once() {
    with_tpm(async |device, tpm| {
        let client = device.client();
        for _ in 0..3 {
            client.sign(Key::Device, [1; 32]).await.unwrap();
            tpm.kill();
            tpm.start();
        }
        client.sign(Key::Device, [1; 32]).await.unwrap();
        assert_eq!(device.status().fault, None);
    })
    .await;
}

#[tokio::test]
async fn a_tpm_that_is_killed_in_the_middle_is_a_fault_until_it_is_back() {
    with_tpm(async |device, tpm| {
        let client = device.client();
        let before = client.describe().await.unwrap().certificates;
        // Requests are under way all the time.
        let asking = {
            let client = client.clone();
            tokio::spawn(async move {
                let mut answers = Vec::new();
                while answers.len() < 40 {
                    answers.push(client.sign(Key::Device, [2; 32]).await);
                    tokio::time::sleep(Duration::from_millis(25)).await;
                }
                answers
            })
        };
        tokio::time::sleep(Duration::from_millis(100)).await;
        tpm.kill();
        let answers = asking.await.unwrap();
        assert!(answers[0].is_ok());
        let last = answers.last().unwrap().as_ref().unwrap_err();
        assert_eq!(kind_of(last), Some(TroubleKind::Dead));
        assert!(last.is_transient());
        let is_dead = |d: &tpm::Description| d.trouble.is_some();
        device.until(is_dead).await;
        wait(|| device.status().fault.is_some()).await;
        let status = device.status();
        assert_eq!(status.fault.unwrap().code, Code::TpmDead);
        assert_eq!(status.maintenance, Some(MaintenanceReason::TpmEncFailure));
        assert!(!device.path("config/device.key.pem").exists());
        tpm.start();
        let after = device.healthy().await;
        assert_eq!(after.certificates, before);
        client.sign(Key::Device, [3; 32]).await.unwrap();
        wait(|| device.status().fault.is_none()).await;
        assert_eq!(device.status().maintenance, None);
    })
    .await;
}

#[tokio::test]
async fn a_tpm_that_hangs_hangs_nobody_for_long() {
    with_tpm(async |device, tpm| {
        let client = device.client().waiting(Duration::from_secs(2));
        tpm.suspend(true);
        let begun = Instant::now();
        let hung = client.sign(Key::Device, [1; 32]).await.unwrap_err();
        assert!(matches!(hung, TpmError::Unreachable { .. }), "{hung:?}");
        assert!(begun.elapsed() < Duration::from_secs(4));
        // What needs no TPM is answered all the same.
        client.describe().await.unwrap();
        tpm.suspend(false);
        device.client().sign(Key::Device, [1; 32]).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_tpm_that_is_dead_at_the_start_is_waited_for() {
    let (device, mut tpm) = (Device::new(), Swtpm::new());
    let tcti = tpm.tcti();
    tpm.kill();
    device
        .live(&tcti, async {
            let is_dead = |d: &tpm::Description| {
                d.trouble
                    .as_ref()
                    .is_some_and(|t| t.kind == TroubleKind::Dead)
            };
            device.until(is_dead).await;
            let refused = device.client().sign(Key::Device, [1; 32]).await;
            assert!(refused.unwrap_err().is_transient());
            assert!(!device.path("config/device.key.pem").exists());
            tpm.start();
            device.healthy().await;
            device.client().sign(Key::Device, [1; 32]).await.unwrap();
        })
        .await;
}

#[tokio::test]
async fn a_lock_out_is_told_and_the_keys_go_on() {
    with_tpm(async |device, tpm| {
        lock_out(tpm);
        let client = device.client();
        // The next life looks at once; this one within the hour.
        assert!(client.sign(Key::Device, [1; 32]).await.is_ok());
        let pcrs: PcrSelection = [tpm::Pcr::new(0).unwrap()].into_iter().collect();
        client.seal("vault", b"secret", pcrs, &[]).await.unwrap();
        client.unseal("vault").await.unwrap();
    })
    .await;

    let (device, tpm) = (Device::new(), Swtpm::new());
    let tcti = tpm.tcti();
    device.live(&tcti, device.healthy()).await;
    lock_out(&tpm);
    device
        .live(&tcti, async {
            let found = device.until(|d| {
                d.trouble
                    .as_ref()
                    .is_some_and(|t| t.kind == TroubleKind::Lockout)
            });
            let text = found.await.trouble.unwrap().text;
            assert!(text.contains("1000 s"), "{text}");
            wait(|| device.status().fault.is_some()).await;
            let status = device.status();
            assert_eq!(status.fault.unwrap().code, Code::TpmLockout);
            assert_eq!(status.maintenance, None);
            device.client().sign(Key::Device, [1; 32]).await.unwrap();
        })
        .await;
}

/// One wrong guess at something with a password.
fn lock_out(tpm: &Swtpm) {
    let run = |name: &str, args: &[&str]| tpm.tool(name, args);
    let settings = ["-s", "-n", "1", "-t", "1000", "-l", "1000"];
    let (done, text) = run("tpm2_dictionarylockout", &settings);
    assert!(done, "{text}");
    let index = "0x1880000";
    let attributes = "authread|authwrite";
    let (done, text) = run(
        "tpm2_nvdefine",
        &["-C", "o", "-s", "8", "-p", "right", "-a", attributes, index],
    );
    assert!(done, "{text}");
    let guess = |word: &str| run("tpm2_nvread", &["-C", index, "-P", word, index]);
    let (done, _) = guess("wrong");
    assert!(!done);
    let (done, text) = guess("right");
    assert!(!done && text.contains("lockout"), "{text}");
}

#[tokio::test]
async fn a_tpm_without_its_sha256_bank_signs_and_does_not_attest() {
    let (device, tpm) = (Device::new(), Swtpm::with_banks(Some("sha1")));
    let tcti = tpm.tcti();
    device
        .live(&tcti, async {
            let found = device.until(|d| {
                d.trouble
                    .as_ref()
                    .is_some_and(|t| t.kind == TroubleKind::NoSha256)
            });
            found.await;
            let client = device.client();
            client.sign(Key::Device, [1; 32]).await.unwrap();
            let refused = client.quote(&[1; 16], false).await.unwrap_err();
            assert_eq!(kind_of(&refused), Some(TroubleKind::NoSha256));
            let pcrs: PcrSelection = [tpm::Pcr::new(0).unwrap()].into_iter().collect();
            let refused = client.seal("vault", b"x", pcrs, &[]).await.unwrap_err();
            assert_eq!(kind_of(&refused), Some(TroubleKind::NoSha256));
            wait(|| device.status().maintenance.is_some()).await;
            let status = device.status();
            assert_eq!(status.maintenance, Some(MaintenanceReason::TpmQuoteFailure));
            assert_eq!(status.fault.unwrap().code, Code::TpmNoSha256);
        })
        .await;
}

async fn wait(condition: impl Fn() -> bool) {
    for _ in 0..200 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it never came");
}

#[tokio::test]
async fn the_process_that_has_the_tpm_may_die_at_any_time() {
    with_tpm(async |device, _| {
        let client = device.client();
        let mut killed = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let process = chip_process();
            assert!(killed.insert(process), "it is another one each time");
            let kill = ["-KILL".to_owned(), process.to_string()];
            assert!(
                std::process::Command::new("kill")
                    .args(kill)
                    .status()
                    .unwrap()
                    .success()
            );
            client.sign(Key::Device, [1; 32]).await.unwrap();
        }
        assert_eq!(device.status().fault, None);
    })
    .await;
}

fn chip_process() -> u32 {
    let all = chip_processes();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0]
}

/// Those that this process has started.
fn chip_processes() -> Vec<u32> {
    let mut found = Vec::new();
    for thread in std::fs::read_dir("/proc/self/task").unwrap() {
        let children = std::fs::read_to_string(thread.unwrap().path().join("children"));
        for pid in children.unwrap_or_default().split_whitespace() {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name.trim() == "tpmchip" {
                found.push(pid.parse().unwrap());
            }
        }
    }
    found
}

#[tokio::test]
async fn an_owner_with_a_password_needs_it_in_config() {
    let (device, tpm) = (Device::new(), Swtpm::new());
    let tcti = tpm.tcti();
    let (done, said) = tpm.tool("tpm2_changeauth", &["-c", "owner", "the owner's"]);
    assert!(done, "{said}");
    device
        .live(&tcti, async {
            let refused = device.until(|d| {
                let trouble = d.trouble.as_ref();
                trouble.is_some_and(|t| t.kind == TroubleKind::Keys)
            });
            let text = refused.await.trouble.unwrap().text;
            assert!(text.contains("tpm_credential"), "{text}");
            std::fs::write(device.path("config/tpm_credential"), "wrong\n").unwrap();
            assert!(device.client().sign(Key::Device, [1; 32]).await.is_err());
            // It is picked up as it is.
            std::fs::write(device.path("config/tpm_credential"), "the owner's\n").unwrap();
            device.healthy().await;
            let client = device.client();
            client.sign(Key::Device, [1; 32]).await.unwrap();
            client.write_nv(0x0180_0000, b"x").await.unwrap();
            let pcrs: PcrSelection = [tpm::Pcr::new(0).unwrap()].into_iter().collect();
            client.seal("vault", b"secret", pcrs, &[]).await.unwrap();
        })
        .await;
}
