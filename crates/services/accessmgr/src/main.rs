//! The binary that runs this service alone; see the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    accessmgr::main()
}
