//! Turns the EVE API schemas of `proto/` into Rust, with no `protoc` on the machine.
//!
//! protox parses the schemas, prost writes the binary codec, pbjson the canonical proto3 JSON.
//! The descriptor set is kept beside them so that tests and `xtask` can compare its numbers with
//! the facts of the wire.
//!
//! Maps are ordered, so that equal messages are equal bytes: signatures, hashes of configs and the question whether there
//! is news to report are answered from the bytes.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message as _;

/// The packages of the device-to-controller protocol, one folder each (see `proto/README.md`).
/// Our own gRPC services live in other folders of `proto/` and belong to their own crates.
const FOLDERS: [&str; 15] = [
    "attest",
    "auth",
    "certs",
    "config",
    "evecommon",
    "eveuuid",
    "flowlog",
    "hardwarehealth",
    "info",
    "logs",
    "metrics",
    "nestedappinstancemetrics",
    "profile",
    "proxy",
    "register",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../../proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let files = schemas(&root)?;

    let set = protox::compile(&files, [&root])?;
    let bytes = set.encode_to_vec();
    fs::write(out.join("eve.fds"), &bytes)?;

    prost_build::Config::new()
        .btree_map(["."])
        .compile_well_known_types()
        .extern_path(".google.protobuf", "::pbjson_types")
        .compile_fds(set)?;

    // A device or a controller newer than this build may send fields that it does not know.
    pbjson_build::Builder::new()
        .register_descriptors(&bytes)?
        .btree_map(["."])
        .ignore_unknown_fields()
        .build(&["."])?;
    Ok(())
}

/// All schema files of the protocol's folders, sorted, each registered for rebuild.
fn schemas(root: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        let dir = root.join(folder);
        println!("cargo::rerun-if-changed={}", dir.display());
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|ext| ext == "proto") {
                println!("cargo::rerun-if-changed={}", path.display());
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
