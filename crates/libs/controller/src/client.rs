//! The walk over all ports: attempts in order, one error for each that fails.
//!
//! Most failures of one port say nothing about the next, so the walk goes on. It ends early
//! when the controller itself has spoken and would say the same again: 403 on any call, an
//! envelope signed with a certificate that we don't hold, and any refusal of an attestation
//! step (a step sent twice would break the protocol's order).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use chain::SigningRoots;
use jiff::Timestamp;
use model::config_item::ConfigItemValueMap;
use tokio::time::Instant;
use tracing::debug;
use uplink::{Choice, Hosts, Moment, Port, Roots, Settings, Tls, TlsError, attempts};
use uuid::Uuid;

use crate::certs::ControllerCerts;
use crate::endpoint::{ApiVersion, Endpoint, Server, SignedBy};
use crate::envelope;
use crate::error::{Answer, AttemptError, Failure, Outcome, Problem};
use crate::exchange::{Prepared, Received};
use crate::partition::ConfigPartition;
use crate::signer::{Signer, tls_identity};
use crate::status::SenderStatus;

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// `timer.dial.timeout`: DNS, TCP and TLS of one attempt.
    pub dial: Duration,
    /// `timer.send.timeout`: one attempt.
    pub send: Duration,
}

impl Default for Timers {
    /// 10 s and 120 s.
    fn default() -> Self {
        Self {
            dial: Duration::from_secs(10),
            send: Duration::from_mins(2),
        }
    }
}

impl Timers {
    /// As the properties say.
    pub fn of(items: &ConfigItemValueMap) -> Self {
        Self {
            dial: items.seconds("timer.dial.timeout"),
            send: items.seconds("timer.send.timeout"),
        }
    }

    /// All attempts of one call together: three times one, at most four minutes.
    pub fn all_ports(&self) -> Duration {
        (self.send * 3).min(Duration::from_mins(4))
    }
}

/// The device's connection to its controller: what it knows, not a socket.
///
/// Cheap to clone; clones share the turn of the ports and nothing else that changes.
#[derive(Debug, Clone)]
pub struct Controller {
    pub(crate) server: Server,
    pub(crate) version: ApiVersion,
    pub(crate) device: Arc<dyn Signer>,
    pub(crate) onboarding: Option<Arc<dyn Signer>>,
    pub(crate) roots: SigningRoots,
    pub(crate) certs: Option<Arc<ControllerCerts>>,
    /// The controller was seen to sign with the certificate of now: what the former one signs is not its any more.
    pub(crate) uses_new: Arc<AtomicBool>,
    pub(crate) uuid: Option<Uuid>,
    pub(crate) serial: String,
    pub(crate) soft_serial: String,
    base_roots: Roots,
    trust: Trust,
    pub(crate) moment: Moment,
    ports: Arc<Vec<Port>>,
    timers: Timers,
    hosts: Arc<Hosts>,
    turn: Arc<AtomicU32>,
}

/// TLS towards the controller, once per key, and the proxy certificates in it.
#[derive(Debug, Clone)]
struct Trust {
    device: Tls,
    onboarding: Option<Tls>,
    proxy_certs: Vec<Vec<u8>>,
}

impl Controller {
    /// From the CONFIG partition, the device's key and its hardware serial number.
    /// `system_root` is the directory below which a system pool of roots may be.
    pub fn new(
        partition: &ConfigPartition,
        device: Arc<dyn Signer>,
        serial: &str,
        system_root: &std::path::Path,
    ) -> Result<Self, TlsError> {
        let mut base_roots = Roots::default();
        base_roots.add_pem("root-certificate.pem", &partition.roots_pem)?;
        base_roots.add_system_pool(system_root);
        let moment = Moment::default();
        certain(&moment, partition.earliest().map(Timestamp::as_second));
        let trust = trust(&base_roots, Vec::new(), &device, None, &moment)?;
        Ok(Self {
            moment,
            server: partition.server.clone(),
            version: if partition.force_v1 {
                ApiVersion::V1
            } else {
                ApiVersion::V2
            },
            device,
            onboarding: None,
            roots: partition.signing_roots.clone(),
            certs: None,
            uses_new: Arc::default(),
            uuid: None,
            serial: serial.trim().to_owned(),
            soft_serial: partition.soft_serial.clone(),
            base_roots,
            trust,
            ports: Arc::default(),
            timers: Timers::default(),
            hosts: Arc::new(partition.hosts.clone()),
            turn: Arc::default(),
        })
    }

    /// The key to register with.
    pub fn set_onboarding(&mut self, signer: Option<Arc<dyn Signer>>) -> Result<(), TlsError> {
        self.trust = trust(
            &self.base_roots,
            Vec::new(),
            &self.device,
            signer.as_ref(),
            &self.moment,
        )?;
        self.onboarding = signer;
        Ok(())
    }

    /// The ports to use from now on. Proxy certificates that can't be read are returned and
    /// otherwise ignored: their proxies will fail with CertUnknownAuthorityProxy.
    pub fn set_ports(&mut self, ports: Vec<Port>) -> Vec<TlsError> {
        let mut problems = Vec::new();
        let certs: Vec<Vec<u8>> = ports
            .iter()
            .flat_map(|port| port.proxy_certs.clone())
            .collect();
        if certs != self.trust.proxy_certs {
            let mut roots = self.base_roots.clone();
            for port in &ports {
                for pem in &port.proxy_certs {
                    let what = format!("proxy certificate of port {}", port.name);
                    problems.extend(roots.add_pem(&what, pem).err());
                }
            }
            let (device, onboarding) = (&self.device, self.onboarding.as_ref());
            match trust(&roots, certs, device, onboarding, &self.moment) {
                Ok(trust) => self.trust = trust,
                Err(error) => problems.push(error),
            }
        }
        self.ports = Arc::new(ports);
        problems
    }

    /// The device's UUID, once it is known.
    pub fn set_uuid(&mut self, uuid: Option<Uuid>) {
        self.uuid = uuid;
    }

    /// The controller's certificates, kept by an earlier boot or just fetched.
    pub fn set_certs(&mut self, certs: Option<Arc<ControllerCerts>>) {
        if let Some(certs) = &certs {
            certain(&self.moment, Some(certs.signing().not_before()));
            let known = self.certs.as_ref().map(|certs| certs.signing());
            if known != Some(certs.signing()) {
                self.uses_new = Arc::default();
            }
        }
        self.certs = certs;
    }

    /// Another server, when the file changed.
    pub fn set_server(&mut self, server: Server) {
        self.server = server;
    }

    /// The version to speak; a caller switches to v1 after [`Controller::lacks_v2`].
    pub fn set_version(&mut self, version: ApiVersion) {
        self.version = version;
    }

    /// Follows this wall clock instead of the machine's when it judges certificates.
    pub fn follow(&self, clock: impl Fn() -> Timestamp + Send + Sync + 'static) {
        let seconds = move || u64::try_from(clock().as_second()).unwrap_or(0);
        self.moment.follow(seconds);
    }

    /// Other time limits. None is what 0 means: the usual one.
    pub fn set_timers(&mut self, timers: Timers) {
        let usual = Timers::default();
        let or = |time: Duration, usual| if time.is_zero() { usual } else { time };
        let timers = Timers {
            dial: or(timers.dial, usual.dial),
            send: or(timers.send, usual.send),
        };
        self.timers = timers;
    }

    /// The controller.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The version that is spoken.
    pub fn version(&self) -> ApiVersion {
        self.version
    }

    /// The device's UUID.
    pub fn uuid(&self) -> Option<Uuid> {
        self.uuid
    }

    /// The controller's certificates in use.
    pub fn controller_certs(&self) -> Option<&Arc<ControllerCerts>> {
        self.certs.as_ref()
    }

    /// The roots that controller certificates must lead to.
    pub fn signing_roots(&self) -> &SigningRoots {
        &self.roots
    }

    /// True if there is an onboarding key, so that the device registers itself.
    pub fn can_register(&self) -> bool {
        self.onboarding.is_some()
    }

    /// True if `failure`, of [`Controller::certs`], means that this controller only speaks
    /// version 1: everything that answered said 404.
    pub fn lacks_v2(failure: &Failure) -> bool {
        let answered = |error: &&AttemptError| matches!(error.problem, Problem::Code { .. });
        let mut answers = failure.errors().iter().filter(answered).peekable();
        let any = answers.peek().is_some();
        any && answers.all(|error| matches!(error.problem, Problem::Code { code: 404, .. }))
    }

    /// A request: `payload` none for GET. In version 2 it is wrapped and signed here, once
    /// for all ports.
    pub(crate) fn prepare(
        &self,
        endpoint: Endpoint,
        payload: Option<Vec<u8>>,
    ) -> Result<Prepared<'_>, Failure> {
        let url = endpoint
            .url(&self.server, self.version, self.uuid)
            .map_err(|source| Failure::NoUrl { endpoint, source })?;
        let missing = || Failure::NoOnboardingKey { endpoint };
        let (signer, tls) = match endpoint.signed_by() {
            SignedBy::Device => (&self.device, &self.trust.device),
            SignedBy::Onboarding => (
                self.onboarding.as_ref().ok_or_else(missing)?,
                self.trust.onboarding.as_ref().ok_or_else(missing)?,
            ),
        };
        let body = match (payload, self.version) {
            (None, _) => None,
            (Some(payload), ApiVersion::V1) => Some(payload),
            (Some(payload), ApiVersion::V2) => {
                let container =
                    envelope::seal(signer.as_ref(), payload, endpoint == Endpoint::Register)
                        .map_err(|source| Failure::Signing { endpoint, source })?;
                Some(prost::Message::encode_to_vec(&container))
            }
        };
        let serials = self
            .uuid
            .is_none()
            .then_some((self.serial.as_str(), self.soft_serial.as_str()));
        Ok(Prepared {
            endpoint,
            url,
            body,
            serials,
            tls,
        })
    }

    /// Sends a request over the ports until one brings an answer that `read` accepts.
    pub(crate) async fn walk<T>(
        &self,
        request: Prepared<'_>,
        read: impl Fn(Received) -> Result<T, Problem>,
    ) -> Outcome<T> {
        let endpoint = request.endpoint;
        let choice = Choice::any_cost(self.turn.fetch_add(1, Ordering::Relaxed));
        let ways =
            attempts(&self.ports, &choice).map_err(|source| Failure::NoWay { endpoint, source })?;
        let settings = Settings {
            connect_timeout: self.timers.dial,
            request_timeout: Some(self.timers.send),
            hosts: Arc::clone(&self.hosts),
            ..Settings::default()
        };
        let limit = self.timers.all_ports();
        let deadline = Instant::now() + limit;
        let mut failed = Vec::new();
        for way in &ways {
            let sent = tokio::time::timeout_at(deadline, request.send(way, &settings)).await;
            let error = match sent {
                Err(_) => {
                    failed.push(request.error(way, Problem::Deadline(limit)));
                    break;
                }
                Ok(Err(error)) => error,
                Ok(Ok(received)) => {
                    let code = received.code;
                    match read(received) {
                        Ok(value) => {
                            let (port, source) = (way.port.clone(), way.source);
                            return Ok(Answer {
                                value,
                                code,
                                port,
                                source,
                                failed,
                            });
                        }
                        Err(problem) => request.error(way, problem),
                    }
                }
            };
            debug!(%endpoint, port = %way.port, source = %way.source, %error, "attempt failed");
            let stop = is_final(endpoint, &error);
            failed.push(error);
            if stop {
                break;
            }
        }
        Err(Failure::Attempts {
            endpoint,
            errors: failed,
        })
    }
}

/// True if other ports would hear the same.
fn is_final(endpoint: Endpoint, error: &AttemptError) -> bool {
    let attested = endpoint == Endpoint::Attest;
    match &error.problem {
        Problem::Code { code, .. } => attested || *code == 403,
        Problem::Envelope(_) | Problem::Payload(_) if attested => true,
        _ => error.status() == SenderStatus::CertMiss,
    }
}

/// A certificate of the controller was made at this second since 1970: it is not earlier now. Our own certificate tells
/// nothing: this device made it, with the clock of that day.
fn certain(moment: &Moment, second: Option<i64>) {
    if let Some(second) = second.and_then(|second| u64::try_from(second).ok()) {
        moment.not_before(second);
    }
}

fn trust(
    roots: &Roots,
    proxy_certs: Vec<Vec<u8>>,
    device: &Arc<dyn Signer>,
    onboarding: Option<&Arc<dyn Signer>>,
    moment: &Moment,
) -> Result<Trust, TlsError> {
    let tls = |signer: &Arc<dyn Signer>| {
        let identity = tls_identity(Arc::clone(signer));
        Tls::at(roots.clone(), Some(identity), moment.clone())
    };
    Ok(Trust {
        device: tls(device)?,
        onboarding: onboarding.map(tls).transpose()?,
        proxy_certs,
    })
}
