//! An action's error before the runtime has added when and how often.

use std::{error::Error, time::Duration};

use jiff::Timestamp;
use model::{code::Code, fault::Fault};

/// No other side puts a device off for longer: it may have been told so by mistake.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// What failed, on which object, why. The runtime turns it into a [`Fault`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("[{code}] {object}: {text}")]
pub struct Failure {
    /// Stable code.
    pub code: Code,
    /// The object that suffers, as kind and key.
    pub object: String,
    /// One sentence for a person.
    pub text: String,
    /// Causes, outermost first.
    pub causes: Vec<String>,
    /// True when trying again without any change can help.
    pub transient: bool,
    /// The other side asked not to be bothered before (`Retry-After`).
    pub wait: Option<Duration>,
}

impl Failure {
    /// A failure that waits for a change.
    pub fn new(code: Code, object: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            code,
            object: object.into(),
            text: text.into(),
            causes: Vec::new(),
            transient: false,
            wait: None,
        }
    }

    /// A failure made of a typed error: its text and its chain of causes.
    pub fn of(code: Code, object: impl Into<String>, error: &dyn Error) -> Self {
        let mut failure = Self::new(code, object, error.to_string());
        let mut source = error.source();
        while let Some(cause) = source {
            failure.causes.push(cause.to_string());
            source = cause.source();
        }
        failure
    }

    /// Marks it as worth trying again.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.transient = true;
        self
    }

    /// Marks it as worth trying again or not.
    #[must_use]
    pub fn transient_if(mut self, transient: bool) -> Self {
        self.transient = transient;
        self
    }

    /// Notes that the other side asked to wait so long. The runtime waits at least that; an hour at most.
    #[must_use]
    pub fn waiting(mut self, wait: Option<Duration>) -> Self {
        self.wait = wait.map(|wait| wait.min(LONGEST_WAIT));
        self
    }

    /// The fault as published, first met at `since`.
    pub fn into_fault(self, since: Timestamp) -> Fault {
        let Self {
            code,
            object,
            text,
            causes,
            transient,
            wait: _,
        } = self;
        Fault::new(code, object, text, since)
            .because(causes)
            .transient(transient)
    }
}
