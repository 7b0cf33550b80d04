//! How far the attestation is, and how an answer changes that.

use std::{collections::BTreeSet, time::Duration};

use model::{code::Code, fault::Fault, node::AttestPhase, vault::EncryptedVaultKey};

use super::Moment;

/// Pause before attestation begins anew; twice as long after each further refusal, eight minutes at most.
pub(super) const ATTEST_PAUSE: Duration = Duration::from_secs(15);

/// Attestation: which round, and which step of it is next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attest {
    /// Counts beginnings, so that each is another action.
    pub round: u32,
    /// Refusals since the controller last gave a config for a token: pauses grow with them.
    pub refusals: u32,
    /// The last try did not lead to a token. The controller may not insist on one.
    pub in_vain: bool,
    /// The controller's last judgement, when it was a bad one.
    pub refused: Option<Fault>,
    /// The TPM gave no quote when it was last asked for one.
    pub no_quote: bool,
    /// The controller did not take the device's certificates.
    pub certs_refused: bool,
    /// Hashes of the certificates that the controller has; none when it was not told since it knows the device.
    pub certs_sent: Option<BTreeSet<String>>,
    /// What the controller keeps of the vault's key; `None` while it has not said since we started.
    pub vault_key: Option<Option<EncryptedVaultKey>>,
    /// SHA-256 of the vault's key that the controller was given to keep since we started.
    pub escrowed: Option<String>,
    /// Why attestation began anew: the config was refused. It is asked for again when there is a token.
    pub barred: Option<Fault>,
    /// Next step.
    pub step: AttestStep,
}

/// A step of the attestation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AttestStep {
    /// Send the device's certificates.
    #[default]
    SendCerts,
    /// Ask for a nonce.
    AskNonce,
    /// Send a quote over this nonce.
    SendQuote(Vec<u8>),
    /// The controller gave this integrity token.
    Complete(Vec<u8>),
    /// Begin anew.
    Pause {
        /// At this uptime.
        until: Duration,
        /// From here.
        then: Again,
    },
}

/// Where an attestation that was refused begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// With the certificates.
    Certs,
    /// With a nonce.
    Nonce,
}

/// A controller's bad judgement of a quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// It expected another nonce, or none.
    NonceMismatch,
    /// It has no certificate to check the quote with.
    NoCert,
    /// It does not accept the quote, or what it proves.
    Failed,
    /// It answered this, which is none of the protocol's.
    Other(i32),
}

impl Judgement {
    fn text(&self) -> String {
        match self {
            Self::NonceMismatch => "the controller expected another nonce".to_owned(),
            Self::NoCert => {
                "the controller has no certificate to check the device's quote with".to_owned()
            }
            Self::Failed => {
                "the controller does not accept what the device proves of its software".to_owned()
            }
            Self::Other(code) => format!("the controller answered {code}, which is no judgement"),
        }
    }
}

impl Attest {
    /// The state for people.
    pub fn phase(&self) -> AttestPhase {
        match self.step {
            AttestStep::SendCerts => AttestPhase::SendCerts,
            AttestStep::AskNonce => AttestPhase::NonceWait,
            AttestStep::SendQuote(_) if self.no_quote => AttestPhase::QuoteWait,
            AttestStep::SendQuote(_) => AttestPhase::AttestWait,
            AttestStep::Complete(_) => AttestPhase::Complete,
            AttestStep::Pause { .. } => AttestPhase::RestartWait,
        }
    }

    /// The integrity token, empty before there is one.
    pub fn token(&self) -> &[u8] {
        match &self.step {
            AttestStep::Complete(token) => token,
            AttestStep::SendCerts
            | AttestStep::AskNonce
            | AttestStep::SendQuote(_)
            | AttestStep::Pause { .. } => &[],
        }
    }

    /// The controller wants it anew.
    pub fn restart(&mut self, uptime: Duration) {
        self.pause(uptime, Again::Certs);
    }

    fn pause(&mut self, uptime: Duration, then: Again) -> Duration {
        let pause = ATTEST_PAUSE * (1 << self.refusals.min(5));
        self.refusals = self.refusals.saturating_add(1);
        let until = uptime + pause;
        self.step = AttestStep::Pause { until, then };
        pause
    }

    /// The controller judged a quote, badly. `differs` says what the device knows of the reason.
    pub fn judged(&mut self, judgement: &Judgement, differs: Vec<String>, moment: Moment) {
        let then = match judgement {
            Judgement::NoCert => Again::Certs,
            Judgement::NonceMismatch | Judgement::Failed | Judgement::Other(_) => Again::Nonce,
        };
        let lacks = matches!(judgement, Judgement::NoCert | Judgement::NonceMismatch);
        if lacks && self.refusals == 0 {
            // It may have been replaced, or have forgotten the nonce: that is put right with one more message.
            self.refusals = 1;
            self.begin(then);
            return;
        }
        self.in_vain = true;
        let pause = self.pause(moment.uptime, then);
        let mut fault = Fault::new(
            Code::AttestRefused,
            "attestation",
            judgement.text(),
            moment.now,
        )
        .transient(true)
        .continuing(self.refused.as_ref())
        .because(differs);
        fault.next = moment.now.checked_add(pause).ok();
        fault.attempts = self.refusals;
        self.refused = Some(fault);
    }

    /// The controller gave a token.
    pub fn complete(&mut self, token: Vec<u8>) {
        self.in_vain = false;
        self.no_quote = false;
        self.refused = None;
        self.step = AttestStep::Complete(token);
    }

    /// The pause is over.
    pub fn resume(&mut self) {
        if let AttestStep::Pause { then, .. } = self.step {
            self.begin(then);
        }
    }

    fn begin(&mut self, at: Again) {
        self.round += 1;
        self.step = match at {
            Again::Certs => AttestStep::SendCerts,
            Again::Nonce => AttestStep::AskNonce,
        };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jiff::Timestamp;

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment {
            now: Timestamp::from_second(i64::try_from(seconds).unwrap()).unwrap(),
            uptime: Duration::from_secs(seconds),
        }
    }

    fn quoted() -> Attest {
        Attest {
            step: AttestStep::SendQuote(vec![7; 16]),
            ..Attest::default()
        }
    }

    fn pause(attest: &Attest) -> (u64, Again) {
        match &attest.step {
            AttestStep::Pause { until, then } => (until.as_secs(), *then),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_controller_that_expects_another_nonce_is_asked_for_one_at_once_and_then_after_pauses() {
        let mut attest = quoted();
        attest.judged(&Judgement::NonceMismatch, Vec::new(), at(100));
        assert_eq!((&attest.step, attest.round), (&AttestStep::AskNonce, 1));
        assert_eq!((&attest.refused, attest.in_vain), (&None, false));
        attest.step = AttestStep::SendQuote(vec![8; 16]);
        attest.judged(&Judgement::NonceMismatch, Vec::new(), at(101));
        assert_eq!(pause(&attest), (131, Again::Nonce));
        let fault = attest.refused.clone().unwrap();
        assert_eq!(fault.code, Code::AttestRefused);
        assert_eq!((fault.attempts, fault.next), (2, Some(at(131).now)));
        assert!(attest.in_vain, "the config is asked for all the same");
        attest.resume();
        assert_eq!((&attest.step, attest.round), (&AttestStep::AskNonce, 2));
        attest.judged(&Judgement::NonceMismatch, Vec::new(), at(131));
        assert_eq!(pause(&attest).0, 131 + 60);
        assert_eq!(attest.refused.as_ref().unwrap().since, fault.since);
        attest.complete(vec![1]);
        assert_eq!((&attest.refused, attest.in_vain), (&None, false));
    }

    #[test]
    fn a_controller_without_the_certificate_gets_it_at_once_and_then_after_pauses() {
        let mut attest = quoted();
        attest.judged(&Judgement::NoCert, Vec::new(), at(100));
        assert_eq!((&attest.step, attest.round), (&AttestStep::SendCerts, 1));
        attest.step = AttestStep::SendQuote(vec![8; 16]);
        attest.judged(&Judgement::NoCert, Vec::new(), at(101));
        assert_eq!(pause(&attest), (131, Again::Certs));
        attest.resume();
        assert_eq!(attest.step, AttestStep::SendCerts);
    }

    #[test]
    fn a_controller_that_does_not_trust_the_software_is_asked_again_after_ever_longer_pauses() {
        let mut attest = quoted();
        let differs = vec!["firmware (PCR 0) differs".to_owned()];
        let mut pauses = Vec::new();
        for _ in 0..8 {
            attest.judged(&Judgement::Failed, differs.clone(), at(100));
            assert_eq!(pause(&attest).1, Again::Nonce);
            pauses.push(pause(&attest).0 - 100);
            attest.resume();
        }
        assert_eq!(pauses, [15, 30, 60, 120, 240, 480, 480, 480]);
        let fault = attest.refused.as_ref().unwrap();
        assert_eq!((&fault.causes, fault.attempts), (&differs, 8));
        assert!(fault.transient && attest.in_vain);
        attest.judged(&Judgement::Other(9), Vec::new(), at(100));
        assert!(attest.refused.unwrap().text.contains('9'));
    }

    #[test]
    fn a_tpm_without_a_quote_is_what_is_waited_for() {
        let mut attest = quoted();
        assert_eq!(attest.phase(), AttestPhase::AttestWait);
        attest.no_quote = true;
        assert_eq!(attest.phase(), AttestPhase::QuoteWait);
        attest.complete(vec![1]);
        assert!(!attest.no_quote);
    }
}
