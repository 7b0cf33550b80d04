//! Secrets of a configuration as a device gets them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use api::auth::AuthContainer;
use api::certs::ZCertType;
use api::config::ConfigResponse;
use prost::Message as _;
use support::{Device, World, attested, certs, certs_request, config_request, signing_pem};

/// The device's certificate for key exchange, signed by its own key, and that key.
fn exchange_cert(device: &Device) -> (String, p256::SecretKey) {
    use p256::pkcs8::DecodePrivateKey as _;
    let key = rcgen::KeyPair::generate().unwrap();
    let secret = p256::SecretKey::from_pkcs8_der(&key.serialize_der()).unwrap();
    (device.identity.certify(&key), secret)
}

#[tokio::test]
async fn trust_secrets_go_encrypted_to_the_device_that_can_read_them() {
    let world = World::new().await;
    let device = world.onboarded("SN-1").await;
    let yaml = "device: SN-1\n\
        datastores:\n- {name: d, url: \"https://d.example\", user: hans, password: CANARY-pear}\n\
        images:\n- {name: i, datastore: d, file: x.qcow2, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08, size: 1MiB}\n\
        volumes:\n- {name: v, image: i, size: 2MiB}\n\
        apps:\n- {name: x, memory: 64MiB, volumes: [v], user_data: \"#!/bin/sh CANARY-plum\"}\n";
    let apply = evc::admin::Apply {
        yaml: yaml.to_owned(),
        dry_run: false,
    };
    world.admin.apply(&apply).await.unwrap();
    let pem = signing_pem(&world).await;
    let token = attested(&world, &device, &pem).await;
    let config = async |hash: &str| {
        let request = device.seal(&config_request(hash, &token));
        let reply = world.post(&device.path("config"), request).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let container = AuthContainer::decode(reply.body.as_slice()).unwrap();
        let payload = container.protected_payload.unwrap().payload;
        (reply.opened::<ConfigResponse>(&pem), payload)
    };
    let secrets = async || world.admin.device("SN-1").await.unwrap().secrets;

    // Not yet known: the login stays here, the user data goes as it is, and people are told.
    let (plain, bytes) = config("").await;
    let plain_config = plain.config.unwrap();
    assert!(plain_config.datastores[0].password.is_empty());
    assert!(plain_config.datastores[0].cipher_data.is_none());
    assert!(!plain_config.apps[0].user_data.is_empty());
    assert!(!String::from_utf8_lossy(&bytes).contains("CANARY-pear"));
    let told = secrets().await;
    assert!(
        told.starts_with("NOT encrypted") && told.contains("1 datastores withheld"),
        "{told}"
    );

    let (own, secret) = exchange_cert(&device);
    let request = certs_request(&own, ZCertType::CertTypeDeviceEcdhExchange);
    let reply = world
        .post(&device.path("attest"), device.seal(&request))
        .await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let (answer, _) = config(&plain.config_hash).await;
    let hash = answer.config_hash;
    let config_now = answer.config.unwrap();
    assert_eq!(secrets().await, "encrypted for the device");

    let text = format!("{config_now:?}");
    assert!(
        !text.contains("hans")
            && !text.contains("CANARY")
            && config_now.apps[0].user_data.is_empty()
    );
    let context = &config_now.cipher_contexts[0];
    assert_eq!(context.device_cert_hash, cipher::pem_hash(own.as_bytes()));
    let certs = certs(&world).await;
    let theirs = certs
        .certs
        .iter()
        .find(|c| c.cert_hash == context.controller_cert_hash)
        .unwrap();
    let peer = cipher::PeerKey::from_certificate(&theirs.cert).unwrap();
    let key = cipher::Key::derive(&cipher::agree(&secret, &peer).unwrap());
    let open = |block: &api::common::CipherBlock| {
        let digest: [u8; 32] = block.clear_text_sha256.as_slice().try_into().unwrap();
        assert_eq!(block.cipher_context_id, context.context_id);
        let clear = key.decrypt(
            &block.initial_value,
            &block.cipher_data,
            &model::id::Digest(digest),
        );
        api::common::EncryptionBlock::decode(clear.unwrap().as_slice()).unwrap()
    };
    let login = open(config_now.datastores[0].cipher_data.as_ref().unwrap());
    assert_eq!(
        (login.ds_api_key.as_str(), login.ds_password.as_str()),
        ("hans", "CANARY-pear")
    );
    let app = open(config_now.apps[0].cipher_data.as_ref().unwrap());
    assert!(app.protected_user_data.starts_with("IyEvYmluL3No"));
    assert_ne!(
        login.encrypted_data, app.encrypted_data,
        "each has its salt"
    );

    // From poll to poll it stays the same.
    let again = device.seal(&config_request(&hash, &token));
    assert_eq!(world.post(&device.path("config"), again).await.status, 304);
    world.end().await;
}
