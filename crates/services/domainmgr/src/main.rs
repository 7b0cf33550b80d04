//! The domainmgr's binary; see the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use domainmgr::{Domainmgr, Hypervisor};

fn main() -> ExitCode {
    if let Some(code) = vmm::probe::child_main(std::env::args_os().nth(1).as_deref()) {
        return code;
    }
    agent::run::<Domainmgr, _, _, _>(Hypervisor::open)
}
