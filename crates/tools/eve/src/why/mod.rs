//! Why an object is not as wanted: the first condition that blocks it, and the way from the object to it.
//!
//! Pure: everything follows from a [`Device`], so it works the same on a live device and on a copy.
//!
//! ```text
//!  app -> volume -> content tree -> blob -> download -> datastore -> port -> (DHCP, DNS)
//!      \                                \-> verification
//!       -> interfaces -> network instance -> port
//!       -> guest -> unit                              report -> port
//!  onboarding -> network | certificates | registration        config -> onboarding | attestation
//!  every object -> the topics and the service that answer for it
//! ```
//!
//! The walk goes depth first and stops at what has nothing below it that blocks. Where an object needs
//! several others, a fault counts before a wait, a wait before work in progress, and among equals the
//! first in the object's own order. A service that is down blocks whatever it answers for, and so does a
//! topic that its writer has not completed.
//!
//! `walk.rs` is the machinery, `whole.rs` asks about everything, `text.rs` prints; the rest is one file per
//! part of the device, and `property.rs` says which property changes a retry.

mod access;
mod app;
mod content;
mod controller;
mod domain;
mod logs;
mod maintenance;
mod network;
mod property;
mod service;
mod text;
mod walk;
mod whole;

use std::fmt;

use jiff::Timestamp;
use model::code::Code;
use serde::Serialize;

use crate::{Device, Error};

pub(crate) use app::phase as app_phase;
pub(crate) use controller::{attest_phase, config_source, onboard_phase};
pub use logs::{Unkept, unkept};
pub(crate) use maintenance::maintenance;
pub(crate) use network::port_state;
pub use property::Property;
pub(crate) use service::phase as service_phase;
pub use text::{answer as answer_text, headline, troubles as troubles_text};
pub use whole::{Trouble, troubles};

/// What can be asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Asked {
    /// An application
    App,
    /// A volume
    Volume,
    /// A network instance
    Network,
    /// A port of the device
    Port,
    /// The way into the controller's hands
    Onboarding,
    /// The config channel
    Config,
    /// What the controller has not acknowledged
    Report,
    /// A service or a helper of one
    Service,
    /// A way in for a person
    Access,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::App => "app",
            Self::Volume => "volume",
            Self::Network => "network",
            Self::Port => "port",
            Self::Onboarding => "onboarding",
            Self::Config => "config",
            Self::Report => "report",
            Self::Service => "service",
            Self::Access => "access",
        })
    }
}

/// Kind of a thing on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[allow(missing_docs)] // The words are in `Display`.
pub enum Kind {
    Supervisor,
    Service,
    Unit,
    Topic,
    Object,
    Device,
    Onboarding,
    Controller,
    Certificates,
    Registration,
    Attestation,
    Config,
    Property,
    DeviceNetwork,
    Port,
    Dhcp,
    Dns,
    App,
    Interfaces,
    Guest,
    NetworkInstance,
    Volume,
    ContentTree,
    Blob,
    Vault,
    Download,
    Verification,
    Datastore,
    Report,
    Access,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Supervisor => "supervisor",
            Self::Service => "service",
            Self::Unit => "unit",
            Self::Topic => "topic",
            Self::Object => "object",
            Self::Device => "device",
            Self::Onboarding => "onboarding",
            Self::Controller => "controller",
            Self::Certificates => "controller's certificates",
            Self::Registration => "registration",
            Self::Attestation => "attestation",
            Self::Config => "config",
            Self::Property => "property",
            Self::DeviceNetwork => "device network",
            Self::Port => "port",
            Self::Dhcp => "DHCP on",
            Self::Dns => "DNS of",
            Self::App => "app",
            Self::Interfaces => "interfaces of",
            Self::Guest => "guest of",
            Self::NetworkInstance => "network",
            Self::Volume => "volume",
            Self::ContentTree => "content",
            Self::Blob => "blob",
            Self::Vault => "vault",
            Self::Download => "download",
            Self::Verification => "verification",
            Self::Datastore => "datastore",
            Self::Report => "report",
            Self::Access => "way in",
        })
    }
}

/// A thing on the way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Subject {
    /// What it is.
    pub kind: Kind,
    /// Its key on the bus; empty where there is only one.
    pub key: String,
    /// Its name for people, or empty.
    pub name: String,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = crate::words::short(&self.key);
        match (self.name.as_str(), self.key.as_str()) {
            ("", "") => write!(f, "{}", self.kind),
            ("", _) => write!(f, "{} {short}", self.kind),
            (name, key) if name == key || key.is_empty() => write!(f, "{} {name}", self.kind),
            (name, _) => write!(f, "{} {name} ({short})", self.kind),
        }
    }
}

/// How bad a condition is. The order is that of importance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Nature {
    /// Work that goes on: it needs time, nothing else.
    Progress,
    /// It waits for something that may come by itself.
    Waits,
    /// It failed.
    Fault,
}

/// What blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Condition {
    /// Where.
    pub subject: Subject,
    /// How bad.
    pub nature: Nature,
    /// What it waits for or what failed, in a sentence.
    pub text: String,
    /// The fault's code.
    pub code: Option<Code>,
    /// The fault's causes, outermost first.
    pub causes: Vec<String>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// The same as an age in seconds.
    pub age_seconds: Option<i64>,
    /// Seconds since the object was last written, when nothing says since when.
    pub unchanged_seconds: Option<i64>,
    /// Tries so far.
    pub attempts: u32,
    /// The next try.
    pub next: Option<Timestamp>,
    /// The same in seconds from now; negative when it should have been.
    pub retry_in_seconds: Option<i64>,
    /// Properties of the configuration that change when it is tried again or whether it blocks.
    pub properties: Vec<Property>,
    /// What to do about it.
    pub remedy: String,
}

/// A step on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Link {
    /// What.
    pub subject: Subject,
    /// How far it is, in words.
    pub state: String,
}

/// What is said about one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Answer {
    /// The object.
    pub asked: Subject,
    /// How far it is, in words.
    pub state: String,
    /// The first blocking condition; none when the object is as wanted.
    pub blocked_by: Option<Condition>,
    /// From the object down to the condition, both included.
    pub chain: Vec<Link>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

impl Answer {
    /// Nothing blocks it.
    pub fn is_as_wanted(&self) -> bool {
        self.blocked_by.is_none()
    }
}

/// What is said about one object that a person named: by key, name, or the beginning of either.
/// Onboarding and the config need no name. Without a kind the name is looked for among all kinds.
pub fn why(device: &Device, asked: Option<Asked>, name: &str) -> Result<Answer, Error> {
    let candidates: Vec<_> = whole::candidates(device)
        .into_iter()
        .filter(|candidate| asked.is_none_or(|asked| candidate.what == asked))
        .collect();
    let kind = asked.map_or("object".to_owned(), |asked| asked.to_string());
    match crate::find::find(&kind, &candidates, name) {
        Ok(found) => Ok(whole::answer(device, found.what, &found.key)),
        Err(Error::NotFound { kind, name, hint }) => {
            let incomplete = whole::incomplete(device, asked);
            let hint = incomplete.map_or(hint, |topic| {
                format!("; {topic} is not complete yet: see `eve why config`")
            });
            Err(Error::NotFound { kind, name, hint })
        }
        Err(error) => Err(error),
    }
}
