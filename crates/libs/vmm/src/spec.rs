//! A guest as data: what the device model, the boot and the control sockets of one VM are.
//!
//! A [`VmSpec`] names only things of the host that already exist or that QEMU makes itself (its
//! sockets). [`VmSpec::check`] holds the rules whose violation QEMU would report late, obscurely or
//! not at all; [`crate::qemu_args`] calls it first.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Accel;

mod mac;
mod rules;

pub use mac::Mac;
pub use rules::{
    MAX_AHCI, MAX_CPUS, MAX_PORTS, MAX_SERIAL, MAX_SOCKET_PATH, MIN_MEMORY_KIB, SpecError,
    UEFI_MIN_MEMORY_KIB,
};

/// Everything that defines one guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// Name of the guest, for `ps` and logs; printable ASCII.
    pub name: String,
    /// Identity of the machine, which the guest reads from SMBIOS.
    pub uuid: Uuid,
    /// Number of vCPUs.
    pub cpus: u16,
    /// Memory of the guest in KiB.
    pub memory_kib: u64,
    /// What the CPU starts with.
    pub firmware: Firmware,
    /// The chipset.
    pub machine: Machine,
    /// A kernel that is loaded without a boot loader, instead of booting a disk.
    pub kernel: Option<DirectKernel>,
    /// Disks and CDs in boot order.
    pub disks: Vec<Disk>,
    /// NoCloud seed image (see [`crate::seed`]); attached as a CD on virtio-scsi, because the cloud
    /// kernels of distributions have no AHCI driver.
    pub seed: Option<PathBuf>,
    /// Network cards in the order in which the guest sees them.
    pub nics: Vec<Nic>,
    /// The first serial port.
    pub console: Console,
    /// Control sockets.
    pub qmp: QmpSockets,
    /// Screen, keyboard and mouse for a remote console.
    pub vnc: Option<Vnc>,
    /// QEMU writes its process id here once its sockets listen.
    pub pid_file: PathBuf,
    /// Empty PCI Express slots, for devices that come while the guest runs.
    pub hotplug_slots: u8,
    /// Memory that translated code may take, in MiB; only used without hardware acceleration.
    /// QEMU's own default lets a busy guest of 512 MiB grow to 1.3 GiB.
    pub tb_size_mib: u32,
}

/// Default of [`VmSpec::tb_size_mib`]: costs no measurable speed, saves 170 MiB per busy guest.
pub const DEFAULT_TB_SIZE_MIB: u32 = 64;
/// Default of [`VmSpec::hotplug_slots`].
pub const DEFAULT_HOTPLUG_SLOTS: u8 = 4;

/// What this device offers to every guest; found out once per boot, not chosen per guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Hardware acceleration or emulation (see [`crate::probe`]).
    pub accel: Accel,
    /// `/dev/vhost-net` works: without it QEMU aborts when a NIC asks for it.
    pub vhost_net: bool,
}

impl Host {
    /// Emulation and no kernel help at all: what always works.
    pub fn emulated(reason: crate::probe::TcgReason) -> Self {
        Self {
            accel: Accel::Tcg { reason },
            vhost_net: false,
        }
    }
}

/// What the CPU starts with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Firmware {
    /// PC BIOS (`SeaBIOS`, part of QEMU).
    Legacy,
    /// UEFI (OVMF).
    Uefi {
        /// The firmware's code, shared by all guests, never written.
        code: PathBuf,
        /// The firmware's variables: a copy that belongs to this guest alone.
        vars: PathBuf,
    },
}

/// The chipset that the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Machine {
    /// PCI Express chipset, in the version of QEMU 7.2. Pinned, so that an update of the device
    /// doesn't change the hardware of its guests (licences and interface names depend on it).
    Q35,
}

/// A kernel that QEMU loads itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectKernel {
    /// `bzImage`, or an ELF `vmlinux` with a PVH entry (starts seconds earlier under emulation).
    pub kernel: PathBuf,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Command line of the kernel; empty for none.
    pub cmdline: String,
}

/// How the bytes of an image file are laid out. Always said explicitly: a guest that can write a
/// qcow2 header into its raw disk would otherwise make QEMU open any file of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ImageFormat {
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
    /// Byte N of the file is byte N of the disk.
    Raw,
}

impl ImageFormat {
    /// The name that QEMU and `qemu-img` use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// What a guest sees a disk as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DiskTarget {
    /// A hard disk.
    Disk,
    /// A CD; always read-only.
    Cdrom,
}

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DiskBus {
    /// virtio-blk for disks, virtio-scsi for CDs. Needs drivers in the guest.
    Virtio,
    /// SATA, known to every full operating system but not to cloud kernels.
    Ahci,
}

/// One disk or CD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The image file.
    pub path: PathBuf,
    /// Its format.
    pub format: ImageFormat,
    /// The image that lies under a qcow2 overlay. `None` means that there is none, whatever the
    /// image's own header says: a downloaded header is never followed.
    pub base: Option<BaseImage>,
    /// The guest can't write; CDs never can.
    pub readonly: bool,
    /// Disk or CD.
    pub target: DiskTarget,
    /// How it is attached.
    pub bus: DiskBus,
    /// Serial number for the guest (`/dev/disk/by-id`).
    pub serial: Option<String>,
}

/// The read-only image under an overlay; has itself no further base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseImage {
    /// The image file.
    pub path: PathBuf,
    /// Its format.
    pub format: ImageFormat,
}

/// One network card on a tap device that exists already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Name of the tap device.
    pub tap: String,
    /// Hardware address in the guest.
    pub mac: Mac,
    /// Kind of card.
    pub model: NicModel,
}

/// Kinds of network cards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NicModel {
    /// Paravirtual: fast, needs a driver in the guest.
    Virtio,
    /// Intel 82574: known to every full operating system.
    E1000e,
}

/// Where the first serial port of the guest goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Console {
    /// Appended to a file; nobody can type.
    Log(PathBuf),
    /// A unix socket for one client at a time; what the guest prints is also appended to `log`.
    Socket {
        /// Path of the socket, made by QEMU.
        path: PathBuf,
        /// File that gets everything that the guest prints, whether a client is there or not.
        log: Option<PathBuf>,
    },
}

/// QEMU's control sockets. Two, because one socket serves one client: a second connection hangs
/// without a greeting until the first one ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QmpSockets {
    /// For commands.
    pub executor: PathBuf,
    /// For a client that only listens to events.
    pub listener: PathBuf,
}

/// Where the screen of the guest is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Vnc {
    /// A unix socket; access is by file permission.
    Unix(PathBuf),
    /// TCP port 5900 + `display` on the loopback address.
    Loopback {
        /// Display number.
        display: u16,
        /// Clients need a password. It is set by [`crate::qmp::Qmp::set_vnc_password`] while the
        /// guest is still paused and never stands on a command line; until then all are refused.
        password: bool,
    },
}

impl VmSpec {
    /// The smallest guest: one vCPU, 128 MiB, BIOS, no disk, no network. Its sockets and files lie
    /// in `dir`, with the names that operators know: `qmp`, `listener.qmp`, `cons`, `pid`.
    pub fn new(name: impl Into<String>, uuid: Uuid, dir: &Path) -> Self {
        Self {
            name: name.into(),
            uuid,
            cpus: 1,
            memory_kib: 128 * 1024,
            firmware: Firmware::Legacy,
            machine: Machine::Q35,
            kernel: None,
            disks: Vec::new(),
            seed: None,
            nics: Vec::new(),
            console: Console::Socket {
                path: dir.join("cons"),
                log: None,
            },
            qmp: QmpSockets {
                executor: dir.join("qmp"),
                listener: dir.join("listener.qmp"),
            },
            vnc: None,
            pid_file: dir.join("pid"),
            hotplug_slots: DEFAULT_HOTPLUG_SLOTS,
            tb_size_mib: DEFAULT_TB_SIZE_MIB,
        }
    }

    /// What QEMU takes from the host for this guest, in KiB: the guest's memory, the cache of
    /// translated code, QEMU itself and the screen. Measured on busy guests; for admission. A hard
    /// memory limit needs a reserve on top, since reaching it kills the guest.
    pub fn host_memory_kib(&self, accel: &Accel) -> u64 {
        const QEMU_KIB: u64 = 80 * 1024;
        const SCREEN_KIB: u64 = 32 * 1024;
        let cache = match accel {
            Accel::Kvm => 0,
            Accel::Tcg { .. } => u64::from(self.tb_size_mib) * 1024,
        };
        let screen = self.vnc.as_ref().map_or(0, |_| SCREEN_KIB);
        self.memory_kib.saturating_add(QEMU_KIB + cache + screen)
    }
}

impl Disk {
    /// Whether the guest is kept from writing.
    pub fn is_readonly(&self) -> bool {
        self.readonly || self.target == DiskTarget::Cdrom
    }

    /// Whether the disk takes a PCI Express slot of its own.
    pub fn has_port(&self) -> bool {
        self.bus == DiskBus::Virtio && self.target == DiskTarget::Disk
    }
}
