//! Processes of units, and what they listen on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use model::service::ServicePhase;

use crate::{
    Device,
    check::{
        Fact, Facts,
        facts::{Process, Socket},
        processes::{inner_pid, interfaces, memory_limit, memory_limit_file, status},
    },
    process,
};

/// Runs everything else.
const SUPERVISOR: &str = "supervisor";

/// Finds the process of every unit that has one. The supervisor tells pids of its own namespace.
pub(super) fn look(device: &Device, ours: &BTreeMap<String, u32>, facts: &mut Facts) {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let theirs = ours.values().find_map(|pid| namespace(*pid));
    // Their pid to ours.
    let mut seen: BTreeMap<u32, u32> = BTreeMap::new();
    if theirs.is_some() {
        for pid in process::pids() {
            if namespace(pid) == theirs
                && let Ok(text) = fs::read_to_string(format!("/proc/{pid}/status"))
                && let Some(inner) = inner_pid(&text)
            {
                seen.insert(inner, pid);
            }
        }
    }
    for (name, unit) in &device.services.rows {
        let pid = match unit.phase {
            ServicePhase::Starting { pid, .. }
            | ServicePhase::Running { pid, .. }
            | ServicePhase::Stopping { pid, .. } => pid,
            ServicePhase::Waiting { .. } | ServicePhase::Backoff { .. } | ServicePhase::Stopped => {
                continue;
            }
        };
        let found = seen.get(&pid).or_else(|| ours.get(name));
        let fact = match found {
            None if theirs.is_none() => {
                Fact::Skipped("its process can't be found without root".to_owned())
            }
            None => Fact::Failed(format!("there is no process {pid}")),
            Some(pid) => match fs::read_to_string(format!("/proc/{pid}/status")) {
                Ok(text) => match status(&text) {
                    Some(process) => Fact::Known(more(*pid, process)),
                    None => Fact::Skipped("the kernel does not tell".to_owned()),
                },
                Err(error) => Fact::Skipped(format!("/proc/{pid}/status: {error}")),
            },
        };
        facts.processes.insert(name.clone(), fact);
    }
}

/// Adds what the kernel tells in other files.
fn more(pid: u32, process: Process) -> Process {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    let limit = || {
        let file = memory_limit_file(&read("cgroup")?)?;
        fs::read_to_string(Path::new("/sys/fs/cgroup").join(file)).ok()
    };
    Process {
        interfaces: read("net/dev").map(|text| interfaces(&text)),
        memory_limit: limit().map(|text| memory_limit(&text)),
        ..process
    }
}

/// Interfaces and forwarding, from within the device's network namespace.
pub(super) fn look_at_network(facts: &mut Facts) {
    facts.interfaces = match fs::read_to_string("/proc/thread-self/net/dev") {
        Ok(text) => Fact::Known(interfaces(&text)),
        Err(error) => Fact::Skipped(format!("/proc/thread-self/net/dev: {error}")),
    };
    facts.forwarding = match fs::read_to_string("/proc/sys/net/ipv4/ip_forward") {
        Ok(text) => Fact::Known(text.trim() == "1"),
        Err(error) => Fact::Skipped(format!("ip_forward: {error}")),
    };
}

/// The sockets that these processes' network namespaces have now.
fn inodes<'a>(pids: impl Iterator<Item = &'a u32>) -> BTreeSet<u64> {
    pids.flat_map(|pid| listeners::listening(Path::new(&format!("/proc/{pid}/net"))))
        .map(|socket| socket.inode)
        .collect()
}

/// The sockets of every network namespace in which a process of the device is: services without a network have
/// each one of their own, and their local sockets are seen from there only.
pub(super) fn look_at_sockets(ours: &BTreeMap<String, u32>, facts: &mut Facts) {
    let of_units = facts
        .processes
        .iter()
        .filter_map(|(unit, fact)| Some((fact.known()?.pid, unit.clone())));
    // The supervisor is no unit of itself.
    let itself = ours.get_key_value(SUPERVISOR);
    let units: BTreeMap<u32, String> = itself
        .map(|(name, pid)| (*pid, name.clone()))
        .into_iter()
        .chain(of_units)
        .collect();
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for pid in units.keys() {
        let namespace = match fs::read_link(format!("/proc/{pid}/ns/net")) {
            Ok(namespace) => namespace,
            Err(error) => {
                facts.sockets = Fact::Skipped(format!("/proc/{pid}/ns/net: {error}"));
                return;
            }
        };
        if seen.insert(namespace) {
            all.extend(listeners::listening(Path::new(&format!("/proc/{pid}/net"))));
        }
    }
    let wanted: BTreeSet<u64> = all.iter().map(|socket| socket.inode).collect();
    // A socket that several processes have is the unit's own.
    let others = process::pids().into_iter();
    let owners = listeners::owners(&wanted, units.keys().copied().chain(others));
    // One that nobody has any more was closed meanwhile, unless the kernel still has it.
    let still: BTreeSet<u64> = inodes(units.keys());
    all.retain(|socket| owners.contains_key(&socket.inode) || still.contains(&socket.inode));
    let sockets = all.into_iter().map(|socket| {
        let pid = owners.get(&socket.inode).copied();
        Socket {
            unit: pid.and_then(|pid| units.get(&pid).cloned()),
            program: pid.and_then(|pid| {
                let line = process::command_line(pid)?;
                process::program(&line).map(str::to_owned)
            }),
            pid,
            socket,
        }
    });
    facts.sockets = Fact::Known(sockets.collect());
}
