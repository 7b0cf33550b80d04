//! A faulty config takes nothing away, whatever else happens.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use agent::{Clock, Runtime};
use bus::Bus;
use jiff::Timestamp;
use model::{
    app::{AppInstanceConfig, DiskTarget, Resources, VolumeAttachment},
    code::Code,
    fault::Fault,
    id::{AppId, VolumeId, VolumeKey},
    topics::{APP_INSTANCE_CONFIG, VOLUME_REF_CONFIG},
};
use uuid::Uuid;
use zedmanager::{Zedmanager, world::BusOnly};

const APP: AppId = AppId(Uuid::from_u128(1));
const VOLUME: VolumeKey = VolumeKey {
    volume: VolumeId(Uuid::from_u128(7)),
    generation: 3,
};

fn app() -> AppInstanceConfig {
    AppInstanceConfig {
        id: APP,
        display_name: "app".to_owned(),
        version: String::new(),
        activate: true,
        resources: Resources::default(),
        volumes: vec![VolumeAttachment {
            volume: VOLUME,
            target: DiskTarget::Disk,
            mount_dir: String::new(),
        }],
        vifs: Vec::new(),
        user_data: String::new(),
        secret_user_data: None,
        restart_counter: 0,
        purge_counter: 0,
        start_delay_seconds: 0,
        fault: None,
    }
}

/// The volumes that it wishes for after one more boot with this config.
async fn boot(bus: &Bus, config: AppInstanceConfig) -> Vec<VolumeKey> {
    let mut apps = bus
        .acting_as("zedagent")
        .publisher(&APP_INSTANCE_CONFIG)
        .unwrap();
    apps.publish(&APP.to_string(), &config).unwrap();
    apps.set_ready().unwrap();
    let clock = Clock::tokio(Timestamp::UNIX_EPOCH);
    let bus = bus.acting_as("zedmanager");
    let mut zedmanager = Runtime::<Zedmanager, _>::new(bus.clone(), BusOnly, clock, 1);
    zedmanager.settle().await.unwrap();
    let refs = bus.read(&VOLUME_REF_CONFIG).unwrap().unwrap();
    refs.values()
        .map(model::volume::VolumeRefConfig::device_volume)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_reference_that_dangles_over_a_reboot_gives_no_volume_up() {
    let (bus, control) = Bus::memory_with_control();
    assert_eq!(boot(&bus, app()).await, [VOLUME]);
    control.wipe_run();
    let dangling = AppInstanceConfig {
        volumes: Vec::new(),
        fault: Some(Fault::new(
            Code::ConfigReference,
            "app",
            "its volume is not in the config",
            Timestamp::UNIX_EPOCH,
        )),
        ..app()
    };
    assert_eq!(boot(&bus, dangling).await, [VOLUME]);
    control.wipe_run();
    assert_eq!(boot(&bus, app()).await, [VOLUME]);
}
