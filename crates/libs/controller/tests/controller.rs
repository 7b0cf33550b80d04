//! The client against a controller on loopback that speaks TLS and checks what it gets.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../../uplink/tests/support/mod.rs"]
mod support;
mod world;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::attest::{ZAttestReq, ZAttestResponse};
use api::config::{ConfigRequest, ConfigResponse};
use api::register::ZRegisterMsg;
use api::uuid::UuidResponse;
use base64::Engine;
use controller::{
    ApiVersion, ConfigAnswer, Controller, Failure, Introduction, Phase, Problem, SenderStatus,
    Timers,
};
use jiff::Timestamp;
use prost::Message;
use support::{Ca, Step, answer, refusing, serve, server_tls, silent};
use uplink::{Port, Reason};
use uuid::Uuid;
use world::{PROTO, World, info};

#[tokio::test]
async fn a_device_onboards_and_gets_its_config() {
    let world = World::new();
    let uuid = Uuid::from_u128(77);
    let seal = world.sealer();
    let certs = seal(&world.certs());
    let server = serve(Some(world.tls()), move |request| {
        let proto = |body: &[u8]| answer(200, PROTO, body);
        match request.path.rsplit('/').next().unwrap() {
            "certs" => proto(&certs),
            "register" => answer(201, &[], b""),
            "uuid" => {
                let message = UuidResponse {
                    uuid: uuid.to_string(),
                    manufacturer: "acme".into(),
                    ..Default::default()
                };
                proto(&seal(&message.encode_to_vec()))
            }
            "config" => {
                let asked =
                    ConfigRequest::decode(world::payload(&request.body).as_slice()).unwrap();
                assert_eq!(asked.integrity_token, b"token");
                let message = ConfigResponse {
                    config_hash: "h2".into(),
                    ..Default::default()
                };
                match asked.config_hash.as_str() {
                    "h1" => answer(304, &[], b""),
                    _ => proto(&seal(&message.encode_to_vec())),
                }
            }
            "attest" => answer(
                201,
                PROTO,
                &seal(
                    &ZAttestResponse {
                        resp_type: 2,
                        ..Default::default()
                    }
                    .encode_to_vec(),
                ),
            ),
            "newlogs" => answer(
                201,
                &[("Content-Type", "application/json")],
                br#"{"cpu_percentage": 12.5, "log_process_delay_msec": 7}"#,
            ),
            _ => answer(200, &[], b""),
        }
    })
    .await;
    let mut evc = world.controller(server.address);
    assert_eq!(evc.version(), ApiVersion::V2);
    assert!(evc.can_register());

    let early = evc.config("", b"token").await.unwrap_err();
    assert!(matches!(
        early,
        Failure::NoUrl { .. } | Failure::NoCerts { .. }
    ));
    let fetched = evc.certs(Timestamp::now()).await.unwrap();
    evc.set_certs(Some(Arc::new(fetched.value)));
    evc.ping().await.unwrap();
    assert_eq!(evc.register().await.unwrap().value, Introduction::New);
    let name = evc.device_name().await.unwrap().value;
    assert_eq!(
        (
            name.uuid,
            name.manufacturer.as_str(),
            name.product_name.as_str()
        ),
        (uuid, "acme", "")
    );
    evc.set_uuid(Some(uuid));

    let ConfigAnswer::Changed { response, bytes } = evc.config("", b"token").await.unwrap().value
    else {
        panic!("no config");
    };
    assert_eq!(response.config_hash, "h2");
    assert_eq!(world::payload(&bytes), response.encode_to_vec());
    assert_eq!(
        evc.config("h1", b"token").await.unwrap().value,
        ConfigAnswer::Unchanged
    );
    assert_eq!(
        evc.config("h2", b"token").await.unwrap().value,
        ConfigAnswer::Unchanged
    );
    let nonce = evc.attest(&ZAttestReq::default()).await.unwrap();
    assert_eq!((nonce.value.resp_type, nonce.code), (2, 201));
    evc.info(&info()).await.unwrap();
    evc.metrics(&api::metrics::ZMetricMsg::default())
        .await
        .unwrap();
    evc.flow_log(&api::flowlog::FlowMessage::default())
        .await
        .unwrap();
    evc.hardware_health(&api::hardwarehealth::ZHardwareHealth::default())
        .await
        .unwrap();
    let load = evc
        .new_logs(None, b"gzip".to_vec())
        .await
        .unwrap()
        .value
        .unwrap();
    assert_eq!(load.log_process_delay_msec, 7);
    evc.new_logs(Some(Uuid::nil()), b"gzip".to_vec())
        .await
        .unwrap();

    let requests = server.requests();
    let paths: Vec<&str> = requests
        .iter()
        .map(|r| r.path.strip_prefix("/api/v2/edgedevice/").unwrap())
        .collect();
    let id = format!("id/{uuid}");
    let expected = [
        "certs".to_owned(),
        "ping".to_owned(),
        "register".to_owned(),
        "uuid".to_owned(),
        format!("{id}/config"),
        format!("{id}/config"),
        format!("{id}/config"),
        format!("{id}/attest"),
        format!("{id}/info"),
        format!("{id}/metrics"),
        format!("{id}/flowlog"),
        format!("{id}/hardwarehealth"),
        format!("{id}/newlogs"),
        format!("{id}/apps/instanceid/{}/newlogs", Uuid::nil()),
    ];
    assert_eq!(paths, expected);
    let mut ids = std::collections::BTreeSet::new();
    for (index, request) in requests.iter().enumerate() {
        let id = request.header("x-request-id").unwrap();
        Uuid::parse_str(id).unwrap();
        assert!(ids.insert(id.to_owned()));
        // Serials only until the UUID is known.
        let serials = (
            request.header("x-serial-number"),
            request.header("x-soft-serial"),
        );
        assert_eq!(
            serials,
            if index < 4 {
                (Some("SN-1"), Some("soft-1"))
            } else {
                (None, None)
            }
        );
        if index < 2 {
            assert_eq!(
                (request.method.as_str(), request.header("content-type")),
                ("GET", None)
            );
        } else {
            assert_eq!(
                (request.method.as_str(), request.header("content-type")),
                ("POST", Some("application/x-proto-binary"))
            );
            let signer = if index == 2 {
                &world.onboarding
            } else {
                &world.device
            };
            world::check_envelope(&request.body, signer, index == 2);
        }
    }
    let register = ZRegisterMsg::decode(world::payload(&requests[2].body).as_slice()).unwrap();
    let pem = base64::engine::general_purpose::STANDARD
        .decode(&register.pem_cert)
        .unwrap();
    assert_eq!(pem, world.device.certificate().pem());
    assert_eq!(
        (register.serial.as_str(), register.soft_serial.as_str()),
        ("SN-1", "soft-1")
    );
    assert_eq!(world::payload(&requests[12].body), b"gzip");
}

#[tokio::test]
async fn codes_have_their_names_and_only_403_stops_the_walk() {
    let world = World::new();
    // (code, EVE's name, requests over two ports, worth trying again)
    let table = [
        (400, SenderStatus::NotFound, 2, false),
        (401, SenderStatus::Failed, 2, true),
        (403, SenderStatus::Forbidden, 1, true),
        (404, SenderStatus::NotFound, 2, false),
        (409, SenderStatus::Failed, 2, false),
        (422, SenderStatus::Failed, 2, false),
        (429, SenderStatus::Failed, 2, true),
        (500, SenderStatus::Failed, 2, true),
        (503, SenderStatus::Upgrade, 2, true),
        (302, SenderStatus::Failed, 2, true),
    ];
    for (code, status, requests, transient) in table {
        let server = serve(Some(world.tls()), move |_| {
            answer(
                code,
                &[("Content-Type", "text/plain"), ("Retry-After", "7")],
                b"because\n of it",
            )
        })
        .await;
        let mut evc = world.onboarded(server.address);
        evc.set_ports(world::two_ports());
        let failure = evc.info(&info()).await.unwrap_err();
        assert_eq!(failure.status(), status, "{code}");
        assert_eq!(failure.code(), Some(code));
        assert_eq!(failure.retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(failure.is_transient(), transient, "{code}");
        assert_eq!(
            failure.is_rejection(),
            matches!(code, 400 | 404 | 409 | 422),
            "{code}"
        );
        assert!(failure.reached_controller());
        assert_eq!(server.requests().len(), requests, "{code}");
        assert_eq!(failure.errors().len(), requests);
        let first = &failure.errors()[0];
        assert_eq!(
            (first.port.as_str(), first.problem.phase()),
            ("eth0", Phase::Http)
        );
        assert_eq!(first.source_address, "127.0.0.2".parse::<IpAddr>().unwrap());
        assert!(first.url.ends_with("/info"));
        assert!(
            first
                .to_string()
                .ends_with(&format!("code {code}: because of it")),
            "{first}"
        );
        // A step of attestation is never sent twice.
        let before = server.requests().len();
        evc.attest(&ZAttestReq::default()).await.unwrap_err();
        assert_eq!(server.requests().len(), before + 1, "{code}");
    }
}

#[tokio::test]
async fn the_next_port_is_tried_and_the_failure_of_the_first_is_told() {
    let world = World::new();
    let server = serve(Some(world.tls()), |_| answer(200, &[], b"")).await;
    let mut evc = world.onboarded(server.address);
    let gone: IpAddr = "203.0.113.9".parse().unwrap();
    let mut ports = vec![
        Port::new("eth0", vec![gone]),
        Port::new("wwan0", vec!["127.0.0.3".parse().unwrap()]),
    ];
    ports[1].cost = 10;
    evc.set_ports(ports);
    let told = evc.info(&info()).await.unwrap();
    assert_eq!(
        (told.port.as_str(), told.source),
        ("wwan0", "127.0.0.3".parse::<IpAddr>().unwrap())
    );
    assert_eq!(told.failed.len(), 1);
    assert_eq!(
        (told.failed[0].port.as_str(), told.failed[0].problem.phase()),
        ("eth0", Phase::Connect)
    );
    assert_eq!(server.requests()[0].peer.ip(), told.source);
    // Equal ports take turns.
    evc.set_ports(world::two_ports());
    let first = evc.ping().await.unwrap().port;
    let second = evc.ping().await.unwrap().port;
    assert_ne!(first, second);
    evc.set_ports(Vec::new());
    let failure = evc.ping().await.unwrap_err();
    assert!(matches!(failure, Failure::NoWay { .. }));
    assert!(!failure.is_transient());
}

async fn status_of(evc: &Controller) -> (SenderStatus, Phase, bool) {
    let failure = evc.info(&info()).await.unwrap_err();
    eprintln!("{failure}");
    (
        failure.status(),
        failure.decisive().unwrap().problem.phase(),
        failure.is_transient(),
    )
}

#[tokio::test]
async fn connections_that_fail() {
    let world = World::new();
    let evc = world.onboarded(refusing().await);
    assert_eq!(
        status_of(&evc).await,
        (SenderStatus::Refused, Phase::Connect, true)
    );

    let other = Ca::new("other");
    let server = serve(Some(server_tls(&other.leaf(&["127.0.0.1"]), None)), |_| {
        answer(200, &[], b"")
    })
    .await;
    let evc = world.onboarded(server.address);
    assert_eq!(
        status_of(&evc).await,
        (SenderStatus::CertUnknownAuthority, Phase::Tls, false)
    );

    let expired = world.ca.expired(&["127.0.0.1"]);
    let server = serve(Some(server_tls(&expired, None)), |_| answer(200, &[], b"")).await;
    let evc = world.onboarded(server.address);
    assert_eq!(
        status_of(&evc).await,
        (SenderStatus::CertInvalid, Phase::Tls, true)
    );
    assert!(evc.ping().await.unwrap_err().reached_controller());

    let named = world.ca.leaf(&["elsewhere.test"]);
    let server = serve(Some(server_tls(&named, None)), |_| answer(200, &[], b"")).await;
    let evc = world.onboarded(server.address);
    assert_eq!(
        status_of(&evc).await,
        (SenderStatus::Failed, Phase::Tls, false)
    );
}

#[tokio::test]
async fn all_ports_together_have_a_time_limit() {
    let world = World::new();
    let quiet = silent().await;
    let mut evc = world.onboarded(quiet.address);
    evc.set_timers(Timers {
        dial: Duration::from_secs(5),
        send: Duration::from_millis(200),
    });
    let addresses = (2..20).map(|n| IpAddr::from([127, 0, 0, n])).collect();
    evc.set_ports(vec![Port::new("eth0", addresses)]);
    let begin = std::time::Instant::now();
    let failure = evc.ping().await.unwrap_err();
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
    assert!(failure.errors().len() < 6);
    assert!(matches!(
        failure.errors().last().unwrap().problem,
        Problem::Deadline(_) | Problem::Transport(_)
    ));
    assert!(failure.is_transient());
    assert_eq!(Timers::default().all_ports(), Duration::from_secs(240));
}

#[tokio::test]
async fn answers_that_are_not_the_controllers() {
    let world = World::new();
    let html = [("Content-Type", "text/html")];
    let server = serve(Some(world.tls()), move |_| {
        answer(200, &html, b"<html>log in</html>")
    })
    .await;
    let evc = world.onboarded(server.address);
    let failure = evc.config("", b"").await.unwrap_err();
    assert_eq!(
        failure.errors()[0].problem,
        Problem::ContentType(Some("text/html".into()))
    );
    assert!(failure.is_transient() && !failure.reached_controller());
    let failure = evc.certs(Timestamp::now()).await.unwrap_err();
    assert!(matches!(
        failure.errors()[0].problem,
        Problem::ContentType(_)
    ));

    // A missing type is refused too, but not on an empty body.
    let server = serve(Some(world.tls()), |_| answer(200, &[], b"x")).await;
    let failure = world
        .onboarded(server.address)
        .config("", b"")
        .await
        .unwrap_err();
    assert_eq!(failure.errors()[0].problem, Problem::ContentType(None));
    let server = serve(Some(world.tls()), |_| answer(200, &[], b"")).await;
    assert_eq!(
        world
            .onboarded(server.address)
            .config("h", b"")
            .await
            .unwrap()
            .value,
        ConfigAnswer::Unchanged
    );

    // Huge, announced and not announced.
    let server = serve(Some(world.tls()), |_| {
        vec![
            Step::Send(support::head(200, PROTO, 1 << 40)),
            Step::Sleep(Duration::from_secs(20)),
        ]
    })
    .await;
    let failure = world
        .onboarded(server.address)
        .certs(Timestamp::now())
        .await
        .unwrap_err();
    assert_eq!(failure.errors()[0].problem, Problem::TooLarge(1 << 20));
    let server = serve(Some(world.tls()), |_| {
        let mut steps = vec![Step::Send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-proto-binary\r\n\r\n".to_vec(),
        )];
        steps.extend(std::iter::repeat_n(Step::Send(vec![7; 1 << 16]), 64));
        steps
    })
    .await;
    let failure = world
        .onboarded(server.address)
        .certs(Timestamp::now())
        .await
        .unwrap_err();
    assert_eq!(failure.errors()[0].problem, Problem::TooLarge(1 << 20));

    let server = serve(Some(world.tls()), |_| {
        vec![Step::Send(support::head(200, PROTO, 100)), Step::Reset]
    })
    .await;
    let failure = world
        .onboarded(server.address)
        .config("", b"")
        .await
        .unwrap_err();
    assert!(
        matches!(&failure.errors()[0].problem, Problem::Transport(t) if t.reason == Reason::Truncated)
    );
}

#[tokio::test]
async fn envelopes_that_dont_hold() {
    let world = World::new();
    let seal = world.sealer();
    let message = ConfigResponse {
        config_hash: "h".into(),
        ..Default::default()
    };
    let good = seal(&message.encode_to_vec());
    let foreign = World::new().sealer()(&message.encode_to_vec());
    // The first port meets somebody who changes a byte of the payload; the second does not.
    let mut changed = good.clone();
    let place = changed.windows(1).position(|w| w == b"h").unwrap();
    changed[place] = b'x';
    let healthy = good.clone();
    let server = serve(Some(world.tls()), move |request| {
        let first = request.peer.ip() == "127.0.0.2".parse::<IpAddr>().unwrap();
        answer(200, PROTO, if first { &changed } else { &healthy })
    })
    .await;
    let mut evc = world.onboarded(server.address);
    evc.set_ports(world::two_ports());
    let got = evc.config("", b"").await.unwrap();
    assert_eq!(got.port, "eth1");
    assert_eq!(got.failed[0].status(), SenderStatus::SignVerifyFail);
    assert_eq!(got.failed[0].problem.phase(), Phase::Envelope);

    let server = serve(Some(world.tls()), move |_| answer(200, PROTO, &foreign)).await;
    let mut evc = world.onboarded(server.address);
    evc.set_ports(world::two_ports());
    let failure = evc.config("", b"").await.unwrap_err();
    assert_eq!(
        (failure.status(), failure.errors().len()),
        (SenderStatus::CertMiss, 1)
    );
    assert!(failure.reached_controller());

    let nonsense = seal(
        &UuidResponse {
            uuid: "not a uuid".into(),
            ..Default::default()
        }
        .encode_to_vec(),
    );
    let server = serve(Some(world.tls()), move |_| answer(200, PROTO, &nonsense)).await;
    let failure = world
        .onboarded(server.address)
        .device_name()
        .await
        .unwrap_err();
    assert!(matches!(failure.errors()[0].problem, Problem::Payload(_)));
    // The chain of the controller's certificates ends elsewhere.
    let other = World::new();
    let certs = other.sealer()(&other.certs());
    let server = serve(Some(world.tls()), move |_| answer(200, PROTO, &certs)).await;
    let failure = world
        .onboarded(server.address)
        .certs(Timestamp::now())
        .await
        .unwrap_err();
    assert_eq!(failure.status(), SenderStatus::CertUnknownAuthority);
    assert!(!failure.is_transient());
}
