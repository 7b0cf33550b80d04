//! What can go wrong on the bus.

use std::{io, path::PathBuf};

use thiserror::Error;

/// A failed operation on the bus.
#[derive(Debug, Error)]
pub enum BusError {
    /// Somebody other than the declared writer asked to publish.
    #[error("{identity:?} may not publish {topic}: its writer is {owner:?}")]
    NotOwner {
        /// `service/Topic` that was asked for.
        topic: String,
        /// The service that the topic is declared for.
        owner: String,
        /// The service that asked.
        identity: String,
    },
    /// A service or topic name that can't be a directory name.
    #[error(
        "{name:?} can't be the name of a service or topic: letters, digits, '-' and '_' only, 1 to 100 of them"
    )]
    BadName {
        /// The refused name.
        name: String,
    },
    /// The file system refused.
    #[error("can't {action} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The directories can't be watched (most often: out of inotify instances or watches).
    #[error("can't watch {path} for changes: {source}", path = path.display())]
    Watch {
        /// The directory to watch.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An object has no JSON form, for example a map whose keys aren't strings.
    #[error("can't write {key:?} of {topic} as JSON: {source}")]
    Encode {
        /// `service/Topic`.
        topic: String,
        /// Key of the object.
        key: String,
        /// Why not.
        source: serde_json::Error,
    },
    /// No topic of this name has ever been published.
    #[error("there is no topic {topic}")]
    NoTopic {
        /// `service/Topic`.
        topic: String,
    },
}

/// Bytes that are not an object of the topic's type.
#[derive(Debug, Error)]
#[error("not a readable object: {0}")]
pub struct DecodeError(#[from] pub(crate) serde_json::Error);

/// Turns an I/O error into a [`BusError`] with what was being done, and on what.
pub(crate) trait Doing<T> {
    fn doing(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, BusError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, BusError> {
        self.map_err(|source| BusError::Io {
            action,
            path: path.into(),
            source,
        })
    }
}
