//! From what an operator writes to the `EdgeDevConfig` that a device receives. Pure.
//!
//! ```text
//! YAML ─────────read──> DeviceSpec ──build──> EdgeDevConfig
//! VMManifest ──deploy──────┘                       ▲ protect: secrets encrypted for the device
//!                                  counters, version, identity
//! ```
//! A [`DeviceSpec`] is the whole of what a device should be, in the operator's words: objects are
//! named, not numbered. It is what the controller stores. [`build`] checks all references and
//! turns names into UUIDs, the same ones every time.

mod acl;
mod build;
mod build_app;
mod build_network;
mod build_storage;
pub mod deploy;
pub mod manifest;
mod protect;
pub mod read;
pub mod size;
pub mod spec;

use std::fmt;

pub use build::{Built, Identity, build, config_hash, object_id};
pub use protect::{Protection, Recipient, protect};
pub use spec::DeviceSpec;

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Problem {
    /// Where in the document, such as `apps[0].memory`.
    pub path: String,
    /// What is wrong and what would be right.
    pub what: String,
}

impl Problem {
    /// A problem at `path`.
    pub fn new(path: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            what: what.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() || self.path == "." {
            f.write_str(&self.what)
        } else {
            write!(f, "{}: {}", self.path, self.what)
        }
    }
}

/// All that is wrong with a document; never empty.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Only one problem.
    pub fn one(path: impl Into<String>, what: impl Into<String>) -> Self {
        Self(vec![Problem::new(path, what)])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
