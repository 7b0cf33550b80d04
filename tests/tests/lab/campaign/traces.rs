//! What a device leaves in the kernel and in its files.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use demo::Stage;
use lab::Side;

/// A line for everything that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Traces(BTreeSet<String>);

/// Files that come and go with time and not with applications.
const PASSING: [&str; 5] = [
    "persist/log/",
    "persist/crash/",
    "persist/newlog/",
    "run/supervisor/dev/",
    "persist/status/reporter/",
];

impl Traces {
    /// What is there now.
    pub(crate) fn of(stage: &Stage) -> Result<Self> {
        let mut lines = BTreeSet::new();
        let supervisor = stage.device().supervisor().context("the device is off")?;
        let device = stage.world().device();
        for (kind, program, arguments) in [
            ("link", "ip", vec!["-brief", "link"]),
            ("rule", "ip", vec!["rule"]),
            ("route", "ip", vec!["route", "show", "table", "all"]),
            ("nft", "nft", vec!["list", "ruleset"]),
        ] {
            let text = device.exec(Command::new(program).args(arguments))?;
            lines.extend(text.lines().map(|line| format!("{kind} {}", steady(line))));
        }
        let mounts = fs::read_to_string(format!("/proc/{}/mounts", supervisor.pid()))?;
        lines.extend(mounts.lines().map(|line| format!("mount {line}")));
        for process in stage.world().site().processes(Side::Device) {
            lines.insert(format!("process {}", process.line));
        }
        lines.extend(groups(stage).iter().map(|group| format!("group {group}")));
        let namespaces = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        lines.extend(
            namespaces
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .filter(|name| name.contains(&stage.world().name()))
                .map(|name| format!("netns {name}")),
        );
        let root = stage.device().root();
        for top in ["run", "persist"] {
            walk(root, &root.join(top), &mut lines);
        }
        Ok(Self(lines))
    }

    /// The same once nothing changes any more.
    pub(crate) fn settled(stage: &Stage) -> Result<Self> {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut last = Self::of(stage)?;
        while Instant::now() < deadline {
            sleep(Duration::from_secs(2));
            let now = Self::of(stage)?;
            if now == last {
                return Ok(now);
            }
            last = now;
        }
        bail!("the device does not come to rest")
    }

    /// What `later` has more (+) and less (-), a line each.
    pub(crate) fn difference(&self, later: &Self) -> String {
        let more = later
            .0
            .difference(&self.0)
            .map(|line| format!("+ {line}\n"));
        let less = self
            .0
            .difference(&later.0)
            .map(|line| format!("- {line}\n"));
        more.chain(less).collect()
    }
}

/// A line without what changes by itself.
fn steady(line: &str) -> String {
    let mut words = Vec::new();
    let mut skip = false;
    for word in line.split_whitespace() {
        if !std::mem::replace(&mut skip, matches!(word, "packets" | "bytes" | "expires")) {
            words.push(word);
        }
    }
    words.join(" ")
}

fn walk(root: &Path, dir: &Path, lines: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let shown = path.strip_prefix(root).unwrap_or(&path).to_string_lossy();
        if PASSING.iter().any(|passing| shown.starts_with(passing)) {
            continue;
        }
        // Where a persistent topic keeps its last good copies, made with the first.
        if entry.file_name() != ".last" {
            lines.insert(format!("file {shown}"));
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(root, &path, lines);
        }
    }
}

/// The control groups of the device, in every hierarchy.
pub(crate) fn groups(stage: &Stage) -> Vec<String> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten();
    let mut places: Vec<_> = hierarchies.map(|entry| entry.path().join("eve")).collect();
    places.push("/sys/fs/cgroup/eve".into());
    let instance = format!(
        "{}-",
        stage.device().root().file_name().unwrap().to_string_lossy()
    );
    let mut found = Vec::new();
    for place in places {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            if !entry.file_name().to_string_lossy().starts_with(&instance) {
                continue;
            }
            let units = fs::read_dir(entry.path()).into_iter().flatten().flatten();
            let units = units.filter(|unit| unit.file_type().is_ok_and(|kind| kind.is_dir()));
            found.extend(units.map(|unit| unit.path().to_string_lossy().into_owned()));
        }
    }
    found.sort();
    found
}

/// The control groups of a unit.
pub(crate) fn groups_of(stage: &Stage, unit: &str) -> Vec<String> {
    let mut groups = groups(stage);
    groups.retain(|group| Path::new(group).ends_with(unit));
    groups
}
