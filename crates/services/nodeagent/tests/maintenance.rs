//! Why the device takes on nothing new: every reason, and who overrides them.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use agent::{Clock, Failure, Progress, Runtime, World};
use bus::{Bus, Object, Topic};
use jiff::Timestamp;
use model::{
    code::Code,
    config_item::ConfigItemValueMap,
    fault::Fault,
    node::{
        MaintenanceReason::{
            self, EdgeNodeCertsRefused, LowDiskSpace, TpmEncFailure, TpmQuoteFailure,
            UserRequested, VaultLockedUp,
        },
        ZedAgentStatus,
    },
    security::TpmSanityStatus,
    topics::{
        CONFIG_ITEMS, DISK_METRIC, NODE_AGENT_STATUS, TPM_SANITY_STATUS, VAULT_STATUS,
        ZEDAGENT_STATUS,
    },
    vault::{VaultPhase, VaultStatus},
    volume::DiskMetric,
};
use nodeagent::{Ask, Desired, Nodeagent};

struct NoSupervisor;

impl World<Nodeagent> for NoSupervisor {
    async fn observe(&self, _: &Desired) -> Result<(), Failure> {
        Ok(())
    }

    async fn apply(&self, action: Ask, _: Progress) -> Result<(), Failure> {
        panic!("{action:?}")
    }
}

struct Device {
    bus: Bus,
    nodeagent: Runtime<Nodeagent, NoSupervisor>,
}

impl Device {
    fn new() -> Self {
        let bus = Bus::memory();
        let clock = Clock::tokio(Timestamp::UNIX_EPOCH);
        let nodeagent = Runtime::new(bus.acting_as("nodeagent"), NoSupervisor, clock, 1);
        let device = Self { bus, nodeagent };
        device.say(&ZEDAGENT_STATUS, "zedagent", &ZedAgentStatus::default());
        device
    }

    fn say<T: Object>(&self, topic: &Topic<T>, key: &str, row: &T) {
        let writer = self.bus.acting_as(topic.service());
        let mut publisher = writer.publisher(topic).unwrap();
        publisher.publish(key, row).unwrap();
        publisher.set_ready().unwrap();
    }

    fn property(&self, name: &str, value: &str) {
        let mut items = ConfigItemValueMap::default();
        items.values.insert(name.to_owned(), value.to_owned());
        self.say(&CONFIG_ITEMS, "global", &items);
    }

    async fn reasons(&mut self) -> Vec<MaintenanceReason> {
        self.nodeagent.settle().await.unwrap();
        let rows = self.bus.read(&NODE_AGENT_STATUS).unwrap().unwrap();
        rows["nodeagent"].maintenance.clone()
    }
}

fn vault(phase: VaultPhase, fault: Option<Fault>) -> VaultStatus {
    VaultStatus {
        phase,
        fault,
        ..VaultStatus::disabled()
    }
}

fn disk(available_bytes: u64) -> DiskMetric {
    DiskMetric {
        total_bytes: 100,
        used_bytes: 80,
        reserved_bytes: 20,
        available_bytes,
    }
}

#[tokio::test(start_paused = true)]
async fn every_reason_is_gathered_and_goes_with_its_cause() {
    let mut d = Device::new();
    assert_eq!(d.reasons().await, []);

    let asked = ZedAgentStatus {
        maintenance_mode: true,
        maintenance: vec![EdgeNodeCertsRefused, TpmQuoteFailure],
        ..ZedAgentStatus::default()
    };
    d.say(&ZEDAGENT_STATUS, "zedagent", &asked);
    let tpm = TpmSanityStatus {
        maintenance: Some(TpmEncFailure),
        ..TpmSanityStatus::default()
    };
    d.say(&TPM_SANITY_STATUS, "global", &tpm);
    let fault = Fault::new(Code::VaultLocked, "vault", "no key", Timestamp::UNIX_EPOCH);
    d.say(
        &VAULT_STATUS,
        "vault",
        &vault(VaultPhase::Locked, Some(fault.clone())),
    );
    d.say(&DISK_METRIC, "global", &disk(0));
    let all = [
        UserRequested,
        VaultLockedUp,
        LowDiskSpace,
        TpmEncFailure,
        TpmQuoteFailure,
        EdgeNodeCertsRefused,
    ];
    assert_eq!(d.reasons().await, all);

    // A person's word against all of them.
    d.property("maintenance.mode", "disabled");
    assert_eq!(d.reasons().await, []);
    d.property("storage.apps.ignore.disk.check", "true");
    assert!(!d.reasons().await.contains(&LowDiskSpace));
    d.property("maintenance.mode", "none");
    assert_eq!(d.reasons().await, all);

    d.say(&ZEDAGENT_STATUS, "zedagent", &ZedAgentStatus::default());
    d.say(&TPM_SANITY_STATUS, "global", &TpmSanityStatus::default());
    d.say(&DISK_METRIC, "global", &disk(1));
    // An open vault may have a fault, and one that is not encrypted, too.
    for phase in [VaultPhase::Open, VaultPhase::Disabled] {
        d.say(&VAULT_STATUS, "vault", &vault(phase, Some(fault.clone())));
        assert_eq!(d.reasons().await, [], "{phase:?}");
    }
    // At every boot it is locked for a moment.
    d.say(&VAULT_STATUS, "vault", &vault(VaultPhase::Locked, None));
    assert_eq!(d.reasons().await, []);
    d.property("maintenance.mode", "enabled");
    assert_eq!(d.reasons().await, [UserRequested]);
}
