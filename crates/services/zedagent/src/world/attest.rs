//! The steps of the attestation.

use agent::Failure;
use api::attest::{
    AttestStorageKeys, AttestStorageKeysResponseCode, AttestVolumeKey, AttestVolumeKeyData,
    AttestVolumeKeyType, ZAttestReq, ZAttestReqType, ZAttestResponse, ZAttestResponseCode,
};
use api::{
    certs::{ZCert, ZCertMetaData, ZCertMetaDataType, ZCertType},
    common::HashAlgorithm,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use model::vault::EncryptedVaultKey;
use model::{
    code::Code,
    security::{EdgeNodeCert, EdgeNodeCertKind},
};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tpm::{Quote, TpmError, TroubleKind};
use tracing::warn;

use super::Evc;
use crate::{
    checkpoint::ACCEPTED,
    facts::{AttestStep, Judgement},
    failure::of_call,
    plan::hashes,
    proof::{self, Accepted, Versions},
};

const OBJECT: &str = "attestation";

/// A certificate as the controller gets it, byte for byte: its hash is how secrets name it.
fn wire(cert: &EdgeNodeCert) -> Option<ZCert> {
    let kind = match cert.kind {
        EdgeNodeCertKind::Ecdh => ZCertType::CertTypeDeviceEcdhExchange,
        EdgeNodeCertKind::Quote => ZCertType::CertTypeDeviceRestrictedSigning,
        EdgeNodeCertKind::Endorsement => ZCertType::CertTypeDeviceEndorsementRsa,
        EdgeNodeCertKind::Unknown => return None,
    };
    let public = hex::decode(&cert.public_area).unwrap_or_default();
    let public = (!public.is_empty()).then(|| ZCertMetaData {
        r#type: ZCertMetaDataType::Tpm2Public.into(),
        meta_data: public,
    });
    let digest = Sha256::digest(&cert.pem);
    Some(ZCert {
        hash_algo: HashAlgorithm::Sha25616bytes.into(),
        cert_hash: digest[..16].to_vec(),
        r#type: kind.into(),
        cert: cert.pem.clone().into_bytes(),
        meta_data_items: public.into_iter().collect(),
        ..ZCert::default()
    })
}

/// The vault's key among those that the controller keeps.
fn vault_key(key: &AttestVolumeKey) -> Option<EncryptedVaultKey> {
    if key.key_type != i32::from(AttestVolumeKeyType::Vsk) {
        return None;
    }
    let data = AttestVolumeKeyData::decode(key.key.as_slice()).ok()?;
    (!data.encrypted_key.is_empty()).then(|| EncryptedVaultKey {
        encrypted_key: BASE64_STANDARD.encode(&data.encrypted_key),
        sha256: hex::encode(&data.digest_sha256),
    })
}

impl Evc {
    pub(super) async fn store_key(
        &self,
        key: &EncryptedVaultKey,
        token: Vec<u8>,
    ) -> Result<(), Failure> {
        const OBJECT: &str = crate::plan::ESCROW;
        let unreadable = |error: &dyn std::error::Error| Failure::of(Code::VaultKey, OBJECT, error);
        let data = AttestVolumeKeyData {
            encrypted_key: BASE64_STANDARD
                .decode(&key.encrypted_key)
                .map_err(|error| unreadable(&error))?,
            digest_sha256: hex::decode(&key.sha256).map_err(|error| unreadable(&error))?,
            ..AttestVolumeKeyData::default()
        };
        let request = ZAttestReq {
            req_type: ZAttestReqType::StoreKeys.into(),
            storage_keys: Some(AttestStorageKeys {
                integrity_token: token,
                keys: vec![AttestVolumeKey {
                    key_type: AttestVolumeKeyType::Vsk.into(),
                    key: data.encode_to_vec(),
                    ..AttestVolumeKey::default()
                }],
            }),
            ..ZAttestReq::default()
        };
        let answer = self
            .controller(OBJECT)?
            .attest(&request)
            .await
            .map_err(|error| of_call(OBJECT, &error))?;
        let verdict = answer.value.storage_keys_resp.unwrap_or_default();
        let mut state = self.state();
        let attest = &mut state.facts.attest;
        match AttestStorageKeysResponseCode::try_from(verdict.response) {
            Ok(AttestStorageKeysResponseCode::Success) => {
                attest.escrowed = Some(key.sha256.clone());
                Ok(())
            }
            Ok(AttestStorageKeysResponseCode::ItokenMismatch) => {
                attest.restart(self.clock.uptime());
                let text = "the controller does not know this integrity token any more";
                Err(Failure::new(Code::AttestRefused, OBJECT, text).transient())
            }
            Ok(AttestStorageKeysResponseCode::Invalid) | Err(_) => {
                let text = format!("the controller answered {}", verdict.response);
                Err(Failure::new(Code::AttestRefused, OBJECT, text).transient())
            }
        }
    }

    async fn ask(&self, request: &ZAttestReq) -> Result<ZAttestResponse, Refused> {
        let controller = self.controller(OBJECT).map_err(Refused::Here)?;
        let answer = controller.attest(request).await.map_err(|error| {
            self.note_cert_miss(&error);
            self.state().facts.attest.in_vain = true;
            Refused::Controller(error)
        })?;
        self.state().facts.last_contact = Some(self.clock.now());
        Ok(answer.value)
    }

    pub(super) async fn send_certs(&self, certs: &[EdgeNodeCert]) -> Result<(), Failure> {
        let request = ZAttestReq {
            req_type: ZAttestReqType::AttestReqCert.into(),
            certs: certs.iter().filter_map(wire).collect(),
            ..ZAttestReq::default()
        };
        let answer = self.ask(&request).await;
        let mut state = self.state();
        let attest = &mut state.facts.attest;
        match answer {
            Ok(_) => attest.certs_refused = false,
            Err(refused) => {
                // Other codes are about something else than what was sent.
                attest.certs_refused |= matches!(refused.code(), Some(400 | 404 | 422));
                return Err(refused.into());
            }
        }
        attest.certs_sent = Some(hashes(certs));
        if attest.step == AttestStep::SendCerts {
            attest.step = AttestStep::AskNonce;
        }
        Ok(())
    }

    pub(super) async fn ask_nonce(&self) -> Result<(), Failure> {
        let request = ZAttestReq {
            req_type: ZAttestReqType::AttestReqNonce.into(),
            ..ZAttestReq::default()
        };
        let response = self.ask(&request).await?;
        let nonce = response.nonce.map(|n| n.nonce).unwrap_or_default();
        if !(12..=32).contains(&nonce.len()) {
            let text = format!(
                "the controller's nonce has {} bytes, not 12 to 32",
                nonce.len()
            );
            return Err(Failure::new(Code::AttestRefused, OBJECT, text).transient());
        }
        self.state().facts.attest.step = AttestStep::SendQuote(nonce);
        Ok(())
    }

    /// A quote by the TPM, or none where the device was installed without one. A TPM that gives none now is no reason
    /// to send none: the controller would take that for a device without a TPM.
    async fn quote(&self, nonce: &[u8]) -> Result<Option<Quote>, Failure> {
        let (quote, no_quote) = match self.tpm.quote(nonce, true).await {
            Ok(quote) => (Ok(Some(quote)), false),
            Err(TpmError::NeedsTpm) => (Ok(None), false),
            Err(error) => {
                let failure = Failure::of(Code::AttestQuote, OBJECT, &error);
                let failure = failure.transient_if(error.is_transient());
                (Err(failure), !is_passing(&error))
            }
        };
        let mut state = self.state();
        let attest = &mut state.facts.attest;
        attest.no_quote = no_quote;
        // The controller may give a config all the same.
        attest.in_vain |= quote.is_err();
        quote
    }

    pub(super) async fn send_quote(&self, nonce: &[u8]) -> Result<(), Failure> {
        let quote = self.quote(nonce).await?;
        let pcrs = quote.as_ref().map(|quote| proof::accepted(&quote.pcrs));
        let response = self.ask(&proof::request(quote, &self.versions())).await?;
        let verdict = response.quote_resp.unwrap_or_default();
        let judgement = match ZAttestResponseCode::try_from(verdict.response) {
            Ok(ZAttestResponseCode::Success) => {
                if let Err(error) = durable::write(&self.token_file, &verdict.integrity_token) {
                    warn!(%error, "integrity token is not kept across a restart");
                }
                self.keep_accepted(pcrs.as_ref());
                let mut state = self.state();
                let attest = &mut state.facts.attest;
                attest.vault_key = Some(verdict.keys.iter().find_map(vault_key));
                attest.complete(verdict.integrity_token);
                return Ok(());
            }
            Ok(ZAttestResponseCode::NonceMismatch) => Judgement::NonceMismatch,
            Ok(ZAttestResponseCode::NoCertFound) => Judgement::NoCert,
            Ok(ZAttestResponseCode::QuoteFailed) => Judgement::Failed,
            Ok(ZAttestResponseCode::Invalid) | Err(_) => Judgement::Other(verdict.response),
        };
        let differs = match (&judgement, &pcrs) {
            (Judgement::Failed, Some(pcrs)) => proof::differences(pcrs, &self.accepted()),
            (Judgement::NonceMismatch | Judgement::NoCert | Judgement::Other(_), _)
            | (Judgement::Failed, None) => Vec::new(),
        };
        warn!(?judgement, ?differs, "the controller refuses the quote");
        let moment = self.moment();
        // When it is tried again is decided by what it said, not by the failure of a step.
        self.state()
            .facts
            .attest
            .judged(&judgement, differs, moment);
        Ok(())
    }

    /// PCRs as the controller accepted them the last time.
    fn accepted(&self) -> Accepted {
        self.checkpoint
            .read(ACCEPTED)
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// They are of use only for an explanation, so a full disk is no trouble here.
    fn keep_accepted(&self, pcrs: Option<&Accepted>) {
        let Some(pcrs) = pcrs.filter(|pcrs| **pcrs != self.accepted()) else {
            return;
        };
        let kept = serde_json::to_vec(pcrs)
            .map_err(std::io::Error::from)
            .and_then(|bytes| self.checkpoint.write(ACCEPTED, &bytes));
        if let Err(error) = kept {
            warn!(%error, "the accepted measurements are not kept");
        }
    }

    fn versions(&self) -> Versions {
        let dmi = |name: &str| {
            let text = std::fs::read_to_string(self.firmware.join(name));
            text.map(|text| text.trim().to_owned()).unwrap_or_default()
        };
        let parts = ["bios_vendor", "bios_version", "bios_date"].map(dmi);
        let parts: Vec<&str> = parts
            .iter()
            .map(String::as_str)
            .filter(|part| !part.is_empty())
            .collect();
        Versions {
            eve: env!("CARGO_PKG_VERSION").to_owned(),
            firmware: parts.join("-"),
        }
    }
}

/// tpmmgr is away or starting, which it is at every boot: no reason to take on nothing new.
fn is_passing(error: &TpmError) -> bool {
    match error {
        TpmError::Unreachable { .. } | TpmError::NoRuntime => true,
        TpmError::Trouble(trouble) => trouble.kind == TroubleKind::Starting,
        TpmError::Refused { .. }
        | TpmError::Invalid { .. }
        | TpmError::NotFound { .. }
        | TpmError::NeedsTpm
        | TpmError::Mismatch { .. }
        | TpmError::Failed { .. }
        | TpmError::Answer { .. } => false,
    }
}

/// Why a request came to nothing.
enum Refused {
    /// It was not sent.
    Here(Failure),
    /// The controller did not answer, or not with what was asked.
    Controller(controller::Failure),
}

impl Refused {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Here(_) => None,
            Self::Controller(error) => error.code(),
        }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Here(failure) => failure,
            Refused::Controller(error) => of_call(OBJECT, &error),
        }
    }
}
