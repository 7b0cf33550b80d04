//! Why a file is not there.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use model::id::Digest;
use thiserror::Error;
use uplink::Failure as Transport;

/// A download that failed.
#[derive(Debug, Error)]
pub enum FetchError {
    /// Every way failed, in order.
    #[error("{url}: {}", list(.errors))]
    Attempts {
        /// What was to be fetched.
        url: String,
        /// One per way; never empty.
        errors: Vec<AttemptError>,
        /// Bytes that are kept for the next try.
        kept: u64,
    },
    /// There was no way to try.
    #[error("{url}: no way to the datastore was given")]
    NoAttempt {
        /// What was to be fetched.
        url: String,
    },
    /// It is larger than allowed.
    #[error("{url} has {}{size} bytes, allowed are {limit}", if *.at_least { "at least " } else { "" })]
    TooLarge {
        /// What was to be fetched.
        url: String,
        /// Its size as far as known.
        size: u64,
        /// True if it may be even more.
        at_least: bool,
        /// Allowed.
        limit: u64,
    },
    /// It has another size than it must have.
    #[error("{url} has {size} bytes instead of {expected}")]
    WrongLength {
        /// What was fetched.
        url: String,
        /// Its size.
        size: u64,
        /// Expected.
        expected: u64,
    },
    /// It is another file than it must be.
    #[error("{url} has the SHA-256 digest {found} instead of {expected}")]
    WrongDigest {
        /// What was fetched.
        url: String,
        /// Its digest.
        found: Digest,
        /// Expected.
        expected: Digest,
    },
    /// Another download writes the same file.
    #[error("{} is being written by another download", .path.display())]
    Busy {
        /// The unfinished file.
        path: PathBuf,
    },
    /// The disk failed.
    #[error("{doing} {}", .path.display())]
    Local {
        /// What was being done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn list(errors: &[AttemptError]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

impl FetchError {
    /// How long the datastore asked to wait, over the way that asked for least.
    pub fn retry_after(&self) -> Option<Duration> {
        let Self::Attempts { errors, .. } = self else {
            return None;
        };
        let asked = |error: &AttemptError| match &error.problem {
            Problem::Code { retry_after, .. } => *retry_after,
            _ => None,
        };
        errors.iter().map(asked).min().flatten()
    }

    /// True when the same download can succeed later with nothing changed in its config.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Attempts { errors, .. } => {
                errors.iter().any(|error| error.problem.is_transient())
            }
            Self::NoAttempt { .. } | Self::Busy { .. } => true,
            Self::TooLarge { .. } | Self::WrongLength { .. } | Self::WrongDigest { .. } => false,
            // Room can be made.
            Self::Local { source, .. } => {
                matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                )
            }
        }
    }
}

/// A download over one way that failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("over port {port} from {source_address} after {received} bytes: {problem}")]
pub struct AttemptError {
    /// The port.
    pub port: String,
    /// Address that it was asked from.
    pub source_address: IpAddr,
    /// Bytes that came over this way.
    pub received: u64,
    /// What went wrong.
    pub problem: Problem,
}

/// What went wrong with a way.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Problem {
    /// No client could be made.
    #[error("{0}")]
    Client(String),
    /// DNS, connection, TLS or HTTP.
    #[error("{0}")]
    Transport(Transport),
    /// The datastore refused.
    #[error("code {code}{}", if .text.is_empty() { String::new() } else { format!(": {}", .text) })]
    Code {
        /// HTTP code.
        code: u16,
        /// What it said, if it is text.
        text: String,
        /// How long it asked to wait.
        retry_after: Option<Duration>,
    },
    /// Nothing came for too long.
    #[error("stalled: no byte for {0:?}")]
    Stalled(Duration),
    /// The body ended too early.
    #[error("the body ended at byte {got} of {total}")]
    ShortBody {
        /// Position of its end in the file.
        got: u64,
        /// The file's size as announced.
        total: u64,
    },
    /// The answer to a request for a range makes no sense.
    #[error("asked for the bytes from {asked}: {why}")]
    Range {
        /// Asked for.
        asked: u64,
        /// What is wrong.
        why: String,
    },
    /// The body is compressed although that was excluded.
    #[error("the body is encoded as {0}, which was not asked for")]
    Encoded(String),
}

impl Problem {
    /// True when the same way can work later with nothing changed in the config.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Transport(failure) => failure.is_transient(),
            // 404 too, for a while: uploads to datastores are often still under way. It is
            // the runtime's backoff that keeps this cheap.
            Self::Code { code, .. } => !matches!(code, 401 | 403 | 405 | 410 | 451),
            Self::Stalled(_) | Self::ShortBody { .. } | Self::Range { .. } => true,
            Self::Client(_) | Self::Encoded(_) => false,
        }
    }
}
