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
        processes::{inner_pid, interfaces, memory_limit, memory_limit_file, sockets, status},
    },
    process,
};

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

/// Interfaces, forwarding and sockets, from within the device's network namespace.
pub(super) fn look_at_network(facts: &mut Facts) {
    facts.interfaces = match fs::read_to_string("/proc/thread-self/net/dev") {
        Ok(text) => Fact::Known(interfaces(&text)),
        Err(error) => Fact::Skipped(format!("/proc/thread-self/net/dev: {error}")),
    };
    facts.forwarding = match fs::read_to_string("/proc/sys/net/ipv4/ip_forward") {
        Ok(text) => Fact::Known(text.trim() == "1"),
        Err(error) => Fact::Skipped(format!("ip_forward: {error}")),
    };
    let units: BTreeMap<u32, String> = facts
        .processes
        .iter()
        .filter_map(|(unit, fact)| Some((fact.known()?.pid, unit.clone())))
        .collect();
    facts.sockets = listening(&units);
}

const FILES: [(&str, bool); 4] = [
    ("tcp", true),
    ("tcp6", true),
    ("udp", false),
    ("udp6", false),
];

fn listening(units: &BTreeMap<u32, String>) -> Fact<Vec<Socket>> {
    let mut found = Vec::new();
    for (protocol, tcp) in FILES {
        let Ok(text) = fs::read_to_string(format!("/proc/thread-self/net/{protocol}")) else {
            // Without IPv6 there is no such file.
            continue;
        };
        for (local, inode) in sockets(&text, tcp) {
            found.push((protocol, local, inode));
        }
    }
    let wanted: BTreeSet<u64> = found.iter().map(|(_, _, inode)| *inode).collect();
    let owners = owners(&wanted, units);
    let sockets = found.into_iter().map(|(protocol, local, inode)| {
        let owner = owners.get(&inode);
        Socket {
            protocol,
            local,
            unit: owner.and_then(|pid| units.get(pid).cloned()),
            program: owner.and_then(|pid| {
                let line = process::command_line(*pid)?;
                process::program(&line).map(str::to_owned)
            }),
        }
    });
    Fact::Known(sockets.collect())
}

/// Who has these sockets open; of several processes one of the units.
fn owners(wanted: &BTreeSet<u64>, units: &BTreeMap<u32, String>) -> BTreeMap<u64, u32> {
    let mut owners = BTreeMap::new();
    if wanted.is_empty() {
        return owners;
    }
    for pid in process::pids() {
        let fds = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        for inode in fds.filter_map(|fd| inode(&fd.path())) {
            if wanted.contains(&inode) && (units.contains_key(&pid) || !owners.contains_key(&inode))
            {
                owners.insert(inode, pid);
            }
        }
    }
    owners
}

fn inode(fd: &Path) -> Option<u64> {
    let target = fs::read_link(fd).ok()?;
    target
        .to_str()?
        .strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}
