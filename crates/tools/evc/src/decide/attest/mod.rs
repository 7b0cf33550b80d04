//! Attestation as the controller sees it: CERT, NONCE, QUOTE, STORE_KEYS.
//!
//! A device with a TPM proves its software by a quote ([`quote`]). A device without one sends an
//! empty quote; it is let in only when its policy admits keys that live in software, and then the
//! protocol proves no more than that the holder of the device key answered a fresh nonce.

pub mod baseline;
pub mod endorsement;
pub mod eventlog;
pub mod quote;

use api::attest::{
    AttestStorageKeys, AttestStorageKeysResp, AttestStorageKeysResponseCode, AttestVolumeKey,
    ZAttestNonceResp, ZAttestQuote, ZAttestQuoteResp, ZAttestReq, ZAttestReqType, ZAttestRespType,
    ZAttestResponse, ZAttestResponseCode,
};
use api::certs::{ZCert, ZCertType};
use api::common::HashAlgorithm;
use sha2::{Digest as _, Sha256};

use super::Refusal;
use crate::cert::Certificate;
use crate::secret::same;

/// A certificate that a device presented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceCert {
    /// Number of its `ZCertType`.
    pub kind: i32,
    /// The PEM text as sent.
    pub pem: String,
    /// First 16 bytes of SHA-256 of that text.
    pub hash: [u8; 16],
    /// TPM2_PUBLIC of an endorsement key, else empty.
    pub tpm_public: Vec<u8>,
}

/// One request, parsed.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// The device presents its certificates; one without a TPM may have none.
    Certs(Vec<DeviceCert>),
    /// The device wants a nonce.
    Nonce,
    /// The device answers a nonce.
    Quote(ZAttestQuote),
    /// The device deposits its sealed volume keys.
    StoreKeys(AttestStorageKeys),
}

/// Whether the device is in the TPM that it was registered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding<'a> {
    /// It may be in any, or in none.
    Free,
    /// It showed the endorsement key that it was registered with.
    Kept,
    /// It did not; why.
    Broken(&'a str),
}

/// What is known of the device when a quote comes.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Whether it is in its TPM.
    pub binding: Binding<'a>,
    /// The nonce handed out last and not used yet.
    pub nonce: Option<&'a [u8]>,
    /// Whether the policy admits devices without a TPM.
    pub software_key: bool,
    /// The certificate of the TPM's quote key, when it was presented.
    pub quote_cert: Option<&'a Certificate>,
}

/// What a quote came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Trusted, by a TPM.
    Measured,
    /// Trusted without a TPM, because the policy says so.
    SoftwareKey,
    /// The nonce is missing, used or another.
    NonceMismatch,
    /// There is no certificate to check the quote with.
    NoCert,
    /// The quote or the lack of one is not acceptable; why.
    Failed(String),
}

impl Verdict {
    /// Whether the device gets an integrity token.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Measured | Self::SoftwareKey)
    }

    fn code(&self) -> ZAttestResponseCode {
        match self {
            Self::Measured | Self::SoftwareKey => ZAttestResponseCode::Success,
            Self::NonceMismatch => ZAttestResponseCode::NonceMismatch,
            Self::NoCert => ZAttestResponseCode::NoCertFound,
            Self::Failed(_) => ZAttestResponseCode::QuoteFailed,
        }
    }
}

/// Parses a request; `device` is the certificate that must have signed the presented ones.
pub fn parse(request: ZAttestReq, device: &Certificate) -> Result<Step, Refusal> {
    match ZAttestReqType::try_from(request.req_type) {
        Ok(ZAttestReqType::AttestReqCert) => certs(&request.certs, device).map(Step::Certs),
        Ok(ZAttestReqType::AttestReqNonce) => Ok(Step::Nonce),
        Ok(ZAttestReqType::AttestReqQuote) => request
            .quote
            .map(Step::Quote)
            .ok_or_else(|| Refusal::unprocessable("QUOTE without quote")),
        Ok(ZAttestReqType::StoreKeys) => request
            .storage_keys
            .map(Step::StoreKeys)
            .ok_or_else(|| Refusal::unprocessable("STORE_KEYS without storage_keys")),
        Ok(ZAttestReqType::AttestReqNone) | Err(_) => Err(Refusal::unprocessable(format!(
            "unknown attestation request {}",
            request.req_type
        ))),
    }
}

fn certs(certs: &[ZCert], device: &Certificate) -> Result<Vec<DeviceCert>, Refusal> {
    certs
        .iter()
        .enumerate()
        .map(|(i, cert)| device_cert(i, cert, device))
        .collect()
}

fn device_cert(i: usize, cert: &ZCert, device: &Certificate) -> Result<DeviceCert, Refusal> {
    let bad = |why: String| Refusal::unprocessable(format!("certs[{i}]: {why}"));
    if cert.hash_algo != i32::from(HashAlgorithm::Sha25616bytes) {
        return Err(bad(format!(
            "hashAlgo {} is not SHA256_16BYTES",
            cert.hash_algo
        )));
    }
    let digest = Sha256::digest(&cert.cert);
    let hash: [u8; 16] = digest
        .first_chunk()
        .copied()
        .ok_or_else(|| bad("no hash".to_owned()))?;
    if cert.cert_hash != hash {
        return Err(bad("certHash is not the hash of cert".to_owned()));
    }
    let pem = String::from_utf8(cert.cert.clone()).map_err(|_| bad("not PEM text".to_owned()))?;
    match ZCertType::try_from(cert.r#type) {
        Ok(ZCertType::CertTypeDeviceRestrictedSigning | ZCertType::CertTypeDeviceEcdhExchange) => {
            let parsed = Certificate::from_pem(&cert.cert).map_err(|e| bad(e.to_string()))?;
            if !parsed.is_signed_by(device) {
                return Err(bad("not signed by the device's key".to_owned()));
            }
        }
        // Endorsement keys are RSA and certified by the TPM's maker.
        Ok(ZCertType::CertTypeDeviceEndorsementRsa) => {}
        Ok(
            ZCertType::CertTypeControllerNone
            | ZCertType::CertTypeControllerSigning
            | ZCertType::CertTypeControllerIntermediate
            | ZCertType::CertTypeControllerEcdhExchange
            | ZCertType::CertTypeDeviceOnboarding,
        )
        | Err(_) => return Err(bad(format!("type {} is not a device's", cert.r#type))),
    }
    let tpm_public = cert
        .meta_data_items
        .iter()
        .find(|m| m.r#type == i32::from(api::certs::ZCertMetaDataType::Tpm2Public))
        .map(|m| m.meta_data.clone())
        .unwrap_or_default();
    Ok(DeviceCert {
        kind: cert.r#type,
        pem,
        hash,
        tpm_public,
    })
}

/// Judges a quote.
pub fn judge(quote: &ZAttestQuote, facts: Facts<'_>) -> Verdict {
    let Some(nonce) = facts.nonce else {
        return Verdict::NonceMismatch;
    };
    if let Binding::Broken(why) = facts.binding {
        return Verdict::Failed(why.to_owned());
    }
    if quote.attest_data.is_empty() {
        if facts.binding == Binding::Kept {
            return Verdict::Failed("it is bound to a TPM but sent no quote".to_owned());
        }
        if !quote.signature.is_empty() {
            return Verdict::Failed("a signature without attestData".to_owned());
        }
        if facts.quote_cert.is_some() {
            return Verdict::Failed(
                "the device presented a TPM quote certificate but sent no quote".to_owned(),
            );
        }
        return if facts.software_key {
            Verdict::SoftwareKey
        } else {
            Verdict::Failed("no TPM quote, and the policy admits no software key".to_owned())
        };
    }
    let Some(cert) = facts.quote_cert else {
        return Verdict::NoCert;
    };
    match quote::verify(quote, cert, nonce) {
        Ok(()) => Verdict::Measured,
        Err(quote::QuoteError::Nonce) => Verdict::NonceMismatch,
        Err(other) => Verdict::Failed(other.to_string()),
    }
}

/// The answer to CERT.
pub fn certs_answer() -> ZAttestResponse {
    ZAttestResponse {
        resp_type: ZAttestRespType::AttestRespCert.into(),
        ..ZAttestResponse::default()
    }
}

/// The answer to NONCE.
pub fn nonce_answer(nonce: &[u8]) -> ZAttestResponse {
    ZAttestResponse {
        resp_type: ZAttestRespType::AttestRespNonce.into(),
        nonce: Some(ZAttestNonceResp {
            nonce: nonce.to_vec(),
        }),
        ..ZAttestResponse::default()
    }
}

/// The answer to QUOTE; token and keys only go out with a success.
pub fn quote_answer(
    verdict: &Verdict,
    token: &[u8],
    keys: Vec<AttestVolumeKey>,
) -> ZAttestResponse {
    let (integrity_token, keys) = if verdict.is_success() {
        (token.to_vec(), keys)
    } else {
        (Vec::new(), Vec::new())
    };
    ZAttestResponse {
        resp_type: ZAttestRespType::AttestRespQuoteResp.into(),
        quote_resp: Some(ZAttestQuoteResp {
            response: verdict.code().into(),
            integrity_token,
            keys,
        }),
        ..ZAttestResponse::default()
    }
}

/// Whether deposited keys come with the token of the last attestation.
pub fn may_store(keys: &AttestStorageKeys, token: Option<&[u8]>) -> bool {
    token.is_some_and(|issued| same(issued, &keys.integrity_token))
}

/// The answer to STORE_KEYS.
pub fn store_answer(stored: bool) -> ZAttestResponse {
    let response = if stored {
        AttestStorageKeysResponseCode::Success
    } else {
        AttestStorageKeysResponseCode::ItokenMismatch
    };
    ZAttestResponse {
        resp_type: ZAttestRespType::StoreKeys.into(),
        storage_keys_resp: Some(AttestStorageKeysResp {
            response: response.into(),
        }),
        ..ZAttestResponse::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const NONCE: &[u8] = b"0123456789abcdef";

    fn facts(nonce: Option<&'static [u8]>, software_key: bool) -> Facts<'static> {
        Facts {
            binding: Binding::Free,
            nonce,
            software_key,
            quote_cert: None,
        }
    }

    #[test]
    fn a_device_without_a_tpm_needs_the_policy_and_a_nonce() {
        let empty = ZAttestQuote::default();
        assert_eq!(
            judge(&empty, facts(Some(NONCE), true)),
            Verdict::SoftwareKey
        );
        assert_eq!(judge(&empty, facts(None, true)), Verdict::NonceMismatch);
        assert!(matches!(
            judge(&empty, facts(Some(NONCE), false)),
            Verdict::Failed(_)
        ));
        let quote = ZAttestQuote {
            attest_data: vec![1],
            ..empty
        };
        assert_eq!(judge(&quote, facts(Some(NONCE), true)), Verdict::NoCert);
    }

    #[test]
    fn a_refused_quote_carries_no_token() {
        let answer = quote_answer(&Verdict::NoCert, b"token", vec![AttestVolumeKey::default()]);
        let quote = answer.quote_resp.unwrap();
        assert_eq!(quote.response, i32::from(ZAttestResponseCode::NoCertFound));
        assert!(quote.integrity_token.is_empty() && quote.keys.is_empty());
    }

    #[test]
    fn a_device_that_is_bound_to_a_tpm_does_not_come_in_without_it() {
        let empty = ZAttestQuote::default();
        let bound = |binding| Facts {
            binding,
            ..facts(Some(NONCE), true)
        };
        for binding in [Binding::Kept, Binding::Broken("another key")] {
            let verdict = judge(&empty, bound(binding));
            assert!(matches!(verdict, Verdict::Failed(_)), "{verdict:?}");
        }
    }

    fn device() -> (rcgen::CertificateParams, rcgen::KeyPair, Certificate) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        (params, key, Certificate::from_pem(pem.as_bytes()).unwrap())
    }

    fn zcert(pem: &str, kind: ZCertType) -> ZCert {
        ZCert {
            hash_algo: HashAlgorithm::Sha25616bytes.into(),
            cert_hash: Sha256::digest(pem.as_bytes())[..16].to_vec(),
            r#type: kind.into(),
            cert: pem.as_bytes().to_vec(),
            ..ZCert::default()
        }
    }

    #[test]
    fn presented_certificates_must_be_signed_by_the_device() {
        let (params, key, device) = device();
        let leaf = rcgen::KeyPair::generate().unwrap();
        let issuer = rcgen::Issuer::from_params(&params, &key);
        let own = rcgen::CertificateParams::new(vec![])
            .unwrap()
            .signed_by(&leaf, &issuer)
            .unwrap();
        let foreign = rcgen::CertificateParams::new(vec![])
            .unwrap()
            .self_signed(&leaf)
            .unwrap();
        let request = |certs| ZAttestReq {
            req_type: ZAttestReqType::AttestReqCert.into(),
            certs,
            ..ZAttestReq::default()
        };
        let ecdh = zcert(&own.pem(), ZCertType::CertTypeDeviceEcdhExchange);
        let parsed = parse(request(vec![ecdh.clone()]), &device).unwrap();
        assert!(matches!(parsed, Step::Certs(certs) if certs[0].hash == ecdh.cert_hash[..]));

        let none = parse(request(vec![]), &device).unwrap();
        assert_eq!(none, Step::Certs(vec![]));

        let mut changed = ecdh.clone();
        changed.cert_hash[0] ^= 1;
        let mut long = ecdh.clone();
        long.hash_algo = HashAlgorithm::Sha25632bytes.into();
        for bad in [
            vec![zcert(&foreign.pem(), ZCertType::CertTypeDeviceEcdhExchange)],
            vec![zcert(&own.pem(), ZCertType::CertTypeControllerSigning)],
            vec![changed],
            vec![long],
        ] {
            let refusal = parse(request(bad), &device).unwrap_err();
            assert_eq!(refusal.status.as_u16(), 422);
        }
    }

    #[test]
    fn keys_are_stored_only_with_the_current_token() {
        let keys = AttestStorageKeys {
            integrity_token: b"t".to_vec(),
            keys: vec![],
        };
        assert!(may_store(&keys, Some(b"t")));
        assert!(!may_store(&keys, Some(b"u")));
        assert!(!may_store(&AttestStorageKeys::default(), Some(b"")));
        assert!(!may_store(&keys, None));
    }
}
