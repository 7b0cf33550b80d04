//! The typed calls, one per endpoint.

use std::sync::atomic::Ordering;

use api::attest::{ZAttestReq, ZAttestResponse};
use api::config::{ConfigRequest, ConfigResponse};
use api::flowlog::FlowMessage;
use api::hardwarehealth::ZHardwareHealth;
use api::info::ZInfoMsg;
use api::logs::ServerMetrics;
use api::metrics::ZMetricMsg;
use api::register::ZRegisterMsg;
use api::uuid::{UuidRequest, UuidResponse};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use prost::Message;
use uuid::Uuid;

use crate::certs::ControllerCerts;
use crate::client::Controller;
use crate::endpoint::{ApiVersion, Endpoint};
use crate::envelope::{self, SignedWith};
use crate::error::{Failure, Outcome, Problem, undecoded};
use crate::exchange::Received;

/// Who the controller says that we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceName {
    /// The device's UUID.
    pub uuid: Uuid,
    /// Manufacturer of the model; empty if the controller does not say.
    pub manufacturer: String,
    /// Name of the model; empty if the controller does not say.
    pub product_name: String,
}

impl DeviceName {
    /// Reads the message of an answer, out of its envelope.
    pub fn parse(payload: &[u8]) -> Result<Self, Problem> {
        let message: UuidResponse = decode(payload)?;
        let uuid = Uuid::parse_str(message.uuid.trim()).map_err(|error| {
            let begin: String = message.uuid.chars().take(80).collect();
            Problem::Payload(format!("UUID {begin:?}: {error}"))
        })?;
        let (manufacturer, product_name) = (message.manufacturer, message.product_name);
        Ok(Self {
            uuid,
            manufacturer,
            product_name,
        })
    }
}

/// The controller's word on the config.
#[derive(Debug, Clone, PartialEq)]
pub enum ConfigAnswer {
    /// It is the one whose hash was sent.
    Unchanged,
    /// Another one.
    Changed {
        /// The message; its `config` may be missing.
        response: Box<ConfigResponse>,
        /// The answer as received (in version 2 the whole envelope), to be kept.
        bytes: Vec<u8>,
    },
}

impl ConfigAnswer {
    /// Reads the message of an answer, out of its envelope. `known` is the hash that was sent, `bytes` is
    /// the answer as received.
    pub fn parse(known: &str, payload: &[u8], bytes: Vec<u8>) -> Result<Self, Problem> {
        let response: ConfigResponse = decode(payload)?;
        if !known.is_empty() && response.config_hash == known {
            return Ok(Self::Unchanged);
        }
        Ok(Self::Changed {
            response: Box::new(response),
            bytes,
        })
    }
}

/// What an onboarding controller says to a new device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Introduction {
    /// It is registered now (201).
    New,
    /// It already was (any other success).
    Known,
}

impl Controller {
    /// Fetches the controller's certificates and verifies their chains at `now`. The
    /// envelope around them is not verified: with what? They are not taken into use; see
    /// [`Controller::set_certs`].
    pub async fn certs(&self, now: Timestamp) -> Outcome<ControllerCerts> {
        let request = self.prepare(Endpoint::Certs, None)?;
        let now = self.when(now);
        self.walk(request, |received| {
            let bytes = envelope::open_unverified(&received.body)?;
            ControllerCerts::verify(&bytes, &self.roots, now).map_err(Problem::Certs)
        })
        .await
    }

    /// By which time chains are judged when the wall clock says `now`: not before what is certain.
    pub fn when(&self, now: Timestamp) -> chain::When {
        let certain = i64::try_from(self.moment.earliest()).unwrap_or(i64::MAX);
        chain::When::new(now, Timestamp::from_second(certain).ok())
    }

    /// Asks whether the controller answers.
    pub async fn ping(&self) -> Outcome<()> {
        let request = self.prepare(Endpoint::Ping, None)?;
        self.walk(request, |_| Ok(())).await
    }

    /// Introduces the device with the onboarding key. May be repeated at any time.
    pub async fn register(&self) -> Outcome<Introduction> {
        let message = ZRegisterMsg {
            pem_cert: STANDARD
                .encode(self.device.certificate().pem())
                .into_bytes(),
            serial: self.serial.clone(),
            soft_serial: self.soft_serial.clone(),
            ..ZRegisterMsg::default()
        };
        let request = self.prepare(Endpoint::Register, Some(message.encode_to_vec()))?;
        let new = |received: Received| match received.code {
            201 => Ok(Introduction::New),
            _ => Ok(Introduction::Known),
        };
        self.walk(request, new).await
    }

    /// Asks for the device's UUID.
    pub async fn device_name(&self) -> Outcome<DeviceName> {
        let open = self.opener(Endpoint::Uuid)?;
        let request = self.prepare(Endpoint::Uuid, Some(UuidRequest {}.encode_to_vec()))?;
        self.walk(request, |received| {
            DeviceName::parse(&open(&received.body)?)
        })
        .await
    }

    /// Asks for the config. `hash` is the last one received, empty for none;
    /// `integrity_token` what attestation brought.
    pub async fn config(&self, hash: &str, integrity_token: &[u8]) -> Outcome<ConfigAnswer> {
        let message = ConfigRequest {
            config_hash: hash.to_owned(),
            integrity_token: integrity_token.to_vec(),
        };
        let open = self.opener(Endpoint::Config)?;
        let request = self.prepare(Endpoint::Config, Some(message.encode_to_vec()))?;
        self.walk(request, |received| {
            if received.code == 304 || received.body.is_empty() {
                return Ok(ConfigAnswer::Unchanged);
            }
            let payload = open(&received.body)?;
            ConfigAnswer::parse(hash, &payload, received.body)
        })
        .await
    }

    /// One step of attestation (version 2 only).
    pub async fn attest(&self, message: &ZAttestReq) -> Outcome<ZAttestResponse> {
        let open = self.opener(Endpoint::Attest)?;
        let request = self.prepare(Endpoint::Attest, Some(message.encode_to_vec()))?;
        self.walk(request, |received| decode(&open(&received.body)?))
            .await
    }

    /// Tells the state of one object.
    pub async fn info(&self, message: &ZInfoMsg) -> Outcome<()> {
        self.tell(Endpoint::Info, message.encode_to_vec()).await
    }

    /// Tells counters and gauges.
    pub async fn metrics(&self, message: &ZMetricMsg) -> Outcome<()> {
        self.tell(Endpoint::Metrics, message.encode_to_vec()).await
    }

    /// Tells connections of applications.
    pub async fn flow_log(&self, message: &FlowMessage) -> Outcome<()> {
        self.tell(Endpoint::FlowLog, message.encode_to_vec()).await
    }

    /// Tells memory errors and the like.
    pub async fn hardware_health(&self, message: &ZHardwareHealth) -> Outcome<()> {
        self.tell(Endpoint::HardwareHealth, message.encode_to_vec())
            .await
    }

    /// Sends an already encoded message of [`Controller::info`], [`Controller::metrics`],
    /// [`Controller::flow_log`] or [`Controller::hardware_health`]: what a journal keeps.
    pub async fn tell(&self, endpoint: Endpoint, message: Vec<u8>) -> Outcome<()> {
        let request = self.prepare(endpoint, Some(message))?;
        self.walk(request, |_| Ok(())).await
    }

    /// Uploads a gzip file of the device's log, or of an application's. The controller may
    /// answer with its load; what it says beyond that is ignored, because the logs are its.
    pub async fn new_logs(
        &self,
        app: Option<Uuid>,
        gzip: Vec<u8>,
    ) -> Outcome<Option<ServerMetrics>> {
        let endpoint = app.map_or(Endpoint::NewLogs, Endpoint::AppNewLogs);
        let request = self.prepare(endpoint, Some(gzip))?;
        let answer = self.walk(request, |received| Ok(received.body)).await?;
        Ok(answer.map(|body| server_load(&body)))
    }

    /// What opens an answer: nothing in version 1, the envelope in version 2.
    fn opener(
        &self,
        endpoint: Endpoint,
    ) -> Result<impl Fn(&[u8]) -> Result<Vec<u8>, Problem>, Failure> {
        let certs = match (self.version, &self.certs) {
            (ApiVersion::V1, _) => None,
            (ApiVersion::V2, Some(certs)) => Some(certs),
            (ApiVersion::V2, None) => return Err(Failure::NoCerts { endpoint }),
        };
        let uses_new = &self.uses_new;
        Ok(move |body: &[u8]| match certs {
            None => Ok(body.to_vec()),
            Some(certs) => {
                let former = !uses_new.load(Ordering::Relaxed);
                let (payload, with) = envelope::open_with(body, certs, former)?;
                if with == SignedWith::Present {
                    uses_new.store(true, Ordering::Relaxed);
                }
                Ok(payload)
            }
        })
    }
}

/// The load that a controller tells in its answer to logs, if it does and it is one: a share that
/// is no number or has no bound would not survive being written to the bus.
pub fn server_load(body: &[u8]) -> Option<ServerMetrics> {
    /// Percent of all cores of the largest machine that we believe in.
    const MOST: f32 = 1_000_000.0;
    let load: ServerMetrics = serde_json::from_slice(body).ok()?;
    (0.0..=MOST).contains(&load.cpu_percentage).then_some(load)
}

fn decode<M: Message + Default>(payload: &[u8]) -> Result<M, Problem> {
    M::decode(payload).map_err(|error| Problem::Payload(undecoded(&error)))
}
