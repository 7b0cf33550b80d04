//! Processes of a device, wherever it runs: on this machine, or in namespaces of its own below another root.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// A process with the service's name that works below the same root.
pub(crate) fn by_hand(root: &Path, service: &str) -> Option<u32> {
    below(root).remove(service)
}

/// Every process that was started with this root, by the name of its program.
pub(crate) fn below(root: &Path) -> BTreeMap<String, u32> {
    let Ok(root) = fs::canonicalize(root) else {
        return BTreeMap::new();
    };
    let found = pids().into_iter().filter_map(|pid| {
        let line = command_line(pid)?;
        let name = program(&line)?.to_owned();
        // Programs that have nothing to do with a device have no such root either, but for `/`.
        let is_ours = supervisor::table::SERVICES
            .iter()
            .any(|row| row.name == name)
            || name == "supervisor";
        (is_ours && root_of(pid, &line)? == root).then_some((name, pid))
    });
    found.collect()
}

/// The process of a device whose namespaces are the device's own.
pub(crate) fn anchor(ours: &BTreeMap<String, u32>) -> Option<u32> {
    // Those that talk to the network first: others may have less of it.
    let mut known = ["nim", "zedagent", "supervisor"].iter();
    let first = known.find_map(|name| ours.get(*name));
    first.or_else(|| ours.values().next()).copied()
}

/// Every process that this one may see.
pub(crate) fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// A process's arguments; `None` for one of the kernel or that is gone.
pub(crate) fn command_line(pid: u32) -> Option<Vec<String>> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let line: Vec<String> = bytes
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    (!line.first()?.is_empty()).then_some(line)
}

/// The name of the program of a command line.
pub(crate) fn program(line: &[String]) -> Option<&str> {
    Path::new(line.first()?).file_name()?.to_str()
}

fn root_of(pid: u32, line: &[String]) -> Option<PathBuf> {
    let value = line.iter().enumerate().find_map(|(index, word)| {
        word.strip_prefix("--root=")
            .or_else(|| (word == "--root").then(|| line.get(index + 1).map(String::as_str))?)
    });
    // A relative path is meant from where the process was started.
    let base = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    fs::canonicalize(base.join(value.unwrap_or("/"))).ok()
}
