//! nodeagent on the recorded disk: a reboot by command.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use agent::{Clock, Failure, Progress, Runtime, World};
use bus::Bus;
use jiff::Timestamp;
use model::{
    node::{ConfigSource, DeviceOperation, DeviceOperationKind, ZedAgentStatus},
    topics::{APP_INSTANCE_STATUS, NODE_AGENT_STATUS, REBOOT_RECORD, ZEDAGENT_STATUS},
};
use nodeagent::{Ask, Desired, Nodeagent};

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

/// Runs nodeagent for a while with a config that says `counter`. What it asked the supervisor for.
async fn run(root: &Path, counter: u32) -> Vec<Ask> {
    let bus = Bus::open(root, "nodeagent").unwrap();
    let mut zedagent = bus
        .acting_as("zedagent")
        .publisher(&ZEDAGENT_STATUS)
        .unwrap();
    let mut apps = bus
        .acting_as("zedmanager")
        .publisher(&APP_INSTANCE_STATUS)
        .unwrap();
    let status = ZedAgentStatus {
        config_source: ConfigSource::Controller,
        operations: vec![DeviceOperation {
            kind: DeviceOperationKind::Reboot,
            counter,
        }],
        ..Default::default()
    };
    zedagent.publish("global", &status).unwrap();
    zedagent.set_ready().unwrap();
    apps.set_ready().unwrap();
    let asked = Asked::default();
    let clock = Clock::tokio(Timestamp::from_second(1_767_225_600).unwrap());
    let runtime = Runtime::<Nodeagent, _>::new(bus, asked.clone(), clock, 1);
    runtime
        .run(tokio::time::sleep(Duration::from_secs(60)))
        .await;
    let asked = asked.0.lock().unwrap();
    asked.clone()
}

/// The device boots with a config whose reboot counter is known. Why it thinks that it did.
pub async fn boot(root: &Path, counter: u32) -> String {
    let _ = fs::remove_dir_all(root.join("run"));
    assert_eq!(run(root, counter).await, [], "nothing to do");
    let bus = Bus::open(root, "judge").unwrap();
    let status = bus.read(&NODE_AGENT_STATUS).unwrap().unwrap();
    status["nodeagent"].reboot_text.clone()
}

/// The controller asks for a reboot. The reason that is recorded when the supervisor is asked for it.
pub async fn command(root: &Path, counter: u32) -> String {
    assert_eq!(run(root, counter).await.len(), 1, "a reboot is asked for");
    let bus = Bus::open(root, "judge").unwrap();
    let records = bus.read(&REBOOT_RECORD).unwrap().unwrap();
    records["next"].text.clone()
}
