//! Attestation: from the decided step to what is stored and answered.

use api::attest::{ZAttestQuote, ZAttestReq, ZAttestResponse};
use api::certs::ZCertType;
use http::StatusCode;
use prost::Message as _;

use super::device::{Answer, Fail};
use super::{Evc, desired};
use crate::cert::Certificate;
use crate::decide::attest::{self, Facts, Step, Verdict};
use crate::decide::messages::decode;
use crate::secret::random;
use crate::store;
use crate::store::devices::Device;

/// Answers one request.
pub(super) async fn answer(evc: &Evc, device: Device, payload: &[u8]) -> Result<Answer, Fail> {
    let uuid = device.uuid;
    let step = attest::parse(decode::<ZAttestReq>(payload)?, &device.cert)?;
    let response = match step {
        Step::Certs(certs) => {
            evc.store
                .write(move |c| store::attest::put_certs(c, uuid, &certs))
                .await?;
            attest::certs_answer()
        }
        Step::Nonce => {
            let nonce = random::<32>();
            evc.store
                .write(move |c| store::attest::set_nonce(c, uuid, &nonce))
                .await?;
            attest::nonce_answer(&nonce)
        }
        Step::Quote(quote) => judge(evc, device, quote).await?,
        Step::StoreKeys(keys) => {
            let may = attest::may_store(&keys, device.token.as_deref());
            if may {
                evc.store
                    .write(move |c| store::attest::put_keys(c, uuid, &keys.keys))
                    .await?;
            }
            attest::store_answer(may)
        }
    };
    Ok(Answer::Message(
        StatusCode::CREATED,
        response.encode_to_vec(),
    ))
}

async fn judge(evc: &Evc, device: Device, quote: ZAttestQuote) -> Result<ZAttestResponse, Fail> {
    let software_key = desired::spec(&device)?.policy.software_key;
    let token = random::<32>();
    let (uuid, name) = (device.uuid, device.name);
    // One step: a nonce is used up by the verdict that it led to.
    let (verdict, keys) = evc
        .store
        .write(move |c| {
            let kind = ZCertType::CertTypeDeviceRestrictedSigning.into();
            let pem = store::attest::cert(c, uuid, kind)?;
            let quote_cert = pem.and_then(|p| Certificate::from_pem(p.as_bytes()).ok());
            let nonce = store::attest::take_nonce(c, uuid)?;
            let facts = Facts {
                nonce: nonce.as_deref(),
                software_key,
                quote_cert: quote_cert.as_ref(),
            };
            let verdict = attest::judge(&quote, facts);
            let note = note(&verdict);
            if verdict.is_success() {
                store::attest::set_token(c, uuid, &token, &note)?;
            } else {
                store::attest::note_failure(c, uuid, &note)?;
            }
            Ok((verdict, store::attest::keys(c, uuid)?))
        })
        .await?;
    if verdict.is_success() {
        tracing::info!(device = %name, ?verdict, "attested");
    } else {
        tracing::warn!(device = %name, ?verdict, "attestation failed");
    }
    Ok(attest::quote_answer(&verdict, &token, keys))
}

fn note(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Measured => "by TPM quote".to_owned(),
        Verdict::SoftwareKey => "by software key: no TPM, nothing measured".to_owned(),
        Verdict::NonceMismatch => "failed: nonce mismatch".to_owned(),
        Verdict::NoCert => "failed: no quote certificate".to_owned(),
        Verdict::Failed(why) => format!("failed: {why}"),
    }
}
