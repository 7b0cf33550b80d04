//! The tiny guest: Debian's cloud kernel, busybox and the files of `crates/tools/lab/guest`, in an
//! initramfs on a boot partition. Boots in about 6 s under TCG; see `guest/init` for what it does.

use super::cpio::Archive;
use super::disk::Disk;
use super::modules::Dependencies;
use super::{GuestError, io, packages};
use crate::command;
use std::path::Path;
use std::process::Command;

const INIT: &[u8] = include_bytes!("../../guest/init");
const LEASE: &[u8] = include_bytes!("../../guest/lease");
const PAGE: &[u8] = include_bytes!("../../guest/page");
const POWER_BUTTON: &[u8] = include_bytes!("../../guest/powerbutton");
const SYSLINUX: &[u8] = include_bytes!("../../guest/syslinux.cfg");
const CGI: [(&str, &[u8]); 5] = [
    ("info", include_bytes!("../../guest/cgi/info")),
    ("echo", include_bytes!("../../guest/cgi/echo")),
    ("get", include_bytes!("../../guest/cgi/get")),
    ("say", include_bytes!("../../guest/cgi/say")),
    ("crash", include_bytes!("../../guest/cgi/crash")),
];

/// Modules to load, most urgent first: disk and network before the seed's CD, conveniences last.
const MODULES: [&str; 12] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "button",
    "evdev",
    "virtio_scsi",
    "sr_mod",
    "isofs",
    "nls_cp437",
    "nls_ascii",
    "vfat",
    "virtio_rng",
];

/// What busybox is linked with, and what its name lookups load at run time.
const LIBRARIES: [&str; 4] = [
    "libc.so.6",
    "libresolv.so.2",
    "libnss_dns.so.2",
    "libnss_files.so.2",
];
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
const LIBRARY_DIR: &str = "lib/x86_64-linux-gnu";

/// Everything of ours that the image is made from; the cache key is its hash.
pub(super) fn inputs() -> Vec<&'static [u8]> {
    let mut inputs = vec![INIT, LEASE, PAGE, POWER_BUTTON, SYSLINUX];
    inputs.extend(CGI.map(|(_, content)| content));
    inputs.extend(MODULES.map(str::as_bytes));
    inputs
}

/// Builds the image at `image`, working in the empty directory `work`.
pub(super) fn build(image: &Path, work: &Path) -> Result<(), GuestError> {
    let cache = work.join("packages");
    let root = work.join("root");
    let kernel = packages::kernel_behind("linux-image-cloud-amd64")?;
    for package in [kernel.as_str(), "busybox", "libc6"] {
        packages::unpack(package, &cache, &root)?;
    }
    let version = kernel.trim_start_matches("linux-image-");
    let initrd = work.join("initrd");
    let archive = initramfs(&root, version)?;
    std::fs::write(&initrd, archive).map_err(|source| io(&initrd, source))?;
    let config = work.join("syslinux.cfg");
    std::fs::write(&config, SYSLINUX).map_err(|source| io(&config, source))?;
    let disk = Disk {
        boot_mib: 32,
        boot_files: &[
            ("vmlinuz", &root.join(format!("boot/vmlinuz-{version}"))),
            ("initrd", &initrd),
            ("syslinux.cfg", &config),
        ],
        root: None,
    };
    Ok(disk.write(image)?)
}

fn initramfs(root: &Path, kernel: &str) -> Result<Vec<u8>, GuestError> {
    let read = |path: &str| {
        let path = root.join(path);
        std::fs::read(&path).map_err(|source| io(&path, source))
    };
    let mut archive = Archive::default();
    for directory in [
        "bin",
        "dev",
        "etc",
        "etc/acpi",
        "etc/acpi/PWRF",
        "lib",
        LIBRARY_DIR,
        "lib64",
        "modules",
        "proc",
        "root",
        "run",
        "sys",
        "tmp",
        "www",
        "www/cgi-bin",
    ] {
        archive.directory(directory);
    }
    archive.file("init", 0o755, INIT);
    archive.file("bin/lease", 0o755, LEASE);
    archive.file("bin/page", 0o755, PAGE);
    // acpid runs the file named after the event's code in the directory named after its device.
    archive.file("etc/acpi/PWRF/00000080", 0o755, POWER_BUTTON);
    archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
    for (name, content) in CGI {
        archive.file(&format!("www/cgi-bin/{name}"), 0o755, content);
    }
    archive.file("bin/busybox", 0o755, &read("bin/busybox")?);
    let applets = command::run(Command::new(root.join("bin/busybox")).arg("--list"))?;
    for applet in applets.lines().filter(|name| *name != "busybox") {
        archive.symlink(&format!("bin/{applet}"), "busybox");
    }
    archive.file(LOADER, 0o755, &read(LOADER)?);
    for library in LIBRARIES {
        let path = format!("{LIBRARY_DIR}/{library}");
        archive.file(&path, 0o755, &read(&path)?);
    }
    command::run(Command::new("depmod").arg("-b").arg(root).arg(kernel))?;
    let modules = format!("lib/modules/{kernel}");
    let text = read(&format!("{modules}/modules.dep"))?;
    let order = Dependencies::parse(&String::from_utf8_lossy(&text)).load_order(&MODULES)?;
    let mut names = String::new();
    for path in order {
        let file = path.rsplit('/').next().unwrap_or(&path);
        archive.file(
            &format!("modules/{file}"),
            0o644,
            &read(&format!("{modules}/{path}"))?,
        );
        names.push_str(file);
        names.push('\n');
    }
    archive.file("modules/order", 0o644, names.as_bytes());
    Ok(archive.finish())
}
