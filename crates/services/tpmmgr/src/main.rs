//! The binary that runs this service. It is not a part of zedbox: only it is linked with the TPM software stack.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    tpmmgr::main()
}
