//! The v1 API: identity by TLS, bare messages, two spellings of the path.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use api::config::{ConfigRequest, ConfigResponse, EdgeDevConfig};
use api::info::{ZInfoDevice, ZInfoMsg, z_info_msg::InfoContent};
use api::uuid::UuidResponse;
use evc::admin::Apply;
use evc::serve::Apis;
use http::Method;
use prost::Message;
use support::{Device, Identity, PROTO, Reply, World, connect, request, tls};

async fn call(
    world: &World,
    method: Method,
    action: &str,
    body: Vec<u8>,
    who: Option<&Identity>,
) -> Reply {
    let kind = if method == Method::POST { PROTO } else { "" };
    world
        .call(
            method,
            &format!("/api/v1/edgeDevice/{action}"),
            body,
            kind,
            who,
        )
        .await
}

#[tokio::test]
async fn a_device_lives_on_version_1() {
    let world = World::new().await;
    world.admit("S1", false).await;
    let device = Device::new("S1");
    let own = Some(&device.identity);
    let message = device.register_message().encode_to_vec();
    let register = call(
        &world,
        Method::POST,
        "register",
        message,
        Some(&world.batch),
    )
    .await;
    assert_eq!(register.status, 201, "{}", register.text());
    assert_eq!(
        call(&world, Method::GET, "ping", vec![], own).await.status,
        200
    );

    let reply = call(&world, Method::POST, "uuid", vec![], own).await;
    let uuid = UuidResponse::decode(reply.body.as_slice()).unwrap().uuid;
    assert_eq!(
        uuid,
        world.admin.device("S1").await.unwrap().uuid.to_string()
    );

    let reply = call(&world, Method::POST, "config", vec![], own).await;
    assert_eq!(reply.headers["content-type"], PROTO);
    let config = ConfigResponse::decode(reply.body.as_slice()).unwrap();
    assert_eq!(config.config.unwrap().id.unwrap().uuid, uuid);
    let known = ConfigRequest {
        config_hash: config.config_hash,
        ..ConfigRequest::default()
    };
    let reply = call(&world, Method::POST, "config", known.encode_to_vec(), own).await;
    assert_eq!(reply.status, 304);
    let bare = call(&world, Method::GET, "config", vec![], own).await;
    assert_eq!(
        EdgeDevConfig::decode(bare.body.as_slice())
            .unwrap()
            .id
            .unwrap()
            .uuid,
        uuid
    );

    let info = ZInfoMsg {
        info_content: Some(InfoContent::Dinfo(ZInfoDevice::default())),
        ..ZInfoMsg::default()
    };
    let reply = call(&world, Method::POST, "info", info.encode_to_vec(), own).await;
    assert_eq!(reply.status, 201);
    assert_eq!(world.admin.device("S1").await.unwrap().api, "v1");
    world.end().await;
}

#[tokio::test]
async fn both_spellings_and_both_tls_versions() {
    let world = World::new().await;
    let device = world.onboarded("S1").await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = tls(&world.root_pem, Some(&device.identity), &[version]);
        let mut connection = connect(world.devices, config).await.unwrap();
        for path in ["/api/v1/edgedevice/uuid", "/api/v1/edgeDevice/uuid"] {
            let reply = request(&mut connection, Method::POST, path, vec![], PROTO)
                .await
                .unwrap();
            assert_eq!(reply.status, 200, "{path}");
        }
    }
    world.end().await;
}

#[tokio::test]
async fn strangers_are_turned_away() {
    let world = World::new().await;
    let device = world.onboarded("S1").await;
    let stranger = Identity::new();
    for action in [
        "ping", "uuid", "config", "info", "metrics", "newlogs", "register",
    ] {
        let method = if action == "ping" {
            Method::GET
        } else {
            Method::POST
        };
        let none = call(&world, method.clone(), action, vec![], None).await;
        assert_eq!(none.status, 401, "{action}: no certificate");
        let unknown = call(&world, method, action, vec![], Some(&stranger)).await;
        assert_eq!(unknown.status, 401, "{action}: unknown certificate");
    }
    // The batch's key is no device.
    let batch = call(&world, Method::POST, "config", vec![], Some(&world.batch)).await;
    assert_eq!(batch.status, 401);
    let other = Device::new("S1").register_message().encode_to_vec();
    let reply = call(&world, Method::POST, "register", other, Some(&world.batch)).await;
    assert_eq!(reply.status, 409);
    let junk = call(
        &world,
        Method::POST,
        "info",
        vec![0xff],
        Some(&device.identity),
    )
    .await;
    assert_eq!(junk.status, 422);
    world.end().await;
}

#[tokio::test]
async fn policy_can_close_version_1() {
    let world = World::new().await;
    let device = world.onboarded("S1").await;
    let config = || {
        call(
            &world,
            Method::POST,
            "config",
            vec![],
            Some(&device.identity),
        )
    };
    assert_eq!(config().await.status, 200);
    let yaml = "device: S1\npolicy: {attestation: required}\n".to_owned();
    world
        .admin
        .apply(&Apply {
            yaml,
            dry_run: false,
        })
        .await
        .unwrap();
    assert_eq!(config().await.status, 403);
    world.end().await;
}

#[tokio::test]
async fn an_old_controller_knows_no_version_2() {
    let world = World::with(Apis::V1).await;
    let certs = world
        .call(Method::GET, "/api/v2/edgedevice/certs", vec![], "", None)
        .await;
    assert_eq!(certs.status, 404);
    world.end().await;
}
