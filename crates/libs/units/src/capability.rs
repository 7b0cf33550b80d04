//! Kernel capabilities that a unit may be given.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::SpecError;

macro_rules! capabilities {
    ($($variant:ident = $name:literal, $why:literal;)*) => {
        /// One kernel capability, under its kernel name in text form (`CAP_NET_ADMIN`).
        ///
        /// The list holds what units of the device need; adding one is a line here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Capability {
            $(#[doc = $why] #[serde(rename = $name)] $variant,)*
        }

        impl Capability {
            /// All of them.
            pub const ALL: &'static [Capability] = &[$(Capability::$variant),*];

            /// The kernel's name.
            pub fn as_str(self) -> &'static str {
                match self { $(Capability::$variant => $name,)* }
            }
        }
    };
}

capabilities! {
    Chown = "CAP_CHOWN", "Give files to another uid.";
    DacOverride = "CAP_DAC_OVERRIDE", "Open any file.";
    DacReadSearch = "CAP_DAC_READ_SEARCH", "Read any file.";
    Fowner = "CAP_FOWNER", "Change modes of other users' files.";
    Fsetid = "CAP_FSETID", "Keep set-id bits.";
    Kill = "CAP_KILL", "Signal other users' processes.";
    Setgid = "CAP_SETGID", "Change group.";
    Setuid = "CAP_SETUID", "Change user.";
    Setpcap = "CAP_SETPCAP", "Change capability sets.";
    NetBindService = "CAP_NET_BIND_SERVICE", "Listen on ports below 1024.";
    NetAdmin = "CAP_NET_ADMIN", "Configure the network.";
    NetRaw = "CAP_NET_RAW", "Raw and packet sockets.";
    IpcLock = "CAP_IPC_LOCK", "Lock memory.";
    SysModule = "CAP_SYS_MODULE", "Load kernel modules.";
    SysRawio = "CAP_SYS_RAWIO", "Raw device access.";
    SysChroot = "CAP_SYS_CHROOT", "Change root, enter mount namespaces.";
    SysPtrace = "CAP_SYS_PTRACE", "Inspect other processes.";
    SysAdmin = "CAP_SYS_ADMIN", "Mounts, namespaces, and much else.";
    SysBoot = "CAP_SYS_BOOT", "Reboot.";
    SysNice = "CAP_SYS_NICE", "Priorities and CPU affinity.";
    SysResource = "CAP_SYS_RESOURCE", "Raise limits.";
    SysTime = "CAP_SYS_TIME", "Set the clock.";
    Mknod = "CAP_MKNOD", "Make device nodes.";
    AuditWrite = "CAP_AUDIT_WRITE", "Write audit records.";
    Syslog = "CAP_SYSLOG", "Read the kernel log.";
}

impl fmt::Display for Capability {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl FromStr for Capability {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        Self::ALL
            .iter()
            .copied()
            .find(|capability| capability.as_str() == text)
            .ok_or_else(|| SpecError::Capability {
                text: text.chars().take(100).collect(),
            })
    }
}
