//! What to ask the controller next, and what to tell the other services.

mod report;
mod steps;

use std::{sync::Arc, time::Duration};

use agent::{Action, Backoff, Plan, Service, Tables, Turn};
use bus::Rows;
use model::{
    config_item::ConfigItemValueMap,
    id::{DeviceId, Digest},
    node::{NodeAgentStatus, OnboardingStatus},
    port::DeviceNetworkStatus,
    security::EdgeNodeCert,
    topics::{
        CONFIG_ITEMS, DEVICE_NETWORK_STATUS, EDGE_NODE_CERT, NODE_AGENT_STATUS, ONBOARDING_STATUS,
        VAULT_KEY_FROM_DEVICE,
    },
    vault::EncryptedVaultKey,
};

use crate::facts::{CertsWanted, Facts};

pub use report::Report;
pub(crate) use steps::hashes;

/// What the vault's key at the controller is called.
pub(crate) const ESCROW: &str = "escrow of the vault key";

/// The service.
pub struct Zedagent;

/// The little that zedagent is told by others; what is wanted comes from the controller.
pub struct Desired {
    /// The device's network; unknown until nim has spoken.
    pub network: Option<DeviceNetworkStatus>,
    /// Why the device booted; unknown until nodeagent has spoken.
    pub node: Option<Arc<Rows<NodeAgentStatus>>>,
    /// The device's further certificates; unknown until tpmmgr has spoken.
    pub certs: Option<Arc<Rows<EdgeNodeCert>>>,
    /// The vault's key as the controller may keep it; none while there is none.
    pub vault_key: Option<EncryptedVaultKey>,
    /// Our own memory: who we are.
    pub onboarding: OnboardingStatus,
    /// Our own memory: properties in force.
    pub items: ConfigItemValueMap,
}

/// A step towards the controller, or with what it said.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Make the device's key and certificate.
    LearnIdentity,
    /// Fetch and verify the controller's certificates.
    FetchCerts {
        /// Why.
        wanted: CertsWanted,
    },
    /// Register with the onboarding key if there is one, then ask for the UUID.
    Introduce {
        /// Also register.
        register: bool,
        /// Counts the controller's disownings.
        again: bool,
    },
    /// Attestation: send the device's certificates.
    SendCerts {
        /// The certificates.
        certs: Vec<EdgeNodeCert>,
        /// Round.
        round: u32,
        /// Who we are.
        device: DeviceId,
    },
    /// Attestation: ask for a nonce.
    AskNonce {
        /// Round.
        round: u32,
        /// Who we are.
        device: DeviceId,
    },
    /// Attestation: send a quote.
    SendQuote {
        /// Round.
        round: u32,
        /// Over this.
        nonce: Vec<u8>,
        /// Who we are.
        device: DeviceId,
    },
    /// Give the controller the vault's key to keep.
    StoreKey {
        /// The key, which only this device's TPM can decrypt.
        key: EncryptedVaultKey,
        /// Integrity token.
        token: Vec<u8>,
        /// Who we are.
        device: DeviceId,
    },
    /// Note that the device enters or leaves maintenance mode.
    NoteMaintenance {
        /// It enters.
        on: bool,
    },
    /// Begin attestation anew.
    ResumeAttest {
        /// Round that ended.
        round: u32,
    },
    /// Ask for the config.
    FetchConfig {
        /// Number of the request.
        number: u64,
        /// Hash of the config last received.
        hash: String,
        /// Integrity token.
        token: Vec<u8>,
        /// Who we are.
        device: DeviceId,
    },
    /// Take the config of an earlier boot.
    UseSaved {
        /// The one that proved itself rather than the last one.
        backup: bool,
        /// Who we are.
        device: DeviceId,
    },
    /// The config in force has proved itself.
    KeepAsBackup {
        /// Digest of the saved config.
        digest: Digest,
    },
}

impl Action for Step {
    fn subject(&self) -> String {
        match self {
            Step::LearnIdentity => "identity",
            Step::FetchCerts { .. } => "controller certificates",
            Step::Introduce { .. } => "onboarding",
            Step::SendCerts { .. }
            | Step::AskNonce { .. }
            | Step::SendQuote { .. }
            | Step::ResumeAttest { .. } => "attestation",
            Step::StoreKey { .. } => ESCROW,
            Step::NoteMaintenance { .. } => "maintenance mode",
            Step::FetchConfig { .. } => "config",
            Step::UseSaved { .. } => "saved config",
            Step::KeepAsBackup { .. } => "config checkpoint",
        }
        .to_owned()
    }

    fn is_slow(&self) -> bool {
        match self {
            Step::FetchCerts { .. }
            | Step::Introduce { .. }
            | Step::SendCerts { .. }
            | Step::AskNonce { .. }
            | Step::SendQuote { .. }
            | Step::StoreKey { .. }
            | Step::FetchConfig { .. } => true,
            Step::LearnIdentity
            | Step::NoteMaintenance { .. }
            | Step::ResumeAttest { .. }
            | Step::UseSaved { .. }
            | Step::KeepAsBackup { .. } => false,
        }
    }

    fn backoff(&self) -> Backoff {
        let seconds = Duration::from_secs;
        let always = |first, max| Backoff {
            first,
            max,
            permanent: Some(max),
        };
        match self {
            // No answer of the controller is final: it may learn about this device at any time.
            Step::Introduce { .. } | Step::FetchCerts { .. } => always(seconds(1), seconds(600)),
            // A controller that will not have them has to be changed first.
            Step::SendCerts { .. }
            | Step::AskNonce { .. }
            | Step::SendQuote { .. }
            | Step::StoreKey { .. } => Backoff {
                first: seconds(2),
                max: seconds(60),
                permanent: Some(seconds(480)),
            },
            Step::FetchConfig { .. } => always(seconds(2), seconds(60)),
            Step::LearnIdentity
            | Step::NoteMaintenance { .. }
            | Step::ResumeAttest { .. }
            | Step::UseSaved { .. }
            | Step::KeepAsBackup { .. } => Backoff::default(),
        }
    }
}

impl Service for Zedagent {
    const NAME: &'static str = "zedagent";
    type Desired = Desired;
    type Actual = Facts;
    type Action = Step;
    type Report = Report;

    fn read(tables: &mut Tables) -> Option<Desired> {
        Some(Desired {
            network: tables
                .peek(&DEVICE_NETWORK_STATUS)
                .and_then(|rows| rows.get("global").cloned()),
            node: tables.peek(&NODE_AGENT_STATUS),
            certs: tables.peek(&EDGE_NODE_CERT),
            vault_key: tables
                .peek(&VAULT_KEY_FROM_DEVICE)
                .and_then(|rows| rows.get("vault").cloned()),
            onboarding: tables
                .own(&ONBOARDING_STATUS)
                .get("global")
                .cloned()
                .unwrap_or_default(),
            items: tables
                .own(&CONFIG_ITEMS)
                .get("global")
                .cloned()
                .unwrap_or_default(),
        })
    }

    fn plan(turn: &Turn<'_, Self>) -> Plan<Self> {
        let onboarding = report::onboarding(turn);
        let mut plan = Plan::report(report::report(turn, &onboarding));
        steps::steps(turn, &onboarding, &mut plan);
        plan
    }
}
