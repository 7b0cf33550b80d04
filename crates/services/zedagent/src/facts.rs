//! What the device has learned in its conversation with the controller, and how one more
//! answer changes that. Pure: the world stores a [`Facts`] and calls these steps.
//!
//! ```text
//! attestation (without a TPM the quote is empty, and the controller decides whether that will do)
//!
//!   SendCerts --> AskNonce --> SendQuote(nonce) --> Complete(token)
//!       ^             ^            |                    |
//!       +-------------+--- Pause <-+--------------------+
//!                 refused: 15 s ...    config answered 403
//! ```
//!
//! A controller that expected another nonce, or lacks the quote key's certificate, gets at once what it lacks; one
//! that refuses again, or does not trust what was measured, is asked again after a pause.

mod attest;

use std::{sync::Arc, time::Duration};

use api::config::{ConfigResponse, EdgeDevConfig};
use jiff::Timestamp;
use model::{
    code::Code,
    fault::Fault,
    id::{DeviceId, Digest},
    node::ConfigSource,
    security::ControllerCert,
};

pub use attest::{Again, Attest, AttestStep, Judgement};

use crate::translate::{Translated, timestamp, translate};

/// Everything known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Uptime at which this process began.
    pub started: Duration,
    /// What the CONFIG partition says; none while it cannot be read.
    pub partition: Option<Partition>,
    /// Why it cannot be read.
    pub partition_fault: Option<(Code, String)>,
    /// SHA-256 of the device certificate, once there is one.
    pub device_cert: Option<Digest>,
    /// The controller only speaks version 1.
    pub v1: bool,
    /// The controller's certificates in use.
    pub certs: Vec<ControllerCert>,
    /// What the certificates were fetched for; none if they are those of an earlier boot.
    pub certs_for: Option<CertsWanted>,
    /// How often an answer was signed by a certificate that we do not have.
    pub cert_misses: u32,
    /// The device's name as answered this time.
    pub name: Option<Name>,
    /// Uptime of that answer.
    pub named_at: Option<Duration>,
    /// The controller said that it does not know our UUID.
    pub disowned: bool,
    /// Attestation.
    pub attest: Attest,
    /// The last answered request for the config.
    pub asked: Option<Asked>,
    /// The controller's hash of the config last received, whether taken or not.
    pub received_hash: String,
    /// The config in force.
    pub in_force: Option<Arc<InForce>>,
    /// Why the last received config was not taken.
    pub refused: Option<Fault>,
    /// Digests of the saved configs.
    pub saved: Saved,
    /// Why something that is in use is not on the disk: tried again with every request for the config.
    /// It is in use before: a full disk must not cut the device off from its controller.
    pub unsaved: Option<Fault>,
    /// When the controller last answered anything.
    pub last_contact: Option<Timestamp>,
    /// The device was in maintenance mode when that was last looked at.
    pub in_maintenance: bool,
}

/// The CONFIG partition as far as decisions go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Partition {
    /// `host[:port]`.
    pub server: String,
    /// There is an onboarding key.
    pub can_register: bool,
    /// It is not earlier than this, whatever the clock says.
    pub earliest: Option<Timestamp>,
    /// Version 1 of the protocol is prescribed.
    pub force_v1: bool,
}

/// A reason to fetch the controller's certificates; a new value is a new reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertsWanted {
    /// The config's hash over them; empty before the first config.
    pub hash: String,
    /// [`Facts::cert_misses`].
    pub misses: u32,
    /// Number of the period of `timer.cert.interval`.
    pub period: u64,
}

/// Who the controller says that we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The UUID.
    pub device: DeviceId,
    /// Manufacturer and product, empty if it does not say.
    pub hardware_model: String,
}

/// An answered request for the config.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// Its number.
    pub number: u64,
    /// Uptime of the answer.
    pub at: Duration,
    /// Random number in `[0, 1)` that spreads devices over the interval.
    pub jitter: f64,
}

/// A config that was taken.
#[derive(Debug, Clone, PartialEq)]
pub struct InForce {
    /// Where it came from.
    pub source: ConfigSource,
    /// Whose it is: the controller may give the device another name.
    pub device: DeviceId,
    /// The controller's hash.
    pub hash: String,
    /// When it was taken.
    pub at: Timestamp,
    /// Uptime at that time.
    pub uptime: Duration,
    /// When the controller made it, if it says so.
    pub made: Option<Timestamp>,
    /// What it says.
    pub content: Translated,
}

/// Configs on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// The last one taken.
    pub primary: Option<Digest>,
    /// The last one that proved itself.
    pub backup: Option<Digest>,
}

impl Partition {
    /// `now`, or what is certain when the clock is behind that.
    pub fn at_least(&self, now: Timestamp) -> Timestamp {
        self.earliest.map_or(now, |earliest| earliest.max(now))
    }
}

/// A moment, by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Wall clock.
    pub now: Timestamp,
    /// Since boot.
    pub uptime: Duration,
}

impl Facts {
    /// Notes that an answer was signed by a certificate that we do not have. One fetch is asked for at a
    /// time: a second miss before it is done tells nothing new, and would only begin it anew.
    pub fn cert_missed(&mut self) {
        let fetched = self.certs_for.as_ref().map(|wanted| wanted.misses);
        if fetched == Some(self.cert_misses) {
            self.cert_misses += 1;
        }
    }

    /// The CONFIG partition names another controller: what the former one said about itself and about us is void.
    /// Its config stays in force until the new one gives one.
    pub fn another_controller(&mut self) {
        self.v1 = self.partition.as_ref().is_some_and(|p| p.force_v1);
        self.certs.clear();
        self.certs_for = None;
        self.cert_misses = 0;
        self.attest = Attest {
            round: self.attest.round + 1,
            ..Attest::default()
        };
        self.asked = None;
        self.received_hash.clear();
        // It may know the device by another name, or not at all.
        self.disowned = true;
        self.named_at = None;
    }

    /// The controller speaks version 2 after all.
    pub fn speaks_v2(&mut self) {
        if std::mem::take(&mut self.v1) {
            // What is on the disk was not signed: the config is to come again, in an envelope.
            self.received_hash.clear();
        }
    }

    /// The device enters maintenance mode or leaves it. What it did not take on meanwhile is to come again.
    pub fn maintained(&mut self, on: bool) {
        if std::mem::replace(&mut self.in_maintenance, on) && !on {
            self.received_hash.clear();
        }
    }

    /// Notes a config answer without news.
    pub fn unchanged(&mut self, asked: Asked, now: Timestamp) {
        self.asked = Some(asked);
        self.attest.barred = None;
        // A controller that gives the config anyway has said nothing about the quotes that it refuses.
        if matches!(self.attest.step, AttestStep::Complete(_)) {
            self.attest.refusals = 0;
        }
        self.last_contact = Some(now);
    }

    /// Takes or refuses a config. True when it was taken (and is to be saved).
    pub fn received(
        &mut self,
        response: &ConfigResponse,
        source: ConfigSource,
        device: DeviceId,
        moment: Moment,
    ) -> bool {
        // Remembered before it is applied: a config that is refused is not sent again and again.
        self.received_hash.clone_from(&response.config_hash);
        let Some(config) = &response.config else {
            return false;
        };
        match self.judge(config, response, source, device, moment) {
            Ok(in_force) => {
                self.refused = None;
                // The certificates of this boot were fetched before any hash was known.
                if let Some(wanted) = self.certs_for.as_mut().filter(|w| w.hash.is_empty()) {
                    wanted.hash.clone_from(&in_force.content.certs_hash);
                }
                self.in_force = Some(Arc::new(in_force));
                true
            }
            Err(fault) => {
                self.refused = Some(fault);
                false
            }
        }
    }

    fn judge(
        &self,
        config: &EdgeDevConfig,
        response: &ConfigResponse,
        source: ConfigSource,
        device: DeviceId,
        moment: Moment,
    ) -> Result<InForce, Fault> {
        // Another device's config says nothing about the age of this one's.
        let in_force = self.in_force.as_ref().filter(|c| c.device == device);
        let in_force = in_force.and_then(|c| c.made);
        let content = translate(config, device, in_force, moment.now).map_err(|r| {
            Fault::new(
                r.code(),
                "config",
                format!("{r}; the last good config stays in force"),
                moment.now,
            )
        })?;
        Ok(InForce {
            source,
            device,
            hash: response.config_hash.clone(),
            at: moment.now,
            uptime: moment.uptime,
            made: timestamp(config),
            content,
        })
    }

    /// The controller refused a request for the config with 403, which is what `fault` says, just now.
    pub fn forbidden(&mut self, uptime: Duration, fault: Fault) {
        if !matches!(self.attest.step, AttestStep::Complete(_)) {
            return;
        }
        self.attest.restart(uptime);
        let pause = match self.attest.step {
            AttestStep::Pause { until, .. } => until.saturating_sub(uptime),
            _ => Duration::ZERO,
        };
        let next = fault.since.checked_add(pause).ok();
        let mut fault = fault.continuing(self.attest.barred.as_ref());
        (fault.next, fault.attempts) = (next, self.attest.refusals);
        self.attest.barred = Some(fault);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use api::config::UuiDandVersion;

    use super::*;

    fn response(uuid: &str, hash: &str) -> ConfigResponse {
        let id = UuiDandVersion {
            uuid: uuid.to_owned(),
            version: "1".to_owned(),
        };
        let config = EdgeDevConfig {
            id: Some(id),
            ..EdgeDevConfig::default()
        };
        ConfigResponse {
            config: Some(config),
            config_hash: hash.to_owned(),
        }
    }

    const OURS: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
    const THEIRS: &str = "6ba7b811-9dad-11d1-80b4-00c04fd430c8";
    const MOMENT: Moment = Moment {
        now: Timestamp::UNIX_EPOCH,
        uptime: Duration::ZERO,
    };

    #[test]
    fn a_foreign_config_is_refused_once_and_the_last_good_one_stays() {
        let mut facts = Facts::default();
        let device = OURS.parse().unwrap();
        assert!(facts.received(
            &response(OURS, "a"),
            ConfigSource::Controller,
            device,
            MOMENT
        ));
        assert!(!facts.received(
            &response(THEIRS, "b"),
            ConfigSource::Controller,
            device,
            MOMENT
        ));
        assert_eq!(facts.in_force.as_ref().unwrap().hash, "a");
        assert_eq!(facts.refused.as_ref().unwrap().code, Code::ConfigForeign);
        assert_eq!(facts.received_hash, "b", "not asked for again");
        assert!(facts.received(
            &response(OURS, "c"),
            ConfigSource::Controller,
            device,
            MOMENT
        ));
        assert_eq!(facts.refused, None);
    }

    #[test]
    fn time_does_not_go_back() {
        let mut facts = Facts::default();
        let device = OURS.parse().unwrap();
        let at = |seconds| {
            let mut r = response(OURS, "x");
            let stamp = Some(
                serde_json::from_value(serde_json::json!(format!(
                    "1970-01-01T00:00:{seconds:02}Z"
                )))
                .unwrap(),
            );
            r.config.as_mut().unwrap().config_timestamp = stamp;
            r
        };
        assert!(facts.received(&at(20), ConfigSource::Controller, device, MOMENT));
        assert!(!facts.received(&at(10), ConfigSource::Controller, device, MOMENT));
        assert!(facts.received(&at(20), ConfigSource::Controller, device, MOMENT));
    }

    #[test]
    fn a_device_with_a_new_name_takes_its_config_though_it_is_older() {
        let mut facts = Facts::default();
        let dated = |uuid, seconds| {
            let mut r = response(uuid, uuid);
            let text = format!("1970-01-01T00:00:{seconds:02}Z");
            let stamp = serde_json::from_value(serde_json::json!(text)).unwrap();
            r.config.as_mut().unwrap().config_timestamp = Some(stamp);
            r
        };
        let from = ConfigSource::Controller;
        assert!(facts.received(&dated(OURS, 20), from, OURS.parse().unwrap(), MOMENT));
        assert!(facts.received(&dated(THEIRS, 10), from, THEIRS.parse().unwrap(), MOMENT));
    }

    #[test]
    fn a_second_miss_does_not_begin_the_fetch_anew_and_refusals_are_paced() {
        let mut facts = Facts::default();
        facts.cert_missed();
        assert_eq!(facts.cert_misses, 0, "they are being fetched");
        facts.certs_for = Some(CertsWanted::default());
        facts.cert_missed();
        facts.cert_missed();
        assert_eq!(facts.cert_misses, 1);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            facts.attest.complete(vec![1]);
            facts.forbidden(Duration::ZERO, refusal());
            let AttestStep::Pause { until, .. } = facts.attest.step else {
                panic!()
            };
            pauses.push(until.as_secs());
        }
        assert_eq!(pauses, [15, 30, 60, 120, 240, 480, 480, 480]);
    }

    #[test]
    fn another_controller_begins_afresh_and_the_config_stays() {
        let mut facts = Facts::default();
        let device = OURS.parse().unwrap();
        facts.received(
            &response(OURS, "a"),
            ConfigSource::Controller,
            device,
            MOMENT,
        );
        facts.certs_for = Some(CertsWanted::default());
        facts.attest.complete(vec![1]);
        facts.v1 = true;
        facts.another_controller();
        assert!(facts.in_force.is_some());
        assert!(!facts.v1 && facts.disowned && facts.certs_for.is_none());
        assert_eq!(facts.received_hash, "");
        assert_eq!(facts.attest.step, AttestStep::SendCerts);
    }

    #[test]
    fn refused_quotes_are_paced_also_when_the_config_comes_without_them() {
        let mut facts = Facts::default();
        let asked = Asked {
            number: 0,
            at: Duration::ZERO,
            jitter: 0.0,
        };
        let mut pauses = Vec::new();
        for _ in 0..4 {
            facts.attest.restart(Duration::ZERO);
            facts.unchanged(asked.clone(), MOMENT.now);
            if let AttestStep::Pause { until, .. } = facts.attest.step {
                pauses.push(until.as_secs());
            }
        }
        assert_eq!(pauses, [15, 30, 60, 120]);
        facts.attest.complete(vec![1]);
        facts.unchanged(asked, MOMENT.now);
        assert_eq!(facts.attest.refusals, 0);
    }

    fn refusal() -> Fault {
        Fault::new(Code::ControllerRefused, "config", "403", MOMENT.now)
    }

    #[test]
    fn a_403_restarts_attestation_only_when_there_was_one() {
        let mut facts = Facts::default();
        facts.forbidden(Duration::ZERO, refusal());
        assert_eq!(facts.attest.step, AttestStep::SendCerts);
        facts.attest.step = AttestStep::Complete(vec![1]);
        facts.forbidden(Duration::from_secs(5), refusal());
        assert_eq!(
            facts.attest.step,
            AttestStep::Pause {
                until: Duration::from_secs(20),
                then: Again::Certs
            }
        );
        assert!(facts.attest.token().is_empty());
        let next = facts.attest.barred.as_ref().and_then(|fault| fault.next);
        assert_eq!(next, MOMENT.now.checked_add(Duration::from_secs(15)).ok());
        facts.attest.resume();
        assert_eq!(
            (facts.attest.round, &facts.attest.step),
            (1, &AttestStep::SendCerts)
        );
    }
}
