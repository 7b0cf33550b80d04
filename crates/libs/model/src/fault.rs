//! The one shape of an error outside the process that met it: on the bus, in info messages,
//! in the log and in the CLI.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::code::Code;

/// What failed, on which object, why, what happens next and when.
///
/// Services make one with [`Fault::new`] from their typed error; the runtime adds
/// [`Fault::attempts`] and [`Fault::next`] because only it retries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Fault {
    /// Stable code, documented in `docs/errors.md`.
    pub code: Code,
    /// The object that suffers, as kind and key: `blob 3a7b...`, `port eth0`.
    pub object: String,
    /// One sentence for a person: what failed.
    pub text: String,
    /// The chain of causes, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// True when trying again without any change can help.
    #[serde(default)]
    pub transient: bool,
    /// When it was first met.
    pub since: Timestamp,
    /// How often it was tried.
    #[serde(default)]
    pub attempts: u32,
    /// When the next try is due; none when it waits for a change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Timestamp>,
}

impl Fault {
    /// A fault that waits for a change of its inputs.
    pub fn new(
        code: Code,
        object: impl Into<String>,
        text: impl Into<String>,
        since: Timestamp,
    ) -> Self {
        Self {
            code,
            object: object.into(),
            text: text.into(),
            causes: Vec::new(),
            transient: false,
            since,
            attempts: 0,
            next: None,
        }
    }

    /// Marks it as worth trying again.
    #[must_use]
    pub fn transient(mut self, transient: bool) -> Self {
        self.transient = transient;
        self
    }

    /// Keeps the time at which `old`, the fault published last, was first met if it is the same
    /// trouble (code and object), so that a repeated plan publishes an unchanged row.
    #[must_use]
    pub fn continuing(mut self, old: Option<&Fault>) -> Self {
        if let Some(old) = old.filter(|old| old.code == self.code && old.object == self.object) {
            self.since = old.since;
        }
        self
    }

    /// Adds the chain of sources of `error`, without `error` itself.
    #[must_use]
    pub fn caused_by(mut self, error: &dyn std::error::Error) -> Self {
        let mut source = error.source();
        while let Some(cause) = source {
            self.causes.push(cause.to_string());
            source = cause.source();
        }
        self
    }

    /// The text with its causes on one line.
    pub fn line(&self) -> String {
        let mut line = format!("[{}] {}: {}", self.code, self.object, self.text);
        for cause in &self.causes {
            line.push_str(": ");
            line.push_str(cause);
        }
        line
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.line())
    }
}
