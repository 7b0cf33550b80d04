//! The keeper of the device's keys (see `tpmmgr`), built with these tests so that they never start an old one.

use std::process::ExitCode;

fn main() -> ExitCode {
    tpmmgr::main()
}
