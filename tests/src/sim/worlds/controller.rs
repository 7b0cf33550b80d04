//! zedagent's way to the controller: decoded messages, the checkpoint, the CONFIG partition.

use std::sync::{Mutex, MutexGuard, PoisonError};

use agent::{Clock, Failure, Progress, World};
use api::config::ConfigResponse;
use jiff::Timestamp;
use model::{
    code::Code,
    id::{DeviceId, Digest},
    node::ConfigSource,
    security::{ControllerCert, ControllerCertKind},
};
use prost::Message;
use sha2::{Digest as _, Sha256};
use zedagent::{
    Desired, Step, Zedagent,
    facts::{Asked, AttestStep, Facts, Moment, Name, Partition, Saved},
};

use crate::sim::{
    machine::{Machine, Refused},
    wish::DEVICE,
};

/// The service's process: what it has learned.
pub(crate) struct Controller {
    machine: Machine,
    clock: Clock,
    facts: Mutex<Facts>,
}

impl Controller {
    pub(crate) fn open(machine: &Machine, clock: &Clock) -> Self {
        let mut facts = Facts {
            started: clock.uptime(),
            partition: Some(Partition {
                server: "evc.example".to_owned(),
                can_register: true,
                force_v1: false,
                earliest: None,
            }),
            ..Facts::default()
        };
        machine.with(|s| {
            facts.saved = Saved {
                primary: s.checkpoint.last.as_deref().map(sha256),
                backup: s.checkpoint.backup.as_deref().map(sha256),
            };
            if let Some(token) = &s.token {
                facts.attest.step = AttestStep::Complete(token.clone());
            }
        });
        Self {
            machine: machine.clone(),
            clock: clock.clone(),
            facts: Mutex::new(facts),
        }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moment(&self) -> Moment {
        Moment {
            now: self.clock.now(),
            uptime: self.clock.uptime(),
        }
    }

    fn make_identity(&self) {
        let saved = self.machine.with(|s| {
            s.identity = true;
            s.checkpoint.certs
        });
        let mut facts = self.facts();
        facts.device_cert = Some(Digest([1; 32]));
        if saved {
            facts.certs = certs();
        }
    }

    async fn fetch_config(
        &self,
        number: u64,
        hash: String,
        token: Vec<u8>,
        device: DeviceId,
    ) -> Result<(), Failure> {
        let answer = self
            .machine
            .ask("config", |s| {
                if !s.evc.tokens.contains(&token) {
                    return Err(403);
                }
                s.evc.polls += 1;
                let wish = &s.evc.wish;
                Ok((wish.hash() != hash).then(|| wish.response().encode_to_vec()))
            })
            .await;
        let moment = self.moment();
        let jitter = self.machine.with(|s| s.chance.fraction());
        let bytes = match answer {
            Ok(bytes) => bytes,
            Err(refused) => {
                match refused {
                    Refused::Code(403) => {
                        let fault = refused.failure("config").into_fault(moment.now);
                        self.facts().forbidden(moment.uptime, fault);
                    }
                    Refused::Code(400 | 404) => self.facts().disowned = true,
                    Refused::Code(_) | Refused::NoAnswer(_) => {}
                }
                return Err(refused.failure("config"));
            }
        };
        let asked = Asked {
            number,
            at: moment.uptime,
            jitter,
        };
        let mut facts = self.facts();
        facts.unchanged(asked, moment.now);
        let Some(bytes) = bytes else { return Ok(()) };
        let response = ConfigResponse::decode(bytes.as_slice()).unwrap();
        if facts.received(&response, ConfigSource::Controller, device, moment) {
            facts.saved.primary = Some(sha256(&bytes));
            self.machine.with(|s| {
                s.checkpoint.last = Some(bytes);
                s.took(&response.config_hash);
            });
        } else {
            self.machine.with(|s| s.truth.foreign += 1);
        }
        Ok(())
    }

    fn use_saved(&self, backup: bool, device: DeviceId) -> Result<(), Failure> {
        let bytes = self.machine.with(|s| {
            let file = if backup {
                &s.checkpoint.backup
            } else {
                &s.checkpoint.last
            };
            file.clone()
        });
        let bytes =
            bytes.ok_or_else(|| Failure::new(Code::ConfigParse, "saved config", "it is gone"))?;
        if self.facts().certs.is_empty() {
            let text = "the controller's certificates are not known";
            return Err(Failure::new(Code::ConfigParse, "saved config", text));
        }
        let response = ConfigResponse::decode(bytes.as_slice()).unwrap();
        let mut facts = self.facts();
        let taken = facts.received(&response, ConfigSource::Saved, device, self.moment());
        facts.received_hash.clear();
        assert!(taken, "a saved config was acceptable once");
        self.machine.with(|s| s.took(&response.config_hash));
        Ok(())
    }

    async fn attest(&self, next: AttestStep) -> Result<(), Failure> {
        let answer = self.machine.ask("attestation", |_| Ok(())).await;
        answer.map_err(|refused| refused.failure("attestation"))?;
        let mut facts = self.facts();
        facts.attest.step = next;
        facts.last_contact = Some(self.clock.now());
        Ok(())
    }
}

impl World<Zedagent> for Controller {
    async fn observe(&self, _: &Desired) -> Result<Facts, Failure> {
        Ok(self.facts().clone())
    }

    async fn apply(&self, action: Step, _: Progress) -> Result<(), Failure> {
        match action {
            Step::LearnIdentity => self.make_identity(),
            Step::FetchCerts { wanted } => {
                let object = "controller certificates";
                let answer = self.machine.ask(object, |_| Ok(())).await;
                answer.map_err(|refused| refused.failure(object))?;
                self.machine.with(|s| s.checkpoint.certs = true);
                let mut facts = self.facts();
                facts.certs = certs();
                facts.certs_for = Some(wanted);
                facts.last_contact = Some(self.clock.now());
            }
            Step::Introduce { .. } => {
                let answer = self.machine.ask("onboarding", |_| Ok(())).await;
                answer.map_err(|refused| refused.failure("onboarding"))?;
                let mut facts = self.facts();
                facts.name = Some(Name {
                    device: DEVICE.parse().unwrap(),
                    hardware_model: String::new(),
                });
                facts.named_at = Some(self.clock.uptime());
                facts.disowned = false;
            }
            Step::SendCerts { certs, .. } => {
                let sent = certs.into_iter().map(|cert| cert.hash).collect();
                let first = self.facts().attest.step == AttestStep::SendCerts;
                let next = if first {
                    AttestStep::AskNonce
                } else {
                    self.facts().attest.step.clone()
                };
                self.attest(next).await?;
                self.facts().attest.certs_sent = Some(sent);
            }
            Step::AskNonce { .. } => self.attest(AttestStep::SendQuote(vec![7; 16])).await?,
            Step::SendQuote { .. } => {
                let answer = self.machine.ask("attestation", |s| Ok(s.evc.token())).await;
                let token = answer.map_err(|refused| refused.failure("attestation"))?;
                self.machine.with(|s| s.token = Some(token.clone()));
                self.facts().attest.step = AttestStep::Complete(token);
            }
            Step::StoreKey { key, .. } => {
                let answer = self.machine.ask("escrow", |_| Ok(())).await;
                answer.map_err(|refused| refused.failure("escrow of the vault key"))?;
                self.facts().attest.escrowed = Some(key.sha256);
            }
            Step::NoteMaintenance { on } => self.facts().maintained(on),
            Step::ResumeAttest { .. } => self.facts().attest.resume(),
            Step::FetchConfig {
                number,
                hash,
                token,
                device,
            } => self.fetch_config(number, hash, token, device).await?,
            Step::UseSaved { backup, device } => self.use_saved(backup, device)?,
            Step::KeepAsBackup { digest } => {
                let kept = self.machine.with(|s| {
                    let last = s.checkpoint.last.clone();
                    s.checkpoint.backup.clone_from(&last);
                    last.as_deref().map(sha256)
                });
                assert_eq!(kept, Some(digest), "keeps another config than it knows");
                self.facts().saved.backup = kept;
            }
        }
        Ok(())
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

fn certs() -> Vec<ControllerCert> {
    vec![ControllerCert {
        kind: ControllerCertKind::Signing,
        pem: String::new(),
        hash: "aa".to_owned(),
        not_after: Timestamp::MAX,
    }]
}
