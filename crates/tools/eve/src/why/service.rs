//! Services: whether they run, and whether they have spoken.

use jiff::SignedDuration;
use model::{
    code::Code,
    service::{ServicePhase, ServiceStatus},
};

use super::{
    Condition, Kind, Nature, Subject,
    walk::{Block, Walk},
};
use crate::{snapshot::Supervisor, words};

/// A service that was started again so often,
const SHAKY_RESTARTS: u32 = 3;
/// the last time within this, is not to be trusted though it runs.
const SHAKY: SignedDuration = SignedDuration::from_mins(5);

/// Topics: writer and name.
type Inputs = &'static [(&'static str, &'static str)];

/// Topics that a topic's writer needs before it can complete it, beside those that it always needs.
const NEEDS: &[(&str, &str, Inputs)] = &[
    ("nodeagent", "*", &[("zedagent", "ZedAgentStatus")]),
    ("zedmanager", "*", &[("zedagent", "AppInstanceConfig")]),
    (
        "volumemgr",
        "*",
        &[
            ("vaultmgr", "VaultStatus"),
            ("zedagent", "ContentTreeConfig"),
            ("zedagent", "VolumeConfig"),
        ],
    ),
    ("downloader", "*", &[("vaultmgr", "VaultStatus")]),
    ("verifier", "*", &[("vaultmgr", "VaultStatus")]),
    ("volumemgr", "ContentTreeStatus", VERIFIED),
    ("volumemgr", "BlobStatus", VERIFIED),
    ("volumemgr", "DownloaderConfig", SPOKEN),
    ("volumemgr", "VerifyImageConfig", SPOKEN),
    ("domainmgr", "*", &[("zedmanager", "DomainConfig")]),
    ("zedrouter", "*", &[("zedagent", "NetworkInstanceConfig")]),
];
const VERIFIED: Inputs = &[("verifier", "VerifyImageStatus")];
const SPOKEN: Inputs = &[
    ("verifier", "VerifyImageStatus"),
    ("downloader", "DownloaderStatus"),
    ("zedmanager", "VolumeRefConfig"),
];

/// Topics that zedagent completes once there is a config.
const CONFIG_TOPICS: &[&str] = &[
    "DevicePortConfig",
    "PhysicalIOAdapterList",
    "DatastoreConfig",
    "ContentTreeConfig",
    "VolumeConfig",
    "NetworkInstanceConfig",
    "AppInstanceConfig",
];

fn needs(service: &str, topic: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    NEEDS
        .iter()
        .filter(move |(writer, name, _)| *writer == service && (*name == "*" || *name == topic))
        .flat_map(|(_, _, inputs)| inputs.iter().copied())
}

/// The phase of a unit in words.
pub(crate) fn phase(status: &ServiceStatus) -> String {
    match &status.phase {
        ServicePhase::Waiting { after } if after.is_empty() => "waiting".to_owned(),
        ServicePhase::Waiting { after } => format!("waits for {}", after.join(", ")),
        ServicePhase::Starting { .. } => "starting".to_owned(),
        ServicePhase::Running { .. } => "running".to_owned(),
        ServicePhase::Backoff { .. } => "ended, is started again".to_owned(),
        ServicePhase::Stopping { .. } => "stopping".to_owned(),
        ServicePhase::Stopped => "stopped".to_owned(),
    }
}

impl Walk<'_> {
    pub(super) fn service_subject(&self, name: &str) -> Subject {
        match name.split_once('/') {
            None => Self::subject(Kind::Service, name, ""),
            Some(("domainmgr", app)) => {
                let app = self.device.app_name(app).unwrap_or_default();
                Self::subject(Kind::Unit, name, app)
            }
            Some(_) => Self::subject(Kind::Unit, name, ""),
        }
    }

    /// Whether a unit runs. Nothing is said without a supervisor: services may be run by hand.
    pub(super) fn runs(&mut self, name: &str) -> Block {
        let units = &self.device.services;
        if !units.known {
            return None;
        }
        let Some(status) = units.get(name) else {
            // Helpers come and go.
            if name.contains('/') || !units.ready || units.unreadable.contains_key(name) {
                return None;
            }
            let subject = self.service_subject(name);
            let text = format!("the supervisor was not told to run {name}");
            return self.stop("not there", Condition::new(subject, Nature::Fault, text));
        };
        let subject = self.service_subject(name);
        self.enter(subject.clone(), phase(status), |w| {
            w.look_at(subject, status)
        })
    }

    fn look_at(&mut self, subject: Subject, status: &ServiceStatus) -> Block {
        let name = words::short(&status.name);
        match &status.phase {
            ServicePhase::Running { .. } => None,
            ServicePhase::Waiting { after } => {
                let after: Vec<String> = after.clone();
                self.supervised()
                    .or_else(|| after.iter().find_map(|other| self.runs(other)))
                    .or_else(|| Some(Condition::waits(subject, "not started yet")))
            }
            ServicePhase::Starting { since, .. } => {
                let text = format!("{name} has not said that it is ready since it started");
                let condition = Condition::progress(subject, text);
                Some(self.at(condition, Some(*since), None))
            }
            ServicePhase::Backoff { until } => Some(self.supervised().unwrap_or_else(|| {
                let text = format!(
                    "{name} does not run ({}); the supervisor starts it again",
                    ended(status)
                );
                self.down(subject, status, text, Some(*until))
            })),
            ServicePhase::Stopping { deadline, .. } => {
                let text = format!("{name} is being stopped; it is killed at the deadline");
                let condition = Condition::waits(subject, text);
                Some(self.at(condition, None, Some(*deadline)))
            }
            ServicePhase::Stopped => {
                let text = format!(
                    "{name} does not run ({}), and is not started again by itself",
                    ended(status)
                );
                Some(self.down(subject, status, text, None))
            }
        }
    }

    fn down(
        &self,
        subject: Subject,
        status: &ServiceStatus,
        text: String,
        next: Option<jiff::Timestamp>,
    ) -> super::Condition {
        if let Some(fault) = &status.fault {
            let condition = self.fault(subject, fault);
            let mut condition = self.at(condition, Some(fault.since), fault.next.or(next));
            condition.text = text;
            condition
        } else {
            let condition = Condition::new(subject, Nature::Fault, text);
            self.at(condition, status.last_exit_at, next)
        }
    }

    /// Whether somebody starts services at all.
    pub(super) fn supervised(&mut self) -> Block {
        match self.device.supervisor {
            Supervisor::Answers | Supervisor::Unknown => None,
            Supervisor::Silent => {
                let subject = Self::subject(Kind::Supervisor, "", "");
                let mut condition = Condition::new(
                    subject,
                    Nature::Fault,
                    "the supervisor does not answer, so nobody starts services again",
                );
                "Start it; it finds the units that still run.".clone_into(&mut condition.remedy);
                self.stop("does not answer", condition)
            }
        }
    }

    /// Whether a topic's writer runs and has completed the topic since it started.
    pub(super) fn answers(&mut self, service: &'static str, topic: &'static str) -> Block {
        if let Some(down) = self.runs(service) {
            return Some(down);
        }
        let state = self.device.topic(service, topic)?;
        if state.ready {
            return None;
        }
        let name = format!("{service}/{topic}");
        let subject = Self::subject(Kind::Topic, name.clone(), "");
        self.enter(subject.clone(), "not complete", |w| {
            let inputs = needs(service, topic).filter(|(service, topic)| {
                w.device
                    .topic(service, topic)
                    .is_some_and(|input| !input.ready)
            });
            for (service, topic) in inputs.collect::<Vec<_>>() {
                if let Some(below) = w.answers(service, topic) {
                    return Some(below);
                }
            }
            if needs(service, topic).any(|(input, _)| input == "vaultmgr")
                && let Some(below) = w.vault()
            {
                return Some(below);
            }
            if service == "zedagent"
                && CONFIG_TOPICS.contains(&topic)
                && let Some(below) = w.config()
            {
                return Some(below);
            }
            let since = match w.device.services.get(service).map(|unit| &unit.phase) {
                Some(ServicePhase::Running { since, .. }) => Some(*since),
                _ => None,
            };
            let text = if state.known {
                format!("{service} has not completed it since it started")
            } else {
                format!("{service} has never published it")
            };
            let mut condition = Condition::waits(subject, text);
            condition.remedy = format!("See `eve logs {service}`.");
            Some(w.at(condition, since, None))
        })
    }

    /// What is said about a service by itself: it runs, and its topics are complete.
    pub(super) fn service(&mut self, name: &str) -> Block {
        if let Some(down) = self.runs(name) {
            return Some(down);
        }
        let topics = self.device.topics();
        let own = topics.iter().filter(|topic| topic.service == name);
        for topic in own {
            // A topic that was never published may not be due yet.
            if topic.known
                && !topic.ready
                && let Some(block) = self.answers(topic.service, topic.name)
            {
                return Some(block);
            }
        }
        self.shaky(name)
    }

    /// A service that runs now, and ends again and again. What it answers for is not held up while it runs.
    fn shaky(&mut self, name: &str) -> Block {
        let status = self.device.services.get(name)?;
        let at = status.last_exit_at?;
        let ago = self.device.at.duration_since(at);
        if status.restarts < SHAKY_RESTARTS || ago > SHAKY {
            return None;
        }
        let times = usize::try_from(status.restarts).unwrap_or(usize::MAX);
        let text = format!(
            "it runs, and was started again {} since the device booted, the last time {} ago: {}",
            words::count(times, "time"),
            words::ago(at, self.device.at),
            ended(status)
        );
        let mut condition = Condition::waits(self.service_subject(name), text);
        Code::UnitCrashed.remedy().clone_into(&mut condition.remedy);
        let condition = self.at(condition, Some(at), None);
        self.stop("running", condition)
    }
}

fn ended(status: &ServiceStatus) -> String {
    if status.last_exit.is_empty() {
        "it never ran".to_owned()
    } else {
        status.last_exit.clone()
    }
}
