//! The ways in: units of the supervisor, the list of keys, a keyboard.

use std::collections::BTreeMap;

use accessmgr::{Accessmgr, Actual, Desired, Do, Hardware, KeysFile, LoginState, UsbInterface};
use agent::{Clock, Failure, Progress, World};
use units::login::{Login, SSH_PORT};

use crate::sim::machine::Machine;

/// Keyboards and mice.
const CLASS_HID: u8 = 3;

/// What is open.
#[derive(Debug)]
pub(crate) struct Doors {
    /// The list of keys, until the power goes.
    keys: KeysFile,
    has_host_key: bool,
    was_configured: bool,
    /// Logins, until the power goes.
    logins: BTreeMap<Login, LoginState>,
    /// Whether USB keyboards type: the kernel lets them until it is told.
    types: bool,
}

impl Default for Doors {
    fn default() -> Self {
        Self {
            keys: KeysFile::Missing,
            has_host_key: false,
            was_configured: false,
            logins: BTreeMap::new(),
            types: true,
        }
    }
}

impl Doors {
    /// What a reboot takes.
    pub(crate) fn reboot(&mut self) {
        self.keys = KeysFile::Missing;
        self.logins.clear();
        self.types = true;
    }

    /// Whether somebody can get in.
    pub(crate) fn is_open(&self) -> bool {
        !self.logins.is_empty() || self.types
    }
}

/// accessmgr's process.
pub(crate) struct Doorkeeper(Machine);

impl Doorkeeper {
    pub(crate) fn open(machine: &Machine, _: &Clock) -> Self {
        Self(machine.clone())
    }
}

impl World<Accessmgr> for Doorkeeper {
    async fn observe(&self, _: &Desired) -> Result<Actual, Failure> {
        Ok(self.0.with(|s| Actual {
            is_disabled: false,
            was_configured: s.doors.was_configured,
            first_keys: None,
            keys: s.doors.keys.clone(),
            has_host_key: s.doors.has_host_key,
            logins: s.doors.logins.clone(),
            port: SSH_PORT,
            peers: Vec::new(),
            hardware: Hardware {
                usb: [("usb1".to_owned(), s.doors.types)].into(),
                interfaces: vec![UsbInterface {
                    name: "1-1:1.0".to_owned(),
                    class: CLASS_HID,
                    is_authorized: s.doors.types,
                    is_assigned: false,
                }],
                ..Hardware::default()
            },
        }))
    }

    async fn apply(&self, action: Do, _: Progress) -> Result<(), Failure> {
        self.0
            .takes(if agent::Action::is_slow(&action) {
                50
            } else {
                1
            })
            .await;
        self.0.with(|s| match action {
            Do::Remember => s.doors.was_configured = true,
            Do::MakeHostKey => s.doors.has_host_key = true,
            Do::WriteKeys(keys) if keys.is_empty() => s.doors.keys = KeysFile::Missing,
            Do::WriteKeys(keys) => s.doors.keys = KeysFile::Keys(keys),
            Do::Start(login) => {
                if s.doors.keys == KeysFile::Missing || !s.doors.has_host_key {
                    s.violate(format!("{login:?} is opened for nobody"));
                }
                s.doors.logins.insert(login, LoginState::Runs);
            }
            Do::Stop(login) => {
                s.doors.logins.remove(&login);
            }
            Do::UsbDefault(_, on) | Do::UsbInterface(_, on) => s.doors.types = on,
            Do::Framebuffer(..) => s.violate(format!("nothing asks for {action:?}")),
        });
        Ok(())
    }
}
