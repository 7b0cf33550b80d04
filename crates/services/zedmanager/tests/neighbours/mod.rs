//! Fake neighbours of zedmanager that take one step at a time, and what must never happen to them.

use std::{collections::BTreeMap, path::PathBuf};

use agent::{Clock, Runtime};
use bus::{Bus, Publisher, Rows};
use jiff::Timestamp;
use model::{
    app::{AppInstanceConfig, AppPhase, Resources, VifConfig, VolumeAttachment},
    domain::{DomainConfig, DomainPhase, DomainStatus},
    id::{AppId, NetworkInstanceId, VolumeId, VolumeKey},
    network::{AppNetworkPhase, AppNetworkStatus, AppVifStatus},
    node::NodeAgentStatus,
    topics::{
        APP_INSTANCE_CONFIG, APP_INSTANCE_STATUS, APP_NETWORK_CONFIG, APP_NETWORK_STATUS,
        DOMAIN_CONFIG, DOMAIN_STATUS, NODE_AGENT_STATUS, VOLUME_REF_CONFIG, VOLUME_REF_STATUS,
    },
    volume::{ImageFormat, VolumePhase, VolumeRefStatus},
};
use uuid::Uuid;
use zedmanager::{Zedmanager, world::BusOnly};

/// The neighbours as far as zedmanager can tell, and what must never happen to them.
pub(crate) struct Device {
    pub(crate) bus: Bus,
    pub(crate) zedmanager: Runtime<Zedmanager, BusOnly>,
    pub(crate) apps: Publisher<AppInstanceConfig>,
    pub(crate) volumes: Publisher<VolumeRefStatus>,
    pub(crate) networks: Publisher<AppNetworkStatus>,
    pub(crate) domains: Publisher<DomainStatus>,
    pub(crate) node: Publisher<NodeAgentStatus>,
    pub(crate) running: BTreeMap<String, DomainConfig>,
    pub(crate) starts: u32,
}

impl Device {
    pub(crate) fn new() -> Self {
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

    pub(crate) async fn turn(&mut self) {
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

    pub(crate) fn rows<T: bus::Object>(&self, topic: &bus::Topic<T>) -> Rows<T> {
        self.bus.read(topic).unwrap().unwrap_or_default()
    }

    pub(crate) fn want(&mut self, apps: &[AppInstanceConfig]) {
        self.apps
            .replace(&apps.iter().map(|a| (a.id.to_string(), a.clone())).collect())
            .unwrap();
        self.apps.set_ready().unwrap();
    }

    /// volumemgr makes every wanted volume one phase further.
    pub(crate) fn step_volumes(&mut self) {
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

    pub(crate) fn step_network(&mut self) {
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
    pub(crate) fn step_domains(&mut self) {
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

    pub(crate) async fn settle(&mut self) {
        for _ in 0..12 {
            self.turn().await;
            self.step_volumes();
            self.step_network();
            self.turn().await;
            self.step_domains();
        }
        self.turn().await;
    }

    pub(crate) fn phase(&self, key: &str) -> Option<AppPhase> {
        self.rows(&APP_INSTANCE_STATUS)
            .get(key)
            .map(|s| s.phase.clone())
    }
}

pub(crate) fn runtime(bus: &Bus) -> Runtime<Zedmanager, BusOnly> {
    Runtime::new(
        bus.acting_as("zedmanager"),
        BusOnly,
        Clock::tokio(Timestamp::UNIX_EPOCH),
        1,
    )
}

pub(crate) fn app(n: u128) -> AppInstanceConfig {
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
        secret_user_data: None,
        restart_counter: 0,
        purge_counter: 0,
        start_delay_seconds: 0,
        fault: None,
    }
}

pub(crate) fn key(n: u128) -> String {
    AppId(Uuid::from_u128(n)).to_string()
}
