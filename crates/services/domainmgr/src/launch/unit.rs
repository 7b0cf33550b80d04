//! The supervisor's unit around a guest, and how it is recognised later.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use model::{domain::Accelerator, id::AppId};
use units::{
    Limits, NameError, Output, Paths, Phase, RestartPolicy, Stop, StopSignal, UnitName, UnitSpec,
    UnitState, ids,
};
use vmm::{Host, QEMU, SpecError, VmSpec, qemu_args};

use super::{Places, accel, is_writable, memory_kib};
use crate::{Launch, Life, Unit, plan::digest};

/// All units of this service.
pub const UNITS_PREFIX: &str = "domainmgr/";

const INCARNATION: &str = "incarnation";
const CONFIG: &str = "config";
const MEMORY: &str = "memory-kib";
const STARTED: &str = "started";

/// Between what a busy guest takes and the limit at which the kernel kills it, in KiB: page tables and
/// buffers of large requests.
const RESERVE_KIB: u64 = 128 * 1024;
/// QEMU writes its buffers and ends at SIGTERM; after this it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// What the device has for QEMU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostDevices {
    /// `/dev/vhost-net` works.
    pub vhost_net: bool,
    /// Groups that own the device nodes which not everybody may open, by node.
    pub groups: BTreeMap<PathBuf, u32>,
}

/// Why no unit could be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// The machine breaks a rule.
    #[error(transparent)]
    Machine(#[from] SpecError),
    /// The unit's name.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// The unit's name as text.
pub fn unit_text(app: AppId) -> String {
    format!("{UNITS_PREFIX}{app}")
}

/// The unit's name.
pub fn unit_name(app: AppId) -> Result<UnitName, NameError> {
    unit_text(app).parse()
}

/// The unit that runs `machine`, paused.
pub fn unit_spec(
    launch: &Launch,
    machine: &VmSpec,
    places: &Places,
    devices: &HostDevices,
    now: Timestamp,
) -> Result<UnitSpec, UnitError> {
    let Launch {
        config,
        keys: _,
        uid,
        accelerator,
        retry: _,
    } = launch;
    let vhost_net = devices.vhost_net && !machine.nics.is_empty();
    let host = Host {
        accel: accel(accelerator),
        vhost_net,
    };
    let memory = memory_kib(config, accelerator);
    let mut spec = UnitSpec::new(unit_name(config.app)?, format!("/usr/bin/{QEMU}"), *uid)
        .args(qemu_args(machine, &host)?)
        .label(INCARNATION, config.incarnation.to_string())
        .label(CONFIG, digest(config))
        .label(MEMORY, memory.to_string())
        .label(STARTED, now.to_string());
    let nodes = nodes(accelerator, !machine.nics.is_empty(), vhost_net);
    spec.sandbox.gid = ids::GUESTS_GID;
    spec.sandbox.groups = nodes
        .iter()
        .filter_map(|node| devices.groups.get(node).copied())
        .filter(|gid| *gid != ids::GUESTS_GID)
        .collect();
    spec.sandbox.groups.sort_unstable();
    spec.sandbox.groups.dedup();
    spec.sandbox.paths = Some(paths(launch, machine, places, nodes));
    spec.limits = Limits {
        memory_bytes: Some((memory + RESERVE_KIB) * 1024),
        cpu_percent: None,
    };
    spec.output = Output::Log;
    spec.restart = RestartPolicy::Never;
    spec.stop = Stop {
        signal: StopSignal::Term,
        timeout: STOP_TIMEOUT,
    };
    Ok(spec)
}

/// Device nodes that QEMU opens.
fn nodes(accelerator: &Accelerator, has_cards: bool, vhost_net: bool) -> Vec<PathBuf> {
    let kvm = *accelerator == Accelerator::Kvm;
    [
        ("/dev/kvm", kvm),
        ("/dev/net/tun", has_cards),
        ("/dev/vhost-net", vhost_net),
    ]
    .into_iter()
    .filter(|(_, used)| *used)
    .map(|(node, _)| PathBuf::from(node))
    .collect()
}

fn paths(launch: &Launch, machine: &VmSpec, places: &Places, nodes: Vec<PathBuf>) -> Paths {
    let (written, read): (Vec<_>, Vec<_>) = launch
        .config
        .disks
        .iter()
        .partition(|disk| is_writable(disk));
    let mut write = vec![places.dir.clone(), places.console.clone()];
    write.extend(written.into_iter().map(|disk| disk.path.clone()));
    write.extend(nodes);
    if let vmm::spec::Firmware::Uefi { code: _, vars } = &machine.firmware {
        write.push(vars.clone());
    }
    Paths {
        read: read.into_iter().map(|disk| disk.path.clone()).collect(),
        write,
        execute: Vec::new(),
    }
}

/// The application of a unit; `None` for what is not a guest.
pub fn app_of(name: &UnitName) -> Option<AppId> {
    name.as_str().strip_prefix(UNITS_PREFIX)?.parse().ok()
}

/// What its state and labels say. A unit without readable labels is one of no incarnation that is
/// ever wanted, so it is stopped.
pub fn unit_of(state: &UnitState) -> Unit {
    let number = |label: &str| state.labels.get(label).and_then(|text| text.parse().ok());
    let alive = |process, stopping| Life::Alive { process, stopping };
    let life = match &state.phase {
        Phase::Waiting { .. } | Phase::Backoff { .. } => alive(None, false),
        Phase::Starting { pid, since } | Phase::Running { pid, since } => {
            alive(Some((*pid, *since)), false)
        }
        Phase::Stopping { pid, since } => alive(Some((*pid, *since)), true),
        Phase::Ended { at } => Life::Ended {
            at: *at,
            how: state
                .last_exit
                .as_ref()
                .map_or_else(|| "it never ran".to_owned(), |exit| exit.kind.to_string()),
        },
    };
    Unit {
        life,
        incarnation: number(INCARNATION).unwrap_or(u64::MAX),
        config: state.labels.get(CONFIG).cloned().unwrap_or_default(),
        memory_kib: number(MEMORY).unwrap_or(0),
        uid: state.uid,
    }
}

/// When the unit was asked for.
pub fn started(state: &UnitState) -> Timestamp {
    let label = state.labels.get(STARTED);
    label
        .and_then(|text| text.parse().ok())
        .unwrap_or(Timestamp::MIN)
}

/// The socket that takes commands.
pub fn executor(places: &Places) -> PathBuf {
    places.dir.join("qmp")
}

/// The socket that only tells.
pub fn listener(places: &Places) -> PathBuf {
    places.dir.join("listener.qmp")
}

/// The supervisor's log of a unit: what QEMU prints.
pub fn log(root: &Path, name: &UnitName) -> PathBuf {
    root.join("persist/log")
        .join(format!("{}.log", name.stem()))
}
