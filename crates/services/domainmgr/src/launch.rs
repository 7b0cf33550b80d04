//! From a guest's configuration to what QEMU and the supervisor are told. Pure.
//!
//! [`vm_spec`] makes the machine, [`seed`] what the guest is told at its first start, and
//! [`unit`] the supervisor's unit around it, with the labels by which it is recognised later.

mod seed;
pub mod unit;

use std::path::{Path, PathBuf};

use model::{
    app::{BootMode, DiskTarget, Resources, VmMode},
    domain::{Accelerator, DiskConfig, DomainConfig},
    id::AppId,
    volume::ImageFormat,
};
use vmm::{
    Accel, VmSpec,
    probe::TcgReason,
    spec::{
        Console, DirectKernel, Disk, DiskBus, DiskTarget as VmTarget, Firmware,
        ImageFormat as VmFormat, Mac, Nic, NicModel, Vnc,
    },
};

pub use seed::seed;
pub use unit::{UNITS_PREFIX, unit_text};

/// The firmware of UEFI guests, from the package `ovmf`.
pub const UEFI_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// What a UEFI guest's variables are before its first start.
pub const UEFI_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// First TCP port of VNC displays.
const VNC_FIRST: u16 = 5900;
/// Last display number.
const VNC_LAST: u32 = 99;

/// The files of one guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Its directory: sockets, process id, seed. Gone with the guest.
    pub dir: PathBuf,
    /// What it prints on its serial port.
    pub console: PathBuf,
    /// The variables of its UEFI firmware.
    pub uefi_vars: PathBuf,
}

impl Places {
    /// Those of `app` on the device below `root`.
    pub fn of(root: &Path, app: AppId) -> Self {
        Self {
            dir: root.join(GUESTS).join(app.to_string()),
            console: root.join(CONSOLES).join(console_name(app)),
            uefi_vars: root.join(KEPT).join(format!("{app}{UEFI_SUFFIX}")),
        }
    }

    /// The seed image.
    pub fn seed(&self) -> PathBuf {
        self.dir.join("seed.iso")
    }
}

/// Directories of guests, below the root.
pub const GUESTS: &str = "run/hypervisor/kvm";
/// Directory of the consoles' logs, below the root.
pub const CONSOLES: &str = "persist/log/guests";
/// Directory of what guests need again after a reboot, below the root.
pub const KEPT: &str = "persist/domainmgr";
/// End of the names of files with UEFI variables.
pub const UEFI_SUFFIX: &str = ".uefi-vars";
/// End of the names of consoles' logs.
pub const CONSOLE_SUFFIX: &str = ".console";

/// Name of a console's log.
pub fn console_name(app: AppId) -> String {
    format!("{app}{CONSOLE_SUFFIX}")
}

/// A configuration that no guest can be made from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// Containers without a virtual machine come with their own service.
    #[error("virtual machine mode NoHyper: containers without a virtual machine are not supported")]
    NoHyper,
    /// An OCI image is no disk.
    #[error("disk {0:?} is a container image, which no virtual machine can start from")]
    Container(PathBuf),
    /// More processors than can be counted.
    #[error("{0} processors are more than any machine has")]
    Cpus(u32),
    /// A kernel is loaded once.
    #[error("two disks are the {0} to start")]
    Twice(&'static str),
    /// A RAM disk goes with a kernel.
    #[error("an initial RAM disk, but no kernel to start it with")]
    InitrdAlone,
    /// Not a display that a VNC port exists for.
    #[error("VNC display {0} is not in 0..={VNC_LAST}")]
    VncDisplay(u32),
}

/// TCP port of the guest's screen.
pub fn vnc_port(resources: &Resources) -> Option<u16> {
    let display = u16::try_from(resources.vnc_display).ok()?;
    (resources.enable_vnc && resources.vnc_display <= VNC_LAST).then(|| VNC_FIRST + display)
}

/// What the guest takes from the device's memory, in KiB.
pub fn memory_kib(config: &DomainConfig, accelerator: &Accelerator) -> u64 {
    let mut spec = VmSpec::new("x", config.app.0, Path::new("/"));
    spec.memory_kib = config.resources.memory_kib;
    if config.resources.enable_vnc {
        spec.vnc = Some(Vnc::Unix(PathBuf::new()));
    }
    spec.host_memory_kib(&accel(accelerator))
}

/// The accelerator as the command line needs it.
pub fn accel(accelerator: &Accelerator) -> Accel {
    match accelerator {
        Accelerator::Kvm => Accel::Kvm,
        Accelerator::Tcg { reason } => Accel::Tcg {
            reason: TcgReason::Unusable(reason.clone()),
        },
    }
}

/// The accelerator as it is published.
pub fn accelerator(accel: &Accel) -> Accelerator {
    match accel {
        Accel::Kvm => Accelerator::Kvm,
        Accel::Tcg { reason } => Accelerator::Tcg {
            reason: reason.to_string(),
        },
    }
}

/// The machine.
pub fn vm_spec(config: &DomainConfig, places: &Places) -> Result<VmSpec, LaunchError> {
    let Resources {
        vcpus,
        memory_kib,
        vm_mode,
        boot_mode,
        enable_vnc,
        ref vnc_password,
        vnc_display,
    } = config.resources;
    let (bus, model) = match vm_mode {
        VmMode::Pv | VmMode::Hvm | VmMode::Fml => (DiskBus::Virtio, NicModel::Virtio),
        VmMode::Legacy => (DiskBus::Ahci, NicModel::E1000e),
        VmMode::NoHyper => return Err(LaunchError::NoHyper),
    };
    let mut spec = VmSpec::new(process_name(config), config.app.0, &places.dir);
    spec.cpus = u16::try_from(vcpus).map_err(|_| LaunchError::Cpus(vcpus))?;
    spec.memory_kib = memory_kib;
    spec.firmware = match boot_mode {
        BootMode::Legacy => Firmware::Legacy,
        BootMode::Uefi => Firmware::Uefi {
            code: UEFI_CODE.into(),
            vars: places.uefi_vars.clone(),
        },
    };
    spec.kernel = kernel(&config.disks)?;
    for disk in &config.disks {
        spec.disks.extend(vm_disk(disk, bus)?);
    }
    let has_seed = !config.user_data.is_empty() || config.secret_user_data.is_some();
    spec.seed = has_seed.then(|| places.seed());
    spec.nics = config
        .vifs
        .iter()
        .map(|vif| Nic {
            tap: vif.vif.clone(),
            mac: Mac(vif.mac.0),
            model,
        })
        .collect();
    spec.console = Console::Socket {
        path: places.dir.join("cons"),
        log: Some(places.console.clone()),
    };
    if enable_vnc {
        let display = u16::try_from(vnc_display)
            .ok()
            .filter(|_| vnc_display <= VNC_LAST)
            .ok_or(LaunchError::VncDisplay(vnc_display))?;
        spec.vnc = Some(Vnc::Loopback {
            display,
            password: !vnc_password.is_empty(),
        });
    }
    Ok(spec)
}

/// What `ps` shows.
fn process_name(config: &DomainConfig) -> String {
    let printable = |c: &char| c.is_ascii_graphic() || *c == ' ';
    let name: String = config
        .display_name
        .chars()
        .filter(printable)
        .take(80)
        .collect();
    format!("{} {}", config.app, name.trim())
        .trim_end()
        .to_owned()
}

fn kernel(disks: &[DiskConfig]) -> Result<Option<DirectKernel>, LaunchError> {
    let one = |target: DiskTarget, what: &'static str| {
        let mut all = disks.iter().filter(|disk| disk.target == target);
        let first = all.next().map(|disk| disk.path.clone());
        match all.next() {
            Some(_) => Err(LaunchError::Twice(what)),
            None => Ok(first),
        }
    };
    let initrd = one(DiskTarget::Initrd, "initial RAM disk")?;
    match one(DiskTarget::Kernel, "kernel")? {
        Some(kernel) => Ok(Some(DirectKernel {
            kernel,
            initrd,
            cmdline: "console=ttyS0".to_owned(),
        })),
        None if initrd.is_some() => Err(LaunchError::InitrdAlone),
        None => Ok(None),
    }
}

fn vm_disk(disk: &DiskConfig, bus: DiskBus) -> Result<Option<Disk>, LaunchError> {
    let target = match disk.target {
        DiskTarget::Kernel | DiskTarget::Initrd => return Ok(None),
        DiskTarget::Cdrom => VmTarget::Cdrom,
        DiskTarget::Disk if disk.format == ImageFormat::Iso => VmTarget::Cdrom,
        DiskTarget::Disk => VmTarget::Disk,
    };
    let format = match disk.format {
        ImageFormat::Raw | ImageFormat::Iso => VmFormat::Raw,
        ImageFormat::Qcow2 => VmFormat::Qcow2,
        ImageFormat::Container => return Err(LaunchError::Container(disk.path.clone())),
    };
    // Twenty characters are what a guest sees of a serial number; the last ones tell apart also
    // UUIDs that somebody counted by hand.
    let serial = disk.volume.volume.0.simple().to_string().split_off(12);
    Ok(Some(Disk {
        path: disk.path.clone(),
        format,
        base: None,
        readonly: disk.read_only,
        target,
        bus,
        serial: Some(serial),
    }))
}

/// Whether the guest may write to the file of this disk.
pub fn is_writable(disk: &DiskConfig) -> bool {
    match disk.target {
        DiskTarget::Disk => !disk.read_only && disk.format != ImageFormat::Iso,
        DiskTarget::Cdrom | DiskTarget::Kernel | DiskTarget::Initrd => false,
    }
}

#[cfg(test)]
pub(crate) mod tests;
