//! What the worlds of the services share: the box, and what it is connected to.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use agent::{Clock, Failure};
use bus::MemoryControl;
use jiff::Timestamp;
use model::{
    code::Code,
    id::{AppId, Digest, MacAddr, VolumeKey},
};
use netlink::{Address, Kind, Link, Owner, Route, Rule};
use nft::Table;
use tokio::{sync::Notify, time::sleep};

use zedrouter::{
    Resolver,
    item::{Layer, Setting},
};

use super::{
    chance::Chance,
    evc::Evc,
    truth::Truth,
    wish::MIB,
    worlds::{Doors, Vault},
};

/// Lines that are kept for the report of a failure.
const TRAIL: usize = 400;

/// Shared access to the state of everything outside the services' processes.
#[derive(Clone)]
pub struct Machine {
    state: Arc<Mutex<State>>,
    /// Rung when a service has a reason for a turn that is not on the bus.
    pub(crate) bell: Arc<Notify>,
    /// Kills, as the bus sees them.
    pub(crate) control: MemoryControl,
}

/// Everything outside the services' processes.
pub struct State {
    pub(crate) chance: Chance,
    pub(crate) clock: Clock,
    /// One action in so many takes very long; 0 for none.
    pub(crate) slow_one_in: u32,
    /// One look at the world in so many fails; 0 for none.
    pub(crate) blind_one_in: u32,
    /// The device's key and certificate exist.
    pub(crate) identity: bool,
    pub(crate) checkpoint: Checkpoint,
    /// `/run/zedagent/integrity_token`
    pub(crate) token: Option<Vec<u8>>,
    /// It is not the first boot.
    pub(crate) rebooted: bool,
    /// `/persist`
    pub disk: Disk,
    /// Ports, bridges, taps.
    pub kernel: Kernel,
    /// The supervisor's units of guests.
    pub guests: Guests,
    /// The only datastore.
    pub datastore: Datastore,
    /// The controller.
    pub evc: Evc,
    pub(crate) vault: Vault,
    pub(crate) doors: Doors,
    pub(crate) truth: Truth,
    /// Actions by service and kind.
    pub actions: BTreeMap<(&'static str, String), u64>,
    /// What must never happen and did.
    pub violations: Vec<String>,
    pub(crate) trail: VecDeque<String>,
    pub(crate) stirred: BTreeSet<&'static str>,
    /// The supervisor was asked to end this boot; true: and to stay off.
    pub(crate) ending: Option<bool>,
}

/// `/persist/checkpoint`
#[derive(Debug, Default)]
pub(crate) struct Checkpoint {
    pub(crate) certs: bool,
    pub(crate) last: Option<Vec<u8>>,
    pub(crate) backup: Option<Vec<u8>>,
}

/// The file system of the device.
#[derive(Debug)]
pub struct Disk {
    /// Its size in bytes.
    pub total: u64,
    /// Bytes that something else takes.
    pub filler: u64,
    /// `/persist/vault/downloader/downloads`
    pub downloads: BTreeMap<Digest, Download>,
    /// `/persist/vault/verifier/verified`
    pub verified: BTreeMap<Digest, u64>,
    pub(crate) verifying: BTreeMap<String, (Digest, u64)>,
    /// `/persist/vault/volumemgr/volumes`
    pub volumes: BTreeMap<VolumeKey, VolumeFile>,
    pub(crate) partials: BTreeMap<String, (VolumeKey, u64)>,
    /// `/persist/domainmgr`
    pub(crate) kept: BTreeSet<AppId>,
    names: u64,
}

/// What there is of a download.
#[derive(Debug, Clone, Default)]
pub struct Download {
    /// Bytes of the incomplete file.
    pub partial: Option<u64>,
    /// Bytes of the complete file.
    pub complete: Option<u64>,
    /// Its bytes are not what they should be.
    pub wrong: bool,
}

/// A volume.
#[derive(Debug, Clone)]
pub struct VolumeFile {
    /// Size that the guest sees.
    pub virtual_bytes: u64,
    /// When it was made.
    pub made: Timestamp,
    /// When a guest got it first, as [`Truth`](super::truth::Truth) counts.
    pub(crate) used: Option<u64>,
    /// The image that it was made of.
    pub of: Option<Digest>,
    /// The config stopped wanting it at some time since it was made.
    pub(crate) may_go: bool,
}

/// The only port of the device.
pub(crate) const PORT: &str = "eth0";

/// The kernel's network, and what zedrouter keeps beside it.
#[derive(Debug)]
pub struct Kernel {
    /// Interfaces by name.
    pub links: BTreeMap<String, Link>,
    /// A DHCP server answers on the port.
    pub server: bool,
    pub(crate) addresses: Vec<Address>,
    pub(crate) routes: Vec<Route>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) filters: BTreeMap<Layer, Box<Table>>,
    pub(crate) settings: BTreeSet<Setting>,
    /// `/run/zedrouter-net`
    pub(crate) files: BTreeMap<String, String>,
    /// The supervisor's units of DHCP and DNS servers.
    pub resolvers: BTreeMap<String, Resolver>,
    indices: u32,
}

impl Kernel {
    fn new() -> Self {
        let port = Link {
            index: 2,
            name: PORT.to_owned(),
            kind: Kind::Device,
            owner: Owner::UNKNOWN,
            mac: Some([2, 0, 0, 0, 0, 2]),
            permanent_mac: None,
            mtu: 1500,
            up: false,
            lower_up: true,
            master: None,
            isolated: false,
            filtered: false,
            alias: None,
        };
        Self {
            links: [(PORT.to_owned(), port)].into(),
            server: true,
            addresses: Vec::new(),
            routes: Vec::new(),
            rules: Vec::new(),
            filters: BTreeMap::new(),
            settings: BTreeSet::new(),
            files: BTreeMap::new(),
            resolvers: BTreeMap::new(),
            indices: 10,
        }
    }

    pub(crate) fn next_index(&mut self) -> u32 {
        self.indices += 1;
        self.indices
    }

    /// The port is up and has a carrier.
    pub(crate) fn carrier(&self) -> bool {
        self.links
            .get(PORT)
            .is_some_and(|link| link.up && link.lower_up)
    }

    /// Plugs the port's cable in or out.
    pub fn plug(&mut self, plugged: bool) {
        if let Some(link) = self.links.get_mut(PORT) {
            link.lower_up = plugged;
        }
    }

    /// Packets get out of the device.
    pub fn is_connected(&self) -> bool {
        self.carrier() && self.addresses.iter().any(|address| address.link == PORT)
    }

    /// The bridge that a tap is a port of, when both are up.
    pub(crate) fn tap_bridge(&self, tap: &str) -> Option<String> {
        let link = self.links.get(tap).filter(|link| link.up)?;
        let bridge = link.master.clone()?;
        self.links
            .get(&bridge)
            .is_some_and(|b| b.up)
            .then_some(bridge)
    }

    /// Interfaces that are not the device's own.
    pub fn made(&self) -> impl Iterator<Item = &str> {
        let ours = self.links.values().filter(|l| l.owner == Owner::ZEDROUTER);
        ours.map(|link| link.name.as_str())
    }
}

/// Guests as the supervisor and QEMU know them.
#[derive(Debug, Default)]
pub struct Guests {
    /// QEMU by application, also ended ones.
    pub qemus: BTreeMap<AppId, Qemu>,
    pub(crate) dirs: BTreeMap<AppId, u32>,
    pub(crate) probe: Option<domainmgr::Probe>,
    pub(crate) pids: u32,
    /// The supervisor does not answer.
    pub away: bool,
    /// Starts of every application, since ever.
    pub starts: BTreeMap<AppId, u32>,
    /// Memory of the machine beyond its usual 8 GiB.
    pub more_memory_kib: u64,
}

/// A QEMU.
#[derive(Debug)]
pub struct Qemu {
    pub(crate) unit: domainmgr::Unit,
    pub(crate) state: vmm::qmp::RunState,
    pub(crate) since: Timestamp,
    pub(crate) last_event: Option<&'static str>,
    /// Ignores the power button.
    pub(crate) deaf: bool,
    /// The config stopped wanting it as it is at some time since it was started.
    pub(crate) may_end: bool,
    /// Disks that it has open.
    pub disks: Vec<VolumeKey>,
    /// Taps and hardware addresses of its interfaces.
    pub(crate) vifs: Vec<(String, MacAddr)>,
    pub(crate) cpu_ns: u64,
}

impl Qemu {
    /// It has a process.
    pub fn is_alive(&self) -> bool {
        matches!(self.unit.life, domainmgr::Life::Alive { .. })
    }

    /// Its processors run.
    pub fn runs(&self) -> bool {
        self.is_alive() && self.state == vmm::qmp::RunState::Running
    }

    /// Incarnation that it runs.
    pub fn incarnation(&self) -> u64 {
        self.unit.incarnation
    }

    pub(crate) fn end(&mut self, at: Timestamp, how: &str) {
        if self.is_alive() {
            self.unit.life = domainmgr::Life::Ended {
                at,
                how: how.to_owned(),
            };
        }
    }
}

/// The datastore.
#[derive(Debug, Default)]
pub struct Datastore {
    /// Does not answer.
    pub down: bool,
    /// Answers 404.
    pub refuses: bool,
    /// One transfer in so many breaks off at each chunk; 0 for none.
    pub breaks_one_in: u32,
    /// Delivers wrong bytes.
    pub wrong: bool,
    /// Bytes delivered of each file since the device last had a reason to fetch it from scratch.
    pub served: BTreeMap<Digest, u64>,
}

impl Disk {
    fn new(total: u64) -> Self {
        Self {
            total,
            filler: 0,
            downloads: BTreeMap::new(),
            verified: BTreeMap::new(),
            verifying: BTreeMap::new(),
            volumes: BTreeMap::new(),
            partials: BTreeMap::new(),
            kept: BTreeSet::new(),
            names: 0,
        }
    }

    /// Bytes that can still be written.
    pub fn free(&self) -> u64 {
        let downloads = self.downloads.values();
        let used: u64 = downloads
            .map(|d| d.partial.unwrap_or(0) + d.complete.unwrap_or(0))
            .chain(self.verified.values().copied())
            .chain(self.verifying.values().map(|(_, bytes)| *bytes))
            .chain(self.volumes.values().map(VolumeFile::used))
            .chain(self.partials.values().map(|(_, bytes)| *bytes))
            .sum();
        self.total.saturating_sub(used + self.filler)
    }

    /// A name for a temporary file, never used before.
    pub(crate) fn temporary(&mut self, stem: &str) -> String {
        self.names += 1;
        format!("{stem}.{}.partial", self.names)
    }
}

impl VolumeFile {
    fn used(&self) -> u64 {
        self.virtual_bytes / 2
    }
}

pub(crate) fn volume_path(key: VolumeKey) -> PathBuf {
    PathBuf::from("/persist/vault/volumemgr/volumes").join(format!("{key}.qcow2"))
}

pub(crate) fn download_path(digest: Digest) -> PathBuf {
    PathBuf::from("/persist/vault/downloader/downloads").join(digest.to_string())
}

pub(crate) fn verified_path(digest: Digest) -> PathBuf {
    PathBuf::from("/persist/vault/verifier/verified").join(digest.to_string())
}

impl State {
    /// Notes a line for the report of a failure.
    pub(crate) fn note(&mut self, line: &str) {
        let at = self.clock.now();
        self.trail.push_back(format!("{at:.3} {line}"));
        if self.trail.len() > TRAIL {
            self.trail.pop_front();
        }
    }

    /// Notes what must never happen.
    pub(crate) fn violate(&mut self, what: String) {
        self.note(&format!("!! {what}"));
        self.violations.push(what);
    }

    /// A service has a reason for a turn.
    pub fn stir(&mut self, service: &'static str) {
        self.stirred.insert(service);
    }

    /// The wall clock.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A guest's QEMU is killed.
    pub fn kill_guest(&mut self, app: AppId, now: Timestamp) {
        if let Some(qemu) = self.guests.qemus.get_mut(&app) {
            qemu.end(now, "killed by signal 9");
        }
        self.stir("domainmgr");
    }

    /// A guest does not answer to its power button any more.
    pub fn deafen(&mut self, app: AppId) {
        if let Some(qemu) = self.guests.qemus.get_mut(&app) {
            qemu.deaf = true;
        }
    }

    /// What a reboot takes.
    pub(crate) fn reboot(&mut self) {
        self.token = None;
        self.rebooted = true;
        self.ending = None;
        self.stirred.clear();
        let plugged = self.kernel.links[PORT].lower_up;
        self.kernel = Kernel {
            server: self.kernel.server,
            ..Kernel::new()
        };
        self.kernel.plug(plugged);
        let guests = std::mem::take(&mut self.guests);
        self.guests.pids = guests.pids;
        self.guests.starts = guests.starts;
        self.guests.away = guests.away;
        self.vault.reboot();
        self.doors.reboot();
        self.truth.booted();
    }
}

impl Machine {
    pub(crate) fn new(seed: u64, clock: Clock, control: MemoryControl) -> Self {
        let state = State {
            chance: Chance::new(seed),
            clock,
            slow_one_in: 0,
            blind_one_in: 0,
            identity: false,
            checkpoint: Checkpoint::default(),
            token: None,
            rebooted: false,
            disk: Disk::new(4096 * MIB),
            kernel: Kernel::new(),
            guests: Guests::default(),
            datastore: Datastore::default(),
            evc: Evc::default(),
            vault: Vault::default(),
            doors: Doors::default(),
            truth: Truth::default(),
            actions: BTreeMap::new(),
            violations: Vec::new(),
            trail: VecDeque::new(),
            stirred: BTreeSet::new(),
            ending: None,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            bell: Arc::default(),
            control,
        }
    }

    fn held(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the state, or changes it.
    pub fn with<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        let result = look(&mut self.held());
        if !self.held().stirred.is_empty() {
            self.bell.notify_one();
        }
        result
    }

    /// Takes its time: `typical` milliseconds at most, sometimes much more.
    pub(crate) async fn takes(&self, typical: u64) {
        let pause = self.with(|s| {
            if s.chance.one_in(s.slow_one_in) {
                s.chance.millis(1000..=90_000)
            } else {
                s.chance.millis(1..=typical)
            }
        });
        sleep(pause).await;
    }

    /// A request to the controller. What it did may be done though no answer comes.
    pub(crate) async fn ask<T>(
        &self,
        object: &str,
        handle: impl FnOnce(&mut State) -> Result<T, u16> + Send,
    ) -> Result<T, Refused> {
        self.takes(60).await;
        let answer = self.with(|s| {
            if !s.kernel.is_connected() || !s.evc.answers() {
                return None;
            }
            let answer = match s.evc.refusal() {
                Some(code) => Err(code),
                None => handle(s),
            };
            (!s.chance.one_in(s.evc.loses_one_in)).then_some(answer)
        });
        sleep(Duration::from_millis(1)).await;
        match answer {
            Some(Ok(value)) => Ok(value),
            Some(Err(code)) => Err(Refused::Code(code)),
            None => Err(Refused::NoAnswer(object.to_owned())),
        }
    }
}

/// The controller did not do as asked.
pub(crate) enum Refused {
    NoAnswer(String),
    Code(u16),
}

impl Refused {
    pub(crate) fn failure(&self, object: &str) -> Failure {
        match self {
            Self::NoAnswer(what) => Failure::new(
                Code::ControllerUnreachable,
                object,
                format!("no answer: {what}"),
            )
            .transient(),
            Self::Code(code) => {
                let transient = *code >= 500 || matches!(code, 401 | 403 | 404 | 429);
                Failure::new(Code::ControllerRefused, object, format!("answered {code}"))
                    .transient_if(transient)
            }
        }
    }
}
