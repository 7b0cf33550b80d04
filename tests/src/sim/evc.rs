//! The controller, as far as the device can tell: it speaks in decoded messages.

use std::collections::{BTreeMap, BTreeSet};

use api::info::z_info_msg::InfoContent;
use model::id::Digest;

use super::wish::Wish;

/// The controller.
#[derive(Debug, Default)]
pub struct Evc {
    /// Whether it answers.
    pub reach: Reach,
    /// One answer in so many is lost after the request was carried out; 0 for none.
    pub loses_one_in: u32,
    /// What it wants.
    pub wish: Wish,
    /// Every config that it ever had, by hash.
    pub(crate) history: BTreeMap<String, Wish>,
    /// Integrity tokens that it accepts.
    pub(crate) tokens: BTreeSet<Vec<u8>>,
    token_count: u32,
    /// What it was told, by the object's key.
    pub believes: BTreeMap<String, Belief>,
    /// What there was to say when reporter last looked: digest, and whether the object is gone.
    pub(crate) due: BTreeMap<String, (Digest, bool)>,
    /// Info messages received.
    pub infos: u64,
    /// Metrics received.
    pub metrics: u64,
    /// Requests for the config answered.
    pub polls: u64,
}

/// Whether the controller answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reach {
    /// As it should.
    #[default]
    Up,
    /// Not at all.
    Down,
    /// With a refusal.
    Refuses(u16),
}

/// What the controller was told last about an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Belief {
    /// Digest of what it was told.
    pub digest: Digest,
    /// The object is gone.
    pub gone: bool,
    /// What it was told.
    pub content: InfoContent,
}

impl Evc {
    /// Changes what is wanted; makes a new config of it.
    pub fn want(&mut self, change: impl FnOnce(&mut Wish)) {
        change(&mut self.wish);
        self.wish.version = u32::try_from(self.history.len()).unwrap() + 1;
        self.history.insert(self.wish.hash(), self.wish.clone());
    }

    pub(crate) fn answers(&self) -> bool {
        self.reach != Reach::Down
    }

    pub(crate) fn refusal(&self) -> Option<u16> {
        match self.reach {
            Reach::Refuses(code) => Some(code),
            Reach::Up | Reach::Down => None,
        }
    }

    /// A new integrity token.
    pub(crate) fn token(&mut self) -> Vec<u8> {
        self.token_count += 1;
        let token = self.token_count.to_be_bytes().to_vec();
        self.tokens.insert(token.clone());
        token
    }

    /// It forgets its attestations: the device is asked for another one.
    pub fn forget_attestation(&mut self) {
        self.tokens.clear();
    }
}
