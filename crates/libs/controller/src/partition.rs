//! What the CONFIG partition says about the controller. Read-only here; its keys are tpmmgr's
//! ([`crate::keeper`]).

use std::path::{Path, PathBuf};

use chain::{RootsError, SigningRoots};
use jiff::Timestamp;
use thiserror::Error;
use uplink::Hosts;

use crate::endpoint::{BadServer, Server};

/// Its content, as far as the controller is concerned.
#[derive(Debug, Clone)]
pub struct ConfigPartition {
    /// `server`.
    pub server: Server,
    /// `root-certificate.pem`, the text.
    pub roots_pem: Vec<u8>,
    /// `root-certificate.pem`, parsed: where signing chains end.
    pub signing_roots: SigningRoots,
    /// `soft_serial`, trimmed; empty if there is none.
    pub soft_serial: String,
    /// `Force-API-V1` is there.
    pub force_v1: bool,
    /// `hosts`.
    pub hosts: Hosts,
}

/// What is wrong with the CONFIG partition.
#[derive(Debug, Error)]
pub enum PartitionError {
    /// A file that must be there can't be read.
    #[error("{}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// `server` makes no sense.
    #[error("server")]
    Server(#[from] BadServer),
    /// `root-certificate.pem` makes no sense.
    #[error("root-certificate.pem")]
    Roots(#[from] RootsError),
}

impl PartitionError {
    /// True when it is worth looking again: the partition may not be mounted yet.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Read { .. })
    }
}

impl ConfigPartition {
    /// When the newest of the roots was made: it is not earlier now, whatever the clock says.
    pub fn earliest(&self) -> Option<Timestamp> {
        self.signing_roots.made()
    }

    /// Reads it.
    pub fn read(dir: &Path) -> Result<Self, PartitionError> {
        let server = Server::parse(&String::from_utf8_lossy(&required(dir, "server")?))?;
        let roots_pem = required(dir, "root-certificate.pem")?;
        let signing_roots = SigningRoots::from_pem(&roots_pem)?;
        let text = |name| {
            optional(dir, name)
                .map(|bytes| String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
        };
        Ok(Self {
            server,
            roots_pem,
            signing_roots,
            soft_serial: text("soft_serial")?.trim().to_owned(),
            force_v1: dir.join("Force-API-V1").exists(),
            hosts: Hosts::parse(&text("hosts")?),
        })
    }
}

fn required(dir: &Path, name: &str) -> Result<Vec<u8>, PartitionError> {
    let path = dir.join(name);
    std::fs::read(&path).map_err(|source| PartitionError::Read { path, source })
}

fn optional(dir: &Path, name: &str) -> Result<Option<Vec<u8>>, PartitionError> {
    match required(dir, name) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(PartitionError::Read { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::support::Ca;

    #[test]
    fn reads_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let missing = ConfigPartition::read(dir.path()).unwrap_err();
        assert!(missing.is_transient());
        assert!(missing.to_string().ends_with("/server"));
        write("server", "evc.example:8443\n");
        write("root-certificate.pem", "");
        assert!(matches!(
            ConfigPartition::read(dir.path()),
            Err(PartitionError::Roots(_))
        ));
        write("root-certificate.pem", &Ca::new("root").pem);
        let bare = ConfigPartition::read(dir.path()).unwrap();
        assert_eq!(bare.server.as_str(), "evc.example:8443");
        assert!(!bare.force_v1 && bare.soft_serial.is_empty());
        write("soft_serial", " abc\n");
        write("Force-API-V1", "");
        write("hosts", "10.0.0.1 evc.example\n");
        let full = ConfigPartition::read(dir.path()).unwrap();
        assert!(full.force_v1);
        assert_eq!(full.soft_serial, "abc");
        assert_eq!(full.hosts.lookup("evc.example").len(), 1);
        write("server", "https://evc.example");
        assert!(matches!(
            ConfigPartition::read(dir.path()),
            Err(PartitionError::Server(_))
        ));
    }
}
