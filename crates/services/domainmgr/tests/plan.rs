//! domainmgr between a scripted zedmanager and a fake hypervisor that checks what must never happen.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod fake;

use std::time::Duration;

use agent::{Clock, Runtime};
use bus::{Bus, Object, Publisher, Rows, Topic};
use jiff::Timestamp;
use model::{
    code::Code,
    config_item::ConfigItemValueMap,
    domain::{DomainConfig, DomainPhase, DomainStatus},
    id::Digest,
    security::{CipherBlock, CipherContext, ControllerCert, ControllerCertKind, Octets},
    topics::{
        CAPABILITIES, CIPHER_CONTEXT, CONFIG_ITEMS, CONTROLLER_CERT, DOMAIN_CONFIG, DOMAIN_METRIC,
        DOMAIN_STATUS,
    },
};
use proptest::prelude::*;
use vmm::qmp::RunState;

use domainmgr::Domainmgr;
use fake::{Fake, app, config};

struct Device {
    bus: Bus,
    fake: Fake,
    clock: Clock,
    domainmgr: Runtime<Domainmgr, Fake>,
    domains: Publisher<DomainConfig>,
}

impl Device {
    fn new() -> Self {
        let bus = Bus::memory();
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let clock = Clock::tokio(start);
        let fake = Fake::new(clock.clone());
        let mut domains = bus
            .acting_as("zedmanager")
            .publisher(&DOMAIN_CONFIG)
            .unwrap();
        domains.set_ready().unwrap();
        Self {
            domainmgr: Runtime::new(bus.acting_as("domainmgr"), fake.clone(), clock.clone(), 1),
            bus,
            fake,
            clock,
            domains,
        }
    }

    /// A new process: nothing but the bus and the world survives.
    fn restart(&mut self) {
        self.fake.next_life();
        self.domainmgr = Runtime::new(
            self.bus.acting_as("domainmgr"),
            self.fake.clone(),
            self.clock.clone(),
            1,
        );
    }

    fn want(&mut self, configs: &[DomainConfig]) {
        let rows: Rows<DomainConfig> = configs
            .iter()
            .map(|c| (c.app.to_string(), c.clone()))
            .collect();
        self.fake.note_wanted(&rows);
        self.domains.replace(&rows).unwrap();
    }

    fn item(&self, name: &str, value: &str) {
        let mut items = self
            .bus
            .acting_as("zedagent")
            .publisher(&CONFIG_ITEMS)
            .unwrap();
        let mut map = ConfigItemValueMap::default();
        map.values.insert(name.to_owned(), value.to_owned());
        items.replace(&[("global".to_owned(), map)].into()).unwrap();
        items.set_ready().unwrap();
    }

    fn say<T: Object>(&self, topic: &Topic<T>, rows: &Rows<T>) {
        let bus = self.bus.acting_as(topic.service());
        let mut publisher = bus.publisher(topic).unwrap();
        publisher.replace(rows).unwrap();
        publisher.set_ready().unwrap();
    }

    async fn settle(&mut self) {
        self.domainmgr.settle().await.unwrap();
    }

    /// Lets time pass in small steps with turns in between, as the loop would.
    async fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds.div_ceil(5) {
            tokio::time::advance(Duration::from_secs(5)).await;
            for _ in 0..4 {
                self.short_turn().await;
            }
            self.settle().await;
        }
    }

    /// A turn that does not wait for what it began.
    async fn short_turn(&mut self) {
        // An error is tried again by the loop.
        let _ = self.domainmgr.turn().await;
        tokio::time::advance(Duration::from_millis(10)).await;
    }

    fn status(&self, n: u128) -> Option<DomainStatus> {
        let rows = self.bus.read(&DOMAIN_STATUS).unwrap().unwrap();
        rows.get(&app(n).to_string()).cloned()
    }

    fn is_running(&self, n: u128) -> bool {
        self.status(n)
            .is_some_and(|s| matches!(s.phase, DomainPhase::Running { .. }))
    }

    fn fault(&self, n: u128) -> Option<Code> {
        self.status(n)?.fault.map(|fault| fault.code)
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_is_started_measured_stopped_and_forgotten() {
    let mut device = Device::new();
    device.want(&[config(1)]);
    device.settle().await;
    let status = device.status(1).unwrap();
    let DomainPhase::Running { unit, .. } = &status.phase else {
        panic!("{status:?}");
    };
    assert_eq!(*unit, format!("domainmgr/{}", app(1)));
    assert_eq!((status.boots, status.incarnation), (1, 1));
    assert_eq!(status.fault, None);
    let caps = device.bus.read(&CAPABILITIES).unwrap().unwrap();
    assert_eq!(caps["global"].cpus, 2);
    assert_eq!(device.bus.read(&DOMAIN_METRIC).unwrap().unwrap().len(), 1);

    device.want(&[DomainConfig {
        activate: false,
        ..config(1)
    }]);
    device.settle().await;
    assert_eq!(device.status(1).unwrap().phase, DomainPhase::Halted);
    assert!(device.fake.is_clean(app(1)));
    assert!(device.fake.has_kept(app(1)), "its variables stay");
    device.want(&[]);
    device.settle().await;
    assert_eq!(device.status(1), None);
    assert!(!device.fake.has_kept(app(1)));
    assert!(device.bus.read(&DOMAIN_METRIC).unwrap().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn trust_secret_user_data_waits_for_its_keys_and_encrypted_anew_is_the_same() {
    let mut device = Device::new();
    let secret = |context: &str, data: u8| DomainConfig {
        secret_user_data: Some(CipherBlock {
            context: context.to_owned(),
            initial_value: Octets(vec![data; 16]),
            cipher_data: Octets(vec![data; 40]),
            clear_text_sha256: Digest([5; 32]),
        }),
        ..config(1)
    };
    device.want(&[secret("one", 1)]);
    device.settle().await;
    assert_eq!(device.fake.starts(app(1)), 0, "nobody knows its keys");
    let context = |name: &str, cert: &str| {
        let row = CipherContext {
            id: name.to_owned(),
            device_cert_hash: "00".repeat(16),
            controller_cert_hash: cert.to_owned(),
            fault: None,
        };
        (name.to_owned(), row)
    };
    device.say(&CIPHER_CONTEXT, &Rows::from([context("one", "c1")]));
    device.say(&CONTROLLER_CERT, &Rows::new());
    device.settle().await;
    assert_eq!(device.fault(1), Some(Code::CipherContext));
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![]).unwrap();
    let cert = ControllerCert {
        kind: ControllerCertKind::EcdhExchange,
        pem: params.self_signed(&key).unwrap().pem(),
        hash: "c1".to_owned(),
        not_after: Timestamp::MAX,
    };
    device.say(&CONTROLLER_CERT, &Rows::from([("c1".to_owned(), cert)]));
    device.settle().await;
    assert!(device.is_running(1));
    assert_eq!(device.fault(1), None);

    // The controller has another key; the guest does not notice, not even when the service starts anew.
    device.say(&CIPHER_CONTEXT, &Rows::from([context("two", "c2")]));
    device.want(&[secret("two", 2)]);
    device.restart();
    device.pass(30).await;
    assert!(device.is_running(1));
    assert_eq!((device.fake.starts(app(1)), device.fault(1)), (1, None));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_ignores_the_button_is_ended_after_the_grace() {
    let mut device = Device::new();
    device.want(&[config(1)]);
    device.settle().await;
    device.fake.deafen(app(1));
    device.want(&[]);
    device.settle().await;
    let status = device.status(1).unwrap();
    assert!(matches!(status.phase, DomainPhase::Halting { .. }));
    device.pass(50).await;
    assert!(device.fake.lives(app(1)));
    assert!(device.fake.presses(app(1)) >= 5, "pressed again and again");
    // A restart in the middle forgets no deadline.
    device.restart();
    device.pass(15).await;
    assert_eq!(device.status(1), None);
    assert!(device.fake.is_clean(app(1)));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_is_wanted_again_while_halting_is_started_anew_at_once() {
    let mut device = Device::new();
    device.want(&[config(1)]);
    device.settle().await;
    device.fake.deafen(app(1));
    device.want(&[DomainConfig {
        activate: false,
        ..config(1)
    }]);
    device.settle().await;
    device.want(&[config(1)]);
    device.pass(30).await;
    let status = device.status(1).unwrap();
    assert!(matches!(status.phase, DomainPhase::Halting { .. }));
    device.pass(40).await;
    assert!(device.is_running(1));
    assert_eq!((device.fake.starts(app(1)), device.fault(1)), (2, None));
}

#[tokio::test(start_paused = true)]
async fn another_incarnation_is_another_qemu_and_a_new_name_is_not() {
    let mut device = Device::new();
    device.want(&[config(1)]);
    device.settle().await;
    let renamed = DomainConfig {
        display_name: "other".into(),
        ..config(1)
    };
    device.want(std::slice::from_ref(&renamed));
    device.settle().await;
    assert_eq!(device.fake.starts(app(1)), 1);
    device.pass(5).await;
    device.want(&[DomainConfig {
        incarnation: 2,
        ..renamed
    }]);
    device.settle().await;
    assert!(device.is_running(1));
    let status = device.status(1).unwrap();
    assert_eq!((status.incarnation, status.boots), (2, 2));
    assert_eq!(device.fake.starts(app(1)), 2);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_ended_is_started_after_the_pause_or_by_a_change() {
    let mut device = Device::new();
    device.item("timer.boot.retry", "100");
    for state in [
        None,
        Some(RunState::Shutdown),
        Some(RunState::GuestPanicked),
    ] {
        device.want(&[config(1)]);
        device.settle().await;
        let starts = device.fake.starts(app(1));
        match state {
            None => device.fake.kill(app(1)),
            Some(state) => device.fake.turn_to(app(1), state),
        }
        device.settle().await;
        let status = device.status(1).unwrap();
        assert_eq!(status.phase, DomainPhase::Failed, "{state:?}");
        let fault = status.fault.unwrap();
        assert_eq!(fault.code, Code::DomainCrashed);
        assert!(fault.causes.iter().any(|cause| cause.contains("console: ")));
        assert!(!device.fake.lives(app(1)));
        device.pass(50).await;
        device.restart();
        device.pass(40).await;
        assert_eq!(device.fake.starts(app(1)), starts, "waits");
        assert_eq!(device.status(1).unwrap().fault.unwrap().next, fault.next);
        device.pass(15).await;
        assert!(device.is_running(1));
        assert_eq!(device.fake.starts(app(1)), starts + 1);
    }
    device.fake.kill(app(1));
    device.settle().await;
    let mut more = config(1);
    more.resources.memory_kib *= 2;
    device.want(&[more]);
    device.settle().await;
    assert!(device.is_running(1), "a change is tried at once");
}

#[tokio::test(start_paused = true)]
async fn a_qemu_that_dies_at_once_is_a_failed_start_and_no_loop() {
    let mut device = Device::new();
    device.item("timer.boot.retry", "60");
    device.fake.refuse_to_boot(app(1), true);
    device.want(&[config(1)]);
    device.settle().await;
    let status = device.status(1).unwrap();
    assert_eq!(status.phase, DomainPhase::Failed);
    let fault = status.fault.unwrap();
    assert_eq!(fault.code, Code::DomainStart);
    assert!(fault.causes.iter().any(|cause| cause.contains("QEMU: ")));
    device.pass(50).await;
    assert_eq!(device.fake.starts(app(1)), 1);
    device.fake.refuse_to_boot(app(1), false);
    device.pass(20).await;
    assert!(device.is_running(1));
    assert_eq!(device.fault(1), None);
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_named_and_waited_for() {
    let mut device = Device::new();
    device.fake.miss_files(app(1), true);
    device.want(&[config(1)]);
    device.settle().await;
    assert_eq!(device.fault(1), Some(Code::DomainStart));
    device.pass(30).await;
    let fault = device.status(1).unwrap().fault.unwrap();
    assert!(fault.attempts > 1 && fault.next.is_some(), "{fault:?}");
    device.fake.miss_files(app(1), false);
    device.pass(60).await;
    assert!(device.is_running(1));
}

#[tokio::test(start_paused = true)]
async fn guests_share_the_memory_that_there_is() {
    let mut device = Device::new();
    let big = |n| {
        let mut config = config(n);
        config.resources.memory_kib = 2 << 20;
        config
    };
    device.want(&[big(2)]);
    device.settle().await;
    device.want(&[big(1), big(2)]);
    device.settle().await;
    assert!(device.is_running(2), "who runs stays");
    assert_eq!(device.fault(1), Some(Code::MemoryBudget));
    let text = device.status(1).unwrap().fault.unwrap().text;
    assert!(text.contains("4096 MiB"), "{text}");
    device.want(&[big(1)]);
    device.settle().await;
    assert!(device.is_running(1));
    device.want(&[big(1), big(2)]);
    device.item("memory.apps.ignore.check", "true");
    device.settle().await;
    assert!(device.is_running(2));
}

#[tokio::test(start_paused = true)]
async fn what_stands_still_is_told_and_let_go_again() {
    let mut device = Device::new();
    device.want(&[config(1)]);
    device.settle().await;
    device.fake.turn_to(app(1), RunState::IoError);
    device.settle().await;
    assert!(device.is_running(1));
    assert_eq!(device.fault(1), Some(Code::DomainStalled));
    device.pass(40).await;
    assert_eq!(device.fault(1), None);
    assert_eq!(device.fake.starts(app(1)), 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_device_publishes_little() {
    let mut device = Device::new();
    device.want(&[config(1)]);
    device.settle().await;
    let metric = || device.bus.read(&DOMAIN_METRIC).unwrap().unwrap();
    let first = metric();
    device.fake.burn(app(1), 300_000_000);
    for _ in 0..30 {
        tokio::time::advance(Duration::from_secs(31)).await;
        device.domainmgr.settle().await.unwrap();
        assert_eq!(metric(), first);
    }
    device.fake.burn(app(1), 3_000_000_000);
    tokio::time::advance(Duration::from_secs(31)).await;
    device.domainmgr.settle().await.unwrap();
    assert_ne!(metric(), first);
}

#[tokio::test(start_paused = true)]
async fn the_accelerator_is_probed_once_and_the_property_goes_before_it() {
    let mut device = Device::new();
    let accelerator = |device: &Device| {
        let rows = device.bus.read(&CAPABILITIES).unwrap().unwrap();
        rows["global"].accelerator.clone()
    };
    device.settle().await;
    assert_eq!(accelerator(&device), model::domain::Accelerator::Kvm);
    device.item("vmm.accel", "tcg");
    device.settle().await;
    assert!(matches!(
        accelerator(&device),
        model::domain::Accelerator::Tcg { .. }
    ));
    device.restart();
    device.settle().await;
    assert_eq!(device.fake.probes(), 1);
}

/// What may happen to a device.
#[derive(Debug, Clone)]
enum Happening {
    Want(u128, u64, bool),
    Remove(u128),
    Kill(u128),
    TurnTo(u128, u8),
    Deafen(u128),
    Restart,
    /// Turns without waiting for what they began.
    Turns(u8),
    Pass(u16),
    Away(bool),
    RefuseToBoot(u128, bool),
    MissFiles(u128, bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    let who = 1u128..4;
    prop_oneof![
        4 => (who.clone(), 1u64..4, any::<bool>()).prop_map(|(n, i, a)| Happening::Want(n, i, a)),
        1 => who.clone().prop_map(Happening::Remove),
        1 => who.clone().prop_map(Happening::Kill),
        2 => (who.clone(), any::<u8>()).prop_map(|(n, s)| Happening::TurnTo(n, s)),
        1 => who.clone().prop_map(Happening::Deafen),
        3 => Just(Happening::Restart),
        4 => (1u8..6).prop_map(Happening::Turns),
        3 => (1u16..700).prop_map(Happening::Pass),
        1 => any::<bool>().prop_map(Happening::Away),
        1 => (who.clone(), any::<bool>()).prop_map(|(n, b)| Happening::RefuseToBoot(n, b)),
        1 => (who, any::<bool>()).prop_map(|(n, b)| Happening::MissFiles(n, b)),
    ]
}

async fn happen(device: &mut Device, wanted: &mut Vec<DomainConfig>, what: Happening) {
    match what {
        Happening::Want(n, incarnation, activate) => {
            wanted.retain(|c| c.app != app(n));
            wanted.push(DomainConfig {
                incarnation,
                activate,
                ..config(n)
            });
            device.want(wanted);
        }
        Happening::Remove(n) => {
            wanted.retain(|c| c.app != app(n));
            device.want(wanted);
        }
        Happening::Kill(n) => device.fake.kill(app(n)),
        Happening::TurnTo(n, state) => {
            let states = [
                RunState::Shutdown,
                RunState::GuestPanicked,
                RunState::IoError,
                RunState::Paused,
                RunState::Running,
            ];
            device
                .fake
                .turn_to(app(n), states[usize::from(state) % states.len()]);
        }
        Happening::Deafen(n) => device.fake.deafen(app(n)),
        Happening::Restart => device.restart(),
        Happening::Turns(n) => {
            for _ in 0..n {
                device.short_turn().await;
            }
        }
        Happening::Pass(seconds) => {
            tokio::time::advance(Duration::from_secs(seconds.into())).await;
            device.short_turn().await;
        }
        Happening::Away(away) => device.fake.set_away(away),
        Happening::RefuseToBoot(n, refuse) => device.fake.refuse_to_boot(app(n), refuse),
        Happening::MissFiles(n, miss) => device.fake.miss_files(app(n), miss),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever happens, in any order, with restarts of the service at any point: the fake sees no second
    /// QEMU of an application and no end of a guest whose configuration is unchanged (it asserts
    /// both), and once nothing happens any more everything becomes as it is wanted and stays so.
    #[test]
    fn from_any_state_it_settles(story in proptest::collection::vec(happening(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut device = Device::new();
            let mut wanted = Vec::new();
            for what in story {
                happen(&mut device, &mut wanted, what).await;
            }
            device.fake.end_of_story();
            for _ in 0..4 {
                device.pass(200).await;
            }
            for n in 1..4 {
                let config = wanted.iter().find(|c| c.app == app(n));
                if let Some(config) = config.filter(|c| c.activate) {
                    assert!(device.is_running(n), "{:?}", device.status(n));
                    assert_eq!(device.fake.incarnation(app(n)), Some(config.incarnation));
                    assert_eq!(device.fault(n), None);
                } else {
                    assert!(device.fake.is_clean(app(n)));
                    let phase = device.status(n).map(|s| s.phase);
                    assert_eq!(phase, config.map(|_| DomainPhase::Halted));
                }
            }
            let before = device.fake.acts();
            device.restart();
            device.settle().await;
            assert_eq!(device.fake.acts(), before, "it has settled");
        });
    }
}
