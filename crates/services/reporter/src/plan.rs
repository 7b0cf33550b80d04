//! What is due.

use std::{collections::BTreeMap, time::Duration};

use agent::{Action, Backoff, Job, Jobs, Outbox, Plan, Service, Tables, Turn};
use bus::Rows;
use jiff::Timestamp;
use model::{
    code::Code,
    id::Digest,
    node::{ConfigSource, OnboardPhase},
    report::DeliveryRecord,
    topics::DELIVERY_JOURNAL,
};

use crate::Desired;

/// Messages under way at once: the device first, then as the keys go. One that nobody answered keeps its
/// place until its retry, so that an outage is probed by these few and the rest waits.
const PARALLEL: usize = 4;

/// The service.
pub struct Reporter;

/// What can be said now and what was acknowledged since start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Actual {
    /// Digest of what there is to say, per key, and whether it is the last about the object.
    pub messages: BTreeMap<String, (Digest, bool)>,
    /// Acknowledged since start.
    pub acknowledged: BTreeMap<String, Acknowledged>,
    /// Uptime of the last metrics, and a random number in `[0, 1)` that spreads devices over the interval.
    pub metrics: Option<(Duration, f64)>,
    /// Uptime before which the controller does not want to hear the next metrics.
    pub metrics_not_before: Duration,
}

/// The controller took a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Acknowledged {
    /// What it said.
    pub digest: Digest,
    /// It was the last about the object.
    pub last: bool,
    /// When.
    pub at: Timestamp,
    /// Uptime at that time.
    pub uptime: Duration,
    /// The controller's epoch when it was sent.
    pub epoch: i64,
    /// Which controller.
    pub server: String,
    /// Messages about the object before it.
    pub count: u64,
}

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// The state of one object.
    Info {
        /// Its key in the journal.
        key: String,
        /// For the journal.
        epoch: i64,
    },
    /// Metrics.
    Metrics,
}

/// A message to send. Its content is the newest at that moment, so that a changing object does not
/// cancel its own message again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// What.
    pub due: Due,
    /// Counts the messages about the object, so that the next one is another action.
    pub number: u64,
}

impl Action for Send {
    fn subject(&self) -> String {
        match &self.due {
            Due::Info { key, .. } => format!("report {key}"),
            Due::Metrics => "metrics".to_owned(),
        }
    }

    fn is_slow(&self) -> bool {
        true
    }

    fn backoff(&self) -> Backoff {
        Backoff {
            first: Duration::from_secs(2),
            max: Duration::from_secs(60),
            permanent: Some(Duration::from_secs(900)),
        }
    }
}

/// Every row that reporter publishes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// What was acknowledged, and what keeps the rest.
    pub journal: Rows<DeliveryRecord>,
}

impl agent::Report for Report {
    fn put(self, out: &mut Outbox) {
        // A disk that is full or broken is not to keep the controller from hearing of it.
        out.remember(&DELIVERY_JOURNAL, self.journal);
    }
}

impl Service for Reporter {
    const NAME: &'static str = "reporter";
    type Desired = Desired;
    type Actual = Actual;
    type Action = Send;
    type Report = Report;

    fn read(tables: &mut Tables) -> Option<Desired> {
        Desired::read(tables)
    }

    fn plan(turn: &Turn<'_, Self>) -> Plan<Self> {
        let mut plan = Plan::report(Report {
            journal: journal(turn),
        });
        if turn.desired.onboarding.phase != OnboardPhase::Onboarded {
            return plan;
        }
        infos(turn, &mut plan);
        metrics(turn, &mut plan);
        plan
    }
}

/// The controller's epoch; unknown until zedagent has a config since the boot or its own restart.
fn epoch(turn: &Turn<'_, Reporter>) -> Option<i64> {
    turn.desired
        .zedagent
        .as_ref()
        .filter(|z| z.config_source != ConfigSource::None)
        .map(|z| z.controller_epoch)
}

/// What becomes of a message that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Under way.
    Running,
    /// Nobody answered: the next one would hear the same silence.
    Unanswered,
    /// The controller answered and did not take it: a matter of this message alone.
    Refused,
    /// Not tried yet.
    Fresh,
}

fn place(jobs: &Jobs, subject: &str) -> Place {
    match jobs.get(subject) {
        None => Place::Fresh,
        Some(Job::Running { .. }) => Place::Running,
        Some(Job::Failed(fault)) => match fault.code {
            Code::ReportRefused | Code::ControllerRefused => Place::Refused,
            _ => Place::Unanswered,
        },
    }
}

fn journal(turn: &Turn<'_, Reporter>) -> Rows<DeliveryRecord> {
    let mut journal = (*turn.desired.journal).clone();
    for (key, acknowledged) in &turn.actual.acknowledged {
        if acknowledged.last
            && turn
                .actual
                .messages
                .get(key)
                .is_none_or(|(d, last)| *last && *d == acknowledged.digest)
        {
            journal.remove(key);
            continue;
        }
        let record = journal.entry(key.clone()).or_default();
        // Taken over once: since then it may have come into doubt.
        if record.at != Some(acknowledged.at) {
            record.acknowledged = Some(acknowledged.digest);
            record.at = Some(acknowledged.at);
            record.epoch = acknowledged.epoch;
            record.server.clone_from(&acknowledged.server);
        }
    }
    for key in turn.actual.messages.keys() {
        let subject = format!("report {key}");
        let fault = turn.jobs.fault(&subject).cloned();
        let is_gone_for_good =
            turn.actual.acknowledged.get(key).is_some_and(|a| a.last) && !journal.contains_key(key);
        if !is_gone_for_good {
            // A record before the first delivery: an object that vanishes meanwhile is still reported as gone.
            let record = journal.entry(key.clone()).or_default();
            // A newer message under way has not failed yet, but is the same matter, and not worth a write to the disk.
            if fault.is_some() || !turn.jobs.is_running(&subject) {
                record.fault = fault;
            }
        }
    }
    journal
}

fn infos(turn: &Turn<'_, Reporter>, plan: &mut Plan<Reporter>) {
    let epoch = epoch(turn);
    let interval = turn.desired.items.seconds("timer.deviceinfo.interval");
    let mut due = Vec::new();
    for (key, (digest, last)) in &turn.actual.messages {
        let record = plan.report.journal.get(key);
        if *last && record.is_none() {
            continue;
        }
        let epoch = epoch.or(record.map(|r| r.epoch)).unwrap_or_default();
        // Another controller knows nothing of what the former one was told.
        let server = &turn.desired.onboarding.server;
        let another = |r: &DeliveryRecord| !r.server.is_empty() && r.server != *server;
        let news = record
            .is_none_or(|r| r.acknowledged != Some(*digest) || r.epoch != epoch || another(r));
        let acknowledged = turn.actual.acknowledged.get(key);
        let mut periodic = false;
        if key == "device" {
            let left = acknowledged.map_or(Duration::ZERO, |a| {
                (a.uptime + interval).saturating_sub(turn.uptime)
            });
            periodic = left.is_zero();
            if !periodic {
                plan.wake_in(left);
            }
        }
        let subject = format!("report {key}");
        if news || periodic || turn.jobs.is_running(&subject) {
            let number = acknowledged.map_or(0, |a| a.count + 1);
            let info = Due::Info {
                key: key.clone(),
                epoch,
            };
            due.push((place(turn.jobs, &subject), key, Send { due: info, number }));
        }
    }
    let taken = |(place, _, _): &&(Place, &String, Send)| {
        matches!(place, Place::Running | Place::Unanswered)
    };
    let mut free = PARALLEL.saturating_sub(due.iter().filter(taken).count());
    due.sort_by_key(|(_, key, _)| *key != "device");
    // What was tried stays planned: the loop forgets its failures, and when to try again, otherwise.
    let planned = due.into_iter().filter(|(place, _, _)| match place {
        Place::Running | Place::Unanswered | Place::Refused => true,
        Place::Fresh if free > 0 => {
            free -= 1;
            true
        }
        Place::Fresh => false,
    });
    let planned: Vec<_> = planned.collect();
    for (_, key, _) in &planned {
        // Its answer may be lost though it arrives: from here on the controller may believe either, and a
        // return to the state of before is news again. Written before it is sent.
        if let (Some(record), Some((digest, _))) = (
            plan.report.journal.get_mut(*key),
            turn.actual.messages.get(*key),
        ) && record.acknowledged != Some(*digest)
        {
            record.acknowledged = None;
        }
    }
    plan.actions
        .extend(planned.into_iter().map(|(_, _, send)| send));
}

fn metrics(turn: &Turn<'_, Reporter>, plan: &mut Plan<Reporter>) {
    let interval = turn.desired.items.seconds("timer.metric.interval");
    let (due, number) = match turn.actual.metrics {
        // The first after a while, when there is something to tell.
        None => (Duration::from_secs(10), 0),
        Some((at, jitter)) => (at + interval.mul_f64(0.3 + 0.7 * jitter), at.as_millis()),
    };
    let due = due.max(turn.actual.metrics_not_before);
    match due.checked_sub(turn.uptime).filter(|left| !left.is_zero()) {
        Some(left) => plan.wake_in(left),
        None => plan.actions.push(Send {
            due: Due::Metrics,
            number: u64::try_from(number).unwrap_or(u64::MAX),
        }),
    }
}
