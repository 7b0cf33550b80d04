//! Finds out whether this machine lets tests have disks of their own, so that those that can't run say so.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(has_disks)");
    let is_root = fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0);
    let devices = ["/dev/fuse", "/dev/loop-control"];
    let tools = ["/usr/sbin/mkfs.ext4", "/usr/bin/mount"];
    let there = |paths: &[&str]| paths.iter().all(|path| Path::new(path).exists());
    if is_root && there(&devices) && there(&tools) {
        println!("cargo::rustc-cfg=has_disks");
    }
}
