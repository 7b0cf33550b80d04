//! A device below a temporary root with the real supervisor.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use bus::Bus;
use model::service::{ServicePhase, ServiceStatus};
use model::topics::SERVICE_STATUS;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use units::{Paths, RestartPolicy, UnitName, UnitSpec, ids};

/// Sends a heartbeat every 100 ms and ends at SIGTERM.
pub(crate) const BEATING: &str = r#"use Socket; $| = 1;
sub note { socket(my $s, AF_UNIX, SOCK_DGRAM, 0); send($s, $_[0], 0, sockaddr_un($ENV{NOTIFY_SOCKET})); }
$SIG{TERM} = sub { exit 0 };
note("READY=1\nSTATUS=beating");
while (1) { print "beat\n"; note("WATCHDOG=1"); select(undef, undef, undef, 0.1); }"#;

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Device {
    dir: TempDir,
    supervisor: Option<Child>,
    arguments: Vec<OsString>,
}

pub(crate) fn name(text: &str) -> UnitName {
    text.parse().unwrap()
}

pub(crate) fn uid(service: &str) -> u32 {
    ids::service_uid(service).unwrap()
}

/// A unit that runs a shell script as the user of its owner.
pub(crate) fn shell(text: &str, script: &str) -> UnitSpec {
    let name = name(text);
    let uid = uid(name.owner());
    UnitSpec::new(name, "/bin/sh", uid).args(["-c", script])
}

/// One with rules, as services have to ask for it.
pub(crate) fn ruled(text: &str, script: &str) -> UnitSpec {
    let mut spec = shell(text, script);
    spec.sandbox.paths = Some(Paths::default());
    spec
}

/// A service that beats.
pub(crate) fn beating(text: &str) -> UnitSpec {
    let name = name(text);
    let uid = uid(name.owner());
    let mut spec = UnitSpec::new(name, "/usr/bin/perl", uid).args(["-e", BEATING]);
    spec.heartbeat = Some(Duration::from_secs(2));
    spec.restart = RestartPolicy::Always;
    spec
}

/// A service that runs a script.
pub(crate) fn service(text: &str, script: &str) -> UnitSpec {
    let mut spec = ruled(text, script);
    spec.restart = RestartPolicy::Always;
    spec
}

impl Device {
    /// A device with these services, started.
    pub(crate) fn start(services: &[UnitSpec]) -> Self {
        let services: Vec<_> = services.iter().map(|spec| (spec.clone(), vec![])).collect();
        Self::start_in_order(&services)
    }

    /// The same, with what each comes after.
    pub(crate) fn start_in_order(services: &[(UnitSpec, Vec<&str>)]) -> Self {
        let dir = directory();
        let units: Vec<_> = services
            .iter()
            .map(|(spec, after)| json!({"Spec": spec, "After": after}))
            .collect();
        let policy = json!({
            "backoff_first": {"secs": 0, "nanos": 200_000_000},
            "backoff_max": {"secs": 2, "nanos": 0},
            "abort_grace": {"secs": 0, "nanos": 500_000_000},
        });
        let table = dir.path().join("table.json");
        fs::write(
            &table,
            json!({"Units": units, "Policy": policy}).to_string(),
        )
        .unwrap();
        Self::boot_with(dir, vec!["--table".into(), table.into()])
    }

    /// A device on which `probe` runs as these services, each under its row of the table.
    pub(crate) fn start_probes(
        services: &[&str],
        probe: &Path,
        prepare: impl FnOnce(&Path),
    ) -> Self {
        let dir = directory();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        for service in services {
            fs::copy(probe, bin.join(service)).unwrap();
        }
        let root = dir.path().join("root");
        for made in ["config", "etc/probe"] {
            fs::create_dir_all(root.join(made)).unwrap();
        }
        prepare(&root);
        let units = services.join(",");
        let arguments = [
            "--units".into(),
            units.into(),
            "--bin-dir".into(),
            bin.into(),
        ];
        Self::boot_with(dir, arguments.into())
    }

    fn boot_with(dir: TempDir, arguments: Vec<OsString>) -> Self {
        let mut device = Self {
            dir,
            supervisor: None,
            arguments,
        };
        device.boot();
        device
    }

    /// Starts the supervisor (again) and waits until it answers.
    pub(crate) fn boot(&mut self) {
        let log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.dir.path().join("supervisor.log"))
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_supervisor"))
            .args(["--root".as_ref(), self.root().as_os_str()])
            .args(&self.arguments)
            .args(["--log", "debug"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.supervisor = Some(child);
        let socket = self.root().join(units::SOCKET);
        until("the supervisor answers", || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn supervisor_pid(&self) -> u32 {
        self.supervisor.as_ref().unwrap().id()
    }

    /// Kills the supervisor as a bug would.
    pub(crate) fn kill_supervisor(&mut self) {
        let mut child = self.supervisor.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Tells the supervisor to end and waits for it.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        signal(self.supervisor_pid(), Signal::SIGTERM);
        self.ended()
    }

    /// Waits until the supervisor has ended by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut child = self.supervisor.take().unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                panic!("the supervisor does not end");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.supervisor
            .as_mut()
            .unwrap()
            .try_wait()
            .unwrap()
            .is_none()
    }

    pub(crate) fn statuses(&self) -> BTreeMap<String, ServiceStatus> {
        let bus = Bus::open(&self.root(), "test").unwrap();
        bus.read(&SERVICE_STATUS).unwrap().unwrap_or_default()
    }

    pub(crate) fn status(&self, unit: &str) -> Option<ServiceStatus> {
        self.statuses().remove(unit)
    }

    /// Waits until the unit runs, and gives its pid.
    pub(crate) fn running(&self, unit: &str) -> u32 {
        let mut found = None;
        until(&format!("{unit} runs"), || {
            found = match self.status(unit).map(|status| status.phase) {
                Some(ServicePhase::Running { pid, .. }) => Some(pid),
                _ => None,
            };
            found.is_some()
        });
        found.unwrap()
    }

    pub(crate) fn log(&self, unit: &str) -> String {
        let file = format!("persist/log/{}.log", name(unit).stem());
        fs::read_to_string(self.root().join(file)).unwrap_or_default()
    }

    /// The directories with evidence of a unit.
    pub(crate) fn evidence(&self, unit: &str) -> Vec<PathBuf> {
        let dir = self.root().join("persist/crash").join(name(unit).stem());
        let Ok(entries) = fs::read_dir(dir) else {
            return Vec::new();
        };
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// A directory of the test's own that every unit may write to (if its rules let it).
    pub(crate) fn scratch(&self) -> PathBuf {
        let dir = self.dir.path().join("scratch");
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        dir
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mut groups = Vec::new();
        for line in mounts.lines() {
            let fields: Vec<_> = line.split(' ').collect();
            if !fields[2].starts_with("cgroup") {
                continue;
            }
            let instance = Path::new(fields[1]).join("eve").join(self.instance());
            if instance.is_dir() {
                groups.append(&mut subdirectories(&instance));
                groups.push(instance);
            }
        }
        groups
    }

    /// The name of the device's control group: see `cgroup.rs`, told here independently.
    pub(crate) fn instance(&self) -> String {
        let root = fs::canonicalize(self.root()).unwrap_or_else(|_| self.root());
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in root.as_os_str().as_encoded_bytes() {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        format!("root-{:08x}", hash >> 32)
    }

    /// All processes in the control group of a unit.
    pub(crate) fn processes(&self, unit: &str) -> Vec<u32> {
        let stem = name(unit).stem();
        let groups = self.cgroups();
        let group = groups.iter().find(|path| path.ends_with(&stem));
        group.map(|path| processes(path)).unwrap_or_default()
    }

    /// Whether any control group of the device is left.
    pub(crate) fn has_cgroups(&self) -> bool {
        !self.cgroups().is_empty()
    }
}

fn directory() -> TempDir {
    let dir = tempfile::Builder::new().prefix("sv").tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn subdirectories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

fn processes(group: &Path) -> Vec<u32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(mut child) = self.supervisor.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Those that the state files name (for machines without control groups), then the groups.
        let records = subfiles(&self.root().join("run/supervisor/units"));
        for record in records {
            let Ok(text) = fs::read(&record) else {
                continue;
            };
            let record: Value = serde_json::from_slice(&text).unwrap_or_default();
            let process = &record["unit"]["life"]["Alive"];
            let pid = process["pid"]
                .as_u64()
                .and_then(|pid| u32::try_from(pid).ok());
            if let Some(pid) = pid
                && start_ticks(pid) == process["ticks"].as_u64()
            {
                signal(pid, Signal::SIGKILL);
            }
        }
        for _ in 0..100 {
            let groups = self.cgroups();
            for pid in groups.iter().flat_map(|group| processes(group)) {
                signal(pid, Signal::SIGKILL);
            }
            for group in &groups {
                let _ = fs::remove_dir(group);
                let _ = fs::remove_dir(group.parent().unwrap());
            }
            if groups.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.path().join("supervisor.log"));
            let log = log.unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let end = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- the end of the supervisor's log\n{}", end.join("\n"));
        }
    }
}

fn subfiles(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')')
        .next()?
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal);
}

/// Whether the process runs (a zombie doesn't).
pub(crate) fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
        !state.starts_with(['Z', 'X'])
    })
}

/// Waits for a condition.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs something async.
pub(crate) fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            tokio::time::timeout(PATIENCE, future)
                .await
                .expect("in time")
        })
}

/// Runs something async in a thread that is another user: what the kernel tells of its connections.
pub(crate) fn block_as<T: Send, F: Future<Output = T>>(
    service: &str,
    make: impl FnOnce() -> F + Send,
) -> T {
    let uid = rustix::process::Uid::from_raw(uid(service));
    let gid = rustix::process::Gid::from_raw(ids::EVE_GID);
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            block(make())
        });
        thread.join().unwrap()
    })
}
