#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn port(name: &str, cost: u8, addresses: &[&str]) -> Port {
    Port {
        cost,
        ..Port::new(name, addresses.iter().map(|a| ip(a)).collect())
    }
}

fn order(ports: &[Port], choice: Choice) -> Vec<String> {
    attempts(ports, &choice)
        .unwrap()
        .into_iter()
        .map(|a| format!("{}/{}", a.port, a.source))
        .collect()
}

#[test]
fn cheap_ports_come_first_and_equal_ones_take_turns() {
    let ports = [
        port("wwan0", 10, &["10.3.0.1"]),
        port("eth0", 0, &["10.1.0.1"]),
        port("eth1", 0, &["10.2.0.1"]),
        port("eth2", 0, &["10.4.0.1"]),
    ];
    let at = |n| order(&ports, Choice::any_cost(n));
    assert_eq!(
        at(0),
        [
            "eth0/10.1.0.1",
            "eth1/10.2.0.1",
            "eth2/10.4.0.1",
            "wwan0/10.3.0.1"
        ]
    );
    assert_eq!(
        at(1),
        [
            "eth1/10.2.0.1",
            "eth2/10.4.0.1",
            "eth0/10.1.0.1",
            "wwan0/10.3.0.1"
        ]
    );
    assert_eq!(at(3), at(0));
    assert_eq!(at(u32::MAX).len(), 4);
}

#[test]
fn every_address_but_link_local_is_a_source() {
    let ports = [port(
        "eth0",
        0,
        &[
            "169.254.7.7",
            "10.1.0.1",
            "fe80::1",
            "2001:db8::1",
            "0.0.0.0",
        ],
    )];
    assert_eq!(
        order(&ports, Choice::any_cost(0)),
        ["eth0/10.1.0.1", "eth0/2001:db8::1"]
    );
}

#[test]
fn failed_ports_are_tried_only_when_nothing_else_is_left() {
    let mut ports = [
        port("eth0", 0, &["10.1.0.1"]),
        port("eth1", 5, &["10.2.0.1"]),
    ];
    ports[0].failed = true;
    assert_eq!(order(&ports, Choice::any_cost(0)), ["eth1/10.2.0.1"]);
    ports[1].failed = true;
    assert_eq!(
        order(&ports, Choice::any_cost(0)),
        ["eth0/10.1.0.1", "eth1/10.2.0.1"]
    );
    // A healthy port with no address is not "something else".
    ports[1].failed = false;
    ports[1].addresses.clear();
    assert_eq!(order(&ports, Choice::any_cost(0)), ["eth0/10.1.0.1"]);
}

#[test]
fn the_cost_limit_is_a_limit() {
    let ports = [
        port("eth0", 3, &["10.1.0.1"]),
        port("wwan0", 10, &["10.3.0.1"]),
    ];
    let limit = |max_cost| Choice {
        iteration: 0,
        max_cost,
    };
    assert_eq!(order(&ports, limit(3)), ["eth0/10.1.0.1"]);
    let error = attempts(&ports, &limit(0)).unwrap_err();
    assert_eq!(
        error,
        NoAttempt::TooExpensive {
            max_cost: 0,
            port: "eth0".into(),
            cost: 3
        }
    );
    assert!(!error.is_transient());
    assert_eq!(
        error.to_string(),
        "every management port costs more than 0 (the cheapest is eth0 with 3)"
    );
}

#[test]
fn reasons_for_no_way_at_all() {
    let mut app_only = port("eth0", 0, &["10.1.0.1"]);
    app_only.is_mgmt = false;
    let none = attempts(&[app_only], &Choice::any_cost(0)).unwrap_err();
    assert_eq!(none, NoAttempt::NoManagementPort { ports: 1 });
    let bare = attempts(&[port("eth1", 0, &["fe80::9"])], &Choice::any_cost(0)).unwrap_err();
    assert_eq!(
        bare,
        NoAttempt::NoAddress {
            ports: vec!["eth1".into()]
        }
    );
    assert!(bare.is_transient());
}

#[test]
fn dns_servers_are_asked_from_an_address_of_their_family() {
    let mut eth0 = port("eth0", 0, &["10.1.0.1", "2001:db8::1"]);
    eth0.dns_servers = ["10.1.0.53:53", "[2001:db8::53]:53", "[fe80::53]:53"]
        .iter()
        .map(|s| s.parse().unwrap())
        .collect();
    let ways = attempts(&[eth0.clone()], &Choice::any_cost(0)).unwrap();
    for way in &ways {
        let asked: Vec<_> = way.dns.iter().map(|d| (d.server.ip(), d.source)).collect();
        assert_eq!(
            asked,
            [
                (ip("10.1.0.53"), ip("10.1.0.1")),
                (ip("2001:db8::53"), ip("2001:db8::1"))
            ]
        );
    }
    eth0.addresses.truncate(1);
    let ways = attempts(&[eth0], &Choice::any_cost(0)).unwrap();
    assert_eq!(ways[0].dns.len(), 1);
}

fn any_ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 2]>().prop_map(|b| IpAddr::from([169, 254, b[0], b[1]])),
        any::<[u8; 16]>().prop_map(IpAddr::from),
    ]
}

fn any_ports() -> impl Strategy<Value = Vec<Port>> {
    let one = (
        any::<bool>(),
        0u8..4,
        any::<bool>(),
        proptest::collection::vec(any_ip(), 0..4),
    );
    proptest::collection::vec(one, 0..6).prop_map(|ports| {
        ports
            .into_iter()
            .enumerate()
            .map(|(n, (is_mgmt, cost, failed, addresses))| Port {
                is_mgmt,
                cost,
                failed,
                ..Port::new(format!("eth{n}"), addresses)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn the_list_is_sorted_allowed_and_complete(ports in any_ports(), iteration: u32, max_cost in 0u8..4) {
        let choice = Choice { iteration, max_cost };
        let usable = |port: &&Port| port.is_mgmt && port.cost <= max_cost && port.sources().next().is_some();
        let all_failed = ports.iter().filter(usable).all(|port| port.failed);
        let expected: BTreeSet<(String, IpAddr)> = ports
            .iter()
            .filter(usable)
            .filter(|port| all_failed || !port.failed)
            .flat_map(|port| port.sources().map(|source| (port.name.clone(), source)))
            .collect();
        match attempts(&ports, &choice) {
            Err(_) => prop_assert!(expected.is_empty()),
            Ok(list) => {
                prop_assert!(list.windows(2).all(|w| w[0].cost <= w[1].cost));
                prop_assert!(list.iter().all(|a| !is_link_local(a.source)));
                let got: BTreeSet<_> = list.into_iter().map(|a| (a.port, a.source)).collect();
                prop_assert_eq!(got, expected);
            }
        }
    }

    /// Over as many walks as there are ports of the lowest cost, each of them is first once.
    #[test]
    fn turns_are_fair(count in 1usize..6, start in 0u32..1000) {
        let ports: Vec<Port> = (0..count).map(|n| port(&format!("eth{n}"), 0, &["10.0.0.1"])).collect();
        let firsts: BTreeSet<String> = (0..u32::try_from(count).unwrap())
            .map(|n| attempts(&ports, &Choice::any_cost(start + n)).unwrap()[0].port.clone())
            .collect();
        prop_assert_eq!(firsts.len(), count);
    }
}
