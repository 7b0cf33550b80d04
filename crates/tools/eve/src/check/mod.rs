//! `eve check`: what an operator would look at before trusting a device, and after it misbehaved.
//!
//! ```text
//!  bus ------> Device --.
//!                        +--> evaluate (pure) --> Check, Check, ... --> text, JSON, exit code
//!  world ----> Facts ---'
//! ```
//!
//! [`facts::World`] looks (files, `/proc`, real DNS queries and connections over every port; `collect/`),
//! everything else judges what was seen, so that each verdict is tested without a device. Numbers and ids
//! are stable: [`catalogue`] is the list, one file per group judges it. A check that could not look says
//! `skipped` and why, never `ok`.

mod access;
pub mod catalogue;
pub mod collect;
pub mod facts;
mod identity;
mod machine;
mod network;
mod processes;
mod sandbox;
mod services;
mod sockets;
mod storage;
mod text;

use serde::{Deserialize, Serialize};

use crate::Device;
pub use catalogue::{CATALOGUE, Group, Spec};
pub use facts::{Fact, Facts, World};
pub use sandbox::{Row as SandboxRow, rows as sandbox_rows};
pub use text::{checks as checks_text, list as list_text, sandbox as sandbox_text};

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Check {
    /// Its number, stable across versions.
    pub number: u16,
    /// Its name, stable across versions.
    pub id: &'static str,
    /// What it belongs to.
    pub group: Group,
    /// What it asks.
    pub title: &'static str,
    /// The port, service or object that it is about; empty for the device.
    pub subject: String,
    /// The answer.
    pub result: Outcome,
    /// What was seen; for a skipped check why it was not looked at.
    pub detail: String,
    /// What to do about it; empty when there is nothing to do.
    pub remedy: String,
}

/// The answer of a check. The order is that of importance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// It could not be looked at, or there is nothing to look at.
    Skipped,
    /// As it should be.
    Ok,
    /// It works now, and may not for long or not as well as it could.
    Warn,
    /// It is wrong.
    Fail,
}

/// How many checks ended how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Summary {
    /// As they should be.
    pub ok: usize,
    /// Warnings.
    pub warn: usize,
    /// Failures.
    pub fail: usize,
    /// Not looked at.
    pub skipped: usize,
}

impl Summary {
    /// Counts.
    pub fn of(checks: &[Check]) -> Self {
        let mut sum = Self::default();
        for check in checks {
            *match check.result {
                Outcome::Ok => &mut sum.ok,
                Outcome::Warn => &mut sum.warn,
                Outcome::Fail => &mut sum.fail,
                Outcome::Skipped => &mut sum.skipped,
            } += 1;
        }
        sum
    }
}

/// A verdict before it has a number.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Ok(String),
    Warn(String, String),
    Fail(String, String),
    Skipped(String),
}

fn ok(detail: impl Into<String>) -> Verdict {
    Verdict::Ok(detail.into())
}

fn warn(detail: impl Into<String>, remedy: impl Into<String>) -> Verdict {
    Verdict::Warn(detail.into(), remedy.into())
}

fn fail(detail: impl Into<String>, remedy: impl Into<String>) -> Verdict {
    Verdict::Fail(detail.into(), remedy.into())
}

fn skipped(reason: impl Into<String>) -> Verdict {
    Verdict::Skipped(reason.into())
}

/// Judges everything, in the order of the catalogue.
pub fn evaluate(device: &Device, facts: &Facts) -> Vec<Check> {
    let mut judge = Judge {
        device,
        facts,
        checks: Vec::new(),
    };
    judge.identity();
    judge.network();
    judge.storage();
    judge.machine();
    judge.services();
    judge.sandboxes();
    judge.sockets();
    judge.access();
    let mut checks = judge.checks;
    // Stable: ports and services keep their order.
    checks.sort_by_key(|check| check.number);
    checks
}

/// What is judged, and what came of it so far.
struct Judge<'a> {
    device: &'a Device,
    facts: &'a Facts,
    checks: Vec<Check>,
}

impl Judge<'_> {
    fn add(&mut self, id: &'static str, verdict: Verdict) {
        self.about(id, "", verdict);
    }

    fn about(&mut self, id: &'static str, subject: impl Into<String>, verdict: Verdict) {
        let Some(spec) = CATALOGUE.iter().find(|spec| spec.id == id) else {
            debug_assert!(false, "{id} is not in the catalogue");
            return;
        };
        let (result, detail, remedy) = match verdict {
            Verdict::Ok(detail) => (Outcome::Ok, detail, String::new()),
            Verdict::Warn(detail, remedy) => (Outcome::Warn, detail, remedy),
            Verdict::Fail(detail, remedy) => (Outcome::Fail, detail, remedy),
            Verdict::Skipped(detail) => (Outcome::Skipped, detail, String::new()),
        };
        self.checks.push(Check {
            number: spec.number,
            id: spec.id,
            group: spec.group,
            title: spec.title,
            subject: subject.into(),
            result,
            detail,
            remedy,
        });
    }

    /// One check about each of several things, or skipped when there are none.
    fn each<T>(
        &mut self,
        id: &'static str,
        things: &[T],
        none: &str,
        mut judge: impl FnMut(&Self, &T) -> (String, Verdict),
    ) {
        if things.is_empty() {
            self.add(id, skipped(none));
        }
        for thing in things {
            let (subject, verdict) = judge(self, thing);
            self.about(id, subject, verdict);
        }
    }
}

/// A few names of many: `a, b, c and 4 more`.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 5;
    match names.len() {
        0..=SHOWN => names.join(", "),
        all => format!("{} and {} more", names[..SHOWN].join(", "), all - SHOWN),
    }
}
