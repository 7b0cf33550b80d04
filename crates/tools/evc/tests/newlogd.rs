//! The device's log service, which is written independently, against this controller.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent::{Clock, Runtime, Settled};
use bus::{Bus, Object, Topic};
use controller::identity::{load_or_create, system_random};
use controller::{ConfigPartition, Controller, KeyFiles, Keys as _};
use evc::admin::LogQuery;
use jiff::Timestamp;
use model::topics::{APP_INSTANCE_STATUS, CONFIG_ITEMS, DEVICE_NETWORK_STATUS, ONBOARDING_STATUS};
use newlogd::Newlogd;
use newlogd::world::evc::Evc;
use newlogd::world::store::Store;
use newlogd::world::{Logs, Places};
use serde_json::{Value, json};
use support::World;
use uplink::Port;
use uuid::Uuid;

const APP: Uuid = Uuid::from_u128(0xa);

/// Makes the device's CONFIG partition and brings the device in. Gives its UUID.
async fn onboard(world: &World, root: &Path) -> Uuid {
    let partition = root.join("config");
    fs::create_dir_all(&partition).unwrap();
    for entry in fs::read_dir(world.dir.path().join("device-config")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), partition.join(entry.file_name())).unwrap();
    }
    fs::write(partition.join("server"), format!("{}\n", world.devices)).unwrap();
    fs::write(partition.join("soft_serial"), "soft-1\n").unwrap();
    let read = ConfigPartition::read(&partition).unwrap();
    let (key, _) = load_or_create(&partition, Timestamp::now(), &mut system_random).unwrap();
    let mut device = Controller::new(&read, Arc::new(key), "HW-1", root).unwrap();
    let onboarding = KeyFiles::of(&partition).onboarding().unwrap();
    device.set_onboarding(onboarding).unwrap();
    device.set_ports(vec![Port::new("lo", vec!["127.0.0.1".parse().unwrap()])]);
    let certs = device.certs(Timestamp::now()).await.unwrap().value;
    device.set_certs(Some(Arc::new(certs)));
    device.register().await.unwrap();
    device.device_name().await.unwrap().value.uuid
}

fn publish<T: Object>(bus: &Bus, topic: &Topic<T>, key: &str, row: Value) {
    let writer = bus.acting_as(topic.service());
    let mut publisher = writer.publisher(topic).unwrap();
    let row: T = serde_json::from_value(row).unwrap();
    publisher.publish(key, &row).unwrap();
    publisher.set_ready().unwrap();
}

fn print(root: &Path, log: &str, lines: &[&str]) {
    let path = root.join("persist/log").join(log);
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap();
    for line in lines {
        writeln!(file, "{line}").unwrap();
    }
}

async fn lines(world: &World, app: Option<Uuid>) -> Vec<(String, String, String)> {
    let query = LogQuery {
        device: Some("soft-1".to_owned()),
        app: app.map(|app| app.to_string()),
        limit: 10_000,
        ..LogQuery::default()
    };
    let rows = world.admin.logs(&query).await.unwrap();
    rows.into_iter()
        .filter(|row| row.app == app.map(|app| app.to_string()))
        .map(|row| (row.source, row.severity, row.content))
        .collect()
}

#[tokio::test]
async fn logs_of_device_and_applications_arrive_and_are_read() {
    let world = World::new().await;
    world.admit("soft-1", false).await;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("persist/log/guests")).unwrap();
    let uuid = onboard(&world, root).await;

    let bus = Bus::memory();
    publish(
        &bus,
        &ONBOARDING_STATUS,
        "global",
        json!({"Phase": "Onboarded", "Device": uuid}),
    );
    let port = json!({"IfName": "lo", "Label": "lo", "IsMgmt": true, "Addresses": ["127.0.0.1/8"]});
    publish(
        &bus,
        &DEVICE_NETWORK_STATUS,
        "global",
        json!({"DpcKey": "zedagent", "State": "Success", "Ports": [port]}),
    );
    publish(
        &bus,
        &CONFIG_ITEMS,
        "global",
        json!({"Values": {"newlog.allow.fastupload": "true"}}),
    );
    let app = json!({
        "Id": APP, "DisplayName": "Zürich ☃", "Activate": true, "Phase": "Booting",
        "Since": "2026-01-01T00:00:00Z",
    });
    publish(&bus, &APP_INSTANCE_STATUS, &APP.to_string(), app);

    let clock = Clock::real(Duration::from_secs(1));
    let places = Places {
        logs: root.join("persist/log"),
        newlog: root.join("persist/newlog"),
        kmsg: None,
        release: root.join("run/eve-release"),
        disk: None,
    };
    let store = Store::at(places.newlog.clone());
    let keys = Arc::new(KeyFiles::of(&root.join("config")));
    let evc = Evc::new(root.to_owned(), keys, clock.clone());
    let logs = Logs::open(places, store, clock.clone(), evc).unwrap();
    let acting = bus.acting_as("newlogd");
    let mut newlogd = Runtime::<Newlogd, _>::new(acting, logs, clock, 1);

    print(
        root,
        "nim.log",
        &[
            r#"{"timestamp":"2026-01-01T00:00:01Z","level":"WARN","message":"a <b> & c","why":"\u2028 ü"}"#,
        ],
    );
    print(root, "zedrouter+dns-bn1.log", &["dnsmasq: started"]);
    let console = format!("guests/{APP}.console");
    print(
        root,
        &console,
        &["Linux version 6.1", "\u{1b}[32mok\u{1b}[0m"],
    );
    let many: Vec<String> = (0..5000).map(|n| format!("line {n:0>90}")).collect();
    let all: Vec<&str> = many.iter().map(String::as_str).collect();
    print(root, "zedmanager.log", &all);

    // 10 s until few lines become a file, and 3 s from one upload to the next.
    for _ in 0..60 {
        let settled = newlogd.settle().await.unwrap();
        assert_eq!(settled, Settled::Quiet);
        tokio::time::sleep(Duration::from_millis(500)).await;
        if lines(&world, Some(APP)).await.len() == 2 && lines(&world, None).await.len() == 5002 {
            break;
        }
    }
    let mut by_source: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for (source, severity, content) in lines(&world, None).await {
        by_source
            .entry(source)
            .or_default()
            .push((severity, content));
    }
    let said = (
        "warning".to_owned(),
        "a <b> & c why=\"\u{2028} ü\"".to_owned(),
    );
    assert_eq!(by_source["nim"], [said]);
    assert_eq!(by_source["zedrouter/dns-bn1"][0].1, "dnsmasq: started");
    let got: Vec<&String> = by_source["zedmanager"]
        .iter()
        .map(|(_, text)| text)
        .collect();
    assert!(got.iter().zip(&many).all(|(a, b)| *a == b) && got.len() == many.len());
    let guest = lines(&world, Some(APP)).await;
    assert_eq!(guest[0].2, "Linux version 6.1");
    assert_eq!(guest[1].2, "\u{1b}[32mok\u{1b}[0m");
    let left = |queue: &str| {
        let entries = fs::read_dir(root.join("persist/newlog").join(queue));
        entries.unwrap().count()
    };
    assert_eq!((left("devUpload"), left("appUpload")), (0, 0));
    assert_eq!(left("keepSentQueue"), 1);
    world.end().await;
}
