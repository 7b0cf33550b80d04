//! domainmgr: guests. It starts, watches and stops one QEMU per application.
//!
//! | | |
//! |---|---|
//! | reads | `zedmanager/DomainConfig`; when known: `zedagent/ConfigItemValueMap` (`vmm.accel`, `timer.boot.retry`, `memory.apps.ignore.check`), `zedagent/CipherContext`, `zedagent/ControllerCert` |
//! | writes | `Capabilities`, `DomainStatus`, `DomainMetric` |
//! | owns | units `domainmgr/<app>` of the supervisor, `/run/hypervisor/kvm/<app>/{qmp,listener.qmp,cons,pid,seed.iso}`, `/persist/log/guests/<app>.console`, `/persist/domainmgr/<app>.uefi-vars` |
//!
//! ```text
//!                 Start                Boot (QMP greets, cont)
//!   no unit ----------------> paused ---------------------------> running --. guest reboots:
//!      ^                                                           |  |  ^   \ nothing happens
//!      | Clear: record and      Press (ACPI), again every 10 s     |  |  '---'
//!      | directory go         .------------------------------------'  | powered off, panicked, killed
//!      |                      v  not wanted, other incarnation        v
//!     ended <------------- halting ------------------------------> over: Failed until timer.boot.retry
//!              End: it powered off, or the deadline passed            or until the config changes
//! ```
//!
//! Rules:
//! - QEMU belongs to the supervisor, so a guest outlives this service. The first turn finds the units by their
//!   name; their labels say which incarnation of which configuration they run.
//! - A guest is stopped when it is not wanted or another incarnation is, and for no other reason. Hardware
//!   changes with the incarnation.
//! - There is never a second QEMU for an application: a start needs the supervisor's word that none lives.
//! - Once halting, it is halted, also if it is wanted again meanwhile: the button has been pressed.
//! - User data that came encrypted is decrypted for the seed of each start, with the help of tpmmgr, in memory that is wiped
//!   after it. Encrypted anew it is the same.
//! - QEMU stays when its guest ends (powers off, panics), so that why is a fact that can be asked; only a QEMU that
//!   was killed has to be explained by its exit status and its last words ([`plan::evidence`]).
//! - Each QEMU runs as a user of its own, without capabilities, in its own directory, within its own memory
//!   limit (`docs/decisions/030-guest-uid.md`).
//!
//! After a restart the units, their directories, QEMU's own status and the service's last rows (which deadline,
//! which fault, until when) are all that it needs.
//!
//! Where to look: [`plan`] decides (one application: `plan/domain.rs`), [`launch`] makes a guest's command line and
//! unit out of its configuration, [`world`] talks to the supervisor and to QEMU.
#![forbid(unsafe_code)]

pub mod launch;
pub mod plan;
pub mod world;

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use agent::{Action, Backoff, Outbox, Plan, Report, Service, Tables, Turn};
use bus::Rows;
use jiff::Timestamp;
use model::{
    config_item::ConfigItemValueMap,
    domain::{Accelerator, Capabilities, DiskIo, DomainConfig, DomainMetric, DomainStatus},
    id::AppId,
    security::{CipherContext, ControllerCert},
    topics::{
        CAPABILITIES, CIPHER_CONTEXT, CONFIG_ITEMS, CONTROLLER_CERT, DOMAIN_CONFIG, DOMAIN_METRIC,
        DOMAIN_STATUS,
    },
};
use vmm::{probe::Force, qmp::RunState};

pub use world::Hypervisor;

/// The whole program.
pub fn main() -> std::process::ExitCode {
    if let Some(code) = vmm::probe::child_main(std::env::args_os().nth(1).as_deref()) {
        return code;
    }
    agent::run::<Domainmgr, _, _, _>(Hypervisor::open)
}

/// The service.
#[derive(Debug)]
pub struct Domainmgr;

/// What is wanted.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// Guests.
    pub domains: Arc<Rows<DomainConfig>>,
    /// The keys that user data is encrypted with,
    pub contexts: Option<Arc<Rows<CipherContext>>>,
    /// and the controller's halves of them.
    pub certs: Option<Arc<Rows<ControllerCert>>>,
    /// Properties.
    pub properties: Properties,
    /// What was published last: deadlines, faults, counts of boots.
    pub own: Own,
}

/// The properties that the plan obeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Properties {
    /// `vmm.accel`
    pub accel: Force,
    /// `timer.boot.retry`
    pub boot_retry: Duration,
    /// `memory.apps.ignore.check`
    pub ignore_memory: bool,
}

impl Properties {
    /// As the properties say. A word that `vmm.accel` doesn't know means `auto`.
    pub fn of(items: &ConfigItemValueMap) -> Self {
        Self {
            accel: match items.text("vmm.accel") {
                "kvm" => Force::Kvm,
                "tcg" => Force::Tcg,
                _ => Force::Auto,
            },
            boot_retry: items.seconds("timer.boot.retry"),
            ignore_memory: items.flag("memory.apps.ignore.check"),
        }
    }
}

impl Default for Properties {
    fn default() -> Self {
        Self::of(&ConfigItemValueMap::default())
    }
}

/// The service's own rows.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// States of guests.
    pub statuses: Arc<Rows<DomainStatus>>,
    /// Their consumption.
    pub metrics: Arc<Rows<DomainMetric>>,
}

/// What is there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Actual {
    /// Everything that carries our mark, by application.
    pub guests: BTreeMap<AppId, Guest>,
    /// The device.
    pub host: HostFacts,
    /// Directory of the consoles' logs.
    pub consoles: PathBuf,
    /// What can run guests' instructions; `None` until it has been found out.
    pub probe: Option<Probe>,
}

/// The device as far as guests depend on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Memory in KiB.
    pub memory_kib: u64,
    /// Processors.
    pub cpus: u32,
}

/// What was found out once since the device booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What runs guests' instructions, unless the configuration says otherwise.
    pub accelerator: Accelerator,
    /// QEMU's version; empty if it could not be asked.
    pub qemu_version: String,
}

/// What there is of one application's guest.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Guest {
    /// The supervisor's unit.
    pub unit: Option<Unit>,
    /// Owner of its directory, if it has one.
    pub uid: Option<u32>,
    /// Something of it lies in `/persist`.
    pub kept: bool,
    /// What QEMU says.
    pub seen: Seen,
    /// The last words of one that ended.
    pub words: Words,
    /// The last measurement.
    pub sample: Option<Sample>,
}

/// The unit of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Whether there is a process.
    pub life: Life,
    /// Incarnation that it runs or ran.
    pub incarnation: u64,
    /// [`plan::digest`] of the configuration that it was made from.
    pub config: String,
    /// Memory of the device that was set aside for it, in KiB.
    pub memory_kib: u64,
    /// The user that it runs as.
    pub uid: u32,
}

/// Whether a unit has a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// It has, or will at once.
    Alive {
        /// Its process and since when; `None` in the moment before it has one.
        process: Option<(u32, Timestamp)>,
        /// The supervisor is ending it.
        stopping: bool,
    },
    /// It has ended.
    Ended {
        /// When.
        at: Timestamp,
        /// How, in words.
        how: String,
    },
}

/// What QEMU said of its guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The guest's state and since when; `None` while QEMU is not connected.
    pub state: Option<(RunState, Timestamp)>,
    /// The last event that explains an end.
    pub last_event: Option<String>,
    /// When the power button was last pressed.
    pub pressed: Option<Timestamp>,
    /// QEMU does not answer: since when, and how that shows.
    pub trouble: Option<(Timestamp, String)>,
}

/// What a guest and its QEMU said last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words {
    /// Last lines of QEMU's messages since it was started.
    pub qemu: Vec<String>,
    /// Last lines of the guest's console since it was started.
    pub console: Vec<String>,
}

/// A measurement of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// When.
    pub at: Timestamp,
    /// Processor time of QEMU in nanoseconds.
    pub cpu_ns: u64,
    /// Memory of QEMU in KiB.
    pub memory_kib: u64,
    /// Counters by the disk's name in QEMU (`disk0`).
    pub disks: BTreeMap<String, DiskIo>,
}

/// What can be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Do {
    /// Find out what can run guests' instructions.
    Probe,
    /// Make everything that QEMU needs and start it, paused.
    Start(Box<Launch>),
    /// Let a guest go whose QEMU is there.
    Boot(AppId, Password),
    /// Press the power button.
    Press(AppId),
    /// End QEMU.
    End(AppId),
    /// Remove what is left of a guest that has ended: record, directory, and what lies in
    /// `/persist` if the application is gone for good.
    Clear {
        /// Whose.
        app: AppId,
        /// For good.
        for_good: bool,
    },
    /// Measure a guest.
    Measure(AppId),
}

/// Everything that a start depends on.
#[derive(Clone, PartialEq)]
pub struct Launch {
    /// The guest.
    pub config: DomainConfig,
    /// What its user data is decrypted with, if that is encrypted.
    pub keys: Option<cipher::Keys>,
    /// The user that QEMU will run as.
    pub uid: u32,
    /// What runs its instructions.
    pub accelerator: Accelerator,
    /// Pause before a start that failed for good is tried again.
    pub retry: Duration,
}

impl fmt::Debug for Launch {
    /// Without user data and password: actions are logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launch")
            .field("app", &self.config.app)
            .field("incarnation", &self.config.incarnation)
            .field("uid", &self.uid)
            .finish_non_exhaustive()
    }
}

/// A password that no log shows; empty for none.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "***" })
    }
}

impl Action for Do {
    fn subject(&self) -> String {
        match self {
            Self::Probe => "accelerator".to_owned(),
            Self::Start(launch) => subject(launch.config.app),
            Self::Boot(app, _) | Self::Press(app) | Self::End(app) | Self::Clear { app, .. } => {
                subject(*app)
            }
            Self::Measure(app) => format!("metric {app}"),
        }
    }

    fn is_slow(&self) -> bool {
        match self {
            // All of them wait for another process.
            Self::Probe
            | Self::Start(_)
            | Self::Boot(..)
            | Self::Press(_)
            | Self::End(_)
            | Self::Clear { .. }
            | Self::Measure(_) => true,
        }
    }

    fn backoff(&self) -> Backoff {
        match self {
            Self::Start(launch) => Backoff {
                first: Duration::from_secs(2),
                max: launch.retry,
                permanent: Some(launch.retry),
            },
            Self::Boot(..) | Self::Press(_) | Self::End(_) => Backoff {
                first: Duration::from_secs(1),
                max: Duration::from_secs(10),
                permanent: Some(Duration::from_secs(10)),
            },
            Self::Probe | Self::Clear { .. } | Self::Measure(_) => Backoff::default(),
        }
    }
}

/// The subject of everything that concerns a guest.
pub fn subject(app: AppId) -> String {
    format!("domain {app}")
}

/// What is published.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Published {
    /// What the device can run; unknown until it was probed.
    pub capabilities: Option<Rows<Capabilities>>,
    /// States of guests.
    pub statuses: Rows<DomainStatus>,
    /// Their consumption.
    pub metrics: Rows<DomainMetric>,
}

impl Report for Published {
    fn put(self, out: &mut Outbox) {
        let Self {
            capabilities,
            statuses,
            metrics,
        } = self;
        out.put(&CAPABILITIES, capabilities);
        out.put(&DOMAIN_STATUS, Some(statuses));
        out.put(&DOMAIN_METRIC, Some(metrics));
    }
}

impl Service for Domainmgr {
    const NAME: &'static str = "domainmgr";
    type Desired = Desired;
    type Actual = Actual;
    type Action = Do;
    type Report = Published;

    fn read(tables: &mut Tables) -> Option<Desired> {
        let items = tables
            .peek(&CONFIG_ITEMS)
            .and_then(|rows| rows.get("global").cloned())
            .unwrap_or_default();
        Some(Desired {
            domains: tables.get(&DOMAIN_CONFIG)?,
            contexts: tables.peek(&CIPHER_CONTEXT),
            certs: tables.peek(&CONTROLLER_CERT),
            properties: Properties::of(&items),
            own: Own {
                statuses: tables.own(&DOMAIN_STATUS),
                metrics: tables.own(&DOMAIN_METRIC),
            },
        })
    }

    fn plan(turn: &Turn<'_, Self>) -> Plan<Self> {
        plan::plan(turn)
    }
}
