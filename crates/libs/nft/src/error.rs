//! What can go wrong, and with which object.

use crate::Name;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// A mistake in the description of a table, found before anything was asked of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{place}: {mistake}")]
pub struct BuildError {
    /// Where it is: the table, and in it the object, and in a chain the rule by its tag.
    pub place: String,
    /// What it is.
    pub mistake: Mistake,
}

/// What is wrong with the description of a table.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Mistake {
    /// Another object of its kind has its name. Sets and maps are of one kind.
    #[error("there are two of that name")]
    Duplicate,
    /// Its name is one of those that the library itself uses.
    #[error("names of counters that start with rev_ are reserved")]
    Reserved,
    /// It speaks of something that isn't in the table.
    #[error("there is no {what} {name}")]
    Unknown {
        /// What is missing.
        what: &'static str,
        /// Its name.
        name: Name,
    },
    /// It sends packets to a chain that they enter by themselves.
    #[error("{name} is a base chain and can't be a target")]
    BaseTarget {
        /// The chain.
        name: Name,
    },
    /// It looks something up by fields of another type than the set or map has.
    #[error("{name} is keyed by {wanted}, not by {found}")]
    Key {
        /// The set or map.
        name: Name,
        /// The types of its key.
        wanted: String,
        /// The types that the rule looks up.
        found: String,
    },
    /// An element isn't of the type of its set or map.
    #[error("{element} is no element of {wanted}")]
    Element {
        /// The types of the key.
        wanted: String,
        /// The element.
        element: String,
    },
    /// Some packet would match two elements of a map, or of a set with several fields.
    #[error("the elements {first} and {second} overlap")]
    Overlap {
        /// One element.
        first: String,
        /// The other.
        second: String,
    },
    /// A rule compares a field with nothing.
    #[error("it compares with an empty list")]
    Empty,
}

/// A failed operation on a table.
#[derive(Debug, Error)]
pub enum NftError {
    /// The description is wrong; asking again won't help.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// `nft` could not be started, or the pipe to it broke.
    #[error("cannot {what} {subject}: running {}: {source}", program.display())]
    Process {
        /// What was being done.
        what: &'static str,
        /// To which table.
        subject: String,
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// `nft` did not finish and was killed. The kernel did all or nothing of what was asked.
    #[error("cannot {what} {subject}: nft did not finish within {limit:?}")]
    TimedOut {
        /// What was being done.
        what: &'static str,
        /// To which table.
        subject: String,
        /// How long it had.
        limit: Duration,
    },
    /// `nft` or the kernel refused. What was there before is still there.
    #[error("cannot {what} {subject}: {reason}{}", line.as_ref().map(|l| format!(" in: {l}")).unwrap_or_default())]
    Refused {
        /// What was being done.
        what: &'static str,
        /// To which table.
        subject: String,
        /// nft's first complaint.
        reason: String,
        /// The line of our script that it is about, if it says so.
        line: Option<String>,
    },
    /// `nft` printed something that isn't what its manual promises.
    #[error("cannot {what} {subject}: nft printed what can't be understood: {reason}")]
    Garbled {
        /// What was being done.
        what: &'static str,
        /// To which table.
        subject: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl NftError {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Build(_) => false,
            // A table that changed between listing and update is refused, and listed anew.
            Self::Process { .. }
            | Self::TimedOut { .. }
            | Self::Refused { .. }
            | Self::Garbled { .. } => true,
        }
    }
}
