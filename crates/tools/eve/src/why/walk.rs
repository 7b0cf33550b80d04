//! The machinery of the walk: the way so far, guards against circles, the worst of several.

use std::collections::BTreeSet;

use jiff::Timestamp;
use model::fault::Fault;

use super::{Condition, Kind, Link, Nature, Subject, property};
use crate::{Device, device::Table};

/// What blocks, if anything.
pub(super) type Block = Option<Condition>;

/// A walk over a device from one object downwards.
pub(super) struct Walk<'a> {
    pub(super) device: &'a Device,
    /// From the asked object to where the walk is; once a condition is found, to that.
    pub(super) chain: Vec<Link>,
    /// What the walk is inside of: services wait for each other in circles.
    inside: BTreeSet<(Kind, String)>,
}

/// One of several things that an object needs.
pub(super) type Need<'a, 'w> = Box<dyn FnOnce(&mut Walk<'a>) -> Block + 'w>;

impl<'a> Walk<'a> {
    pub(super) fn new(device: &'a Device) -> Self {
        Self {
            device,
            chain: Vec::new(),
            inside: BTreeSet::new(),
        }
    }

    /// Steps onto `subject`. When `look` finds what blocks, the step stays in the chain.
    pub(super) fn enter(
        &mut self,
        subject: Subject,
        state: impl Into<String>,
        look: impl FnOnce(&mut Self) -> Block,
    ) -> Block {
        let id = (subject.kind, subject.key.clone());
        if !self.inside.insert(id.clone()) {
            return None;
        }
        let depth = self.chain.len();
        self.chain.push(Link {
            subject,
            state: state.into(),
        });
        let found = look(self);
        if found.is_none() {
            self.chain.truncate(depth);
        }
        self.inside.remove(&id);
        found
    }

    /// Steps onto what blocks.
    pub(super) fn stop(&mut self, state: &str, condition: Condition) -> Block {
        self.enter(condition.subject.clone(), state, |_| Some(condition))
    }

    /// The worst of what blocks several needs; the first among equals.
    pub(super) fn worst<'w>(&mut self, needs: impl IntoIterator<Item = Need<'a, 'w>>) -> Block {
        let depth = self.chain.len();
        let mut worst: Option<(Condition, Vec<Link>)> = None;
        for need in needs {
            let found = need(self);
            let way = self.chain.split_off(depth);
            if let Some(condition) = found
                && worst
                    .as_ref()
                    .is_none_or(|(other, _)| condition.nature > other.nature)
            {
                worst = Some((condition, way));
            }
            if worst
                .as_ref()
                .is_some_and(|(condition, _)| condition.nature == Nature::Fault)
            {
                break;
            }
        }
        let (condition, way) = worst?;
        self.chain.extend(way);
        Some(condition)
    }

    /// A published fault as a condition.
    pub(super) fn fault(&self, subject: Subject, fault: &Fault) -> Condition {
        let Fault {
            code,
            object: _,
            text,
            causes,
            transient: _,
            since,
            attempts,
            next,
        } = fault;
        let mut condition = Condition::new(subject, Nature::Fault, text);
        condition.code = Some(*code);
        condition.causes.clone_from(causes);
        condition.attempts = *attempts;
        code.remedy().clone_into(&mut condition.remedy);
        self.name_properties(&mut condition, code.properties());
        self.at(condition, Some(*since), *next)
    }

    pub(super) fn name_properties(&self, condition: &mut Condition, names: &[&str]) {
        let items = self.device.items();
        let properties = names
            .iter()
            .filter_map(|name| property::property(&items, name));
        condition.properties = properties.collect();
    }

    /// Adds the times.
    pub(super) fn at(
        &self,
        mut condition: Condition,
        since: Option<Timestamp>,
        next: Option<Timestamp>,
    ) -> Condition {
        let now = self.device.at;
        condition.since = since;
        condition.age_seconds = since.map(|at| now.duration_since(at).as_secs().max(0));
        condition.next = next;
        condition.retry_in_seconds = next.map(|at| at.duration_since(now).as_secs());
        condition
    }

    /// Adds when the object was last written, for what nobody says the age of.
    pub(super) fn unchanged<T>(
        &self,
        mut condition: Condition,
        table: &Table<T>,
        key: &str,
    ) -> Condition {
        let now = self.device.at;
        condition.unchanged_seconds = table
            .changed
            .get(key)
            .map(|at| now.duration_since(*at).as_secs().max(0));
        condition
    }

    /// What is known of an object: the subject for its chain link.
    pub(super) fn subject(kind: Kind, key: impl Into<String>, name: impl Into<String>) -> Subject {
        Subject {
            kind,
            key: key.into(),
            name: name.into(),
        }
    }

    /// A row that should be there is not: it can't be read, or its writer does not answer, or `text`.
    pub(super) fn missing<T: bus::Object>(
        &mut self,
        table: &'a Table<T>,
        key: &str,
        subject: Subject,
        text: impl Into<String>,
    ) -> Condition {
        if let Some(condition) = self.damaged(table, key) {
            return condition;
        }
        if let Some(condition) = self.answers(table.service, table.name) {
            return condition;
        }
        Condition::waits(subject, text)
    }

    /// An object that is there but can't be read.
    pub(super) fn damaged<T: bus::Object>(&mut self, table: &Table<T>, key: &str) -> Block {
        let object = format!("{}/{}/{key}", table.service, table.name);
        let subject = Self::subject(Kind::Object, object, "");
        if let Some(reason) = table.unreadable.get(key) {
            return self.stop("unreadable", Self::unreadable(subject, reason));
        }
        if table.quarantined.iter().any(|name| name == key) {
            return self.stop("in quarantine", Self::quarantined(subject));
        }
        None
    }

    pub(super) fn unreadable(subject: Subject, reason: &str) -> Condition {
        let mut condition = Condition::new(
            subject,
            Nature::Fault,
            format!("the object can't be read: {reason}"),
        );
        "Its writer moves it to .quarantine/ when it starts; readers go on with the last good value."
            .clone_into(&mut condition.remedy);
        condition
    }

    pub(super) fn quarantined(subject: Subject) -> Condition {
        let mut condition = Condition::new(
            subject,
            Nature::Fault,
            "the object could not be read and was moved to .quarantine/",
        );
        "Its writer publishes it anew when it knows it; keep the file for a report, then delete it."
            .clone_into(&mut condition.remedy);
        condition
    }
}

impl Condition {
    /// A condition that says no more than its text.
    pub(super) fn new(subject: Subject, nature: Nature, text: impl Into<String>) -> Self {
        Self {
            subject,
            nature,
            text: text.into(),
            code: None,
            causes: Vec::new(),
            since: None,
            age_seconds: None,
            unchanged_seconds: None,
            attempts: 0,
            next: None,
            retry_in_seconds: None,
            properties: Vec::new(),
            remedy: String::new(),
        }
    }

    pub(super) fn waits(subject: Subject, text: impl Into<String>) -> Self {
        Self::new(subject, Nature::Waits, text)
    }

    pub(super) fn progress(subject: Subject, text: impl Into<String>) -> Self {
        Self::new(subject, Nature::Progress, text)
    }
}

/// Wraps a look as one of several needs.
pub(super) fn need<'a, 'w>(look: impl FnOnce(&mut Walk<'a>) -> Block + 'w) -> Need<'a, 'w> {
    Box::new(look)
}
