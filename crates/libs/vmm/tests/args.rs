//! QEMU's arguments, compared with reviewed files. `BLESS=1` rewrites `tests/golden/*.args`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};

use uuid::Uuid;
use vmm::probe::TcgReason;
use vmm::spec::{
    BaseImage, Console, DirectKernel, Disk, DiskBus, DiskTarget, Firmware, ImageFormat, Mac, Nic,
    NicModel, Vnc,
};
use vmm::{Accel, Host, SpecError, VmSpec, qemu_args};

fn guest(name: &str) -> VmSpec {
    let uuid = Uuid::from_u128(0x6b1f_3c5e_0000_4000_8000_0000_0000_0001);
    VmSpec::new(name, uuid, Path::new("/run/domainmgr/web.1"))
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
        mac: Mac([0x02, 0x16, 0x3e, 0, 0, last]),
        model: NicModel::Virtio,
    }
}

fn emulated() -> Host {
    Host::emulated(TcgReason::NoCpuFlag)
}

/// One option a line, with its value: what a reviewer wants to see in a diff.
fn rendered(args: &[String]) -> String {
    let mut text = String::new();
    let mut args = args.iter().peekable();
    while let Some(arg) = args.next() {
        text.push_str(arg);
        if let Some(value) = args.next_if(|next| !next.starts_with('-')) {
            text.push(' ');
            text.push_str(value);
        }
        text.push('\n');
    }
    text
}

fn assert_golden(name: &str, spec: &VmSpec, host: &Host) {
    let got = rendered(&qemu_args(spec, host).unwrap());
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let path = directory.join(format!("{name}.args"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, got).unwrap();
        return;
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(got, wanted, "{name}: BLESS=1 rewrites the file");
}

#[test]
fn smallest() {
    assert_golden("smallest", &guest("smallest"), &emulated());
}

#[test]
fn application() {
    let mut spec = guest("web,1");
    spec.disks = vec![disk("/persist/vault/volumes/1.qcow2")];
    spec.seed = Some("/run/domainmgr/cloudinit/web.iso".into());
    spec.nics = vec![nic("nbu1x1", 1)];
    spec.console = Console::Socket {
        path: "/run/domainmgr/web.1/cons".into(),
        log: Some("/run/domainmgr/web.1/console, old.log".into()),
    };
    assert_golden("application", &spec, &emulated());
}

#[test]
fn uefi_with_kvm_and_vnc() {
    let mut spec = guest("desktop");
    spec.cpus = 4;
    spec.memory_kib = 2 * 1024 * 1024;
    spec.firmware = Firmware::Uefi {
        code: "/usr/share/OVMF/OVMF_CODE_4M.fd".into(),
        vars: "/persist/vault/uefi/desktop.fd".into(),
    };
    let mut overlay = disk("/persist/vault/volumes/2.qcow2");
    overlay.base = Some(BaseImage {
        path: "/persist/vault/base.raw".into(),
        format: ImageFormat::Raw,
    });
    overlay.serial = Some("vol-2".into());
    let mut cd = disk("/persist/vault/volumes/install.iso");
    cd.format = ImageFormat::Raw;
    cd.target = DiskTarget::Cdrom;
    spec.disks = vec![overlay, cd];
    spec.nics = vec![nic("nbu1x2", 2), nic("nbu2x2", 3)];
    spec.vnc = Some(Vnc::Loopback {
        display: 17,
        password: true,
    });
    let host = Host {
        accel: Accel::Kvm,
        vhost_net: true,
    };
    assert_golden("uefi", &spec, &host);
}

#[test]
fn legacy_hardware() {
    let mut spec = guest("legacy");
    let mut hard = disk("/v/1.raw");
    hard.format = ImageFormat::Raw;
    hard.bus = DiskBus::Ahci;
    let mut cd = hard.clone();
    cd.path = "/v/2.iso".into();
    cd.target = DiskTarget::Cdrom;
    spec.disks = vec![hard, cd];
    let mut card = nic("nbu1x3", 4);
    card.model = NicModel::E1000e;
    spec.nics = vec![card];
    spec.vnc = Some(Vnc::Unix("/run/domainmgr/web.1/vnc".into()));
    spec.console = Console::Log("/run/domainmgr/web.1/console.log".into());
    spec.hotplug_slots = 0;
    let host = Host {
        accel: Accel::Kvm,
        vhost_net: true,
    };
    assert_golden("legacy", &spec, &host);
}

#[test]
fn direct_kernel() {
    let mut spec = guest("direct");
    spec.kernel = Some(DirectKernel {
        kernel: "/v/vmlinux".into(),
        initrd: Some("/v/initrd.gz".into()),
        cmdline: "console=ttyS0 quiet panic=5".into(),
    });
    assert_golden("direct-kernel", &spec, &emulated());
}

#[test]
fn full_slots_have_addresses_of_their_own() {
    let mut spec = guest("full");
    spec.nics = (0..40).map(|n| nic(&format!("tap{n}"), n)).collect();
    spec.disks = (0..40).map(|n| disk(&format!("/v/{n}"))).collect();
    spec.hotplug_slots = 16;
    let args = qemu_args(&spec, &emulated()).unwrap();
    let addresses: std::collections::BTreeSet<_> = args
        .iter()
        .filter(|arg| arg.contains("pcie-root-port"))
        .map(|arg| serde_json::from_str::<serde_json::Value>(arg).unwrap()["addr"].to_string())
        .collect();
    assert_eq!(addresses.len(), 96);
    assert!(addresses.iter().all(|addr| !addr.contains("0x1f")));
}

#[test]
fn a_broken_rule_gives_no_arguments() {
    let mut spec = guest("bad");
    spec.cpus = 0;
    assert_eq!(qemu_args(&spec, &emulated()), Err(SpecError::Cpus(0)));
}

#[test]
fn no_argument_leads_to_a_program_or_a_script() {
    let mut spec = guest("quiet");
    spec.nics = vec![nic("tap0", 1)];
    let args = qemu_args(&spec, &emulated()).unwrap();
    let tap = args.iter().find(|arg| arg.contains("\"tap\"")).unwrap();
    assert!(tap.contains(r#""script":"no","downscript":"no","vhost":false"#));
    let sandbox = args.iter().position(|arg| arg == "-sandbox").unwrap();
    assert!(args[sandbox + 1].contains("spawn=deny"));
}
