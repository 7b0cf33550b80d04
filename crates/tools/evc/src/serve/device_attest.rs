//! Attestation: from the decided step to what is stored and answered.

use api::attest::{ZAttestQuote, ZAttestReq, ZAttestResponse};
use api::certs::ZCertType;
use http::StatusCode;
use prost::Message as _;
use rusqlite::Connection;

use super::device::{Answer, Fail};
use super::{Evc, desired};
use crate::cert::Certificate;
use crate::config::DeviceSpec;
use crate::decide::attest::baseline::{self, Comparison, Measurements};
use crate::decide::attest::endorsement::{self, Endorsement, EndorsementError, Makers};
use crate::decide::attest::{self, Binding, Facts, Step, Verdict};
use crate::decide::messages::decode;
use crate::secret::random;
use crate::store::devices::Device;
use crate::store::{self, StoreError, measurements};

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
    let spec = desired::spec(&device)?;
    let token = random::<32>();
    let makers = evc.makers();
    let name = device.name.clone();
    // One step: a nonce is used up by the verdict that it led to.
    let ((verdict, note), keys) = evc
        .store
        .write(move |c| {
            let judged = verdict(c, &device, &spec, &quote, &makers)?;
            let uuid = device.uuid;
            if judged.0.is_success() {
                store::attest::set_token(c, uuid, &token, &judged.1)?;
            } else {
                store::attest::note_failure(c, uuid, &judged.1)?;
            }
            Ok((judged, store::attest::keys(c, uuid)?))
        })
        .await?;
    if verdict.is_success() {
        tracing::info!(device = %name, note, "attested");
    } else {
        tracing::warn!(device = %name, note, "attestation failed");
    }
    Ok(attest::quote_answer(&verdict, &token, keys))
}

/// The verdict and a note on it. What a good quote proved is kept, also when it is not what was accepted.
fn verdict(
    c: &Connection,
    device: &Device,
    spec: &DeviceSpec,
    quote: &ZAttestQuote,
    makers: &Makers,
) -> Result<(Verdict, String), StoreError> {
    let kind = ZCertType::CertTypeDeviceRestrictedSigning.into();
    let pem = store::attest::cert(c, device.uuid, kind)?;
    let quote_cert = pem.and_then(|p| Certificate::from_pem(p.as_bytes()).ok());
    let nonce = store::attest::take_nonce(c, device.uuid)?;
    let broken = broken_binding(c, device, makers)?;
    let facts = Facts {
        binding: match (&device.ek, &broken) {
            (None, _) => Binding::Free,
            (Some(_), None) => Binding::Kept,
            (Some(_), Some(why)) => Binding::Broken(why),
        },
        nonce: nonce.as_deref(),
        software_key: spec.policy.software_key,
        quote_cert: quote_cert.as_ref(),
    };
    let verdict = attest::judge(quote, facts);
    if verdict != Verdict::Measured {
        let note = note(&verdict);
        return Ok((verdict, note));
    }
    let state = baseline::measured(quote);
    let accepted = measurements::accepted(c, device.uuid, spec.model().as_deref())?;
    let states: Vec<_> = accepted.into_iter().map(|base| base.state).collect();
    let comparison = baseline::compare(&state, &states);
    measurements::put(c, device.uuid, &state, &comparison)?;
    let told = comparison.text();
    Ok(match (spec.policy.measurements, &comparison) {
        (Measurements::Report, _) | (Measurements::Enforce, Comparison::Accepted) => {
            (verdict, format!("by TPM quote, {told}"))
        }
        (Measurements::Enforce, Comparison::NoBaseline | Comparison::Changed(_)) => {
            (Verdict::Failed(told.clone()), format!("failed: {told}"))
        }
    })
}

/// Why a device that is bound to an endorsement key is not in its TPM; none when it is, or is bound to none.
fn broken_binding(
    c: &Connection,
    device: &Device,
    makers: &Makers,
) -> Result<Option<String>, StoreError> {
    let Some(bound) = &device.ek else {
        return Ok(None);
    };
    Ok(match endorsement(c, device, makers)? {
        None => Some("it has not shown the endorsement key that it is bound to".to_owned()),
        Some(Err(error)) => Some(error.to_string()),
        Some(Ok(shown)) if shown.is(bound) => None,
        Some(Ok(shown)) => Some(format!(
            "it is bound to another endorsement key than {}",
            hex::encode(shown.key)
        )),
    })
}

/// The endorsement key that a device has shown, if it has.
pub(super) fn endorsement(
    c: &Connection,
    device: &Device,
    makers: &Makers,
) -> Result<Option<Result<Endorsement, EndorsementError>>, StoreError> {
    let kind = ZCertType::CertTypeDeviceEndorsementRsa.into();
    let shown = store::attest::with_public(c, device.uuid, kind)?;
    let now = jiff::Timestamp::now().as_second();
    Ok(shown.map(|(pem, public)| {
        endorsement::judge(pem.as_bytes(), &public, &device.cert, makers, now)
    }))
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
