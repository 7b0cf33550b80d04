//! What was seen of the world: plain data, so that verdicts can be tested.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use jiff::Timestamp;

use crate::Device;

/// Looks. The command uses [`Live`](super::collect::Live); tests have their own facts.
pub trait World {
    /// Everything that the checks want to know beside the bus.
    fn look(&self, device: &Device) -> Facts;
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact<T> {
    /// Seen.
    Known(T),
    /// It is not there or not usable, and why.
    Failed(String),
    /// It could not be looked at, or there is nothing to look at, and why.
    Skipped(String),
}

impl<T> Default for Fact<T> {
    fn default() -> Self {
        Self::Skipped("not looked at".to_owned())
    }
}

impl<T> Fact<T> {
    /// The value, if it is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Failed(_) | Self::Skipped(_) => None,
        }
    }
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Facts {
    /// Where the device's directories are.
    pub root: PathBuf,
    /// Why live checks have no sense here; none on a live device.
    pub not_live: Option<String>,
    /// CONFIG.
    pub config: ConfigFacts,
    /// `/persist`.
    pub persist: Fact<Space>,
    /// `/run`.
    pub run: Fact<Space>,
    /// How long writing, syncing and removing a small file below `/persist` took.
    pub durable_write: Fact<Duration>,
    /// The last config that was saved.
    pub saved_config: Fact<Saved>,
    /// Files below `/persist/vault/volumemgr/volumes`.
    pub volume_files: Fact<Vec<String>>,
    /// Evidence below `/persist/crash`, newest first.
    pub cases: Fact<Vec<Case>>,
    /// TPM.
    pub tpm: Fact<String>,
    /// Hardware watchdog.
    pub watchdog: Fact<String>,
    /// Memory.
    pub memory: Fact<Memory>,
    /// Processors.
    pub cpus: Fact<u32>,
    /// Version of Landlock's rights that the kernel enforces.
    pub landlock: Fact<u8>,
    /// Programs by name.
    pub programs: BTreeMap<&'static str, Fact<PathBuf>>,
    /// UEFI firmware.
    pub firmware: Fact<PathBuf>,
    /// Interfaces in the device's network namespace.
    pub interfaces: Fact<BTreeSet<String>>,
    /// IPv4 forwarding is on.
    pub forwarding: Fact<bool>,
    /// Answers of DNS servers about the controller.
    pub dns: Vec<DnsFact>,
    /// Ways to the controller.
    pub ways: Vec<WayFact>,
    /// Why none was tried.
    pub no_way: Option<String>,
    /// Datastores by key.
    pub datastores: BTreeMap<String, Fact<String>>,
    /// Processes of units by name.
    pub processes: BTreeMap<String, Fact<Process>>,
    /// Sockets of all kinds that accept what others send, in every network namespace of the device.
    pub sockets: Fact<Vec<Socket>>,
}

/// What CONFIG holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigFacts {
    /// The controller, `host[:port]`.
    pub server: Fact<String>,
    /// The whole of it is readable to those who need it.
    pub partition: Fact<()>,
    /// Root certificates.
    pub root: Fact<Vec<Validity>>,
    /// Further roots for TLS.
    pub tls_roots: Fact<Vec<Validity>>,
    /// Onboarding certificate and key.
    pub onboarding: Fact<Identity>,
    /// Device certificate and key.
    pub device: Fact<Identity>,
    /// Private keys with their modes and groups.
    pub keys: Vec<KeyFile>,
    /// The saved controller certificates, verified now.
    pub chain: Fact<()>,
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From,
    pub not_before: Timestamp,
    /// until.
    pub not_after: Timestamp,
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// When the certificate is valid.
    pub validity: Validity,
    /// Whether the key is its key.
    pub key: Fact<()>,
}

/// A private key in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    /// Its name.
    pub name: &'static str,
    /// Its mode.
    pub mode: u32,
    /// Its group.
    pub gid: u32,
}

/// A file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes.
    pub total: u64,
    /// Bytes that users may take.
    pub available: u64,
    /// Inodes; 0 where there is no limit.
    pub inodes: u64,
    /// Free inodes.
    pub inodes_free: u64,
    /// Mounted read-only.
    pub read_only: bool,
}

/// A saved file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// Its size.
    pub bytes: u64,
    /// When it was written.
    pub at: Timestamp,
}

/// Evidence of a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// The unit.
    pub unit: String,
    /// When.
    pub at: Timestamp,
    /// What happened.
    pub reason: String,
}

/// Memory of the machine, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All.
    pub total: u64,
    /// What can still be given.
    pub available: u64,
}

/// An answer of a DNS server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsFact {
    /// The port that it was asked over.
    pub port: String,
    /// The server.
    pub server: IpAddr,
    /// From where.
    pub source: IpAddr,
    /// The name that was asked for.
    pub name: String,
    /// What it said, and how long that took.
    pub answer: Fact<(Vec<IpAddr>, Duration)>,
}

/// A way to the controller: one source address of one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayFact {
    /// The port.
    pub port: String,
    /// The source address.
    pub source: IpAddr,
    /// The proxy, if one is used.
    pub proxy: Option<String>,
    /// Connecting.
    pub connect: Fact<String>,
    /// TLS.
    pub tls: Fact<String>,
    /// The device's ping.
    pub ping: Fact<String>,
}

/// A process as the kernel sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process {
    /// Its id, as seen from where the check runs.
    pub pid: u32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Effective capabilities, one bit each.
    pub effective: u64,
    /// Capabilities that it could ever get.
    pub bounding: u64,
    /// It can't get new privileges.
    pub no_new_privileges: bool,
    /// 0 none, 1 strict, 2 filter.
    pub seccomp: u32,
    /// How many filters the kernel asks; none where it does not tell.
    pub filters: Option<u32>,
    /// Network interfaces that it sees; none where that can't be looked at.
    pub interfaces: Option<BTreeSet<String>>,
    /// Memory that its control group may have in bytes, none for no limit; none where there is no such group.
    pub memory_limit: Option<Option<u64>>,
}

/// A socket that accepts what others send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// What it speaks, and where it hears.
    pub socket: listeners::Socket,
    /// The unit that it belongs to, if it is one of the device's.
    pub unit: Option<String>,
    /// The process that has it open, if it could be found.
    pub pid: Option<u32>,
    /// Its program.
    pub program: Option<String>,
}
