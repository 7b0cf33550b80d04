//! Names: whose logs, which file, in which directory.

use std::{fmt, str::FromStr};

use model::id::AppId;

/// Whose logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// The device's own: services, their helpers, the kernel.
    Device,
    /// An application's: its guest's console.
    App(AppId),
}

/// A log file: `dev.log.<ms>.gz` or `app.<uuid>.log.<ms>.gz`. The order is that of their making.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileName {
    /// When it was made, in milliseconds since 1970; larger than that of every earlier file, whatever the clock did.
    pub ms: u64,
    /// Whose.
    pub stream: Stream,
}

/// A text that is not the name of a log file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a log file")]
pub struct NotAFile(pub String);

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device => f.write_str("dev"),
            Self::App(app) => write!(f, "app.{app}"),
        }
    }
}

impl FromStr for Stream {
    type Err = NotAFile;

    fn from_str(text: &str) -> Result<Self, NotAFile> {
        let app = |id: &str| id.parse().ok().map(|id| Self::App(AppId(id)));
        match text.strip_prefix("app.") {
            Some(id) => app(id),
            None => (text == "dev").then_some(Self::Device),
        }
        .ok_or_else(|| NotAFile(text.to_owned()))
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.log.{}.gz", self.stream, self.ms)
    }
}

impl FromStr for FileName {
    type Err = NotAFile;

    fn from_str(text: &str) -> Result<Self, NotAFile> {
        let parse = || {
            let (stream, ms) = text.strip_suffix(".gz")?.rsplit_once(".log.")?;
            Some(Self {
                ms: ms.parse().ok()?,
                stream: stream.parse().ok()?,
            })
        };
        parse().ok_or_else(|| NotAFile(text.to_owned()))
    }
}

/// A directory of log files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Queue {
    /// The device's, to be sent.
    Device,
    /// Applications', to be sent.
    App,
    /// Applications', sent and kept for as long as there is room.
    Sent,
    /// Refused by the controller for good.
    Failed,
}

impl Queue {
    /// All of them.
    pub const ALL: [Queue; 4] = [Queue::Device, Queue::App, Queue::Sent, Queue::Failed];

    /// Where a new file of this stream goes.
    pub fn of(stream: Stream) -> Self {
        match stream {
            Stream::Device => Self::Device,
            Stream::App(_) => Self::App,
        }
    }

    /// Its directory below `/persist/newlog`.
    pub fn dir(self) -> &'static str {
        match self {
            Self::Device => "devUpload",
            Self::App => "appUpload",
            Self::Sent => "keepSentQueue",
            Self::Failed => "failedUpload",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_those_of_the_protocol() {
        let app = "0f1e2d3c-0000-4000-8000-000000000001";
        for text in ["dev.log.1700000000123.gz", &format!("app.{app}.log.7.gz")] {
            assert_eq!(text.parse::<FileName>().unwrap().to_string(), text);
        }
        for bad in [
            "dev.log.gz",
            "dev.log.x.gz",
            "app..log.1.gz",
            "dev.log.1.gz.tmp",
            "x.log.1.gz",
        ] {
            assert!(bad.parse::<FileName>().is_err(), "{bad}");
        }
    }
}
