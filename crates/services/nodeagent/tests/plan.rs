//! Reboots by command: once each, with their reason, never one of the past.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use agent::{Clock, Failure, Progress, Runtime, World};
use bus::{Bus, Publisher};
use jiff::Timestamp;
use model::{
    app::{AppInstanceStatus, AppPhase},
    id::AppId,
    node::{
        BootReason, ConfigSource, DeviceOperation, DeviceOperationKind, DevicePhase,
        NodeAgentStatus, RebootRecord, ZedAgentStatus,
    },
    topics::{APP_INSTANCE_STATUS, NODE_AGENT_STATUS, REBOOT_RECORD, ZEDAGENT_STATUS},
};
use nodeagent::{Ask, Desired, Nodeagent};
use tokio::time::sleep;

#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<Ask>>>);
impl World<Nodeagent> for Asked {
    async fn observe(&self, _: &Desired) -> Result<(), Failure> {
        Ok(())
    }
    async fn apply(&self, action: Ask, _: Progress) -> Result<(), Failure> {
        self.0.lock().unwrap().push(action);
        // The supervisor stops us before it answers.
        std::future::pending().await
    }
}

struct Device {
    bus: Bus,
    asked: Asked,
    zedagent: Publisher<ZedAgentStatus>,
    apps: Publisher<AppInstanceStatus>,
    task: tokio::task::JoinHandle<()>,
}

impl Device {
    fn start() -> Self {
        let bus = Bus::memory();
        Self {
            zedagent: bus
                .acting_as("zedagent")
                .publisher(&ZEDAGENT_STATUS)
                .unwrap(),
            apps: bus
                .acting_as("zedmanager")
                .publisher(&APP_INSTANCE_STATUS)
                .unwrap(),
            asked: Asked::default(),
            task: spawn(&bus, &Asked::default()),
            bus,
        }
        .boot()
    }

    /// Everything in /run goes, what is persistent stays.
    fn boot(mut self) -> Self {
        self.task.abort();
        self.bus
            .acting_as("nodeagent")
            .publisher(&NODE_AGENT_STATUS)
            .unwrap()
            .replace(&[].into())
            .unwrap();
        self.asked = Asked::default();
        self.apps.replace(&[].into()).unwrap();
        self.apps.set_ready().unwrap();
        self.task = spawn(&self.bus, &self.asked);
        self
    }

    async fn command(&mut self, kind: DeviceOperationKind, counter: u32) {
        let operations = vec![DeviceOperation { kind, counter }];
        self.zedagent
            .publish(
                "zedagent",
                &ZedAgentStatus {
                    operations,
                    ..ZedAgentStatus::default()
                },
            )
            .unwrap();
        self.zedagent.set_ready().unwrap();
        sleep(Duration::from_secs(1)).await;
    }

    async fn app(&mut self, phase: AppPhase) {
        let id = AppId(uuid::Uuid::from_u128(1));
        let status = AppInstanceStatus {
            id,
            display_name: "app".into(),
            version: String::new(),
            activate: true,
            phase,
            since: Timestamp::UNIX_EPOCH,
            restart_counter: 0,
            purge_counter: 0,
            boot_time: None,
            vifs: vec![],
            volumes: vec![],
            fault: None,
        };
        self.apps.publish(&id.to_string(), &status).unwrap();
        sleep(Duration::from_secs(1)).await;
    }

    fn status(&self) -> NodeAgentStatus {
        self.bus.read(&NODE_AGENT_STATUS).unwrap().unwrap()["nodeagent"].clone()
    }

    fn record(&self, key: &str) -> Option<RebootRecord> {
        self.bus
            .read(&REBOOT_RECORD)
            .unwrap()
            .unwrap()
            .get(key)
            .cloned()
    }

    fn asked(&self) -> Vec<Ask> {
        self.asked.0.lock().unwrap().clone()
    }
}

fn spawn(bus: &Bus, asked: &Asked) -> tokio::task::JoinHandle<()> {
    let clock = Clock::tokio(Timestamp::UNIX_EPOCH);
    let runtime = Runtime::<Nodeagent, _>::new(bus.acting_as("nodeagent"), asked.clone(), clock, 1);
    tokio::spawn(runtime.run(std::future::pending()))
}

#[tokio::test(start_paused = true)]
async fn a_reboot_command_halts_the_apps_then_asks_and_is_explained_after_the_boot() {
    let mut d = Device::start();
    d.command(DeviceOperationKind::Reboot, 4).await;
    assert_eq!(d.status().boot_reason, BootReason::First);
    assert!(d.asked().is_empty(), "a command of the past");
    d.app(AppPhase::Running {
        since: Timestamp::UNIX_EPOCH,
    })
    .await;
    d.command(DeviceOperationKind::Reboot, 5).await;
    assert!(d.status().halt_apps && matches!(d.status().phase, DevicePhase::Halting { .. }));
    assert_eq!(
        d.record("next").unwrap().reason,
        BootReason::RebootCmd,
        "written before it is done"
    );
    assert!(d.asked().is_empty());
    d.app(AppPhase::Halted).await;
    assert_eq!(
        d.asked(),
        [Ask {
            reason: "the controller's reboot command number 5".into(),
            power_off: false
        }]
    );
    assert_eq!(d.status().phase, DevicePhase::Rebooting);

    let mut d = d.boot();
    d.command(DeviceOperationKind::Reboot, 5).await;
    let status = d.status();
    assert_eq!(
        (status.boot_reason, status.restart_counter),
        (BootReason::RebootCmd, 2)
    );
    assert!(
        d.asked().is_empty() && !status.halt_apps,
        "carried out once"
    );
    assert_eq!(d.record("next"), None);
    assert_eq!(
        d.record("last").unwrap().text,
        "the controller's reboot command number 5"
    );

    let mut d = d.boot();
    d.command(DeviceOperationKind::Reboot, 5).await;
    assert_eq!(
        d.status().boot_reason,
        BootReason::PowerFail,
        "nobody said why"
    );
    assert_eq!(d.status().restart_counter, 3);
}

#[tokio::test(start_paused = true)]
async fn an_app_that_does_not_halt_delays_the_reboot_but_not_for_ever() {
    let mut d = Device::start();
    d.command(DeviceOperationKind::Reboot, 1).await;
    d.app(AppPhase::Running {
        since: Timestamp::UNIX_EPOCH,
    })
    .await;
    d.command(DeviceOperationKind::Reboot, 2).await;
    sleep(Duration::from_secs(290)).await;
    assert!(d.asked().is_empty());
    sleep(Duration::from_secs(20)).await;
    assert_eq!(d.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_keeps_the_apps_halted_until_the_next_boot() {
    let mut d = Device::start();
    d.command(DeviceOperationKind::Shutdown, 1).await;
    d.command(DeviceOperationKind::Shutdown, 2).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(d.status().phase, DevicePhase::ShutDown);
    assert!(d.status().halt_apps && d.asked().is_empty());
    let mut d = d.boot();
    d.command(DeviceOperationKind::Shutdown, 2).await;
    assert!(!d.status().halt_apps);
}

#[tokio::test(start_paused = true)]
async fn the_first_command_of_a_device_whose_config_had_none_is_carried_out() {
    let mut d = Device::start();
    let config_source = ConfigSource::Controller;
    let status = ZedAgentStatus {
        config_source,
        ..ZedAgentStatus::default()
    };
    d.zedagent.publish("zedagent", &status).unwrap();
    d.zedagent.set_ready().unwrap();
    sleep(Duration::from_secs(1)).await;
    d.command(DeviceOperationKind::Reboot, 1).await;
    assert_eq!(d.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_reason_is_recorded_also_when_nodeagent_was_killed_before_it_wrote_it() {
    let mut d = Device::start();
    d.command(DeviceOperationKind::Reboot, 1).await;
    d.app(AppPhase::Running {
        since: Timestamp::UNIX_EPOCH,
    })
    .await;
    d.command(DeviceOperationKind::Reboot, 2).await;
    d.task.abort();
    d.bus
        .acting_as("nodeagent")
        .publisher(&REBOOT_RECORD)
        .unwrap()
        .unpublish("next")
        .unwrap();
    d.task = spawn(&d.bus, &d.asked);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(d.record("next").unwrap().reason, BootReason::RebootCmd);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_does_not_delay_a_reboot_for_years() {
    let mut d = Device::start();
    d.command(DeviceOperationKind::Reboot, 1).await;
    d.app(AppPhase::Running {
        since: Timestamp::UNIX_EPOCH,
    })
    .await;
    d.command(DeviceOperationKind::Reboot, 2).await;
    let mut ahead = d.status();
    ahead.phase = DevicePhase::Halting {
        deadline: "2040-01-01T00:00:00Z".parse().unwrap(),
    };
    d.task.abort();
    d.bus
        .acting_as("nodeagent")
        .publisher(&NODE_AGENT_STATUS)
        .unwrap()
        .publish("nodeagent", &ahead)
        .unwrap();
    d.task = spawn(&d.bus, &d.asked);
    sleep(Duration::from_secs(310)).await;
    assert_eq!(d.asked().len(), 1);
}
