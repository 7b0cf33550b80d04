//! The admin API: what `evc` asks for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use rusqlite::Connection;
use uuid::Uuid;

use super::admin_edit::{self, EditError};
use super::{Evc, Wanted, admin_trust, desired};
use crate::admin::{
    Admitted, AppView, Applied, Apply, Claim, ConfigView, Deploy, Deployed, DeviceOrder,
    DeviceView, ErrorView, LogQuery, LogView, MessageQuery, MessageView, NewAdmission, NewDevice,
    Order, Ordered, time,
};
use crate::cert::Certificate;
use crate::config::read::closest;
use crate::decide::register::Admission;
use crate::decide::{claim, logs::Line, messages};
use crate::secret::same;
use crate::store::devices::{self, Device};
use crate::store::{self, StoreError, onboarding};

/// Rows of one answer at most.
const MAX_ROWS: u32 = 10_000;
/// Longest wait of a follower, seconds.
const MAX_WAIT: u64 = 30;

/// The admin API as a router.
pub fn router(evc: Arc<Evc>) -> Router {
    Router::new()
        .route("/v1/devices", get(list_devices).post(add_device))
        .route(
            "/v1/devices/{device}",
            get(show_device).delete(delete_device),
        )
        .route("/v1/devices/{device}/claim", post(claim_device))
        .route("/v1/devices/{device}/order", post(order_device))
        .route("/v1/devices/{device}/config", get(show_config))
        .route("/v1/devices/{device}/apps", get(list_apps).post(deploy_app))
        .route(
            "/v1/devices/{device}/apps/{app}",
            axum::routing::delete(delete_app),
        )
        .route("/v1/devices/{device}/apps/{app}/order", post(order_app))
        .route("/v1/apply", post(apply))
        .route(
            "/v1/onboarding",
            get(list_onboarding).post(admit).delete(dismiss),
        )
        .merge(admin_trust::routes())
        .route("/v1/messages", get(list_messages))
        .route("/v1/logs", get(list_logs))
        .fallback(|| async { Error::not_found("no such path") })
        .layer(middleware::from_fn_with_state(Arc::clone(&evc), authorize))
        .with_state(evc)
}

async fn authorize(State(evc): State<Arc<Evc>>, request: Request, next: Next) -> Response {
    let token = request
        .headers()
        .get("authorization")
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("Bearer "))
        .unwrap_or_default();
    if same(evc.token.as_bytes(), token.as_bytes()) {
        next.run(request).await
    } else {
        Error::new(StatusCode::UNAUTHORIZED, "missing or wrong bearer token").into_response()
    }
}

/// A refusal.
#[derive(Debug)]
pub(super) struct Error {
    status: StatusCode,
    view: ErrorView,
}

impl Error {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self {
            status,
            view: ErrorView {
                error: error.into(),
                problems: Vec::new(),
            },
        }
    }

    pub(super) fn not_found(error: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        (self.status, Json(self.view)).into_response()
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "admin request");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

impl From<EditError> for Error {
    fn from(error: EditError) -> Self {
        match error {
            EditError::NotFound(what) => Self::not_found(what),
            EditError::Forbidden(why) => Self::new(StatusCode::FORBIDDEN, why),
            EditError::Problems(problems) => Self {
                status: StatusCode::UNPROCESSABLE_ENTITY,
                view: ErrorView {
                    error: problems.to_string(),
                    problems: problems.0,
                },
            },
            EditError::Store(error) => error.into(),
        }
    }
}

pub(super) type Answer<T> = Result<Json<T>, Error>;

/// The device that a person means, or an error that helps.
pub(super) fn find(conn: &Connection, text: &str) -> Result<Device, EditError> {
    if let Some(device) = devices::by_text(conn, text)? {
        return Ok(device);
    }
    let names: Vec<String> = devices::all(conn)?.into_iter().map(|d| d.name).collect();
    let hint = match closest(text, names.iter().map(String::as_str)) {
        Some(meant) => format!("; did you mean {meant:?}?"),
        None if names.is_empty() => "; no device has registered yet".to_owned(),
        None => String::new(),
    };
    Err(EditError::NotFound(format!(
        "no device called {text:?}{hint}"
    )))
}

/// Reads with errors of both kinds.
pub(super) async fn read<T: Send + 'static>(
    evc: &Evc,
    query: impl FnOnce(&Connection) -> Result<T, EditError> + Send + 'static,
) -> Result<T, Error> {
    Ok(evc.store.read(|conn| Ok(query(conn))).await??)
}

/// Writes with errors of both kinds.
pub(super) async fn write<T: Send + 'static>(
    evc: &Evc,
    job: impl FnOnce(&Connection) -> Result<T, EditError> + Send + 'static,
) -> Result<T, Error> {
    Ok(evc.store.try_write(job).await?)
}

pub(super) fn view(device: &Device) -> DeviceView {
    let apps = desired::spec(device).map(|s| s.apps.into_iter().map(|a| a.name).collect());
    DeviceView {
        uuid: device.uuid,
        name: device.name.clone(),
        serial: device.serial.clone(),
        soft_serial: device.soft_serial.clone(),
        cert: hex::encode(device.cert.hash()),
        claimed: device.claimed,
        created: time(device.created_ms),
        seen: time(device.seen_ms),
        api: device.seen_api.clone(),
        version: device.version,
        sent_version: device.sent_version,
        attested: time(device.attested_ms),
        attestation: device.attest_note.clone(),
        apps: apps.unwrap_or_default(),
        orders: device.orders,
        secrets: String::new(),
    }
}

async fn list_devices(State(evc): State<Arc<Evc>>) -> Answer<Vec<DeviceView>> {
    let all = evc.store.read(devices::all).await?;
    Ok(Json(all.iter().map(view).collect()))
}

async fn show_device(
    State(evc): State<Arc<Evc>>,
    Path(device): Path<String>,
) -> Answer<DeviceView> {
    let pki = evc.pki();
    let (device, wanted) = read(&evc, move |c| {
        let device = find(c, &device)?;
        let wanted = desired::configuration(c, &device, &pki)?;
        Ok((device, wanted))
    })
    .await?;
    Ok(Json(DeviceView {
        secrets: wanted.protection.text(),
        ..view(&device)
    }))
}

async fn add_device(State(evc): State<Arc<Evc>>, Json(new): Json<NewDevice>) -> Answer<DeviceView> {
    let cert = certificate(&new.cert)?;
    let entered = evc
        .store
        .write(move |c| {
            if devices::by_hash(c, &cert.hash())?.is_some() {
                return Ok(None);
            }
            let serial = new.serial;
            let row = devices::NewDevice {
                name: new.name,
                soft_serial: String::new(),
                serial,
                onboarding: None,
                cert,
                claimed: !new.hold,
                ek: None,
                code: None,
            };
            let uuid = devices::insert(c, &row)?;
            devices::by_uuid(c, uuid)
        })
        .await?;
    match entered {
        Some(device) => Ok(Json(view(&device))),
        None => Err(Error::new(
            StatusCode::CONFLICT,
            "a device has this certificate already",
        )),
    }
}

pub(super) fn certificate(pem: &str) -> Result<Certificate, Error> {
    Certificate::from_pem(pem.as_bytes())
        .map_err(|e| Error::new(StatusCode::UNPROCESSABLE_ENTITY, format!("cert: {e}")))
}

async fn claim_device(
    State(evc): State<Arc<Evc>>,
    Path(device): Path<String>,
    Json(claim): Json<Claim>,
) -> Answer<DeviceView> {
    let device = write(&evc, move |c| {
        let device = find(c, &device)?;
        if device.code.is_some() {
            let text = "it can only be claimed with the code that came with it";
            return Err(EditError::Forbidden(text.to_owned()));
        }
        devices::claim(c, device.uuid, claim.name.as_deref())?;
        Ok(devices::by_uuid(c, device.uuid)?.unwrap_or(device))
    })
    .await?;
    Ok(Json(view(&device)))
}

async fn delete_device(State(evc): State<Arc<Evc>>, Path(device): Path<String>) -> Answer<()> {
    write(&evc, move |c| {
        let device = find(c, &device)?;
        Ok(devices::delete(c, device.uuid)?)
    })
    .await?;
    Ok(Json(()))
}

async fn order_device(
    State(evc): State<Arc<Evc>>,
    Path(device): Path<String>,
    Json(Order { order }): Json<Order<DeviceOrder>>,
) -> Answer<Ordered> {
    let ordered = write(&evc, move |c| {
        let device = find(c, &device)?;
        let counter = match order {
            DeviceOrder::Reboot => Some(devices::order(c, device.uuid, devices::Order::Reboot)?),
            DeviceOrder::Shutdown => {
                Some(devices::order(c, device.uuid, devices::Order::Shutdown)?)
            }
            DeviceOrder::Attest => {
                store::attest::void_token(c, device.uuid)?;
                None
            }
        };
        let version = devices::by_uuid(c, device.uuid)?.map_or(device.version, |d| d.version);
        Ok(Ordered { counter, version })
    })
    .await?;
    Ok(Json(ordered))
}

async fn show_config(
    State(evc): State<Arc<Evc>>,
    Path(device): Path<String>,
) -> Answer<ConfigView> {
    let pki = evc.pki();
    let (version, wanted) = read(&evc, move |c| {
        let device = find(c, &device)?;
        Ok((device.version, desired::configuration(c, &device, &pki)?))
    })
    .await?;
    let Wanted {
        spec,
        built,
        protection,
    } = wanted;
    let json = |e: serde_json::Error| {
        Error::new(StatusCode::INTERNAL_SERVER_ERROR, format!("as JSON: {e}"))
    };
    Ok(Json(ConfigView {
        version,
        hash: built.hash,
        secrets: protection.text(),
        spec: serde_json::to_value(spec).map_err(json)?,
        config: serde_json::to_value(built.config).map_err(json)?,
    }))
}

async fn apply(State(evc): State<Arc<Evc>>, Json(apply): Json<Apply>) -> Answer<Vec<Applied>> {
    Ok(Json(admin_edit::apply(&evc, apply).await?))
}

async fn list_apps(
    State(evc): State<Arc<Evc>>,
    Path(device): Path<String>,
) -> Answer<Vec<AppView>> {
    Ok(Json(
        read(&evc, move |c| admin_edit::apps(c, &find(c, &device)?)).await?,
    ))
}

async fn deploy_app(
    State(evc): State<Arc<Evc>>,
    Path(device): Path<String>,
    Json(deploy): Json<Deploy>,
) -> Answer<Deployed> {
    Ok(Json(admin_edit::deploy(&evc, device, deploy).await?))
}

async fn order_app(
    State(evc): State<Arc<Evc>>,
    Path((device, app)): Path<(String, String)>,
    Json(Order { order }): Json<Order<crate::admin::AppOrder>>,
) -> Answer<Ordered> {
    Ok(Json(admin_edit::order_app(&evc, device, app, order).await?))
}

async fn delete_app(
    State(evc): State<Arc<Evc>>,
    Path((device, app)): Path<(String, String)>,
) -> Answer<Ordered> {
    Ok(Json(admin_edit::delete_app(&evc, device, app).await?))
}

async fn list_onboarding(State(evc): State<Arc<Evc>>) -> Answer<Vec<onboarding::AdmissionRow>> {
    Ok(Json(evc.store.read(onboarding::all).await?))
}

async fn admit(State(evc): State<Arc<Evc>>, Json(new): Json<NewAdmission>) -> Answer<Admitted> {
    if new.serial.trim().is_empty() {
        return Err(Error::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "serial is empty; `*` admits any",
        ));
    }
    let cert = batch(&evc, new.cert.as_deref()).await?;
    let bad = |text: &str| Error::new(StatusCode::UNPROCESSABLE_ENTITY, text);
    let serial = new.serial.trim().to_owned();
    if serial == "*" && (new.code || new.ek.is_some()) {
        return Err(bad(
            "a code or an endorsement key is one device's: give its serial",
        ));
    }
    let ek = new.ek.as_deref().map(admin_trust::parse_ek).transpose()?;
    let code = new.code.then(claim::fresh);
    let told = code.clone();
    evc.store
        .write(move |c| {
            let salt = store::salt(c)?;
            let admission = Admission {
                serial,
                name: new.name,
                // A code that nobody has to give would be none.
                hold: new.hold || code.is_some(),
                ek,
                code: code.map(|code| claim::digest(&code, &salt)),
            };
            onboarding::add(c, &cert, Some(&admission))
        })
        .await?;
    Ok(Json(Admitted { code: told }))
}

async fn dismiss(State(evc): State<Arc<Evc>>, Json(old): Json<NewAdmission>) -> Answer<()> {
    let cert = batch(&evc, old.cert.as_deref()).await?;
    let serial = old.serial.clone();
    let found = evc
        .store
        .write(move |c| onboarding::remove(c, &cert.hash(), &serial))
        .await?;
    if found {
        Ok(Json(()))
    } else {
        Err(Error::not_found(format!(
            "no admission for serial {:?}",
            old.serial
        )))
    }
}

/// The given onboarding certificate, or the only one there is.
async fn batch(evc: &Evc, pem: Option<&str>) -> Result<Certificate, Error> {
    if let Some(pem) = pem {
        return certificate(pem);
    }
    let known = evc.store.read(onboarding::certs).await?;
    match known.as_slice() {
        [only] => certificate(only),
        [] => Err(Error::not_found(
            "there is no onboarding certificate; give one",
        )),
        _ => Err(Error::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "there are several onboarding certificates; give one",
        )),
    }
}

async fn list_messages(
    State(evc): State<Arc<Evc>>,
    Query(query): Query<MessageQuery>,
) -> Answer<Vec<MessageView>> {
    let wanted = store::messages::Query {
        kind: query.kind,
        device: device_id(&evc, query.device).await?,
        object: query.object,
        latest: query.latest,
        after: query.after,
        limit: query.limit.min(MAX_ROWS),
    };
    let rows = follow(&evc, query.wait, move |c| {
        store::messages::query(c, &wanted)
    })
    .await?;
    let views = rows.into_iter().map(|row| {
        let message = messages::to_json(query.kind, &row.body)
            .map_err(|e| Error::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
        Ok(MessageView {
            id: row.id,
            device: row.device,
            object: row.object,
            made: time(row.made_ms),
            received: time(row.received_ms),
            message,
        })
    });
    Ok(Json(views.collect::<Result<_, Error>>()?))
}

async fn list_logs(
    State(evc): State<Arc<Evc>>,
    Query(query): Query<LogQuery>,
) -> Answer<Vec<LogView>> {
    let device = device_id(&evc, query.device).await?;
    let app = query
        .app
        .map(|app| admin_edit::app_id(device, &app))
        .transpose()?;
    let wanted = store::logs::Query {
        device,
        app,
        source: query.source,
        after: query.after,
        limit: query.limit.min(MAX_ROWS),
    };
    let rows = follow(&evc, query.wait, move |c| store::logs::query(c, &wanted)).await?;
    let views = rows.into_iter().map(|row| {
        let line: Line = serde_json::from_str(&row.line).unwrap_or_default();
        LogView {
            id: row.id,
            device: row.device,
            app: row.app,
            time: time(row.made_ms),
            severity: line.severity,
            source: line.source,
            content: line.content,
            msgid: line.msgid,
            tags: line.tags,
        }
    });
    Ok(Json(views.collect()))
}

async fn device_id(evc: &Evc, text: Option<String>) -> Result<Option<Uuid>, Error> {
    match text {
        Some(text) => Ok(Some(read(evc, move |c| Ok(find(c, &text)?.uuid)).await?)),
        None => Ok(None),
    }
}

/// Runs a query until it finds something or the time is up.
async fn follow<T: Send + 'static>(
    evc: &Evc,
    wait: u64,
    query: impl Fn(&Connection) -> Result<Vec<T>, StoreError> + Clone + Send + 'static,
) -> Result<Vec<T>, Error> {
    let deadline = Instant::now() + Duration::from_secs(wait.min(MAX_WAIT));
    let mut commits = evc.store.commits();
    loop {
        commits.mark_unchanged();
        let rows = evc.store.read(query.clone()).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        if !rows.is_empty() || left.is_zero() {
            return Ok(rows);
        }
        if let Ok(Err(_)) = tokio::time::timeout(left, commits.changed()).await {
            return Ok(rows);
        }
    }
}
