//! PCRs of the SHA-256 bank.

use sha2::{Digest as _, Sha256};
use tpm::{PCRS_QUOTED, Pcr, PcrSelection, PcrValues};
use tss_esapi::constants::CapabilityType;
use tss_esapi::handles::PcrHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::structures::{
    AttestInfo, CapabilityData, Data, Digest, DigestValues, PcrSelectionList, PcrSlot,
    SignatureScheme,
};
use tss_esapi::traits::Marshall;

use crate::error::of;
use crate::key::raw;
use crate::tss::Tss;
use tpmmgr::chip::{ChipError, Quoted};

/// PCRs that may be extended between being read and being quoted.
const TRIES: u32 = 5;

pub(crate) fn selection(pcrs: PcrSelection) -> tss_esapi::Result<PcrSelectionList> {
    let slots = pcrs
        .iter()
        .map(|pcr| PcrSlot::try_from(1_u32 << pcr.index()))
        .collect::<tss_esapi::Result<Vec<_>>>()?;
    PcrSelectionList::builder()
        .with_selection(HashingAlgorithm::Sha256, &slots)
        .build()
}

/// What a policy or a quote says of values.
pub(crate) fn digest(values: &PcrValues) -> [u8; 32] {
    let mut digest = Sha256::new();
    for value in values.values() {
        digest.update(value);
    }
    digest.finalize().into()
}

impl Tss {
    /// Whether PCRs have SHA-256 values.
    pub(crate) fn has_sha256(&mut self) -> Result<bool, ChipError> {
        let (data, _) = self
            .context
            .get_capability(CapabilityType::AssignedPcr, 0, 8)
            .map_err(of("tell its banks of PCRs"))?;
        let CapabilityData::AssignedPcr(banks) = data else {
            return Ok(false);
        };
        Ok(banks.get_selections().iter().any(|bank| {
            bank.hashing_algorithm() == HashingAlgorithm::Sha256 && !bank.selected().is_empty()
        }))
    }

    /// Reads PCRs.
    pub(crate) fn read_pcrs(&mut self, pcrs: PcrSelection) -> Result<PcrValues, ChipError> {
        let mut values = PcrValues::new();
        // The TPM gives at most eight at a time.
        let all: Vec<Pcr> = pcrs.iter().collect();
        for some in all.chunks(8) {
            let wanted: PcrSelection = some.iter().copied().collect();
            let read = |tss: &mut Self| {
                let wanted = selection(wanted)?;
                tss.context
                    .execute_without_session(|context| context.pcr_read(wanted))
            };
            let (_, _, digests) = read(self).map_err(of("read PCRs"))?;
            if digests.len() != some.len() {
                return Err(ChipError::NoSha256);
            }
            for (pcr, digest) in some.iter().zip(digests.value()) {
                let value = digest.value().try_into().map_err(|_| ChipError::NoSha256)?;
                values.insert(*pcr, value);
            }
        }
        Ok(values)
    }

    /// Extends a PCR and gives its new value.
    pub(crate) fn extend_pcr(
        &mut self,
        pcr: Pcr,
        digest: [u8; 32],
    ) -> Result<PcrValues, ChipError> {
        let extend = |tss: &mut Self| {
            let handle = PcrHandle::try_from(pcr.index())?;
            let mut digests = DigestValues::new();
            let digest = Digest::try_from(digest.as_slice())?;
            digests.set(HashingAlgorithm::Sha256, digest);
            tss.authorized(|context| context.pcr_extend(handle, digests))
        };
        extend(self).map_err(of("extend a PCR"))?;
        self.read_pcrs([pcr].into_iter().collect())
    }

    /// Quotes PCR 0 to 15.
    pub(crate) fn quote(&mut self, nonce: &[u8]) -> Result<Quoted, ChipError> {
        let key = self.keys()?.quote.handle;
        for _ in 0..TRIES {
            let pcrs = self.read_pcrs(PCRS_QUOTED)?;
            let quote = |tss: &mut Self| {
                let nonce = Data::try_from(nonce)?;
                let pcrs = selection(PCRS_QUOTED)?;
                tss.authorized(|context| context.quote(key, nonce, SignatureScheme::Null, pcrs))
            };
            let (attest, signature) = quote(self).map_err(of("quote"))?;
            let AttestInfo::Quote { info } = attest.attested() else {
                return Err(ChipError::Keys("a quote is no quote".to_owned()));
            };
            // Values that somebody extended meanwhile would not be the quoted ones.
            if info.pcr_digest().value() != digest(&pcrs).as_slice() {
                continue;
            }
            let der = raw(&signature)?.to_der();
            return Ok(Quoted {
                attest: attest.marshall().map_err(of("quote"))?,
                signature: der.map_err(|error| ChipError::Keys(error.to_string()))?,
                pcrs,
            });
        }
        Err(ChipError::Refused {
            what: "quote".to_owned(),
            why: "its PCRs keep changing".to_owned(),
        })
    }
}
