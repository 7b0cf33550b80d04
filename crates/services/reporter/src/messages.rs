//! What is said: one info message per object, made of the tables alone.

mod app;
mod device;
mod metrics;
mod network;
mod storage;

use std::collections::BTreeMap;

use api::info::{ErrorInfo, Severity, ZInfoMsg, ZInfoTypes, z_info_msg::InfoContent};
use jiff::Timestamp;
use model::{fault::Fault, id::Digest, node::OnboardPhase};
use prost::Message;
use sha2::{Digest as _, Sha256};

use crate::Desired;

pub use metrics::{System, metrics};

/// Messages by the object's key in the journal.
pub type Messages = BTreeMap<String, Content>;

/// One object's state now.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// Kind of message.
    pub kind: ZInfoTypes,
    /// What it says.
    pub content: InfoContent,
    /// Digest of what it says.
    pub digest: Digest,
    /// The object is gone: this is the last message about it.
    pub last: bool,
}

impl Content {
    fn new(kind: ZInfoTypes, content: InfoContent, last: bool) -> Self {
        let bare = ZInfoMsg {
            info_content: Some(content.clone()),
            ..ZInfoMsg::default()
        };
        let digest = Digest(Sha256::digest(bare.encode_to_vec()).into());
        Self {
            kind,
            content,
            digest,
            last,
        }
    }

    /// The message as sent.
    pub fn message(&self, device: &str, now: Timestamp) -> ZInfoMsg {
        ZInfoMsg {
            ztype: self.kind.into(),
            dev_id: device.to_owned(),
            at_time_stamp: Some(time(now)),
            info_content: Some(self.content.clone()),
        }
    }
}

/// Everything that can be said now. Nothing before the device is onboarded.
pub fn messages(desired: &Desired, system: &System) -> Messages {
    let mut all = Messages::new();
    if desired.onboarding.phase != OnboardPhase::Onboarded {
        return all;
    }
    all.insert("device".to_owned(), device::info(desired, system));
    app::infos(desired, &mut all);
    network::infos(desired, &mut all);
    storage::infos(desired, &mut all);
    all
}

/// Adds last messages for objects of one kind that the journal knows and the table no longer has.
fn gone(desired: &Desired, prefix: &str, all: &mut Messages, last: impl Fn(&str) -> Content) {
    let known: Vec<String> = desired
        .journal
        .keys()
        .filter(|key| key.starts_with(prefix) && !all.contains_key(*key))
        .cloned()
        .collect();
    for key in known {
        let message = last(&key[prefix.len()..]);
        all.insert(key, message);
    }
}

fn time(at: Timestamp) -> pbjson_types::Timestamp {
    pbjson_types::Timestamp {
        seconds: at.as_second(),
        nanos: at.subsec_nanosecond().max(0),
    }
}

/// A fault in the controller's words. The number of attempts and the time of the next one are left out of the
/// text, because each of them would make a message of its own.
fn error(fault: &Fault) -> ErrorInfo {
    ErrorInfo {
        description: fault.line(),
        timestamp: Some(time(fault.since)),
        severity: if fault.transient {
            Severity::Warning
        } else {
            Severity::Error
        }
        .into(),
        entities: Vec::new(),
        retry_condition: if fault.transient {
            "retried by itself"
        } else {
            fault.code.remedy()
        }
        .to_owned(),
    }
}
