//! The wiring of the device: what services ask for exists, what they publish is theirs, and the page says so.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use model::topics::ALL;
use scenarios::sim::{AppWish, Device, SERVICES};

type Wiring = Vec<(
    &'static str,
    Vec<(&'static str, &'static str)>,
    Vec<(&'static str, &'static str)>,
)>;

async fn wiring() -> (Device, Wiring) {
    let mut device = Device::new(1);
    device.machine.with(|s| {
        s.evc.want(|wish| {
            wish.apps.insert(1, AppWish::default());
        });
    });
    device.pass(Duration::from_secs(60)).await;
    let wiring = device.wiring().await;
    (device, wiring)
}

#[tokio::test(start_paused = true)]
async fn every_input_exists_and_nobody_publishes_for_another() {
    let (device, wiring) = wiring().await;
    let declared: BTreeSet<_> = ALL
        .iter()
        .map(|topic| (topic.service, topic.name))
        .collect();
    let mut published = BTreeSet::new();
    for (service, inputs, outputs) in &wiring {
        for input in inputs {
            assert!(declared.contains(input), "{service} asks for {input:?}");
            assert_ne!(input.0, *service, "its own rows are no input");
        }
        for output in outputs {
            assert_eq!(output.0, *service, "{service} publishes {output:?}");
            assert!(declared.contains(output), "{service} publishes {output:?}");
            assert!(published.insert(*output), "{output:?} twice");
        }
    }
    let services: BTreeSet<_> = wiring.iter().map(|(service, ..)| *service).collect();
    let expected = declared
        .iter()
        .filter(|(service, _)| services.contains(service));
    assert_eq!(
        published,
        expected.copied().collect(),
        "every topic has its writer"
    );
    for topic in device.bus.topics().unwrap() {
        let known = ALL.iter().any(|t| {
            (t.service, t.name, t.persistent) == (&*topic.service, &*topic.name, topic.persistent)
        });
        assert!(known, "{topic:?} is not declared");
    }
}

#[tokio::test(start_paused = true)]
async fn the_page_about_topics_names_the_readers() {
    let (_, wiring) = wiring().await;
    let mut readers: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for (service, inputs, _) in &wiring {
        for input in inputs {
            readers.entry(*input).or_default().insert(service);
        }
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/topics.md");
    let page = fs::read_to_string(page).unwrap();
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [writer, topic, _, _, named] = cells[..] else {
            panic!("{line}")
        };
        if writer == "writer" {
            continue;
        }
        let named: BTreeSet<&str> = named
            .split(", ")
            .filter(|name| SERVICES.contains(name))
            .collect();
        let real = readers.get(&(writer, topic)).cloned().unwrap_or_default();
        assert_eq!(named, real, "{writer}/{topic}");
    }
}
