//! Finds out whether this machine shows the kernel's messages, so that the test that needs them says so.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(has_kmsg)");
    if std::fs::File::open("/dev/kmsg").is_ok() {
        println!("cargo::rustc-cfg=has_kmsg");
    }
}
