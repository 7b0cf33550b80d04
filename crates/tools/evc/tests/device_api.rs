//! What a device sees of the v2 API over real TLS: the whole way in, and every way to be refused.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::Write as _;
use std::time::{Duration, Instant};

use api::attest::{
    AttestStorageKeys, AttestVolumeKey, ZAttestQuote, ZAttestReq, ZAttestReqType, ZAttestResponse,
};
use api::auth::AuthContainer;
use api::certs::{ZCert, ZCertType};
use api::config::ConfigResponse;
use api::info::{ZInfoApp, ZInfoMsg, z_info_msg::InfoContent};
use api::uuid::{UuidRequest, UuidResponse};
use evc::admin::{Apply, Claim, Client, ClientError, DeviceOrder, LogQuery, MessageQuery};
use evc::decide::messages::Kind;
use http::Method;
use prost::Message;
use sha2::{Digest as _, Sha256};
use support::{
    Device, Identity, PROTO, Reply, World, attest, attested, config_request, signing_pem,
};
use uuid::Uuid;

fn app_info(device: &Device, app: &str) -> ZInfoMsg {
    ZInfoMsg {
        dev_id: device.uuid.to_string(),
        info_content: Some(InfoContent::Ainfo(ZInfoApp {
            app_id: app.to_owned(),
            ..ZInfoApp::default()
        })),
        ..ZInfoMsg::default()
    }
}

#[tokio::test]
async fn the_whole_way_in() {
    let world = World::new().await;
    let pem = signing_pem(&world).await;
    let device = world.onboarded("S1").await;
    let again = world.post("register", device.register(&world.batch)).await;
    assert_eq!(again.status, 200);

    let uuid = world.post("uuid", device.seal(&UuidRequest {})).await;
    assert_eq!(uuid.status, 200);
    assert_eq!(
        uuid.opened::<UuidResponse>(&pem).uuid,
        device.uuid.to_string()
    );

    let config = device.path("config");
    let early = world
        .post(&config, device.seal(&config_request("", b"")))
        .await;
    assert_eq!(early.status, 403, "{}", early.text());
    let token = attested(&world, &device, &pem).await;
    let full = world
        .post(&config, device.seal(&config_request("", &token)))
        .await;
    assert_eq!(full.status, 200);
    assert_eq!(full.headers["content-type"], PROTO);
    let full: ConfigResponse = full.opened(&pem);
    let sent = full.config.unwrap();
    assert_eq!(sent.id.unwrap().uuid, device.uuid.to_string());
    assert!(!sent.controllercert_confighash.is_empty());

    let same = world
        .post(
            &config,
            device.seal(&config_request(&full.config_hash, &token)),
        )
        .await;
    assert_eq!((same.status, same.body.len()), (304, 0));
    world.admin.order("S1", DeviceOrder::Reboot).await.unwrap();
    let changed = world
        .post(
            &config,
            device.seal(&config_request(&full.config_hash, &token)),
        )
        .await;
    let changed: ConfigResponse = changed.opened(&pem);
    assert_ne!(changed.config_hash, full.config_hash);
    assert_eq!(changed.config.unwrap().reboot.unwrap().counter, 1);

    let mut keys = attest(ZAttestReqType::StoreKeys);
    keys.storage_keys = Some(AttestStorageKeys {
        integrity_token: token.clone(),
        keys: vec![AttestVolumeKey {
            key_type: 1,
            key: b"sealed".to_vec(),
            ..Default::default()
        }],
    });
    let stored = world.post(&device.path("attest"), device.seal(&keys)).await;
    let stored: ZAttestResponse = stored.opened(&pem);
    assert_eq!(stored.storage_keys_resp.unwrap().response, 1);

    // Told to attest again, the old token opens nothing.
    world.admin.order("S1", DeviceOrder::Attest).await.unwrap();
    let late = world
        .post(&config, device.seal(&config_request("", &token)))
        .await;
    assert_eq!(late.status, 403);
    let token = attested(&world, &device, &pem).await;
    let ok = world
        .post(&config, device.seal(&config_request("", &token)))
        .await;
    assert_eq!(ok.status, 200);
    world.end().await;
}

#[tokio::test]
async fn a_nonce_is_good_for_one_quote() {
    let world = World::new().await;
    let pem = signing_pem(&world).await;
    let device = world.onboarded("S1").await;
    attested(&world, &device, &pem).await;
    let mut quote = attest(ZAttestReqType::AttestReqQuote);
    quote.quote = Some(ZAttestQuote::default());
    let answer = world
        .post(&device.path("attest"), device.seal(&quote))
        .await;
    let answer = answer.opened::<ZAttestResponse>(&pem).quote_resp.unwrap();
    assert_eq!(answer.response, 2);
    assert!(answer.integrity_token.is_empty());
    world.end().await;
}

#[tokio::test]
async fn a_tpm_once_shown_can_not_be_hidden() {
    let world = World::new().await;
    let pem = signing_pem(&world).await;
    let device = world.onboarded("S1").await;
    let path = device.path("attest");
    // A device without a TPM has no certificates to present, and comes in.
    let present = |certs| {
        let mut request = attest(ZAttestReqType::AttestReqCert);
        request.certs = certs;
        world.post(&path, device.seal(&request))
    };
    assert_eq!(present(vec![]).await.status, 201);
    attested(&world, &device, &pem).await;

    // Self-signed here: what matters is that the device's key signed it.
    let cert = device.identity.cert.pem().as_bytes().to_vec();
    let quote_cert = ZCert {
        hash_algo: 1,
        cert_hash: Sha256::digest(&cert)[..16].to_vec(),
        r#type: ZCertType::CertTypeDeviceRestrictedSigning.into(),
        cert,
        ..ZCert::default()
    };
    assert_eq!(present(vec![quote_cert]).await.status, 201);
    assert_eq!(present(vec![]).await.status, 201);
    world
        .post(&path, device.seal(&attest(ZAttestReqType::AttestReqNonce)))
        .await;
    let mut quote = attest(ZAttestReqType::AttestReqQuote);
    quote.quote = Some(ZAttestQuote::default());
    let answer = world.post(&path, device.seal(&quote)).await;
    assert_eq!(
        answer
            .opened::<ZAttestResponse>(&pem)
            .quote_resp
            .unwrap()
            .response,
        4
    );
    world.end().await;
}

#[tokio::test]
async fn the_policy_can_demand_a_tpm() {
    let world = World::new().await;
    let pem = signing_pem(&world).await;
    let device = world.onboarded("S1").await;
    let yaml = "device: S1\npolicy: {software_key: false}\n".to_owned();
    world
        .admin
        .apply(&Apply {
            yaml,
            dry_run: false,
        })
        .await
        .unwrap();
    let path = device.path("attest");
    world
        .post(&path, device.seal(&attest(ZAttestReqType::AttestReqNonce)))
        .await;
    let mut quote = attest(ZAttestReqType::AttestReqQuote);
    quote.quote = Some(ZAttestQuote::default());
    let answer = world.post(&path, device.seal(&quote)).await;
    let answer = answer.opened::<ZAttestResponse>(&pem).quote_resp.unwrap();
    assert_eq!((answer.response, answer.integrity_token.len()), (4, 0));
    let view = world.admin.device("S1").await.unwrap();
    assert!(
        view.attestation.starts_with("failed: no TPM quote"),
        "{}",
        view.attestation
    );
    world.end().await;
}

#[tokio::test]
async fn followers_hear_at_once_and_strangers_nothing() {
    let world = World::new().await;
    let device = world.onboarded("S1").await;
    let admin = world.admin.clone();
    let query = MessageQuery {
        after: Some(0),
        wait: 20,
        ..MessageQuery::of(Kind::Info)
    };
    let follower = tokio::spawn(async move { admin.messages(&query).await.unwrap() });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begin = Instant::now();
    world
        .post(&device.path("info"), device.seal(&app_info(&device, "a")))
        .await;
    assert_eq!(follower.await.unwrap().len(), 1);
    assert!(begin.elapsed() < Duration::from_secs(5));
    let address = std::fs::read_to_string(world.dir.path().join("admin.address")).unwrap();
    for token in ["", "wrong"] {
        let error = Client::new(address.trim(), token)
            .devices()
            .await
            .unwrap_err();
        assert!(matches!(error, ClientError::Refused { status, .. } if status == 401));
    }
    world.end().await;
}

#[tokio::test]
async fn reports_and_logs_are_kept() {
    let world = World::new().await;
    let device = world.onboarded("S1").await;
    let app = Uuid::from_u128(9);
    let info = device.seal(&app_info(&device, &app.to_string()));
    assert_eq!(world.post(&device.path("info"), info).await.status, 201);

    let mut packer = flate2::GzBuilder::new()
        .filename("web")
        .write(Vec::new(), flate2::Compression::best());
    let line =
        r#"{"severity":"info","source":"guest","content":"hello","timestamp":{"seconds":1}}"#;
    packer.write_all(line.as_bytes()).unwrap();
    let packed = packer.finish().unwrap();
    let path = device.path(&format!("apps/instanceid/{app}/newlogs"));
    let sealed = || device.identity.signer.seal(packed.clone()).unwrap();
    assert_eq!(world.post(&path, sealed()).await.status, 201);
    // The answer was lost and the file sent again.
    assert_eq!(world.post(&path, sealed()).await.status, 200);

    let query = MessageQuery {
        device: Some("S1".to_owned()),
        ..MessageQuery::of(Kind::Info)
    };
    let messages = world.admin.messages(&query).await.unwrap();
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].object, format!("app/{app}"));
    assert_eq!(messages[0].message["ainfo"]["AppID"], app.to_string());
    let logs = world
        .admin
        .logs(&LogQuery {
            limit: 10,
            ..LogQuery::default()
        })
        .await
        .unwrap();
    assert_eq!(logs.len(), 1);
    assert_eq!(logs[0].content, "hello");
    assert_eq!(logs[0].app, Some(app.to_string()));
    world.end().await;
}

#[tokio::test]
async fn registration_is_strict() {
    let world = World::new().await;
    let first = world.onboarded("S1").await;
    let post = |container: AuthContainer| world.post("register", container);

    let second = Device::new("S1");
    assert_eq!(post(second.register(&world.batch)).await.status, 409);
    assert_eq!(
        post(Device::new("S2").register(&world.batch)).await.status,
        403
    );
    assert_eq!(
        post(Device::new("S1").register(&Identity::new()))
            .await
            .status,
        401
    );

    let mut other_key = first.register(&world.batch);
    other_key.signature_hash = Identity::new()
        .seal(&first.register_message())
        .signature_hash;
    assert_eq!(post(other_key).await.status, 401);
    let mut no_cert = first.register(&world.batch);
    no_cert.sender_cert.clear();
    assert_eq!(post(no_cert).await.status, 422);
    let mut raw_cert = first.register(&world.batch);
    raw_cert.sender_cert = world.batch.cert.pem().as_bytes().to_vec();
    assert_eq!(post(raw_cert).await.status, 422);

    let mut message = first.register_message();
    message.pem_cert = first.identity.cert.pem().as_bytes().to_vec();
    let mut raw_pem = world.batch.seal(&message);
    raw_pem.sender_cert = first.register(&world.batch).sender_cert;
    assert_eq!(post(raw_pem).await.status, 422);
    // After all that the first device is still in.
    assert_eq!(post(first.register(&world.batch)).await.status, 200);
    assert_eq!(world.admin.devices().await.unwrap().len(), 1);
    world.end().await;
}

#[tokio::test]
async fn a_held_device_waits_for_its_claim() {
    let world = World::new().await;
    world.admit("S1", true).await;
    let mut device = Device::new("S1");
    assert_eq!(
        world
            .post("register", device.register(&world.batch))
            .await
            .status,
        201
    );
    device.uuid = world.admin.device("S1").await.unwrap().uuid;
    let uuid = || world.post("uuid", device.seal(&UuidRequest {}));
    assert_eq!(uuid().await.status, 403);
    let info = device.seal(&app_info(&device, "a"));
    assert_eq!(world.post(&device.path("info"), info).await.status, 403);
    let claim = Claim {
        name: Some("edge-1".to_owned()),
    };
    assert!(world.admin.claim("S1", &claim).await.unwrap().claimed);
    assert_eq!(uuid().await.status, 200);
    assert_eq!(
        world.admin.device("edge-1").await.unwrap().uuid,
        device.uuid
    );
    world.end().await;
}

/// One way to do it wrong.
type Spoil = fn(&mut AuthContainer, &Device);

#[tokio::test]
async fn every_endpoint_refuses_what_it_must() {
    let world = World::new().await;
    let (device, other) = (world.onboarded("S1").await, world.onboarded("S2").await);
    let envelopes: [(&str, u16, Spoil); 10] = [
        ("unknown sender", 401, |c, _| {
            c.sender_cert_hash = vec![7; 32];
        }),
        ("signature of nobody", 401, |c, _| c.signature_hash[0] ^= 1),
        ("DER signature", 401, |c, _| {
            c.signature_hash = vec![0x30; 71];
        }),
        ("no signature", 401, |c, _| c.signature_hash.clear()),
        ("changed payload", 401, |c, _| {
            c.protected_payload.as_mut().unwrap().payload.push(0);
        }),
        ("no payload", 422, |c, _| c.protected_payload = None),
        ("algorithm 0", 422, |c, _| c.algo = 0),
        ("algorithm 7", 422, |c, _| c.algo = 7),
        ("short hash, long algorithm", 422, |c, _| {
            c.sender_cert_hash.truncate(16);
        }),
        ("encrypted", 422, |c, _| {
            c.cipher_data = Some(api::common::CipherBlock::default());
        }),
    ];
    let actions = [
        "config",
        "attest",
        "info",
        "metrics",
        "flowlog",
        "hardwarehealth",
        "newlogs",
        "logs",
    ];
    let mut paths: Vec<String> = actions.iter().map(|a| device.path(a)).collect();
    paths.push(device.path(&format!("apps/instanceid/{}/newlogs", Uuid::from_u128(1))));
    paths.push("uuid".to_owned());
    for path in &paths {
        for (what, status, spoil) in &envelopes {
            let mut container = device.seal(&config_request("", b""));
            spoil(&mut container, &other);
            let reply = world.post(path, container).await;
            assert_eq!(reply.status, *status, "{path}: {what}: {}", reply.text());
        }
        let garbage = world.post_bytes(path, b"\xff\xff".to_vec(), PROTO).await;
        assert_eq!(garbage.status, 422, "{path}: garbage");
        let sealed = device.seal(&config_request("", b"")).encode_to_vec();
        let untyped = world
            .post_bytes(path, sealed.clone(), "application/json")
            .await;
        assert_eq!(untyped.status, 415, "{path}: type");
        let full = format!("/api/v2/edgedevice/{path}");
        let get = world.call(Method::GET, &full, vec![], "", None).await;
        assert_eq!(get.status, 405, "{path}: GET");
        if path != "uuid" {
            let foreign = world.post(path, other.seal(&config_request("", b""))).await;
            assert_eq!(foreign.status, 403, "{path}: another device's UUID");
            let nobody = path.replace(&device.uuid.to_string(), &Uuid::from_u128(3).to_string());
            let reply = world.post_bytes(&nobody, sealed, PROTO).await;
            assert_eq!(reply.status, 404, "{path}: nobody's UUID");
        }
    }
    world.end().await;
}

#[tokio::test]
async fn malformed_messages_in_good_envelopes_are_422() {
    let world = World::new().await;
    let (device, other) = (world.onboarded("S1").await, world.onboarded("S2").await);
    let post = |action: &str, payload: Vec<u8>| {
        let container = device.identity.signer.seal(payload).unwrap();
        let path = device.path(action);
        let world = &world;
        async move { world.post(&path, container).await }
    };
    let junk = vec![0xff; 5];
    for action in [
        "config",
        "attest",
        "info",
        "metrics",
        "flowlog",
        "hardwarehealth",
        "newlogs",
    ] {
        let reply: Reply = post(action, junk.clone()).await;
        assert_eq!(reply.status, 422, "{action}");
    }
    let foreign = app_info(&other, "x").encode_to_vec();
    assert_eq!(post("info", foreign).await.status, 422);
    assert_eq!(
        post("attest", ZAttestReq::default().encode_to_vec())
            .await
            .status,
        422
    );
    let quote = attest(ZAttestReqType::AttestReqQuote).encode_to_vec();
    assert_eq!(post("attest", quote).await.status, 422);
    // Larger than any log file of a device.
    assert_eq!(post("newlogs", vec![0; 80_000]).await.status, 413);
    world.end().await;
}

#[tokio::test]
async fn a_deleted_device_is_unknown_and_may_come_again() {
    let world = World::new().await;
    let device = world.onboarded("S1").await;
    world.admin.delete_device("S1").await.unwrap();
    let info = device.seal(&app_info(&device, "a"));
    assert_eq!(world.post(&device.path("info"), info).await.status, 404);
    assert_eq!(
        world
            .post("uuid", device.seal(&UuidRequest {}))
            .await
            .status,
        401
    );
    assert_eq!(
        world
            .post("register", device.register(&world.batch))
            .await
            .status,
        201
    );
    assert_ne!(world.admin.device("S1").await.unwrap().uuid, device.uuid);
    world.end().await;
}
