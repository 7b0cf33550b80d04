//! verifier: reads every downloaded image as a whole, compares its SHA-256 with the one in the
//! config, keeps a private copy of what passed, and judges the signatures of those that are signed.
//!
//! ```text
//!  volumemgr/VerifyImageConfig --> verifier --> VerifyImageStatus
//!                                     |
//!  /persist/vault/downloader/downloads/<sha256> -- one pass: copy and hash --> /persist/vault/verifier/verified/<sha256>
//! ```
//!
//! ```text
//!  zedagent/ContentTreeConfig --> signature --> SignatureStatus --> volumemgr: fetched, or not
//! ```
//!
//! It has no network and no keys, and everything that uses an image later uses the copy: the
//! downloader, which talks to the outside, can't change what has been verified, not even through
//! a file that it still has open (`docs/decisions/020-verified-copy.md`).
//!
//! - A file below `/persist/vault/verifier/verified` that is named by a digest has that digest: it gets the name only
//!   after its bytes were hashed and are on the disk. So a restart or a reboot asks nothing twice.
//! - Files are published whether volumemgr has spoken yet or not, because volumemgr asks what there
//!   is before it says what it wants; nothing is removed before it has spoken.
//! - A wrong digest is published as [`VerifyPhase::Mismatch`](model::content::VerifyPhase) for that
//!   attempt and not tried again: volumemgr decides about another download. The memory of it is
//!   the published row, which lives as long as volumemgr's own count of attempts.
//!
//! - A signature is of a digest, so it is judged before anything is fetched; whoever is waiting for it has the config
//!   and the answer.
//!
//! Where to look: [`plan`] decides, [`signature`] judges, [`world`] reads and writes, [`copy`] is the one pass.
#![forbid(unsafe_code)]

pub mod copy;
pub mod plan;
pub mod signature;
pub mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use agent::{Action, Backoff, Outbox, Plan, Report, Service, Tables, Turn};
use bus::Rows;
use model::{
    content::{ContentTreeConfig, SignatureStatus, VerifyImageConfig, VerifyImageStatus},
    id::Digest,
    topics::{
        CONTENT_TREE_CONFIG, SIGNATURE_STATUS, VAULT_STATUS, VERIFY_IMAGE_CONFIG,
        VERIFY_IMAGE_STATUS,
    },
};

pub use world::Disk;

/// The whole program.
pub fn main() -> std::process::ExitCode {
    agent::run::<Verifier, _, _, _>(Disk::open)
}

/// The service.
#[derive(Debug)]
pub struct Verifier;

/// What is wanted.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// Files to verify and to keep; `None` while volumemgr has not spoken.
    pub images: Option<Arc<Rows<VerifyImageConfig>>>,
    /// What was published last: the only memory of wrong digests.
    pub own: Arc<Rows<VerifyImageStatus>>,
    /// Images of the config, for their signatures; `None` while zedagent has not spoken.
    pub trees: Option<Arc<Rows<ContentTreeConfig>>>,
    /// What was found about signatures.
    pub judged: Arc<Rows<SignatureStatus>>,
}

/// What is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actual {
    /// Verified files.
    pub verified: BTreeMap<Digest, Verified>,
    /// Names of unfinished copies and which digest each is meant for.
    pub partials: BTreeSet<(Digest, String)>,
    /// Wrong digests found since the service started: digest and attempt to what was found.
    pub mismatches: BTreeMap<(Digest, u32), Found>,
    /// The roots of the CONFIG partition, PEM; looked at only when there are signatures to judge.
    pub roots_pem: Option<Vec<u8>>,
}

/// A verified file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// What a file turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// What can be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Do {
    /// Copy and hash a downloaded file.
    Verify(VerifyImageConfig),
    /// Remove a verified file.
    Remove(Digest),
    /// Remove an unfinished copy that nobody works on.
    RemovePartial(String),
}

impl Action for Do {
    fn subject(&self) -> String {
        match self {
            Self::Verify(VerifyImageConfig { sha256, .. }) | Self::Remove(sha256) => {
                subject(*sha256)
            }
            Self::RemovePartial(name) => format!("partial {name}"),
        }
    }

    fn is_slow(&self) -> bool {
        match self {
            Self::Verify(_) => true,
            Self::Remove(_) | Self::RemovePartial(_) => false,
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::default()
    }
}

/// The subject of everything that concerns a digest.
pub fn subject(digest: Digest) -> String {
    format!("blob {digest}")
}

/// What is published.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Published {
    /// One row per file that is wanted or there.
    pub images: Rows<VerifyImageStatus>,
    /// One row per content tree that is signed.
    pub signatures: Option<Rows<SignatureStatus>>,
}

impl Report for Published {
    fn put(self, out: &mut Outbox) {
        let Self { images, signatures } = self;
        out.put(&VERIFY_IMAGE_STATUS, Some(images));
        out.put(&SIGNATURE_STATUS, signatures);
    }
}

impl Service for Verifier {
    const NAME: &'static str = "verifier";
    type Desired = Desired;
    type Actual = Actual;
    type Action = Do;
    type Report = Published;

    fn read(tables: &mut Tables) -> Option<Desired> {
        // Names in a locked vault are not the real ones: nothing is seen before it is open, and so nothing removed.
        tables.get_when(&VAULT_STATUS, model::vault::is_usable)?;
        Some(Desired {
            images: tables.peek(&VERIFY_IMAGE_CONFIG),
            own: tables.own(&VERIFY_IMAGE_STATUS),
            trees: tables.peek(&CONTENT_TREE_CONFIG),
            judged: tables.own(&SIGNATURE_STATUS),
        })
    }

    fn plan(turn: &Turn<'_, Self>) -> Plan<Self> {
        plan::plan(turn)
    }
}
