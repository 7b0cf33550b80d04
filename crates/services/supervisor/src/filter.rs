//! System call filters (seccomp): from the lists in `calls.rs` to what the kernel runs.
//!
//! A unit gets three filters; the kernel asks all of them and takes the strictest answer:
//! - *hostile*: calls that only an attacker makes end the process;
//! - *families*: sockets of families that the unit has no network for don't exist (`EAFNOSUPPORT`);
//! - *allowed*: calls that are not in its lists don't exist (`ENOSYS`).
//!
//! A call of another architecture's table (32-bit programs) ends the process; x32's numbers are in no
//! list. Filters are inherited by whatever the unit starts, and nothing takes them off again.

use std::collections::HashMap;

use seccompiler::{BpfProgram, TargetArch, apply_filter, compile_from_json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::calls::{Calls, HOSTILE, INET, INET6, Network};

/// What a unit may ask the kernel for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Its system calls.
    pub calls: Calls,
    /// Its network.
    pub network: Network,
}

/// A filter that can't be made or enforced; the unit is not started then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterError {
    /// The lists.
    #[error("the system call filter can't be compiled: {0}")]
    Compile(seccompiler::Error),
    /// The kernel.
    #[error("the kernel does not take the system call filter {name}: {source}")]
    Apply {
        /// Which one.
        name: &'static str,
        /// Why not.
        source: seccompiler::Error,
    },
    /// Not an architecture that there are lists for.
    #[error("there is no system call filter for the architecture {0}")]
    Architecture(&'static str),
}

/// The filters of one unit, ready for the kernel; none of a login.
#[derive(Debug, Default)]
pub(crate) struct Compiled(HashMap<String, BpfProgram>);

/// In the order in which they are enforced: after the last one nothing more can be.
const NAMES: [&str; 3] = ["hostile", "families", "allowed"];

/// `CLONE_THREAD`.
const THREAD: u64 = 0x0001_0000;
/// The flags of `clone` that make namespaces: mount, cgroup, UTS, IPC, user, PID, network.
const NAMESPACES: [u64; 7] = [
    0x0002_0000,
    0x0200_0000,
    0x0400_0000,
    0x0800_0000,
    0x1000_0000,
    0x2000_0000,
    0x4000_0000,
];
/// The bits of a socket's type that are no flags.
const SOCKET_TYPE: u64 = 0xf;
const SOCK_STREAM: u64 = 1;
const ENOSYS: u32 = 38;
const EAFNOSUPPORT: u32 = 97;

/// Makes the filters for the machine that this runs on.
pub(crate) fn compile(filter: Filter) -> Result<Compiled, FilterError> {
    let name = std::env::consts::ARCH;
    let arch = TargetArch::try_from(name).map_err(|_| FilterError::Architecture(name))?;
    compile_for(filter, arch)
}

fn compile_for(filter: Filter, arch: TargetArch) -> Result<Compiled, FilterError> {
    if filter.calls == Calls::Login {
        // sshd changes its root directory, which only attackers do elsewhere; and who logs in is root and may do anything.
        return Ok(Compiled::default());
    }
    let legacy = match arch {
        TargetArch::x86_64 => true,
        TargetArch::aarch64 => false,
        TargetArch::riscv64 => return Err(FilterError::Architecture("riscv64")),
    };
    let text = json!({
        "hostile": {
            "mismatch_action": "allow",
            "match_action": "kill_process",
            "filter": hostile(legacy),
        },
        "families": {
            "mismatch_action": "allow",
            "match_action": { "errno": EAFNOSUPPORT },
            "filter": families(filter.network),
        },
        "allowed": {
            "mismatch_action": { "errno": ENOSYS },
            "match_action": "allow",
            "filter": allowed(filter.calls, legacy),
        },
    })
    .to_string();
    compile_from_json(text.as_bytes(), arch)
        .map(Compiled)
        .map_err(FilterError::Compile)
}

/// Enforces the filters from here on, on this thread and whatever comes from it.
pub(crate) fn apply(filters: &Compiled) -> Result<(), FilterError> {
    if filters.0.is_empty() {
        return Ok(());
    }
    for name in NAMES {
        let program = filters.0.get(name).map(Vec::as_slice).unwrap_or_default();
        apply_filter(program).map_err(|source| FilterError::Apply { name, source })?;
    }
    Ok(())
}

fn call(name: &str) -> Value {
    json!({ "syscall": name })
}

fn call_with(name: &str, arguments: &[Value]) -> Value {
    json!({ "syscall": name, "args": arguments })
}

/// The bits `mask` of an argument are `value`.
fn bits(index: u8, mask: u64, value: u64) -> Value {
    json!({ "index": index, "type": "qword", "op": { "masked_eq": mask }, "val": value })
}

/// An argument that is an `int`: its upper half is nobody's.
fn int(index: u8, op: &str, value: u64) -> Value {
    json!({ "index": index, "type": "dword", "op": op, "val": value })
}

fn hostile(legacy: bool) -> Vec<Value> {
    let names = HOSTILE.calls(legacy).map(call);
    let namespaces = NAMESPACES
        .iter()
        .map(|flag| call_with("clone", &[bits(0, *flag, *flag)]));
    names.chain(namespaces).collect()
}

fn families(network: Network) -> Vec<Value> {
    let none_of: Vec<_> = network
        .families()
        .iter()
        .map(|family| int(0, "ne", *family))
        .collect();
    let mut rules = vec![call_with("socket", &none_of)];
    if network == Network::Screen {
        // What listens on TCP ports needs no datagrams, and those would leave the device unseen.
        for family in [INET, INET6] {
            for kind in (1..=SOCKET_TYPE).filter(|kind| *kind != SOCK_STREAM) {
                let other = bits(1, SOCKET_TYPE, kind);
                rules.push(call_with("socket", &[int(0, "eq", family), other]));
            }
        }
    }
    rules
}

fn allowed(calls: Calls, legacy: bool) -> Vec<Value> {
    let namespaces: u64 = NAMESPACES.iter().sum();
    let clone = if calls.has_processes() {
        bits(0, namespaces, 0)
    } else {
        bits(0, namespaces | THREAD, THREAD)
    };
    let names = calls.allowed(legacy).into_iter().map(call);
    let clone = std::iter::once(call_with("clone", &[clone]));
    names.chain(clone).collect()
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
