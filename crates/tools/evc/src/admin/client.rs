//! A client of the admin API, for the `evc` command, the lab and tests.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::files::{self, AccessFileError};
use super::{
    Accept, Admitted, AppOrder, AppView, Applied, Apply, AttestView, BaselineView, Bind, Bound,
    Claim, ClaimWithCode, Claimed, ConfigView, Deploy, Deployed, DeviceOrder, DeviceView,
    ErrorView, LogQuery, LogView, MessageQuery, MessageView, NewAdmission, NewDevice, Order,
    Ordered, Sign, Signed,
};
use crate::store::onboarding::AdmissionRow;

/// Longest wait for an answer, on top of what a query itself waits.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The controller's directory doesn't say where and how.
    #[error("{0} (is the controller running with this directory?)")]
    Files(#[from] AccessFileError),
    /// The controller can't be reached.
    #[error("{url}: {why}")]
    Connect {
        /// Where.
        url: String,
        /// Why not.
        why: String,
    },
    /// The controller says no.
    #[error("{}", show(.error))]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// What it says.
        error: ErrorView,
    },
    /// The controller answers something else than expected.
    #[error("{url}: unexpected answer: {why}")]
    Answer {
        /// Where.
        url: String,
        /// What is wrong with it.
        why: String,
    },
}

fn show(error: &ErrorView) -> String {
    if error.problems.is_empty() {
        error.error.clone()
    } else {
        let lines: Vec<_> = error.problems.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }
}

/// A client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    base: String,
    token: String,
    http: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
}

impl Client {
    /// A client of the controller at `address` (`host:port`).
    pub fn new(address: &str, token: impl Into<String>) -> Self {
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
        let base = format!(
            "http://{}",
            address.trim_start_matches("http://").trim_end_matches('/')
        );
        Self {
            base,
            token: token.into(),
            http,
        }
    }

    /// A client of the controller that runs with the directory `dir` on this machine.
    pub fn from_dir(dir: &Path) -> Result<Self, ClientError> {
        Ok(Self::new(
            &files::read_address(dir)?,
            files::read_token(dir)?,
        ))
    }

    /// All devices.
    pub async fn devices(&self) -> Result<Vec<DeviceView>, ClientError> {
        self.get("/v1/devices").await
    }

    /// One device by name, UUID or serial.
    pub async fn device(&self, device: &str) -> Result<DeviceView, ClientError> {
        self.get(&format!("/v1/devices/{}", escape(device))).await
    }

    /// Enters a device that has no onboarding certificate.
    pub async fn add_device(&self, new: &NewDevice) -> Result<DeviceView, ClientError> {
        self.send(Method::POST, "/v1/devices", new).await
    }

    /// Admits a device that waits.
    pub async fn claim(&self, device: &str, claim: &Claim) -> Result<DeviceView, ClientError> {
        self.send(
            Method::POST,
            &format!("/v1/devices/{}/claim", escape(device)),
            claim,
        )
        .await
    }

    /// Admits a device with the code that came with it.
    pub async fn claim_with_code(&self, claim: &ClaimWithCode) -> Result<Claimed, ClientError> {
        self.send(Method::POST, "/v1/claims", claim).await
    }

    /// Makes a device's certificate out of its request, and enters it.
    pub async fn sign(&self, sign: &Sign) -> Result<Signed, ClientError> {
        self.send(Method::POST, "/v1/devices/sign", sign).await
    }

    /// What a device proved of itself.
    pub async fn attestation(&self, device: &str) -> Result<AttestView, ClientError> {
        self.get(&format!("/v1/devices/{}/attest", escape(device)))
            .await
    }

    /// Accepts what a device proved last.
    pub async fn accept(&self, device: &str, accept: &Accept) -> Result<BaselineView, ClientError> {
        let path = format!("/v1/devices/{}/attest/accept", escape(device));
        self.send(Method::POST, &path, accept).await
    }

    /// Binds a device to an endorsement key.
    pub async fn bind(&self, device: &str, bind: &Bind) -> Result<Bound, ClientError> {
        let path = format!("/v1/devices/{}/ek", escape(device));
        self.send(Method::POST, &path, bind).await
    }

    /// All accepted states.
    pub async fn baselines(&self) -> Result<Vec<BaselineView>, ClientError> {
        self.get("/v1/baselines").await
    }

    /// Accepts a state no longer.
    pub async fn forget_baseline(&self, id: i64) -> Result<(), ClientError> {
        let path = format!("/v1/baselines/{id}");
        self.send(Method::DELETE, &path, &()).await
    }

    /// Forgets a device.
    pub async fn delete_device(&self, device: &str) -> Result<(), ClientError> {
        self.send(
            Method::DELETE,
            &format!("/v1/devices/{}", escape(device)),
            &(),
        )
        .await
    }

    /// Gives a device an order.
    pub async fn order(&self, device: &str, order: DeviceOrder) -> Result<Ordered, ClientError> {
        let path = format!("/v1/devices/{}/order", escape(device));
        self.send(Method::POST, &path, &Order { order }).await
    }

    /// What a device should be.
    pub async fn config(&self, device: &str) -> Result<ConfigView, ClientError> {
        self.get(&format!("/v1/devices/{}/config", escape(device)))
            .await
    }

    /// Says what devices should be.
    pub async fn apply(&self, apply: &Apply) -> Result<Vec<Applied>, ClientError> {
        self.send(Method::POST, "/v1/apply", apply).await
    }

    /// All admissions.
    pub async fn admissions(&self) -> Result<Vec<AdmissionRow>, ClientError> {
        self.get("/v1/onboarding").await
    }

    /// Admits a serial.
    pub async fn admit(&self, new: &NewAdmission) -> Result<Admitted, ClientError> {
        self.send(Method::POST, "/v1/onboarding", new).await
    }

    /// Withdraws an admission; devices that are in stay in.
    pub async fn dismiss(&self, admission: &NewAdmission) -> Result<(), ClientError> {
        self.send(Method::DELETE, "/v1/onboarding", admission).await
    }

    /// The applications of a device.
    pub async fn apps(&self, device: &str) -> Result<Vec<AppView>, ClientError> {
        self.get(&format!("/v1/devices/{}/apps", escape(device)))
            .await
    }

    /// Puts an application on a device.
    pub async fn deploy(&self, device: &str, deploy: &Deploy) -> Result<Deployed, ClientError> {
        self.send(
            Method::POST,
            &format!("/v1/devices/{}/apps", escape(device)),
            deploy,
        )
        .await
    }

    /// Gives an application an order.
    pub async fn app_order(
        &self,
        device: &str,
        app: &str,
        order: AppOrder,
    ) -> Result<Ordered, ClientError> {
        let path = format!("/v1/devices/{}/apps/{}/order", escape(device), escape(app));
        self.send(Method::POST, &path, &Order { order }).await
    }

    /// Removes an application from a device.
    pub async fn delete_app(&self, device: &str, app: &str) -> Result<Ordered, ClientError> {
        let path = format!("/v1/devices/{}/apps/{}", escape(device), escape(app));
        self.send(Method::DELETE, &path, &()).await
    }

    /// Reports of devices, oldest first.
    pub async fn messages(&self, query: &MessageQuery) -> Result<Vec<MessageView>, ClientError> {
        self.query("/v1/messages", query).await
    }

    /// Log lines, in order of receipt.
    pub async fn logs(&self, query: &LogQuery) -> Result<Vec<LogView>, ClientError> {
        self.query("/v1/logs", query).await
    }

    async fn query<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &impl Serialize,
    ) -> Result<T, ClientError> {
        let value = serde_json::to_value(query).map_err(|e| self.odd(path, &e))?;
        let mut pairs = Vec::new();
        for (key, value) in value.as_object().into_iter().flatten() {
            let text = match value {
                serde_json::Value::String(text) => escape(text),
                other => escape(&other.to_string()),
            };
            pairs.push(format!("{key}={text}"));
        }
        self.get(&format!("{path}?{}", pairs.join("&"))).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.exchange(Method::GET, path, Bytes::new()).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| self.odd(path, &e))?;
        self.exchange(method, path, body.into()).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let url = format!("{}{path}", self.base);
        let request = Request::builder()
            .method(method)
            .uri(&url)
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|e| self.odd(path, &e))?;
        let connect = |why: String| ClientError::Connect {
            url: self.base.clone(),
            why,
        };
        let exchange = async {
            let response = self
                .http
                .request(request)
                .await
                .map_err(|e| connect(chain(&e)))?;
            let status = response.status();
            let body = response
                .into_body()
                .collect()
                .await
                .map_err(|e| connect(chain(&e)))?;
            Ok::<_, ClientError>((status, body.to_bytes()))
        };
        let (status, body) = tokio::time::timeout(TIMEOUT, exchange)
            .await
            .map_err(|_| connect("no answer in time".to_owned()))??;
        if status.is_success() {
            let body = if body.is_empty() {
                Bytes::from_static(b"null")
            } else {
                body
            };
            return serde_json::from_slice(&body).map_err(|e| self.odd(path, &e));
        }
        let error = serde_json::from_slice(&body).unwrap_or_else(|_| ErrorView {
            error: format!("{status}: {}", String::from_utf8_lossy(&body).trim()),
            problems: Vec::new(),
        });
        Err(ClientError::Refused { status, error })
    }

    fn odd(&self, path: &str, why: &dyn std::fmt::Display) -> ClientError {
        ClientError::Answer {
            url: format!("{}{path}", self.base),
            why: why.to_string(),
        }
    }
}

/// An error with all that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Percent-encodes everything that is not plain in a path or query.
fn escape(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                char::from(b).to_string()
            }
            _ => format!("%{b:02X}"),
        })
        .collect()
}
