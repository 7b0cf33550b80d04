//! What is next, and what is said. Pure; the picture is in the crate's documentation.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use agent::{Plan, Turn};
use bus::Rows;
use fscrypt::KeyId;
use model::{
    code::Code,
    fault::Fault,
    vault::{ExpectedPcrs, UnlockMethod, VaultPhase, VaultStatus},
};
use tpm::{Keeper, MOST_EXPECTED, Pcr, PcrValues, SealedSlot, TroubleKind};

use crate::{
    Actual, Answer, COPY, Desired, Do, KEY, LOAD, Origin, Published, Root, SEAL, Sealed, Vaultmgr,
    root_subject, selection,
};

/// How often one that is starting is asked.
const ASK_SOON: Duration = Duration::from_millis(300);
/// How often a TPM in trouble is asked how it is.
const ASK_AGAIN: Duration = Duration::from_secs(15);
/// How often one that is well is.
const ASK_EVER: Duration = Duration::from_secs(3600);

/// See the crate's documentation for the rules.
pub fn plan(turn: &Turn<'_, Vaultmgr>) -> Plan<Vaultmgr> {
    let mut next = Next::new(turn);
    next.decide();
    next.finish()
}

/// A plan in the making.
struct Next<'a> {
    turn: &'a Turn<'a, Vaultmgr>,
    actions: Vec<Do>,
    phase: VaultPhase,
    key: Option<KeyId>,
    sealed: bool,
    mismatching: Vec<Pcr>,
    fault: Option<Fault>,
    wake: Option<Duration>,
}

/// What the directories have in common.
enum Policies {
    /// None is encrypted; those that are not there or empty can become it.
    None,
    /// All that are encrypted are so by this key.
    One(KeyId),
    /// They are encrypted by several keys, or in a way that is not ours; this is one of them.
    Strange(&'static str),
}

impl<'a> Next<'a> {
    fn new(turn: &'a Turn<'a, Vaultmgr>) -> Self {
        Self {
            turn,
            actions: Vec::new(),
            phase: VaultPhase::Locked,
            key: None,
            sealed: false,
            mismatching: Vec::new(),
            fault: None,
            wake: None,
        }
    }

    fn actual(&self) -> &'a Actual {
        self.turn.actual
    }

    fn desired(&self) -> &'a Desired {
        self.turn.desired
    }

    fn decide(&mut self) {
        let missing = self.roots(Root::Missing);
        if !missing.is_empty() {
            self.actions.extend(missing.into_iter().map(Do::MakeRoot));
            return;
        }
        match self.policies() {
            Policies::Strange(root) => {
                let text = format!("/{root} is encrypted in a way that is not this vault's");
                self.say(Code::VaultForeign, text);
            }
            Policies::None => self.unencrypted(),
            Policies::One(key) => self.encrypted(key),
        }
    }

    /// What tpmmgr said, asked for when it is not known or not of late. None while the TPM can't serve, which is said.
    fn tpm(&mut self) -> Option<&'a Answer> {
        let Some((at, answer)) = &self.actual().answer else {
            self.actions.push(Do::Ask);
            self.fault = self.turn.jobs.fault("tpmmgr").cloned();
            return None;
        };
        let pause = match &answer.trouble {
            None => ASK_EVER,
            // Every boot begins so, and everything waits for the vault.
            Some(trouble) if trouble.kind == TroubleKind::Starting => ASK_SOON,
            Some(_) => ASK_AGAIN,
        };
        match (*at + pause).checked_sub(self.turn.uptime) {
            Some(left) if !left.is_zero() => self.wake = Some(left),
            _ => self.actions.push(Do::Ask),
        }
        if let Some(trouble) = &answer.trouble {
            if trouble.kind != TroubleKind::Starting {
                self.say(Code::VaultKeeper, trouble.to_string());
            }
            return None;
        }
        Some(answer)
    }

    /// No directory is encrypted.
    fn unencrypted(&mut self) {
        let Some(answer) = self.tpm() else {
            return;
        };
        if answer.keeper == Keeper::Software {
            self.phase = VaultPhase::Disabled;
            return;
        }
        let used = self.roots(Root::Plain);
        if !self.actual().can_encrypt || !used.is_empty() {
            let text = match used.first() {
                None => "the file system of /persist can't encrypt directories".to_owned(),
                Some(root) => {
                    format!("/{root} has files, and only an empty directory can be encrypted")
                }
            };
            self.say(Code::VaultUnencrypted, text);
            self.phase = VaultPhase::Disabled;
            return;
        }
        let Some(held) = self.actual().held else {
            // What an interrupted beginning left in the slot will do, if it comes out.
            let usable = matches!(self.actual().sealed, None | Some(Sealed::Key(_)));
            let get = if answer.slot.is_some() && usable {
                Do::Unseal
            } else {
                Do::MakeKey
            };
            self.get_key(get);
            return;
        };
        self.key = Some(held.id);
        if !self.is_sealed(held.id, answer) {
            self.seal(held.id, answer);
        } else if self.load(held.id) {
            self.encrypt_rest(held.id);
        }
    }

    /// Directories are encrypted by this key.
    fn encrypted(&mut self, key: KeyId) {
        self.key = Some(key);
        if self.actual().loaded.contains(&key) {
            self.open(key);
            return;
        }
        let Some(answer) = self.tpm() else {
            return;
        };
        if answer.keeper == Keeper::Software {
            let text =
                "it is encrypted by a key in a TPM, and the device was installed without one";
            self.say(Code::VaultKeeper, text.to_owned());
            return;
        }
        match self.actual().held {
            Some(held) if held.id == key => {
                self.load(key);
            }
            Some(_) => self.actions.push(Do::Forget),
            None if self.may_unseal(key, answer) => self.get_key(Do::Unseal),
            None => self.locked(key),
        }
    }

    /// The TPM does not give the key out.
    fn locked(&mut self, key: KeyId) {
        let (code, text) = match &self.actual().sealed {
            Some(Sealed::Mismatch(pcrs)) => {
                self.mismatching.clone_from(pcrs);
                let list: Vec<_> = pcrs.iter().map(ToString::to_string).collect();
                let text = format!(
                    "the software is not the one that key {key} is sealed to: PCR {} differ",
                    list.join(", ")
                );
                (Code::VaultLocked, text)
            }
            Some(Sealed::Key(other)) => {
                let text = format!("it is encrypted by key {key}, and the TPM holds key {other}");
                (Code::VaultKey, text)
            }
            Some(Sealed::Garbage) | None => {
                let text = format!("the TPM does not hold key {key}, by which it is encrypted");
                (Code::VaultLocked, text)
            }
        };
        self.say(code, text);
        let vain = self.turn.jobs.fault(KEY).cloned();
        let allowed = self.desired().allow_clean == key.to_string();
        match &self.desired().escrowed {
            Some(copy) if vain.is_none() || !allowed => {
                let copy = copy.clone();
                self.actions.push(Do::Rescue { key, copy });
                // That the controller's key does not fit says more than that it is needed.
                if let Some(vain) = vain {
                    self.fault = Some(vain);
                }
            }
            _ if allowed => {
                let encrypted = self.roots(Root::Encrypted(key)).into_iter();
                self.actions
                    .extend(encrypted.map(|root| Do::Empty(root, key)));
                self.fault = self.root_fault().or(self.fault.take());
            }
            _ => {}
        }
    }

    /// The kernel has the key: what is left to do for the next boot and for the controller.
    fn open(&mut self, key: KeyId) {
        if !self.roots(Root::Empty).is_empty() {
            self.encrypt_rest(key);
            return;
        }
        self.phase = VaultPhase::Open;
        if let Some(answer) = self.tpm()
            && answer.keeper == Keeper::Tpm
        {
            self.keep(key, answer);
        }
        if let Some(root) = self.roots(Root::Plain).first() {
            let text = format!("/{root} has files, and only an empty directory can be encrypted");
            self.say(Code::VaultUnencrypted, text);
        }
    }

    /// The seal and the controller's copy.
    fn keep(&mut self, key: KeyId, answer: &Answer) {
        self.sealed = self.is_sealed(key, answer);
        let copied = matches!(&self.actual().copy, Some((of, _)) if *of == key);
        let held = self.actual().held;
        if self.sealed && copied {
            if held.is_some() {
                self.actions.push(Do::Forget);
            }
            return;
        }
        match held {
            Some(held) if held.id == key => {
                if !self.sealed {
                    self.seal(key, answer);
                }
                if !copied {
                    self.actions.push(Do::Copy(key));
                    let failed = self.turn.jobs.fault(COPY).cloned();
                    self.fault = self.fault.take().or(failed);
                }
            }
            Some(_) => self.actions.push(Do::Forget),
            None if self.may_unseal(key, answer) => self.get_key(Do::Unseal),
            None => {
                let text = format!(
                    "it is open until the next boot: key {key} is not sealed to the software of now"
                );
                self.say(Code::VaultLocked, text);
                if let Some(copy) = self.desired().escrowed.clone() {
                    self.actions.push(Do::Rescue { key, copy });
                }
            }
        }
    }

    /// Whether it makes sense to ask the TPM for the key.
    fn may_unseal(&self, key: KeyId, answer: &Answer) -> bool {
        answer.slot.is_some()
            && match &self.actual().sealed {
                None => true,
                Some(Sealed::Key(known)) => *known == key,
                Some(Sealed::Mismatch(_) | Sealed::Garbage) => false,
            }
    }

    fn get_key(&mut self, how: Do) {
        self.actions.push(how);
        self.fault = self.turn.jobs.fault(KEY).cloned();
    }

    fn seal(&mut self, key: KeyId, answer: &Answer) {
        self.actions.push(Do::Seal {
            key,
            now: answer.pcrs.clone(),
            expected: self.expected(answer),
        });
        self.fault = self.turn.jobs.fault(SEAL).cloned();
    }

    /// Gives the key to the kernel; true when it has it.
    fn load(&mut self, key: KeyId) -> bool {
        let loaded = self.actual().loaded.contains(&key);
        if !loaded {
            self.actions.push(Do::Load(key));
            self.fault = self.turn.jobs.fault(LOAD).cloned();
        }
        loaded
    }

    /// Whether the slot has this key, for the PCRs of now and all that is expected, and for no more.
    fn is_sealed(&self, key: KeyId, answer: &Answer) -> bool {
        let Some(SealedSlot { pcrs, alternatives }) = &answer.slot else {
            return false;
        };
        let Some((first, others)) = alternatives.split_first() else {
            return false;
        };
        let wanted = self.expected(answer).into_iter();
        let wanted: BTreeSet<PcrValues> = wanted.map(|set| over(&answer.pcrs, &set)).collect();
        self.actual().sealed == Some(Sealed::Key(key))
            && *pcrs == selection()
            && *first == answer.pcrs
            && others.iter().cloned().collect::<BTreeSet<_>>() == wanted
    }

    /// Sets of values besides those of now. While it is not known what is expected, what was stays.
    fn expected(&self, answer: &Answer) -> Vec<PcrValues> {
        let sets: BTreeSet<PcrValues> = match &self.desired().expected {
            Some(rows) => sets(rows).map(|set| over(&answer.pcrs, &set)).collect(),
            None => answer
                .slot
                .iter()
                .flat_map(|slot| slot.alternatives.iter().cloned())
                .collect(),
        };
        sets.into_iter()
            .filter(|set| *set != answer.pcrs)
            .take(MOST_EXPECTED)
            .collect()
    }

    /// Directories that are empty and not encrypted yet.
    fn encrypt_rest(&mut self, key: KeyId) {
        let empty = self.roots(Root::Empty).into_iter();
        self.actions
            .extend(empty.map(|root| Do::Encrypt(root, key)));
        self.fault = self.root_fault();
    }

    /// Why something could not be done to one of the directories.
    fn root_fault(&self) -> Option<Fault> {
        let failed = |root: &&'static str| self.turn.jobs.fault(&root_subject(root));
        model::vault::ROOTS.iter().find_map(failed).cloned()
    }

    fn roots(&self, as_these: Root) -> Vec<&'static str> {
        let roots = self.actual().roots.iter();
        roots
            .filter(|(_, root)| **root == as_these)
            .map(|(path, _)| *path)
            .collect()
    }

    fn policies(&self) -> Policies {
        let mut common = None;
        for (path, root) in &self.actual().roots {
            match root {
                Root::Missing | Root::Empty | Root::Plain => {}
                Root::Encrypted(key) if common.is_none_or(|known| known == *key) => {
                    common = Some(*key);
                }
                Root::Encrypted(_) | Root::Foreign => return Policies::Strange(path),
            }
        }
        common.map_or(Policies::None, Policies::One)
    }

    fn say(&mut self, code: Code, text: String) {
        self.fault = Some(Fault::new(code, "vault", text, self.turn.now));
    }

    fn finish(self) -> Plan<Vaultmgr> {
        let own = self.turn.desired.own.as_ref();
        let key = self.key.map(|key| key.to_string());
        let opened = self.turn.actual.opened_by.map(method);
        // After a restart of this service the vault is open, and by what is known from the row.
        let before = own
            .filter(|own| own.key == key)
            .and_then(|own| own.unlocked_by);
        let unlocked_by = opened.or(before).filter(|_| self.phase == VaultPhase::Open);
        let known = own.and_then(|own| own.fault.as_ref());
        let status = VaultStatus {
            phase: self.phase,
            unlocked_by,
            key,
            sealed: self.sealed,
            mismatching_pcrs: self.mismatching.iter().map(|pcr| pcr.index()).collect(),
            fault: self.fault.map(|fault| fault.continuing(known)),
        };
        let copy = self.turn.actual.copy.as_ref();
        let copy = copy.filter(|(of, _)| self.key == Some(*of));
        let mut plan = Plan::report(Published {
            status,
            copy: copy.map(|(_, copy)| copy.clone()),
        });
        plan.actions = self.actions;
        plan.wake = self.wake;
        plan
    }
}

fn method(origin: Origin) -> UnlockMethod {
    match origin {
        Origin::Made => UnlockMethod::Created,
        Origin::Unsealed(0) => UnlockMethod::Sealed,
        Origin::Unsealed(_) => UnlockMethod::Expected,
        Origin::Controller => UnlockMethod::Controller,
    }
}

/// Values of the PCRs that count, with some replaced.
fn over(now: &PcrValues, set: &PcrValues) -> PcrValues {
    let mut values = now.clone();
    values.extend(set);
    values
}

/// What is expected, as values of the PCRs that count. A row that can't be read is left out: it opens nothing.
fn sets(rows: &Rows<ExpectedPcrs>) -> impl Iterator<Item = PcrValues> {
    rows.values().filter_map(|row| {
        let values = row.values.iter().map(|(index, value)| {
            let pcr = Pcr::new(*index).ok()?;
            let mut digest = [0; 32];
            hex::decode_to_slice(value, &mut digest).ok()?;
            Some((pcr, digest))
        });
        let values: Option<BTreeMap<_, _>> = values.collect();
        let mut values = values?;
        values.retain(|pcr, _| selection().contains(*pcr));
        Some(values)
    })
}
