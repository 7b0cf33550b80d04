//! The client against real servers on loopback: where connections come from, which DNS and
//! proxy they use, and what their failures are called.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use support::{Ca, Dns, answer, connect_proxy, dns, refusing, serve, server_tls, silent};
use uplink::reqwest::Url;
use uplink::{
    Attempt, Choice, Failure, Hosts, HttpClient, Moment, Phase, Port, Proxy, ProxyKind, ProxyRules,
    Reason, Roots, Settings, Tls, attempts,
};

fn quick() -> Settings {
    let mut hosts = Hosts::default();
    hosts.add("evc.test", "127.0.0.1".parse().unwrap());
    Settings {
        connect_timeout: Duration::from_millis(1500),
        request_timeout: Some(Duration::from_secs(5)),
        hosts: Arc::new(hosts),
        ..Settings::default()
    }
}

fn attempt(dns: &[SocketAddr], proxies: ProxyRules) -> Attempt {
    let mut port = Port::new("eth0", vec!["127.0.0.5".parse().unwrap()]);
    port.dns_servers = dns.to_vec();
    port.proxies = Arc::new(proxies);
    attempts(&[port], &Choice::any_cost(0)).unwrap().remove(0)
}

fn via(proxy: SocketAddr) -> ProxyRules {
    let entry = |kind| Proxy::new(kind, &proxy.ip().to_string(), proxy.port()).unwrap();
    ProxyRules::new(
        vec![entry(ProxyKind::Https), entry(ProxyKind::Http)],
        "past.test",
    )
}

fn trusting(pems: &[&str]) -> Tls {
    let mut roots = Roots::default();
    for pem in pems {
        roots.add_pem("test root", pem.as_bytes()).unwrap();
    }
    Tls::new(roots, None).unwrap()
}

async fn get(
    attempt: &Attempt,
    tls: &Tls,
    settings: &Settings,
    url: &str,
) -> Result<String, Failure> {
    let url = Url::parse(url).unwrap();
    let client = HttpClient::new(attempt, tls, settings).unwrap();
    let explain = |error: uplink::reqwest::Error| client.explain(&error, &url);
    let response = client.get(url.clone()).send().await.map_err(explain)?;
    response.text().await.map_err(explain)
}

async fn fails(attempt: &Attempt, tls: &Tls, url: &str) -> (Phase, Reason) {
    let failure = get(attempt, tls, &quick(), url).await.unwrap_err();
    eprintln!("{failure}");
    (failure.phase, failure.reason)
}

#[tokio::test]
async fn connections_leave_from_the_source_address() {
    let server = serve(None, |request| {
        answer(200, &[], request.peer.ip().to_string().as_bytes())
    })
    .await;
    let url = format!("http://{}/", server.address);
    let body = get(
        &attempt(&[], ProxyRules::default()),
        &trusting(&[]),
        &quick(),
        &url,
    )
    .await
    .unwrap();
    assert_eq!(body, "127.0.0.5");
}

#[tokio::test]
async fn names_are_asked_of_the_ports_servers_from_its_address() {
    let server = serve(None, |_| answer(200, &[], b"ok")).await;
    let names = dns(Dns::Loopback).await;
    let url = format!("http://store.test:{}/", server.port());
    let way = attempt(&[names.address], ProxyRules::default());
    assert_eq!(
        get(&way, &trusting(&[]), &quick(), &url).await.unwrap(),
        "ok"
    );
    let asked = names.requests();
    assert!(!asked.is_empty());
    let source: IpAddr = "127.0.0.5".parse().unwrap();
    assert!(asked.iter().all(|question| question.peer.ip() == source));
}

#[tokio::test]
async fn the_second_dns_server_answers_when_the_first_is_dead() {
    let server = serve(None, |_| answer(200, &[], b"ok")).await;
    let (dead, ignorant) = (dns(Dns::Silent).await, dns(Dns::NoSuchName).await);
    let alive = dns(Dns::Loopback).await;
    let url = format!("http://store.test:{}/", server.port());
    for first in [&dead, &ignorant] {
        let way = attempt(&[first.address, alive.address], ProxyRules::default());
        assert_eq!(
            get(&way, &trusting(&[]), &quick(), &url).await.unwrap(),
            "ok"
        );
    }
}

#[tokio::test]
async fn dns_failures() {
    let tls = trusting(&[]);
    let (unknown, dead) = (dns(Dns::NoSuchName).await, dns(Dns::Silent).await);
    let way = |dns: &[SocketAddr]| attempt(dns, ProxyRules::default());
    let url = "http://store.test:1/";
    assert_eq!(
        fails(&way(&[]), &tls, url).await,
        (Phase::Dns, Reason::NoDnsServers)
    );
    assert_eq!(
        fails(&way(&[unknown.address]), &tls, url).await,
        (Phase::Dns, Reason::NameNotFound)
    );
    assert_eq!(
        fails(&way(&[dead.address]), &tls, url).await,
        (Phase::Dns, Reason::TimedOut)
    );
}

#[tokio::test]
async fn connection_failures() {
    let tls = trusting(&[]);
    let direct = attempt(&[], ProxyRules::default());
    let refused = format!("http://{}/", refusing().await);
    assert_eq!(
        fails(&direct, &tls, &refused).await,
        (Phase::Connect, Reason::Refused)
    );
    let mut gone = direct.clone();
    gone.source = "203.0.113.77".parse().unwrap();
    assert_eq!(
        fails(&gone, &tls, &refused).await,
        (Phase::Connect, Reason::SourceGone)
    );
    let quiet = silent().await;
    let handshake = format!("https://{}/", quiet.address);
    assert_eq!(
        fails(&direct, &tls, &handshake).await,
        (Phase::Tls, Reason::TimedOut)
    );
    let mut settings = quick();
    settings.request_timeout = Some(Duration::from_millis(500));
    let url = format!("http://{}/", quiet.address);
    let failure = get(&direct, &tls, &settings, &url).await.unwrap_err();
    assert_eq!(
        (failure.phase, failure.reason),
        (Phase::Http, Reason::TimedOut)
    );
    let chatter = serve(None, |_| {
        vec![support::Step::Send(b"this is not HTTP\r\n\r\n".to_vec())]
    })
    .await;
    let url = format!("http://{}/", chatter.address);
    assert_eq!(
        fails(&direct, &tls, &url).await,
        (Phase::Http, Reason::NotHttp)
    );
    let closing = serve(None, |_| vec![support::Step::Reset]).await;
    let url = format!("http://{}/", closing.address);
    assert_eq!(
        fails(&direct, &tls, &url).await,
        (Phase::Http, Reason::Reset)
    );
    let short = serve(None, |_| {
        vec![support::Step::Send(support::head(200, &[], 100))]
    })
    .await;
    let url = format!("http://{}/", short.address);
    assert_eq!(
        fails(&direct, &tls, &url).await,
        (Phase::Body, Reason::Truncated)
    );
}

#[tokio::test]
async fn tls_works_in_both_versions() {
    let ca = Ca::new("root");
    let leaf = ca.leaf(&["127.0.0.1"]);
    let tls = trusting(&[&ca.pem]);
    let direct = attempt(&[], ProxyRules::default());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let server = serve(
            Some(support::server_tls_versions(&leaf, None, &[version])),
            |_| answer(200, &[], b"ok"),
        )
        .await;
        let url = format!("https://{}/", server.address);
        for _ in 0..2 {
            assert_eq!(get(&direct, &tls, &quick(), &url).await.unwrap(), "ok");
        }
    }
}

#[tokio::test]
async fn a_clock_that_was_never_set_is_no_reason_to_refuse_a_certificate() {
    let ca = Ca::new("root");
    let serve = |leaf| serve(Some(server_tls(&leaf, None)), |_| answer(200, &[], b"ok"));
    let good = serve(ca.leaf(&["127.0.0.1"])).await;
    let expired = serve(ca.expired(&["127.0.0.1"])).await;
    let at = |clock, earliest| {
        let moment = Moment::default();
        moment.follow(move || clock);
        moment.not_before(earliest);
        let mut roots = Roots::default();
        roots.add_pem("root", ca.pem.as_bytes()).unwrap();
        Tls::at(roots, None, moment).unwrap()
    };
    let direct = attempt(&[], ProxyRules::default());
    let url = |server: &support::Server| format!("https://{}/", server.address);
    let (in_2020, in_2025) = (1_577_836_800, 1_735_689_600);
    for tls in [at(0, 0), at(1000, in_2020)] {
        let answer = get(&direct, &tls, &quick(), &url(&good)).await.unwrap();
        assert_eq!(answer, "ok");
    }
    let over = (Phase::Tls, Reason::CertificateTime);
    assert_eq!(fails(&direct, &at(0, in_2020), &url(&expired)).await, over);
    let early = fails(&direct, &at(in_2025, 0), &url(&good)).await;
    assert_eq!(early, over, "a clock that was set is believed");
}

#[tokio::test]
async fn tls_failures() {
    let (ca, other) = (Ca::new("root"), Ca::new("other root"));
    let good = serve(Some(server_tls(&ca.leaf(&["127.0.0.1"]), None)), |_| {
        answer(200, &[], b"ok")
    })
    .await;
    let expired = serve(Some(server_tls(&ca.expired(&["127.0.0.1"]), None)), |_| {
        answer(200, &[], b"")
    })
    .await;
    let foreign = serve(Some(server_tls(&ca.leaf(&["evil.test"]), None)), |_| {
        answer(200, &[], b"")
    })
    .await;
    let plain = serve(None, |_| answer(200, &[], b"")).await;
    let direct = attempt(&[], ProxyRules::default());
    let url = |server: &support::Server| format!("https://{}/", server.address);
    let tls = trusting(&[&ca.pem]);
    assert_eq!(
        fails(&direct, &trusting(&[]), &url(&good)).await,
        (Phase::Tls, Reason::UnknownAuthority)
    );
    let wrong = trusting(&[&other.pem]);
    assert_eq!(
        fails(&direct, &wrong, &url(&good)).await,
        (Phase::Tls, Reason::UnknownAuthority)
    );
    assert_eq!(
        fails(&direct, &tls, &url(&expired)).await,
        (Phase::Tls, Reason::CertificateTime)
    );
    assert_eq!(
        fails(&direct, &tls, &url(&foreign)).await,
        (Phase::Tls, Reason::CertificateName)
    );
    // It waits for the end of a head that never comes and then hangs up.
    let (phase, _) = fails(&direct, &tls, &url(&plain)).await;
    assert_eq!(phase, Phase::Tls);
}

#[tokio::test]
async fn https_goes_through_the_proxy_by_connect() {
    let ca = Ca::new("root");
    let server = serve(Some(server_tls(&ca.leaf(&["far.test"]), None)), |_| {
        answer(200, &[], b"ok")
    })
    .await;
    let proxy = connect_proxy(200, server.address).await;
    let way = attempt(&[], via(proxy.address));
    let tls = trusting(&[&ca.pem]);
    // Only the proxy has to know the name.
    assert_eq!(
        get(&way, &tls, &quick(), "https://far.test/")
            .await
            .unwrap(),
        "ok"
    );
    let asked = proxy.requests();
    assert_eq!(
        (asked[0].method.as_str(), asked[0].path.as_str()),
        ("CONNECT", "far.test:443")
    );
    assert_eq!(asked[0].peer.ip(), "127.0.0.5".parse::<IpAddr>().unwrap());
    assert_eq!(
        get(&way, &tls, &quick(), "http://far.test/x")
            .await
            .unwrap(),
        "http://far.test/x"
    );
    // An exception goes past it, so its name is ours to resolve.
    let (phase, reason) = fails(&way, &tls, "https://past.test/").await;
    assert_eq!((phase, reason), (Phase::Dns, Reason::NoDnsServers));
}

#[tokio::test]
async fn proxy_failures() {
    let nowhere = refusing().await;
    let tls = trusting(&[]);
    for (status, reason) in [(407, Reason::ProxyLogin), (502, Reason::ProxyRefused)] {
        let proxy = connect_proxy(status, nowhere).await;
        let way = attempt(&[], via(proxy.address));
        assert_eq!(
            fails(&way, &tls, "https://far.test/").await,
            (Phase::Proxy, reason)
        );
    }
    let way = attempt(&[], via(nowhere));
    assert_eq!(
        fails(&way, &tls, "https://far.test/").await,
        (Phase::Proxy, Reason::Refused)
    );
    assert_eq!(
        fails(&way, &tls, "http://far.test/").await,
        (Phase::Proxy, Reason::Refused)
    );
    let ca = Ca::new("root");
    let server = serve(Some(server_tls(&ca.leaf(&["far.test"]), None)), |_| {
        answer(200, &[], b"ok")
    })
    .await;
    let proxy = connect_proxy(200, server.address).await;
    let way = attempt(&[], via(proxy.address));
    assert_eq!(
        fails(&way, &tls, "https://far.test/").await,
        (Phase::Tls, Reason::UnknownAuthority)
    );
}

#[tokio::test]
async fn redirects_are_limited() {
    let looping = serve(None, |request| {
        answer(302, &[("Location", &request.path)], b"")
    })
    .await;
    let direct = attempt(&[], ProxyRules::default());
    let url = format!("http://{}/", looping.address);
    let settings = Settings {
        redirects: 3,
        ..quick()
    };
    let failure = get(&direct, &trusting(&[]), &settings, &url)
        .await
        .unwrap_err();
    assert_eq!(failure.reason, Reason::TooManyRedirects);
    assert_eq!(looping.requests().len(), 4);
    assert!(!failure.is_transient());
    // Without redirects the redirect itself is the answer.
    assert_eq!(
        get(&direct, &trusting(&[]), &quick(), &url).await.unwrap(),
        ""
    );

    let ca = Ca::new("root");
    let to = url.clone();
    let secure = serve(
        Some(server_tls(&ca.leaf(&["127.0.0.1"]), None)),
        move |_| answer(302, &[("Location", &to)], b""),
    )
    .await;
    let url = format!("https://{}/", secure.address);
    let failure = get(&direct, &trusting(&[&ca.pem]), &settings, &url)
        .await
        .unwrap_err();
    assert_eq!(failure.reason, Reason::InsecureRedirect);
}
