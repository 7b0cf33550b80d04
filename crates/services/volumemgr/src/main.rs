//! volumemgr's binary; see the library.

use std::process::ExitCode;

use volumemgr::{Disk, Volumemgr};

fn main() -> ExitCode {
    agent::run::<Volumemgr, _, _, _>(Disk::open)
}
