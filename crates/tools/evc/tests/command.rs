//! The `evc` command as a person types it, against a controller that runs as a process.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use http::Method;
use prost::Message as _;
use serde_json::Value;
use support::{Device, PROTO, batch, connect, request, root_pem, tls};

const MANIFEST: &str = include_str!("golden/config/manifest.json");

struct Evc {
    dir: tempfile::TempDir,
    server: Child,
    devices: String,
}

fn evc(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_evc"))
        .env("EVC_DIR", dir)
        .args(args)
        .output()
        .unwrap()
}

impl Evc {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let init = evc(
            dir.path(),
            &["init", "--name", "localhost", "--san", "127.0.0.1"],
        );
        assert!(init.status.success());
        let mut server = Command::new(env!("CARGO_BIN_EXE_evc"))
            .env("EVC_DIR", dir.path())
            .args(["serve", "--json", "--log", "warn"])
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let addresses: Value = serde_json::from_str(&line).unwrap();
        let devices = addresses["devices"].as_str().unwrap().to_owned();
        Self {
            dir,
            server,
            devices,
        }
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = evc(self.dir.path(), args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.push("--json");
        serde_json::from_str(&self.ok(&all)).unwrap()
    }

    fn fails(&self, args: &[&str]) -> String {
        let output = evc(self.dir.path(), args);
        assert!(!output.status.success(), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Evc {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

async fn onboard(evc: &Evc, serial: &str) {
    let config = tls(&root_pem(evc.dir.path()), None, rustls::DEFAULT_VERSIONS);
    let mut connection = connect(evc.devices.parse().unwrap(), config).await.unwrap();
    let body = Device::new(serial)
        .register(&batch(evc.dir.path()))
        .encode_to_vec();
    let path = "/api/v2/edgedevice/register";
    let reply = request(&mut connection, Method::POST, path, body, PROTO)
        .await
        .unwrap();
    assert_eq!(reply.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_of_an_operator() {
    let evc = Evc::start();
    evc.ok(&["onboarding", "add", "--serial", "S1", "--name", "edge-1"]);
    onboard(&evc, "S1").await;
    assert!(
        evc.ok(&["onboarding", "list"])
            .lines()
            .nth(1)
            .unwrap()
            .starts_with("S1")
    );
    let list = evc.ok(&["device", "list"]);
    assert!(list.lines().next().unwrap().starts_with("NAME"), "{list}");
    assert!(list.lines().nth(1).unwrap().starts_with("edge-1"), "{list}");
    assert_eq!(evc.json(&["device", "show", "edge-1"])["serial"], "S1");
    assert!(
        evc.fails(&["device", "show", "edge-2"])
            .contains("did you mean \"edge-1\"?")
    );

    // A manifest with an image from a local file.
    let store = evc.dir.path().join("store");
    let store = store.to_str().unwrap();
    let image = evc.file("xenial.qcow2", "not really an image");
    let image = image.to_str().unwrap();
    let note = evc.json(&["datastore", "add-image", image, "--dir", store]);
    assert_eq!(note["size"], 19);
    let manifest = evc.file("web.json", MANIFEST);
    let manifest = manifest.to_str().unwrap();
    let deploy = [
        "app",
        "deploy",
        "-f",
        manifest,
        "--device",
        "edge-1",
        "--name",
        "web",
        "--image-url",
        "https://127.0.0.1:9/xenial.qcow2",
        "--image-file",
        image,
    ];
    assert!(evc.ok(&deploy).starts_with("web ("));
    let config = evc.json(&["device", "config", "edge-1"]);
    let version = config["version"].as_i64().unwrap();
    assert_eq!(config["config"]["apps"][0]["displayname"], "web");
    assert_eq!(config["config"]["contentInfo"][0]["sha256"], note["sha256"]);
    // The same again is no news for the device.
    evc.ok(&deploy);
    assert_eq!(
        evc.json(&["device", "config", "edge-1"])["version"],
        version
    );

    for (order, field) in [("restart", "restart"), ("purge", "purge")] {
        let ordered = evc.json(&["app", order, "web", "--device", "edge-1"]);
        assert_eq!(ordered["counter"], 1);
        let config = evc.json(&["device", "config", "edge-1"]);
        assert_eq!(config["config"]["apps"][0][field]["counter"], 1);
    }
    evc.ok(&["app", "stop", "web", "--device", "edge-1"]);
    let apps = evc.ok(&["app", "list"]);
    assert!(apps.lines().nth(1).unwrap().contains("stop"), "{apps}");
    evc.ok(&["app", "start", "web", "--device", "edge-1"]);
    assert_eq!(evc.json(&["app", "list"])[0]["activate"], true);
    let reboot = evc.json(&["device", "reboot", "edge-1"]);
    assert_eq!(reboot["counter"], 1);

    // What is stored can be written to a file, edited and applied.
    let spec = evc.ok(&["device", "config", "edge-1", "--spec"]);
    let same = evc.file("same.yaml", &format!("device: edge-1\n{spec}"));
    let applied = evc.ok(&["apply", "-f", same.to_str().unwrap()]);
    assert!(applied.starts_with("edge-1: unchanged"), "{applied}");
    evc.ok(&["app", "delete", "web", "--device", "edge-1"]);
    assert_eq!(evc.json(&["app", "list"]), serde_json::json!([]));

    evc.ok(&["device", "delete", "edge-1"]);
    assert_eq!(evc.json(&["device", "list"]), serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_one_clear_message_and_change_nothing() {
    let evc = Evc::start();
    evc.ok(&["onboarding", "add", "--serial", "*"]);
    onboard(&evc, "S1").await;
    onboard(&evc, "S2").await;
    let version = |device| evc.json(&["device", "config", device])["version"].clone();
    let before = (version("S1"), version("S2"));

    let bad =
        "device: S1\nmaintenance_mode: true\n---\ndevice: S2\napps:\n- {name: a, memroy: 1}\n";
    let bad = evc.file("bad.yaml", bad);
    let error = evc.fails(&["apply", "-f", bad.to_str().unwrap()]);
    assert!(error.contains("apps[0].memroy: unknown field"), "{error}");
    assert!(error.contains("did you mean `memory`?"), "{error}");
    let dangling = "device: S1\nmaintenance_mode: true\n---\ndevice: S2\napps:\n\
                    - {name: a, memory: 64MiB, volumes: [v]}\n";
    let dangling = evc.file("dangling.yaml", dangling);
    let error = evc.fails(&["apply", "-f", dangling.to_str().unwrap()]);
    assert!(
        error.contains("S2: apps[0].volumes[0]: no volume called \"v\""),
        "{error}"
    );

    let good = evc.file("good.yaml", "device: S1\nmaintenance_mode: true\n");
    let good = good.to_str().unwrap();
    assert!(
        evc.ok(&["apply", "-f", good, "--dry-run"])
            .contains("only checked")
    );
    assert_eq!((version("S1"), version("S2")), before);
    evc.ok(&["apply", "-f", good]);
    assert_ne!(version("S1"), before.0);

    let manifest = MANIFEST.replace("\"target\": \"Disk\"", "\"target\": \"Disc\"");
    let manifest = evc.file("bad.json", &manifest);
    let url = "https://h/x.qcow2";
    let manifest = manifest.to_str().unwrap();
    let error = evc.fails(&[
        "app",
        "deploy",
        "-f",
        manifest,
        "--device",
        "S1",
        "--image-url",
        url,
    ]);
    assert!(
        error.contains("images[0].target: \"Disc\" is not one of"),
        "{error}"
    );

    // Without the token nothing is answered.
    let address = std::fs::read_to_string(evc.dir.path().join("admin.address")).unwrap();
    let args = [
        "device",
        "list",
        "--address",
        address.trim(),
        "--token",
        "wrong",
    ];
    assert!(evc.fails(&args).contains("bearer token"));
}
