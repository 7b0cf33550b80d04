//! Ways in: by serial, by code, by certificate.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use api::uuid::{UuidRequest, UuidResponse};
use evc::admin::{Claim, ClaimWithCode, ClientError, NewAdmission, NewDevice, Sign};
use support::{Device, Identity, World, signing_pem};

/// Asks who it is.
async fn asks(world: &World, device: &Device) -> u16 {
    let request = device.seal(&UuidRequest::default());
    world.post("uuid", request).await.status
}

async fn registers(world: &World, device: &Device) -> u16 {
    let request = device.register(&world.batch);
    world.post("register", request).await.status
}

fn status<T: std::fmt::Debug>(result: Result<T, ClientError>) -> u16 {
    match result.unwrap_err() {
        ClientError::Refused { status, .. } => status.as_u16(),
        other => panic!("{other}"),
    }
}

/// Variants of registration, one after the other: serial, soft serial, whether it must wait; what register and uuid say.
#[tokio::test]
async fn trust_onboarding_by_shared_certificate() {
    let world = World::new().await;
    let table: [(&str, &str, &str, bool, u16, u16); 6] = [
        ("unique serial", "A", "", false, 201, 200),
        (
            "soft serial goes first",
            "Default string",
            "B",
            false,
            201,
            200,
        ),
        (
            "same board, other soft serial",
            "Default string",
            "C",
            false,
            201,
            200,
        ),
        ("waits for its claim", "D", "", true, 201, 403),
        ("not admitted", "Z", "", false, 403, 401),
        ("a serial that is taken", "A", "", false, 409, 401),
    ];
    for (what, serial, soft, hold, register, uuid) in table {
        let admitted = if soft.is_empty() { serial } else { soft };
        if admitted != "Z" {
            world.admit(admitted, hold).await;
        }
        let mut device = Device::new(serial);
        soft.clone_into(&mut device.soft_serial);
        assert_eq!(registers(&world, &device).await, register, "{what}");
        assert_eq!(asks(&world, &device).await, uuid, "{what}");
        if register == 201 {
            assert_eq!(registers(&world, &device).await, 200, "{what}, again");
        }
    }
    let mut stranger = world.batch.seal(&Device::new("A").register_message());
    stranger.sender_cert.clear();
    assert_eq!(world.post("register", stranger).await.status, 422);
    world.end().await;
}

#[tokio::test]
async fn trust_onboarding_claimed_by_code() {
    let world = World::new().await;
    let admit = async |serial: &str| {
        let new = NewAdmission {
            serial: serial.to_owned(),
            code: true,
            ..NewAdmission::default()
        };
        world.admin.admit(&new).await.unwrap().code.unwrap()
    };
    let claim = async |serial: &str, code: &str| {
        let claim = ClaimWithCode {
            serial: serial.to_owned(),
            code: code.to_owned(),
            name: Some(format!("mine {serial}")),
        };
        world.admin.claim_with_code(&claim).await
    };
    let code = admit("SN-1").await;
    let device = Device::new("SN-1");
    assert_eq!(registers(&world, &device).await, 201);
    assert_eq!(asks(&world, &device).await, 403, "it waits");
    let plain = Claim::default();
    assert_eq!(status(world.admin.claim("SN-1", &plain).await), 403);
    assert_eq!(status(claim("SN-1", "AAAAA-AAAAA").await), 403);
    assert_eq!(status(claim("SN-9", &code).await), 404);
    let claimed = claim("SN-1", &code.to_lowercase()).await.unwrap();
    assert_eq!(claimed.device.unwrap().name, "mine SN-1");
    assert_eq!(asks(&world, &device).await, 200);
    assert_eq!(status(claim("SN-1", &code).await), 409, "it is used up");

    // Claimed before it came; somebody else's code does not do.
    let (two, three) = (admit("SN-2").await, admit("SN-3").await);
    assert_eq!(status(claim("SN-2", &three).await), 403);
    assert_eq!(claim("SN-2", &two).await.unwrap().device, None);
    let device = Device::new("SN-2");
    assert_eq!(registers(&world, &device).await, 201);
    assert_eq!(asks(&world, &device).await, 200);

    // Ten guesses, then the right one does not help either.
    let device = Device::new("SN-3");
    registers(&world, &device).await;
    for _ in 0..10 {
        assert_eq!(status(claim("SN-3", "AAAAA-AAAAA").await), 403);
    }
    assert_eq!(status(claim("SN-3", &three).await), 403);
    assert_eq!(asks(&world, &device).await, 403);
    // The operator begins anew.
    world.admin.delete_device("SN-3").await.unwrap();
    let again = admit("SN-3").await;
    assert_ne!(again, three);
    assert_eq!(registers(&world, &device).await, 201);
    assert_eq!(status(claim("SN-3", &three).await), 403);
    claim("SN-3", &again).await.unwrap();
    assert_eq!(asks(&world, &device).await, 200);
    world.end().await;
}

#[tokio::test]
async fn trust_onboarding_by_a_certificate_known_before() {
    let world = World::new().await;
    let device = Device::new("SN-1");
    assert_eq!(asks(&world, &device).await, 401, "nobody knows it");
    let new = |hold| NewDevice {
        cert: device.identity.cert.pem().to_owned(),
        name: "one".to_owned(),
        serial: "SN-1".to_owned(),
        hold,
    };
    world.admin.add_device(&new(true)).await.unwrap();
    assert_eq!(asks(&world, &device).await, 403, "nobody has claimed it");
    world.admin.claim("one", &Claim::default()).await.unwrap();
    assert_eq!(asks(&world, &device).await, 200);
    assert_eq!(status(world.admin.add_device(&new(false)).await), 409);
    world.end().await;
}

#[tokio::test]
async fn trust_onboarding_with_a_certificate_of_the_controller() {
    let world = World::new().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![]).unwrap();
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let sign = Sign {
        csr,
        serial: "SN-1".to_owned(),
        name: None,
    };
    let signed = world.admin.sign(&sign).await.unwrap();
    assert!(signed.device.claimed);
    let mut device = Device::new("SN-1");
    device.identity = Identity::from_pem(&signed.certificate, &key.serialize_pem());
    device.uuid = signed.device.uuid;
    let pem = signing_pem(&world).await;
    let reply = world
        .post("uuid", device.seal(&UuidRequest::default()))
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let told = reply.opened::<UuidResponse>(&pem).uuid;
    assert_eq!(told, device.uuid.to_string());
    // The certificate without its key is nothing.
    let mut thief = Device::new("SN-1");
    let mut envelope = thief.seal(&UuidRequest::default());
    envelope.sender_cert_hash = device.identity.cert.hash().to_vec();
    assert_eq!(world.post("uuid", envelope).await.status, 401);
    thief.uuid = device.uuid;
    assert_eq!(
        status(
            world
                .admin
                .sign(&Sign {
                    csr: "x".to_owned(),
                    ..sign
                })
                .await
        ),
        422
    );
    world.end().await;
}
