//! vaultmgr opens the encrypted part of `/persist`, and sees to it that only the software that may can open it.
//!
//! | | topics |
//! |---|---|
//! | reads | `zedagent/ConfigItemValueMap` (`vault.allow.clean`); when known: `zedagent/EncryptedVaultKeyFromController`, `baseosmgr/ExpectedPcrs` |
//! | writes | `VaultStatus`, `EncryptedVaultKeyFromDevice` |
//! | owns | the policies of the directories in [`model::vault::ROOTS`], and slot `vault` of tpmmgr |
//!
//! ```text
//!  no TPM ------------------------------------------------------------------> Disabled: used as it is
//!
//!  new device:  make a key --> seal it --> give it to the kernel --> encrypt the directories ----> Open
//!  boot:        unseal ------------------> give it to the kernel --------------------------------> Open
//!                  | PCRs differ                  ^
//!                  v                              |
//!               Locked ----- the controller's copy, checked against the policy
//!                  |
//!                  +-------- vault.allow.clean = its key: emptied, and as a new device
//!
//!  Open:        sealed to the PCRs of now and to those that are expected; a copy for the controller
//! ```
//!
//! **What is next follows from what is there**: the policies of the directories, whether the kernel has their key, what
//! the slot of the TPM is sealed to, and which key this process holds. So a power cut between any two steps
//! leaves a state that the plan goes on from. The key is sealed *before* anything is encrypted by it, and the old seal is
//! replaced at once or not at all.
//!
//! **The key** is 32 random bytes. It is held from unsealing (or making) until there is nothing left to do with it, then
//! wiped; the kernel keeps it until `/persist` is unmounted. For the controller it is encrypted to the device's own
//! ECDH key, which never leaves the TPM: what the controller gives back helps nobody else.
//!
//! **Nothing is lost without leave.** A vault whose key can't be had stays locked, says which PCRs differ, and waits. It is
//! emptied only when the property `vault.allow.clean` names its key, so an old permission is void for a new vault.
//!
//! **Updates need no rescue**: before another image may boot, baseosmgr publishes the PCR values that it will lead to, and
//! the key is sealed to these as well (`docs/decisions/106-sealed-before-the-update.md`).
//!
//! Look at [`plan`] for what is next, at [`world`] for how.
#![forbid(unsafe_code)]

pub mod plan;
pub mod world;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use agent::{Action, Backoff, Outbox, Plan, Report, Service, Tables, Turn};
use bus::Rows;
use fscrypt::KeyId;
use model::{
    topics::{
        CONFIG_ITEMS, EXPECTED_PCRS, VAULT_KEY_FROM_CONTROLLER, VAULT_KEY_FROM_DEVICE, VAULT_STATUS,
    },
    vault::{EncryptedVaultKey, ExpectedPcrs, VaultStatus},
};
use tpm::{Keeper, Pcr, PcrSelection, PcrValues, SealedSlot, Trouble};

/// The whole program.
pub fn main() -> std::process::ExitCode {
    agent::run::<Vaultmgr, _, _, _>(|boot| async move { world::Disk::open(&boot) })
}

/// Key of the one row of each topic.
pub const VAULT: &str = "vault";

/// The service.
#[derive(Debug)]
pub struct Vaultmgr;

/// What is wanted.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// Name of the key whose vault may be emptied; empty: none may.
    pub allow_clean: String,
    /// The controller's copy of the key; none while it has not sent one.
    pub escrowed: Option<EncryptedVaultKey>,
    /// Values that a boot may lead to; `None` while that is not known.
    pub expected: Option<Arc<Rows<ExpectedPcrs>>>,
    /// What was published last.
    pub own: Option<VaultStatus>,
}

/// How a directory of the vault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// Not there.
    Missing,
    /// Not encrypted, nothing in it.
    Empty,
    /// Not encrypted, and used.
    Plain,
    /// Encrypted by the key of this name.
    Encrypted(KeyId),
    /// Encrypted in another way.
    Foreign,
}

/// What tpmmgr said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Who keeps the keys.
    pub keeper: Keeper,
    /// Why it can't serve.
    pub trouble: Option<Trouble>,
    /// What the slot is sealed to; none when it is empty or the keeper can't say.
    pub slot: Option<SealedSlot>,
    /// The PCRs that count, as they are.
    pub pcrs: PcrValues,
}

/// Where a key came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was made just now.
    Made,
    /// It was unsealed; the PCRs have this set of values.
    Unsealed(usize),
    /// The controller gave its copy.
    Controller,
}

/// The key that the process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Its name.
    pub id: KeyId,
    /// Where it came from.
    pub origin: Origin,
}

/// What the slot turned out to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sealed {
    /// The key of this name: it was put there, or came out.
    Key(KeyId),
    /// These PCRs keep it in.
    Mismatch(Vec<Pcr>),
    /// Nothing that is a key.
    Garbage,
}

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actual {
    /// Whether the file system can encrypt.
    pub can_encrypt: bool,
    /// The directories, by path below the root of the device.
    pub roots: BTreeMap<&'static str, Root>,
    /// Keys of the directories that the kernel has, and the one that is held, if it has that.
    pub loaded: Vec<KeyId>,
    /// What tpmmgr said, and at which uptime; none before it was asked, and after what may have changed it.
    pub answer: Option<(Duration, Answer)>,
    /// What is known of the slot's content.
    pub sealed: Option<Sealed>,
    /// The key that the process holds.
    pub held: Option<Held>,
    /// Where the key came from that opened the vault, if this process opened it.
    pub opened_by: Option<Origin>,
    /// The copy for the controller, and of which key it is.
    pub copy: Option<(KeyId, EncryptedVaultKey)>,
}

/// What can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Do {
    /// Ask tpmmgr how it is.
    Ask,
    /// Make a missing directory.
    MakeRoot(&'static str),
    /// Make a key and hold it.
    MakeKey,
    /// Get the key out of the TPM.
    Unseal,
    /// Seal the held key to the PCRs of now and to these.
    Seal {
        /// Which key.
        key: KeyId,
        /// The PCRs of now, so that a change of them makes this another action.
        now: PcrValues,
        /// Further sets of values.
        expected: Vec<PcrValues>,
    },
    /// Decrypt the controller's copy and hold it, if it is the key of this name.
    Rescue {
        /// Which key is needed.
        key: KeyId,
        /// The copy.
        copy: EncryptedVaultKey,
    },
    /// Give the held key to the kernel.
    Load(KeyId),
    /// Encrypt an empty directory.
    Encrypt(&'static str, KeyId),
    /// Encrypt the held key for the controller.
    Copy(KeyId),
    /// Wipe the held key.
    Forget,
    /// Remove a directory with all that is in it.
    Empty(&'static str, KeyId),
}

impl Action for Do {
    fn subject(&self) -> String {
        match self {
            Self::Ask => "tpmmgr".to_owned(),
            Self::MakeRoot(root) | Self::Encrypt(root, _) | Self::Empty(root, _) => {
                root_subject(root)
            }
            Self::MakeKey | Self::Unseal | Self::Rescue { .. } | Self::Forget => KEY.to_owned(),
            Self::Seal { .. } => SEAL.to_owned(),
            Self::Load(_) => LOAD.to_owned(),
            Self::Copy(_) => COPY.to_owned(),
        }
    }

    fn is_slow(&self) -> bool {
        match self {
            Self::Ask
            | Self::Unseal
            | Self::Seal { .. }
            | Self::Rescue { .. }
            | Self::Copy(_)
            | Self::Empty(..) => true,
            Self::MakeRoot(_)
            | Self::MakeKey
            | Self::Load(_)
            | Self::Encrypt(..)
            | Self::Forget => false,
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff {
            max: Duration::from_secs(60),
            ..Backoff::default()
        }
    }
}

/// Subject of what gets the key.
pub const KEY: &str = "vault key";
/// Subject of the seal.
pub const SEAL: &str = "seal of the vault key";
/// Subject of giving the key to the kernel.
pub const LOAD: &str = "vault";
/// Subject of the copy for the controller.
pub const COPY: &str = "copy of the vault key";

/// Subject of what is done to a directory of the vault.
pub fn root_subject(root: &str) -> String {
    format!("directory /{root}")
}

/// The PCRs that count.
pub fn selection() -> PcrSelection {
    let pcrs = model::vault::SEALED_TO.into_iter();
    pcrs.filter_map(|index| Pcr::new(index).ok()).collect()
}

/// What is published.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// How the vault is.
    pub status: VaultStatus,
    /// The copy for the controller; `None` while it is not known.
    pub copy: Option<EncryptedVaultKey>,
}

impl Report for Published {
    fn put(self, out: &mut Outbox) {
        let Self { status, copy } = self;
        out.put(
            &VAULT_STATUS,
            Some(Rows::from([(VAULT.to_owned(), status)])),
        );
        let copy = copy.map(|copy| Rows::from([(VAULT.to_owned(), copy)]));
        out.put(&VAULT_KEY_FROM_DEVICE, copy);
    }
}

impl Service for Vaultmgr {
    const NAME: &'static str = "vaultmgr";
    type Desired = Desired;
    type Actual = Actual;
    type Action = Do;
    type Report = Published;

    fn read(tables: &mut Tables) -> Option<Desired> {
        let items = tables.peek(&CONFIG_ITEMS);
        let items = items.and_then(|rows| rows.get("global").cloned());
        let escrowed = tables.peek(&VAULT_KEY_FROM_CONTROLLER);
        Some(Desired {
            allow_clean: items.map_or_else(String::new, |items| {
                items.text("vault.allow.clean").to_owned()
            }),
            escrowed: escrowed.and_then(|rows| rows.get(VAULT).cloned()),
            expected: tables.peek(&EXPECTED_PCRS),
            own: tables.own(&VAULT_STATUS).get(VAULT).cloned(),
        })
    }

    fn plan(turn: &Turn<'_, Self>) -> Plan<Self> {
        plan::plan(turn)
    }
}
