//! Writes an initramfs: the kernel's "newc" cpio format, every entry owned by root and dated 0,
//! so that the same inputs give the same bytes. Format: kernel documentation,
//! `driver-api/early-userspace/buffer-format`.

/// An initramfs under construction; directories must be added before what they hold.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_777;

impl Archive {
    /// Adds a directory, mode 0755.
    pub(super) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY, &[]);
    }

    /// Adds a file with the given permission bits.
    pub(super) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, FILE | permissions, content);
    }

    /// Adds a symbolic link at `path` that points to `target`.
    pub(super) fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, SYMLINK, target.as_bytes());
    }

    /// The finished archive.
    #[must_use]
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        // Field order: ino, mode, uid, gid, nlink, mtime, filesize, 4 device numbers, namesize, check.
        let fields = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            length(content.len()),
            0,
            0,
            0,
            0,
            length(path.len() + 1),
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

/// Guest files are far below the format's 4 GiB; a longer one is clamped and fails to unpack loudly.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::command;
    use std::process::Command;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.directory("bin");
        archive.file("bin/tool", 0o755, b"abc");
        archive.symlink("bin/alias", "tool");
        archive.finish()
    }

    #[test]
    fn is_deterministic_and_aligned() {
        assert_eq!(sample(), sample());
        assert_eq!(sample().len() % 4, 0);
    }

    #[test]
    fn an_independent_reader_sees_the_same_entries() {
        let listing =
            command::run_with_input(Command::new("busybox").args(["cpio", "-t"]), &sample())
                .unwrap();
        assert_eq!(
            listing.lines().collect::<Vec<_>>(),
            ["bin", "bin/tool", "bin/alias"]
        );
    }
}
