//! The command itself, on directories.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use bus::Bus;
use model::{code::Code, content::DownloadPhase, topics};
use serde_json::{Value, json};

use crate::device::*;

fn eve(root: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_eve"))
        .arg("--root")
        .arg(root)
        .args(args)
        .env_remove("NO_COLOR")
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Standard output of a command that ends with this code.
fn says(root: &Path, code: i32, args: &[&str]) -> String {
    let output = eve(root, args);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{args:?}: {}",
        errors(&output)
    );
    text(&output)
}

fn as_json(root: &Path, code: i32, args: &[&str]) -> Value {
    let mut all = vec!["--json"];
    all.extend(args);
    serde_json::from_str(&says(root, code, &all)).unwrap()
}

/// The errors of a command that ends with this code.
fn refuses(root: &Path, code: i32, args: &[&str]) -> String {
    let output = eve(root, args);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{args:?}: {}",
        text(&output)
    );
    errors(&output)
}

fn on_disk(device: &eve::Device) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    write(device, root.path());
    root
}

const AT: &str = "--at=2026-01-02T03:04:05Z";

#[test]
fn ps_shows_helpers_below_their_owners() {
    let root = on_disk(&with(|d| down(d, "verifier", 4)));
    golden("ps", &[("ps", says(root.path(), 0, &["ps", AT]))]);
    let units = as_json(root.path(), 0, &["ps"]);
    assert_eq!(units.as_array().unwrap().len(), 14);
}

#[test]
fn status_is_one_screen() {
    let refused = with(|d| {
        let fault = fault(Code::DownloadRefused, "blob", "404 Not Found");
        set_download(d, DownloadPhase::Waiting { done_bytes: 5 }, Some(fault));
    });
    let screen = |device| says(on_disk(device).path(), 0, &["status", AT]);
    let cases = [
        ("all is well", screen(&healthy())),
        ("a download is refused", screen(&refused)),
        ("nothing was published", screen(&bare())),
    ];
    golden("status", &cases);
    let all = as_json(on_disk(&healthy()).path(), 0, &["status"]);
    assert_eq!(all["Apps"][0]["DisplayName"], "web");
}

#[test]
fn get_lists_topics_and_prints_objects() {
    let root = on_disk(&healthy());
    let dir = root.path();
    let list = says(dir, 0, &["get"]);
    assert!(list.starts_with("TOPIC "), "{list}");
    let row = "zedmanager/AppInstanceStatus";
    assert!(
        list.lines()
            .any(|line| line.starts_with(row) && line.contains("ready")),
        "{list}"
    );
    assert_eq!(says(dir, 0, &["get", "zedmanager"]).lines().count(), 5);
    let topics = as_json(dir, 0, &["get", "nim"]);
    assert_eq!(topics[0]["Name"], "DeviceNetworkStatus");
    assert_eq!(topics[0]["Ready"], true);
    // By key, by its beginning, by name.
    for key in [APP, "6ba7", "web"] {
        let object: Value = serde_json::from_str(&says(
            dir,
            0,
            &["get", "zedmanager", "AppInstanceStatus", key],
        ))
        .unwrap();
        assert_eq!(object["Id"], APP);
    }
    let missing = refuses(dir, 3, &["get", "zedmanager", "AppInstanceStatu"]);
    assert!(
        missing.contains("zedmanager has AppInstanceStatus"),
        "{missing}"
    );
    refuses(dir, 3, &["get", "nobody"]);
    refuses(dir, 3, &["get", "zedmanager", "AppInstanceStatus", "x"]);
}

#[test]
fn why_answers_in_text_json_and_exit_code() {
    let root = on_disk(&with(|d| {
        let fault = fault(Code::DownloadRefused, "blob", "404 Not Found");
        set_download(d, DownloadPhase::Waiting { done_bytes: 5 }, Some(fault));
    }));
    let dir = root.path();
    let answer = as_json(dir, 1, &["why", "app", "web", AT]);
    let blocked = &answer["BlockedBy"];
    assert_eq!(blocked["Code"], "download.refused");
    assert_eq!(blocked["Nature"], "Fault");
    assert_eq!(blocked["AgeSeconds"], 200);
    assert_eq!(blocked["RetryInSeconds"], 552);
    assert_eq!(blocked["Attempts"], 4);
    assert_eq!(blocked["Properties"][0]["Name"], "timer.download.retry");
    assert_eq!(
        blocked["Subject"],
        json!({"Kind": "Download", "Key": DIGEST, "Name": ""})
    );
    let kinds: Vec<&str> = answer["Chain"]
        .as_array()
        .unwrap()
        .iter()
        .map(|link| link["Subject"]["Kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["App", "Volume", "ContentTree", "Blob", "Download"]);
    // Without a kind, and without anything.
    assert!(says(dir, 1, &["why", "web", AT]).contains("404 Not Found"));
    let all = as_json(dir, 1, &["why", AT]);
    assert_eq!(all.as_array().unwrap().len(), 1);
    assert!(says(dir, 0, &["why", "service"]).contains("everything is as wanted"));
    assert!(says(dir, 0, &["why", "config"]).contains("as wanted"));
    assert!(refuses(dir, 3, &["why", "app", "wob"]).contains("there is web"));
    assert!(refuses(dir, 2, &["why", "apple", "web"]).contains("the kinds are app, volume"));
    refuses(dir, 2, &["why", "--at", "yesterday"]);
    // A copy works the same, seen from its newest object.
    assert!(says(dir, 1, &["why", "app", "web", "--at", "newest"]).contains("404 Not Found"));
}

#[test]
fn put_and_delete_check_the_object_and_the_writer() {
    let root = on_disk(&healthy());
    let dir = root.path();
    let object = says(dir, 0, &["get", "zedagent", "AppInstanceConfig", APP]);
    let file = dir.join("object.json");
    let put = |file: &str, flags: &[&str]| {
        let mut args = vec!["put", "zedagent", "AppInstanceConfig", "copy", file];
        args.extend(flags);
        eve(dir, &args)
    };
    std::fs::write(&file, &object).unwrap();
    let path = file.to_str().unwrap();
    assert_eq!(put(path, &[]).status.code(), Some(0));
    let copy = says(dir, 0, &["get", "zedagent", "AppInstanceConfig", "copy"]);
    assert_eq!(copy, object);
    // What is not such an object.
    std::fs::write(&file, "{}").unwrap();
    let refused = put(path, &[]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        errors(&refused).contains("missing field `Id`"),
        "{}",
        errors(&refused)
    );
    assert_eq!(put(path, &["--unchecked"]).status.code(), Some(0));
    std::fs::write(&file, "{").unwrap();
    assert_eq!(put(path, &["--unchecked"]).status.code(), Some(2));
    assert_eq!(put("/nonexistent", &[]).status.code(), Some(4));
    says(dir, 0, &["delete", "zedagent", "AppInstanceConfig", "copy"]);
    refuses(dir, 3, &["delete", "zedagent", "AppInstanceConfig", "copy"]);
    // From standard input, into a topic that is not there yet, and complete.
    let fresh = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_eve"))
        .args([
            "put",
            "zedagent",
            "AppInstanceConfig",
            APP,
            "-",
            "--ready",
            "--root",
        ])
        .arg(fresh.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(object.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success());
    let bus = Bus::open(fresh.path(), "zedmanager").unwrap();
    let rows = bus.read(&topics::APP_INSTANCE_CONFIG).unwrap();
    assert_eq!(rows.map(|rows| rows.len()), Some(1));
}

/// Ends the process that a test has started.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_running_writer_is_not_disturbed() {
    let root = on_disk(&healthy());
    let dir = root.path();
    // A process that is called like the service and works below the same root.
    let program = dir.join("zedagent");
    std::os::unix::fs::symlink("/bin/sh", &program).unwrap();
    let child = Command::new(&program)
        .args(["-c", "read x", "zedagent", "--root"])
        .arg(dir)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    let _ends = Ends(child);
    let args = ["delete", "zedagent", "AppInstanceConfig", APP];
    let why = refuses(dir, 5, &args);
    assert!(why.contains(&format!("zedagent runs (pid {pid})")), "{why}");
    // Another device's process is none of ours.
    let other = on_disk(&healthy());
    says(other.path(), 0, &args);
    says(dir, 0, &[&args[..], &["--force"]].concat());
}

#[test]
fn diff_compares_devices_and_saved_states() {
    let (old, new) = (
        on_disk(&healthy()),
        on_disk(&with(|d| {
            d.apps.rows.get_mut(APP).unwrap().display_name = "web 2".to_owned();
            d.journal.rows.remove("device");
        })),
    );
    let [a, b] = [&old, &new].map(|root| root.path().to_str().unwrap().to_owned());
    let expected = format!(
        "- reporter/DeliveryJournal/device\n~ zedmanager/AppInstanceStatus/{APP}\n    DisplayName \"web\" -> \"web 2\"\n"
    );
    assert_eq!(says(old.path(), 1, &["diff", &a, &b]), expected);
    assert_eq!(says(old.path(), 0, &["diff", &a, &a]), "");
    // One directory is compared with the device.
    assert_eq!(says(new.path(), 1, &["diff", &a]), expected);
    let file = old.path().join("saved.json");
    let saved = file.to_str().unwrap();
    says(old.path(), 0, &["diff", "--save", saved]);
    assert_eq!(says(new.path(), 1, &["diff", "--since", saved]), expected);
    let changes = as_json(new.path(), 1, &["diff", "--since", saved]);
    assert_eq!(changes[0]["Change"], "Removed");
    assert_eq!(changes[1]["Differences"][0]["New"], "web 2");
    refuses(old.path(), 2, &["diff"]);
    std::fs::write(&file, "[]").unwrap();
    assert!(refuses(new.path(), 2, &["diff", "--since", saved]).contains("not a state saved by"));
}

#[test]
fn watch_shows_changes_as_they_happen() {
    let root = on_disk(&healthy());
    let child = Command::new(env!("CARGO_BIN_EXE_eve"))
        .args(["watch", "--root"])
        .arg(root.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Ends(child);
    let mut errors = BufReader::new(child.0.stderr.take().unwrap());
    let mut out = BufReader::new(child.0.stdout.take().unwrap());
    let mut line = String::new();
    errors.read_line(&mut line).unwrap();
    assert!(line.contains("watching"), "{line}");
    let bus = Bus::open(root.path(), "zedmanager").unwrap();
    let mut publisher = bus.publisher(&topics::APP_INSTANCE_STATUS).unwrap();
    let mut status = publisher.rows()[APP].clone();
    status.display_name = "web 2".to_owned();
    publisher.publish(APP, &status).unwrap();
    let mut next = || {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        line
    };
    let head = next();
    assert!(
        head.contains(&format!("~ zedmanager/AppInstanceStatus/{APP}")),
        "{head}"
    );
    assert_eq!(next(), "    DisplayName \"web\" -> \"web 2\"\n");
    // A topic that appears later is watched too.
    let bus = bus.acting_as("reporter");
    drop(bus);
    let bus = Bus::open(root.path(), "test").unwrap();
    bus.put_raw("newlogd", "NewlogMetrics", "global", &json!({"Lines": 1}))
        .unwrap();
    bus.set_ready_raw("newlogd", "NewlogMetrics").unwrap();
    let head = next();
    assert!(head.contains("+ newlogd/NewlogMetrics/global"), "{head}");
}

#[test]
fn logs_are_merged_by_time_and_followed() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("persist/log");
    std::fs::create_dir_all(&dir).unwrap();
    let json = |second: u32, level: &str, text: &str| {
        format!(
            "{{\"timestamp\":\"2026-01-02T03:04:{second:02}Z\",\"level\":\"{level}\",\"message\":\"{text}\",\"port\":\"eth0\"}}\n"
        )
    };
    let nim = dir.join("nim.log");
    std::fs::write(dir.join("nim.log.1"), json(1, "INFO", "first")).unwrap();
    std::fs::write(&nim, json(3, "WARN", "third")).unwrap();
    std::fs::write(
        dir.join("zedrouter+dns-bn1.log"),
        json(2, "ERROR", "second") + "plain\n",
    )
    .unwrap();
    let all = says(root.path(), 0, &["logs"]);
    golden("logs", &[("all", all)]);
    let texts = |args: &[&str]| -> Vec<String> {
        says(root.path(), 0, &[&["--json", "logs"], args].concat())
            .lines()
            .map(|line| {
                serde_json::from_str::<Value>(line).unwrap()["Text"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    };
    assert_eq!(texts(&["nim"]), ["first", "third"]);
    assert_eq!(texts(&["nim", "-n", "1"]), ["third"]);
    assert_eq!(texts(&["--level", "warning"]), ["second", "third"]);
    assert_eq!(texts(&["zedrouter/"]), ["second", "plain"]);
    assert_eq!(texts(&["--since", "2026-01-02T03:04:03Z"]), ["third"]);
    assert_eq!(
        texts(&["nim", "--until", "2026-01-02T03:04:02Z"]),
        ["first"]
    );
    assert_eq!(texts(&["--since", "1h"]), [""; 0]);
    assert!(refuses(root.path(), 2, &["logs", "--since", "soon"]).contains("not a time"));
    assert!(
        refuses(root.path(), 3, &["logs", "nobody"]).contains("there are nim, zedrouter/dns-bn1")
    );
    let child = Command::new(env!("CARGO_BIN_EXE_eve"))
        .args(["logs", "nim", "--follow", "-n", "1", "--root"])
        .arg(root.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Ends(child);
    let mut out = BufReader::new(child.0.stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        line
    };
    assert!(next().contains("third"));
    let mut file = std::fs::OpenOptions::new().append(true).open(&nim).unwrap();
    file.write_all(json(4, "INFO", "fourth").as_bytes())
        .unwrap();
    assert!(next().contains("fourth"));
}

/// A file of newlogd's store.
fn store(root: &Path, queue: &str, name: &str, entries: &[Value]) {
    let dir = root.join("persist/newlog").join(queue);
    std::fs::create_dir_all(&dir).unwrap();
    let file = std::fs::File::create(dir.join(name)).unwrap();
    let mut file = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    for entry in entries {
        writeln!(file, "{entry}").unwrap();
    }
    file.finish().unwrap();
}

#[test]
fn logs_go_on_in_the_store_behind_what_was_cut_off() {
    let root = on_disk(&healthy());
    let dir = root.path().join("persist/log");
    std::fs::create_dir_all(dir.join("guests")).unwrap();
    let line = |second: u32, text: &str| {
        format!(
            "{{\"timestamp\":\"2026-01-02T03:04:{second:02}Z\",\"level\":\"INFO\",\"message\":\"{text}\"}}\n"
        )
    };
    std::fs::write(dir.join("nim.log"), line(2, "two") + &line(3, "three")).unwrap();
    std::fs::write(
        dir.join(format!("guests/{APP}.console")),
        "booted\r\nlogin:\n",
    )
    .unwrap();
    // 2026-01-02T03:04:00Z
    let entry = |msgid: u64, source: &str, iid: &str, text: &str, severity: &str| {
        json!({"msgid": msgid, "source": source, "iid": iid, "content": text, "severity": severity,
            "timestamp": {"seconds": 1_767_323_040 + msgid}})
    };
    let device = [
        entry(0, "kernel", "", "eth0: link down", "err"),
        entry(1, "nim", "", "one", "info"),
        entry(2, "nim", "", "two", "info"),
    ];
    store(root.path(), "devUpload", "dev.log.1.gz", &device);
    store(
        root.path(),
        "keepSentQueue",
        &format!("app.{APP}.log.2.gz"),
        &[
            entry(5, "guest_vm", APP, "grub", "info"),
            entry(6, "guest_vm", APP, "booted", "info"),
        ],
    );
    // What is being sent may be torn off; the rest counts.
    std::fs::write(
        root.path().join("persist/newlog/devUpload/dev.log.9.gz"),
        b"\x1f\x8b",
    )
    .unwrap();
    let texts = |args: &[&str]| -> Vec<String> {
        let said = says(root.path(), 0, &[&["--json", "logs"], args].concat());
        let text = |line: &str| {
            serde_json::from_str::<Value>(line).unwrap()["Text"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        said.lines().map(text).collect()
    };
    assert_eq!(texts(&["nim"]), ["one", "two", "three"]);
    assert_eq!(texts(&["kernel"]), ["eth0: link down"]);
    assert_eq!(texts(&["--level", "error"]), ["eth0: link down"]);
    assert_eq!(texts(&[]), ["eth0: link down", "one", "two", "three"]);
    assert_eq!(texts(&["--app", "web"]), ["grub", "booted", "login:"]);
    let console = says(root.path(), 0, &["logs", "--console", "web"]);
    assert!(
        console.contains("2026-01-02 03:04:06.000Z info  web  booted"),
        "{console}"
    );
}

#[test]
fn the_console_of_a_guest() {
    let root = on_disk(&healthy());
    let dir = root.path().join("persist/log/guests");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(
        dir.join(format!("{APP}.console")),
        "Linux version 6\r\nlogin:\n",
    )
    .unwrap();
    let text = says(root.path(), 0, &["logs", "--console", "web"]);
    assert!(
        text.lines()
            .next()
            .unwrap()
            .contains("web  Linux version 6"),
        "{text}"
    );
    refuses(root.path(), 3, &["logs", "--console", "nobody"]);
}

#[test]
fn usage_completions_and_a_reader_that_goes() {
    let empty = tempfile::tempdir().unwrap();
    assert!(refuses(empty.path(), 4, &["ps"]).contains("no bus below"));
    refuses(empty.path(), 2, &["frobnicate"]);
    assert!(says(empty.path(), 0, &["--help"]).contains("Exit codes:"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(says(empty.path(), 0, &["completions", shell]).contains("eve"));
    }
    // No colours but on a terminal.
    let root = on_disk(&healthy());
    assert!(!says(root.path(), 0, &["ps"]).contains('\u{1b}'));
    let mut child = Command::new(env!("CARGO_BIN_EXE_eve"))
        .args(["get", "zedagent", "AppInstanceConfig", "--root"])
        .arg(root.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let begun = Instant::now();
    assert!(child.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(10));
}
