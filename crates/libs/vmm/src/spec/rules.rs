//! The rules of a guest: what QEMU, the kernel or the boot loader would refuse late or obscurely.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{Console, Disk, DiskBus, DiskTarget, Firmware, ImageFormat, Mac, Nic, VmSpec, Vnc};

/// A UEFI guest gets at least this much memory, in KiB: with 128 or 192 MiB the firmware starts but
/// the boot loader of common distributions stops with "out of memory" (measured), which no owner of
/// an application would connect with its memory size.
pub const UEFI_MIN_MEMORY_KIB: u64 = 256 * 1024;
/// No guest with a firmware starts with less, in KiB.
pub const MIN_MEMORY_KIB: u64 = 16 * 1024;
/// The q35 machine without an IOMMU can address this many vCPUs.
pub const MAX_CPUS: u16 = 255;
/// NICs, virtio disks and spare slots together; each is a root port of its own.
pub const MAX_PORTS: usize = 96;
/// Longest path of a unix socket (`sun_path` without its terminating zero).
pub const MAX_SOCKET_PATH: usize = 107;
/// Longest disk serial number that virtio-blk shows to a guest.
pub const MAX_SERIAL: usize = 20;
/// AHCI ports of the q35 chipset.
pub const MAX_AHCI: usize = 6;

/// A rule that a [`VmSpec`] breaks.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpecError {
    /// The name would be unreadable in `ps` and logs.
    #[error("guest name {0:?} must be 1 to 128 printable ASCII characters")]
    Name(String),
    /// No vCPU, or more than the machine can address.
    #[error("{0} vCPUs: the q35 machine takes 1 to {MAX_CPUS}")]
    Cpus(u16),
    /// Too little memory to start.
    #[error("{have} KiB of memory: {firmware} needs at least {need} KiB")]
    Memory {
        /// What the spec says, in KiB.
        have: u64,
        /// The least that boots, in KiB.
        need: u64,
        /// The firmware, in words.
        firmware: &'static str,
    },
    /// A relative path depends on the directory that the supervisor starts QEMU in.
    #[error("{what}: path {path:?} is not absolute")]
    RelativePath {
        /// What the path is for.
        what: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// QEMU's JSON arguments are UTF-8.
    #[error("{what}: path {path:?} is not UTF-8 or holds a control character")]
    PathText {
        /// What the path is for.
        what: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// The kernel would refuse to bind the socket.
    #[error(
        "{what}: socket path {path:?} has {} bytes, more than {MAX_SOCKET_PATH}",
        path.as_os_str().len()
    )]
    SocketPath {
        /// What the socket is for.
        what: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// Two sockets, or two writable images, at one path.
    #[error("{0:?} is used twice")]
    SharedPath(PathBuf),
    /// A raw image can't lie over another.
    #[error("disk {0:?}: only a qcow2 image can have a base image")]
    RawWithBase(PathBuf),
    /// SATA hard disks have no write protection.
    #[error("disk {0:?}: a read-only hard disk can't be on the AHCI bus")]
    ReadonlyAhci(PathBuf),
    /// The serial number doesn't fit or would be cut.
    #[error("disk serial {0:?} must be 1 to {MAX_SERIAL} letters, digits, '-', '_' or '.'")]
    Serial(String),
    /// Two disks of one guest with the same serial number.
    #[error("disk serial {0:?} is used twice")]
    SharedSerial(String),
    /// Not an interface name.
    #[error("tap name {0:?} must be 1 to 15 characters without '/', ':' or blanks")]
    Tap(String),
    /// One tap for two cards.
    #[error("tap {0:?} is used twice")]
    SharedTap(String),
    /// Not a MAC address.
    #[error("{0:?} is not a MAC address like 02:16:3e:00:00:01")]
    Mac(String),
    /// A card needs an address of its own.
    #[error("MAC address {0} is a group address, zero, or used twice")]
    MacUse(Mac),
    /// More devices than the machine has slots for.
    #[error("{0} PCI Express slots wanted, {MAX_PORTS} are there")]
    TooManyPorts(usize),
    /// More SATA disks than the chipset has ports for.
    #[error("{0} disks on the AHCI bus wanted, {MAX_AHCI} are there")]
    TooManyAhci(usize),
    /// The kernel's command line holds a zero byte.
    #[error("the kernel command line holds a control character")]
    Cmdline,
    /// A cache of this size makes no sense.
    #[error("translation cache of {0} MiB: 8 to 2048 are possible")]
    TbSize(u32),
    /// Port 5900 + display is not a TCP port that VNC clients look at.
    #[error("VNC display {0}: 0 to 99 are possible")]
    VncDisplay(u16),
}

impl VmSpec {
    /// Checks every rule; the first one that is broken is the error.
    pub fn check(&self) -> Result<(), SpecError> {
        self.check_size()?;
        self.check_paths()?;
        self.check_disks()?;
        self.check_nics()
    }

    fn check_size(&self) -> Result<(), SpecError> {
        let printable = |c: char| c.is_ascii_graphic() || c == ' ';
        if self.name.is_empty() || self.name.len() > 128 || !self.name.chars().all(printable) {
            return Err(SpecError::Name(self.name.clone()));
        }
        if self.cpus == 0 || self.cpus > MAX_CPUS {
            return Err(SpecError::Cpus(self.cpus));
        }
        let (firmware, need) = match self.firmware {
            Firmware::Legacy => ("a guest", MIN_MEMORY_KIB),
            Firmware::Uefi { .. } => ("a UEFI guest", UEFI_MIN_MEMORY_KIB),
        };
        if self.memory_kib < need {
            return Err(SpecError::Memory {
                have: self.memory_kib,
                need,
                firmware,
            });
        }
        if !(8..=2048).contains(&self.tb_size_mib) {
            return Err(SpecError::TbSize(self.tb_size_mib));
        }
        let cmdline = self.kernel.as_ref().map_or("", |kernel| &kernel.cmdline);
        if cmdline.chars().any(char::is_control) {
            return Err(SpecError::Cmdline);
        }
        match self.vnc {
            Some(Vnc::Loopback { display, .. }) if display > 99 => {
                Err(SpecError::VncDisplay(display))
            }
            Some(Vnc::Loopback { .. } | Vnc::Unix(_)) | None => Ok(()),
        }
    }

    fn check_paths(&self) -> Result<(), SpecError> {
        check_path("pid file", &self.pid_file)?;
        if let Firmware::Uefi { code, vars } = &self.firmware {
            check_path("UEFI code", code)?;
            check_path("UEFI variables", vars)?;
        }
        if let Some(kernel) = &self.kernel {
            check_path("kernel", &kernel.kernel)?;
            if let Some(initrd) = &kernel.initrd {
                check_path("initrd", initrd)?;
            }
        }
        if let Some(seed) = &self.seed {
            check_path("seed", seed)?;
        }
        let mut sockets = vec![
            ("QMP executor", &self.qmp.executor),
            ("QMP listener", &self.qmp.listener),
        ];
        match &self.console {
            Console::Log(log) => check_path("console log", log)?,
            Console::Socket { path, log } => {
                sockets.push(("console", path));
                if let Some(log) = log {
                    check_path("console log", log)?;
                }
            }
        }
        if let Some(Vnc::Unix(path)) = &self.vnc {
            sockets.push(("VNC", path));
        }
        let mut seen = BTreeSet::new();
        for (what, path) in sockets {
            check_path(what, path)?;
            if path.as_os_str().len() > MAX_SOCKET_PATH {
                return Err(SpecError::SocketPath {
                    what,
                    path: path.clone(),
                });
            }
            if !seen.insert(path) {
                return Err(SpecError::SharedPath(path.clone()));
            }
        }
        Ok(())
    }

    fn check_disks(&self) -> Result<(), SpecError> {
        let mut writable = BTreeSet::new();
        let mut serials = BTreeSet::new();
        for disk in &self.disks {
            disk.check()?;
            if !disk.is_readonly() && !writable.insert(&disk.path) {
                return Err(SpecError::SharedPath(disk.path.clone()));
            }
            if let Some(serial) = &disk.serial
                && !serials.insert(serial)
            {
                return Err(SpecError::SharedSerial(serial.clone()));
            }
        }
        let on_ahci = self.disks.iter().filter(|d| d.bus == DiskBus::Ahci);
        let ahci = on_ahci.count();
        if ahci > MAX_AHCI {
            return Err(SpecError::TooManyAhci(ahci));
        }
        let ports = self.disks.iter().filter(|d| d.has_port()).count()
            + self.nics.len()
            + usize::from(self.hotplug_slots);
        if ports > MAX_PORTS {
            return Err(SpecError::TooManyPorts(ports));
        }
        Ok(())
    }

    fn check_nics(&self) -> Result<(), SpecError> {
        let mut taps = BTreeSet::new();
        let mut macs = BTreeSet::new();
        for nic in &self.nics {
            nic.check()?;
            if !taps.insert(&nic.tap) {
                return Err(SpecError::SharedTap(nic.tap.clone()));
            }
            if !macs.insert(nic.mac) {
                return Err(SpecError::MacUse(nic.mac));
            }
        }
        Ok(())
    }
}

impl Disk {
    /// Checks the rules of one disk; also for disks that come while the guest runs.
    pub fn check(&self) -> Result<(), SpecError> {
        check_path("disk", &self.path)?;
        if let Some(base) = &self.base {
            check_path("base image", &base.path)?;
            if self.format != ImageFormat::Qcow2 {
                return Err(SpecError::RawWithBase(self.path.clone()));
            }
        }
        if self.bus == DiskBus::Ahci && self.target == DiskTarget::Disk && self.readonly {
            return Err(SpecError::ReadonlyAhci(self.path.clone()));
        }
        let fits = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
        match &self.serial {
            Some(serial)
                if serial.is_empty() || serial.len() > MAX_SERIAL || !serial.bytes().all(fits) =>
            {
                Err(SpecError::Serial(serial.clone()))
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Nic {
    /// Checks the rules of one card; also for cards that come while the guest runs.
    pub fn check(&self) -> Result<(), SpecError> {
        let allowed = |c: u8| c.is_ascii_graphic() && c != b'/' && c != b':';
        let tap = &self.tap;
        if tap.is_empty() || tap.len() > 15 || !tap.bytes().all(allowed) {
            return Err(SpecError::Tap(tap.clone()));
        }
        if self.mac.0[0] & 1 == 1 || self.mac.0 == [0; 6] {
            return Err(SpecError::MacUse(self.mac));
        }
        Ok(())
    }
}

fn check_path(what: &'static str, path: &Path) -> Result<(), SpecError> {
    if !path.is_absolute() {
        return Err(SpecError::RelativePath {
            what,
            path: path.to_owned(),
        });
    }
    match path.to_str() {
        Some(text) if !text.chars().any(char::is_control) => Ok(()),
        Some(_) | None => Err(SpecError::PathText {
            what,
            path: path.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::spec::{BaseImage, NicModel};

    fn guest() -> VmSpec {
        VmSpec::new("app", Uuid::nil(), Path::new("/run/vm"))
    }

    fn disk(path: &str) -> Disk {
        Disk {
            path: path.into(),
            format: ImageFormat::Qcow2,
            base: None,
            readonly: false,
            target: DiskTarget::Disk,
            bus: DiskBus::Virtio,
            serial: None,
        }
    }

    fn nic(tap: &str, last: u8) -> Nic {
        Nic {
            tap: tap.into(),
            mac: Mac([2, 0x16, 0x3e, 0, 0, last]),
            model: NicModel::Virtio,
        }
    }

    #[test]
    fn the_smallest_guest_is_sound() {
        guest().check().expect("sound");
    }

    #[test]
    fn each_broken_rule_is_named() {
        type Break = fn(&mut VmSpec);
        let cases: &[(Break, &str)] = &[
            (|s| s.name = String::new(), "guest name"),
            (|s| s.name = "a\nb".into(), "guest name"),
            (|s| s.cpus = 0, "0 vCPUs"),
            (|s| s.cpus = 300, "300 vCPUs"),
            (|s| s.memory_kib = 1024, "1024 KiB of memory"),
            (
                |s| {
                    s.firmware = Firmware::Uefi {
                        code: "/c".into(),
                        vars: "/v".into(),
                    };
                },
                "a UEFI guest needs at least 262144 KiB",
            ),
            (|s| s.pid_file = "pid".into(), "pid file"),
            (|s| s.seed = Some("/a\0b".into()), "control character"),
            (
                |s| s.qmp.executor = format!("/{}", "x".repeat(107)).into(),
                "108 bytes",
            ),
            (|s| s.qmp.listener = s.qmp.executor.clone(), "used twice"),
            (|s| s.disks = vec![disk("/a"), disk("/a")], "used twice"),
            (
                |s| {
                    let mut raw = disk("/a");
                    raw.format = ImageFormat::Raw;
                    raw.base = Some(BaseImage {
                        path: "/b".into(),
                        format: ImageFormat::Raw,
                    });
                    s.disks = vec![raw];
                },
                "only a qcow2",
            ),
            (
                |s| {
                    let mut named = disk("/a");
                    named.serial = Some("with blank".into());
                    s.disks = vec![named];
                },
                "disk serial",
            ),
            (
                |s| {
                    s.disks = (0..7)
                        .map(|n| {
                            let mut on_ahci = disk(&format!("/{n}"));
                            on_ahci.bus = DiskBus::Ahci;
                            on_ahci
                        })
                        .collect();
                },
                "7 disks on the AHCI bus",
            ),
            (|s| s.hotplug_slots = 200, "200 PCI Express slots"),
            (|s| s.nics = vec![nic("a/b", 1)], "tap name"),
            (|s| s.nics = vec![nic("a", 1), nic("a", 2)], "tap \"a\""),
            (|s| s.nics = vec![nic("a", 1), nic("b", 1)], "used twice"),
            (|s| s.tb_size_mib = 0, "translation cache"),
            (
                |s| {
                    s.vnc = Some(Vnc::Loopback {
                        display: 100,
                        password: true,
                    });
                },
                "VNC display 100",
            ),
        ];
        for (break_it, says) in cases {
            let mut spec = guest();
            break_it(&mut spec);
            let error = spec.check().expect_err(says).to_string();
            assert!(error.contains(says), "{error:?} lacks {says:?}");
        }
    }

    #[test]
    fn two_guests_disks_may_share_what_is_read_only() {
        let mut spec = guest();
        let mut shared = disk("/base");
        shared.readonly = true;
        spec.disks = vec![shared.clone(), shared];
        spec.check().expect("sound");
    }

    proptest! {
        #[test]
        fn a_mac_survives_its_text(bytes: [u8; 6]) {
            let mac = Mac(bytes);
            prop_assert_eq!(mac.to_string().parse::<Mac>(), Ok(mac));
            let json = serde_json::to_string(&mac).unwrap();
            prop_assert_eq!(serde_json::from_str::<Mac>(&json).unwrap(), mac);
        }

        #[test]
        fn any_text_is_a_mac_or_an_error(text in "\\PC{0,24}") {
            if let Ok(mac) = text.parse::<Mac>() {
                prop_assert_eq!(mac.to_string(), text.to_lowercase());
            }
        }
    }
}
