//! zedmanager between a scripted zedagent and fake neighbours that take one step at a time.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{collections::BTreeMap, path::PathBuf};

use agent::{Clock, Runtime};
use bus::{Bus, Publisher, Rows};
use jiff::Timestamp;
use model::{
    app::{AppInstanceConfig, AppPhase, Resources, VifConfig, VolumeAttachment},
    code::Code,
    domain::{DomainConfig, DomainPhase, DomainStatus},
    fault::Fault,
    id::{AppId, NetworkInstanceId, VolumeId, VolumeKey},
    network::{AppNetworkPhase, AppNetworkStatus, AppVifStatus},
    node::NodeAgentStatus,
    topics::{
        APP_COMMAND_COUNTERS, APP_INSTANCE_CONFIG, APP_INSTANCE_STATUS, APP_NETWORK_CONFIG,
        APP_NETWORK_STATUS, DOMAIN_CONFIG, DOMAIN_STATUS, NODE_AGENT_STATUS, VOLUME_REF_CONFIG,
        VOLUME_REF_STATUS,
    },
    volume::{ImageFormat, VolumePhase, VolumeRefStatus},
};
use proptest::prelude::*;
use uuid::Uuid;
use zedmanager::{Zedmanager, world::BusOnly};

/// The neighbours as far as zedmanager can tell, and what must never happen to them.
struct Device {
    bus: Bus,
    zedmanager: Runtime<Zedmanager, BusOnly>,
    apps: Publisher<AppInstanceConfig>,
    volumes: Publisher<VolumeRefStatus>,
    networks: Publisher<AppNetworkStatus>,
    domains: Publisher<DomainStatus>,
    node: Publisher<NodeAgentStatus>,
    running: BTreeMap<String, DomainConfig>,
    starts: u32,
}

impl Device {
    fn new() -> Self {
        let bus = Bus::memory();
        Self {
            zedmanager: runtime(&bus),
            apps: bus
                .acting_as("zedagent")
                .publisher(&APP_INSTANCE_CONFIG)
                .unwrap(),
            volumes: bus
                .acting_as("volumemgr")
                .publisher(&VOLUME_REF_STATUS)
                .unwrap(),
            networks: bus
                .acting_as("zedrouter")
                .publisher(&APP_NETWORK_STATUS)
                .unwrap(),
            domains: bus
                .acting_as("domainmgr")
                .publisher(&DOMAIN_STATUS)
                .unwrap(),
            node: bus
                .acting_as("nodeagent")
                .publisher(&NODE_AGENT_STATUS)
                .unwrap(),
            running: BTreeMap::new(),
            starts: 0,
            bus,
        }
    }

    async fn turn(&mut self) {
        self.zedmanager.settle().await.unwrap();
        for (key, domain) in &self.running {
            let refs = self.rows(&VOLUME_REF_CONFIG);
            for disk in &domain.disks {
                let held = refs
                    .values()
                    .any(|r| r.app.to_string() == *key && r.device_volume() == disk.volume);
                assert!(
                    held,
                    "volume {} of the running guest {key} was given up",
                    disk.volume
                );
            }
            assert!(
                self.rows(&APP_NETWORK_CONFIG)
                    .get(key)
                    .is_some_and(|n| n.activate),
                "network of {key} taken away"
            );
        }
    }

    fn rows<T: bus::Object>(&self, topic: &bus::Topic<T>) -> Rows<T> {
        self.bus.read(topic).unwrap().unwrap_or_default()
    }

    fn want(&mut self, apps: &[AppInstanceConfig]) {
        self.apps
            .replace(&apps.iter().map(|a| (a.id.to_string(), a.clone())).collect())
            .unwrap();
        self.apps.set_ready().unwrap();
    }

    /// volumemgr makes every wanted volume one phase further.
    fn step_volumes(&mut self) {
        let refs = self.rows(&VOLUME_REF_CONFIG);
        let rows = refs
            .iter()
            .map(|(key, r)| {
                let phase = match self.volumes.rows().get(key).map(|s| &s.phase) {
                    None => VolumePhase::AwaitContent {
                        done_bytes: 5,
                        total_bytes: 10,
                        content: "Downloading".into(),
                    },
                    Some(VolumePhase::AwaitContent { .. }) => VolumePhase::Creating { percent: 50 },
                    Some(_) => VolumePhase::Created,
                };
                let path = (phase == VolumePhase::Created)
                    .then(|| PathBuf::from(format!("/persist/{}", r.device_volume())));
                let status = VolumeRefStatus {
                    app: r.app,
                    volume: r.device_volume(),
                    phase,
                    path,
                    format: ImageFormat::Qcow2,
                    read_only: false,
                    fault: None,
                };
                (key.clone(), status)
            })
            .collect();
        self.volumes.replace(&rows).unwrap();
        self.volumes.set_ready().unwrap();
    }

    fn step_network(&mut self) {
        let rows = self
            .rows(&APP_NETWORK_CONFIG)
            .iter()
            .map(|(key, n)| {
                let vifs = n.vifs.iter().enumerate().map(|(i, v)| AppVifStatus {
                    name: v.name.clone(),
                    network_instance: v.network_instance,
                    vif: format!("nbu{i}x1"),
                    bridge: "bn1".into(),
                    mac: "02:16:3e:00:00:01".parse().unwrap(),
                    ip: None,
                    lease_expires: None,
                    mtu: 1500,
                });
                let status = AppNetworkStatus {
                    app: n.app,
                    phase: if n.activate {
                        AppNetworkPhase::Ready
                    } else {
                        AppNetworkPhase::Inactive
                    },
                    number: 1,
                    vifs: vifs.collect(),
                    fault: None,
                };
                (key.clone(), status)
            })
            .collect();
        self.networks.replace(&rows).unwrap();
        self.networks.set_ready().unwrap();
    }

    /// domainmgr starts what shall run, stops what shall not, restarts other incarnations.
    fn step_domains(&mut self) {
        let configs = self.rows(&DOMAIN_CONFIG);
        let mut rows = Rows::new();
        let gone: Vec<String> = self
            .running
            .keys()
            .filter(|k| !configs.contains_key(*k))
            .cloned()
            .collect();
        assert!(
            gone.is_empty(),
            "the config of a running guest vanished: {gone:?}"
        );
        for (key, config) in &configs {
            let running = self.running.get(key);
            match running {
                Some(r) if !config.activate || r.incarnation != config.incarnation => {
                    self.running.remove(key);
                }
                None if config.activate => {
                    self.running.insert(key.clone(), config.clone());
                    self.starts += 1;
                }
                Some(_) | None => {}
            }
            let phase = match self.running.get(key) {
                Some(_) => DomainPhase::Running {
                    unit: "q".into(),
                    pid: 7,
                    since: Timestamp::UNIX_EPOCH,
                },
                None => DomainPhase::Halted,
            };
            let incarnation = self.running.get(key).map_or(0, |r| r.incarnation);
            rows.insert(
                key.clone(),
                DomainStatus {
                    app: config.app,
                    phase,
                    incarnation,
                    boot_time: None,
                    boots: self.starts,
                    console_log: None,
                    vnc_port: None,
                    fault: None,
                },
            );
        }
        self.domains.replace(&rows).unwrap();
        self.domains.set_ready().unwrap();
    }

    async fn settle(&mut self) {
        for _ in 0..12 {
            self.turn().await;
            self.step_volumes();
            self.step_network();
            self.turn().await;
            self.step_domains();
        }
        self.turn().await;
    }

    fn phase(&self, key: &str) -> Option<AppPhase> {
        self.rows(&APP_INSTANCE_STATUS)
            .get(key)
            .map(|s| s.phase.clone())
    }
}

fn runtime(bus: &Bus) -> Runtime<Zedmanager, BusOnly> {
    Runtime::new(
        bus.acting_as("zedmanager"),
        BusOnly,
        Clock::tokio(Timestamp::UNIX_EPOCH),
        1,
    )
}

fn app(n: u128) -> AppInstanceConfig {
    AppInstanceConfig {
        id: AppId(Uuid::from_u128(n)),
        display_name: format!("app{n}"),
        version: "1".into(),
        activate: true,
        resources: Resources {
            vcpus: 1,
            memory_kib: 131_072,
            ..Resources::default()
        },
        volumes: vec![VolumeAttachment {
            volume: VolumeKey {
                volume: VolumeId(Uuid::from_u128(n * 100)),
                generation: 0,
            },
            target: model::app::DiskTarget::Disk,
            mount_dir: String::new(),
        }],
        vifs: vec![VifConfig {
            name: "eth0".into(),
            network_instance: NetworkInstanceId(Uuid::from_u128(9)),
            mac: None,
            ip: None,
            acls: Vec::new(),
        }],
        user_data: String::new(),
        restart_counter: 0,
        purge_counter: 0,
        start_delay_seconds: 0,
        fault: None,
    }
}

fn key(n: u128) -> String {
    AppId(Uuid::from_u128(n)).to_string()
}

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
