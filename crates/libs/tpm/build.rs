//! Compiles `proto/tpmmgr` without a system `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    const PROTO: &str = "../../../proto";
    println!("cargo:rerun-if-changed={PROTO}/tpmmgr");
    let files = protox::compile(["tpmmgr/tpmmgr.proto"], [PROTO])?;
    tonic_prost_build::configure()
        .btree_map(".")
        .compile_fds(files)?;
    Ok(())
}
