//! The last state of every object reaches the controller, whatever happens in between.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use agent::{Clock, Failure, Progress, Runtime, World};
use api::info::{ZSwState, z_info_msg::InfoContent};
use bus::{Bus, Publisher};
use jiff::Timestamp;
use model::{
    app::{AppInstanceStatus, AppPhase},
    code::Code,
    id::{AppId, DeviceId},
    node::{ConfigSource, OnboardPhase, OnboardingStatus, ZedAgentStatus},
    topics::{APP_INSTANCE_STATUS, DELIVERY_JOURNAL, ONBOARDING_STATUS, ZEDAGENT_STATUS},
};
use reporter::{
    Actual, Desired, Due, Reporter, Send,
    messages::{Messages, System, messages},
};
use tokio::{task::JoinHandle, time::sleep};
use uuid::Uuid;

/// A controller that can be down or refuse.
#[derive(Clone, Default)]
struct Evc(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    messages: Messages,
    actual: Actual,
    clock: Option<Clock>,
    /// What the controller believes, by key.
    believes: BTreeMap<String, i32>,
    received: u32,
    tried: u32,
    down: bool,
    refuses: bool,
    refused_key: String,
    /// Takes what it is told, and its answer does not arrive.
    loses_answers: bool,
    epoch_seen: i64,
    server: String,
}

impl World<Reporter> for Evc {
    async fn observe(&self, desired: &Desired) -> Result<Actual, Failure> {
        let mut state = self.0.lock().unwrap();
        state.messages = messages(desired, &System::default());
        state.actual.messages = state
            .messages
            .iter()
            .map(|(k, m)| (k.clone(), (m.digest, m.last)))
            .collect();
        Ok(state.actual.clone())
    }

    async fn apply(&self, action: Send, _: Progress) -> Result<(), Failure> {
        sleep(Duration::from_millis(30)).await;
        let mut state = self.0.lock().unwrap();
        let clock = state.clock.clone().unwrap();
        if !matches!(action.due, Due::Metrics) {
            state.tried += 1;
        }
        if state.down {
            return Err(Failure::new(Code::ControllerUnreachable, "x", "down").transient());
        }
        match action.due {
            Due::Metrics => state.actual.metrics = Some((clock.uptime(), 0.5)),
            Due::Info { key, epoch } => {
                if state.refuses || key == state.refused_key {
                    return Err(Failure::new(Code::ReportRefused, "x", "422"));
                }
                let message = state.messages[&key].clone();
                state.received += 1;
                state.epoch_seen = epoch;
                let believed = match &message.content {
                    InfoContent::Ainfo(app) => app.state,
                    _ => 0,
                };
                state.believes.insert(key.clone(), believed);
                if state.loses_answers {
                    return Err(
                        Failure::new(Code::ControllerUnreachable, "x", "no answer").transient()
                    );
                }
                let acknowledged = reporter::Acknowledged {
                    digest: message.digest,
                    last: message.last,
                    at: clock.now(),
                    uptime: clock.uptime(),
                    epoch,
                    server: state.server.clone(),
                    count: action.number,
                };
                state.actual.acknowledged.insert(key, acknowledged);
            }
        }
        Ok(())
    }
}

struct Device {
    bus: Bus,
    evc: Evc,
    apps: Publisher<AppInstanceStatus>,
    zedagent: Publisher<ZedAgentStatus>,
    onboarding: Publisher<OnboardingStatus>,
    clock: Clock,
    task: JoinHandle<()>,
}

impl Device {
    fn start() -> Self {
        let bus = Bus::memory();
        let clock = Clock::tokio(Timestamp::UNIX_EPOCH);
        let evc = Evc::default();
        evc.0.lock().unwrap().clock = Some(clock.clone());
        let mut onboarding = bus
            .acting_as("zedagent")
            .publisher(&ONBOARDING_STATUS)
            .unwrap();
        let device = Some(DeviceId(Uuid::from_u128(1)));
        let onboarded = OnboardingStatus {
            phase: OnboardPhase::Onboarded,
            device,
            ..Default::default()
        };
        onboarding.publish("global", &onboarded).unwrap();
        onboarding.set_ready().unwrap();
        let mut apps = bus
            .acting_as("zedmanager")
            .publisher(&APP_INSTANCE_STATUS)
            .unwrap();
        apps.set_ready().unwrap();
        let zedagent = bus
            .acting_as("zedagent")
            .publisher(&ZEDAGENT_STATUS)
            .unwrap();
        Self {
            task: spawn(&bus, &evc, &clock),
            bus,
            evc,
            apps,
            zedagent,
            onboarding,
            clock,
        }
    }

    fn restart(&mut self) {
        self.task.abort();
        let mut state = self.evc.0.lock().unwrap();
        state.actual = Actual::default();
        drop(state);
        self.task = spawn(&self.bus, &self.evc, &self.clock);
    }

    fn app(&mut self, n: u128, phase: AppPhase) {
        let id = AppId(Uuid::from_u128(n));
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
    }

    fn believed(&self, n: u128) -> Option<ZSwState> {
        let key = format!("app.{}", AppId(Uuid::from_u128(n)));
        self.evc
            .0
            .lock()
            .unwrap()
            .believes
            .get(&key)
            .map(|s| ZSwState::try_from(*s).unwrap())
    }

    fn journal(&self) -> bus::Rows<model::report::DeliveryRecord> {
        self.bus.read(&DELIVERY_JOURNAL).unwrap().unwrap()
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.evc.0.lock().unwrap());
    }

    fn received(&self) -> u32 {
        std::mem::take(&mut self.evc.0.lock().unwrap().received)
    }
}

fn spawn(bus: &Bus, evc: &Evc, clock: &Clock) -> JoinHandle<()> {
    let runtime =
        Runtime::<Reporter, _>::new(bus.acting_as("reporter"), evc.clone(), clock.clone(), 1);
    tokio::spawn(runtime.run(std::future::pending()))
}

const SECS: fn(u64) -> Duration = Duration::from_secs;
const RUNNING: AppPhase = AppPhase::Running {
    since: Timestamp::UNIX_EPOCH,
};

#[tokio::test(start_paused = true)]
async fn another_controller_is_told_everything() {
    let mut d = Device::start();
    let mut named = d.onboarding.rows()["global"].clone();
    for (server, told) in [("one", 2), ("one", 0), ("two", 2), ("two", 0)] {
        named.server = server.to_owned();
        d.set(|s| s.server = server.to_owned());
        d.onboarding.publish("global", &named).unwrap();
        d.app(1, RUNNING);
        sleep(SECS(60)).await;
        assert_eq!(d.received(), told, "{server}");
    }
}

#[tokio::test(start_paused = true)]
async fn changes_are_told_once_and_an_object_that_is_gone_is_told_as_gone() {
    let mut d = Device::start();
    d.app(1, AppPhase::Booting);
    sleep(SECS(5)).await;
    assert_eq!(
        (d.believed(1), d.received()),
        (Some(ZSwState::Booting), 2),
        "the app and the device"
    );
    sleep(SECS(300)).await;
    assert_eq!(d.received(), 0, "nothing new");
    d.app(1, RUNNING);
    sleep(SECS(5)).await;
    assert_eq!((d.believed(1), d.received()), (Some(ZSwState::Running), 1));
    d.apps
        .unpublish(&AppId(Uuid::from_u128(1)).to_string())
        .unwrap();
    sleep(SECS(5)).await;
    assert_eq!(d.believed(1), Some(ZSwState::Halted));
    assert!(
        !d.journal().keys().any(|k| k.starts_with("app.")),
        "and forgotten"
    );
    d.received();
    d.restart();
    sleep(SECS(5)).await;
    assert_eq!(
        d.received(),
        1,
        "after a restart only the periodic device message"
    );
    sleep(SECS(610)).await;
    assert_eq!(d.received(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_days_skips_states_but_not_the_last() {
    let mut d = Device::start();
    d.app(1, RUNNING);
    d.app(2, RUNNING);
    sleep(SECS(5)).await;
    d.set(|s| s.down = true);
    for hour in 0..72 {
        d.app(
            1,
            if hour % 2 == 0 {
                AppPhase::Halted
            } else {
                RUNNING
            },
        );
        sleep(SECS(3600)).await;
        if hour == 30 {
            d.restart();
        }
    }
    d.app(1, AppPhase::Failed);
    d.apps
        .unpublish(&AppId(Uuid::from_u128(2)).to_string())
        .unwrap();
    sleep(SECS(60)).await;
    d.received();
    d.set(|s| s.down = false);
    sleep(SECS(75)).await;
    assert_eq!(
        (d.believed(1), d.believed(2)),
        (Some(ZSwState::Error), Some(ZSwState::Halted))
    );
    assert!(d.received() <= 3, "not every state in between");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_for_good_is_kept_with_its_reason_and_tried_again_slowly() {
    let mut d = Device::start();
    d.set(|s| s.refuses = true);
    d.app(1, RUNNING);
    sleep(SECS(3)).await;
    let journal = d.journal();
    let record = journal
        .iter()
        .find(|(k, _)| k.starts_with("app."))
        .unwrap()
        .1;
    assert_eq!(record.fault.as_ref().unwrap().code, Code::ReportRefused);
    assert_eq!(record.acknowledged, None);
    d.set(|s| s.refuses = false);
    sleep(SECS(30)).await;
    assert_eq!(d.believed(1), None);
    sleep(SECS(1200)).await;
    assert_eq!(d.believed(1), Some(ZSwState::Running));
    assert!(d.journal().values().all(|r| r.fault.is_none()));
}

#[tokio::test(start_paused = true)]
async fn a_new_epoch_makes_everything_due_again() {
    let mut d = Device::start();
    d.app(1, RUNNING);
    d.app(2, RUNNING);
    sleep(SECS(5)).await;
    d.received();
    d.zedagent
        .publish(
            "zedagent",
            &ZedAgentStatus {
                config_source: ConfigSource::Controller,
                controller_epoch: 9,
                ..Default::default()
            },
        )
        .unwrap();
    d.zedagent.set_ready().unwrap();
    sleep(SECS(5)).await;
    assert_eq!((d.received(), d.evc.0.lock().unwrap().epoch_seen), (3, 9));
}

#[tokio::test(start_paused = true)]
async fn an_outage_with_many_objects_is_probed_now_and_then_not_hammered() {
    let mut d = Device::start();
    d.set(|s| s.down = true);
    for n in 1..=40 {
        d.app(n, RUNNING);
    }
    sleep(SECS(600)).await;
    let tried = std::mem::take(&mut d.evc.0.lock().unwrap().tried);
    assert!(
        (20..120).contains(&tried),
        "{tried} attempts in ten minutes"
    );
    d.set(|s| s.down = false);
    sleep(SECS(75)).await;
    assert!((1..=40).all(|n| d.believed(n) == Some(ZSwState::Running)));
}

#[tokio::test(start_paused = true)]
async fn a_refused_message_waits_for_its_time_whatever_else_is_sent() {
    let mut d = Device::start();
    let refused = format!("app.{}", AppId(Uuid::from_u128(1)));
    d.set(|s| s.refused_key.clone_from(&refused));
    d.app(1, RUNNING);
    sleep(SECS(5)).await;
    d.set(|s| (s.tried, s.received) = (0, 0));
    for round in 0..20 {
        for n in 2..=9 {
            d.app(
                n,
                if round % 2 == 0 {
                    RUNNING
                } else {
                    AppPhase::Halted
                },
            );
        }
        sleep(SECS(10)).await;
    }
    let state = d.evc.0.lock().unwrap();
    assert_eq!(
        state.tried - state.received,
        0,
        "nothing is tried that is not taken"
    );
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_zedagent_is_no_new_epoch() {
    let mut d = Device::start();
    d.app(1, RUNNING);
    let status = |config_source, controller_epoch| ZedAgentStatus {
        config_source,
        controller_epoch,
        ..Default::default()
    };
    let known = status(ConfigSource::Controller, 9);
    d.zedagent.publish("zedagent", &known).unwrap();
    d.zedagent.set_ready().unwrap();
    sleep(SECS(5)).await;
    d.received();
    for status in [status(ConfigSource::None, 0), known] {
        d.zedagent.publish("zedagent", &status).unwrap();
        sleep(SECS(5)).await;
    }
    assert_eq!(d.received(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_state_that_returns_after_a_lost_answer_is_told_again_also_over_a_restart() {
    for restarts in [false, true] {
        let mut d = Device::start();
        d.app(1, RUNNING);
        sleep(SECS(5)).await;
        d.set(|s| s.loses_answers = true);
        d.app(1, AppPhase::Halted);
        sleep(Duration::from_millis(100)).await;
        assert_eq!(d.believed(1), Some(ZSwState::Halted), "it did arrive");
        if restarts {
            d.restart();
        }
        d.app(1, RUNNING);
        d.set(|s| s.loses_answers = false);
        sleep(SECS(70)).await;
        assert_eq!(
            d.believed(1),
            Some(ZSwState::Running),
            "restart: {restarts}"
        );
        d.received();
        sleep(SECS(300)).await;
        assert_eq!(d.received(), 0, "and then there is nothing new");
    }
}
