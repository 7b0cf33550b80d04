//! `eve why` on a device in every state in which it can be stuck: the services' real plans get it there, in virtual
//! time, and what an operator is told has to name the right thing, since when, until when, and what changes it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "why/stuck.rs"]
mod stuck;
#[path = "why/table.rs"]
mod table;

use std::{fs, path::Path};

use bus::Bus;
use eve::{
    Device as Seen, Snapshot,
    output::Output,
    why::{self, Answer, Asked, Nature},
};
use model::code::Code;
use scenarios::sim::Device;
use stuck::{Stuck, look, seen};

/// Holds the answer about a stuck device, its text and its JSON against the table.
fn judge(stuck: &Stuck, device: &Seen, answer: &Answer) {
    let name = stuck.name;
    let text = why::answer_text(Output::default(), answer, device.at);
    println!("=== {name}\n{text}");
    let found = answer
        .blocked_by
        .as_ref()
        .unwrap_or_else(|| panic!("{name}: nothing blocks it"));
    let (kind, nature) = stuck.at;
    assert_eq!(
        (found.subject.kind, found.nature, found.code),
        (kind, nature, stuck.code),
        "{name}"
    );
    assert!(found.text.contains(stuck.says), "{name}: {}", found.text);
    let chain: Vec<_> = answer.chain.iter().map(|link| link.subject.kind).collect();
    assert_eq!(chain, stuck.chain, "{name}");

    // Since when.
    let age = found.age_seconds.or(found.unchanged_seconds);
    assert!(age.is_some(), "{name}: no age");
    // Until when.
    match stuck.retry {
        Some((from, to)) => {
            let retry = found.retry_in_seconds;
            let fits = retry.is_some_and(|retry| (from..=to).contains(&retry));
            assert!(fits, "{name}: {retry:?} is not within {from} to {to}");
        }
        None => assert_eq!(found.retry_in_seconds, None, "{name}"),
    }
    // What changes it.
    let names: Vec<&str> = found.properties.iter().map(|p| p.name.as_str()).collect();
    if let Some(property) = stuck.property {
        assert!(names.contains(&property), "{name}: {names:?}");
        assert!(text.contains(&format!("{property} = ")), "{name}: {text}");
    }
    if let Some(code) = stuck.code {
        assert_eq!(found.remedy, code.remedy(), "{name}");
        assert!(
            text.contains(code.as_str()) && text.contains(code.remedy()),
            "{name}: {text}"
        );
    }
    let label = match nature {
        Nature::Fault => "blocked by",
        Nature::Waits => "waits at",
        Nature::Progress => "in progress at",
    };
    assert!(text.contains(label), "{name}: {text}");

    let json = serde_json::to_value(answer).unwrap();
    let blocked = &json["BlockedBy"];
    assert_eq!(
        (blocked["Code"].as_str(), blocked["RetryInSeconds"].as_i64()),
        (stuck.code.map(Code::as_str), found.retry_in_seconds),
        "{name}"
    );
    assert_eq!(
        json["Chain"].as_array().unwrap().len(),
        chain.len(),
        "{name}"
    );
    assert_eq!(blocked["Remedy"].as_str().unwrap(), found.remedy, "{name}");
}

async fn judge_all(table: Vec<Stuck>) {
    for stuck in table {
        let device = look(&stuck).await;
        let seen = seen(&device);
        let (kind, name) = stuck.asked;
        let answer = why::why(&seen, Some(kind), name)
            .unwrap_or_else(|error| panic!("{}: {error}", stuck.name));
        judge(&stuck, &seen, &answer);
        // It is found without being named, too.
        let troubles = why::troubles(&seen, None);
        let condition = answer.blocked_by.unwrap();
        let same = troubles.iter().any(|trouble| {
            trouble.condition.subject == condition.subject
                || trouble
                    .affects
                    .iter()
                    .any(|other| other.asked == answer.asked)
        });
        assert!(same, "{}: not among {troubles:#?}", stuck.name);
    }
}

#[tokio::test(start_paused = true)]
async fn images_and_volumes() {
    judge_all(table::images()).await;
}

#[tokio::test(start_paused = true)]
async fn ports_and_networks() {
    judge_all(table::networks()).await;
}

#[tokio::test(start_paused = true)]
async fn guests_and_commands() {
    judge_all(table::guests()).await;
}

#[tokio::test(start_paused = true)]
async fn the_controller() {
    judge_all(table::controller()).await;
}

/// Writes the device's bus as its services would.
fn save(device: &Device, root: &Path) {
    for info in device.bus.topics().unwrap() {
        let base = if info.persistent {
            "persist/status"
        } else {
            "run"
        };
        // Raw objects go where their topic is.
        fs::create_dir_all(root.join(base).join(&info.service).join(&info.name)).unwrap();
        let bus = Bus::open(root, "test").unwrap();
        for (key, value) in device.bus.read_raw(&info.service, &info.name).unwrap() {
            bus.put_raw(&info.service, &info.name, &key, &value)
                .unwrap();
        }
        if info.ready {
            bus.set_ready_raw(&info.service, &info.name).unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_directory_tells_the_same() {
    let stuck = table::images().swap_remove(1);
    let device = look(&stuck).await;
    let root = tempfile::tempdir().unwrap();
    save(&device, root.path());
    let copy = Seen::of(&Snapshot::load(root.path(), device.now()).unwrap());
    let ask = |seen: &Seen| why::why(seen, Some(Asked::App), "app 1").unwrap();
    assert_eq!(ask(&copy), ask(&seen(&device)));
    judge(&stuck, &copy, &ask(&copy));
}
