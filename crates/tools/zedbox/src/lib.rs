//! The supervisor, all services and the operator's command in one program, as a device ships them.
//!
//! The name that it is started under says which of them it is, so it is installed once and linked to once for each
//! name ([`install()`]). Fifteen processes then share the pages of one file: the code of the runtime, TLS, JSON and the bus is
//! on the disk once and in memory once. Links are hard ones, so that each process also *is* what it is called: its
//! command line, its `comm` and its `/proc/PID/exe` all carry the service's name.
//!
//! Nothing else differs from the programs' own binaries, which are for working on one of them: the same
//! `SERVICE::main` runs, with the same flags. A process still has only the rights of its unit; the code of its
//! neighbours that lies in the same file can be run by it, but not with their users, paths and capabilities.
//!
//! One program of the device is not in it: `tpmchip`, which tpmmgr starts and which alone is linked with the TPM software stack.
#![forbid(unsafe_code)]

mod command;
pub mod install;

use std::{ffi::OsStr, path::Path, process::ExitCode};

pub use install::install;

/// A program of the device.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// What it is called.
    pub name: &'static str,
    /// All of it.
    pub main: fn() -> ExitCode,
}

/// The programs, the supervisor first and the operator's command last.
pub const PROGRAMS: &[Program] = &[
    program("supervisor", supervisor::main),
    program("tpmmgr", tpmmgr::main),
    program("nim", nim::main),
    program("nodeagent", nodeagent::main),
    program("zedagent", zedagent::main),
    program("vaultmgr", vaultmgr::main),
    program("downloader", downloader::main),
    program("verifier", verifier::main),
    program("volumemgr", volumemgr::main),
    program("zedrouter", zedrouter::main),
    program("domainmgr", domainmgr::main),
    program("zedmanager", zedmanager::main),
    program("reporter", reporter::main),
    program("newlogd", newlogd::main),
    program("accessmgr", accessmgr::main),
    program("eve", eve::cli::main),
];

const fn program(name: &'static str, main: fn() -> ExitCode) -> Program {
    Program { name, main }
}

/// The whole program.
pub fn main() -> ExitCode {
    let called = std::env::args_os().next();
    match called.as_deref().and_then(named) {
        Some(program) => (program.main)(),
        None => command::main(),
    }
}

/// The program that a command word names, with or without a path.
fn named(word: &OsStr) -> Option<&'static Program> {
    let name = Path::new(word).file_name()?;
    PROGRAMS.iter().find(|program| name == program.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_of_the_table_is_in_it_and_the_supervisor_and_the_command() {
        let mut wanted: Vec<_> = supervisor::table::SERVICES
            .iter()
            .map(|service| service.name)
            .chain(["supervisor", "eve"])
            .collect();
        let mut there: Vec<_> = PROGRAMS.iter().map(|program| program.name).collect();
        wanted.sort_unstable();
        there.sort_unstable();
        assert_eq!(there, wanted);
    }

    #[test]
    fn the_name_counts_and_not_the_way_to_it() {
        let found = |word: &str| named(OsStr::new(word)).map(|program| program.name);
        assert_eq!(found("nim"), Some("nim"));
        assert_eq!(found("/usr/bin/zedrouter"), Some("zedrouter"));
        assert_eq!(found("/usr/bin/zedbox"), None);
        assert_eq!(found("/usr/bin/nim/"), Some("nim"));
        assert_eq!(found(""), None);
    }
}
