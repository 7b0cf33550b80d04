//! PCRs of the SHA-256 bank: indices, selections, values.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What a PCR holds.
pub type DigestOfPcr = [u8; 32];

/// PCRs by index.
pub type PcrValues = BTreeMap<Pcr, DigestOfPcr>;

/// The PCRs of a quote.
pub const PCRS_QUOTED: PcrSelection = PcrSelection(0xffff);

/// Index of a PCR, 0 to 23.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Pcr(u8);

/// No PCR has this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no PCR {0}; they are 0 to 23")]
pub struct PcrError(pub u32);

impl Pcr {
    /// From its index.
    pub fn new(index: u32) -> Result<Self, PcrError> {
        match u8::try_from(index) {
            Ok(small) if small < 24 => Ok(Self(small)),
            Ok(_) | Err(_) => Err(PcrError(index)),
        }
    }

    /// Its index.
    pub fn index(self) -> u32 {
        self.0.into()
    }
}

impl TryFrom<u32> for Pcr {
    type Error = PcrError;

    fn try_from(index: u32) -> Result<Self, PcrError> {
        Self::new(index)
    }
}

impl From<Pcr> for u32 {
    fn from(pcr: Pcr) -> Self {
        pcr.index()
    }
}

impl std::fmt::Display for Pcr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Some PCRs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Pcr>", into = "Vec<Pcr>")]
pub struct PcrSelection(u32);

impl PcrSelection {
    /// As three bytes with a bit for each, as the TPM has it.
    pub fn bits(self) -> [u8; 3] {
        let [a, b, c, _] = self.0.to_le_bytes();
        [a, b, c]
    }

    /// None at all.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a PCR is one of them.
    pub fn contains(self, pcr: Pcr) -> bool {
        self.0 & (1 << pcr.0) != 0
    }

    /// In ascending order.
    pub fn iter(self) -> impl Iterator<Item = Pcr> {
        (0..24).map(Pcr).filter(move |pcr| self.contains(*pcr))
    }
}

impl FromIterator<Pcr> for PcrSelection {
    fn from_iter<I: IntoIterator<Item = Pcr>>(pcrs: I) -> Self {
        Self(pcrs.into_iter().fold(0, |bits, pcr| bits | 1 << pcr.0))
    }
}

impl From<Vec<Pcr>> for PcrSelection {
    fn from(pcrs: Vec<Pcr>) -> Self {
        pcrs.into_iter().collect()
    }
}

impl From<PcrSelection> for Vec<Pcr> {
    fn from(pcrs: PcrSelection) -> Self {
        pcrs.iter().collect()
    }
}

/// What a PCR holds after it was extended.
pub fn extended(old: DigestOfPcr, digest: [u8; 32]) -> DigestOfPcr {
    Sha256::new()
        .chain_update(old)
        .chain_update(digest)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_selection_is_a_set_of_indices() {
        let pcr = |index| Pcr::new(index).unwrap();
        let some: PcrSelection = [pcr(14), pcr(0), pcr(14), pcr(23)].into_iter().collect();
        assert_eq!(some.iter().collect::<Vec<_>>(), [pcr(0), pcr(14), pcr(23)]);
        assert_eq!(some.bits(), [1, 0x40, 0x80]);
        assert_eq!(PCRS_QUOTED.iter().count(), 16);
        assert_eq!(Pcr::new(24), Err(PcrError(24)));
        assert_eq!(Pcr::new(256), Err(PcrError(256)));
    }
}
