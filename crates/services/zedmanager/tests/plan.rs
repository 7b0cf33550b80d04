//! zedmanager between a scripted zedagent and fake neighbours that take one step at a time.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod neighbours;

use std::collections::BTreeMap;

use jiff::Timestamp;
use model::{
    app::{AppInstanceConfig, AppPhase},
    code::Code,
    fault::Fault,
    id::VolumeId,
    node::NodeAgentStatus,
    topics::{
        APP_COMMAND_COUNTERS, APP_INSTANCE_STATUS, APP_NETWORK_CONFIG, DOMAIN_CONFIG,
        VOLUME_REF_CONFIG,
    },
};
use proptest::prelude::*;
use uuid::Uuid;

use neighbours::{Device, app, key, runtime};

#[tokio::test(start_paused = true)]
async fn an_app_goes_through_its_phases_and_leaves_nothing_behind() {
    let mut d = Device::new();
    d.turn().await;
    assert!(
        d.bus.read(&APP_INSTANCE_STATUS).unwrap().is_none(),
        "nothing is said before zedagent has spoken"
    );
    d.want(&[app(1)]);
    d.turn().await;
    assert!(matches!(
        d.phase(&key(1)),
        Some(AppPhase::Preparing { percent: 0, .. })
    ));
    d.step_volumes();
    d.turn().await;
    assert!(matches!(
        d.phase(&key(1)),
        Some(AppPhase::Preparing { percent: 45, .. })
    ));
    d.step_volumes();
    d.step_volumes();
    d.turn().await;
    assert_eq!(d.phase(&key(1)), Some(AppPhase::AwaitNetwork));
    assert!(d.rows(&DOMAIN_CONFIG).is_empty());
    d.step_network();
    d.turn().await;
    assert_eq!(d.phase(&key(1)), Some(AppPhase::Booting));
    d.step_domains();
    d.turn().await;
    assert!(matches!(d.phase(&key(1)), Some(AppPhase::Running { .. })));
    d.want(&[]);
    d.turn().await;
    assert_eq!(d.phase(&key(1)), Some(AppPhase::Deleting));
    assert_eq!(d.rows(&APP_NETWORK_CONFIG).len(), 1, "the guest still runs");
    d.settle().await;
    assert!(d.rows(&APP_INSTANCE_STATUS).is_empty() && d.rows(&VOLUME_REF_CONFIG).is_empty());
    assert!(d.rows(&APP_COMMAND_COUNTERS).is_empty() && d.rows(&DOMAIN_CONFIG).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_restart_command_restarts_once_even_if_seen_twice() {
    let mut d = Device::new();
    d.want(&[app(1)]);
    d.settle().await;
    assert_eq!(d.starts, 1);
    let restarted = AppInstanceConfig {
        restart_counter: 3,
        ..app(1)
    };
    for _ in 0..3 {
        d.want(std::slice::from_ref(&restarted));
        d.settle().await;
        d.zedmanager = runtime(&d.bus);
    }
    assert_eq!(d.starts, 2);
}

#[tokio::test(start_paused = true)]
async fn a_purge_makes_new_volumes_while_the_old_guest_runs() {
    let mut d = Device::new();
    d.want(&[app(1)]);
    d.settle().await;
    d.want(&[AppInstanceConfig {
        purge_counter: 1,
        ..app(1)
    }]);
    d.turn().await;
    assert_eq!(d.phase(&key(1)), Some(AppPhase::Purging));
    assert_eq!(d.rows(&VOLUME_REF_CONFIG).len(), 2);
    d.step_domains();
    assert_eq!(d.starts, 1, "still the old guest");
    // The device loses power in the middle: only the persistent counters are left of zedmanager.
    d.zedmanager = runtime(&d.bus);
    d.settle().await;
    assert_eq!(d.starts, 2);
    assert_eq!(d.running[&key(1)].disks[0].volume.generation, 1);
    assert_eq!(
        d.rows(&VOLUME_REF_CONFIG).len(),
        1,
        "the old volume is given up"
    );
    assert_eq!(d.rows(&APP_COMMAND_COUNTERS)[&key(1)].generation_offset, 1);
}

#[tokio::test(start_paused = true)]
async fn a_purge_whose_volumes_the_controller_has_named_makes_no_others() {
    let mut d = Device::new();
    d.want(&[app(1)]);
    d.settle().await;
    let mut purged = AppInstanceConfig {
        purge_counter: 1,
        ..app(1)
    };
    purged.volumes[0].volume.generation = 1;
    d.want(&[purged]);
    d.turn().await;
    assert_eq!((d.phase(&key(1)), d.starts), (Some(AppPhase::Purging), 1));
    d.settle().await;
    assert_eq!(
        (d.starts, d.running[&key(1)].disks[0].volume.generation),
        (2, 1)
    );
    assert_eq!(d.rows(&VOLUME_REF_CONFIG).len(), 1);
    assert_eq!(d.rows(&APP_COMMAND_COUNTERS)[&key(1)].generation_offset, 0);
}

#[tokio::test(start_paused = true)]
async fn a_running_guest_keeps_its_hardware_until_it_is_restarted() {
    let mut d = Device::new();
    d.want(&[app(1)]);
    d.settle().await;
    let mut bigger = app(1);
    bigger.resources.memory_kib *= 2;
    d.want(std::slice::from_ref(&bigger));
    d.settle().await;
    assert_eq!(
        (d.starts, d.running[&key(1)].resources.memory_kib),
        (1, 131_072)
    );
    let fault = d.rows(&APP_INSTANCE_STATUS)[&key(1)].fault.clone().unwrap();
    assert_eq!(fault.code, Code::AppNeedsRestart);
    assert!(fault.text.contains("resources"), "{fault}");
    bigger.restart_counter = 1;
    d.want(&[bigger]);
    d.settle().await;
    assert_eq!(
        (d.starts, d.running[&key(1)].resources.memory_kib),
        (2, 262_144)
    );
    assert_eq!(d.rows(&APP_INSTANCE_STATUS)[&key(1)].fault, None);
}

#[tokio::test(start_paused = true)]
async fn a_faulty_config_of_one_app_stops_nothing() {
    let mut d = Device::new();
    d.want(&[app(1), app(2)]);
    d.settle().await;
    let fault = Fault::new(
        Code::ConfigReference,
        "app 1",
        "volume 5 is not in the config",
        Timestamp::UNIX_EPOCH,
    );
    let faulty = AppInstanceConfig {
        fault: Some(fault.clone()),
        volumes: vec![],
        ..app(1)
    };
    let unknown = AppInstanceConfig {
        fault: Some(fault.clone()),
        ..app(3)
    };
    d.want(&[faulty, app(2), unknown]);
    d.settle().await;
    assert_eq!((d.running.len(), d.starts), (2, 2));
    let status = &d.rows(&APP_INSTANCE_STATUS)[&key(1)];
    assert!(matches!(status.phase, AppPhase::Running { .. }) && status.fault == Some(fault));
    assert_eq!(d.phase(&key(3)), Some(AppPhase::Failed));
}

#[tokio::test(start_paused = true)]
async fn halting_the_device_halts_the_guests_and_keeps_what_they_need() {
    let mut d = Device::new();
    d.want(&[app(1)]);
    d.settle().await;
    let halt = NodeAgentStatus {
        halt_apps: true,
        ..NodeAgentStatus::default()
    };
    d.node.publish("nodeagent", &halt).unwrap();
    d.node.set_ready().unwrap();
    d.settle().await;
    assert!(d.running.is_empty());
    assert_eq!(d.phase(&key(1)), Some(AppPhase::Halted));
    assert_eq!(d.rows(&VOLUME_REF_CONFIG).len(), 1);
    d.node
        .publish("nodeagent", &NodeAgentStatus::default())
        .unwrap();
    d.settle().await;
    assert_eq!(d.running.len(), 1);
}

/// App, activate, restart counter, purge counter, faulty, volume generation.
type Wish = (u128, bool, u32, u32, bool, u64);

#[derive(Debug, Clone)]
enum Event {
    Want(Vec<Wish>),
    Turn,
    Volumes,
    Network,
    Domains,
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let app = (
        1u128..4,
        any::<bool>(),
        0u32..3,
        0u32..3,
        proptest::bool::weighted(0.2),
        0u64..2,
    );
    prop_oneof![
        2 => proptest::collection::vec(app, 0..4).prop_map(Event::Want),
        6 => Just(Event::Turn),
        4 => Just(Event::Volumes),
        4 => Just(Event::Network),
        4 => Just(Event::Domains),
        1 => Just(Event::Restart),
    ]
}

fn configs(wanted: &[Wish]) -> Vec<AppInstanceConfig> {
    let by_id: BTreeMap<u128, AppInstanceConfig> = wanted
        .iter()
        .map(|(n, activate, restart, purge, faulty, generation)| {
            let fault = faulty.then(|| {
                Fault::new(
                    Code::ConfigInvalid,
                    format!("app {n}"),
                    "bad",
                    Timestamp::UNIX_EPOCH,
                )
            });
            let mut config = AppInstanceConfig {
                activate: *activate,
                restart_counter: *restart,
                purge_counter: *purge,
                fault,
                ..app(*n)
            };
            config.volumes[0].volume.generation = *generation;
            (*n, config)
        })
        .collect();
    by_id.into_values().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Whatever the interleaving: no volume or interface of a running guest is given up (checked at each turn),
    /// and when everybody has had their turns, what runs is what the last config says.
    #[test]
    fn it_converges_to_the_last_config(events in proptest::collection::vec(event(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut d = Device::new();
            let mut last = Vec::new();
            for event in events {
                match event {
                    Event::Want(apps) => { last = configs(&apps); d.want(&last); }
                    Event::Turn => d.turn().await,
                    Event::Volumes => d.step_volumes(),
                    Event::Network => d.step_network(),
                    Event::Domains => { d.turn().await; d.step_domains(); }
                    Event::Restart => d.zedmanager = self::runtime(&d.bus),
                }
            }
            for config in &mut last { config.fault = None; }
            d.want(&last);
            d.settle().await;
            let wanted: Vec<String> = last.iter().filter(|a| a.activate).map(|a| a.id.to_string()).collect();
            assert_eq!(d.running.keys().cloned().collect::<Vec<_>>(), wanted);
            assert_eq!(d.rows(&APP_INSTANCE_STATUS).len(), last.len());
            // A guest that waits for a restart holds its old volume beside the new one.
            let held = d.rows(&APP_INSTANCE_STATUS).values().filter(|s| s.fault.is_some()).count();
            assert!((last.len()..=last.len() + held).contains(&d.rows(&VOLUME_REF_CONFIG).len()));
            let starts = d.starts;
            d.settle().await;
            assert_eq!(d.starts, starts, "at rest");
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_is_between_two_starts_keeps_what_it_is_started_with() {
    let mut d = Device::new();
    let purged = |purge| AppInstanceConfig {
        purge_counter: purge,
        ..app(1)
    };
    d.want(&[purged(0)]);
    d.settle().await;
    d.want(&[purged(1)]);
    // The old guest has ended, the new one was not started yet.
    while d.running.contains_key(&key(1)) {
        d.step_volumes();
        d.step_network();
        d.turn().await;
        d.step_domains();
    }
    let told = d.rows(&DOMAIN_CONFIG)[&key(1)].clone();
    let mut other = purged(1);
    other.volumes[0].volume.generation = 7;
    d.want(&[other]);
    d.turn().await;
    assert_eq!(d.rows(&DOMAIN_CONFIG)[&key(1)], told);
    let held = |d: &Device| {
        let refs = d.rows(&VOLUME_REF_CONFIG);
        refs.values()
            .any(|r| r.device_volume() == told.disks[0].volume)
    };
    assert!(held(&d));
    d.step_domains();
    assert!(d.running.contains_key(&key(1)) && held(&d));
}

#[tokio::test(start_paused = true)]
async fn a_purge_makes_new_volumes_also_when_the_list_changed_earlier() {
    let mut d = Device::new();
    d.want(&[app(1)]);
    d.settle().await;
    let mut more = app(1);
    let mut second = more.volumes[0].clone();
    second.volume.volume = VolumeId(Uuid::from_u128(101));
    more.volumes.push(second);
    more.restart_counter = 1;
    d.want(std::slice::from_ref(&more));
    d.settle().await;
    assert_eq!((d.starts, d.running[&key(1)].disks.len()), (2, 2));
    more.purge_counter = 1;
    d.want(&[more]);
    d.settle().await;
    let generations = |d: &Device| -> Vec<u64> {
        let disks = &d.running[&key(1)].disks;
        disks.iter().map(|disk| disk.volume.generation).collect()
    };
    assert_eq!((d.starts, generations(&d)), (3, vec![1, 1]), "fresh disks");
    assert_eq!(d.rows(&VOLUME_REF_CONFIG).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_app_that_goes_while_its_guest_may_be_starting_keeps_its_parts() {
    let mut d = Device::new();
    d.domains.set_ready().unwrap();
    d.want(&[app(1)]);
    for _ in 0..4 {
        d.turn().await;
        d.step_volumes();
        d.step_network();
    }
    d.turn().await;
    assert_eq!(d.rows(&DOMAIN_CONFIG).len(), 1, "domainmgr has been told");
    d.want(&[]);
    for _ in 0..3 {
        d.turn().await;
    }
    assert_eq!(
        d.rows(&VOLUME_REF_CONFIG).len(),
        1,
        "domainmgr has said nothing yet"
    );
    assert_eq!(d.rows(&APP_NETWORK_CONFIG).len(), 1);
    d.settle().await;
    assert!(d.rows(&VOLUME_REF_CONFIG).is_empty() && d.rows(&DOMAIN_CONFIG).is_empty());
}

/// Prints what a turn costs: `cargo nextest run -p zedmanager --run-ignored all --no-capture cost`.
#[tokio::test(start_paused = true)]
#[ignore = "a measurement"]
async fn cost_of_a_turn_with_a_thousand_apps() {
    let mut d = Device::new();
    let apps: Vec<_> = (1..=1000).map(app).collect();
    d.want(&apps);
    for _ in 0..6 {
        d.zedmanager.settle().await.unwrap();
        d.step_volumes();
        d.step_network();
        d.zedmanager.settle().await.unwrap();
        d.step_domains();
    }
    assert_eq!(d.running.len(), 1000);
    d.zedmanager.settle().await.unwrap();
    let began = std::time::Instant::now();
    for _ in 0..20 {
        d.zedmanager.turn().await.unwrap();
    }
    println!("zedmanager at rest: {:?} a turn", began.elapsed() / 20);
}
