//! A disk image that a BIOS boots, made without mounting anything: one FAT partition with syslinux
//! and the kernel, and for bigger guests an ext4 partition with their root file system.

use crate::command::{self, CommandError};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why a disk image was not made.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// One of mtools, syslinux, sfdisk, mke2fs, qemu-img failed.
    #[error("disk image {image}: {source}")]
    Tool {
        /// The image.
        image: PathBuf,
        /// What the tool said.
        source: CommandError,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The path at fault.
        path: PathBuf,
        /// What the kernel answered.
        source: std::io::Error,
    },
}

/// Where Debian's `syslinux-common` keeps the boot code for MBR partition tables.
const BOOT_CODE: &str = "/usr/lib/syslinux/mbr/mbr.bin";
/// The first partition starts here, as every partitioning tool has it.
const START_SECTOR: u64 = 2048;
const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

/// What goes onto the disk. Sizes in MiB.
#[derive(Debug)]
pub(super) struct Disk<'a> {
    /// Size of the FAT boot partition.
    pub boot_mib: u64,
    /// Files of the boot partition's root directory: 8.3 name, source.
    pub boot_files: &'a [(&'a str, &'a Path)],
    /// Directory that becomes an ext4 root file system on the second partition, and its size.
    pub root: Option<(&'a Path, u64)>,
}

impl Disk<'_> {
    /// Writes the image as compressed qcow2 to `image`; works in files beside it.
    pub(super) fn write(&self, image: &Path) -> Result<(), DiskError> {
        let raw = image.with_extension("raw");
        let tool = |source| DiskError::Tool {
            image: image.to_owned(),
            source,
        };
        self.partition(&raw, tool)?;
        self.boot_partition(&raw, tool)?;
        if let Some((root, mib)) = self.root {
            let offset = START_SECTOR * SECTOR + self.boot_mib * MIB;
            command::run(
                Command::new("mke2fs")
                    .args(["-q", "-F", "-t", "ext4", "-L", "root", "-m", "0", "-d"])
                    .arg(root)
                    .args(["-E", &format!("offset={offset}")])
                    .arg(&raw)
                    .arg(format!("{mib}M")),
            )
            .map_err(tool)?;
        }
        command::run(
            Command::new("qemu-img")
                .args(["convert", "-q", "-O", "qcow2", "-c"])
                .arg(&raw)
                .arg(image),
        )
        .map_err(tool)?;
        std::fs::remove_file(&raw).map_err(|source| io(&raw, source))
    }

    fn partition(
        &self,
        raw: &Path,
        tool: impl Fn(CommandError) -> DiskError,
    ) -> Result<(), DiskError> {
        let root_mib = self.root.map_or(0, |(_, mib)| mib);
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(raw)
            .map_err(|source| io(raw, source))?;
        // One spare MiB at the end keeps the last partition inside the disk after rounding.
        file.set_len((1 + self.boot_mib + root_mib + 1) * MIB)
            .map_err(|source| io(raw, source))?;
        let boot_sectors = self.boot_mib * MIB / SECTOR;
        let mut table = format!("{START_SECTOR},{boot_sectors},0xef,*\n");
        if root_mib > 0 {
            let start = START_SECTOR + boot_sectors;
            let sectors = root_mib * MIB / SECTOR;
            let _ = writeln!(table, "{start},{sectors},0x83");
        }
        command::run_with_input(
            Command::new("sfdisk").args(["-q", "--no-reread"]).arg(raw),
            table.as_bytes(),
        )
        .map_err(tool)?;
        let code = std::fs::read(BOOT_CODE).map_err(|source| io(Path::new(BOOT_CODE), source))?;
        file.write_all_at(&code, 0)
            .map_err(|source| io(raw, source))
    }

    fn boot_partition(
        &self,
        raw: &Path,
        tool: impl Fn(CommandError) -> DiskError,
    ) -> Result<(), DiskError> {
        let offset = START_SECTOR * SECTOR;
        let drive = format!("{}@@{offset}", raw.display());
        let sectors = (self.boot_mib * MIB / SECTOR).to_string();
        let hidden = START_SECTOR.to_string();
        command::run(
            mtools("mformat")
                .args(["-i", &drive, "-v", "BOOT", "-T", &sectors])
                .args(["-h", "255", "-s", "63", "-H", &hidden, "::"]),
        )
        .map_err(&tool)?;
        for (name, source) in self.boot_files {
            command::run(
                mtools("mcopy")
                    .args(["-i", &drive])
                    .arg(source)
                    .arg(format!("::/{name}")),
            )
            .map_err(&tool)?;
        }
        command::run(
            Command::new("syslinux")
                .args(["--install", "--offset", &offset.to_string()])
                .arg(raw),
        )
        .map_err(&tool)?;
        Ok(())
    }
}

/// mtools refuses geometries it finds odd unless told not to look.
fn mtools(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("MTOOLS_SKIP_CHECK", "1");
    command
}

fn io(path: &Path, source: std::io::Error) -> DiskError {
    DiskError::Io {
        path: path.to_owned(),
        source,
    }
}
