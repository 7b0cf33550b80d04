//! Finds out what this machine lets the process tests do, so that those that can't run say so.

use std::fs;
use std::os::unix::fs::MetadataExt;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(is_root)");
    println!("cargo::rustc-check-cfg=cfg(has_memory_cgroup)");
    let is_root = fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0);
    if is_root {
        println!("cargo::rustc-cfg=is_root");
    }
    println!("cargo::rustc-check-cfg=cfg(has_tun)");
    if is_root && fs::metadata("/dev/net/tun").is_ok() {
        println!("cargo::rustc-cfg=has_tun");
    }
    println!("cargo::rustc-check-cfg=cfg(has_qemu)");
    if is_root && fs::metadata("/usr/bin/qemu-system-x86_64").is_ok() {
        println!("cargo::rustc-cfg=has_qemu");
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let has_memory = mounts.lines().any(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        let [_, mount, kind, options, ..] = fields[..] else {
            return false;
        };
        let writable = options.split(',').any(|option| option == "rw");
        let memory = match kind {
            "cgroup" => options.split(',').any(|option| option == "memory"),
            "cgroup2" => fs::read_to_string(format!("{mount}/cgroup.controllers"))
                .is_ok_and(|text| text.split_whitespace().any(|name| name == "memory")),
            _ => false,
        };
        writable && memory
    });
    if is_root && has_memory {
        println!("cargo::rustc-cfg=has_memory_cgroup");
    }
}
