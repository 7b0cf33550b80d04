//! Whom the controller trusts, as people decide it: claims, certificates for devices, measurements.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use http::StatusCode;
use rusqlite::Connection;

use super::admin::{Answer, Error, certificate, find, read, view, write};
use super::admin_edit::EditError;
use super::{Evc, desired, device_attest};
use crate::admin::{
    Accept, AttestView, BaselineView, Bind, Bound, ClaimWithCode, Claimed, EndorsementView, Sign,
    Signed, time,
};
use crate::decide::Refusal;
use crate::decide::attest::baseline::{Comparison, Measured, compare};
use crate::decide::attest::endorsement::Vouched;
use crate::decide::claim::{self, Lock};
use crate::pki;
use crate::store::devices::{self, Device};
use crate::store::measurements::{self, Baseline, Scope};
use crate::store::{self, StoreError, onboarding};

/// The paths of this file.
pub(super) fn routes() -> Router<Arc<Evc>> {
    Router::new()
        .route("/v1/claims", post(claim_with_code))
        .route("/v1/devices/sign", post(sign))
        .route("/v1/devices/{device}/attest", get(show))
        .route("/v1/devices/{device}/attest/accept", post(accept))
        .route("/v1/devices/{device}/ek", post(bind))
        .route("/v1/baselines", get(list))
        .route("/v1/baselines/{id}", delete(forget))
}

/// A claim by whoever has the code; the device may be there already or come later.
async fn claim_with_code(
    State(evc): State<Arc<Evc>>,
    Json(wanted): Json<ClaimWithCode>,
) -> Answer<Claimed> {
    // Not through `try_write`: a wrong code has to be counted.
    let outcome = evc.store.write(move |c| claimed(c, &wanted)).await?;
    match outcome {
        Ok(Some(device)) => Ok(Json(Claimed {
            device: Some(view(&device)),
        })),
        Ok(None) => Ok(Json(Claimed { device: None })),
        Err(refusal) => Err(Error::new(refusal.status, refusal.reason)),
    }
}

fn claimed(
    c: &Connection,
    wanted: &ClaimWithCode,
) -> Result<Result<Option<Device>, Refusal>, StoreError> {
    let serial = wanted.serial.trim();
    let salt = store::salt(c)?;
    let code = Some(wanted.code.as_str());
    if let Some(device) = devices::by_text(c, serial)? {
        let Some(kept) = &device.code else {
            let text = "it needs no code: it is claimed already, or was admitted without one";
            return Ok(Err(Refusal::conflict(text)));
        };
        let lock = Lock {
            kept,
            tries: device.tries,
        };
        if let Err(refusal) = claim::decide(code, lock, &salt) {
            devices::wrong_code(c, device.uuid)?;
            return Ok(Err(refusal));
        }
        devices::claim(c, device.uuid, wanted.name.as_deref())?;
        return Ok(Ok(devices::by_uuid(c, device.uuid)?));
    }
    let Some((hash, kept, tries)) = onboarding::with_code(c, serial)? else {
        // The same words for a wrong serial as for a wrong code would be kinder to guessers than to people; the
        // interface is for people who are known.
        let text = format!("no device with serial {serial:?} waits for a code");
        return Ok(Err(Refusal::not_found(text)));
    };
    let lock = Lock { kept: &kept, tries };
    if let Err(refusal) = claim::decide(code, lock, &salt) {
        onboarding::wrong_code(c, &hash, serial)?;
        return Ok(Err(refusal));
    }
    onboarding::claim_ahead(c, &hash, serial, wanted.name.as_deref())?;
    Ok(Ok(None))
}

/// Makes a device's certificate out of its request, and enters it.
async fn sign(State(evc): State<Arc<Evc>>, Json(wanted): Json<Sign>) -> Answer<Signed> {
    let bad = |text: String| Error::new(StatusCode::UNPROCESSABLE_ENTITY, text);
    let serial = wanted.serial.trim().to_owned();
    let pem = pki::sign_device(evc.dir(), &wanted.csr, &serial).map_err(|e| bad(e.to_string()))?;
    let cert = certificate(&pem)?;
    let entered = evc
        .store
        .write(move |c| {
            let row = devices::NewDevice {
                name: wanted.name.unwrap_or_else(|| serial.clone()),
                soft_serial: String::new(),
                serial,
                onboarding: None,
                cert,
                claimed: true,
                ek: None,
                code: None,
            };
            let uuid = devices::insert(c, &row)?;
            devices::by_uuid(c, uuid)
        })
        .await?;
    let device = entered.ok_or_else(|| bad("the device was not entered".to_owned()))?;
    Ok(Json(Signed {
        certificate: pem,
        device: view(&device),
    }))
}

async fn show(State(evc): State<Arc<Evc>>, Path(device): Path<String>) -> Answer<AttestView> {
    let makers = evc.makers();
    let found = read(&evc, move |c| {
        let device = find(c, &device)?;
        let last = measurements::last(c, device.uuid)?;
        let accepted = accepted(c, &device)?;
        let shown = device_attest::endorsement(c, &device, &makers)?;
        let comparison = last.as_ref().map(|last| comparison(&last.state, &accepted));
        Ok(AttestView {
            device: device.name,
            note: device.attest_note,
            attested: time(device.attested_ms),
            quoted: last.as_ref().and_then(|last| time(last.at_ms)),
            comparison,
            state: last.map(|last| last.state),
            baselines: accepted.iter().map(baseline_view).collect(),
            bound: device.ek.map(hex::encode),
            endorsement: shown.map(|shown| match shown {
                Ok(shown) => EndorsementView {
                    key: hex::encode(shown.key),
                    name: shown.name.map(hex::encode).unwrap_or_default(),
                    vouched: match shown.vouched {
                        Vouched::Maker => "by the maker of its TPM",
                        Vouched::Device => "by the device's own key only",
                    }
                    .to_owned(),
                },
                Err(error) => EndorsementView {
                    vouched: error.to_string(),
                    ..EndorsementView::default()
                },
            }),
        })
    })
    .await?;
    Ok(Json(found))
}

fn accepted(c: &Connection, device: &Device) -> Result<Vec<Baseline>, StoreError> {
    let model = desired::spec(device)?.model();
    measurements::accepted(c, device.uuid, model.as_deref())
}

/// With what is accepted now, which may be more than when the quote came.
fn comparison(state: &Measured, accepted: &[Baseline]) -> Comparison {
    let states: Vec<_> = accepted.iter().map(|base| base.state.clone()).collect();
    compare(state, &states)
}

fn baseline_view(base: &Baseline) -> BaselineView {
    BaselineView {
        id: base.id,
        scope: base.scope.clone(),
        name: base.name.clone(),
        accepted: time(base.accepted_ms),
    }
}

/// Accepts what the device proved last.
async fn accept(
    State(evc): State<Arc<Evc>>,
    Path(device): Path<String>,
    Json(wanted): Json<Accept>,
) -> Answer<BaselineView> {
    let accepted = write(&evc, move |c| {
        let device = find(c, &device)?;
        let Some(last) = measurements::last(c, device.uuid)? else {
            let text = format!("{} has not proved any state", device.name);
            return Err(EditError::NotFound(text));
        };
        let scope = if wanted.model {
            let model = desired::spec(&device)?.model().ok_or_else(|| {
                let text =
                    "its hardware model is not known: give labels.manufacturer and labels.product";
                EditError::NotFound(text.to_owned())
            })?;
            Scope::Model(model)
        } else {
            Scope::Device(device.uuid)
        };
        let id = measurements::accept(c, &scope, &wanted.name, &last.state)?;
        // A device that was kept out by its measurements tries again by itself.
        let all = measurements::baselines(c)?;
        all.iter()
            .find(|base| base.id == id)
            .map(baseline_view)
            .ok_or_else(|| EditError::NotFound("it is gone already".to_owned()))
    })
    .await?;
    Ok(Json(accepted))
}

async fn bind(
    State(evc): State<Arc<Evc>>,
    Path(device): Path<String>,
    Json(wanted): Json<Bind>,
) -> Answer<Bound> {
    let makers = evc.makers();
    let bound = write(&evc, move |c| {
        let device = find(c, &device)?;
        let ek = match wanted {
            Bind::None => None,
            Bind::Key(key) => Some(parse_ek(&key)?),
            Bind::Shown => match device_attest::endorsement(c, &device, &makers)? {
                Some(Ok(shown)) => Some(shown.key),
                Some(Err(error)) => return Err(EditError::NotFound(error.to_string())),
                None => {
                    let text = format!("{} has not shown an endorsement key", device.name);
                    return Err(EditError::NotFound(text));
                }
            },
        };
        devices::bind(c, device.uuid, ek)?;
        Ok(Bound {
            bound: ek.map(hex::encode),
        })
    })
    .await?;
    Ok(Json(bound))
}

/// A hash of an endorsement key as people write it.
pub(super) fn parse_ek(text: &str) -> Result<[u8; 32], EditError> {
    let mut key = [0; 32];
    hex::decode_to_slice(text.trim(), &mut key).map_err(|_| {
        let text = "an endorsement key is given by the SHA-256 of its public key, in hex";
        EditError::Problems(crate::config::Problems::one("ek", text))
    })?;
    Ok(key)
}

async fn list(State(evc): State<Arc<Evc>>) -> Answer<Vec<BaselineView>> {
    let all = evc.store.read(measurements::baselines).await?;
    Ok(Json(all.iter().map(baseline_view).collect()))
}

async fn forget(State(evc): State<Arc<Evc>>, Path(id): Path<i64>) -> Answer<()> {
    if evc
        .store
        .write(move |c| measurements::forget(c, id))
        .await?
    {
        Ok(Json(()))
    } else {
        Err(Error::not_found(format!("there is no baseline {id}")))
    }
}
