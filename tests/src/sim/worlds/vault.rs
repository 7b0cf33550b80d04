//! The encrypted directories and the TPM that keeps their key.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use agent::{Clock, Failure, Progress, World};
use fscrypt::KeyId;
use model::vault::{EncryptedVaultKey, ROOTS};
use tpm::{Keeper, PcrValues, SealedSlot};
use vaultmgr::{Actual, Answer, Desired, Do, Held, Origin, Root, Sealed, Vaultmgr, selection};

use crate::sim::machine::{Machine, State};

/// What is on the disk, in the TPM, and in the kernel.
#[derive(Debug, Default)]
pub(crate) struct Vault {
    /// Keys that were made.
    made: u8,
    /// Which key each directory is encrypted by.
    encrypted: BTreeMap<&'static str, KeyId>,
    /// The key in the TPM.
    sealed: Option<KeyId>,
    /// The keys that the kernel has, until the power goes.
    loaded: Vec<KeyId>,
}

impl Vault {
    /// What a reboot takes.
    pub(crate) fn reboot(&mut self) {
        self.loaded.clear();
    }

    fn is_open(&self) -> bool {
        ROOTS.iter().all(|root| {
            let key = self.encrypted.get(root);
            key.is_some_and(|key| self.loaded.contains(key))
        })
    }
}

impl State {
    /// Whoever sees a locked directory takes what is in it for leftovers.
    pub(crate) fn looks_into_vault(&mut self, who: &str) {
        if !self.vault.is_open() {
            self.violate(format!("{who} looks into the vault before it is open"));
        }
    }
}

/// vaultmgr's process.
pub(crate) struct Vaults {
    machine: Machine,
    clock: Clock,
    own: Mutex<Own>,
}

#[derive(Default)]
struct Own {
    answer: Option<(std::time::Duration, Answer)>,
    sealed: Option<Sealed>,
    held: Option<Held>,
    opened_by: Option<Origin>,
    copy: Option<(KeyId, EncryptedVaultKey)>,
}

impl Vaults {
    pub(crate) fn open(machine: &Machine, clock: &Clock) -> Self {
        Self {
            machine: machine.clone(),
            clock: clock.clone(),
            own: Mutex::default(),
        }
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World<Vaultmgr> for Vaults {
    async fn observe(&self, _: &Desired) -> Result<Actual, Failure> {
        let own = self.own();
        Ok(self.machine.with(|s| Actual {
            can_encrypt: true,
            roots: ROOTS
                .into_iter()
                .map(|root| {
                    let key = s.vault.encrypted.get(root);
                    (root, key.map_or(Root::Empty, |key| Root::Encrypted(*key)))
                })
                .collect(),
            loaded: s.vault.loaded.clone(),
            answer: own.answer.clone(),
            sealed: own.sealed.clone(),
            held: own.held,
            opened_by: own.opened_by,
            copy: own.copy.clone(),
        }))
    }

    async fn apply(&self, action: Do, _: Progress) -> Result<(), Failure> {
        // A TPM is slow.
        let ms = match &action {
            Do::Ask | Do::Unseal | Do::Copy(_) => 100,
            Do::Seal { .. } => 400,
            Do::MakeRoot(_)
            | Do::MakeKey
            | Do::Rescue { .. }
            | Do::Load(_)
            | Do::Encrypt(..)
            | Do::Forget
            | Do::Empty(..) => 1,
        };
        self.machine.takes(ms).await;
        let (mut own, uptime) = (self.own(), self.clock.uptime());
        self.machine.with(|s| match action {
            Do::Ask => {
                let slot = s.vault.sealed.map(|_| SealedSlot {
                    pcrs: selection(),
                    alternatives: vec![PcrValues::new()],
                });
                let answer = Answer {
                    keeper: Keeper::Tpm,
                    trouble: None,
                    slot,
                    pcrs: PcrValues::new(),
                };
                own.answer = Some((uptime, answer));
            }
            Do::MakeKey => {
                s.vault.made += 1;
                let id = KeyId([s.vault.made; fscrypt::ID_LEN]);
                let origin = Origin::Made;
                own.held = Some(Held { id, origin });
            }
            Do::Unseal => match s.vault.sealed {
                None => own.answer = None,
                Some(id) => {
                    let origin = Origin::Unsealed(0);
                    own.held = Some(Held { id, origin });
                    own.sealed = Some(Sealed::Key(id));
                }
            },
            Do::Seal { key, .. } => {
                let others = s.vault.encrypted.values().any(|other| *other != key);
                if others {
                    s.violate("the key of the vault is lost".to_owned());
                }
                s.vault.sealed = Some(key);
                own.sealed = Some(Sealed::Key(key));
                own.answer = None;
            }
            Do::Load(key) => {
                s.vault.loaded.push(key);
                own.opened_by = own.held.map(|held| held.origin);
            }
            Do::Encrypt(root, key) => {
                if s.vault.sealed != Some(key) {
                    s.violate(format!("{root} is encrypted by a key that is not sealed"));
                }
                s.vault.encrypted.insert(root, key);
            }
            Do::Copy(key) => {
                let copy = EncryptedVaultKey {
                    encrypted_key: String::new(),
                    sha256: key.to_string(),
                };
                own.copy = Some((key, copy));
            }
            Do::Forget => own.held = None,
            Do::MakeRoot(_) | Do::Rescue { .. } | Do::Empty(..) => {
                s.violate(format!("nothing asks for {action:?}"));
            }
        });
        Ok(())
    }
}
