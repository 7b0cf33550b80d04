//! Support bundles: no secret gets in, and every command reads them.

use std::{
    fs,
    io::Read as _,
    path::Path,
    process::{Command, Output},
};

use flate2::read::GzDecoder;
use model::{code::Code, content::DownloadPhase};
use serde_json::json;

use crate::device::*;

/// Every secret that is planted holds this.
const CANARY: &str = "CANARY";

fn eve(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_eve"))
        .args(args)
        .output()
        .unwrap()
}

fn says(code: i32, args: &[&str]) -> String {
    let output = eve(args);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn put(root: &Path, path: &str, text: &str) {
    let file = root.join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

/// A device with secrets wherever one can lie.
fn planted() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let d = with(|d| {
        let user_data = "#cloud-config\npassword: CANARY-in-user-data\nruncmd:\n  - [curl, http://x/CANARY-in-a-command]\n";
        let config = d.domain_configs.rows.get_mut(APP).unwrap();
        user_data.clone_into(&mut config.user_data);
        let resources = &mut d.app_configs.rows.get_mut(APP).unwrap().resources;
        "CANARY-vnc".clone_into(&mut resources.vnc_password);
        eth0(d).proxy.https = Some("user:CANARY-proxy@proxy.example:3128".to_owned());
        eth0(d).proxy.http = Some("http://user:CANARY-proxy2@proxy.example:3128".to_owned());
        let fault = fault(
            Code::DownloadRefused,
            "blob",
            "GET https://me:CANARY-url@ds.example/x: code 401",
        );
        set_download(d, DownloadPhase::Waiting { done_bytes: 5 }, Some(fault));
    });
    write(&d, root.path());
    let dir = root.path();
    for key in ["device", "onboard"] {
        put(
            dir,
            &format!("config/{key}.key.pem"),
            "-----BEGIN PRIVATE KEY-----\nCANARYkeykeykeykeykey\n-----END PRIVATE KEY-----\n",
        );
        put(
            dir,
            &format!("config/{key}.cert.pem"),
            "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n",
        );
    }
    put(dir, "config/server", "evc.example\n");
    put(dir, "config/authorized_keys", "ssh CANARY-authorized\n");
    put(
        dir,
        "persist/checkpoint/lastconfig",
        "CANARY-in-the-saved-config",
    );
    put(dir, "run/zedagent/integrity_token", "CANARYtokentoken");
    put(dir, "persist/vault/secret", "CANARY-in-the-vault");
    put(
        dir,
        "persist/vault/volumemgr/volumes/disk.img",
        "CANARY-in-a-volume",
    );
    put(
        dir,
        &format!("persist/log/guests/{APP}.console"),
        "login: CANARY-on-the-console\n",
    );
    let record = json!({"boot": "b", "unit": {"spec": {
        "name": "domainmgr/x",
        "env": {"SOME_SETTING": "CANARY-env", "HOME": "/CANARY-home"},
        "argv": ["/usr/bin/x", "--password", "CANARY-argv0", "--password=CANARY-argv1", "-vnc", "CANARY-vnc"],
    }}});
    put(
        dir,
        "run/supervisor/units/domainmgr+x.json",
        &record.to_string(),
    );
    put(dir, "run/newlogd/NewTopic/one.json", &json!({"Deep": [{"ApiKey": "CANARY-api", "Psk": "CANARY-psk"}], "Note": "Authorization: Bearer CANARYbearer"}).to_string());
    put(dir, "run/newlogd/NewTopic/ready", "1");
    put(
        dir,
        &format!("run/zedmanager/DomainConfig/.quarantine/{APP}.json"),
        "{\"UserData\":\"#cloud-config\\npassword: \\\"CANARY-quarantined\\\" and CANARY-more\\n",
    );
    put(
        dir,
        "run/zedmanager/DomainConfig/.last/x.json",
        "{\"Odd\":\"CANARY-last\"}",
    );
    let log = [
        r#"{"timestamp":"2026-01-02T03:04:05Z","level":"INFO","message":"sent {\"Token\": \"CANARY-json-in-text\"}","password":"CANARY-field"}"#,
        "plain password=CANARY-plain and token: 'CANARY quoted twice' end",
        "set vnc CANARY-vnc for guest",
        "ran [curl, http://x/CANARY-in-a-command] as told",
        "proxy http://a:CANARY-logged@h:1/",
        "-----BEGIN EC PRIVATE KEY-----",
        "CANARYkeyinlog",
        "-----END EC PRIVATE KEY-----",
        "Cookie: CANARY-cookie",
        "base64 of it: Q0FOQVJZLXZuYw==",
        "kept: this line is harmless",
    ];
    put(dir, "persist/log/nim.log", &(log.join("\n") + "\n"));
    put(dir, "persist/log/nim.log.1", "secret=CANARY-older\n");
    put(
        dir,
        "persist/crash/nim/20260102T000000.000Z/reason.json",
        &json!({"At": "2026-01-02T00:00:00Z", "Reason": "panic at password=CANARY-reason"})
            .to_string(),
    );
    put(
        dir,
        "persist/crash/nim/20260102T000000.000Z/output.log",
        "api_key: CANARY-output\n",
    );
    put(
        dir,
        "persist/crash/nim/00000000000000000001.json",
        &json!({"At": "2026-01-02T00:00:00Z", "Message": "bad UserData \"CANARY-panic\""})
            .to_string(),
    );
    root
}

/// Every byte of the archive, with characters in the place of what is no text.
fn unpacked(file: &Path) -> String {
    let mut all = Vec::new();
    let mut archive = GzDecoder::new(fs::File::open(file).unwrap());
    archive.read_to_end(&mut all).unwrap();
    let text = all.iter().map(|byte| {
        if byte.is_ascii() {
            char::from(*byte)
        } else {
            '?'
        }
    });
    text.collect()
}

#[test]
fn no_secret_gets_into_a_bundle_and_every_command_reads_it() {
    let root = planted();
    let dir = root.path().to_str().unwrap();
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("bundle.tar.gz");
    let bundle = file.to_str().unwrap();
    let at = "--at=2026-01-02T03:04:05Z";
    let said = says(0, &["--root", dir, at, "support-bundle", "--out", bundle]);
    assert!(
        said.contains("secrets masked in")
            && said.contains("left out: persist/checkpoint/lastconfig"),
        "{said}"
    );
    assert!(!out.path().join("bundle.tar.gz.partial").exists());

    let text = unpacked(&file);
    let leaks: Vec<String> = [CANARY, "Q0FOQVJZ"]
        .iter()
        .flat_map(|secret| text.match_indices(secret))
        .map(|(at, _)| text[at.saturating_sub(60)..].chars().take(100).collect())
        .collect();
    assert!(leaks.is_empty(), "{leaks:#?}");
    // What is no secret stays.
    for kept in [
        "kept: this line is harmless",
        "BEGIN CERTIFICATE",
        "proxy.example:3128",
        "evc.example",
        "SOME_SETTING",
    ] {
        assert!(text.contains(kept), "{kept}");
    }
    // The test would find one.
    let with_console = out.path().join("console.tar.gz");
    says(
        0,
        &[
            "--root",
            dir,
            "support-bundle",
            "--consoles",
            "--out",
            with_console.to_str().unwrap(),
        ],
    );
    assert!(unpacked(&with_console).contains("CANARY-on-the-console"));

    // The same answers as on the device.
    for args in [
        &["status"][..],
        &["ps"],
        &["why"],
        &["why", "app", "web"],
        &["get"],
    ] {
        let live: Vec<&str> = ["--root", dir, at]
            .into_iter()
            .chain(args.iter().copied())
            .collect();
        let packed: Vec<&str> = ["--bundle", bundle]
            .into_iter()
            .chain(args.iter().copied())
            .collect();
        let (live, packed) = (eve(&live), eve(&packed));
        assert_eq!(live.status.code(), packed.status.code(), "{args:?}");
        let text = |output: &Output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.replace("CANARY-url", "***")
                .replace("CANARY-proxy", "***")
        };
        assert_eq!(text(&live), text(&packed), "{args:?}");
    }
    let checked = eve(&["--bundle", bundle, "check"]);
    assert!(
        String::from_utf8_lossy(&checked.stdout)
            .starts_with("as answered on the device at 2026-01-02 03:04:05Z")
    );
    assert!(says(0, &["--bundle", bundle, "logs", "nim"]).contains("this line is harmless"));
    eve(&["--bundle", bundle, "timeline"]);
    let object = says(
        0,
        &[
            "--bundle",
            bundle,
            "get",
            "zedmanager",
            "DomainConfig",
            "web",
        ],
    );
    assert!(object.contains("\"UserData\": \"***\""), "{object}");
}

#[test]
fn a_bundle_is_read_only_and_what_is_none_is_refused() {
    let out = tempfile::tempdir().unwrap();
    let root = tempfile::tempdir().unwrap();
    write(&healthy(), root.path());
    let file = out.path().join("b.tar.gz");
    let bundle = file.to_str().unwrap();
    let dir = root.path().to_str().unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&says(
        0,
        &["--json", "--root", dir, "support-bundle", "--out", bundle],
    ))
    .unwrap();
    assert_eq!(manifest["Format"], 1);
    says(
        2,
        &[
            "--bundle",
            bundle,
            "delete",
            "zedagent",
            "AppInstanceConfig",
            APP,
        ],
    );
    says(2, &["--bundle", bundle, "--root", dir, "why"]);
    says(4, &["--bundle", "/no/such/file", "why"]);
    fs::write(&file, "no archive").unwrap();
    says(4, &["--bundle", bundle, "why"]);
    // Paths that lead out of it are not followed.
    let evil = fs::File::create(&file).unwrap();
    let gz = flate2::write::GzEncoder::new(evil, flate2::Compression::fast());
    let mut tar = tar::Builder::new(gz);
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    let name = b"eve-support/../../escaped";
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_cksum();
    tar.append(&header, &b"x"[..]).unwrap();
    let mut link = tar::Header::new_gnu();
    link.set_size(0);
    link.set_entry_type(tar::EntryType::Symlink);
    tar.append_link(&mut link, "eve-support/run", out.path())
        .unwrap();
    tar.into_inner().unwrap().finish().unwrap();
    let error = eve(&["--bundle", bundle, "why"]);
    assert_eq!(error.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&error.stderr).contains("it has no manifest"));
    assert!(!std::env::temp_dir().join("escaped").exists());
}

#[test]
fn check_on_a_copy_says_what_it_did_not_look_at() {
    let root = tempfile::tempdir().unwrap();
    write(&healthy(), root.path());
    let dir = root.path().to_str().unwrap();
    let text = String::from_utf8(eve(&["--root", dir, "check"]).stdout).unwrap();
    assert!(
        text.starts_with(
            "no service of this device runs here: only what was written down is checked"
        ),
        "{text}"
    );
    let json: serde_json::Value =
        serde_json::from_slice(&eve(&["--json", "--root", dir, "check", "disk", "100"]).stdout)
            .unwrap();
    let checks = json["Checks"].as_array().unwrap();
    assert!(
        checks
            .iter()
            .all(|check| check["Number"] == 100
                || check["Id"].as_str().unwrap().starts_with("disk."))
    );
    assert!(checks.iter().any(|check| check["Result"] == "Skipped"));
    // Nothing was left behind.
    assert!(
        fs::read_dir(root.path().join("persist"))
            .unwrap()
            .all(|e| !e.unwrap().file_name().to_string_lossy().starts_with('.'))
    );
    assert!(says(0, &["check", "--list"]).contains("disk.reserve"));
    says(3, &["--root", dir, "check", "nothing"]);
}
