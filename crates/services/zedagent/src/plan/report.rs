//! Every row of zedagent.

use agent::{Outbox, Turn};
use bus::Rows;
use jiff::{Timestamp, ToSpan};
use model::{
    adapter::PhysicalIoAdapterList,
    app::AppInstanceConfig,
    code::Code,
    config_item::ConfigItemValueMap,
    content::{ContentTreeConfig, DatastoreConfig},
    fault::Fault,
    network::NetworkInstanceConfig,
    node::{ConfigSource, MaintenanceReason, OnboardPhase, OnboardingStatus, ZedAgentStatus},
    port::DevicePortConfig,
    security::{CipherContext, ControllerCert, ENDS_SOON, EndingCert},
    topics::{
        APP_INSTANCE_CONFIG, CIPHER_CONTEXT, CONFIG_ITEMS, CONTENT_TREE_CONFIG, CONTROLLER_CERT,
        DATASTORE_CONFIG, DEVICE_PORT_CONFIG, NETWORK_INSTANCE_CONFIG, ONBOARDING_STATUS,
        PHYSICAL_IO_ADAPTERS, VAULT_KEY_FROM_CONTROLLER, VOLUME_CONFIG, ZEDAGENT_STATUS,
    },
    vault::EncryptedVaultKey,
    volume::VolumeConfig,
};

use super::{ESCROW, Zedagent};
use crate::{facts::AttestStep, translate::config_items};

/// Every row that zedagent publishes. What only a config can tell is `None` before there is one: then
/// the other services wait, and after a restart of zedagent they go on with what they had.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Who we are and how far we are with it.
    pub onboarding: OnboardingStatus,
    /// The controller's certificates.
    pub certs: Option<Rows<ControllerCert>>,
    /// Properties in force.
    pub items: ConfigItemValueMap,
    /// State of the config channel.
    pub status: ZedAgentStatus,
    /// The vault's key that the controller keeps; `None` while it has not said.
    pub vault_key: Option<Option<EncryptedVaultKey>>,
    /// What the config says.
    pub config: Option<Config>,
}

/// The topics that a config fills.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The keys that secrets are encrypted with.
    pub cipher_contexts: Rows<CipherContext>,
    /// Where images are.
    pub datastores: Rows<DatastoreConfig>,
    /// Images.
    pub content_trees: Rows<ContentTreeConfig>,
    /// Disks.
    pub volumes: Rows<VolumeConfig>,
    /// Networks of applications.
    pub network_instances: Rows<NetworkInstanceConfig>,
    /// Applications.
    pub apps: Rows<AppInstanceConfig>,
    /// The device's own ports.
    pub ports: Rows<DevicePortConfig>,
    /// What is in the box.
    pub adapters: PhysicalIoAdapterList,
}

impl agent::Report for Report {
    fn put(self, out: &mut Outbox) {
        let global = || "global".to_owned();
        out.put(
            &ONBOARDING_STATUS,
            Some([(global(), self.onboarding)].into()),
        );
        out.put(&CONTROLLER_CERT, self.certs);
        out.put(&CONFIG_ITEMS, Some([(global(), self.items)].into()));
        out.put(
            &ZEDAGENT_STATUS,
            Some([("zedagent".to_owned(), self.status)].into()),
        );
        let kept = |key: Option<EncryptedVaultKey>| {
            key.map(|key| ("vault".to_owned(), key))
                .into_iter()
                .collect()
        };
        out.put(&VAULT_KEY_FROM_CONTROLLER, self.vault_key.map(kept));
        let mut config = self.config;
        let config = config.as_mut();
        macro_rules! take {
            ($config:ident, $($topic:ident: $field:ident),+) => {{
                let mut $config = $config;
                $(out.put(&$topic, $config.as_mut().map(|c| std::mem::take(&mut c.$field)));)+
                out.put(
                    &PHYSICAL_IO_ADAPTERS,
                    $config.map(|c| [("zedagent".to_owned(), std::mem::take(&mut c.adapters))].into()),
                );
            }};
        }
        take!(config,
            CIPHER_CONTEXT: cipher_contexts,
            DEVICE_PORT_CONFIG: ports,
            DATASTORE_CONFIG: datastores,
            CONTENT_TREE_CONFIG: content_trees,
            VOLUME_CONFIG: volumes,
            NETWORK_INSTANCE_CONFIG: network_instances,
            APP_INSTANCE_CONFIG: apps
        );
    }
}

/// Who we are, as far as it is known now.
pub(super) fn onboarding(turn: &Turn<'_, Zedagent>) -> OnboardingStatus {
    let facts = turn.actual;
    let mut status = turn.desired.onboarding.clone();
    if let Some(name) = &facts.name {
        status.device = Some(name.device);
        if !name.hardware_model.is_empty() {
            status.hardware_model.clone_from(&name.hardware_model);
        }
    }
    if let Some(partition) = &facts.partition {
        status.server.clone_from(&partition.server);
    }
    status.device_cert = facts.device_cert;
    status.api_v1 = facts.v1;
    let usable = turn
        .desired
        .network
        .as_ref()
        .is_some_and(model::port::DeviceNetworkStatus::has_usable_address);
    status.phase = if status.device.is_some() {
        OnboardPhase::Onboarded
    } else if facts.device_cert.is_none() {
        OnboardPhase::Identity
    } else if !usable {
        OnboardPhase::AwaitNetwork
    } else if facts.certs.is_empty() && !facts.v1 {
        OnboardPhase::FetchCerts
    } else if facts.partition.as_ref().is_some_and(|p| p.can_register) {
        OnboardPhase::Register
    } else {
        OnboardPhase::GetUuid
    };
    let old = turn.desired.onboarding.fault.as_ref();
    let local = facts.partition_fault.clone().or_else(|| {
        let now = facts
            .partition
            .as_ref()
            .map_or(turn.now, |p| p.at_least(turn.now));
        (facts.device_cert.is_none() && !model::clock::was_set(now)).then(|| {
            // The day alone: another text in every turn would be news to everybody in every turn.
            let text = format!(
                "the clock says {}: waiting for the time before making a certificate",
                turn.now.strftime("%F")
            );
            (Code::OnboardIdentity, text)
        })
    });
    status.fault = match local {
        Some((code, text)) => {
            let since = old.filter(|f| f.code == code).map_or(turn.now, |f| f.since);
            Some(Fault::new(code, "onboarding", text, since).transient(true))
        }
        None if status.device.is_some() => turn.jobs.fault("onboarding").cloned(),
        None => ["identity", "controller certificates", "onboarding"]
            .iter()
            .find_map(|subject| turn.jobs.fault(subject).cloned()),
    };
    status
}

pub(super) fn report(turn: &Turn<'_, Zedagent>, onboarding: &OnboardingStatus) -> Report {
    let facts = turn.actual;
    let config = facts.in_force.as_ref().map(|c| &c.content);
    let certs = facts
        .certs
        .iter()
        .map(|c| (c.hash.clone(), c.clone()))
        .collect();
    Report {
        onboarding: onboarding.clone(),
        certs: (!facts.certs.is_empty() || facts.v1).then_some(certs),
        items: config.map_or_else(
            || turn.desired.items.clone(),
            |c| config_items(&c.items, &turn.desired.items),
        ),
        status: status(turn),
        vault_key: facts.attest.vault_key.clone(),
        config: config.map(|c| Config {
            cipher_contexts: c.cipher_contexts.clone(),
            datastores: c.datastores.clone(),
            content_trees: c.content_trees.clone(),
            volumes: c.volumes.clone(),
            network_instances: c.network_instances.clone(),
            apps: c.apps.clone(),
            ports: c.ports.iter().map(|p| (p.key.clone(), p.clone())).collect(),
            adapters: c.adapters.clone(),
        }),
    }
}

fn status(turn: &Turn<'_, Zedagent>) -> ZedAgentStatus {
    let facts = turn.actual;
    let in_force = facts.in_force.as_deref();
    let content = in_force.map(|c| &c.content);
    // A config that is refused for want of an attestation is not what went wrong.
    let no_quote = turn.jobs.fault("attestation").cloned();
    let no_quote = no_quote.filter(|fault| fault.code == Code::AttestQuote);
    let fault = facts
        .refused
        .clone()
        .or_else(|| facts.attest.refused.clone().or(no_quote))
        .or_else(|| match facts.attest.step {
            AttestStep::Pause { .. } => facts.attest.barred.clone(),
            AttestStep::SendCerts
            | AttestStep::AskNonce
            | AttestStep::SendQuote(_)
            | AttestStep::Complete(_) => None,
        })
        .or_else(|| {
            let subjects = [
                "config",
                "attestation",
                "saved config",
                "config checkpoint",
                // Without a copy at the controller, the day on which the TPM gives nothing out is the end of the vault.
                ESCROW,
            ];
            subjects.iter().find_map(|s| turn.jobs.fault(s).cloned())
        })
        .or_else(|| facts.unsaved.clone())
        .or_else(|| content.and_then(|c| c.faults.first().cloned()));
    ZedAgentStatus {
        config_source: in_force.map_or(ConfigSource::None, |c| c.source),
        config_hash: in_force.map_or(String::new(), |c| c.hash.clone()),
        config_at: in_force.map(|c| c.at),
        last_contact: facts.last_contact.map(to_the_minute),
        attest: facts.attest.phase(),
        operations: content.map_or(Vec::new(), |c| c.operations.clone()),
        controller_epoch: content.map_or(0, |c| c.controller_epoch),
        maintenance_mode: content.is_some_and(|c| c.maintenance_mode),
        maintenance: maintenance(turn),
        ending_certs: ending(&facts.certs, turn.now),
        fault,
    }
}

/// What in the conversation with the controller calls for maintenance mode.
fn maintenance(turn: &Turn<'_, Zedagent>) -> Vec<MaintenanceReason> {
    let facts = turn.actual;
    let mut reasons = Vec::new();
    if facts.attest.no_quote {
        reasons.push(MaintenanceReason::TpmQuoteFailure);
    }
    // A controller that gives no config either has another trouble than these certificates.
    let config_works = facts
        .in_force
        .as_ref()
        .is_some_and(|c| c.source == ConfigSource::Controller)
        && turn.jobs.fault("config").is_none();
    if facts.attest.certs_refused && config_works {
        reasons.push(MaintenanceReason::EdgeNodeCertsRefused);
    }
    reasons
}

/// Those that people should replace. Intermediates last as long as the root.
fn ending(certs: &[ControllerCert], now: Timestamp) -> Vec<EndingCert> {
    let soon = now.checked_add(ENDS_SOON).unwrap_or(Timestamp::MAX);
    certs
        .iter()
        .filter(|cert| cert.not_after <= soon)
        .map(|cert| EndingCert {
            kind: cert.kind,
            hash: cert.hash.clone(),
            not_after: cert.not_after,
            has_ended: cert.not_after <= now,
        })
        .collect()
}

/// Otherwise every poll would write a row and wake every reader of it.
fn to_the_minute(at: Timestamp) -> Timestamp {
    at.checked_sub((at.as_second().rem_euclid(60)).seconds())
        .ok()
        .and_then(|t| Timestamp::new(t.as_second(), 0).ok())
        .unwrap_or(at)
}
