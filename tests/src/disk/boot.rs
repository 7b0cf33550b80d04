//! The device's services, as it ships them, start on a disk as a cut left it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bus::Bus;
use model::{
    node::ConfigSource,
    topics::{VOLUME_STATUS, ZEDAGENT_STATUS},
    volume::VolumePhase,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::life::{self, Seen};

/// Programs, a topic that each of them has ready when it is up, and whether that takes a config.
const SERVICES: [(&str, &str, bool); 15] = [
    ("tpmmgr", "TpmSanityStatus", false),
    ("supervisor", "ServiceStatus", false),
    ("nim", "DeviceNetworkStatus", false),
    ("nodeagent", "NodeAgentStatus", false),
    ("zedagent", "ZedAgentStatus", false),
    ("vaultmgr", "VaultStatus", false),
    ("downloader", "DownloaderStatus", false),
    ("verifier", "VerifyImageStatus", false),
    ("volumemgr", "VolumeStatus", true),
    ("zedrouter", "NetworkInstanceStatus", true),
    ("domainmgr", "DomainStatus", true),
    ("zedmanager", "AppInstanceStatus", true),
    ("reporter", "DeliveryJournal", false),
    ("newlogd", "NewlogMetrics", false),
    ("accessmgr", "AccessStatus", false),
];

/// All of it has come up by then, on a machine that has other things to do too.
const LIMIT: Duration = Duration::from_secs(60);

/// What must be true of a device whose disk was cut.
struct Expected<'a> {
    /// The last state that is on the disk for sure.
    kept: &'a Seen,
    /// The first one that may not be.
    next: &'a Seen,
}

impl<'a> Expected<'a> {
    fn at(seen: &'a [Seen], at: u64) -> Self {
        let after = seen.partition_point(|seen| seen.mark <= at);
        let kept = &seen[after.checked_sub(1).expect("a cut after the beginning")];
        let next = seen.get(after).unwrap_or(kept);
        Self { kept, next }
    }

    fn has_config(&self) -> bool {
        self.kept.saved.contains_key("lastconfig")
    }

    /// What is on the disk is not as it was left.
    fn compare(&self, root: &Path, exactly: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        let (rows, saved) = (life::rows(root), life::saved(root));
        for (key, row) in &self.kept.rows {
            let (found, next) = (rows.get(key), self.next.rows.get(key));
            // Between two states it may be one of several.
            let is_right = match next {
                Some(next) if next == row && exactly => found == Some(row),
                Some(_) => found.is_some(),
                None => true,
            };
            if !is_right {
                wrong.push(format!("{key} is {found:?}, not {row} or {next:?}"));
            }
        }
        for (name, digest) in &self.kept.saved {
            let (found, next) = (saved.get(name), self.next.saved.get(name));
            if found != Some(digest) && found != next {
                wrong.push(format!("{name} is {found:?}, not {digest} or {next:?}"));
            }
        }
        for path in self.kept.verified.intersection(&self.next.verified) {
            if !root.join(path).is_file() {
                wrong.push(format!("{} is gone", path.display()));
            }
        }
        wrong
    }

    /// What is still missing for the device to be up.
    fn missing(&self, root: &Path, processes: &mut [Process]) -> Vec<String> {
        let mut missing = Vec::new();
        for process in processes {
            if let Some(status) = process.child.try_wait().unwrap() {
                missing.push(format!("{} ended: {status}", process.name));
            }
        }
        let bus = Bus::open(root, "judge").unwrap();
        let topics = bus.topics().unwrap();
        let has_config = self.has_config();
        for (service, name, takes_config) in SERVICES {
            let ready = topics
                .iter()
                .any(|topic| topic.service == service && topic.name == name && topic.ready);
            if !ready && (has_config || !takes_config) {
                missing.push(format!("{service}/{name} is not ready"));
            }
        }
        for topic in topics.iter().filter(|topic| topic.quarantined > 0) {
            missing.push(format!("{}/{}: rows put away", topic.service, topic.name));
        }
        if has_config {
            let channel = bus.read(&ZEDAGENT_STATUS).unwrap().unwrap_or_default();
            let source = channel.get("zedagent").map(|status| status.config_source);
            if source != Some(ConfigSource::Saved) {
                missing.push(format!("the config is {source:?}: {channel:#?}"));
            }
            let volumes = bus.read(&VOLUME_STATUS).unwrap().unwrap_or_default();
            let created = |key| {
                let mut all = volumes.values();
                all.any(|volume| volume.key == key && volume.phase == VolumePhase::Created)
            };
            for key in &self.kept.volumes {
                if !created(*key) {
                    missing.push(format!("volume {key} is not there: {volumes:#?}"));
                }
            }
        }
        missing
    }
}

/// What is not on the disk below `root` as it was promised, before anything starts.
pub fn judge_disk(root: &Path, seen: &[Seen], at: u64) -> Vec<String> {
    Expected::at(seen, at).compare(root, true)
}

struct Process {
    name: &'static str,
    child: Child,
}

/// A device that boots from a disk as a cut left it.
pub struct Booted<'a> {
    root: PathBuf,
    expected: Expected<'a>,
    wrong: Vec<String>,
    /// Records of parts that were on the disk before the start.
    partials: BTreeSet<String>,
    processes: Vec<Process>,
}

impl<'a> Booted<'a> {
    /// Starts the services on `root`, where the disk is mounted, each in an empty network of its own. The program `device` is
    /// each of them by its name. Cut off after `at` entries of the record.
    pub fn start(device: &Path, root: &Path, seen: &'a [Seen], at: u64) -> Self {
        let expected = Expected::at(seen, at);
        let mut wrong = expected.compare(root, true);
        let partials = life::partials(root);
        for name in &partials {
            let record =
                fs::read(root.join("persist/vault/downloader/downloads").join(name)).unwrap();
            if serde_json::from_slice::<serde_json::Value>(&record).is_err() {
                wrong.push(format!("{name} is no record"));
            }
        }
        for dir in ["run", "bin", "out"] {
            let dir = root.join(dir);
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(dir).unwrap();
        }
        let start = |(name, _, _): (&'static str, _, _)| {
            let program = root.join("bin").join(name);
            std::os::unix::fs::symlink(device, &program).unwrap();
            let out = File::create(root.join("out").join(name)).unwrap();
            let mut command = Command::new("unshare");
            // It becomes the program: the same process.
            command.arg("--net").arg(&program).arg("--root").arg(root);
            if name == "supervisor" {
                // It answers its socket; the services are ours to watch.
                command.args(["--units", "none"]);
            }
            let child = command
                .stdin(Stdio::null())
                .stdout(out.try_clone().unwrap())
                .stderr(out)
                .spawn()
                .unwrap();
            Process { name, child }
        };
        Self {
            root: root.to_owned(),
            expected,
            wrong,
            partials,
            processes: SERVICES.map(start).into(),
        }
    }

    /// Waits until the device is up, lets its services end, and gives everything that is not as it should be.
    pub fn judge(mut self) -> Vec<String> {
        let began = Instant::now();
        let missing = loop {
            let missing = self.expected.missing(&self.root, &mut self.processes);
            if missing.is_empty() || began.elapsed() > LIMIT {
                break missing;
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        let mut wrong = std::mem::take(&mut self.wrong);
        wrong.extend(missing);
        wrong.extend(self.expected.compare(&self.root, false));
        // Where a download goes on, nothing of it is fetched again.
        let Expected { kept, next } = self.expected;
        let left = life::partials(&self.root);
        for name in kept.partials.intersection(&next.partials) {
            if self.partials.contains(name) && !left.contains(name) {
                wrong.push(format!("{name} was thrown away"));
            }
        }
        for (name, ended) in self.stop() {
            if !ended.is_some_and(|status| status.success()) {
                wrong.push(format!("{name} was told to end: {ended:?}"));
            }
        }
        let crash = self.root.join("persist/crash");
        for (name, _, _) in SERVICES {
            let reports = fs::read_dir(crash.join(name)).into_iter().flatten();
            wrong.extend(
                reports.map(|report| format!("a panic: {}", report.unwrap().path().display())),
            );
        }
        let is_up = wrong.is_empty();
        for (name, _, _) in SERVICES {
            let said = fs::read_to_string(self.root.join("out").join(name)).unwrap();
            if !is_up {
                let last = said.lines().rev().take(3);
                wrong.extend(last.map(|line| format!("(last words) {name}: {line}")));
            }
            let bad = |line: &&str| line.contains("panicked") || line.contains(r#""ERROR""#);
            wrong.extend(
                said.lines()
                    .filter(bad)
                    .map(|line| format!("{name}: {line}")),
            );
        }
        wrong
    }

    fn stop(&mut self) -> BTreeMap<&'static str, Option<std::process::ExitStatus>> {
        for process in &self.processes {
            let pid = i32::try_from(process.child.id()).unwrap();
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let began = Instant::now();
        let mut ended = BTreeMap::new();
        for mut process in self.processes.drain(..) {
            let status = loop {
                match process.child.try_wait().unwrap() {
                    Some(status) => break Some(status),
                    None if began.elapsed() > LIMIT => {
                        let _ = process.child.kill();
                        let _ = process.child.wait();
                        break None;
                    }
                    None => std::thread::sleep(Duration::from_millis(10)),
                }
            };
            ended.insert(process.name, status);
        }
        ended
    }
}

impl Drop for Booted<'_> {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}
