//! What a call that went well, or did not, tells.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;
use uplink::{Failure as Transport, NoAttempt, Reason};

use crate::certs::CertsError;
use crate::endpoint::{Endpoint, NoUrl};
use crate::envelope::EnvelopeError;
use crate::signer::SignerError;
use crate::status::SenderStatus;

/// A call's result.
pub type Outcome<T> = Result<Answer<T>, Failure>;

/// The controller's answer, and how it was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<T> {
    /// What it said.
    pub value: T,
    /// HTTP code.
    pub code: u16,
    /// Port that worked.
    pub port: String,
    /// Source address that worked.
    pub source: IpAddr,
    /// What had failed before.
    pub failed: Vec<AttemptError>,
}

impl<T> Answer<T> {
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Answer<U> {
        let Self {
            value,
            code,
            port,
            source,
            failed,
        } = self;
        Answer {
            value: change(value),
            code,
            port,
            source,
            failed,
        }
    }
}

/// Where an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before anything was sent.
    Setup,
    /// Asking for the controller's (or the proxy's) address.
    Dns,
    /// Connecting.
    Connect,
    /// Connecting to the proxy or through it.
    Proxy,
    /// TLS handshake.
    Tls,
    /// Request, code, type, size and body of the answer.
    Http,
    /// The signed envelope of the answer, or the message in it.
    Envelope,
}

impl Phase {
    /// In one lower-case word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Proxy => "proxy",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Envelope => "envelope",
        }
    }
}

impl From<uplink::Phase> for Phase {
    fn from(phase: uplink::Phase) -> Self {
        match phase {
            uplink::Phase::Setup => Self::Setup,
            uplink::Phase::Dns => Self::Dns,
            uplink::Phase::Connect => Self::Connect,
            uplink::Phase::Proxy => Self::Proxy,
            uplink::Phase::Tls => Self::Tls,
            uplink::Phase::Http | uplink::Phase::Body => Self::Http,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{url} over port {port} from {source_address}{}: {}: {problem}", via(.proxy.as_deref()), .problem.phase())]
pub struct AttemptError {
    /// The port.
    pub port: String,
    /// Address that it was sent from.
    pub source_address: IpAddr,
    /// What was asked.
    pub url: String,
    /// The proxy, if it went through one.
    pub proxy: Option<String>,
    /// What went wrong.
    pub problem: Problem,
}

fn via(proxy: Option<&str>) -> String {
    proxy
        .map(|proxy| format!(" through proxy {proxy}"))
        .unwrap_or_default()
}

/// What went wrong with an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Problem {
    /// No client could be made.
    #[error("{0}")]
    Client(String),
    /// DNS, connection, TLS or HTTP.
    #[error("{}", .0.detail)]
    Transport(Transport),
    /// The time for all ports was over.
    #[error("the time for all ports together, {0:?}, was over")]
    Deadline(Duration),
    /// A code that is not success.
    #[error("code {code}{}", said(.text))]
    Code {
        /// HTTP code.
        code: u16,
        /// Begin of the body, if it is text.
        text: String,
        /// The controller's Retry-After.
        retry_after: Option<Duration>,
    },
    /// A body of the wrong type: not the controller, or not its API.
    #[error("an answer of type {}", .0.as_deref().unwrap_or("(none)"))]
    ContentType(Option<String>),
    /// A body beyond the limit.
    #[error("an answer of more than {0} bytes")]
    TooLarge(usize),
    /// The envelope can't be opened.
    #[error("{0}")]
    Envelope(#[from] EnvelopeError),
    /// The message in it makes no sense.
    #[error("{0}")]
    Payload(String),
    /// The controller's certificates in it are not accepted.
    #[error("{}", certs(.0))]
    Certs(CertsError),
}

fn certs(error: &CertsError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn said(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}

impl Problem {
    /// Where.
    pub fn phase(&self) -> Phase {
        match self {
            Self::Client(_) => Phase::Setup,
            Self::Transport(failure) => failure.phase.into(),
            Self::Deadline(_) | Self::Code { .. } | Self::ContentType(_) | Self::TooLarge(_) => {
                Phase::Http
            }
            Self::Envelope(_) | Self::Payload(_) | Self::Certs(_) => Phase::Envelope,
        }
    }
}

impl AttemptError {
    /// EVE's name for it.
    pub fn status(&self) -> SenderStatus {
        match &self.problem {
            Problem::Transport(failure) => transport_status(failure.reason, self.proxy.is_some()),
            Problem::Code { code, .. } => {
                SenderStatus::of_http(*code).unwrap_or(SenderStatus::Failed)
            }
            Problem::Envelope(error) => error.status(),
            Problem::Certs(error) => error.status(),
            Problem::Client(_)
            | Problem::Deadline(_)
            | Problem::ContentType(_)
            | Problem::TooLarge(_)
            | Problem::Payload(_) => SenderStatus::Failed,
        }
    }

    /// True when the same call can succeed later with nothing changed on the device.
    pub fn is_transient(&self) -> bool {
        match &self.problem {
            Problem::Transport(failure) => failure.is_transient(),
            Problem::Code { code, .. } => code_is_transient(*code),
            // Something else may have answered in the controller's place.
            Problem::Deadline(_)
            | Problem::ContentType(_)
            | Problem::TooLarge(_)
            | Problem::Payload(_) => true,
            Problem::Certs(error) => error.status() == SenderStatus::CertInvalid,
            Problem::Envelope(error) => match error {
                EnvelopeError::Malformed(_)
                | EnvelopeError::NoPayload
                | EnvelopeError::Signature => true,
                // The controller's certificates have to be fetched again first.
                EnvelopeError::UnknownSender { .. }
                | EnvelopeError::Encrypted
                | EnvelopeError::HashSize { .. }
                | EnvelopeError::Algorithm(_) => false,
            },
            Problem::Client(_) => false,
        }
    }

    /// How much it tells about the controller: an answer tells more than a handshake, that
    /// more than no connection.
    fn weight(&self) -> u8 {
        match (&self.problem, self.problem.phase()) {
            (Problem::Envelope(_) | Problem::Payload(_) | Problem::Certs(_), _) => 4,
            (Problem::Code { .. }, _) => 3,
            (Problem::Deadline(_), _) => 0,
            (_, Phase::Http) => 2,
            (_, Phase::Tls) => 1,
            _ => 0,
        }
    }
}

/// Codes after which the same message is worth sending again later. Redirects are among
/// them: the controller sends none, so a portal did.
pub fn code_is_transient(code: u16) -> bool {
    matches!(code, 300..=399 | 401 | 403 | 407 | 408 | 429 | 500..=599)
}

fn transport_status(reason: Reason, proxied: bool) -> SenderStatus {
    match reason {
        Reason::Refused if !proxied => SenderStatus::Refused,
        Reason::CertificateTime => SenderStatus::CertInvalid,
        Reason::UnknownAuthority if proxied => SenderStatus::CertUnknownAuthorityProxy,
        Reason::UnknownAuthority => SenderStatus::CertUnknownAuthority,
        _ => SenderStatus::Failed,
    }
}

/// A call that failed on every way.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failure {
    /// There is no port to send on.
    #[error("{endpoint}: no way to the controller: {source}")]
    NoWay {
        /// What was to be asked.
        endpoint: Endpoint,
        /// Why.
        source: NoAttempt,
    },
    /// The endpoint has no URL.
    #[error("{endpoint} can't be asked: {source}")]
    NoUrl {
        /// What was to be asked.
        endpoint: Endpoint,
        /// Why.
        source: NoUrl,
    },
    /// There is no onboarding key.
    #[error("{endpoint} needs an onboarding key and the CONFIG partition has none")]
    NoOnboardingKey {
        /// What was to be asked.
        endpoint: Endpoint,
    },
    /// The controller's certificates are not known, so no answer could be trusted.
    #[error("{endpoint} can't be asked before the controller's certificates are known")]
    NoCerts {
        /// What was to be asked.
        endpoint: Endpoint,
    },
    /// The message was not signed.
    #[error("{endpoint} can't be asked: the message was not signed")]
    Signing {
        /// What was to be asked.
        endpoint: Endpoint,
        /// Why.
        #[source]
        source: SignerError,
    },
    /// Every attempt failed, or one showed that others are of no use.
    #[error("{endpoint} failed: {}", list(.errors))]
    Attempts {
        /// What was asked.
        endpoint: Endpoint,
        /// One per attempt, in order; never empty.
        errors: Vec<AttemptError>,
    },
}

fn list(errors: &[AttemptError]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

impl Failure {
    /// The attempts that were made.
    pub fn errors(&self) -> &[AttemptError] {
        match self {
            Self::Attempts { errors, .. } => errors,
            Self::NoWay { .. }
            | Self::NoUrl { .. }
            | Self::NoOnboardingKey { .. }
            | Self::NoCerts { .. }
            | Self::Signing { .. } => &[],
        }
    }

    /// The attempt that tells most about the controller; the last of equals.
    pub fn decisive(&self) -> Option<&AttemptError> {
        self.errors().iter().max_by_key(|error| error.weight())
    }

    /// EVE's name for it.
    pub fn status(&self) -> SenderStatus {
        match self {
            Self::NoCerts { .. } => SenderStatus::CertMiss,
            other => other
                .decisive()
                .map_or(SenderStatus::Failed, AttemptError::status),
        }
    }

    /// Every way ended at DNS: the controller's name (or the proxy's) leads nowhere.
    pub fn is_dns(&self) -> bool {
        let errors = self.errors();
        !errors.is_empty()
            && errors
                .iter()
                .all(|error| error.problem.phase() == Phase::Dns)
    }

    /// The controller's HTTP code, if it (or something in its place) answered.
    pub fn code(&self) -> Option<u16> {
        match &self.decisive()?.problem {
            Problem::Code { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// How long the controller asked to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match &self.decisive()?.problem {
            Problem::Code { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// True if anything answered: with a code, an envelope, or a certificate that is merely
    /// out of date.
    pub fn reached_controller(&self) -> bool {
        self.decisive()
            .is_some_and(|error| error.weight() >= 3 || error.status() == SenderStatus::CertInvalid)
    }

    /// True when the same call can succeed later with nothing changed on the device.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoWay { source, .. } => source.is_transient(),
            Self::Signing { source, .. } => source.is_transient(),
            Self::NoUrl { .. } | Self::NoOnboardingKey { .. } | Self::NoCerts { .. } => false,
            Self::Attempts { errors, .. } => match self.code() {
                Some(code) => code_is_transient(code),
                None => errors.iter().any(AttemptError::is_transient),
            },
        }
    }

    /// True when the controller looked at the message and will never take it: a 4xx that is
    /// neither about who we are nor about when.
    pub fn is_rejection(&self) -> bool {
        self.code()
            .is_some_and(|code| (400..500).contains(&code) && !code_is_transient(code))
    }
}

/// Most characters that are kept of either end of a decoder's words.
const END: usize = 120;

/// What a decoder says about bytes that are no message: the path to the field, then the reason. The path is as long as the
/// sender of the bytes wants it, the words are for a log line: of a long text both ends are kept.
pub fn undecoded(error: &prost::DecodeError) -> String {
    let text = error.to_string();
    let count = text.chars().count();
    if count <= 2 * END {
        return text;
    }
    let begin: String = text.chars().take(END).collect();
    let end: String = text.chars().skip(count - END).collect();
    format!("{begin} ... {end}")
}
