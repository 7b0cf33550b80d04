//! Where the device's keys are, and that they are nowhere else.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use api::attest::{TpmHashAlgo, TpmPcrValue, ZAttestQuote};
use demo::{Options, Stage};
use evc::decide::attest::quote::{QuoteError, verify};
use model::{
    security::{EdgeNodeCertKind, KeyKeeper, TpmSanityStatus},
    topics::{EDGE_NODE_CERT, ONBOARDING_STATUS, TPM_SANITY_STATUS},
};
use tpm::{Client, Key, SoftKey, Tpm as _, TpmError, identity::certified_point};
use units::ids;

use crate::life::SERVICES;
use crate::support::{PATIENCE, onboarded_with};

fn stage(tpm: bool) -> Stage {
    onboarded_with(&Options {
        tpm,
        ..Options::of_this_build().unwrap()
    })
}

fn status(stage: &Stage) -> TpmSanityStatus {
    let rows = stage.bus().unwrap().read(&TPM_SANITY_STATUS).unwrap();
    rows.unwrap()["global"].clone()
}

fn config(stage: &Stage, name: &str) -> PathBuf {
    stage.device().root().join("config").join(name)
}

fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

fn ask<T>(stage: &Stage, question: impl AsyncFnOnce(Client) -> T) -> T {
    block(async { question(Client::connect(stage.device().root()).unwrap()).await })
}

fn refused<T>(result: &Result<T, TpmError>) -> bool {
    matches!(result, Err(TpmError::Refused { .. }))
}

/// A thread that is another user asks: what the kernel tells of its connection.
fn as_service(stage: &Stage, service: &str) -> Vec<&'static str> {
    use rustix::{process, thread};
    let uid = process::Uid::from_raw(ids::service_uid(service).unwrap());
    let gid = process::Gid::from_raw(ids::EVE_GID);
    let root = stage.device().root().to_owned();
    let asking = std::thread::spawn(move || {
        thread::set_thread_groups(&[]).unwrap();
        thread::set_thread_res_gid(gid, gid, gid).unwrap();
        thread::set_thread_res_uid(uid, uid, uid).unwrap();
        block(async {
            let client = Client::connect(&root).unwrap();
            let peer = SoftKey::from_bytes(&[3; 32]).unwrap().point();
            let mut may = Vec::new();
            let mut note = |what, refused: bool| {
                if !refused {
                    may.push(what);
                }
            };
            note("look", refused(&client.describe().await));
            note("sign", refused(&client.sign(Key::Device, [1; 32]).await));
            let onboarding = client.sign(Key::Onboarding, [1; 32]).await;
            note("register", refused(&onboarding));
            note("ecdh", refused(&client.ecdh(&peer).await));
            note("quote", refused(&client.quote(&[1; 16], false).await));
            note("vault", refused(&client.unseal("vault").await));
            note("nv", refused(&client.read_nv(0x0180_0000).await));
            let pcr = tpm::Pcr::new(14).unwrap();
            note("extend", refused(&client.extend_pcr(pcr, [0; 32]).await));
            may
        })
    });
    asking.join().unwrap()
}

#[test]
fn trust_a_device_with_a_tpm_is_known_by_it_through_boots_and_a_wiped_config() {
    let stage = stage(true);
    let found = status(&stage);
    assert_eq!((found.keeper, &found.fault), (KeyKeeper::Tpm, &None));
    assert!(!config(&stage, "device.key.pem").exists());
    let cert = fs::read(config(&stage, "device.cert.pem")).unwrap();
    let device = |stage: &Stage| {
        let rows = stage.bus().unwrap().read(&ONBOARDING_STATUS).unwrap();
        rows.unwrap()["global"].clone()
    };
    let before = device(&stage);
    assert!(before.device.is_some());

    // The controller's own verifier takes its quotes, and no other nonce's.
    let quote = ask(&stage, async |client| client.quote(&[7; 32], true).await).unwrap();
    let certs = stage.bus().unwrap().read(&EDGE_NODE_CERT).unwrap().unwrap();
    let of = |kind| certs.values().find(|c| c.kind == kind).unwrap();
    let by = |pem: &str| evc::cert::Certificate::from_pem(pem.as_bytes()).unwrap();
    let quoted = by(&of(EdgeNodeCertKind::Quote).pem);
    let sent = ZAttestQuote {
        attest_data: quote.attest,
        signature: quote.signature,
        pcr_values: quote
            .pcrs
            .iter()
            .map(|(pcr, value)| TpmPcrValue {
                index: pcr.index(),
                hash_algo: TpmHashAlgo::Sha256.into(),
                value: value.to_vec(),
            })
            .collect(),
        ..ZAttestQuote::default()
    };
    assert_eq!(verify(&sent, &quoted, &[7; 32]), Ok(()));
    assert_eq!(verify(&sent, &quoted, &[8; 32]), Err(QuoteError::Nonce));
    let other = by(&of(EdgeNodeCertKind::Ecdh).pem);
    assert_eq!(verify(&sent, &other, &[7; 32]), Err(QuoteError::Signature));

    // Power is cut, and somebody empties what was written into CONFIG.
    stage.device().power_cut().unwrap();
    fs::remove_file(config(&stage, "device.cert.pem")).unwrap();
    stage.device().start().unwrap();
    stage
        .wait("the identity is back", PATIENCE, || {
            Ok(fs::read(config(&stage, "device.cert.pem")).is_ok_and(|found| found == cert))
        })
        .unwrap();
    stage
        .wait("the controller answers", PATIENCE, || {
            Ok(demo::View::read(&stage.bus()?)?.has_config())
        })
        .unwrap();
    assert_eq!(device(&stage).device, before.device);
    assert_eq!(device(&stage).device_cert, before.device_cert);
}

/// The operator's command on the device.
fn eve(stage: &Stage, arguments: &[&str]) -> (Option<i32>, String) {
    let root = stage.device().root();
    let output = Command::new(root.join("usr/bin/eve"))
        .arg("--root")
        .arg(root)
        .args(arguments)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn trust_a_device_without_anything_to_register_with_onboards_by_an_authoritys_certificate() {
    let options = Options {
        tpm: true,
        ..Options::of_this_build().unwrap()
    };
    let stage = Stage::build(&options).unwrap();
    for name in ["onboard.cert.pem", "onboard.key.pem"] {
        fs::remove_file(config(&stage, name)).unwrap();
    }
    stage.power_on().unwrap();
    let own = config(&stage, "device.cert.pem");
    stage
        .wait("the device has made a certificate", PATIENCE, || {
            Ok(own.exists())
        })
        .unwrap();
    let made = fs::read(&own).unwrap();

    let (code, request) = eve(&stage, &["identity", "request"]);
    assert_eq!(code, Some(0), "{request}");
    let file = |name: &str, content: &[u8]| {
        let path = stage.world().dir().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let request = file("device.csr", request.as_bytes());
    let signed = stage
        .evc(&[
            "device", "sign", "--csr", &request, "--serial", "SN-CA-1", "--name", "signed",
        ])
        .unwrap();
    let certificate = signed["certificate"].as_str().unwrap();
    let certificate = file("signed.pem", certificate.as_bytes());

    // Somebody else's is not taken, and tells why.
    let other = stage.evc_dir().join("device-config/root-certificate.pem");
    let (code, said) = eve(
        &stage,
        &["identity", "install", &other.display().to_string()],
    );
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("another key"), "{said}");
    assert_eq!(fs::read(&own).unwrap(), made);

    let (code, said) = eve(&stage, &["identity", "install", &certificate]);
    assert_eq!(code, Some(0), "{said}");
    stage
        .wait("the controller knows the device", PATIENCE, || {
            Ok(demo::View::read(&stage.bus()?)?.has_config())
        })
        .unwrap();
    // From here on the controller knows it by this one.
    let (code, said) = eve(&stage, &["identity", "install", &certificate]);
    assert_eq!(code, Some(5), "{said}");
    // The TPM has it as well: a CONFIG partition that loses it gets it back, without a boot.
    let installed = fs::read(&own).unwrap();
    assert_eq!(installed, fs::read(&certificate).unwrap());
    fs::remove_file(&own).unwrap();
    stage
        .wait("the certificate is back", PATIENCE, || {
            Ok(fs::read(&own).is_ok_and(|found| found == installed))
        })
        .unwrap();
    assert_eq!(status(&stage).fault, None);
    // What it certifies itself is good under the new one, too: the controller has attested the device.
    let (code, said) = eve(&stage, &["why", "config"]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn trust_each_service_may_ask_what_its_row_says_and_no_more() {
    let stage = stage(true);
    let expected: BTreeMap<&str, &[&str]> = [
        (
            "zedagent",
            &["look", "sign", "register", "ecdh", "quote"][..],
        ),
        ("reporter", &["look", "sign"]),
        ("newlogd", &["look", "sign"]),
        ("downloader", &["look", "ecdh"]),
        ("domainmgr", &["look", "ecdh"]),
        ("nim", &["look", "ecdh"]),
        ("vaultmgr", &["look", "ecdh", "vault", "nv"]),
        ("verifier", &["look"]),
        ("volumemgr", &["look"]),
        ("zedrouter", &["look"]),
        ("zedmanager", &["look"]),
        ("nodeagent", &["look"]),
    ]
    .into();
    for (service, may) in expected {
        assert_eq!(as_service(&stage, service), may, "{service}");
    }
}

/// Whether bytes look as random as a key's. 32 random bytes have some 30 different values, half of them above 127.
fn could_be_key(window: &[u8]) -> bool {
    let mut seen = [false; 256];
    let mut different = 0;
    for byte in window {
        different += u32::from(!std::mem::replace(&mut seen[usize::from(*byte)], true));
    }
    let high = window.iter().filter(|byte| **byte >= 0x80).count();
    different >= 24 && (6..=26).contains(&high)
}

/// Whether the private key of a public point is in there: every window of 32 bytes that could be one is tried, in
/// both orders of bytes. What is looked for is not known: with a TPM nobody knows it.
fn holds_key(bytes: &[u8], step: usize, point: &[u8]) -> bool {
    let is_key =
        |window: [u8; 32]| SoftKey::from_bytes(&window).is_some_and(|key| key.point() == point);
    let windows = bytes.windows(32).step_by(step);
    windows.filter(|window| could_be_key(window)).any(|window| {
        let mut window: [u8; 32] = window.try_into().unwrap();
        let as_it_is = is_key(window);
        window.reverse();
        as_it_is || is_key(window)
    })
}

/// The memory that a process writes, mapping by mapping.
fn memory(pid: u32) -> Vec<Vec<u8>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let writable = |line: &&str| line.split(' ').nth(1).is_some_and(|r| r.starts_with("rw"));
    let read = |line: &str| {
        let (from, to) = line.split(' ').next()?.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        let (from, to) = (number(from)?, number(to)?);
        let mut bytes = vec![0; usize::try_from(to - from).ok()?];
        memory.read_exact_at(&mut bytes, from).ok()?;
        Some(bytes)
    };
    maps.lines().filter(writable).filter_map(read).collect()
}

/// The device's processes of a program.
fn processes(stage: &Stage, name: &str) -> Vec<u32> {
    let program = stage.device().root().join("usr/bin").join(name);
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program))
        .collect()
}

/// Files below a directory, without the programs.
fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() && !path.ends_with("usr/bin") {
            files(&path, found);
        } else if kind.is_file() {
            found.push(path);
        }
    }
}

/// A file as it is, and what its PEM blocks say.
fn file_holds_key(path: &Path, point: &[u8]) -> bool {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let keys = text.split("-----BEGIN ").skip(1).any(|block| {
        let pem = format!("-----BEGIN {block}");
        SoftKey::from_pem(&pem).is_ok_and(|key| key.point() == point)
    });
    keys || holds_key(&bytes, 1, point)
}

/// Where the device's private key is found: services by name, files by path.
fn places_of_the_key(stage: &Stage) -> Vec<String> {
    let pem = fs::read(config(stage, "device.cert.pem")).unwrap();
    let point = certified_point(&pem).unwrap();
    let mut places = Vec::new();
    // What has the TPM is asked to sign and knows the key as little as anybody.
    let has_tpm = status(stage).keeper == KeyKeeper::Tpm;
    let programs = SERVICES.into_iter().chain(has_tpm.then_some("tpmchip"));
    for service in programs {
        let pids = processes(stage, service);
        assert!(!pids.is_empty(), "{service} does not run");
        let holds = |pid: &u32| memory(*pid).iter().any(|part| holds_key(part, 8, &point));
        if pids.iter().any(holds) {
            places.push(service.to_owned());
        }
    }
    let (root, mut all) = (stage.device().root(), Vec::new());
    files(root, &mut all);
    assert!(all.len() > 50, "the disk was looked at");
    for path in all {
        if file_holds_key(&path, &point) {
            let below = path.strip_prefix(root).unwrap();
            places.push(below.display().to_string());
        }
    }
    places
}

#[test]
fn trust_a_key_in_a_file_is_found_in_the_file_and_in_its_keeper_alone() {
    let stage = stage(false);
    assert_eq!(status(&stage).keeper, KeyKeeper::Software);
    assert_eq!(
        places_of_the_key(&stage),
        ["tpmmgr", "config/device.key.pem"]
    );
}

#[test]
fn trust_a_key_in_a_tpm_is_found_nowhere() {
    let stage = stage(true);
    // It has been used.
    let sign = async |client: Client| client.sign(Key::Device, [1; 32]).await;
    ask(&stage, sign).unwrap();
    assert_eq!(places_of_the_key(&stage), [""; 0]);
}
