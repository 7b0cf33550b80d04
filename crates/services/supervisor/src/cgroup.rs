//! Control groups: limits, accounting, and the only list of a unit's processes that can't be left.
//!
//! Every unit has a group of its own, `eve/<instance>/<stem>`, in the unified hierarchy (v2) when that
//! has the memory controller, else in the memory and cpu hierarchies (v1). The instance is the
//! device's root directory, so that several devices of a lab don't meet. Where there is none of
//! these, units run without limits and that is said once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use units::{Limits, UnitName};

/// Period of CPU bandwidth control, in microseconds (the kernel's default).
const CPU_PERIOD: u64 = 100_000;

/// A failed access to a control group.
#[derive(Debug, thiserror::Error)]
#[error("control group {path}: {source}", path = path.display())]
pub(crate) struct CgroupError {
    path: PathBuf,
    source: io::Error,
}

/// The hierarchies that this machine has.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Layout {
    /// One hierarchy for all, mounted here.
    Unified(PathBuf),
    /// One per controller: memory, and cpu if there is one.
    Split {
        memory: PathBuf,
        cpu: Option<PathBuf>,
    },
    /// None that limits memory.
    Absent,
}

/// The control groups of one device.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    layout: Layout,
    instance: String,
}

impl Cgroups {
    /// Those of the device below `root`, as this process sees them mounted.
    pub(crate) fn find(root: &Path) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let layout = choose(&mounts, |path| {
            fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default()
        });
        if layout == Layout::Absent {
            tracing::warn!("no control group with a memory controller: units run without limits");
        }
        Self {
            layout,
            instance: instance(root),
        }
    }

    /// Whether a unit has a group.
    pub(crate) fn has(&self, unit: &UnitName) -> bool {
        self.paths(unit).first().is_some_and(|path| path.is_dir())
    }

    /// Makes the group of a unit and sets its limits.
    pub(crate) fn create(&self, unit: &UnitName, limits: Limits) -> Result<(), CgroupError> {
        match &self.layout {
            Layout::Absent => Ok(()),
            Layout::Unified(mount) => {
                let mut path = mount.clone();
                for part in ["eve", &self.instance, &unit.stem()] {
                    delegate(&path)?;
                    path.push(part);
                    make(&path)?;
                }
                let memory = limits.memory_bytes.map_or("max".into(), |n| n.to_string());
                put(&path.join("memory.max"), &memory)?;
                // All processes of the unit go together, never one of them alone.
                put_if_there(&path.join("memory.oom.group"), "1")?;
                put_if_there(&path.join("memory.swap.max"), "0")?;
                let quota = limits.cpu_percent.map_or("max".into(), quota);
                put_if_there(&path.join("cpu.max"), &format!("{quota} {CPU_PERIOD}"))
            }
            Layout::Split { memory, cpu } => {
                let path = self.below(memory, unit);
                make(&path)?;
                let limit = limits.memory_bytes.map_or("-1".into(), |n| n.to_string());
                // With swap accounting the two limits must not cross while they are changed.
                put_if_there(&path.join("memory.memsw.limit_in_bytes"), "-1")?;
                put(&path.join("memory.limit_in_bytes"), &limit)?;
                put_if_there(&path.join("memory.memsw.limit_in_bytes"), &limit)?;
                let Some(cpu) = cpu else { return Ok(()) };
                let path = self.below(cpu, unit);
                make(&path)?;
                let quota = limits.cpu_percent.map_or("-1".into(), quota);
                put_if_there(&path.join("cpu.cfs_quota_us"), &quota)
            }
        }
    }

    /// Moves a process into the group of a unit.
    pub(crate) fn enter(&self, unit: &UnitName, pid: u32) -> Result<(), CgroupError> {
        for path in self.paths(unit) {
            put(&path.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// The units that have a group.
    pub(crate) fn units(&self) -> Vec<UnitName> {
        let Some(mount) = self.mounts().into_iter().next() else {
            return Vec::new();
        };
        let Ok(entries) = fs::read_dir(mount.join("eve").join(&self.instance)) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| UnitName::from_stem(entry.file_name().to_str()?).ok())
            .collect()
    }

    /// The processes of a unit.
    pub(crate) fn processes(&self, unit: &UnitName) -> Vec<u32> {
        let Some(path) = self.paths(unit).into_iter().next() else {
            return Vec::new();
        };
        let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Kills all processes of a unit at once where the kernel can; else the caller kills
    /// [`Cgroups::processes`] until there are none.
    pub(crate) fn kill(&self, unit: &UnitName) -> bool {
        match &self.layout {
            Layout::Unified(mount) => {
                fs::write(self.below(mount, unit).join("cgroup.kill"), "1").is_ok()
            }
            Layout::Split { .. } | Layout::Absent => false,
        }
    }

    /// Memory charged to a unit, in bytes.
    pub(crate) fn memory(&self, unit: &UnitName) -> Option<u64> {
        let (mount, file) = match &self.layout {
            Layout::Unified(mount) => (mount, "memory.current"),
            Layout::Split { memory, .. } => (memory, "memory.usage_in_bytes"),
            Layout::Absent => return None,
        };
        let text = fs::read_to_string(self.below(mount, unit).join(file)).ok()?;
        text.trim().parse().ok()
    }

    /// How many processes of a unit the kernel killed at the memory limit since the group was made.
    pub(crate) fn out_of_memory_kills(&self, unit: &UnitName) -> u64 {
        let (mount, file) = match &self.layout {
            Layout::Unified(mount) => (mount, "memory.events"),
            Layout::Split { memory, .. } => (memory, "memory.oom_control"),
            Layout::Absent => return 0,
        };
        let text = fs::read_to_string(self.below(mount, unit).join(file)).unwrap_or_default();
        text.lines()
            .find_map(|line| line.strip_prefix("oom_kill "))
            .and_then(|count| count.trim().parse().ok())
            .unwrap_or(0)
    }

    /// Removes the group of a unit that has no processes any more.
    pub(crate) fn remove(&self, unit: &UnitName) {
        for path in self.paths(unit) {
            if let Err(error) = remove_patiently(&path) {
                tracing::debug!(path = %path.display(), %error, "control group stays");
            }
        }
    }

    /// Removes the groups of the device and of the product if nothing is left in them.
    pub(crate) fn remove_all(&self) {
        for mount in self.mounts() {
            let product = mount.join("eve");
            // Not empty means: still in use, by units that outlive us or by another device.
            let _ = fs::remove_dir(product.join(&self.instance));
            let _ = fs::remove_dir(product);
        }
    }

    fn mounts(&self) -> Vec<&PathBuf> {
        match &self.layout {
            Layout::Unified(mount) => vec![mount],
            Layout::Split { memory, cpu } => [memory].into_iter().chain(cpu).collect(),
            Layout::Absent => Vec::new(),
        }
    }

    fn paths(&self, unit: &UnitName) -> Vec<PathBuf> {
        let mounts = self.mounts();
        mounts
            .into_iter()
            .map(|mount| self.below(mount, unit))
            .collect()
    }

    fn below(&self, mount: &Path, unit: &UnitName) -> PathBuf {
        mount.join("eve").join(&self.instance).join(unit.stem())
    }
}

/// A directory name for the device below `root`.
fn instance(root: &Path) -> String {
    let root = fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
    if root == Path::new("/") {
        return "device".into();
    }
    // FNV-1a: stable across versions, which the standard hasher does not promise.
    let hash = root
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let name: String = root
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .take(24)
        .collect();
    format!("{name}-{:08x}", hash >> 32)
}

fn quota(percent: u32) -> String {
    (u64::from(percent) * CPU_PERIOD / 100).to_string()
}

/// Chooses from the text of `mountinfo`; `controllers` reads what a unified hierarchy offers.
fn choose(mountinfo: &str, controllers: impl Fn(&Path) -> String) -> Layout {
    let mut memory = None;
    let mut cpu = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let Some(mount) = left.split(' ').nth(4).map(PathBuf::from) else {
            continue;
        };
        let mut right = right.split(' ');
        let (kind, options) = (right.next(), right.nth(1).unwrap_or_default());
        let has = |wanted: &str| options.split(',').any(|option| option == wanted);
        match kind {
            Some("cgroup2")
                if controllers(&mount)
                    .split_whitespace()
                    .any(|name| name == "memory") =>
            {
                return Layout::Unified(mount);
            }
            Some("cgroup") if has("memory") => memory = Some(mount),
            Some("cgroup") if has("cpu") => cpu = Some(mount),
            _ => {}
        }
    }
    memory.map_or(Layout::Absent, |memory| Layout::Split { memory, cpu })
}

/// Lets the children of a group be limited.
fn delegate(path: &Path) -> Result<(), CgroupError> {
    let file = path.join("cgroup.subtree_control");
    put(&file, "+memory")?;
    // Not every kernel has it; units then have no CPU limit.
    let _ = fs::write(&file, "+cpu");
    Ok(())
}

fn failed(path: &Path) -> impl Fn(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError {
        path: path.clone(),
        source,
    }
}

fn make(path: &Path) -> Result<(), CgroupError> {
    fs::create_dir_all(path).map_err(failed(path))
}

fn put(path: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(path, value).map_err(failed(path))
}

fn put_if_there(path: &Path, value: &str) -> Result<(), CgroupError> {
    if path.exists() {
        put(path, value)
    } else {
        Ok(())
    }
}

/// The kernel takes a moment to let go of a group whose last process has just ended.
fn remove_patiently(path: &Path) -> io::Result<()> {
    let mut attempts = 0;
    loop {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && attempts < 20 => {
                attempts += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]
    use super::*;

    const SPLIT: &str = "\
31 30 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:27 / /sys/fs/cgroup/memory rw,relatime shared:5 - cgroup cgroup rw,memory
33 30 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn the_unified_hierarchy_is_used_only_with_the_memory_controller() {
        let split = choose(SPLIT, |_| "pids".into());
        let expected = Layout::Split {
            memory: "/sys/fs/cgroup/memory".into(),
            cpu: Some("/sys/fs/cgroup/cpu".into()),
        };
        assert_eq!(split, expected);
        let unified = choose(SPLIT, |_| "cpu memory pids".into());
        assert_eq!(unified, Layout::Unified("/sys/fs/cgroup/unified".into()));
        assert_eq!(choose("", |_| String::new()), Layout::Absent);
        assert_eq!(
            choose("garbage\n - \n a - b", |_| String::new()),
            Layout::Absent
        );
    }

    #[test]
    fn limits_in_the_unified_hierarchy_are_delegated_step_by_step() {
        let mount = tempfile::tempdir().expect("a directory");
        let unit: UnitName = "zedrouter/dns".parse().expect("a name");
        let cgroups = Cgroups {
            layout: Layout::Unified(mount.path().to_owned()),
            instance: "lab".into(),
        };
        let group = mount.path().join("eve/lab/zedrouter+dns");
        make(&group).expect("a directory");
        // Files that only some kernels have are written only where they are.
        fs::write(group.join("cpu.max"), "").expect("a file");
        let limits = Limits {
            memory_bytes: Some(5 << 20),
            cpu_percent: Some(150),
        };
        cgroups.create(&unit, limits).expect("limits");
        let read = |path: &Path, file: &str| fs::read_to_string(path.join(file)).ok();
        assert_eq!(read(&group, "memory.max").as_deref(), Some("5242880"));
        assert_eq!(read(&group, "cpu.max").as_deref(), Some("150000 100000"));
        assert_eq!(read(&group, "memory.oom.group"), None);
        for above in ["", "eve", "eve/lab"] {
            let control = read(&mount.path().join(above), "cgroup.subtree_control");
            assert!(control.is_some(), "{above:?} lets its children be limited");
        }
        assert_eq!(read(&group, "cgroup.subtree_control"), None);
        cgroups.enter(&unit, 77).expect("moved");
        assert_eq!(cgroups.processes(&unit), [77]);
        fs::write(group.join("memory.events"), "oom 3\noom_kill 2\n").expect("a file");
        assert_eq!(cgroups.out_of_memory_kills(&unit), 2);
        assert_eq!(cgroups.units(), [unit]);
        cgroups
            .create(&"nim".parse().expect("a name"), Limits::default())
            .expect("no limits");
        let group = mount.path().join("eve/lab/nim");
        assert_eq!(read(&group, "memory.max").as_deref(), Some("max"));
    }

    #[test]
    fn devices_with_other_roots_have_other_groups() {
        assert_eq!(instance(Path::new("/")), "device");
        let (a, b) = (instance(Path::new("/x/dev")), instance(Path::new("/y/dev")));
        assert!(a.starts_with("dev-") && b.starts_with("dev-"));
        assert_ne!(a, b);
    }

    #[test]
    fn a_quota_is_a_share_of_the_period() {
        assert_eq!(quota(150), "150000");
    }
}
