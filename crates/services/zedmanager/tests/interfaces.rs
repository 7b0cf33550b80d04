//! Which interfaces an application has while its config and its guest change.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use agent::{Clock, Runtime};
use bus::{Bus, Object, Publisher, Topic};
use jiff::Timestamp;
use model::{
    app::{AppInstanceConfig, Resources, VifConfig},
    domain::{DomainPhase, DomainStatus},
    id::{AppId, NetworkInstanceId},
    network::{AppNetworkPhase, AppNetworkStatus, AppVifStatus},
    topics::{
        APP_INSTANCE_CONFIG, APP_NETWORK_CONFIG, APP_NETWORK_STATUS, DOMAIN_CONFIG, DOMAIN_STATUS,
    },
};
use uuid::Uuid;
use zedmanager::{Zedmanager, world::BusOnly};

const APP: AppId = AppId(Uuid::from_u128(1));

/// Names of interfaces that the config has, and how often the guest was to be restarted.
fn app(names: &[&str], restart_counter: u32) -> AppInstanceConfig {
    AppInstanceConfig {
        id: APP,
        display_name: "app".to_owned(),
        version: String::new(),
        activate: true,
        resources: Resources::default(),
        volumes: Vec::new(),
        vifs: names
            .iter()
            .map(|name| VifConfig {
                name: (*name).to_owned(),
                network_instance: NetworkInstanceId::default(),
                mac: None,
                ip: None,
                acls: Vec::new(),
            })
            .collect(),
        user_data: String::new(),
        secret_user_data: None,
        restart_counter,
        purge_counter: 0,
        start_delay_seconds: 0,
        fault: None,
    }
}

fn network(names: &[&str]) -> AppNetworkStatus {
    AppNetworkStatus {
        app: APP,
        phase: AppNetworkPhase::Ready,
        number: 1,
        vifs: names
            .iter()
            .map(|name| AppVifStatus {
                name: (*name).to_owned(),
                network_instance: NetworkInstanceId::default(),
                vif: format!("tap-{name}"),
                bridge: "bn1".to_owned(),
                mac: "02:16:3e:00:00:01".parse().unwrap(),
                ip: None,
                lease_expires: None,
                mtu: 1500,
            })
            .collect(),
        fault: None,
    }
}

fn running(incarnation: u64) -> DomainStatus {
    DomainStatus {
        app: APP,
        phase: DomainPhase::Running {
            unit: "q".to_owned(),
            pid: 7,
            since: Timestamp::UNIX_EPOCH,
        },
        incarnation,
        boot_time: None,
        boots: 1,
        console_log: None,
        vnc_port: None,
        fault: None,
    }
}

struct Neighbour<T: Object>(Publisher<T>);

impl<T: Object> Neighbour<T> {
    fn new(bus: &Bus, topic: &Topic<T>) -> Self {
        Self(bus.acting_as(topic.service()).publisher(topic).unwrap())
    }

    fn say(&mut self, row: T) {
        self.0.replace(&[(APP.to_string(), row)].into()).unwrap();
        self.0.set_ready().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_was_restarted_without_an_interface_gives_it_up() {
    let bus = Bus::memory();
    let mut apps = Neighbour::new(&bus, &APP_INSTANCE_CONFIG);
    let mut networks = Neighbour::new(&bus, &APP_NETWORK_STATUS);
    let mut domains = Neighbour::new(&bus, &DOMAIN_STATUS);
    let mut zedmanager = Runtime::<Zedmanager, _>::new(
        bus.acting_as("zedmanager"),
        BusOnly,
        Clock::tokio(Timestamp::UNIX_EPOCH),
        1,
    );
    let interfaces = || -> Vec<String> {
        let rows = bus.read(&APP_NETWORK_CONFIG).unwrap().unwrap();
        let vifs = &rows[&APP.to_string()].vifs;
        vifs.iter().map(|vif| vif.name.clone()).collect()
    };
    apps.say(app(&["a", "b"], 0));
    networks.say(network(&["a", "b"]));
    zedmanager.settle().await.unwrap();
    domains.say(running(0));
    zedmanager.settle().await.unwrap();

    // Added and taken away again before the guest ever had it.
    apps.say(app(&["a", "b", "c"], 0));
    networks.say(network(&["a", "b", "c"]));
    zedmanager.settle().await.unwrap();
    apps.say(app(&["a"], 0));
    zedmanager.settle().await.unwrap();
    assert_eq!(
        interfaces(),
        ["a", "b"],
        "what the guest has stays, no more"
    );

    networks.say(network(&["a", "b"]));
    apps.say(app(&["a"], 1));
    zedmanager.settle().await.unwrap();
    assert_eq!(interfaces(), ["a", "b"], "the old guest still runs");
    let domain = &bus.read(&DOMAIN_CONFIG).unwrap().unwrap()[&APP.to_string()];
    assert_eq!((domain.incarnation, domain.vifs.len()), (1, 1));

    domains.say(running(1));
    zedmanager.settle().await.unwrap();
    assert_eq!(interfaces(), ["a"]);
}
