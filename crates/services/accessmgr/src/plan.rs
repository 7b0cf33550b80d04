//! What is to be open, and what is done for that. Pure; the rules are in the crate's documentation.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use agent::{Plan, Turn};
use model::{
    access::{
        AccessPhase, AccessReason, AccessStatus, AuthorizedKey, KeyInForce, Session, Way,
        parse_keys,
    },
    code::Code,
    fault::Fault,
    node::ConfigSource,
};
use units::login::{Login, Terminal};

use crate::{
    Accessmgr, Actual, Desired, Do, HOST_KEY, KEYS, KeysFile, LoginState, Peer, Published,
    UsbInterface, fingerprint, framebuffer_subject, login_subject, usb_subject,
};

/// How often it is looked who is connected while somebody can be.
const LOOK_AT_SESSIONS: Duration = Duration::from_secs(5);
/// How often it is looked whether sshd, which was started just now, listens.
const LOOK_SOON: Duration = Duration::from_millis(500);
/// How often it is looked for USB devices that were plugged in. They have no driver before.
const LOOK_AT_USB: Duration = Duration::from_secs(10);
/// Keyboards and mice.
const CLASS_HID: u8 = 3;
/// Disks and sticks.
const CLASS_STORAGE: u8 = 8;

/// See the crate's documentation for the rules.
pub fn plan(turn: &Turn<'_, Accessmgr>) -> Plan<Accessmgr> {
    let mut next = Next {
        turn,
        actions: Vec::new(),
        wake: None,
    };
    if next.is_configured() && !turn.actual.was_configured {
        next.actions.push(Do::Remember);
    }
    let rows = vec![
        next.ssh(),
        next.shells(Way::Console),
        next.usb(),
        next.shells(Way::Vga),
    ];
    let mut plan = Plan::report(Published(rows));
    plan.actions = next.actions;
    plan.wake = next.wake;
    plan
}

/// A plan in the making.
struct Next<'a> {
    turn: &'a Turn<'a, Accessmgr>,
    actions: Vec<Do>,
    wake: Option<Duration>,
}

/// Who is to get in over the network.
struct Wanted {
    /// None: it is not known yet, and stays as it is.
    keys: Option<Vec<AuthorizedKey>>,
    reason: AccessReason,
    fault: Option<Fault>,
}

impl Wanted {
    fn nobody(reason: AccessReason) -> Self {
        Self {
            keys: Some(Vec::new()),
            reason,
            fault: None,
        }
    }
}

impl<'a> Next<'a> {
    fn actual(&self) -> &'a Actual {
        self.turn.actual
    }

    fn desired(&self) -> &'a Desired {
        self.turn.desired
    }

    fn own(&self, way: Way) -> Option<&'a AccessStatus> {
        self.desired().own.get(way.key())
    }

    fn wake_in(&mut self, delay: Duration) {
        self.wake = Some(self.wake.map_or(delay, |wake| wake.min(delay)));
    }

    fn fault(&self, way: Way, code: Code, text: impl Into<String>) -> Fault {
        let old = self.own(way).and_then(|row| row.fault.as_ref());
        Fault::new(code, way.key(), text, self.turn.now).continuing(old)
    }

    fn row(&self, way: Way, phase: AccessPhase, reason: AccessReason) -> AccessStatus {
        let old = self.own(way).filter(|row| row.phase == phase);
        AccessStatus {
            way,
            phase,
            reason,
            since: old.map_or(self.turn.now, |row| row.since),
            places: Vec::new(),
            keys: Vec::new(),
            sessions: Vec::new(),
            fault: None,
        }
    }

    fn is_configured(&self) -> bool {
        match self.desired().source {
            Some(ConfigSource::Saved | ConfigSource::Controller | ConfigSource::Bootstrap) => true,
            Some(ConfigSource::None) | None => false,
        }
    }

    /// Whether a flag is set; none while that is not known.
    fn flag(&self, way: Way) -> Option<bool> {
        let items = self.desired().items.as_ref()?;
        Some(items.flag(way.property()))
    }

    fn wanted(&self) -> Wanted {
        let text = self
            .desired()
            .items
            .as_ref()
            .map(|items| items.text(Way::Ssh.property()));
        if self.actual().is_disabled {
            let asked = text.is_some_and(|text| !text.is_empty());
            let says = "the config authorizes keys, and CONFIG forbids logins over the network";
            return Wanted {
                fault: asked.then(|| self.fault(Way::Ssh, Code::AccessDisabled, says)),
                ..Wanted::nobody(AccessReason::Disabled)
            };
        }
        let Some(text) = text else {
            return Wanted {
                keys: None,
                ..Wanted::nobody(AccessReason::Nothing)
            };
        };
        let (text, reason) = match &self.actual().first_keys {
            _ if !text.is_empty() => (text, AccessReason::Property),
            Some(first) if !self.is_configured() && !self.actual().was_configured => {
                (first.as_str(), AccessReason::FirstBoot)
            }
            Some(_) | None => return Wanted::nobody(AccessReason::Nothing),
        };
        match parse_keys(text) {
            Ok(keys) if keys.is_empty() => Wanted::nobody(AccessReason::Nothing),
            Ok(keys) => Wanted {
                keys: Some(keys),
                reason,
                fault: None,
            },
            Err(error) => {
                let from = match reason {
                    AccessReason::FirstBoot => "/config/authorized_keys",
                    AccessReason::Property | AccessReason::Nothing | AccessReason::Disabled => {
                        Way::Ssh.property()
                    }
                };
                let fault = self.fault(Way::Ssh, Code::AccessKeys, format!("{from}: {error}"));
                Wanted {
                    fault: Some(fault),
                    ..Wanted::nobody(AccessReason::Nothing)
                }
            }
        }
    }

    fn ssh(&mut self) -> AccessStatus {
        let login = Login::Ssh(self.actual().port);
        let state = self.actual().logins.get(&login);
        let Wanted {
            keys,
            reason,
            fault,
        } = self.wanted();
        let Some(keys) = keys else {
            return self.unknown(&login, state);
        };
        let phase = if keys.is_empty() {
            self.close_ssh(&login, state)
        } else {
            self.open_ssh(&login, state, &keys)
        };
        let fault = fault
            .or_else(|| self.failed([KEYS, HOST_KEY, &login_subject(&login)]))
            .or_else(|| self.ended(Way::Ssh, state));
        let mut row = AccessStatus {
            fault,
            ..self.row(Way::Ssh, phase, reason)
        };
        if !keys.is_empty() {
            row.keys = keys.iter().map(in_force).collect();
            row.places = vec![format!("tcp port {}", self.actual().port)];
        }
        row.sessions = self.sessions();
        if state.is_some() {
            self.wake_in(LOOK_AT_SESSIONS);
        }
        row
    }

    /// What is open stays so, and is said as it was.
    fn unknown(&self, login: &Login, state: Option<&LoginState>) -> AccessStatus {
        let phase = match state {
            Some(LoginState::Runs) => AccessPhase::Open,
            Some(LoginState::Changes | LoginState::Fails(_)) => AccessPhase::Opening,
            Some(LoginState::Ended) | None => AccessPhase::Closed,
        };
        let old = self.own(Way::Ssh).filter(|row| row.phase == phase);
        let fresh = self.row(Way::Ssh, phase, AccessReason::Nothing);
        let mut row = old.cloned().unwrap_or(fresh);
        row.fault = self.failed([login_subject(login).as_str()]);
        row
    }

    /// The first of these subjects that failed.
    fn failed<'s>(&self, subjects: impl IntoIterator<Item = &'s str>) -> Option<Fault> {
        let mut subjects = subjects.into_iter();
        subjects.find_map(|subject| self.turn.jobs.fault(subject).cloned())
    }

    /// What is wrong with a login that ends by itself.
    fn ended(&self, way: Way, state: Option<&LoginState>) -> Option<Fault> {
        let Some(LoginState::Fails(why)) = state else {
            return None;
        };
        let fault = self.fault(way, Code::AccessLogin, format!("it ended: {why}"));
        Some(fault.transient(true))
    }

    fn close_ssh(&mut self, login: &Login, state: Option<&LoginState>) -> AccessPhase {
        if self.actual().keys != KeysFile::Missing {
            self.actions.push(Do::WriteKeys(Vec::new()));
        }
        match state {
            Some(_) => {
                self.actions.push(Do::Stop(login.clone()));
                AccessPhase::Closing
            }
            None => AccessPhase::Closed,
        }
    }

    fn open_ssh(
        &mut self,
        login: &Login,
        state: Option<&LoginState>,
        keys: &[AuthorizedKey],
    ) -> AccessPhase {
        let is_written = self.actual().keys == KeysFile::Keys(keys.to_vec());
        let write = Do::WriteKeys(keys.to_vec());
        match state {
            // Who may get in now is not who may: none of them stays, by whatever key he came.
            Some(_) if !self.all_may(keys) => {
                self.actions.push(Do::Stop(login.clone()));
                AccessPhase::Opening
            }
            Some(LoginState::Ended) => {
                self.actions.push(Do::Stop(login.clone()));
                AccessPhase::Opening
            }
            Some(state) => {
                if !is_written {
                    self.actions.push(write);
                }
                if *state == LoginState::Runs {
                    AccessPhase::Open
                } else {
                    // Nobody tells when it listens.
                    self.wake_in(LOOK_SOON);
                    AccessPhase::Opening
                }
            }
            None => {
                if !self.actual().has_host_key {
                    self.actions.push(Do::MakeHostKey);
                }
                if !is_written {
                    self.actions.push(write);
                }
                self.actions.push(Do::Start(login.clone()));
                AccessPhase::Opening
            }
        }
    }

    /// Whether everybody in the list that is written may get in.
    fn all_may(&self, keys: &[AuthorizedKey]) -> bool {
        match &self.actual().keys {
            KeysFile::Keys(written) => {
                let wanted: BTreeSet<&[u8]> = keys.iter().map(AuthorizedKey::blob).collect();
                written.iter().all(|key| wanted.contains(key.blob()))
            }
            KeysFile::Missing | KeysFile::Strange => false,
        }
    }

    fn sessions(&self) -> Vec<Session> {
        let old: BTreeMap<&str, &Session> = self
            .own(Way::Ssh)
            .into_iter()
            .flat_map(|row| &row.sessions)
            .map(|session| (session.from.as_str(), session))
            .collect();
        let session = |peer: &Peer| Session {
            from: peer.from.clone(),
            key: peer.key.clone(),
            since: old
                .get(peer.from.as_str())
                .map_or(self.turn.now, |session| session.since),
        };
        self.actual().peers.iter().map(session).collect()
    }

    /// Shells on the terminals of a way.
    fn shells(&mut self, way: Way) -> AccessStatus {
        let is_vga = way == Way::Vga;
        let hardware = &self.actual().hardware;
        let terminals = if is_vga {
            &hardware.screens
        } else {
            &hardware.serial
        };
        let wanted = self.flag(way);
        let login = |terminal: &Terminal| Login::Shell(terminal.clone());
        let logins: Vec<(&Login, &LoginState)> = self
            .actual()
            .logins
            .iter()
            .filter(|(login, _)| {
                matches!(login, Login::Shell(terminal) if terminal.is_virtual() == is_vga)
            })
            .collect();
        let mut phase = AccessPhase::Closed;
        let mut fault = None;
        match wanted {
            Some(true) => {
                for terminal in terminals {
                    let login = login(terminal);
                    let state = self.actual().logins.get(&login);
                    match state {
                        None => self.actions.push(Do::Start(login.clone())),
                        Some(LoginState::Ended) => self.actions.push(Do::Stop(login.clone())),
                        Some(_) => {}
                    }
                    let failed = self.failed([login_subject(&login).as_str()]);
                    fault = fault.or(failed).or_else(|| self.ended(way, state));
                }
                let runs = |terminal: &Terminal| {
                    self.actual().logins.get(&login(terminal)) == Some(&LoginState::Runs)
                };
                if !terminals.is_empty() {
                    phase = if terminals.iter().all(runs) {
                        AccessPhase::Open
                    } else {
                        AccessPhase::Opening
                    };
                }
            }
            Some(false) => {
                for (login, _) in &logins {
                    self.actions.push(Do::Stop((*login).clone()));
                    fault = fault.or(self.failed([login_subject(login).as_str()]));
                }
                if !logins.is_empty() {
                    phase = AccessPhase::Closing;
                }
            }
            None if logins.is_empty() => {}
            None => phase = AccessPhase::Open,
        }
        if let (true, Some(on)) = (is_vga, wanted) {
            fault = fault.or(self.framebuffers(on));
        }
        let reason = if wanted == Some(true) {
            AccessReason::Property
        } else {
            AccessReason::Nothing
        };
        let shown = logins.iter().filter_map(|(login, _)| match login {
            Login::Shell(terminal) => Some(terminal.as_str().to_owned()),
            Login::Ssh(_) => None,
        });
        AccessStatus {
            places: shown.collect(),
            fault,
            ..self.row(way, phase, reason)
        }
    }

    fn framebuffers(&mut self, on: bool) -> Option<Fault> {
        let mut fault = None;
        for (name, bound) in &self.actual().hardware.framebuffers {
            if *bound != on {
                self.actions.push(Do::Framebuffer(name.clone(), on));
                fault = fault.or(self.failed([framebuffer_subject(name).as_str()]));
            }
        }
        fault
    }

    /// Keyboards and disks have a driver or none; everything else always has. Shut before anybody has spoken, but not
    /// again by a restart of this service.
    fn usb(&mut self) -> AccessStatus {
        let hardware = &self.actual().hardware;
        let known = self.flag(Way::Usb);
        let was_open = self
            .own(Way::Usb)
            .is_some_and(|row| row.phase == AccessPhase::Open);
        let on = known.unwrap_or(was_open);
        let mut fault = None;
        let mut is_done = true;
        for (name, allows) in &hardware.usb {
            if *allows != on {
                self.actions.push(Do::UsbDefault(name.clone(), on));
                fault = fault.or(self.failed([usb_subject(name).as_str()]));
                is_done = false;
            }
        }
        let guarded = |interface: &UsbInterface| {
            matches!(interface.class, CLASS_HID | CLASS_STORAGE) && !interface.is_assigned
        };
        for interface in &hardware.interfaces {
            let may = on || !guarded(interface);
            // A guest's is not touched, whatever it is.
            if interface.is_authorized != may && !interface.is_assigned {
                let action = Do::UsbInterface(interface.name.clone(), may);
                self.actions.push(action);
                fault = fault.or(self.failed([usb_subject(&interface.name).as_str()]));
                is_done = false;
            }
        }
        if !hardware.usb.is_empty() {
            self.wake_in(LOOK_AT_USB);
        }
        let phase = match (on, is_done) {
            (true, true) => AccessPhase::Open,
            (true, false) => AccessPhase::Opening,
            (false, true) => AccessPhase::Closed,
            (false, false) => AccessPhase::Closing,
        };
        let reason = if on {
            AccessReason::Property
        } else {
            AccessReason::Nothing
        };
        let kept_out = hardware.interfaces.iter().filter(|i| !on && guarded(i));
        let shown = kept_out.map(|interface| {
            let what = if interface.class == CLASS_HID {
                "keyboard or mouse"
            } else {
                "disk"
            };
            format!("{} ({what})", interface.name)
        });
        AccessStatus {
            places: shown.collect(),
            fault,
            ..self.row(Way::Usb, phase, reason)
        }
    }
}

fn in_force(key: &AuthorizedKey) -> KeyInForce {
    KeyInForce {
        fingerprint: fingerprint(key.blob()),
        kind: key.kind().to_owned(),
        comment: key.comment().to_owned(),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
