//! How the program is linked: addresses that have to be filled in at start are listed in a compact form (DT_RELR, glibc
//! 2.36 and later), which takes a thirtieth of the place.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}
