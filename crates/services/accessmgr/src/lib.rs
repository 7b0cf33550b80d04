//! accessmgr is the doorkeeper: it opens a way for a person into the device while the config says so, and keeps all
//! others shut.
//!
//! | | topics |
//! |---|---|
//! | reads | when known: `zedagent/ConfigItemValueMap` (`debug.enable.*`), `zedagent/ZedAgentStatus` (whether there ever was a config) |
//! | writes | `AccessStatus`, one row for each way |
//! | owns | the units `accessmgr/*` (sshd, shells on terminals), the list of keys, the device's own key for logins, the kernel's switches of USB interfaces and screens |
//!
//! | way | property | closed (the default) | open |
//! |---|---|---|---|
//! | ssh | `debug.enable.ssh` | nothing listens, nobody is connected | sshd, for the keys in the property |
//! | console | `debug.enable.console` | nothing reads the serial console | a shell on it |
//! | usb | `debug.enable.usb` | keyboards and disks get no driver; modems and network cards do | all do |
//! | vga | `debug.enable.vga` | nothing reads the screen's keyboard, the screen shows nothing | a shell on it |
//!
//! **`/config/remote_access_disabled` wins over the property, for ever**: it is looked at in every turn, and the supervisor
//! looks again before it starts sshd. A CONFIG that can't be read forbids, too.
//!
//! **For as long as the property stands.** A key that is added gets in at once. One that is taken away ends sshd *and
//! every session below it*, then the list is written, then sshd starts again for the keys that are left: what a running
//! sshd was told is never less than what is written, so there is nothing to remember. Nobody tells by which key another's
//! session was opened, so all end.
//!
//! **Unknown is not empty.** Before zedagent has spoken nothing is opened, and what is open stays so: a restart of this
//! service throws nobody out. USB is shut in the first turn of a boot, without waiting for anybody.
//!
//! **Before the first config** the keys in `/config/authorized_keys` get in, so that who installs a device can look why it
//! does not come up. The first config ends that for good.
//!
//! **What a login is** stands in `units::login`, and the supervisor starts nothing else for this service: it decides when,
//! not what. Why it is a service of its own: `docs/decisions/110-no-way-in.md`.
//!
//! Look at [`plan`] for the rules, at [`world`] for how.
#![forbid(unsafe_code)]

mod hostkey;
pub mod plan;
mod sshlog;
pub mod world;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use agent::{Action, Backoff, Outbox, Plan, Report, Service, Tables, Turn};
use bus::Rows;
use model::{
    access::{AccessStatus, AuthorizedKey},
    config_item::ConfigItemValueMap,
    node::ConfigSource,
    topics::{ACCESS_STATUS, CONFIG_ITEMS, ZEDAGENT_STATUS},
};
use units::login::{Login, Terminal};

pub use sshlog::{accepted, fingerprint};

/// The whole program.
pub fn main() -> std::process::ExitCode {
    agent::run::<Accessmgr, _, _, _>(|boot| async move { world::Machine::open(&boot) })
}

/// The service.
#[derive(Debug)]
pub struct Accessmgr;

/// What is wanted.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// The properties; none while zedagent has not spoken.
    pub items: Option<ConfigItemValueMap>,
    /// Where the config came from; none while zedagent has not spoken.
    pub source: Option<ConfigSource>,
    /// What was published last.
    pub own: Arc<Rows<AccessStatus>>,
}

/// How a login is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginState {
    /// Somebody can use it.
    Runs,
    /// It is being started (sshd until it listens), or was told to end.
    Changes,
    /// It ended by itself, and is started again.
    Fails(String),
    /// It has ended; only its record is left.
    Ended,
}

/// The list of keys, as it is on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeysFile {
    /// Nobody gets in.
    Missing,
    /// These do.
    Keys(Vec<AuthorizedKey>),
    /// It is not as this service writes it.
    Strange,
}

/// An interface of a USB device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsbInterface {
    /// The kernel's name, `1-1.2:1.0`.
    pub name: String,
    /// Its class: 3 for keyboards and mice, 8 for disks.
    pub class: u8,
    /// Whether it may have a driver.
    pub is_authorized: bool,
    /// Whether a program has it, as a guest's QEMU.
    pub is_assigned: bool,
}

/// What the machine has beside the network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hardware {
    /// Terminals with a cable.
    pub serial: Vec<Terminal>,
    /// Terminals on the screen.
    pub screens: Vec<Terminal>,
    /// USB host controllers, and whether they let new interfaces have drivers.
    pub usb: BTreeMap<String, bool>,
    /// Interfaces of USB devices.
    pub interfaces: Vec<UsbInterface>,
    /// Consoles that draw on the screen, and whether they do.
    pub framebuffers: BTreeMap<String, bool>,
}

/// Somebody who is connected to the port of sshd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Address and port.
    pub from: String,
    /// Fingerprint of the key that was accepted, if one was.
    pub key: Option<String>,
}

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actual {
    /// CONFIG forbids logins over the network.
    pub is_disabled: bool,
    /// There was a config before.
    pub was_configured: bool,
    /// What `/config/authorized_keys` says, if there is no config to be asked instead.
    pub first_keys: Option<String>,
    /// The list of keys.
    pub keys: KeysFile,
    /// The device has its own key.
    pub has_host_key: bool,
    /// Logins that the supervisor knows.
    pub logins: BTreeMap<Login, LoginState>,
    /// The port of logins over the network.
    pub port: u16,
    /// Who is connected.
    pub peers: Vec<Peer>,
    /// The rest of the machine.
    pub hardware: Hardware,
}

/// What can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Do {
    /// Remember that there was a config.
    Remember,
    /// Make the device's own key for logins.
    MakeHostKey,
    /// Write the list of keys; empty removes it.
    WriteKeys(Vec<AuthorizedKey>),
    /// Open a login.
    Start(Login),
    /// End a login with all that runs below it.
    Stop(Login),
    /// Say whether a host controller lets new interfaces have drivers.
    UsbDefault(String, bool),
    /// Say whether an interface may have a driver.
    UsbInterface(String, bool),
    /// Say whether a console draws on the screen.
    Framebuffer(String, bool),
}

/// Subject of the list of keys.
pub const KEYS: &str = "authorized keys";
/// Subject of the device's own key.
pub const HOST_KEY: &str = "host key";

/// Subject of a login.
pub fn login_subject(login: &Login) -> String {
    match login {
        Login::Ssh(_) => "login ssh".to_owned(),
        Login::Shell(terminal) => format!("login {}", terminal.as_str()),
    }
}

/// Subject of a USB host controller or interface.
pub fn usb_subject(name: &str) -> String {
    format!("usb {name}")
}

/// Subject of a console.
pub fn framebuffer_subject(name: &str) -> String {
    format!("console {name}")
}

impl Action for Do {
    fn subject(&self) -> String {
        match self {
            Self::Remember => "memory of the first config".to_owned(),
            Self::MakeHostKey => HOST_KEY.to_owned(),
            Self::WriteKeys(_) => KEYS.to_owned(),
            Self::Start(login) | Self::Stop(login) => login_subject(login),
            Self::UsbDefault(name, _) | Self::UsbInterface(name, _) => usb_subject(name),
            Self::Framebuffer(name, _) => framebuffer_subject(name),
        }
    }

    fn needs(&self) -> Vec<String> {
        match self {
            Self::Start(Login::Ssh(_)) => vec![KEYS.to_owned(), HOST_KEY.to_owned()],
            _ => Vec::new(),
        }
    }

    fn is_slow(&self) -> bool {
        matches!(self, Self::Start(_) | Self::Stop(_))
    }

    fn backoff(&self) -> Backoff {
        Backoff {
            max: Duration::from_secs(30),
            permanent: Some(Duration::from_secs(60)),
            ..Backoff::default()
        }
    }
}

/// What is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published(pub Vec<AccessStatus>);

impl Report for Published {
    fn put(self, out: &mut Outbox) {
        let rows = self.0.into_iter();
        let rows: Rows<AccessStatus> = rows.map(|row| (row.way.key().to_owned(), row)).collect();
        out.put(&ACCESS_STATUS, Some(rows));
    }
}

impl Service for Accessmgr {
    const NAME: &'static str = "accessmgr";
    type Desired = Desired;
    type Actual = Actual;
    type Action = Do;
    type Report = Published;

    fn read(tables: &mut Tables) -> Option<Desired> {
        let items = tables.peek(&CONFIG_ITEMS);
        let status = tables.peek(&ZEDAGENT_STATUS);
        Some(Desired {
            items: items.map(|rows| rows.get("global").cloned().unwrap_or_default()),
            source: status.and_then(|rows| rows.get("zedagent").map(|row| row.config_source)),
            own: tables.own(&ACCESS_STATUS),
        })
    }

    fn plan(turn: &Turn<'_, Self>) -> Plan<Self> {
        plan::plan(turn)
    }
}
