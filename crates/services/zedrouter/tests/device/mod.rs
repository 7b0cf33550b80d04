//! A device in memory.

use std::time::Duration;

use agent::{Clock, Runtime};
use bus::{Bus, Publisher};
use jiff::Timestamp;
use model::{
    network::{AppNetworkConfig, NetworkInstanceConfig},
    port::{DeviceNetworkStatus, PortAddressing, PortStatus},
    topics::{
        APP_NETWORK_CONFIG, APP_NETWORK_STATUS, DEVICE_NETWORK_STATUS, NETWORK_INSTANCE_CONFIG,
        NETWORK_INSTANCE_STATUS,
    },
};
use zedrouter::Zedrouter;

use crate::{
    fake::Fake,
    wishes::{app_id, instance_id, uplink},
};

/// A device's zedrouter with those who tell it what to do, in memory.
pub struct Device {
    pub bus: Bus,
    pub fake: Fake,
    pub instances: Publisher<NetworkInstanceConfig>,
    pub apps: Publisher<AppNetworkConfig>,
    pub ports: Publisher<DeviceNetworkStatus>,
    pub runtime: Runtime<Zedrouter, Fake>,
}

pub fn start(bus: &Bus, fake: &Fake) -> Runtime<Zedrouter, Fake> {
    let clock = Clock::tokio("2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap());
    Runtime::new(bus.acting_as("zedrouter"), fake.clone(), clock, 1)
}

impl Device {
    pub fn new() -> Self {
        let (bus, fake) = (Bus::memory(), Fake::default());
        for port in ["eth0", "eth1", "eth2"] {
            fake.plug(port);
        }
        let mut device = Self::on(bus, fake);
        device.instances.set_ready().unwrap();
        device.apps.set_ready().unwrap();
        device.put_ports(&ports());
        device.ports.set_ready().unwrap();
        device
    }

    /// On a machine as it is, before anybody has spoken.
    pub fn on(bus: Bus, fake: Fake) -> Self {
        Self {
            instances: bus
                .acting_as("zedagent")
                .publisher(&NETWORK_INSTANCE_CONFIG)
                .unwrap(),
            apps: bus
                .acting_as("zedmanager")
                .publisher(&APP_NETWORK_CONFIG)
                .unwrap(),
            ports: bus
                .acting_as("nim")
                .publisher(&DEVICE_NETWORK_STATUS)
                .unwrap(),
            runtime: start(&bus, &fake),
            bus,
            fake,
        }
    }

    pub fn put_ports(&mut self, ports: &[PortStatus]) {
        let status = DeviceNetworkStatus {
            ports: ports.to_vec(),
            ..DeviceNetworkStatus::default()
        };
        self.ports.publish("global", &status).unwrap();
    }

    pub fn put(&mut self, instances: &[NetworkInstanceConfig], apps: &[AppNetworkConfig]) {
        let instances = instances.iter().map(|i| (i.id.to_string(), i.clone()));
        self.instances.replace(&instances.collect()).unwrap();
        let apps = apps.iter().map(|a| (a.app.to_string(), a.clone()));
        self.apps.replace(&apps.collect()).unwrap();
    }

    /// Until a further turn has nothing to do.
    pub async fn settle(&mut self) {
        for _ in 0..20 {
            self.runtime.settle().await.unwrap();
            let plan = self.runtime.dry_turn().await.unwrap().unwrap();
            if plan.actions.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        let plan = self.runtime.dry_turn().await.unwrap().unwrap();
        panic!("does not settle: {:#?}", plan.actions);
    }

    pub fn instance(&self, n: u8) -> model::network::NetworkInstanceStatus {
        self.bus.read(&NETWORK_INSTANCE_STATUS).unwrap().unwrap()[&instance_id(n).to_string()]
            .clone()
    }

    pub fn app(&self, n: u8) -> model::network::AppNetworkStatus {
        self.bus.read(&APP_NETWORK_STATUS).unwrap().unwrap()[&app_id(n).to_string()].clone()
    }
}

/// Two for the device, one for a switch.
pub fn ports() -> Vec<PortStatus> {
    let eth0 = uplink("eth0", "192.0.2.2/24", "192.0.2.1", 501);
    let mut eth1 = uplink("eth1", "203.0.113.2/24", "203.0.113.1", 502);
    eth1.cost = 1;
    let mut eth2 = uplink("eth2", "198.51.100.2/24", "198.51.100.1", 503);
    eth2.addressing = PortAddressing::None;
    eth2.is_mgmt = false;
    eth2.addresses.clear();
    vec![eth0, eth1, eth2]
}
