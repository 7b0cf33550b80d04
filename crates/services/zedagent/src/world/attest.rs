//! The steps of the attestation.

use agent::Failure;
use api::attest::{
    AttestStorageKeys, AttestStorageKeysResponseCode, AttestVersionInfo, AttestVersionType,
    AttestVolumeKey, AttestVolumeKeyData, AttestVolumeKeyType, ZAttestQuote, ZAttestReq,
    ZAttestReqType, ZAttestResponse, ZAttestResponseCode,
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
use tracing::warn;

use super::Evc;
use crate::{facts::AttestStep, failure::of_call, plan::hashes};

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
        const OBJECT: &str = "escrow of the vault key";
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

    async fn attest(&self, request: ZAttestReq) -> Result<ZAttestResponse, Failure> {
        let object = "attestation";
        let answer = self
            .controller(object)?
            .attest(&request)
            .await
            .map_err(|error| {
                self.note_cert_miss(&error);
                self.state().facts.attest.in_vain = true;
                of_call(object, &error)
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
        self.attest(request).await?;
        let mut state = self.state();
        let attest = &mut state.facts.attest;
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
        let response = self.attest(request).await?;
        let nonce = response.nonce.map(|n| n.nonce).unwrap_or_default();
        if !(12..=32).contains(&nonce.len()) {
            let text = format!(
                "the controller's nonce has {} bytes, not 12 to 32",
                nonce.len()
            );
            return Err(Failure::new(Code::AttestRefused, "attestation", text).transient());
        }
        self.state().facts.attest.step = AttestStep::SendQuote(nonce);
        Ok(())
    }

    pub(super) async fn send_quote(&self) -> Result<(), Failure> {
        let versions = vec![AttestVersionInfo {
            version_type: AttestVersionType::Eve.into(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }];
        let quote = ZAttestQuote {
            versions,
            ..ZAttestQuote::default()
        };
        let request = ZAttestReq {
            req_type: ZAttestReqType::AttestReqQuote.into(),
            quote: Some(quote),
            ..ZAttestReq::default()
        };
        let response = self.attest(request).await?;
        let verdict = response.quote_resp.unwrap_or_default();
        let uptime = self.clock.uptime();
        match ZAttestResponseCode::try_from(verdict.response) {
            Ok(ZAttestResponseCode::Success) => {
                if let Err(error) = durable::write(&self.token_file, &verdict.integrity_token) {
                    warn!(%error, "integrity token is not kept across a restart");
                }
                let mut state = self.state();
                let attest = &mut state.facts.attest;
                attest.vault_key = Some(verdict.keys.iter().find_map(vault_key));
                attest.complete(verdict.integrity_token);
                Ok(())
            }
            code => {
                let mut state = self.state();
                state.facts.attest.in_vain = true;
                state.facts.attest.restart(uptime);
                let word = code.map_or_else(
                    |_| verdict.response.to_string(),
                    |c| c.as_str_name().to_owned(),
                );
                Err(Failure::new(
                    Code::AttestRefused,
                    "attestation",
                    format!("the controller answered {word}"),
                )
                .transient())
            }
        }
    }
}
