//! An ext4 on a loop device, for the tests of who needs a real one.
#![allow(dead_code, reason = "every test file uses its part of it")]
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A mounted file system in a file; gone when dropped.
pub struct Ext4 {
    dir: tempfile::TempDir,
}

impl Ext4 {
    /// Fails where nobody may mount it: a test that was not run has not passed.
    pub fn new(features: &str) -> Self {
        let disk = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let image = disk.image();
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-O", features, path(&image)]);
        fs::create_dir(disk.root()).unwrap();
        disk.mount();
        disk
    }

    /// Whatever of this one has reached its image, as after a power cut.
    pub fn cut(&self) -> Self {
        let other = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::copy(self.image(), other.image()).unwrap();
        fs::create_dir(other.root()).unwrap();
        other.mount();
        other
    }

    /// The file that it is in.
    pub fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// Where it is mounted.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    pub fn mount(&self) {
        let image = self.image();
        run("mount", &["-o", "loop", path(&image), path(&self.root())]);
    }

    pub fn unmount(&self) {
        run("umount", &[path(&self.root())]);
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.root()).status();
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}
