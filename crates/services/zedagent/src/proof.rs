//! What the device proves of itself, as the controller gets it. Pure.

use std::{collections::BTreeMap, io::Write as _};

use api::attest::{
    AttestVersionInfo, AttestVersionType, TpmHashAlgo, TpmPcrValue, ZAttestQuote, ZAttestReq,
    ZAttestReqType,
};
use flate2::{Compression, write::GzEncoder};
use model::security::component_of_pcr;
use prost::Message as _;
use tpm::{PcrValues, Quote};

/// Controllers take no longer request. Without the firmware's log they still know the values, but not what is behind
/// them.
const LONGEST: usize = 62 * 1024;

/// The versions that a quote names beside what it proves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Versions {
    /// Of EVE.
    pub(crate) eve: String,
    /// Of the firmware; empty where it does not tell.
    pub(crate) firmware: String,
}

impl Versions {
    fn wire(&self) -> Vec<AttestVersionInfo> {
        let versions = [
            (AttestVersionType::Eve, &self.eve),
            (AttestVersionType::Firmware, &self.firmware),
        ];
        versions
            .into_iter()
            .filter(|(_, version)| !version.is_empty())
            .map(|(kind, version)| AttestVersionInfo {
                version_type: kind.into(),
                version: version.clone(),
            })
            .collect()
    }
}

/// The request with a quote, or with an empty one of a device that has no TPM.
pub(crate) fn request(quote: Option<Quote>, versions: &Versions) -> ZAttestReq {
    let versions = versions.wire();
    let quote = match quote {
        None => ZAttestQuote {
            versions,
            ..ZAttestQuote::default()
        },
        Some(quote) => ZAttestQuote {
            attest_data: quote.attest,
            signature: quote.signature,
            pcr_values: quote
                .pcrs
                .iter()
                .map(|(pcr, value)| TpmPcrValue {
                    index: pcr.index(),
                    hash_algo: TpmHashAlgo::Sha256.into(),
                    value: value.to_vec(),
                })
                .collect(),
            versions,
            tpm_binary_event_log: packed(&quote.event_log),
            ..ZAttestQuote::default()
        },
    };
    let mut request = ZAttestReq {
        req_type: ZAttestReqType::AttestReqQuote.into(),
        quote: Some(quote),
        ..ZAttestReq::default()
    };
    if request.encoded_len() > LONGEST
        && let Some(quote) = &mut request.quote
    {
        quote.tpm_binary_event_log.clear();
    }
    request
}

fn packed(log: &[u8]) -> Vec<u8> {
    if log.is_empty() {
        return Vec::new();
    }
    let mut packer = GzEncoder::new(Vec::new(), Compression::best());
    // A vector takes everything.
    let packed = packer.write_all(log).and_then(|()| packer.finish());
    packed.unwrap_or_default()
}

/// PCRs as they are kept: index to value, hex.
pub(crate) type Accepted = BTreeMap<u32, String>;

/// Values to keep.
pub(crate) fn accepted(pcrs: &PcrValues) -> Accepted {
    pcrs.iter()
        .map(|(pcr, value)| (pcr.index(), hex::encode(value)))
        .collect()
}

/// What differs from what the controller accepted the last time, in words; nothing when that is not known. PCRs that
/// change from day to day explain nothing.
pub(crate) fn differences(now: &Accepted, accepted: &Accepted) -> Vec<String> {
    let counts = |pcr: &&u32| model::vault::SEALED_TO.contains(pcr);
    let differs = |pcr: &&u32| now.get(pcr) != accepted.get(pcr);
    if accepted.is_empty() {
        return Vec::new();
    }
    now.keys()
        .filter(counts)
        .filter(differs)
        .map(|pcr| {
            format!(
                "{} (PCR {pcr}) differs from what it accepted the last time",
                component_of_pcr(*pcr)
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read as _;

    use tpm::Pcr;

    use super::*;

    fn quote(event_log: Vec<u8>) -> Quote {
        Quote {
            attest: vec![1; 129],
            signature: vec![2; 72],
            pcrs: (0..16)
                .map(|index| (Pcr::new(index).unwrap(), [3; 32]))
                .collect(),
            event_log,
        }
    }

    fn versions() -> Versions {
        Versions {
            eve: "1.2".to_owned(),
            firmware: "Acme-7-01/02/2026".to_owned(),
        }
    }

    /// Bytes that do not get shorter.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1_u64;
        std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .take(len)
        .collect()
    }

    #[test]
    fn a_quote_goes_out_with_values_versions_and_its_log() {
        let log = b"measured ".repeat(20_000);
        let sent = request(Some(quote(log.clone())), &versions());
        assert!(sent.encoded_len() < LONGEST);
        let sent = sent.quote.unwrap();
        assert_eq!((sent.attest_data.len(), sent.signature.len()), (129, 72));
        let sha256 = i32::from(TpmHashAlgo::Sha256);
        let values: Vec<_> = sent.pcr_values.iter().map(|v| v.index).collect();
        assert_eq!(values, (0..16).collect::<Vec<_>>());
        assert!(
            sent.pcr_values
                .iter()
                .all(|v| v.hash_algo == sha256 && v.value == [3; 32])
        );
        let named: Vec<_> = sent
            .versions
            .iter()
            .map(|v| (v.version_type, v.version.as_str()))
            .collect();
        let (eve, firmware) = (AttestVersionType::Eve, AttestVersionType::Firmware);
        assert_eq!(
            named,
            [(eve.into(), "1.2"), (firmware.into(), "Acme-7-01/02/2026")]
        );
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(sent.tpm_binary_event_log.as_slice())
            .read_to_end(&mut unpacked)
            .unwrap();
        assert_eq!(unpacked, log);
    }

    #[test]
    fn a_log_that_is_too_long_stays_here_and_the_quote_goes() {
        let fits = request(Some(quote(noise(60_000))), &versions());
        assert!(!fits.quote.unwrap().tpm_binary_event_log.is_empty());
        let long = request(Some(quote(noise(64 * 1024))), &versions());
        assert!(long.encoded_len() < 2048);
        let long = long.quote.unwrap();
        assert!(long.tpm_binary_event_log.is_empty());
        assert_eq!((long.attest_data.len(), long.pcr_values.len()), (129, 16));
    }

    #[test]
    fn without_a_tpm_the_quote_is_empty() {
        let no_firmware = Versions {
            firmware: String::new(),
            ..versions()
        };
        let sent = request(None, &no_firmware).quote.unwrap();
        assert_eq!(sent.versions.len(), 1);
        let empty = ZAttestQuote {
            versions: sent.versions.clone(),
            ..ZAttestQuote::default()
        };
        assert_eq!(sent, empty);
    }

    #[test]
    fn what_differs_is_named_as_far_as_it_counts() {
        let before = accepted(&quote(Vec::new()).pcrs);
        assert!(differences(&before, &before).is_empty());
        let mut now = before.clone();
        for pcr in [5, 8, 15] {
            now.insert(pcr, "00".repeat(32));
        }
        let told = differences(&now, &before);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("bootloader commands and kernel parameters (PCR 8)"));
        assert!(differences(&now, &Accepted::new()).is_empty());
    }
}
