//! Finds out whether this machine lets the test with a real terminal run, so that they say so if not.

use std::fs;
use std::os::unix::fs::MetadataExt;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(is_root)");
    let is_root = fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0);
    if is_root {
        println!("cargo::rustc-cfg=is_root");
    }
}
