//! The services of the device: one table, everything about each of them in one place.
//!
//! What a row doesn't give, the service doesn't have: it runs as its own user with no capabilities, in
//! its own memory limit, and reaches only these paths (and what every program needs, see
//! `sandbox.rs`). Every service may read the bus and write its own part of it. It makes the system calls of
//! its class only (`calls.rs`), has no network, and starts no programs. `docs/security.md` shows the whole.
//!
//! `after` is a preference for a quick and quiet start, not a condition: services wait for their
//! inputs by themselves, and a unit that doesn't come up keeps no other down.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bus::layout;
use model::vault::{DOWNLOADS, VERIFIED, VOLUMES};
use units::{Capability, Limits, Paths, RestartPolicy, UnitName, UnitSpec, ids};

use crate::calls::{Calls, Network};
use crate::filter::Filter;
use crate::machine::{Origin, Unit};

/// One row: a service and what it may.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// Its name: of the binary, the unit, the bus directory.
    pub name: &'static str,
    /// Services that are started before it.
    pub after: &'static [&'static str],
    /// Capabilities.
    pub capabilities: &'static [Capability],
    /// Further groups: that of the one who may read the device's private keys, that of the devices
    /// that guests use.
    pub groups: &'static [u32],
    /// Paths that it may read,
    pub read: &'static [At],
    /// and write.
    pub write: &'static [At],
    /// Programs that it may start, beside its own.
    pub programs: &'static [&'static str],
    /// System calls that it may make.
    pub calls: Calls,
    /// Its network.
    pub network: Network,
    /// Memory limit in MiB: several times what it needs, against leaks.
    pub memory_mib: u64,
    /// Longest silence in seconds.
    pub heartbeat_s: u64,
}

/// A path of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Below the device's root.
    Root(&'static str),
    /// Of the machine.
    Host(&'static str),
}

impl At {
    /// The path on the device below `root`.
    pub(crate) fn below(self, root: &Path) -> PathBuf {
        match self {
            Self::Root(path) => root.join(path),
            Self::Host(path) => path.into(),
        }
    }
}

/// A directory that services share or that guests pass through, made before they start.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// Where, below the root.
    pub path: &'static str,
    /// The service that owns it.
    pub owner: &'static str,
    /// Its mode; the group is `eve`.
    pub mode: u32,
}

/// The directories that services share or keep for themselves.
///
/// Others may pass through some of them (the last bit): guests' users must reach their own files.
pub const AREAS: &[Area] = &[
    area("persist/checkpoint", "zedagent", 0o2750),
    area("persist/vault", "vaultmgr", 0o2751),
    area("persist/vault/downloader", "downloader", 0o2750),
    area("persist/vault/verifier", "verifier", 0o2750),
    area("persist/vault/volumemgr", "volumemgr", 0o2771),
    // Encrypted while they are empty, by vaultmgr.
    area(DOWNLOADS, "downloader", 0o2750),
    area(VERIFIED, "verifier", 0o2750),
    area(VOLUMES, "volumemgr", 0o2771),
    area("persist/certs", "tpmmgr", 0o2750),
    // Sealed secrets, and a key where there is no TPM: nobody else's, not even to look.
    area("persist/tpmmgr", "tpmmgr", 0o700),
    area("persist/domainmgr", "domainmgr", 0o2751),
    area("persist/log/guests", "domainmgr", 0o2751),
    area("persist/newlog", "newlogd", 0o2750),
    area("run/hypervisor", "domainmgr", 0o2711),
    area("run/hypervisor/kvm", "domainmgr", 0o2711),
    area("run/zedrouter-net", "zedrouter", 0o2750),
    // Who may log in, and the device's own key for that: nobody else's, not even to look.
    area("run/access", "accessmgr", 0o700),
    area("persist/accessmgr", "accessmgr", 0o700),
];

const fn area(path: &'static str, owner: &'static str, mode: u32) -> Area {
    Area { path, owner, mode }
}

/// What a row has unless it says otherwise.
const PLAIN: Service = Service {
    name: "",
    after: &[],
    capabilities: &[],
    groups: &[],
    read: &[],
    write: &[],
    programs: &[],
    calls: Calls::Plain,
    network: Network::Nothing,
    memory_mib: 128,
    heartbeat_s: 60,
};

/// What the C library's allocator is told, so that what a burst needed goes back to the machine: one heap for the few
/// threads of a service, large blocks apart from it, and an end that is given back.
const ALLOCATOR: [(&str, &str); 3] = [
    ("MALLOC_ARENA_MAX", "1"),
    ("MALLOC_MMAP_THRESHOLD_", "131072"),
    ("MALLOC_TRIM_THRESHOLD_", "131072"),
];

/// The services.
pub const SERVICES: &[Service] = &[
    Service {
        name: "tpmmgr",
        groups: &[ids::KEYS_GID],
        // What the firmware measured.
        read: &[At::Root("sys/kernel/security/tpm0")],
        write: &[
            At::Root("config"),
            At::Root("persist/certs"),
            At::Root("persist/tpmmgr"),
            At::Host("/dev/tpmrm0"),
        ],
        calls: Calls::Companion,
        // It has the TPM's library in it.
        programs: &["tpmchip"],
        ..PLAIN
    },
    Service {
        name: "nim",
        network: Network::Everything,
        capabilities: &[
            Capability::NetAdmin,
            Capability::NetRaw,
            Capability::NetBindService,
        ],
        read: &[At::Root("config")],
        write: &[At::Host("/proc/sys/net")],
        ..PLAIN
    },
    Service {
        name: "nodeagent",
        ..PLAIN
    },
    Service {
        name: "zedagent",
        network: Network::Internet,
        after: &["tpmmgr", "nim", "nodeagent"],
        // Also what the firmware tells of itself.
        read: &[At::Root("config"), At::Root("sys/class/dmi/id")],
        write: &[At::Root("persist/checkpoint")],
        memory_mib: 256,
        ..PLAIN
    },
    Service {
        name: "vaultmgr",
        after: &["tpmmgr"],
        calls: Calls::Owners,
        // A directory that it makes is another service's; one that it encrypts or empties is, too.
        capabilities: &[
            Capability::Chown,
            Capability::Fowner,
            Capability::DacOverride,
        ],
        write: &[At::Root("persist/vault")],
        ..PLAIN
    },
    Service {
        name: "downloader",
        network: Network::Internet,
        after: &["nim"],
        read: &[
            At::Root("config/root-certificate.pem"),
            At::Root("config/v2tlsbaseroot-certificates.pem"),
        ],
        write: &[At::Root("persist/vault/downloader")],
        memory_mib: 512,
        heartbeat_s: 120,
        ..PLAIN
    },
    Service {
        name: "verifier",
        read: &[
            At::Root("config/root-certificate.pem"),
            At::Root("persist/vault/downloader"),
        ],
        write: &[At::Root("persist/vault/verifier")],
        memory_mib: 256,
        heartbeat_s: 120,
        ..PLAIN
    },
    Service {
        name: "volumemgr",
        calls: Calls::Programs,
        after: &["downloader", "verifier"],
        read: &[At::Root("persist/vault/verifier")],
        write: &[At::Root("persist/vault/volumemgr")],
        // Its qemu-img processes count as its own.
        memory_mib: 1024,
        heartbeat_s: 120,
        ..PLAIN
    },
    Service {
        name: "zedrouter",
        calls: Calls::Router,
        network: Network::Everything,
        after: &["nim"],
        capabilities: &[
            Capability::NetAdmin,
            Capability::NetRaw,
            Capability::NetBindService,
        ],
        groups: &[ids::GUESTS_GID],
        write: &[
            // Its resolvers run from here, as units with its own user.
            At::Root("run/zedrouter-net"),
            At::Host("/proc/sys/net"),
            At::Host("/dev/net/tun"),
        ],
        memory_mib: 256,
        ..PLAIN
    },
    Service {
        name: "domainmgr",
        calls: Calls::Guests,
        // It looks whether the guests' taps are there.
        network: Network::Local,
        // Disks, sockets and consoles are handed to each guest's own user and looked after there.
        capabilities: &[
            Capability::Chown,
            Capability::Fowner,
            Capability::DacOverride,
        ],
        after: &["volumemgr", "zedrouter"],
        groups: &[ids::GUESTS_GID],
        read: &[At::Root("persist/vault/volumemgr"), At::Root("persist/log")],
        write: &[
            At::Root("run/hypervisor"),
            At::Root("persist/domainmgr"),
            At::Root("persist/log/guests"),
            At::Host("/dev/kvm"),
            At::Host("/dev/net/tun"),
            At::Host("/dev/vhost-net"),
        ],
        memory_mib: 512,
        ..PLAIN
    },
    Service {
        name: "zedmanager",
        after: &["zedagent", "volumemgr", "zedrouter", "domainmgr"],
        ..PLAIN
    },
    Service {
        name: "reporter",
        network: Network::Internet,
        after: &["zedagent"],
        read: &[At::Root("config")],
        memory_mib: 256,
        ..PLAIN
    },
    Service {
        name: "newlogd",
        network: Network::Internet,
        // Where only root may see the kernel's messages.
        capabilities: &[Capability::Syslog],
        after: &["zedagent"],
        read: &[
            At::Root("config"),
            At::Root("persist/log"),
            At::Host("/dev/kmsg"),
        ],
        write: &[At::Root("persist/newlog")],
        ..PLAIN
    },
    Service {
        name: "accessmgr",
        // It looks who is connected.
        network: Network::Local,
        after: &["zedagent"],
        // The kernel's switches for USB interfaces and screens are root's; Landlock leaves it no other files.
        capabilities: &[Capability::DacOverride],
        // Who logged in stands in sshd's output.
        read: &[At::Root("config"), At::Root("persist/log")],
        write: &[
            At::Root("run/access"),
            At::Root("persist/accessmgr"),
            // On a device that is this machine, and in no other.
            At::Root("sys/devices"),
            At::Root("sys/bus/usb"),
        ],
        ..PLAIN
    },
];

impl Service {
    /// The uid that it runs as. Every row has one (a test sees to it).
    pub fn uid(&self) -> u32 {
        ids::service_uid(self.name).unwrap_or(u32::MAX - 1)
    }

    /// The unit that runs it on the device below `root`, from the binary in `bin_dir`.
    pub(crate) fn unit(
        &self,
        root: &Path,
        bin_dir: &Path,
        name: UnitName,
        after: Vec<UnitName>,
    ) -> Unit {
        let program = bin_dir.join(self.name);
        let mut spec = UnitSpec::new(name, program.to_string_lossy(), self.uid())
            .args(["--root".to_owned(), root.to_string_lossy().into_owned()])
            .capabilities(self.capabilities.iter().copied());
        spec.env
            .extend(ALLOCATOR.map(|(key, value)| (key.into(), value.into())));
        spec.sandbox.groups = self.groups.to_vec();
        let resolve = |paths: &[At]| {
            paths
                .iter()
                .map(|path| path.below(root))
                .collect::<Vec<_>>()
        };
        let mut read = resolve(self.read);
        read.extend(layout::shared_dirs(root));
        // What a program finds in `/etc` on a device.
        read.push(root.join("etc"));
        let mut write = resolve(self.write);
        write.extend(layout::service_dirs(root, self.name));
        write.push(root.join("persist/crash").join(self.name));
        spec.sandbox.paths = Some(Paths {
            read,
            write,
            execute: self
                .programs
                .iter()
                .map(|name| bin_dir.join(name))
                .collect(),
        });
        spec.limits = Limits {
            memory_bytes: Some(self.memory_mib * 1024 * 1024),
            cpu_percent: None,
        };
        spec.restart = RestartPolicy::Always;
        spec.heartbeat = Some(Duration::from_secs(self.heartbeat_s));
        let mut unit = Unit::new(spec, Origin::Service);
        unit.after = after;
        unit.filter = Filter {
            calls: self.calls,
            network: self.network,
        };
        unit
    }
}

/// Why the list of services to run can't be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// No such service.
    #[error("{name:?} is not a service; the services are {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A row whose name can't be a unit's.
    #[error(transparent)]
    Name(#[from] units::NameError),
}

/// The rows of the services named in `wanted` (`"all"`, or names with commas).
pub fn select(wanted: &str) -> Result<Vec<Service>, TableError> {
    if wanted == "all" {
        return Ok(SERVICES.to_vec());
    }
    wanted
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty() && *name != "none")
        .map(|name| {
            SERVICES
                .iter()
                .find(|service| service.name == name)
                .copied()
                .ok_or_else(|| TableError::Unknown {
                    name: name.to_owned(),
                    known: names(),
                })
        })
        .collect()
}

fn names() -> String {
    let names: Vec<_> = SERVICES.iter().map(|service| service.name).collect();
    names.join(", ")
}

/// The units of these services.
pub(crate) fn units(
    services: &[Service],
    root: &Path,
    bin_dir: &Path,
) -> Result<Vec<Unit>, units::NameError> {
    services
        .iter()
        .map(|service| {
            let after = service
                .after
                .iter()
                .map(|name| UnitName::service(name))
                .collect::<Result<_, _>>()?;
            let name = UnitName::service(service.name)?;
            Ok(service.unit(root, bin_dir, name, after))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_row_can_run_and_names_only_rows_before_it() {
        let units = units(SERVICES, Path::new("/dev/x"), Path::new("/opt/eve/bin")).unwrap();
        for (index, unit) in units.iter().enumerate() {
            unit.spec.check().unwrap();
            assert!(ids::service_uid(unit.spec.name.as_str()).is_some());
            for name in &unit.after {
                let before = units[..index].iter().any(|other| other.spec.name == *name);
                assert!(before, "{} after {name}: cycle or typo", unit.spec.name);
            }
        }
    }

    #[test]
    fn only_the_keeper_of_the_keys_reaches_them() {
        let root = Path::new("/r");
        let units = units(SERVICES, root, Path::new("/b")).unwrap();
        let with_keys: Vec<_> = units
            .iter()
            .filter(|unit| unit.spec.sandbox.groups.contains(&ids::KEYS_GID))
            .map(|unit| unit.spec.name.as_str())
            .collect();
        assert_eq!(with_keys, ["tpmmgr"]);
        let downloader = units
            .iter()
            .find(|unit| unit.spec.name.as_str() == "downloader")
            .unwrap();
        let paths = downloader.spec.sandbox.paths.clone().unwrap();
        assert!(
            !paths
                .read
                .iter()
                .any(|path| root.join("config").starts_with(path))
        );
    }

    #[test]
    fn what_a_row_writes_is_made_before_it_starts() {
        for service in SERVICES {
            for path in service.write {
                let At::Root(path) = path else { continue };
                let is_kernels = path.starts_with("sys/");
                let made =
                    is_kernels || *path == "config" || AREAS.iter().any(|area| area.path == *path);
                assert!(made, "{} writes {path}", service.name);
            }
        }
    }

    #[test]
    fn areas_have_owners() {
        for area in AREAS {
            assert!(ids::service_uid(area.owner).is_some(), "{area:?}");
        }
    }

    #[test]
    fn services_are_selected_by_name() {
        assert_eq!(select("all").unwrap().len(), SERVICES.len());
        assert_eq!(select("nim, zedagent").unwrap().len(), 2);
        assert!(select("none").unwrap().is_empty());
        assert!(matches!(select("nim,x"), Err(TableError::Unknown { .. })));
    }
}
