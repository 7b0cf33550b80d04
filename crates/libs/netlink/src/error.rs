//! What can go wrong.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// A failed operation. `what` says what was being done, and to which object.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// No socket could be had.
    #[error("cannot open a netlink socket: {source}")]
    Open {
        /// Why not.
        source: io::Error,
    },
    /// Notifications can't be received any more. Listen anew, then look at everything.
    #[error("cannot receive notifications of network changes: {source}")]
    Events {
        /// Why not.
        source: io::Error,
    },
    /// The socket broke while waiting for the answer. The next call opens another.
    #[error("cannot {what}: the netlink socket broke before the answer was complete")]
    Closed {
        /// What was being done.
        what: String,
    },
    /// The kernel said no.
    #[error("cannot {what}: {source}")]
    Refused {
        /// What was being done.
        what: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The operation is about an interface that isn't there.
    #[error("cannot {what}: there is no interface {link}")]
    NoLink {
        /// What was being done.
        what: String,
        /// The interface.
        link: String,
    },
    /// No interface can have that name.
    #[error("{name:?} is no interface name: 1 to 15 bytes without space, slash or percent sign")]
    BadName {
        /// The name.
        name: String,
    },
    /// What was read changed all the time while it was read.
    #[error("cannot {what}: it changed in each of {tries} tries while it was read")]
    Torn {
        /// What was being done.
        what: String,
        /// How often it was tried.
        tries: usize,
    },
    /// A setting below `/proc/sys` could not be read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    Sysctl {
        /// "read" or "set".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl NetlinkError {
    /// Whether something of that name or with these properties is there already.
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// Whether the object, or the interface that it belongs to, isn't there.
    pub fn is_gone(&self) -> bool {
        let gone = [
            libc::ENODEV,
            libc::ENOENT,
            libc::ESRCH,
            libc::EADDRNOTAVAIL,
            libc::ENXIO,
        ];
        matches!(self, Self::NoLink { .. }) || self.errno().is_some_and(|no| gone.contains(&no))
    }

    /// Whether the same call may succeed later: something else has to come or go first.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Open { .. }
            | Self::Events { .. }
            | Self::Closed { .. }
            | Self::NoLink { .. }
            | Self::Torn { .. } => true,
            Self::BadName { .. } => false,
            Self::Refused { source, .. } | Self::Sysctl { source, .. } => !matches!(
                source.raw_os_error(),
                Some(libc::EPERM | libc::EACCES | libc::EINVAL | libc::EOPNOTSUPP | libc::ERANGE)
            ),
        }
    }

    /// The kernel's error number, if it is the kernel's error.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Open { source }
            | Self::Events { source }
            | Self::Refused { source, .. }
            | Self::Sysctl { source, .. } => source.raw_os_error(),
            Self::Closed { .. }
            | Self::NoLink { .. }
            | Self::BadName { .. }
            | Self::Torn { .. } => None,
        }
    }
}
