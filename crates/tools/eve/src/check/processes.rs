//! `/proc` as text: capabilities, `status`. Pure.

use std::collections::BTreeSet;

use super::facts::Process;

/// The kernel's capabilities, in the order of their bits.
const NAMES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The bit of a capability.
pub(super) fn bit(name: &str) -> Option<u64> {
    NAMES
        .iter()
        .position(|other| *other == name)
        .map(|index| 1 << index)
}

/// The names of a set; bits of a newer kernel by number.
pub(super) fn capability_names(set: u64) -> Vec<String> {
    (0..64)
        .filter(|index| set & (1 << index) != 0)
        .map(|index| match NAMES.get(index) {
            Some(name) => (*name).to_owned(),
            None => format!("CAP_{index}"),
        })
        .collect()
}

/// Reads `/proc/<pid>/status`; `None` when a line that matters is missing.
pub(super) fn status(text: &str) -> Option<Process> {
    let field = |name: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    };
    // Real, effective, saved, file system.
    let second = |name| field(name)?.split_whitespace().nth(1)?.parse().ok();
    let hex = |name| u64::from_str_radix(field(name)?, 16).ok();
    Some(Process {
        pid: field("Pid")?.parse().ok()?,
        uid: second("Uid")?,
        gid: second("Gid")?,
        groups: field("Groups")?
            .split_whitespace()
            .filter_map(|gid| gid.parse().ok())
            .collect(),
        effective: hex("CapEff")?,
        bounding: hex("CapBnd")?,
        no_new_privileges: field("NoNewPrivs")? == "1",
        seccomp: field("Seccomp")?.parse().ok()?,
        filters: field("Seccomp_filters").and_then(|number| number.parse().ok()),
        interfaces: None,
        memory_limit: None,
    })
}

/// Names at the beginning of lines of `/proc/<pid>/net/dev`, before a colon.
pub(super) fn interfaces(text: &str) -> BTreeSet<String> {
    let names = text.lines().filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}

/// The file with the memory limit of a process, below where control groups are mounted, from
/// `/proc/<pid>/cgroup`; of either version.
pub(super) fn memory_limit_file(text: &str) -> Option<String> {
    let groups = || {
        text.lines()
            .filter_map(|line| line.split_once(':')?.1.split_once(':'))
    };
    let memory = groups().find(|(controllers, _)| controllers.split(',').any(|c| c == "memory"));
    if let Some((_, path)) = memory {
        return Some(format!("memory{path}/memory.limit_in_bytes"));
    }
    let (_, path) = groups().find(|(controllers, _)| controllers.is_empty())?;
    Some(format!("{}/memory.max", path.trim_start_matches('/')))
}

/// A memory limit as the kernel writes it: version 2 has a word for none, version 1 a number that no machine has.
pub(super) fn memory_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < 1 << 60)
}

/// The process's id in its own namespace, the innermost.
pub(super) fn inner_pid(status: &str) -> Option<u32> {
    let mut lines = status.lines();
    let pids = lines.find_map(|line| line.strip_prefix("NSpid:"))?;
    pids.split_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_kernels_names_are_those_of_units() {
        for capability in units::Capability::ALL {
            assert!(bit(capability.as_str()).is_some(), "{capability}");
        }
        assert_eq!(
            capability_names(0x1401),
            ["CAP_CHOWN", "CAP_NET_BIND_SERVICE", "CAP_NET_ADMIN"]
        );
        assert_eq!(capability_names(1 << 63), ["CAP_63"]);
    }

    #[test]
    fn a_status_is_read() {
        let text = "Name:\tnim\nPid:\t26966\nNSpid:\t26966\t5\nUid:\t47109\t47109\t47109\t47109\nGid:\t47100\t47100\t47100\t47100\nGroups:\t1 2 \nCapEff:\t0000000000003400\nCapBnd:\t0000000000003400\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        let process = status(text).unwrap();
        assert_eq!(
            (process.uid, process.gid, process.groups.as_slice()),
            (47_109, 47_100, &[1, 2][..])
        );
        assert_eq!(
            (
                process.effective,
                process.no_new_privileges,
                process.seccomp
            ),
            (0x3400, true, 2)
        );
        assert_eq!(inner_pid(text), Some(5));
        assert_eq!(status("Name:\tx\n"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in any::<String>()) {
            let _ = status(&text);
        }
    }
}
