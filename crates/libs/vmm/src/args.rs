//! A guest as the arguments of QEMU: pure, and golden-tested in `tests/golden`.
//!
//! What every guest gets, and why:
//! - nothing but what stands here: `-nodefaults`, `-no-user-config`, explicit formats and chains;
//! - paused (`-S`): its tap, cgroup and password are made ready before the first instruction;
//! - it stays after the guest powered off or panicked (`-action`), so that its last state is a fact
//!   that [`crate::qmp`] can read, also for a manager that was restarted meanwhile. SIGTERM and
//!   `quit` end it;
//! - a system call filter that forbids new programs and privileges: QEMU never runs a script.
//!
//! PCI addresses are fixed, because guests name their interfaces after them. Cards come first, so
//! that a new disk renames none of them:
//!
//! ```text
//! pcie.0  01 VGA   02 virtio-scsi "scsi0"   03 virtio-rng   04 xHCI "usb0"   1f chipset: "ide.0".."ide.5"
//!         10.0 .. 1e.7  root ports "port0", "port1", ..: cards, then virtio disks,
//!                       then "spare0", "spare1", .. for devices that come later
//! ```

use std::path::Path;

use serde_json::{Value, json};

use crate::nodes::{disk_device, disk_node, nic_backend, nic_device, raw_node};
use crate::spec::{Console, DiskBus, DiskTarget, Firmware, Host, Machine, SpecError, VmSpec, Vnc};
use crate::{Accel, probe};

/// The program that takes the arguments.
pub const QEMU: &str = "qemu-system-x86_64";

/// What the system call filter denies on top of its default list.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The arguments of [`QEMU`] for a guest on this host, one element per argument, no shell syntax.
pub fn qemu_args(spec: &VmSpec, host: &Host) -> Result<Vec<String>, SpecError> {
    spec.check()?;
    let mut args = Arguments::default();
    args.process(spec);
    args.computer(spec, host);
    args.control(spec);
    args.screen(spec);
    args.devices(spec, host);
    Ok(args.0)
}

/// Name of the n-th empty slot, for devices that come while the guest runs.
pub fn spare_slot(n: u8) -> String {
    format!("spare{n}")
}

#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn flag(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn option(&mut self, name: &str, value: impl Into<String>) {
        self.0.push(name.to_owned());
        self.0.push(value.into());
    }

    fn object(&mut self, name: &str, value: &Value) {
        self.option(name, value.to_string());
    }

    fn process(&mut self, spec: &VmSpec) {
        self.option(
            "-name",
            format!("guest={},debug-threads=on", escaped(&spec.name)),
        );
        self.option("-uuid", spec.uuid.to_string());
        self.flag("-no-user-config");
        self.flag("-nodefaults");
        self.flag("-S");
        self.option("-action", "panic=pause,shutdown=pause,reboot=reset");
        self.option("-sandbox", SANDBOX);
        self.option("-msg", "timestamp=on");
        self.option("-pidfile", text(&spec.pid_file));
    }

    fn computer(&mut self, spec: &VmSpec, host: &Host) {
        let mut machine = match spec.machine {
            Machine::Q35 => "pc-q35-7.2",
        }
        .to_owned();
        machine.push_str(",usb=off,vmport=off,dump-guest-core=off");
        if let Firmware::Uefi { code, vars } = &spec.firmware {
            self.object("-blockdev", &raw_node("uefi-code", code, true));
            self.object("-blockdev", &raw_node("uefi-vars", vars, false));
            machine.push_str(",pflash0=uefi-code,pflash1=uefi-vars");
        }
        self.option("-machine", machine);
        let (accel, cpu) = match &host.accel {
            Accel::Kvm => ("kvm".to_owned(), "host"),
            Accel::Tcg { reason: _ } => (format!("tcg,tb-size={}", spec.tb_size_mib), "max"),
        };
        self.option("-accel", accel);
        self.option("-cpu", cpu);
        let cpus = spec.cpus;
        self.option(
            "-smp",
            format!("cpus={cpus},sockets=1,cores={cpus},threads=1"),
        );
        self.option("-m", format!("size={}k", spec.memory_kib));
        self.option("-rtc", "base=utc");
        // A guest that suspends itself could not be woken by anyone.
        self.option("-global", "ICH9-LPC.disable_s3=1");
        self.option("-global", "ICH9-LPC.disable_s4=1");
        self.option("-boot", "strict=on");
        if let Some(kernel) = &spec.kernel {
            self.option("-kernel", text(&kernel.kernel));
            if let Some(initrd) = &kernel.initrd {
                self.option("-initrd", text(initrd));
            }
            if !kernel.cmdline.is_empty() {
                self.option("-append", kernel.cmdline.as_str());
            }
        }
    }

    fn control(&mut self, spec: &VmSpec) {
        for (id, path) in [
            ("qmp-executor", &spec.qmp.executor),
            ("qmp-listener", &spec.qmp.listener),
        ] {
            self.option("-chardev", socket(id, path));
            self.option("-mon", format!("chardev={id},mode=control"));
        }
        let console = match &spec.console {
            Console::Log(log) => format!("file,id=console,path={},append=on", escaped(&text(log))),
            Console::Socket { path, log: None } => socket("console", path),
            Console::Socket {
                path,
                log: Some(log),
            } => format!(
                "{},logfile={},logappend=on",
                socket("console", path),
                escaped(&text(log))
            ),
        };
        self.option("-chardev", console);
        self.object(
            "-device",
            &json!({ "driver": "isa-serial", "chardev": "console" }),
        );
        self.object("-device", &json!({ "driver": "pvpanic" }));
    }

    fn screen(&mut self, spec: &VmSpec) {
        self.option("-display", "none");
        let Some(vnc) = &spec.vnc else {
            return;
        };
        let server = match vnc {
            Vnc::Unix(path) => format!("unix:{}", escaped(&text(path))),
            Vnc::Loopback {
                display,
                password: false,
            } => format!("127.0.0.1:{display}"),
            Vnc::Loopback {
                display,
                password: true,
            } => format!("127.0.0.1:{display},password=on"),
        };
        self.option("-vnc", server);
        self.chip("VGA", "vga0", 0x1, &[]);
        // A tablet reports where the pointer is; a mouse would drift away from the viewer's.
        self.chip("qemu-xhci", "usb0", 0x4, &[]);
        let tablet = json!({ "driver": "usb-tablet", "id": "tablet0", "bus": "usb0.0" });
        self.object("-device", &tablet);
    }

    fn devices(&mut self, spec: &VmSpec, host: &Host) {
        self.object(
            "-object",
            &json!({ "qom-type": "rng-builtin", "id": "rng0" }),
        );
        self.chip("virtio-rng-pci", "entropy0", 0x3, &[("rng", "rng0")]);
        let on_scsi = |disk: &&crate::spec::Disk| {
            disk.bus == DiskBus::Virtio && disk.target == DiskTarget::Cdrom
        };
        if spec.seed.is_some() || spec.disks.iter().any(|disk| on_scsi(&disk)) {
            self.chip("virtio-scsi-pci", "scsi0", 0x2, &[]);
        }
        let mut ports = 0;
        for (n, nic) in spec.nics.iter().enumerate() {
            let port = self.port(&format!("port{ports}"), &mut ports);
            let (id, backend) = (format!("nic{n}"), format!("net{n}"));
            self.object("-netdev", &nic_backend(&backend, nic, host.vhost_net));
            self.object("-device", &nic_device(&id, nic, &backend, &port));
        }
        let mut ahci = 0;
        for (n, disk) in spec.disks.iter().enumerate() {
            let id = format!("disk{n}");
            let bus = match (disk.bus, disk.target) {
                (DiskBus::Virtio, DiskTarget::Disk) => {
                    self.port(&format!("port{ports}"), &mut ports)
                }
                (DiskBus::Virtio, DiskTarget::Cdrom) => "scsi0.0".to_owned(),
                (DiskBus::Ahci, DiskTarget::Disk | DiskTarget::Cdrom) => {
                    ahci += 1;
                    format!("ide.{}", ahci - 1)
                }
            };
            self.object("-blockdev", &disk_node(&id, disk));
            self.object("-device", &disk_device(&id, disk, &bus, Some(n)));
        }
        if let Some(seed) = &spec.seed {
            self.object("-blockdev", &raw_node("seed", seed, true));
            let cd =
                json!({ "driver": "scsi-cd", "id": "seed", "bus": "scsi0.0", "drive": "seed" });
            self.object("-device", &cd);
        }
        for n in 0..spec.hotplug_slots {
            self.port(&spare_slot(n), &mut ports);
        }
    }

    /// A device at a fixed place of the root bus.
    fn chip(&mut self, driver: &str, id: &str, slot: u8, more: &[(&str, &str)]) {
        let addr = format!("{slot:#x}");
        let mut device = json!({ "driver": driver, "id": id, "bus": "pcie.0", "addr": addr });
        for (key, value) in more {
            device[*key] = (*value).into();
        }
        self.object("-device", &device);
    }

    /// The next root port. Eight share a slot; the first of them must say so. No I/O window is
    /// reserved: there is room for 15, and modern devices need none.
    fn port(&mut self, id: &str, used: &mut usize) -> String {
        let (slot, function) = (0x10 + *used / 8, *used % 8);
        *used += 1;
        let mut port = json!({
            "driver": "pcie-root-port",
            "id": id,
            "bus": "pcie.0",
            "addr": format!("{slot:#x}.{function:#x}"),
            "chassis": *used,
            "io-reserve": 0,
        });
        if function == 0 {
            port["multifunction"] = true.into();
        }
        self.object("-device", &port);
        id.to_owned()
    }
}

fn socket(id: &str, path: &Path) -> String {
    let path = escaped(&text(path));
    format!("socket,id={id},path={path},server=on,wait=off")
}

/// Paths were checked to be UTF-8 by [`VmSpec::check`].
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A value inside QEMU's `key=value,key=value` syntax: a comma is written twice.
fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

/// Whether `/dev/vhost-net` can be opened, to fill [`Host::vhost_net`]; `root` is `/` on a device.
pub fn vhost_net_works(root: &Path) -> bool {
    probe::opens(&root.join("dev/vhost-net"))
}
