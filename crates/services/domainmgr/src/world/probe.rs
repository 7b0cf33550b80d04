//! What the device is able to: found out once per boot, kept in `/run/hypervisor/probe.json`.

use std::{
    fs, os::unix::fs::MetadataExt, path::Path, thread::available_parallelism, time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{process::Command, time::timeout};
use vmm::{
    Accel, QEMU,
    args::vhost_net_works,
    probe::{Child, Force},
};

use crate::{
    HostFacts, Probe,
    launch::{self, unit::HostDevices},
};

const KEPT: &str = "run/hypervisor/probe.json";
/// QEMU says its version within 50 ms; a loaded machine gets this long.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Found {
    accel: Accel,
    qemu_version: String,
}

impl From<Found> for Probe {
    fn from(found: Found) -> Self {
        Self {
            accelerator: launch::accelerator(&found.accel),
            qemu_version: found.qemu_version,
        }
    }
}

/// What was found out before, if it was.
pub(super) fn load(root: &Path) -> Option<Probe> {
    let text = fs::read(root.join(KEPT)).ok()?;
    let found: Found = serde_json::from_slice(&text).ok()?;
    Some(found.into())
}

/// Finds out and keeps it. Whatever can't be found out counts as absent.
pub(super) async fn probe(root: &Path) -> Probe {
    let machine = Path::new("/");
    let accel = vmm::probe::probe(machine, Force::Auto, &Child::this_program()).await;
    let found = Found {
        accel,
        qemu_version: qemu_version().await.unwrap_or_default(),
    };
    let text = serde_json::to_vec(&found).unwrap_or_default();
    // Without it the next start finds out again.
    if let Err(error) = fs::write(root.join(KEPT), text) {
        tracing::warn!(%error, "the probe's result is not kept");
    }
    let probe = Probe::from(found);
    tracing::info!(accelerator = ?probe.accelerator, qemu = probe.qemu_version, "probed");
    probe
}

async fn qemu_version() -> Option<String> {
    let mut command = Command::new(format!("/usr/bin/{QEMU}"));
    let asked = command.arg("--version").kill_on_drop(true).output();
    let output = timeout(VERSION_LIMIT, asked).await.ok()?.ok()?;
    version_of(&String::from_utf8_lossy(&output.stdout))
}

/// The number in `QEMU emulator version 7.2.22 (Debian ...)`.
fn version_of(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("version ")?;
    rest.split_whitespace().next().map(ToOwned::to_owned)
}

/// Processors and memory.
pub(super) fn host() -> HostFacts {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|line| {
        let kib = line.strip_prefix("MemTotal:")?.split_whitespace().next()?;
        kib.parse().ok()
    });
    HostFacts {
        memory_kib: total.unwrap_or(0),
        cpus: available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)),
    }
}

/// Device nodes that QEMU opens, and the groups that it needs for those which not everybody may.
pub(super) fn devices() -> HostDevices {
    let groups = ["/dev/kvm", "/dev/net/tun", "/dev/vhost-net"]
        .into_iter()
        .filter_map(|node| {
            let is = fs::metadata(node).ok()?;
            let for_all = is.mode() & 0o006 == 0o006;
            (!for_all && is.gid() != 0).then(|| (node.into(), is.gid()))
        });
    HostDevices {
        vhost_net: vhost_net_works(Path::new("/")),
        groups: groups.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_a_number() {
        let text = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright\n";
        assert_eq!(version_of(text).as_deref(), Some("7.2.22"));
        assert_eq!(version_of("nonsense"), None);
        let host = host();
        assert!(host.memory_kib > 0 && host.cpus > 0);
    }
}
