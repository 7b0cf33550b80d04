//! Certificates, quotes, and what the device does without them.

use model::{
    node::{MaintenanceReason, NodeAgentStatus},
    security::{EdgeNodeCert, EdgeNodeCertKind},
    topics::{NODE_AGENT_STATUS, VAULT_KEY_FROM_DEVICE},
    vault::EncryptedVaultKey,
};

use super::*;

#[tokio::test(start_paused = true)]
async fn all_certificates_of_a_tpm_are_sent() {
    let mut d = Device::start();
    let keeper = d.bus.acting_as("tpmmgr").publisher(&EDGE_NODE_CERT);
    let mut keeper = keeper.unwrap();
    let kinds = [
        EdgeNodeCertKind::Ecdh,
        EdgeNodeCertKind::Quote,
        EdgeNodeCertKind::Endorsement,
        EdgeNodeCertKind::Unknown,
    ];
    for kind in kinds {
        let hash = format!("{kind:?}");
        let row = EdgeNodeCert {
            kind,
            pem: String::new(),
            hash: hash.clone(),
            is_tpm: true,
            public_area: String::new(),
        };
        keeper.publish(&hash, &row).unwrap();
    }
    keeper.set_ready().unwrap();
    d.network_up();
    sleep(Duration::from_secs(5)).await;
    let sent = d
        .script
        .0
        .lock()
        .unwrap()
        .facts
        .attest
        .certs_sent
        .clone()
        .unwrap();
    assert_eq!(
        sent.into_iter().collect::<Vec<_>>(),
        ["Ecdh", "Endorsement", "Quote"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_tpm_without_a_quote_is_said_and_the_config_asked_for_all_the_same() {
    let mut d = Device::start();
    d.script.set(|s| s.quotes = Quotes::NotGiven);
    d.network_up();
    sleep(Duration::from_secs(20)).await;
    let status = d.status();
    assert_eq!(status.config_source, ConfigSource::Controller);
    assert_eq!(status.attest, AttestPhase::QuoteWait);
    let fault = status.fault.unwrap();
    assert_eq!(
        (fault.code, fault.next.is_some()),
        (Code::AttestQuote, true)
    );
    assert_eq!(status.maintenance, [MaintenanceReason::TpmQuoteFailure]);
    // A controller that insists on the quote is not what is wrong.
    d.script.set(|s| s.config_code = 403);
    sleep(Duration::from_secs(120)).await;
    assert_eq!(d.status().fault.unwrap().code, Code::AttestQuote);
    d.script
        .set(|s| (s.quotes, s.config_code) = (Quotes::Accepted, 200));
    sleep(Duration::from_secs(120)).await;
    let status = d.status();
    assert_eq!((status.attest, status.fault), (AttestPhase::Complete, None));
    assert!(status.maintenance.is_empty());
}

#[tokio::test(start_paused = true)]
async fn certificates_that_the_controller_does_not_take_are_a_reason_when_it_gives_a_config() {
    let mut d = Device::start();
    d.script.set(|s| s.certs_code = 404);
    d.network_up();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(d.status().config_source, ConfigSource::Controller);
    assert_eq!(
        d.status().maintenance,
        [MaintenanceReason::EdgeNodeCertsRefused]
    );
    d.script.set(|s| s.config_code = 404);
    sleep(Duration::from_secs(120)).await;
    assert!(d.status().maintenance.is_empty(), "it forgot the device");
    d.script.set(|s| (s.certs_code, s.config_code) = (200, 200));
    sleep(Duration::from_secs(600)).await;
    let status = d.status();
    assert_eq!(
        (status.attest, status.maintenance),
        (AttestPhase::Complete, vec![])
    );
}

#[tokio::test(start_paused = true)]
async fn after_maintenance_mode_the_config_is_fetched_in_full() {
    let mut d = Device::start();
    d.network_up();
    sleep(Duration::from_secs(5)).await;
    let full = |d: &Device| d.script.0.lock().unwrap().full;
    assert_eq!(full(&d), 1);
    let mut node = d
        .bus
        .acting_as("nodeagent")
        .publisher(&NODE_AGENT_STATUS)
        .unwrap();
    let mut say = |maintenance: Vec<MaintenanceReason>| {
        let status = NodeAgentStatus {
            maintenance,
            ..NodeAgentStatus::default()
        };
        node.publish("nodeagent", &status).unwrap();
        node.set_ready().unwrap();
    };
    say(vec![MaintenanceReason::UserRequested]);
    sleep(Duration::from_secs(200)).await;
    assert_eq!(full(&d), 1);
    say(vec![]);
    sleep(Duration::from_secs(200)).await;
    assert_eq!(full(&d), 2, "once, then its hash is known again");
}

#[tokio::test(start_paused = true)]
async fn a_vault_key_that_the_controller_does_not_keep_is_told() {
    let mut d = Device::start();
    d.script.set(|s| s.escrow_code = 422);
    let vault = d
        .bus
        .acting_as("vaultmgr")
        .publisher(&VAULT_KEY_FROM_DEVICE);
    let mut vault = vault.unwrap();
    let key = EncryptedVaultKey {
        encrypted_key: "AA==".to_owned(),
        sha256: "03".repeat(32),
    };
    vault.publish("vault", &key).unwrap();
    vault.set_ready().unwrap();
    d.network_up();
    sleep(Duration::from_secs(30)).await;
    let fault = d.status().fault.expect("a refused copy of the key");
    assert!(fault.object.contains("escrow"), "{fault}");
    assert!(fault.next.unwrap() > d.clock.now());
    d.script.set(|s| s.escrow_code = 200);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(d.status().fault, None);
}
