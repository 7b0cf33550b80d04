//! Everything on a device's bus at one moment, untyped: of a live device, of a directory that was copied
//! from one, or of a file that `eve diff --save` wrote.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use bus::{Bus, BusError, TopicInfo, layout};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Error;

/// The name that this command has on the bus. It owns no topic.
pub const IDENTITY: &str = "eve";

/// All topics of a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Snapshot {
    /// When it was taken: ages and times until a retry are seen from here.
    pub at: Timestamp,
    /// Whether the supervisor lives.
    pub supervisor: Supervisor,
    /// Topics by `service/Topic`.
    pub topics: BTreeMap<String, RawTable>,
}

/// Whether the supervisor lives, as far as can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Supervisor {
    /// Its socket accepts connections.
    Answers,
    /// Its socket is there, and nobody listens.
    Silent,
    /// There is no socket: a copy of a device, or services that were started by hand.
    #[default]
    Unknown,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RawTable {
    /// Its state.
    pub info: TopicInfo,
    /// Its objects by key.
    pub rows: BTreeMap<String, Value>,
    /// Files that should be objects and are not JSON, by name.
    #[serde(default)]
    pub unreadable: Vec<String>,
    /// Names of objects that were moved away because they could not be read.
    #[serde(default)]
    pub quarantined: Vec<String>,
    /// When objects were last written, by key, where the file system tells.
    #[serde(default)]
    pub changed: BTreeMap<String, Timestamp>,
    /// When its writer completed it, where the file system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Timestamp>,
}

impl Snapshot {
    /// Reads the bus below `root`. Nothing is created, watched or changed.
    pub fn load(root: &Path, at: Timestamp) -> Result<Self, Error> {
        let dirs = layout::shared_dirs(root);
        if !dirs.iter().any(|dir| dir.is_dir()) {
            return Err(Error::NoDevice {
                root: root.to_owned(),
            });
        }
        refuse_blindness(root)?;
        let bus = Bus::open(root, IDENTITY)?;
        let mut topics = BTreeMap::new();
        for info in bus.topics()? {
            let rows = match bus.read_raw(&info.service, &info.name) {
                Ok(rows) => rows,
                // It went while we were looking.
                Err(BusError::NoTopic { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            let dir = directory(root, &info);
            let mut table = RawTable {
                quarantined: names(&dir.join(".quarantine")),
                unreadable: Vec::new(),
                changed: BTreeMap::new(),
                ready_at: written(&dir.join("ready")),
                rows,
                info,
            };
            look_at_files(&dir, &mut table);
            topics.insert(path(&table.info.service, &table.info.name), table);
        }
        Ok(Self {
            at,
            supervisor: supervisor(root),
            topics,
        })
    }

    /// When the newest object was written: the time to see a copy from.
    pub fn newest(&self) -> Option<Timestamp> {
        let times = self
            .topics
            .values()
            .flat_map(|table| table.changed.values());
        times.max().copied()
    }
}

/// A user who may not read the bus would be told that it is empty.
fn refuse_blindness(root: &Path) -> Result<(), Error> {
    let [run, _] = layout::shared_dirs(root);
    for row in supervisor::table::SERVICES {
        let dir = run.join(row.name);
        if let Err(source) = fs::read_dir(&dir)
            && source.kind() == std::io::ErrorKind::PermissionDenied
        {
            return Err(Error::Io {
                action: "read (be root, or in the group eve)",
                path: dir,
                source,
            });
        }
    }
    Ok(())
}

/// A topic's name with its writer's.
pub fn path(service: &str, topic: &str) -> String {
    format!("{service}/{topic}")
}

/// The directory of a topic's objects.
pub fn directory(root: &Path, info: &TopicInfo) -> PathBuf {
    let [run, persist] = layout::shared_dirs(root);
    let base = if info.persistent { persist } else { run };
    base.join(&info.service).join(&info.name)
}

fn supervisor(root: &Path) -> Supervisor {
    let socket = root.join(units::SOCKET);
    if !socket.exists() {
        return Supervisor::Unknown;
    }
    match UnixStream::connect(socket) {
        Ok(_) => Supervisor::Answers,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Supervisor::Silent,
        // Not for us to open.
        Err(_) => Supervisor::Unknown,
    }
}

/// Names of the objects in a directory, in order; none if it is not there.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| stem(&entry.path())).collect();
    names.sort();
    names
}

/// When a file was written.
fn written(file: &Path) -> Option<Timestamp> {
    let modified = fs::symlink_metadata(file).and_then(|found| found.modified());
    modified.ok().and_then(|at| Timestamp::try_from(at).ok())
}

fn stem(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    Some(name.strip_suffix(".json")?.to_owned())
}

/// Adds what only the files tell: when each was written, and which are no JSON. Names of unusual keys are
/// escaped; those have no time.
fn look_at_files(dir: &Path, table: &mut RawTable) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let file = entry.path();
        let Some(name) = stem(&file) else { continue };
        if table.rows.contains_key(&name) {
            if let Some(at) = written(&file) {
                table.changed.insert(name, at);
            }
        } else if let Ok(bytes) = fs::read(&file)
            && serde_json::from_slice::<Value>(&bytes).is_err()
        {
            table.unreadable.push(name);
        }
    }
    table.unreadable.sort();
}
