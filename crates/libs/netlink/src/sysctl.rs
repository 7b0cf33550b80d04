//! Settings below `/proc/sys/net`.
//!
//! They are read and written by the calling thread itself: which network namespace they belong to
//! depends on the thread. The kernel answers at once.

use crate::NetlinkError;
use crate::link::checked;
use std::fmt;
use std::fs;
use std::path::PathBuf;

/// The protocol family of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    fn directory(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sysctl(PathBuf);

impl Sysctl {
    /// A setting of the namespace by its path below `/proc/sys/net`: `ipv4/ip_forward`,
    /// `bridge/bridge-nf-call-iptables`.
    pub fn net(path: &'static str) -> Self {
        Self(PathBuf::from("/proc/sys/net").join(path))
    }

    /// A setting of one interface: `accept_ra`, `rp_filter`, `forwarding`, `disable_ipv6`. The
    /// interfaces `all` and `default` stand for those that are there and those to come.
    pub fn interface(
        family: Family,
        interface: &str,
        setting: &'static str,
    ) -> Result<Self, NetlinkError> {
        // A name is one component of the path: it has no slash and isn't `..`.
        let name = checked(interface)?;
        let conf = PathBuf::from("/proc/sys/net")
            .join(family.directory())
            .join("conf");
        Ok(Self(conf.join(name).join(setting)))
    }

    /// A setting of one interface's neighbours: `proxy_delay`, `gc_stale_time`.
    pub fn neighbours(
        family: Family,
        interface: &str,
        setting: &'static str,
    ) -> Result<Self, NetlinkError> {
        let name = checked(interface)?;
        let neigh = PathBuf::from("/proc/sys/net")
            .join(family.directory())
            .join("neigh");
        Ok(Self(neigh.join(name).join(setting)))
    }

    /// The value, without the newline at its end.
    pub fn get(&self) -> Result<String, NetlinkError> {
        let text = fs::read_to_string(&self.0).map_err(|source| NetlinkError::Sysctl {
            what: "read",
            path: self.0.clone(),
            source,
        })?;
        Ok(text.trim_end().to_owned())
    }

    /// Sets the value, if it is another. True if it was.
    pub fn set(&self, value: &str) -> Result<bool, NetlinkError> {
        if self.get()? == value {
            return Ok(false);
        }
        fs::write(&self.0, value).map_err(|source| NetlinkError::Sysctl {
            what: "set",
            path: self.0.clone(),
            source,
        })?;
        Ok(true)
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = self.0.strip_prefix("/proc/sys").unwrap_or(&self.0);
        write!(f, "{}", short.display())
    }
}
