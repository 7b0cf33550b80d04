//! The order of steps towards the controller, against a scripted one.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod attest;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use agent::{Clock, Failure, Progress, Runtime, World};
use api::config::{ConfigResponse, EdgeDevConfig, UuiDandVersion};
use bus::{Bus, Publisher};
use jiff::Timestamp;
use model::{
    code::Code,
    fault::Fault,
    id::{DeviceId, Digest, LogicalLabel},
    node::{AttestPhase, ConfigSource, OnboardPhase, OnboardingStatus, ZedAgentStatus},
    port::{DeviceNetworkStatus, PortAddressing, PortStatus, ProxyConfig},
    security::{ControllerCert, ControllerCertKind},
    topics::{
        APP_INSTANCE_CONFIG, DEVICE_NETWORK_STATUS, EDGE_NODE_CERT, ONBOARDING_STATUS,
        ZEDAGENT_STATUS,
    },
};
use tokio::time::sleep;
use zedagent::{
    Desired, Step, Zedagent,
    facts::{Asked, AttestStep, Facts, Judgement, Moment, Name, Partition},
};

const DEVICE: &str = "00000000-0000-4000-8000-000000000001";

/// A controller that answers as it is told.
#[derive(Clone)]
struct Script(Arc<Mutex<State>>);

/// How it goes with quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    Accepted,
    /// By the controller.
    Refused,
    /// The TPM gives none.
    NotGiven,
}

struct State {
    facts: Facts,
    steps: Vec<String>,
    down: bool,
    /// Answers to requests for the config.
    config_code: u16,
    hash: String,
    quotes: Quotes,
    only_v1: bool,
    /// Answer to certificates.
    certs_code: u16,
    /// Answer to the vault's key.
    escrow_code: u16,
    /// Configs that were sent, not only their hash.
    full: u32,
    clock: Clock,
}

impl Script {
    fn new(clock: &Clock) -> Self {
        let partition = Some(Partition {
            server: "evc".into(),
            can_register: true,
            force_v1: false,
            earliest: None,
        });
        let facts = Facts {
            partition,
            ..Facts::default()
        };
        let state = State {
            facts,
            steps: vec![],
            down: false,
            config_code: 200,
            hash: "h1".into(),
            quotes: Quotes::Accepted,
            only_v1: false,
            certs_code: 200,
            escrow_code: 200,
            full: 0,
            clock: clock.clone(),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap());
    }

    fn steps(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().steps)
    }
}

impl World<Zedagent> for Script {
    async fn observe(&self, _: &Desired) -> Result<Facts, Failure> {
        Ok(self.0.lock().unwrap().facts.clone())
    }

    async fn apply(&self, action: Step, _: Progress) -> Result<(), Failure> {
        let mut state = self.0.lock().unwrap();
        let moment = Moment {
            now: state.clock.now(),
            uptime: state.clock.uptime(),
        };
        let name = format!("{action:?}")
            .split([' ', '{', '('])
            .next()
            .unwrap()
            .to_owned();
        let local = matches!(
            action,
            Step::LearnIdentity | Step::UseSaved { .. } | Step::KeepAsBackup { .. }
        );
        if state.down && !local {
            return Err(Failure::new(Code::ControllerUnreachable, "x", "down").transient());
        }
        state.steps.push(name);
        let config_code = state.config_code;
        let hash = state.hash.clone();
        let quotes = state.quotes;
        let only_v1 = state.only_v1;
        let certs_code = state.certs_code;
        let escrow_code = state.escrow_code;
        if matches!(&action, Step::FetchConfig { hash: ours, .. } if *ours != hash) {
            state.full += u32::from(config_code == 200);
        }
        let facts = &mut state.facts;
        match action {
            Step::LearnIdentity => facts.device_cert = Some(Digest([1; 32])),
            Step::FetchCerts { wanted } if only_v1 => {
                (facts.v1, facts.certs_for) = (true, Some(wanted));
            }
            Step::FetchCerts { wanted } => {
                facts.speaks_v2();
                facts.certs_for = Some(wanted);
                let (pem, hash) = (String::new(), "aa".to_owned());
                let not_after = Timestamp::MAX;
                facts.certs = vec![ControllerCert {
                    kind: ControllerCertKind::Signing,
                    pem,
                    hash,
                    not_after,
                }];
            }
            Step::Introduce { .. } => {
                facts.name = Some(Name {
                    device: DEVICE.parse().unwrap(),
                    hardware_model: String::new(),
                });
                facts.named_at = Some(moment.uptime);
                facts.disowned = false;
            }
            Step::SendCerts { .. } if certs_code != 200 => {
                (facts.attest.certs_refused, facts.attest.in_vain) = (true, true);
                return Err(Failure::new(Code::ControllerRefused, "attestation", "no"));
            }
            Step::SendCerts { certs, .. } => {
                facts.attest.certs_refused = false;
                facts.attest.certs_sent = Some(certs.into_iter().map(|c| c.hash).collect());
                if facts.attest.step == AttestStep::SendCerts {
                    facts.attest.step = AttestStep::AskNonce;
                }
            }
            Step::AskNonce { .. } => facts.attest.step = AttestStep::SendQuote(vec![7; 16]),
            Step::SendQuote { .. } if quotes == Quotes::NotGiven => {
                (facts.attest.no_quote, facts.attest.in_vain) = (true, true);
                let failure = Failure::new(Code::AttestQuote, "attestation", "the TPM is dead");
                return Err(failure.transient());
            }
            Step::SendQuote { .. } if quotes == Quotes::Refused => {
                facts.attest.judged(&Judgement::Failed, vec![], moment);
            }
            Step::SendQuote { .. } => facts.attest.complete(vec![1]),
            Step::StoreKey { .. } if escrow_code != 200 => {
                return Err(Failure::new(Code::ControllerRefused, "escrow", "no"));
            }
            Step::StoreKey { key, .. } => facts.attest.escrowed = Some(key.sha256),
            Step::NoteMaintenance { on } => facts.maintained(on),
            Step::ResumeAttest { .. } => facts.attest.resume(),
            Step::FetchConfig {
                number,
                device,
                hash: ours,
                ..
            } => match config_code {
                200 => {
                    facts.unchanged(
                        Asked {
                            number,
                            at: moment.uptime,
                            jitter: 0.5,
                        },
                        moment.now,
                    );
                    if hash != ours {
                        facts.received(&response(&hash), ConfigSource::Controller, device, moment);
                        facts.saved.primary = Some(Digest([2; 32]));
                    }
                }
                code => {
                    match code {
                        403 => {
                            let fault =
                                Fault::new(Code::ControllerRefused, "config", "403", moment.now);
                            facts.forbidden(moment.uptime, fault);
                        }
                        404 => facts.disowned = true,
                        _ => {}
                    }
                    return Err(
                        Failure::new(Code::ControllerRefused, "config", format!("{code}"))
                            .transient(),
                    );
                }
            },
            Step::UseSaved { device, .. } => {
                facts.received(&response("old"), ConfigSource::Saved, device, moment);
            }
            Step::KeepAsBackup { digest } => facts.saved.backup = Some(digest),
        }
        Ok(())
    }
}

fn response(hash: &str) -> ConfigResponse {
    let id = UuiDandVersion {
        uuid: DEVICE.into(),
        version: String::new(),
    };
    ConfigResponse {
        config: Some(EdgeDevConfig {
            id: Some(id),
            ..Default::default()
        }),
        config_hash: hash.into(),
    }
}

struct Device {
    bus: Bus,
    script: Script,
    network: Publisher<DeviceNetworkStatus>,
    task: tokio::task::JoinHandle<()>,
    clock: Clock,
}

impl Device {
    fn start() -> Self {
        let bus = Bus::memory();
        let clock = Clock::tokio("2026-01-01T00:00:00Z".parse().unwrap());
        let script = Script::new(&clock);
        let network = bus
            .acting_as("nim")
            .publisher(&DEVICE_NETWORK_STATUS)
            .unwrap();
        let mut keeper = bus.acting_as("tpmmgr").publisher(&EDGE_NODE_CERT).unwrap();
        keeper.set_ready().unwrap();
        Self {
            task: spawn(&bus, &script, &clock),
            bus,
            script,
            network,
            clock,
        }
    }

    fn restart(&mut self) {
        self.task.abort();
        let (saved, started) = (
            self.script.0.lock().unwrap().facts.saved.clone(),
            self.clock.uptime(),
        );
        let fresh = Script::new(&self.clock);
        fresh.set(|s| {
            s.facts.saved = saved;
            s.facts.started = started;
            s.facts.device_cert = Some(Digest([1; 32]));
        });
        self.script = fresh;
        self.task = spawn(&self.bus, &self.script, &self.clock);
    }

    fn network_up(&mut self) {
        let port = PortStatus {
            if_name: "eth0".parse().unwrap(),
            label: LogicalLabel("eth0".into()),
            is_mgmt: true,
            cost: 0,
            addressing: PortAddressing::Dhcp,
            mac: None,
            link_up: true,
            addresses: vec!["192.0.2.5/24".parse().unwrap()],
            gateways: vec![],
            dns_servers: vec![],
            ntp_servers: vec![],
            domain_name: String::new(),
            proxy: ProxyConfig::default(),
            mtu: 1500,
            route_table: 0,
            fault: None,
        };
        self.network
            .publish(
                "global",
                &DeviceNetworkStatus {
                    ports: vec![port],
                    ..Default::default()
                },
            )
            .unwrap();
        self.network.set_ready().unwrap();
    }

    fn onboarding(&self) -> OnboardingStatus {
        self.bus.read(&ONBOARDING_STATUS).unwrap().unwrap()["global"].clone()
    }

    fn status(&self) -> ZedAgentStatus {
        self.bus.read(&ZEDAGENT_STATUS).unwrap().unwrap()["zedagent"].clone()
    }

    fn apps_are_told(&self) -> bool {
        self.bus.read(&APP_INSTANCE_CONFIG).unwrap().is_some()
    }
}

fn spawn(bus: &Bus, script: &Script, clock: &Clock) -> tokio::task::JoinHandle<()> {
    let runtime =
        Runtime::<Zedagent, _>::new(bus.acting_as("zedagent"), script.clone(), clock.clone(), 1);
    tokio::spawn(runtime.run(std::future::pending()))
}

#[tokio::test(start_paused = true)]
async fn from_power_on_to_the_first_config_then_at_its_pace() {
    let mut d = Device::start();
    sleep(Duration::from_secs(3)).await;
    assert_eq!(d.script.steps(), ["LearnIdentity"]);
    assert_eq!(d.onboarding().phase, OnboardPhase::AwaitNetwork);
    assert!(!d.apps_are_told(), "no config is not an empty config");
    d.network_up();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(
        d.script.steps(),
        [
            "FetchCerts",
            "Introduce",
            "SendCerts",
            "AskNonce",
            "SendQuote",
            "FetchConfig"
        ]
    );
    assert_eq!(
        (d.onboarding().phase, d.status().attest),
        (OnboardPhase::Onboarded, AttestPhase::Complete)
    );
    assert_eq!(
        (d.status().config_source, d.apps_are_told()),
        (ConfigSource::Controller, true)
    );
    sleep(Duration::from_secs(600)).await;
    let steps = d.script.steps();
    let polls = steps.iter().filter(|s| *s == "FetchConfig").count();
    assert!(
        (14..=16).contains(&polls),
        "{polls} polls in 10 minutes at 65 % of 60 s"
    );
    sleep(Duration::from_secs(20)).await;
    let kept = steps
        .iter()
        .chain(&d.script.steps())
        .filter(|s| *s == "KeepAsBackup")
        .count();
    assert_eq!(kept, 1, "the config has proved itself");
}

#[tokio::test(start_paused = true)]
async fn without_the_controller_the_saved_config_is_used_and_its_own_taken_as_soon_as_it_answers() {
    let mut d = Device::start();
    d.network_up();
    sleep(Duration::from_secs(5)).await;
    d.restart();
    d.script.set(|s| s.down = true);
    sleep(Duration::from_secs(2)).await;
    assert!(d.script.steps().is_empty());
    sleep(Duration::from_secs(6)).await;
    assert_eq!(d.status().config_source, ConfigSource::Saved);
    assert_eq!(
        d.status().fault,
        None,
        "not asked yet: its certificates come first"
    );
    assert_eq!(d.onboarding().phase, OnboardPhase::Onboarded);
    d.script.set(|s| s.down = false);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(d.status().config_source, ConfigSource::Controller);
}

#[tokio::test(start_paused = true)]
async fn a_403_leads_to_a_new_attestation_and_the_last_config_stays() {
    let mut d = Device::start();
    d.network_up();
    sleep(Duration::from_secs(5)).await;
    d.script.steps();
    d.script.set(|s| s.config_code = 403);
    sleep(Duration::from_secs(45)).await;
    assert_eq!(d.status().attest, AttestPhase::RestartWait);
    let fault = d.status().fault.unwrap();
    assert!(
        fault.next.unwrap() > d.clock.now(),
        "what is said is what is done"
    );
    assert!(d.status().config_hash == "h1");
    d.script
        .set(|s| (s.config_code, s.hash) = (200, "h2".into()));
    sleep(Duration::from_secs(60)).await;
    assert!(d.script.steps().contains(&"SendQuote".to_owned()));
    assert_eq!(
        (d.status().config_hash.as_str(), d.status().fault),
        ("h2", None)
    );
}

#[tokio::test(start_paused = true)]
async fn a_404_makes_the_device_ask_who_it_is_but_not_all_the_time() {
    let mut d = Device::start();
    d.network_up();
    sleep(Duration::from_secs(5)).await;
    d.script.steps();
    d.script.set(|s| s.config_code = 404);
    sleep(Duration::from_secs(3600)).await;
    let asked = d
        .script
        .steps()
        .iter()
        .filter(|s| *s == "Introduce")
        .count();
    assert!((4..=7).contains(&asked), "{asked} times in an hour");
    let device: DeviceId = DEVICE.parse().unwrap();
    assert_eq!(d.onboarding().device, Some(device));
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_never_set_makes_no_certificate() {
    let bus = Bus::memory();
    let clock = Clock::tokio(Timestamp::UNIX_EPOCH);
    let script = Script::new(&clock);
    let task = spawn(&bus, &script, &clock);
    sleep(Duration::from_secs(20)).await;
    assert!(script.steps().is_empty());
    let status = bus.read(&ONBOARDING_STATUS).unwrap().unwrap()["global"].clone();
    assert!(status.fault.unwrap().text.contains("1970"));
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_learns_version_2_is_spoken_to_in_it() {
    let mut d = Device::start();
    d.script.set(|s| s.only_v1 = true);
    d.network_up();
    sleep(Duration::from_secs(10)).await;
    assert!(d.onboarding().api_v1);
    assert_eq!(d.status().config_source, ConfigSource::Controller);
    let of = |steps: Vec<String>, name: &str| steps.iter().filter(|s| *s == name).count();
    assert_eq!(of(d.script.steps(), "FetchCerts"), 1, "a 404 is an answer");
    sleep(Duration::from_secs(80_000)).await;
    assert_eq!(of(d.script.steps(), "FetchCerts"), 0);
    d.script.set(|s| s.only_v1 = false);
    sleep(Duration::from_secs(8_000)).await;
    let steps = d.script.steps();
    assert!(!d.onboarding().api_v1);
    assert_eq!(d.status().attest, AttestPhase::Complete);
    assert_eq!(of(steps, "FetchCerts"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_refuses_quotes_is_asked_for_the_config_all_the_same() {
    let mut d = Device::start();
    d.script.set(|s| s.quotes = Quotes::Refused);
    d.network_up();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(d.status().config_source, ConfigSource::Controller);
    sleep(Duration::from_secs(600)).await;
    let steps = d.script.steps();
    let count = |name: &str| steps.iter().filter(|s| *s == name).count();
    assert!((10..=20).contains(&count("FetchConfig")), "{steps:?}");
    assert!((3..=7).contains(&count("SendQuote")), "{steps:?}");
}
