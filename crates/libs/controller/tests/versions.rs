//! The other ways to a controller: version 1 with mutual TLS, and proxies.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../uplink/tests/support/mod.rs"]
mod support;
mod world;

use std::sync::Arc;

use api::attest::ZAttestReq;
use api::config::{ConfigRequest, ConfigResponse};
use api::register::ZRegisterMsg;
use api::uuid::UuidResponse;
use controller::{ApiVersion, ConfigAnswer, Controller, Endpoint, Failure, Phase, SenderStatus};
use jiff::Timestamp;
use prost::Message;
use support::{AnyClient, Ca, answer, connect_proxy, refusing, serve, server_tls};
use uplink::{Proxy, ProxyKind, ProxyRules};
use uuid::Uuid;
use world::{PROTO, World, info};

#[tokio::test]
async fn version_1_is_mutual_tls_and_bare_messages() {
    let world = World::new();
    let leaf = world.ca.leaf(&["127.0.0.1"]);
    let uuid = Uuid::from_u128(5);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let tls = support::server_tls_versions(&leaf, Some(AnyClient::verifier()), &[version]);
        let server = serve(Some(tls), move |request| match request.path.as_str() {
            "/api/v1/edgedevice/uuid" => {
                let message = UuidResponse {
                    uuid: uuid.to_string(),
                    ..Default::default()
                };
                answer(200, PROTO, &message.encode_to_vec())
            }
            "/api/v1/edgedevice/config" => {
                assert_eq!(
                    ConfigRequest::decode(request.body.as_slice())
                        .unwrap()
                        .config_hash,
                    "old"
                );
                let message = ConfigResponse {
                    config_hash: "new".into(),
                    ..Default::default()
                };
                answer(200, PROTO, &message.encode_to_vec())
            }
            path if path.contains("/api/v2/") => answer(404, &[], b""),
            _ => answer(200, &[], b""),
        })
        .await;
        let mut evc = world.controller(server.address);
        let failure = evc.certs(Timestamp::now()).await.unwrap_err();
        assert!(Controller::lacks_v2(&failure));
        evc.set_version(ApiVersion::V1);
        evc.register().await.unwrap();
        assert_eq!(evc.device_name().await.unwrap().value.uuid, uuid);
        let config = evc.config("old", b"").await.unwrap().value;
        assert!(
            matches!(config, ConfigAnswer::Changed { response, .. } if response.config_hash == "new")
        );
        evc.info(&info()).await.unwrap();
        assert!(matches!(
            evc.attest(&ZAttestReq::default()).await,
            Err(Failure::NoUrl { .. })
        ));
        let requests = server.requests();
        let shown = |index: usize| requests[index].client_cert.clone().unwrap();
        assert_eq!(shown(1), world.onboarding.certificate().der().to_vec());
        let register = ZRegisterMsg::decode(requests[1].body.as_slice()).unwrap();
        assert_eq!(register.serial, "SN-1");
        assert_eq!(shown(2), world.device.certificate().der().to_vec());
        assert_eq!(requests[4].body, info().encode_to_vec());
    }
    let refused = Failure::Attempts {
        endpoint: Endpoint::Certs,
        errors: Vec::new(),
    };
    assert!(!Controller::lacks_v2(&refused));
}

#[tokio::test]
async fn through_a_proxy() {
    let world = World::new();
    let (intercepting, far) = (Ca::new("intercepting proxy"), "far.test");
    let leaf = intercepting.leaf(&[far]);
    let server = serve(Some(server_tls(&leaf, None)), |_| answer(200, &[], b"")).await;
    let proxy = connect_proxy(200, server.address).await;
    let mut port = world::two_ports().remove(0);
    let entry = Proxy::new(ProxyKind::Https, "127.0.0.1", proxy.port()).unwrap();
    port.proxies = Arc::new(ProxyRules::new(vec![entry], ""));
    let mut evc = world.onboarded(server.address);
    evc.set_server(controller::Server::parse(far).unwrap());
    assert!(evc.set_ports(vec![port.clone()]).is_empty());
    let failure = evc.ping().await.unwrap_err();
    assert_eq!(failure.status(), SenderStatus::CertUnknownAuthorityProxy);
    assert_eq!(
        failure.errors()[0].proxy.as_deref(),
        Some(format!("127.0.0.1:{}", proxy.port()).as_str())
    );
    // With the proxy's certificate in the port's config it is trusted; a broken one beside it is told.
    port.proxy_certs = vec![intercepting.pem.clone().into_bytes(), b"broken".to_vec()];
    assert_eq!(evc.set_ports(vec![port.clone()]).len(), 1);
    evc.ping().await.unwrap();
    assert_eq!(proxy.requests()[0].path, "far.test:443");
    let dead = Proxy::new(ProxyKind::Https, "127.0.0.1", refusing().await.port()).unwrap();
    port.proxies = Arc::new(ProxyRules::new(vec![dead], ""));
    evc.set_ports(vec![port]);
    // A refusing proxy is not a refusing controller.
    let failure = evc.ping().await.unwrap_err();
    assert_eq!(failure.status(), SenderStatus::Failed);
    assert_eq!(failure.errors()[0].problem.phase(), Phase::Proxy);
    assert!(failure.is_transient());
}
