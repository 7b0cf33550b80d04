//! The controller: onboarding, certificates, attestation, config, reports.

use model::{
    code::Code,
    fault::Fault,
    node::{AttestPhase, ConfigSource, OnboardPhase, OnboardingStatus, ZedAgentStatus},
};

use super::{
    Condition, Kind, Nature, Subject,
    walk::{Block, Walk},
};

pub(crate) fn onboard_phase(phase: &OnboardPhase) -> &'static str {
    match phase {
        OnboardPhase::Identity => "its identity is being made",
        OnboardPhase::AwaitNetwork => "waits for a usable address",
        OnboardPhase::FetchCerts => "fetches the controller's certificates",
        OnboardPhase::Register => "registers",
        OnboardPhase::GetUuid => "asks for its UUID",
        OnboardPhase::Onboarded => "onboarded",
    }
}

pub(crate) fn attest_phase(phase: &AttestPhase) -> &'static str {
    match phase {
        AttestPhase::None => "not begun",
        AttestPhase::SendCerts => "sends the device's certificates",
        AttestPhase::NonceWait => "waits for the controller's nonce",
        AttestPhase::QuoteWait => "waits for the quote",
        AttestPhase::AttestWait => "waits for the controller's judgement",
        AttestPhase::EscrowWait => "hands keys to the controller",
        AttestPhase::RestartWait => "begins again after a pause",
        AttestPhase::Complete => "complete",
    }
}

pub(crate) fn config_source(source: ConfigSource) -> &'static str {
    match source {
        ConfigSource::None => "none yet",
        ConfigSource::Saved => "saved at an earlier boot",
        ConfigSource::Controller => "from the controller",
        ConfigSource::Bootstrap => "the bootstrap config",
    }
}

impl<'a> Walk<'a> {
    fn server(&self) -> String {
        let row = self.device.onboarding.get("global");
        row.map(|row| row.server.clone()).unwrap_or_default()
    }

    /// A fault of a call to the controller: when it was not reached, ports and DNS come first, then the controller
    /// itself, which holds up all calls alike.
    fn call(&mut self, subject: Subject, fault: &Fault) -> Condition {
        let server = self.server();
        let below = match fault.code {
            Code::PortDns => self.dns_of_uplink(u8::MAX, &server, fault),
            Code::ControllerUnreachable => self.uplink(u8::MAX, &server).or_else(|| {
                let controller = Self::subject(Kind::Controller, server, "");
                self.enter(controller.clone(), "does not answer", |w| {
                    Some(w.fault(controller, fault))
                })
            }),
            _ => None,
        };
        below.unwrap_or_else(|| self.fault(subject, fault))
    }

    pub(super) fn onboarding(&mut self) -> Block {
        let d = self.device;
        let subject = Self::subject(Kind::Onboarding, "", "");
        let Some(status) = d.onboarding.get("global") else {
            return self.enter(subject.clone(), "not known", |w| {
                let text = "zedagent says nothing of it";
                Some(w.missing(&d.onboarding, "global", subject, text))
            });
        };
        self.enter(subject.clone(), onboard_phase(&status.phase), |w| {
            if status.phase == OnboardPhase::Onboarded {
                let fault = status.fault.as_ref();
                return fault.map(|fault| w.call(subject, fault));
            }
            if let Some(down) = w.answers("zedagent", "OnboardingStatus") {
                return Some(down);
            }
            w.onboarding_step(subject, status)
        })
    }

    fn onboarding_step(&mut self, subject: Subject, status: &'a OnboardingStatus) -> Block {
        let (kind, text) = match status.phase {
            OnboardPhase::Identity => (None, "the device's key and certificate are being made"),
            OnboardPhase::AwaitNetwork => {
                if let Some(below) = self.uplink(u8::MAX, &status.server) {
                    return Some(below);
                }
                (None, "it waits for a usable address")
            }
            OnboardPhase::FetchCerts => (Some(Kind::Certificates), "they are being fetched"),
            OnboardPhase::Register => (Some(Kind::Registration), "the controller has not answered"),
            OnboardPhase::GetUuid => (
                Some(Kind::Registration),
                "the controller has not said who the device is",
            ),
            OnboardPhase::Onboarded => return None,
        };
        let say = |w: &mut Self, subject: Subject| {
            Some(if let Some(fault) = &status.fault {
                w.call(subject, fault)
            } else {
                let condition = Condition::progress(subject, text);
                w.unchanged(condition, &w.device.onboarding, "global")
            })
        };
        match kind {
            None => say(self, subject),
            Some(kind) => {
                let below = Self::subject(kind, "", "");
                let state = if status.server.is_empty() {
                    "no server is known".to_owned()
                } else {
                    format!("from {}", status.server)
                };
                self.enter(below.clone(), state, |w| say(w, below))
            }
        }
    }

    pub(super) fn config(&mut self) -> Block {
        let d = self.device;
        let subject = Self::subject(Kind::Config, "", "");
        let status = d.zedagent.get("zedagent");
        let state = status.map_or("not known", |row| config_source(row.config_source));
        self.enter(subject.clone(), state, |w| {
            let onboarded = d
                .onboarding
                .get("global")
                .is_some_and(|row| row.phase == OnboardPhase::Onboarded);
            if !onboarded && let Some(below) = w.onboarding() {
                return Some(below);
            }
            let Some(status) = status else {
                let text = "zedagent says nothing of it";
                return Some(w.missing(&d.zedagent, "zedagent", subject, text));
            };
            if let Some(down) = w.answers("zedagent", "ZedAgentStatus") {
                return Some(down);
            }
            w.channel(subject, status)
                .or_else(|| w.refused_properties())
        })
    }

    fn channel(&mut self, subject: Subject, status: &'a ZedAgentStatus) -> Block {
        let attesting = status.fault.as_ref().is_some_and(|fault| {
            fault.object == "attestation" || fault.code == Code::AttestRefused
        });
        if attesting {
            let below = Self::subject(Kind::Attestation, "", "");
            let fault = status.fault.as_ref()?;
            return self.enter(below.clone(), attest_phase(&status.attest), |w| {
                Some(w.call(below, fault))
            });
        }
        if let Some(fault) = &status.fault {
            return Some(self.call(subject, fault));
        }
        // Without a way out nothing is asked, so nothing fails.
        let server = self.server();
        if status.config_source != ConfigSource::Bootstrap
            && let Some(below) = self.uplink(u8::MAX, &server)
        {
            return Some(below);
        }
        let v1 = self
            .device
            .onboarding
            .get("global")
            .is_some_and(|row| row.api_v1);
        match status.config_source {
            ConfigSource::Controller | ConfigSource::Bootstrap => None,
            ConfigSource::None if status.attest != AttestPhase::Complete && !v1 => {
                let below = Self::subject(Kind::Attestation, "", "");
                self.enter(below.clone(), attest_phase(&status.attest), |w| {
                    let text = format!("it {}", attest_phase(&status.attest));
                    let condition = Condition::progress(below, text);
                    Some(w.unchanged(condition, &w.device.zedagent, "zedagent"))
                })
            }
            ConfigSource::None => {
                let condition =
                    Condition::waits(subject, "the controller has not sent a config yet");
                Some(self.unchanged(condition, &self.device.zedagent, "zedagent"))
            }
            ConfigSource::Saved => {
                let text = "the device works by the config of an earlier boot; the controller has not sent one";
                let condition = Condition::waits(subject, text);
                Some(self.at(condition, status.config_at, None))
            }
        }
    }

    /// Properties of the config that were not accepted: the others are in force.
    fn refused_properties(&mut self) -> Block {
        let items = self.device.items();
        let (name, reason) = items.errors.first_key_value()?;
        let more = items.errors.len() - 1;
        let subject = Self::subject(Kind::Property, name.clone(), "");
        let mut condition = Condition::new(subject, Nature::Fault, reason.clone());
        condition.code = Some(Code::ConfigItem);
        Code::ConfigItem.remedy().clone_into(&mut condition.remedy);
        // Its value is the one that is in force.
        self.name_properties(&mut condition, &[name.as_str()]);
        condition = self.unchanged(condition, &self.device.config_items, "global");
        if more > 0 {
            let others = items.errors.iter().skip(1);
            condition
                .causes
                .extend(others.map(|(name, reason)| format!("also {name}: {reason}")));
        }
        self.stop("refused", condition)
    }

    /// Whether the controller knows the last state of an object.
    pub(super) fn report(&mut self, key: &str) -> Block {
        let d = self.device;
        let name = key
            .split_once('.')
            .and_then(|(_, id)| d.app_name(id))
            .unwrap_or_default();
        let subject = Self::subject(Kind::Report, key, name);
        let Some(record) = d.journal.get(key) else {
            return self.enter(subject.clone(), "not known", |w| {
                let text = "reporter has not reported it yet";
                Some(w.missing(&d.journal, key, subject, text))
            });
        };
        let state = match record.at {
            Some(at) => format!("last acknowledged {}", crate::words::time(at)),
            None => "never acknowledged".to_owned(),
        };
        self.enter(subject.clone(), state, |w| {
            let fault = record.fault.as_ref();
            if fault.is_none() && record.at.is_some() {
                return None;
            }
            if let Some(down) = w.answers("reporter", "DeliveryJournal") {
                return Some(down);
            }
            Some(if let Some(fault) = fault {
                w.call(subject, fault)
            } else {
                let condition = Condition::progress(subject, "it is on its way to the controller");
                w.unchanged(condition, &d.journal, key)
            })
        })
    }
}
