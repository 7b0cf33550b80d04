//! The Debian guest: a stock Debian 12 with systemd that nobody here wrote, made by mmdebstrap.
//! Only a seed reader and a web server (`guest/debian-seed`) and a DHCP setting are added.

use super::disk::Disk;
use super::{GuestError, io};
use crate::command;
use std::path::{Path, PathBuf};
use std::process::Command;

const FILES: [(&str, &str, u32, &[u8]); 3] = [
    (
        "eve-guest",
        "/usr/local/sbin/eve-guest",
        0o755,
        include_bytes!("../../guest/debian-seed"),
    ),
    (
        "eve-guest.service",
        "/etc/systemd/system/eve-guest.service",
        0o644,
        include_bytes!("../../guest/eve-guest.service"),
    ),
    (
        "dhcp.network",
        "/etc/systemd/network/dhcp.network",
        0o644,
        include_bytes!("../../guest/debian-dhcp.network"),
    ),
];
const SYSLINUX: &[u8] = include_bytes!("../../guest/debian-syslinux.cfg");
/// dbus and libpam-systemd bring logind, which obeys the ACPI power button.
const PACKAGES: &str =
    "linux-image-cloud-amd64,initramfs-tools,systemd-sysv,dbus,libpam-systemd,udev,kmod,busybox";
/// Only what a virtio guest needs: the stock initramfs of all modules takes a minute under TCG.
const INITRAMFS: &str = "MODULES=list\nCOMPRESS=gzip\n";
const INITRAMFS_MODULES: &str = "virtio_pci\nvirtio_blk\nvirtio_scsi\next4\n";

/// Everything of ours that the image is made from; the cache key is its hash.
pub(super) fn inputs() -> Vec<&'static [u8]> {
    let mut inputs = vec![
        SYSLINUX,
        PACKAGES.as_bytes(),
        INITRAMFS.as_bytes(),
        INITRAMFS_MODULES.as_bytes(),
    ];
    inputs.extend(FILES.map(|(_, _, _, content)| content));
    inputs
}

/// Builds the image at `image`, working in the empty directory `work`. Takes minutes.
pub(super) fn build(image: &Path, work: &Path) -> Result<(), GuestError> {
    let root = work.join("root");
    bootstrap(&root, work)?;
    let boot = root.join("boot");
    let kernel = only(&boot, "vmlinuz-")?;
    let initrd = only(&boot, "initrd.img-")?;
    let config = work.join("syslinux.cfg");
    std::fs::write(&config, SYSLINUX).map_err(|source| io(&config, source))?;
    let disk = Disk {
        boot_mib: 64,
        boot_files: &[
            ("vmlinuz", &kernel),
            ("initrd", &initrd),
            ("syslinux.cfg", &config),
        ],
        root: Some((&root, 900)),
    };
    Ok(disk.write(image)?)
}

fn bootstrap(root: &Path, work: &Path) -> Result<(), GuestError> {
    let stage = |name: &str, content: &[u8]| -> Result<PathBuf, GuestError> {
        let path = work.join(name);
        std::fs::write(&path, content).map_err(|source| io(&path, source))?;
        Ok(path)
    };
    let settings = stage("initramfs.conf", INITRAMFS.as_bytes())?;
    let modules = stage("initramfs-modules", INITRAMFS_MODULES.as_bytes())?;
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .args(["--mode=root", "--variant=minbase", "--quiet"])
        .arg(format!("--include={PACKAGES}"))
        .arg("--dpkgopt=path-exclude=/usr/share/man/*")
        .arg("--dpkgopt=path-exclude=/usr/share/locale/*")
        .arg("--dpkgopt=path-exclude=/usr/share/doc/*")
        // Before the kernel is configured, so that its initramfs is made once and small.
        .arg("--essential-hook=mkdir -p \"$1/etc/initramfs-tools/conf.d\"")
        .arg(upload(
            "essential",
            &settings,
            "/etc/initramfs-tools/conf.d/guest",
        ))
        .arg(upload(
            "essential",
            &modules,
            "/etc/initramfs-tools/modules",
        ))
        .arg("--customize-hook=mkdir -p \"$1/etc/systemd/network\"");
    for (name, target, mode, content) in FILES {
        let source = stage(name, content)?;
        mmdebstrap
            .arg(upload("customize", &source, target))
            .arg(format!("--customize-hook=chmod {mode:o} \"$1{target}\""));
    }
    mmdebstrap
        .arg("--customize-hook=chroot \"$1\" systemctl enable systemd-networkd eve-guest")
        .arg("--customize-hook=chroot \"$1\" passwd -d root")
        .args(["bookworm"])
        .arg(root);
    command::run(&mut mmdebstrap)?;
    Ok(())
}

fn upload(stage: &str, source: &Path, target: &str) -> String {
    format!("--{stage}-hook=upload {} {target}", source.display())
}

/// The one file of `dir` whose name starts with `prefix`.
fn only(dir: &Path, prefix: &str) -> Result<PathBuf, GuestError> {
    std::fs::read_dir(dir)
        .map_err(|source| io(dir, source))?
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .ok_or_else(|| GuestError::Incomplete {
            dir: dir.to_owned(),
            prefix: prefix.to_owned(),
        })
}
