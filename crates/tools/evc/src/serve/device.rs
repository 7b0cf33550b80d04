//! The API that devices speak, both generations.
//!
//! Everything that decides is in [`crate::decide`]; here bytes are read, facts looked up, results
//! stored and answers written.

use std::sync::Arc;

use api::auth::AuthContainer;
use api::certs::{ZCert, ZCertType, ZControllerCert};
use api::common::HashAlgorithm;
use api::config::{ConfigRequest, ConfigResponse};
use api::register::ZRegisterMsg;
use api::uuid::UuidResponse;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap};
use http::{Method, StatusCode};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{Apis, Evc, PeerCert, Wanted, desired};
use crate::config::Protection;
use crate::decide::messages::{Kind, decode};
use crate::decide::route::{Action, Api, Route, route};
use crate::decide::{Refusal, authenticate, config, logs, messages, register};
use crate::envelope;
use crate::pki::ControllerCertKind;
use crate::store::devices::{self, Device};
use crate::store::{self, StoreError, now_ms};

/// The type of every message.
pub const PROTO: &str = "application/x-proto-binary";
/// Largest message; info of a device with hundreds of objects stays far below.
const MAX_MESSAGE: usize = 8 << 20;
/// Time for the body of a request: as long as a device waits for the answer.
const BODY: std::time::Duration = std::time::Duration::from_mins(2);
/// Contacts closer than this are not written again, milliseconds.
const CONTACT_MS: i64 = 15_000;

/// The device API as a router.
pub fn router(evc: Arc<Evc>) -> Router {
    Router::new().fallback(handle).with_state(evc)
}

/// Why there is no ordinary answer.
#[derive(Debug)]
pub(super) enum Fail {
    /// The device did something wrong.
    Refusal(Refusal),
    /// We did.
    Internal(String),
}

impl From<Refusal> for Fail {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(refusal)
    }
}

impl From<StoreError> for Fail {
    fn from(error: StoreError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<envelope::EnvelopeError> for Fail {
    fn from(error: envelope::EnvelopeError) -> Self {
        Self::Internal(error.to_string())
    }
}

/// What a device gets.
#[derive(Debug)]
pub(super) enum Answer {
    /// Only a status.
    Empty(StatusCode),
    /// A message, in an envelope for v2 and bare for v1.
    Message(StatusCode, Vec<u8>),
}

async fn handle(State(evc): State<Arc<Evc>>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let id = request.headers().get("x-request-id").cloned();
    let id = id
        .as_ref()
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let outcome = answer(&evc, request).await;
    match outcome {
        Ok((route, answer)) => match finish(&evc, route.api, answer) {
            Ok(response) => {
                let status = response.status().as_u16();
                tracing::debug!(%method, path, status, id, "answered");
                response
            }
            Err(why) => internal(&path, &why),
        },
        Err(Fail::Refusal(refusal)) => {
            let status = refusal.status.as_u16();
            tracing::info!(%method, path, status, reason = refusal.reason, id, "refused");
            let mut response = Response::new(Body::from(refusal.reason + "\n"));
            *response.status_mut() = refusal.status;
            set_type(&mut response, "text/plain; charset=utf-8");
            response
        }
        Err(Fail::Internal(why)) => internal(&path, &why),
    }
}

fn internal(path: &str, why: &str) -> Response {
    tracing::error!(path, why, "no answer");
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

fn set_type(response: &mut Response, kind: &'static str) {
    response
        .headers_mut()
        .insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
}

fn finish(evc: &Evc, api: Api, answer: Answer) -> Result<Response, String> {
    let (status, body) = match answer {
        Answer::Empty(status) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = status;
            return Ok(response);
        }
        Answer::Message(status, payload) => match api {
            Api::V1 => (status, payload),
            Api::V2 => {
                let sealed = evc.pki().signer.seal(payload).map_err(|e| e.to_string())?;
                (status, sealed.encode_to_vec())
            }
        },
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    set_type(&mut response, PROTO);
    Ok(response)
}

async fn answer(evc: &Evc, request: Request) -> Result<(Route, Answer), Fail> {
    let (parts, body) = request.into_parts();
    let route = route(&parts.method, parts.uri.path())?;
    let served = match (evc.apis, route.api) {
        (Apis::Both, _) | (Apis::V1, Api::V1) | (Apis::V2, Api::V2) => true,
        (Apis::V1, Api::V2) | (Apis::V2, Api::V1) => false,
    };
    if !served {
        return Err(Refusal::not_found("this generation of the API is switched off").into());
    }
    let body = if parts.method == Method::POST {
        check_type(&parts.headers)?;
        read_body(body, route.action).await?
    } else {
        Bytes::new()
    };
    let peer = parts.extensions.get::<PeerCert>().and_then(|p| p.0);
    let answer = match (route.api, route.action) {
        (Api::V2, Action::Ping) => Answer::Empty(StatusCode::OK),
        (Api::V2, Action::Certs) => certs(evc),
        (Api::V2, Action::Register) => register_v2(evc, &body).await?,
        (Api::V2, Action::Uuid) => uuid_v2(evc, &body).await?,
        (Api::V2, _) => with_device(evc, route, &body).await?,
        (Api::V1, action) => v1(evc, action, peer, &parts.method, &body).await?,
    };
    Ok((route, answer))
}

fn check_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let found = headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let kind = found.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case(PROTO) {
        Ok(())
    } else {
        Err(Refusal {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            reason: format!("content type {found:?} is not {PROTO}"),
        })
    }
}

async fn read_body(body: Body, action: Action) -> Result<Bytes, Refusal> {
    // Logs are in an envelope too: some room for that.
    let limit = match action {
        Action::NewLogs | Action::AppNewLogs(_) => logs::MAX_COMPRESSED + 4096,
        _ => MAX_MESSAGE,
    };
    match tokio::time::timeout(BODY, to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(Refusal {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            reason: format!("more than {limit} bytes, or cut short: {error}"),
        }),
        Err(_) => Err(Refusal {
            status: StatusCode::REQUEST_TIMEOUT,
            reason: "the body took too long".to_owned(),
        }),
    }
}

fn certs(evc: &Evc) -> Answer {
    let certs = evc
        .pki()
        .certs
        .iter()
        .map(|cert| ZCert {
            hash_algo: HashAlgorithm::Sha25632bytes.into(),
            cert_hash: cert.hash.to_vec(),
            r#type: match cert.kind {
                ControllerCertKind::Signing => ZCertType::CertTypeControllerSigning,
                ControllerCertKind::Intermediate => ZCertType::CertTypeControllerIntermediate,
                ControllerCertKind::EcdhExchange => ZCertType::CertTypeControllerEcdhExchange,
            }
            .into(),
            cert: cert.pem.clone().into_bytes(),
            ..ZCert::default()
        })
        .collect();
    Answer::Message(StatusCode::OK, ZControllerCert { certs }.encode_to_vec())
}

async fn register_v2(evc: &Evc, body: &[u8]) -> Result<Answer, Fail> {
    let container = decode::<AuthContainer>(body)?;
    envelope::sender(&container).map_err(|e| authenticate::refuse(&e))?;
    let onboarding = register::onboarding_cert(&container.sender_cert)?;
    let payload = envelope::open(&container, &onboarding)
        .map_err(|e| authenticate::refuse(&e))?
        .to_vec();
    register_device(evc, &payload, onboarding.hash(), Api::V2).await
}

async fn register_device(
    evc: &Evc,
    payload: &[u8],
    onboarding: crate::cert::CertHash,
    api: Api,
) -> Result<Answer, Fail> {
    if evc
        .store
        .read(move |c| store::onboarding::cert(c, &onboarding))
        .await?
        .is_none()
    {
        return Err(Refusal::unauthorized("the onboarding certificate is not known").into());
    }
    let request = register::parse(&decode::<ZRegisterMsg>(payload)?)?;
    let entered = evc
        .store
        .write(move |c| devices::register(c, &request, onboarding))
        .await??;
    if entered.new {
        tracing::info!(device = %entered.uuid, ?api, "registered");
        return Ok(Answer::Empty(StatusCode::CREATED));
    }
    Ok(Answer::Empty(StatusCode::OK))
}

async fn uuid_v2(evc: &Evc, body: &[u8]) -> Result<Answer, Fail> {
    let container = decode::<AuthContainer>(body)?;
    let hash = envelope::sender(&container)
        .map_err(|e| authenticate::refuse(&e))?
        .to_vec();
    let device = evc.store.read(move |c| devices::by_hash(c, &hash)).await?;
    let caller = device.as_ref().map(Device::caller);
    authenticate::sender(&container, caller.as_ref())?;
    let device = device.ok_or_else(|| Refusal::unauthorized("not known"))?;
    contact(evc, device.uuid, Api::V2);
    uuid_answer(&device)
}

fn uuid_answer(device: &Device) -> Result<Answer, Fail> {
    let spec = desired::spec(device)?;
    let response = UuidResponse {
        uuid: device.uuid.to_string(),
        manufacturer: spec.labels.manufacturer,
        product_name: spec.labels.product,
    };
    Ok(Answer::Message(StatusCode::OK, response.encode_to_vec()))
}

/// The v2 paths that name a device.
async fn with_device(evc: &Evc, route: Route, body: &[u8]) -> Result<Answer, Fail> {
    let container = decode::<AuthContainer>(body)?;
    let hash = envelope::sender(&container)
        .map_err(|e| authenticate::refuse(&e))?
        .to_vec();
    let uuid = route
        .device
        .ok_or_else(|| Refusal::not_found("no UUID in the path"))?;
    let (named, by_hash) = evc
        .store
        .read(move |c| Ok((devices::by_uuid(c, uuid)?, devices::by_hash(c, &hash)?)))
        .await?;
    let callers = (
        named.as_ref().map(Device::caller),
        by_hash.as_ref().map(Device::caller),
    );
    let payload = authenticate::device(&container, callers.0.as_ref(), callers.1.as_ref())?;
    let device = named.ok_or_else(|| Refusal::not_found("no such device"))?;
    contact(evc, device.uuid, Api::V2);
    match route.action {
        Action::Config => config_answer(evc, device, payload, Api::V2).await,
        Action::Attest => super::device_attest::answer(evc, device, payload).await,
        action => report(evc, device.uuid, action, payload, Api::V2).await,
    }
}

async fn config_answer(
    evc: &Evc,
    device: Device,
    payload: &[u8],
    api: Api,
) -> Result<Answer, Fail> {
    let request = decode::<ConfigRequest>(payload)?;
    let (pki, asking) = (evc.pki(), device.clone());
    let Wanted {
        spec,
        built,
        protection,
    } = evc
        .store
        .read(move |c| desired::configuration(c, &asking, &pki))
        .await?;
    let facts = config::Facts {
        policy: spec.policy.attestation,
        token: device.token.as_deref(),
        hash: &built.hash,
    };
    let verdict = match api {
        Api::V2 => config::v2(&request.config_hash, &request.integrity_token, facts)?,
        Api::V1 => config::v1(&request.config_hash, facts)?,
    };
    if device.sent_version != device.version {
        let (uuid, version) = (device.uuid, device.version);
        evc.store
            .write(move |c| devices::sent(c, uuid, version))
            .await?;
    }
    match verdict {
        config::Verdict::Unchanged => Ok(Answer::Empty(StatusCode::NOT_MODIFIED)),
        config::Verdict::Send => {
            if let Protection::InTheClear { .. } = protection {
                tracing::warn!(device = %device.name, secrets = protection.text(), "config");
            }
            let response = ConfigResponse {
                config: Some(built.config),
                config_hash: built.hash,
            };
            Ok(Answer::Message(StatusCode::OK, response.encode_to_vec()))
        }
    }
}

async fn report(
    evc: &Evc,
    device: Uuid,
    action: Action,
    payload: &[u8],
    api: Api,
) -> Result<Answer, Fail> {
    let kind = match action {
        Action::Info => Kind::Info,
        Action::Metrics => Kind::Metrics,
        Action::FlowLog => Kind::FlowLog,
        Action::HardwareHealth => Kind::HardwareHealth,
        Action::NewLogs => {
            return keep_logs(evc, device, None, payload, logs::parse(payload)?).await;
        }
        Action::AppNewLogs(app) => {
            return keep_logs(evc, device, Some(app), payload, logs::parse(payload)?).await;
        }
        Action::Logs => {
            let bundle = decode::<api::logs::LogBundle>(payload)?;
            let upload = logs::from_entries(bundle.log);
            return keep_logs(evc, device, None, payload, upload).await;
        }
        Action::AppLogs(app) => {
            let bundle = decode::<api::logs::AppInstanceLogBundle>(payload)?;
            let upload = logs::from_entries(bundle.log);
            return keep_logs(evc, device, Some(app), payload, upload).await;
        }
        Action::Certs
        | Action::Ping
        | Action::Register
        | Action::Uuid
        | Action::Config
        | Action::Attest => {
            return Err(
                Refusal::not_found(format!("{action:?} of {api:?} is not a report")).into(),
            );
        }
    };
    let report = messages::read(kind, device, payload)?;
    evc.store
        .write(move |c| store::messages::put(c, device, &report))
        .await?;
    Ok(Answer::Empty(StatusCode::CREATED))
}

async fn keep_logs(
    evc: &Evc,
    device: Uuid,
    app: Option<Uuid>,
    body: &[u8],
    upload: logs::Upload,
) -> Result<Answer, Fail> {
    if let Some(origin) = &upload.origin
        && !origin.dev_id.is_empty()
        && origin.dev_id.parse::<Uuid>().ok() != Some(device)
    {
        return Err(Refusal::unprocessable("devID in the gzip header is not the sender").into());
    }
    let digest: [u8; 32] = Sha256::digest(body).into();
    let new = evc
        .store
        .write(move |c| store::logs::put(c, device, app, &digest, &upload))
        .await?;
    Ok(Answer::Empty(if new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    }))
}

/// The v1 paths: who it is was settled by TLS.
async fn v1(
    evc: &Evc,
    action: Action,
    peer: Option<crate::cert::CertHash>,
    method: &Method,
    body: &[u8],
) -> Result<Answer, Fail> {
    let hash = peer.ok_or_else(|| Refusal::unauthorized("v1 needs a TLS client certificate"))?;
    if action == Action::Register {
        return register_device(evc, body, hash, Api::V1).await;
    }
    let (device, batch) = evc
        .store
        .read(move |c| {
            Ok((
                devices::by_hash(c, &hash)?,
                store::onboarding::cert(c, &hash)?,
            ))
        })
        .await?;
    if action == Action::Ping {
        return if device.is_some() || batch.is_some() {
            Ok(Answer::Empty(StatusCode::OK))
        } else {
            Err(Refusal::unauthorized("the client certificate is not known").into())
        };
    }
    let device =
        device.ok_or_else(|| Refusal::unauthorized("the client certificate is no device's"))?;
    authenticate::admitted(&device.caller())?;
    contact(evc, device.uuid, Api::V1);
    match action {
        Action::Uuid => uuid_answer(&device),
        Action::Config if method == Method::GET => bare_config(evc, device).await,
        Action::Config => config_answer(evc, device, body, Api::V1).await,
        _ => report(evc, device.uuid, action, body, Api::V1).await,
    }
}

/// The oldest form: the configuration itself, always.
async fn bare_config(evc: &Evc, device: Device) -> Result<Answer, Fail> {
    let (pki, asking) = (evc.pki(), device.clone());
    let Wanted { spec, built, .. } = evc
        .store
        .read(move |c| desired::configuration(c, &asking, &pki))
        .await?;
    let facts = config::Facts {
        policy: spec.policy.attestation,
        token: device.token.as_deref(),
        hash: &built.hash,
    };
    config::v1("", facts)?;
    Ok(Answer::Message(
        StatusCode::OK,
        built.config.encode_to_vec(),
    ))
}

/// Notes a contact, now and then.
fn contact(evc: &Evc, device: Uuid, api: Api) {
    let now = now_ms();
    let due = evc.contacts.lock().is_ok_and(|mut contacts| {
        let last = contacts.insert(device, now).unwrap_or(0);
        let due = now - last >= CONTACT_MS;
        if !due {
            contacts.insert(device, last);
        }
        due
    });
    if due {
        let store = evc.store.clone();
        tokio::spawn(async move {
            if let Err(error) = store
                .write(move |c| devices::seen(c, device, api, now))
                .await
            {
                tracing::warn!(%device, %error, "noting a contact");
            }
        });
    }
}
