//! nim in the real kernel, with dnsmasq at the other end of the cable. Needs root, iproute2 and
//! dnsmasq.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod world;

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use model::{
    code::Code,
    id::LogicalLabel,
    port::{
        DeviceNetworkStatus, DevicePortConfig, DpcState, PortAddressing, PortConfig, PortStatus,
        ProxyConfig,
    },
};
use world::{Device, Network, addresses, in_netns, ip, ip_json, routes, until};

fn port(if_name: &str, addressing: PortAddressing) -> PortConfig {
    PortConfig {
        if_name: if_name.parse().unwrap(),
        label: LogicalLabel(format!("the {if_name}")),
        is_mgmt: true,
        cost: 0,
        addressing,
        dns_servers: Vec::new(),
        ntp_servers: Vec::new(),
        domain_name: String::new(),
        proxy: ProxyConfig::default(),
        mtu: 0,
        wireless: vec![],
    }
}

fn fixed(if_name: &str, address: &str, gateway: Option<&str>) -> PortConfig {
    let addressing = PortAddressing::Static {
        address: address.parse().unwrap(),
        gateway: gateway.map(|g| g.parse().unwrap()),
    };
    port(if_name, addressing)
}

fn config(at: i64, ports: Vec<PortConfig>) -> DevicePortConfig {
    DevicePortConfig {
        key: "zedagent".to_owned(),
        time_priority: Timestamp::from_second(at).unwrap(),
        ports,
        fault: None,
    }
}

fn of<'a>(status: &'a DeviceNetworkStatus, if_name: &str) -> &'a PortStatus {
    let found = status.ports.iter().find(|p| p.if_name.as_str() == if_name);
    found.unwrap_or_else(|| panic!("{if_name}: {status:?}"))
}

fn first(status: &DeviceNetworkStatus) -> Option<String> {
    Some(status.ports.first()?.addresses.first()?.to_string())
}

#[test]
fn a_device_that_was_told_nothing_gets_its_address_and_leaves_others_objects_alone() {
    in_netns(|| async {
        let mut network = Network::new(1);
        network.serve(&[]);
        network.is_serving().await;
        ip("link add docker0 type bridge");
        ip("addr add 172.17.0.1/16 dev docker0");
        ip("link add bn1 type bridge");
        ip("route add blackhole 198.51.100.0/24 proto static");
        ip("rule add from 192.0.2.1 lookup 777 priority 100");
        let others = || {
            let rules = ip_json("rule").as_array().unwrap().clone();
            let routes = ip_json("route").as_array().unwrap().clone();
            let foreign = |o: &&serde_json::Value| o["protocol"] != "101";
            (
                addresses("docker0"),
                ip_json("link show dev docker0")[0]["operstate"].clone(),
                rules.iter().filter(foreign).count(),
                routes.iter().filter(foreign).count(),
            )
        };
        let before = others();

        let mut device = Device::new();
        let began = Instant::now();
        device.start();
        let status = device
            .when("address", |s| s.state == DpcState::Success)
            .await;
        let took = began.elapsed();
        println!("first address after {took:?}");
        assert!(took < Duration::from_millis(1500), "{took:?}");

        assert_eq!(
            (status.dpc_key.as_str(), status.ports.len()),
            ("lastresort", 1)
        );
        let port = of(&status, "eth1");
        assert!(port.link_up && port.is_mgmt && port.fault.is_none());
        assert_eq!(addresses("eth1"), [port.addresses[0].to_string()]);
        assert_eq!(port.gateways, ["10.1.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(port.dns_servers, ["10.1.0.53".parse::<IpAddr>().unwrap()]);
        assert_eq!((port.domain_name.as_str(), port.mtu), ("lab.test", 1500));
        let expected = [
            "10.1.0.0/24 dev eth1 metric 1000",
            "default via 10.1.0.1 dev eth1 metric 1000",
        ];
        assert_eq!(port.route_table, 501);
        assert_eq!(routes("501"), expected);
        let main = routes("main");
        assert!(
            expected.iter().all(|r| main.contains(&(*r).to_owned())),
            "{main:?}"
        );
        let address = port.addresses[0].addr().to_string();
        let rules = ip_json("rule");
        let rule = rules
            .as_array()
            .unwrap()
            .iter()
            .find(|r| r["src"] == *address);
        assert_eq!(rule.unwrap()["table"], "501");
        assert_eq!(
            (&rule.unwrap()["priority"], &rule.unwrap()["protocol"]),
            (&15_000.into(), &"101".into())
        );
        assert_eq!(others(), before);
        device.stop().await;
    });
}

#[test]
fn two_ports_by_dhcp_and_static_follow_the_config_and_each_answers_by_itself() {
    in_netns(|| async {
        let (mut one, two) = (Network::new(1), Network::new(2));
        one.serve(&[]);
        let mut device = Device::new();
        let mut expensive = fixed("eth2", "10.2.0.9/24", Some("10.2.0.1"));
        expensive.cost = 3;
        expensive.mtu = 1400;
        expensive.dns_servers = vec!["10.2.0.53".parse().unwrap()];
        device.give(&config(
            100,
            vec![port("eth1", PortAddressing::Dhcp), expensive.clone()],
        ));
        device.start();
        let status = device
            .when("both", |s| {
                s.ports.iter().all(|p| !p.addresses.is_empty()) && s.ports.len() == 2
            })
            .await;
        assert_eq!(
            (status.dpc_key.as_str(), status.state),
            ("zedagent", DpcState::Success)
        );
        let port_two = of(&status, "eth2");
        assert_eq!((port_two.mtu, port_two.cost), (1400, 3));
        assert_eq!(port_two.dns_servers, expensive.dns_servers);
        assert_eq!(addresses("eth2"), ["10.2.0.9/24"]);
        assert_eq!(ip_json("link show dev eth2")[0]["mtu"], 1400);
        let defaults = |table: &str| -> Vec<String> {
            let all = routes(table);
            all.into_iter()
                .filter(|r| r.starts_with("default"))
                .collect()
        };
        assert_eq!(
            defaults("main"),
            [
                "default via 10.1.0.1 dev eth1 metric 1000",
                "default via 10.2.0.1 dev eth2 metric 1769",
            ]
        );
        // What is sent from the second port's address leaves by it, to wherever it goes.
        let way = ip_json("route get 203.0.113.9 from 10.2.0.9");
        assert_eq!(way[0]["dev"], "eth2");
        assert_eq!(ip_json("route get 203.0.113.9")[0]["dev"], "eth1");

        // Another address, gateway and cost, in place; the other port is not touched.
        let before = addresses("eth1");
        let index = ip_json("addr show dev eth1")[0]["ifindex"].clone();
        let mut moved = fixed("eth2", "10.2.0.10/25", Some("10.2.0.2"));
        moved.cost = 3;
        device.give(&config(
            200,
            vec![port("eth1", PortAddressing::Dhcp), moved],
        ));
        device
            .when("change", |s| {
                of(s, "eth2").addresses == ["10.2.0.10/25".parse().unwrap()]
            })
            .await;
        until("routes", || {
            let wanted = "default via 10.2.0.2 dev eth2 metric 1769";
            defaults("main").iter().any(|r| r == wanted).then_some(())
        })
        .await;
        assert_eq!(addresses("eth2"), ["10.2.0.10/25"]);
        assert_eq!(ip_json("link show dev eth2")[0]["mtu"], 1500);
        assert_eq!(
            (
                addresses("eth1"),
                &ip_json("addr show dev eth1")[0]["ifindex"]
            ),
            (before, &index)
        );

        // A port that leaves the config loses what nim gave it, and nothing else.
        ip("addr add 192.0.2.2/32 dev eth2");
        device.give(&config(300, vec![port("eth1", PortAddressing::Dhcp)]));
        device.when("one port", |s| s.ports.len() == 1).await;
        until("clean", || {
            (addresses("eth2") == ["192.0.2.2/32"]).then_some(())
        })
        .await;
        until("rule", || {
            let rules = ip_json("rule");
            let left = rules
                .as_array()
                .unwrap()
                .iter()
                .any(|r| r["src"] == "10.2.0.10");
            (!left && routes("502").is_empty()).then_some(())
        })
        .await;
        device.stop().await;
        drop(two);
    });
}

#[test]
fn a_cable_that_is_pulled_and_plugged_and_a_port_that_vanishes_are_seen_at_once() {
    in_netns(|| async {
        let (mut one, mut two) = (Network::new(1), Network::new(2));
        one.serve(&[]);
        two.serve(&[]);
        let mut device = Device::new();
        device.start();
        let both = |s: &DeviceNetworkStatus| {
            s.ports.len() == 2 && s.ports.iter().all(|p| !p.addresses.is_empty())
        };
        let before = device.when("both", both).await;

        let began = Instant::now();
        one.ip("link set far down");
        let status = device.when("down", |s| !of(s, "eth1").link_up).await;
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
        assert!(of(&status, "eth1").addresses.is_empty() && status.state == DpcState::Success);
        // The other port takes over; connections may still come back to this one.
        until("way", || {
            (ip_json("route get 203.0.113.9")[0]["dev"] == "eth2").then_some(())
        })
        .await;
        assert_eq!(
            addresses("eth1"),
            [of(&before, "eth1").addresses[0].to_string()]
        );

        let began = Instant::now();
        one.ip("link set far up");
        let status = device.when("up", both).await;
        println!("back after {:?}", began.elapsed());
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(of(&status, "eth1").addresses, of(&before, "eth1").addresses);

        ip("link delete eth1");
        device.when("gone", |s| s.ports.len() == 1).await;
        one.plug();
        one.serve(&[]);
        device.when("back", both).await;
        device.stop().await;
    });
}

#[test]
fn a_cable_plugged_into_another_network_brings_another_address() {
    in_netns(|| async {
        let mut network = Network::new(1);
        network.serve(&["--dhcp-authoritative"]);
        let mut device = Device::new();
        device.start();
        device.when("address", |s| first(s).is_some()).await;
        network.ip("link set far down");
        device.when("down", |s| !of(s, "eth1").link_up).await;
        network.ip("addr flush dev far");
        network.ip("addr add 10.77.0.1/24 dev far");
        network.serve(&[
            "--dhcp-authoritative",
            "--dhcp-range=10.77.0.50,10.77.0.99,120s",
        ]);
        network.ip("link set far up");
        let began = Instant::now();
        let is_new = |s: &DeviceNetworkStatus| first(s).is_some_and(|a| a.starts_with("10.77."));
        device.when("other address", is_new).await;
        println!("other network after {:?}", began.elapsed());
        assert_eq!(addresses("eth1").len(), 1);
        device.stop().await;
    });
}

#[test]
fn a_first_packet_that_is_lost_costs_a_moment() {
    in_netns(|| async {
        let mut network = Network::new(1);
        let mut device = Device::new();
        let began = Instant::now();
        device.start();
        tokio::time::sleep(Duration::from_millis(600)).await;
        network.serve(&[]);
        device.when("address", |s| first(s).is_some()).await;
        println!("server 0.6 s late: address after {:?}", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(3));
        device.stop().await;
    });
}

#[test]
fn a_server_that_comes_late_is_found_and_until_then_the_fault_says_so() {
    in_netns(|| async {
        let mut network = Network::new(1);
        let mut device = Device::new();
        device.start();
        device
            .when("waiting", |s| {
                s.state == DpcState::IpDnsWait && s.ports.len() == 1
            })
            .await;
        let status = device.when("fault", |s| s.ports[0].fault.is_some()).await;
        let fault = of(&status, "eth1").fault.clone().unwrap();
        assert_eq!((fault.code, fault.attempts), (Code::PortDhcp, 1));
        assert!(fault.next.is_some() && fault.transient, "{fault:?}");
        assert_eq!(status.state, DpcState::Fail);
        network.serve(&[]);
        network.is_serving().await;
        let began = Instant::now();
        let status = device
            .when("address", |s| s.state == DpcState::Success)
            .await;
        println!("late server found after {:?}", began.elapsed());
        assert!(
            began.elapsed() < Duration::from_secs(6),
            "{:?}",
            began.elapsed()
        );
        assert!(of(&status, "eth1").fault.is_none());
        device.stop().await;
    });
}

#[test]
fn a_lease_is_renewed_in_time_and_goes_when_it_ends_unanswered() {
    in_netns(|| async {
        let mut network = Network::new(1);
        // Server identity, then the times of the protocol: renewed after 2 s, rebound after 4.
        network.serve(&["--dhcp-option=option:T1,2", "--dhcp-option=option:T2,4"]);
        let mut device = Device::new();
        device.start();
        device.when("address", |s| first(s).is_some()).await;
        let lease = device.lease("eth1").unwrap();
        // The server adds something at random.
        assert!((2..8).contains(&lease.renew_seconds), "{lease:?}");
        assert!(lease.rebind_seconds < 10 && lease.lease_seconds == 120);
        let renewed = until("renewed", || {
            device.lease("eth1").filter(|l| l.obtained > lease.obtained)
        })
        .await;
        assert_eq!(renewed.address, lease.address);
        let age = renewed.obtained_uptime - lease.obtained_uptime;
        assert!(age <= u64::from(lease.renew_seconds) + 1, "{age}");
        // The server is gone for a while: the address stays as long as the lease lasts.
        network.stop_serving();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let status = device.status().unwrap();
        assert_eq!(
            (status.state, of(&status, "eth1").fault.clone()),
            (DpcState::Success, None)
        );
        network.serve(&[
            "--dhcp-option=option:T1,2",
            "--dhcp-option=option:T2,4",
            "--dhcp-authoritative",
        ]);
        let again = until("rebound", || {
            device
                .lease("eth1")
                .filter(|l| l.obtained > renewed.obtained)
        })
        .await;
        assert_eq!(again.address, lease.address);
        device.stop().await;
    });
}

#[test]
fn a_restart_keeps_address_lease_and_connections_and_needs_no_server() {
    in_netns(|| async {
        let mut network = Network::new(1);
        network.serve(&[]);
        let mut device = Device::new();
        device.start();
        let before = device
            .when("address", |s| s.state == DpcState::Success)
            .await;
        let echo = network.there(|| {
            let listener = TcpListener::bind("10.1.0.1:7000").unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() {
                stream.write_all(&byte).unwrap();
            }
        });
        let to: SocketAddr = "10.1.0.1:7000".parse().unwrap();
        let mut stream = until("listener", || std::net::TcpStream::connect(to).ok()).await;
        let mut echoes = || {
            stream.write_all(b"x").unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
        };
        echoes();
        let lease = device.lease("eth1").unwrap();
        let seen = || {
            (
                ip_json("-4 addr show dev eth1"),
                ip_json("-4 route show table all"),
                ip_json("rule"),
            )
        };
        let kernel = seen();

        device.stop().await;
        network.stop_serving();
        device.start();
        device.when("as before", |s| *s == before).await;
        echoes();
        // The server does not answer, and nothing changes for that.
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(device.lease("eth1").unwrap(), lease);
        assert_eq!(seen(), kernel);
        network.serve(&["--dhcp-authoritative"]);
        let confirmed = until("confirmed", || {
            device.lease("eth1").filter(|l| l.obtained > lease.obtained)
        })
        .await;
        assert_eq!(confirmed.address, lease.address);
        echoes();
        assert_eq!(device.status().unwrap(), before);
        device.stop().await;
        drop(stream);
        echo.join().unwrap();
    });
}
