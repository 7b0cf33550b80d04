//! Checking a TPM 2.0 quote.
//!
//! `attestData` is a marshalled `TPMS_ATTEST` (TPM 2.0 library, part 2, section 10.12): big-endian,
//! sized buffers with a 16-bit length. The quote is good when the quote key signed it, its
//! `extraData` is our nonce, and its PCR digest is that of the PCR values sent beside it. Whether
//! those values are the wanted ones is a question of policy, not asked here.

use api::attest::{TpmHashAlgo, ZAttestQuote};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};

use crate::cert::Certificate;
use crate::secret::same;

const TPM_GENERATED: u32 = 0xff54_4347;
const TPM_ST_ATTEST_QUOTE: u16 = 0x8018;
const TPM_ALG_SHA256: u16 = 0x000b;

/// Why a quote is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// The quote key did not sign this.
    #[error("the quote's signature does not match")]
    Signature,
    /// Not a `TPMS_ATTEST` of a quote.
    #[error("attestData: {0}")]
    Structure(&'static str),
    /// Answers another nonce.
    #[error("the quote answers another nonce")]
    Nonce,
    /// The PCR values sent are not the ones quoted.
    #[error("pcr_values: {0}")]
    Pcrs(String),
}

/// The parts of a `TPMS_ATTEST` that matter.
#[derive(Debug, PartialEq, Eq)]
struct Attest {
    extra_data: Vec<u8>,
    /// Selected PCRs of the SHA-256 bank, ascending.
    pcrs: Vec<u32>,
    digest: Vec<u8>,
}

/// Checks a quote against the quote key's certificate and the nonce handed out.
pub fn verify(quote: &ZAttestQuote, cert: &Certificate, nonce: &[u8]) -> Result<(), QuoteError> {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, cert.point())
        .verify(&quote.attest_data, &quote.signature)
        .map_err(|_| QuoteError::Signature)?;
    let attest = parse(&quote.attest_data)?;
    if !same(nonce, &attest.extra_data) {
        return Err(QuoteError::Nonce);
    }
    let mut digest = Sha256::new();
    for index in &attest.pcrs {
        let value = quote
            .pcr_values
            .iter()
            .find(|v| v.index == *index && v.hash_algo == i32::from(TpmHashAlgo::Sha256))
            .ok_or_else(|| QuoteError::Pcrs(format!("PCR {index} was quoted but not sent")))?;
        if value.value.len() != 32 {
            return Err(QuoteError::Pcrs(format!("PCR {index} is not 32 bytes")));
        }
        digest.update(&value.value);
    }
    let sent = quote.pcr_values.len();
    if sent != attest.pcrs.len() {
        return Err(QuoteError::Pcrs(format!(
            "{sent} sent, {} quoted",
            attest.pcrs.len()
        )));
    }
    if digest.finalize().as_slice() == attest.digest {
        Ok(())
    } else {
        Err(QuoteError::Pcrs(
            "the values do not give the quoted digest".to_owned(),
        ))
    }
}

fn parse(data: &[u8]) -> Result<Attest, QuoteError> {
    let mut rest = Reader(data);
    if rest.u32()? != TPM_GENERATED {
        return Err(QuoteError::Structure("not made by a TPM"));
    }
    if rest.u16()? != TPM_ST_ATTEST_QUOTE {
        return Err(QuoteError::Structure("not a quote"));
    }
    rest.sized()?; // qualified signer
    let extra_data = rest.sized()?.to_vec();
    rest.take(8 + 4 + 4 + 1)?; // clock, reset count, restart count, safe
    rest.take(8)?; // firmware version
    let mut pcrs = Vec::new();
    for _ in 0..rest.u32()?.min(16) {
        let bank = rest.u16()?;
        let len = usize::from(rest.take(1)?[0]);
        let bits = rest.take(len)?;
        if bank != TPM_ALG_SHA256 {
            return Err(QuoteError::Structure("a PCR bank other than SHA-256"));
        }
        for (byte, value) in (0_u32..).zip(bits) {
            pcrs.extend(
                (0..8)
                    .filter(|bit| value & (1 << bit) != 0)
                    .map(|bit| byte * 8 + bit),
            );
        }
    }
    let digest = rest.sized()?.to_vec();
    if !rest.0.is_empty() {
        return Err(QuoteError::Structure("bytes after the end"));
    }
    Ok(Attest {
        extra_data,
        pcrs,
        digest,
    })
}

/// For the fuzzers: any bytes as `TPMS_ATTEST`.
pub fn check_attest(bytes: &[u8]) -> bool {
    parse(bytes).is_ok()
}

/// Reads big-endian TPM structures off the front of a slice.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], QuoteError> {
        let (head, tail) = self
            .0
            .split_at_checked(len)
            .ok_or(QuoteError::Structure("too short"))?;
        self.0 = tail;
        Ok(head)
    }

    pub(super) fn u16(&mut self) -> Result<u16, QuoteError> {
        let bytes = self.take(2)?;
        Ok(bytes.iter().fold(0, |n, b| (n << 8) | u16::from(*b)))
    }

    pub(super) fn u32(&mut self) -> Result<u32, QuoteError> {
        let bytes = self.take(4)?;
        Ok(bytes.iter().fold(0, |n, b| (n << 8) | u32::from(*b)))
    }

    pub(super) fn sized(&mut self) -> Result<&'a [u8], QuoteError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use api::attest::TpmPcrValue;
    use proptest::prelude::*;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};

    use super::*;

    const NONCE: &[u8] = b"0123456789abcdef";

    struct Tpm {
        key: EcdsaKeyPair,
        cert: Certificate,
    }

    impl Tpm {
        fn new() -> Self {
            let key = rcgen::KeyPair::generate().unwrap();
            let pem = rcgen::CertificateParams::new(vec![])
                .unwrap()
                .self_signed(&key)
                .unwrap()
                .pem();
            let rng = SystemRandom::new();
            Self {
                key: EcdsaKeyPair::from_pkcs8(
                    &ECDSA_P256_SHA256_ASN1_SIGNING,
                    &key.serialize_der(),
                    &rng,
                )
                .unwrap(),
                cert: Certificate::from_pem(pem.as_bytes()).unwrap(),
            }
        }

        /// PCRs 0 to 15 of the SHA-256 bank.
        fn quote(&self, nonce: &[u8]) -> ZAttestQuote {
            let values: Vec<Vec<u8>> = (0..16_u8).map(|i| vec![i; 32]).collect();
            let mut data = TPM_GENERATED.to_be_bytes().to_vec();
            data.extend(TPM_ST_ATTEST_QUOTE.to_be_bytes());
            data.extend([0, 2, 1, 2]);
            data.extend(u16::try_from(nonce.len()).unwrap().to_be_bytes());
            data.extend(nonce);
            data.extend([0; 25]);
            data.extend(1_u32.to_be_bytes());
            data.extend(TPM_ALG_SHA256.to_be_bytes());
            data.extend([3, 0xff, 0xff, 0]);
            data.extend(32_u16.to_be_bytes());
            data.extend(Sha256::digest(values.concat()));
            let signature = self.key.sign(&SystemRandom::new(), &data).unwrap();
            ZAttestQuote {
                attest_data: data,
                signature: signature.as_ref().to_vec(),
                pcr_values: (0..)
                    .zip(values)
                    .map(|(index, value)| TpmPcrValue {
                        index,
                        hash_algo: TpmHashAlgo::Sha256.into(),
                        value,
                    })
                    .collect(),
                ..ZAttestQuote::default()
            }
        }
    }

    #[test]
    fn a_good_quote_is_good() {
        let tpm = Tpm::new();
        assert_eq!(verify(&tpm.quote(NONCE), &tpm.cert, NONCE), Ok(()));
    }

    #[test]
    fn every_lie_is_found() {
        let (tpm, other) = (Tpm::new(), Tpm::new());
        let good = tpm.quote(NONCE);
        assert_eq!(
            verify(&good, &other.cert, NONCE),
            Err(QuoteError::Signature)
        );
        assert_eq!(
            verify(&tpm.quote(b"old"), &tpm.cert, NONCE),
            Err(QuoteError::Nonce)
        );
        let mut pcr = good.clone();
        pcr.pcr_values[7].value[0] ^= 1;
        assert!(matches!(
            verify(&pcr, &tpm.cert, NONCE),
            Err(QuoteError::Pcrs(_))
        ));
        let mut fewer = good.clone();
        fewer.pcr_values.pop();
        assert!(matches!(
            verify(&fewer, &tpm.cert, NONCE),
            Err(QuoteError::Pcrs(_))
        ));
        let mut extra = good.clone();
        extra.pcr_values.push(TpmPcrValue {
            index: 20,
            ..extra.pcr_values[0].clone()
        });
        assert!(matches!(
            verify(&extra, &tpm.cert, NONCE),
            Err(QuoteError::Pcrs(_))
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&data);
            let mut quote = TPM_GENERATED.to_be_bytes().to_vec();
            quote.extend(TPM_ST_ATTEST_QUOTE.to_be_bytes());
            quote.extend(data);
            let _ = parse(&quote);
        }
    }
}
