//! The controller, the CONFIG partition and the checkpoint, as one world.

mod attest;
mod identity;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use agent::{Boot, Clock, Failure, Progress, World};
use api::config::ConfigResponse;
use controller::{
    ApiVersion, ConfigAnswer, ConfigPartition, Controller, ControllerCerts, Keys, Signer, Timers,
};
use jiff::Timestamp;
use model::{
    code::Code,
    id::{DeviceId, Digest},
    node::ConfigSource,
    port::DeviceNetworkStatus,
    security::{ControllerCert, ControllerCertKind},
};
use prost::Message;
use tpm::Tpm;
use tracing::warn;

use crate::{
    Desired, Step, Zedagent,
    checkpoint::{self, BACKUP, CERTS, Checkpoint, FORMER_CERTS, LAST},
    facts::{Asked, AttestStep, CertsWanted, Facts, Moment, Partition, Saved},
    failure::of_call,
};

/// The way to the controller, and everything learned on it.
pub struct Evc {
    config_dir: PathBuf,
    token_file: PathBuf,
    root: PathBuf,
    checkpoint: Checkpoint,
    /// What the firmware tells of itself.
    firmware: PathBuf,
    keys: Arc<dyn Keys>,
    tpm: Arc<dyn Tpm>,
    clock: Clock,
    state: Mutex<State>,
}

/// Tells whether a file is still the same: when it was written, its size, its inode.
type Stamp = (Option<std::time::SystemTime>, u64, u64);

#[derive(Default)]
struct State {
    facts: Facts,
    partition: Option<ConfigPartition>,
    device: Option<Arc<dyn Signer>>,
    onboarding: Option<Arc<dyn Signer>>,
    controller: Option<Controller>,
    /// Ports as last told to the controller's client.
    network: Option<DeviceNetworkStatus>,
    /// This very controller has spoken version 2 with us: a 404 is a mistake of something in between.
    speaks_v2: bool,
    /// The file with its name as last read.
    server_file: Option<Stamp>,
    /// The certificates on the disk are those of another controller.
    moved: bool,
    /// In use and not on the disk yet: file and content.
    unsaved: BTreeMap<&'static str, Vec<u8>>,
}

impl Evc {
    /// Everything is read when it is first needed: CONFIG may not be there yet, nor who keeps the `keys`. `tpm` is who
    /// keeps them, and gives quotes.
    pub fn open(boot: &Boot, keys: Arc<dyn Keys>, tpm: Arc<dyn Tpm>) -> Self {
        let evc = Self {
            config_dir: boot.path("/config"),
            token_file: boot.path("/run/zedagent/integrity_token"),
            root: boot.root.clone(),
            checkpoint: Checkpoint::new(boot.path("/persist/checkpoint")),
            firmware: boot.path("/sys/class/dmi/id"),
            keys,
            tpm,
            clock: boot.clock.clone(),
            state: Mutex::default(),
        };
        let mut state = evc.state();
        state.facts.started = boot.clock.uptime();
        state.facts.saved = Saved {
            primary: evc.checkpoint.digest(LAST),
            backup: evc.checkpoint.digest(BACKUP),
        };
        // A token that is no longer good costs one refused request.
        if let Ok(token) = std::fs::read(&evc.token_file) {
            state.facts.attest.step = AttestStep::Complete(token);
        }
        drop(state);
        evc
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moment(&self) -> Moment {
        Moment {
            now: self.clock.now(),
            uptime: self.clock.uptime(),
        }
    }

    /// The controller as it stands now, for one call.
    fn controller(&self, object: &str) -> Result<Controller, Failure> {
        let missing = || {
            Failure::new(
                Code::OnboardIdentity,
                object,
                "the device has no identity yet",
            )
            .transient()
        };
        self.state().controller.clone().ok_or_else(missing)
    }

    fn read_partition(&self, state: &mut State, desired: &Desired) {
        let stamp = stamp(&self.config_dir.join("server"));
        if state.partition.is_some() && state.server_file == stamp {
            return;
        }
        match ConfigPartition::read(&self.config_dir) {
            Ok(partition) => {
                state.facts.partition_fault = None;
                state.server_file = stamp;
                let server = partition.server.as_str().to_owned();
                let first = state.facts.partition.is_none();
                // What another controller spoke says nothing about this one.
                let known = &desired.onboarding;
                let former = match &state.facts.partition {
                    Some(partition) => partition.server.clone(),
                    None => known.server.clone(),
                };
                let same = former.is_empty() || former == server;
                state.facts.partition = Some(Partition {
                    server,
                    can_register: state.onboarding.is_some(),
                    earliest: partition.earliest(),
                    force_v1: partition.force_v1,
                });
                state.partition = Some(partition);
                if !same {
                    tracing::info!(from = former, "another controller");
                    state.facts.another_controller();
                    state.controller = None;
                    state.network = None;
                    state.unsaved.remove(CERTS);
                    (state.speaks_v2, state.moved) = (false, true);
                } else if first {
                    state.facts.v1 = known.api_v1;
                    state.speaks_v2 = known.device.is_some() && !known.api_v1;
                }
                if let Some(partition) = &state.facts.partition {
                    state.facts.v1 |= partition.force_v1;
                }
            }
            Err(error) => {
                let failure = Failure::of(Code::OnboardConfig, "CONFIG", &error);
                let text = std::iter::once(failure.text)
                    .chain(failure.causes)
                    .collect::<Vec<_>>()
                    .join(": ");
                state.facts.partition_fault = Some((Code::OnboardConfig, text));
            }
        }
    }

    fn connect(&self, state: &mut State, desired: &Desired) {
        let (Some(partition), Some(device)) = (&state.partition, &state.device) else {
            return;
        };
        if state.controller.is_none() {
            match Controller::new(partition, device.clone(), &hardware_serial(), &self.root) {
                Ok(mut controller) => {
                    if let Err(error) = controller.set_onboarding(state.onboarding.clone()) {
                        warn!(%error, "the onboarding key cannot be used");
                    }
                    let clock = self.clock.clone();
                    controller.follow(move || clock.now());
                    state.controller = Some(controller);
                }
                Err(error) => {
                    let failure = Failure::of(Code::OnboardConfig, "CONFIG", &error);
                    state.facts.partition_fault = Some((Code::OnboardConfig, failure.text));
                    return;
                }
            }
            if !state.moved {
                self.load_certs(state);
            }
        }
        let Some(controller) = state.controller.as_mut() else {
            return;
        };
        controller.set_version(if state.facts.v1 {
            ApiVersion::V1
        } else {
            ApiVersion::V2
        });
        let device = state
            .facts
            .name
            .as_ref()
            .map(|n| n.device)
            .or(desired.onboarding.device);
        controller.set_uuid(device.map(|d| d.0));
        controller.set_timers(Timers::of(&desired.items));
        // Proxies and their certificates are parsed, and complained about, once.
        if let Some(network) = &desired.network
            && state.network.as_ref() != Some(network)
        {
            state.network = Some(network.clone());
            let (ports, problems) = uplink::ports(network);
            for (port, problem) in problems {
                warn!(port, %problem, "proxy cannot be used");
            }
            for problem in controller.set_ports(ports) {
                warn!(%problem, "proxy certificate cannot be used");
            }
        }
    }

    /// Certificates of an earlier boot, to go on without the controller.
    fn load_certs(&self, state: &mut State) {
        let (Some(controller), Some(bytes)) =
            (state.controller.as_mut(), self.checkpoint.read(CERTS))
        else {
            return;
        };
        let now = controller.when(self.clock.now());
        let verify = |bytes: &[u8]| ControllerCerts::verify(bytes, controller.signing_roots(), now);
        match verify(&bytes) {
            Ok(certs) => {
                // Those before them may be there, and may have ended since.
                let former = self.checkpoint.read(FORMER_CERTS);
                let certs = match former.and_then(|bytes| verify(&bytes).ok()) {
                    Some(former) => certs.after(&former),
                    None => certs,
                };
                state.facts.certs = rows(&certs);
                controller.set_certs(Some(Arc::new(certs)));
            }
            Err(error) => warn!(%error, "saved certificates of the controller are not acceptable"),
        }
    }

    async fn fetch_certs(&self, wanted: CertsWanted) -> Result<(), Failure> {
        let object = "controller certificates";
        let mut controller = self.controller(object)?;
        controller.set_version(ApiVersion::V2);
        let result = controller.certs(self.clock.now()).await;
        let answer = match result {
            Ok(answer) => answer,
            Err(error) if Controller::lacks_v2(&error) && !self.has_spoken_v2() => {
                let mut state = self.state();
                if !state.facts.v1 {
                    tracing::info!("the controller does not know version 2 of the protocol");
                }
                state.facts.v1 = true;
                state.facts.certs_for = Some(wanted);
                return Ok(());
            }
            Err(error) => return Err(of_call(object, &error)),
        };
        let mut state = self.state();
        // It was called back because the CONFIG partition names another one meanwhile.
        let is_of = |c: &Controller| c.server() == controller.server();
        if !state.controller.as_ref().is_some_and(is_of) {
            return Ok(());
        }
        state.facts.speaks_v2();
        state.facts.certs = rows(&answer.value);
        state.facts.certs_for = Some(wanted);
        state.facts.last_contact = Some(self.clock.now());
        let bytes = answer.value.bytes().to_vec();
        if let Some(controller) = state.controller.as_mut() {
            let certs = match controller.controller_certs() {
                Some(known) if known.differs_from(&answer.value) => {
                    // Before the new ones: the saved config may be signed with a former one.
                    if let Err(error) = self.checkpoint.write(FORMER_CERTS, known.bytes()) {
                        warn!(%error, "the controller's former certificates are not kept");
                    }
                    answer.value.after(known)
                }
                Some(known) => Arc::unwrap_or_clone(Arc::clone(known)),
                None => answer.value,
            };
            controller.set_certs(Some(Arc::new(certs)));
        }
        state.unsaved.insert(CERTS, bytes);
        self.save(&mut state);
        Ok(())
    }

    async fn fetch_config(
        &self,
        number: u64,
        hash: &str,
        token: &[u8],
        device: DeviceId,
    ) -> Result<(), Failure> {
        let object = "config";
        let mut result = self.controller(object)?.config(hash, token).await;
        let wanted = self.state().facts.certs_for.clone();
        if result.as_ref().is_err_and(missed_cert)
            && let Some(wanted) = wanted
            && self.fetch_certs(wanted).await.is_ok()
        {
            // It signs with another certificate than it told: with that one this request is not lost.
            result = self.controller(object)?.config(hash, token).await;
        }
        let moment = self.moment();
        let asked = Asked {
            number,
            at: moment.uptime,
            jitter: rand::random(),
        };
        let answer = match result {
            Ok(answer) => answer.value,
            Err(error) => {
                self.note_cert_miss(&error);
                let mut state = self.state();
                match error.code() {
                    Some(403) => {
                        let fault = of_call(object, &error).into_fault(moment.now);
                        state.facts.forbidden(moment.uptime, fault);
                    }
                    Some(400 | 404) => state.facts.disowned = true,
                    Some(_) | None => {}
                }
                return Err(of_call(object, &error));
            }
        };
        let mut state = self.state();
        state.facts.unchanged(asked, moment.now);
        let ConfigAnswer::Changed { response, bytes } = answer else {
            self.save(&mut state);
            return Ok(());
        };
        if state
            .facts
            .received(&response, ConfigSource::Controller, device, moment)
        {
            state.unsaved.insert(LAST, bytes);
        }
        // Also what could not be saved the last time.
        self.save(&mut state);
        Ok(())
    }

    fn has_spoken_v2(&self) -> bool {
        let state = self.state();
        state.speaks_v2 || !state.facts.certs.is_empty()
    }

    /// Puts on the disk what is in use and not there yet.
    fn save(&self, state: &mut State) {
        let mut failed = None;
        for (name, bytes) in std::mem::take(&mut state.unsaved) {
            match self.checkpoint.write(name, &bytes) {
                Ok(()) if name == LAST => {
                    state.facts.saved.primary = Some(checkpoint::digest(&bytes));
                }
                Ok(()) => {}
                Err(error) => {
                    let failure = Failure::of(Code::BusWrite, format!("checkpoint {name}"), &error);
                    failed = Some(failure.transient().into_fault(self.clock.now()));
                    state.unsaved.insert(name, bytes);
                }
            }
        }
        let old = state.facts.unsaved.take();
        state.facts.unsaved = failed.map(|fault| fault.continuing(old.as_ref()));
    }

    fn use_saved(&self, backup: bool, device: DeviceId) -> Result<(), Failure> {
        let object = "saved config";
        let name = if backup { BACKUP } else { LAST };
        let bad = |text: String| Failure::new(Code::ConfigParse, object, format!("{name}: {text}"));
        let result = self.open_saved(name).and_then(|response| {
            let mut state = self.state();
            // The hash is not remembered: the controller shall send the config again in full.
            let taken = state
                .facts
                .received(&response, ConfigSource::Saved, device, self.moment());
            state.facts.received_hash.clear();
            if taken {
                Ok(())
            } else {
                Err("it is not acceptable".to_owned())
            }
        });
        if result.is_err() {
            let mut state = self.state();
            // Not tried again; the other one may do.
            if backup {
                state.facts.saved.backup = None;
            } else {
                state.facts.saved.primary = None;
            }
        }
        result.map_err(bad)
    }

    fn open_saved(&self, name: &str) -> Result<ConfigResponse, String> {
        let bytes = self.checkpoint.read(name).ok_or("it is gone")?;
        let state = self.state();
        let controller = state
            .controller
            .as_ref()
            .ok_or("the device has no identity yet")?;
        let certs = controller.controller_certs();
        checkpoint::saved_config(&bytes, controller.version(), certs.map(|c| &**c))
    }

    fn keep_as_backup(&self, digest: Digest) -> Result<(), Failure> {
        let failure = |e: &dyn std::error::Error| {
            Failure::of(Code::BusWrite, "config checkpoint", e).transient()
        };
        let Some(bytes) = self
            .checkpoint
            .read(LAST)
            .filter(|bytes| checkpoint::digest(bytes) == digest)
        else {
            self.state().facts.saved.primary = self.checkpoint.digest(LAST);
            return Ok(());
        };
        self.checkpoint
            .write(BACKUP, &bytes)
            .map_err(|e| failure(&e))?;
        self.state().facts.saved.backup = Some(digest);
        Ok(())
    }

    fn note_cert_miss(&self, error: &controller::Failure) {
        if missed_cert(error) {
            self.state().facts.cert_missed();
        }
    }
}

impl World<Zedagent> for Evc {
    async fn observe(&self, desired: &Desired) -> Result<Facts, Failure> {
        let mut state = self.state();
        self.read_partition(&mut state, desired);
        self.connect(&mut state, desired);
        Ok(state.facts.clone())
    }

    async fn apply(&self, action: Step, _: Progress) -> Result<(), Failure> {
        match action {
            Step::LearnIdentity => self.learn_identity().map(drop),
            Step::FetchCerts { wanted } => self.fetch_certs(wanted).await,
            Step::Introduce { register, .. } => self.introduce(register).await,
            Step::SendCerts { certs, .. } => self.send_certs(&certs).await,
            Step::AskNonce { .. } => self.ask_nonce().await,
            Step::SendQuote { nonce, .. } => self.send_quote(&nonce).await,
            Step::StoreKey { key, token, .. } => self.store_key(&key, token).await,
            Step::NoteMaintenance { on } => {
                self.state().facts.maintained(on);
                Ok(())
            }
            Step::ResumeAttest { .. } => {
                self.state().facts.attest.resume();
                Ok(())
            }
            Step::FetchConfig {
                number,
                hash,
                token,
                device,
            } => self.fetch_config(number, &hash, &token, device).await,
            Step::UseSaved { backup, device } => self.use_saved(backup, device),
            Step::KeepAsBackup { digest } => self.keep_as_backup(digest),
        }
    }
}

fn stamp(path: &std::path::Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(path).ok()?;
    Some((found.modified().ok(), found.len(), found.ino()))
}

/// The serial number that the firmware tells; empty where it does not.
fn hardware_serial() -> String {
    std::fs::read_to_string("/sys/class/dmi/id/product_serial")
        .map(|s| s.trim().to_owned())
        .unwrap_or_default()
}

/// Whether the answer was signed or sent with a certificate that we do not have.
fn missed_cert(error: &controller::Failure) -> bool {
    matches!(
        error.status(),
        controller::SenderStatus::CertMiss | controller::SenderStatus::CertInvalid
    )
}

fn rows(certs: &ControllerCerts) -> Vec<ControllerCert> {
    use api::certs::{ZCertType, ZControllerCert};
    let message = ZControllerCert::decode(certs.bytes()).unwrap_or_default();
    message
        .certs
        .iter()
        .filter_map(|cert| {
            let kind = match ZCertType::try_from(cert.r#type) {
                Ok(ZCertType::CertTypeControllerSigning) => ControllerCertKind::Signing,
                Ok(ZCertType::CertTypeControllerIntermediate) => ControllerCertKind::Intermediate,
                Ok(ZCertType::CertTypeControllerEcdhExchange) => ControllerCertKind::EcdhExchange,
                Ok(_) | Err(_) => return None,
            };
            let hash = hex::encode(&cert.cert_hash);
            let not_after = chain::pem::first_certificate(&cert.cert)
                .and_then(|der| chain::pem::not_after(&der))
                .ok()
                .and_then(|seconds| Timestamp::from_second(seconds).ok())
                .unwrap_or(Timestamp::UNIX_EPOCH);
            Some(ControllerCert {
                kind,
                pem: String::from_utf8_lossy(&cert.cert).into_owned(),
                hash,
                not_after,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
