//! The one shape of an error outside the process that met it: on the bus, in info messages,
//! in the log and in the CLI.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::code::Code;

/// Most characters of a text. It goes over the bus, into the log and again and again to the controller,
/// whatever somebody has written into a field that it quotes.
const LONGEST: usize = 1000;
/// Most causes that are told.
const MOST_CAUSES: usize = 8;

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
            object: short(object.into()),
            text: short(text.into()),
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
    pub fn caused_by(self, error: &dyn std::error::Error) -> Self {
        let chain = std::iter::successors(error.source(), |cause| cause.source());
        self.because(chain.map(ToString::to_string))
    }

    /// Adds causes, outermost first.
    #[must_use]
    pub fn because(mut self, causes: impl IntoIterator<Item = String>) -> Self {
        let room = MOST_CAUSES.saturating_sub(self.causes.len());
        self.causes.extend(causes.into_iter().take(room).map(short));
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

/// The begin of a text, and a sign that there was more.
fn short(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push_str(" ...");
    }
    text
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.line())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_quoted_a_fault_stays_short() {
        let fault = |text: String| Fault::new(Code::ConfigInvalid, "app", text, Timestamp::MIN);
        let fits = "é".repeat(LONGEST);
        assert_eq!(fault(fits.clone()).text, fits);
        let long = fault("é".repeat(100_000));
        assert_eq!(long.text, format!("{fits} ..."));
        let causes = std::iter::repeat_n(long.text.clone() + "é", 100);
        let long = long.because(causes);
        assert_eq!(long.causes, vec![format!("{fits} ..."); MOST_CAUSES]);
    }
}
