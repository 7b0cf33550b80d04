//! Changing what devices should be: every change is checked by building the configuration that
//! it leads to, in the same transaction that stores it.

use api::info::ZInfoMsg;
use api::info::z_info_msg::InfoContent;
use prost::Message as _;
use rusqlite::Connection;
use uuid::Uuid;

use super::admin::find;
use super::{Evc, desired};
use crate::admin::{AppOrder, AppView, Applied, Apply, Deploy, Deployed, Ordered, time};
use crate::config::read::closest;
use crate::config::{self, DeviceSpec, Problem, Problems, deploy, manifest, object_id, read};
use crate::decide::messages::Kind;
use crate::store::devices::{self, Device};
use crate::store::{StoreError, apps as app_store, messages};

/// Why nothing was changed.
#[derive(Debug)]
pub(super) enum EditError {
    /// There is no such thing.
    NotFound(String),
    /// Not so.
    Forbidden(String),
    /// What is wanted makes no sense.
    Problems(Problems),
    /// The store failed.
    Store(StoreError),
}

impl From<StoreError> for EditError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Problems> for EditError {
    fn from(problems: Problems) -> Self {
        Self::Problems(problems)
    }
}

/// Changes the spec of a device; unchanged specs make no new version.
fn edit<T>(
    conn: &Connection,
    device: &Device,
    certs_hash: &str,
    change: impl FnOnce(&mut DeviceSpec) -> Result<T, EditError>,
) -> Result<(T, i64, bool), EditError> {
    let old = desired::spec(device)?;
    let mut new = old.clone();
    let value = change(&mut new)?;
    if new == old {
        return Ok((value, device.version, false));
    }
    config::build(&new, &desired::identity(conn, device, certs_hash)?)?;
    let text = serde_json::to_string(&new).map_err(|e| StoreError::Corrupt {
        what: "spec of device",
        key: device.name.clone(),
        why: e.to_string(),
    })?;
    let version = devices::set_spec(conn, device.uuid, &text)?;
    Ok((value, version, true))
}

/// Applies all documents or none.
pub(super) async fn apply(evc: &Evc, apply: Apply) -> Result<Vec<Applied>, EditError> {
    let documents = read::yaml(&apply.yaml)?;
    let certs_hash = evc.pki().certs_hash();
    let several = documents.len() > 1;
    let job = move |conn: &Connection| -> Result<Vec<Applied>, EditError> {
        let mut applied = Vec::new();
        for document in documents {
            let device = find(conn, &document.device)?;
            let outcome = edit(conn, &device, &certs_hash, |spec| {
                *spec = document.spec;
                Ok(())
            });
            let ((), version, changed) = outcome.map_err(|error| match error {
                EditError::Problems(problems) if several => {
                    EditError::Problems(prefixed(&device.name, problems))
                }
                other => other,
            })?;
            applied.push(Applied {
                device: device.name,
                version,
                changed,
            });
        }
        Ok(applied)
    };
    let dry_run = apply.dry_run;
    let outcome = evc
        .store
        .try_write(move |conn| match job(conn) {
            Ok(applied) if dry_run => Err(NotKept::DryRun(applied)),
            Ok(applied) => Ok(applied),
            Err(error) => Err(NotKept::Failed(error)),
        })
        .await;
    match outcome {
        Ok(applied) | Err(NotKept::DryRun(applied)) => Ok(applied),
        Err(NotKept::Failed(error)) => Err(error),
    }
}

/// Why a transaction is rolled back.
enum NotKept {
    /// It was only to see what would happen.
    DryRun(Vec<Applied>),
    /// It can't be done.
    Failed(EditError),
}

impl From<StoreError> for NotKept {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

fn prefixed(device: &str, problems: Problems) -> Problems {
    let prefix = |p: Problem| Problem::new(format!("{device}: {}", p.path), p.what);
    Problems(problems.0.into_iter().map(prefix).collect())
}

/// Puts an application on a device.
pub(super) async fn deploy(
    evc: &Evc,
    device: String,
    wanted: Deploy,
) -> Result<Deployed, EditError> {
    let needs = manifest::understand(&read::typed(wanted.manifest)?)?;
    let certs_hash = evc.pki().certs_hash();
    let job = move |conn: &Connection| {
        let device = find(conn, &device)?;
        let (app, version, _) = edit(conn, &device, &certs_hash, |spec| {
            Ok(deploy::deploy(spec, &needs, &wanted.options)?)
        })?;
        let uuid = object_id(device.uuid, "app", &app);
        Ok(Deployed {
            app,
            uuid,
            version,
            notes: needs.notes,
        })
    };
    evc.store.try_write(job).await
}

/// Gives an application an order.
pub(super) async fn order_app(
    evc: &Evc,
    device: String,
    app: String,
    order: AppOrder,
) -> Result<Ordered, EditError> {
    let certs_hash = evc.pki().certs_hash();
    let job = move |conn: &Connection| {
        let device = find(conn, &device)?;
        let name = app_name(&desired::spec(&device)?, &device, &app)?;
        let counted = |order| -> Result<Ordered, EditError> {
            let counter = app_store::order(conn, device.uuid, &name, order)?;
            let version = devices::by_uuid(conn, device.uuid)?.map_or(0, |d| d.version);
            Ok(Ordered {
                counter: Some(counter),
                version,
            })
        };
        let activate = match order {
            AppOrder::Restart => return counted(app_store::AppOrder::Restart),
            AppOrder::Purge => return counted(app_store::AppOrder::Purge),
            AppOrder::Start => true,
            AppOrder::Stop => false,
        };
        let ((), version, _) = edit(conn, &device, &certs_hash, |spec| {
            for app in spec.apps.iter_mut().filter(|a| a.name == name) {
                app.activate = activate;
            }
            Ok(())
        })?;
        Ok(Ordered {
            counter: None,
            version,
        })
    };
    evc.store.try_write(job).await
}

/// Removes an application from a device.
pub(super) async fn delete_app(
    evc: &Evc,
    device: String,
    app: String,
) -> Result<Ordered, EditError> {
    let certs_hash = evc.pki().certs_hash();
    let job = move |conn: &Connection| {
        let device = find(conn, &device)?;
        let name = app_name(&desired::spec(&device)?, &device, &app)?;
        let (_, version, _) = edit(conn, &device, &certs_hash, |spec| {
            Ok(deploy::remove(spec, &name))
        })?;
        Ok(Ordered {
            counter: None,
            version,
        })
    };
    evc.store.try_write(job).await
}

/// The name of the application that a person means by name or UUID.
fn app_name(spec: &DeviceSpec, device: &Device, text: &str) -> Result<String, EditError> {
    let is = |name: &str| name == text || text.parse() == Ok(object_id(device.uuid, "app", name));
    if let Some(app) = spec.apps.iter().find(|a| is(&a.name)) {
        return Ok(app.name.clone());
    }
    let hint = closest(text, spec.apps.iter().map(|a| a.name.as_str()))
        .map_or_else(String::new, |meant| format!("; did you mean {meant:?}?"));
    Err(EditError::NotFound(format!(
        "no app called {text:?} on {}{hint}",
        device.name
    )))
}

/// The UUID of an application by name or UUID.
pub(super) fn app_id(device: Option<Uuid>, app: &str) -> Result<String, EditError> {
    match (Uuid::parse_str(app), device) {
        (Ok(uuid), _) => Ok(uuid.to_string()),
        (Err(_), Some(device)) => Ok(object_id(device, "app", app).to_string()),
        (Err(_), None) => {
            Err(Problems::one("app", "give the device too, or the app's UUID").into())
        }
    }
}

/// The applications of a device, as wanted and as reported.
pub(super) fn apps(conn: &Connection, device: &Device) -> Result<Vec<AppView>, EditError> {
    let orders = app_store::orders(conn, device.uuid)?;
    let mut views = Vec::new();
    for app in desired::spec(device)?.apps {
        let uuid = object_id(device.uuid, "app", &app.name);
        let mut view = AppView {
            orders: orders.get(&app.name).copied().unwrap_or_default(),
            device: device.name.clone(),
            activate: app.activate,
            cpus: app.cpus,
            memory: app.memory.0,
            name: app.name,
            uuid,
            state: None,
            addresses: Vec::new(),
            errors: Vec::new(),
            reported: None,
        };
        add_report(conn, device.uuid, &mut view)?;
        views.push(view);
    }
    Ok(views)
}

fn add_report(conn: &Connection, device: Uuid, view: &mut AppView) -> Result<(), EditError> {
    let query = messages::Query {
        kind: Kind::Info,
        device: Some(device),
        object: Some(format!("app/{}", view.uuid)),
        latest: true,
        after: None,
        limit: 1,
    };
    let Some(row) = messages::query(conn, &query)?.pop() else {
        return Ok(());
    };
    view.reported = time(row.received_ms);
    let Ok(message) = ZInfoMsg::decode(row.body.as_slice()) else {
        return Ok(());
    };
    if let Some(InfoContent::Ainfo(app)) = message.info_content {
        view.state = Some(app.state().as_str_name().to_owned());
        view.addresses = app
            .network
            .into_iter()
            .flat_map(|n| n.ip_addrs)
            .filter(|a| !a.is_empty())
            .collect();
        view.errors = app.app_err.into_iter().map(|e| e.description).collect();
    }
    Ok(())
}
