//! Addresses, routes and rules in the real kernel, checked by `ip`. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod netns;

use ipnet::IpNet;
use netlink::{
    Address, AddressState, MAIN_TABLE, Netlink, NetlinkError, Owner, Route, RouteKind, Rule,
    RuleAction,
};
use netns::{in_netns, ip, run};
use serde_json::Value;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn address(link: &str, text: &str) -> Address {
    Address {
        link: link.to_owned(),
        net: net(text),
        prefix_route: true,
        owner: Owner::NIM,
    }
}

fn route(table: u32, to: &str, kind: RouteKind) -> Route {
    Route {
        table,
        to: net(to),
        metric: 50,
        kind,
        source: None,
        owner: Owner::NIM,
    }
}

fn by(link: &str, gateway: Option<&str>) -> RouteKind {
    RouteKind::Unicast {
        link: link.to_owned(),
        gateway: gateway.map(|ip| ip.parse().unwrap()),
    }
}

/// A port with an address and the other end up.
async fn port() -> Netlink {
    let netlink = Netlink::open().unwrap();
    netlink
        .create_veth("eth0", "far0", Owner::UNKNOWN)
        .await
        .unwrap();
    for link in ["eth0", "far0"] {
        netlink.set_up(link, true).await.unwrap();
    }
    let address = address("eth0", "192.0.2.7/24");
    netlink.add_address(&address).await.unwrap();
    netlink
}

async fn ours(netlink: &Netlink) -> Vec<Route> {
    let routes = netlink.routes().await.unwrap();
    routes
        .into_iter()
        .filter(|route| route.owner == Owner::NIM)
        .collect()
}

fn text(value: &Value) -> String {
    value.to_string().trim_matches('"').to_owned()
}

#[test]
fn addresses_come_and_go() {
    in_netns(|| async {
        let netlink = port().await;
        let quiet = Address {
            prefix_route: false,
            ..address("eth0", "198.51.100.1/25")
        };
        let six = address("eth0", "2001:db8::7/64");
        netlink.add_address(&quiet).await.unwrap();
        netlink.add_address(&six).await.unwrap();
        run("ip", &["addr", "add", "203.0.113.9/32", "dev", "eth0"]);

        let seen = ip("addr show dev eth0");
        let all = seen[0]["addr_info"].as_array().unwrap();
        let find = |local: &str| all.iter().find(|info| info["local"] == local).unwrap();
        assert_eq!(find("192.0.2.7")["prefixlen"], 24);
        assert_eq!(find("192.0.2.7")["broadcast"], "192.0.2.255");
        assert_eq!(find("198.51.100.1")["noprefixroute"], true);
        // (The owner is not checked here: `ip` of 2022 doesn't print it for addresses.)
        assert_eq!(find("2001:db8::7")["prefixlen"], 64);

        let listed = netlink.addresses().await.unwrap();
        let mine = |wanted: &Address| {
            let found = listed.iter().find(|(address, _)| address == wanted);
            found.map(|(_, state)| *state)
        };
        let first = address("eth0", "192.0.2.7/24");
        assert_eq!(mine(&first), Some(AddressState::Usable));
        assert_eq!(mine(&quiet), Some(AddressState::Usable));
        assert_eq!(mine(&six), Some(AddressState::Tentative));
        let foreign = Address {
            owner: Owner::UNKNOWN,
            ..address("eth0", "203.0.113.9/32")
        };
        assert!(mine(&foreign).is_some());

        let error = netlink.add_address(&first).await.unwrap_err();
        assert!(error.is_exists(), "{error}");
        let error = netlink.add_address(&address("nope", "192.0.2.7/24")).await;
        let error = error.unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot add address 192.0.2.7/24 to interface nope: there is no interface nope"
        );

        for gone in [&first, &first, &six, &address("nope", "10.0.0.1/8")] {
            netlink.delete_address(gone).await.unwrap();
        }
        let left = netlink.addresses().await.unwrap();
        let eth0 = left.iter().filter(|(address, _)| address.link == "eth0");
        let owned = eth0.filter(|(address, _)| address.owner == Owner::NIM);
        assert_eq!(
            owned.map(|(address, _)| address).collect::<Vec<_>>(),
            [&quiet]
        );
    });
}

#[test]
fn a_duplicate_address_is_seen() {
    in_netns(|| async {
        let netlink = Netlink::open().unwrap();
        netlink
            .create_veth("eth0", "far0", Owner::UNKNOWN)
            .await
            .unwrap();
        let twice = "2001:db8::7/64";
        run("ip", &["link", "set", "far0", "up"]);
        run("ip", &["addr", "add", twice, "dev", "far0", "nodad"]);
        netlink.set_up("eth0", true).await.unwrap();
        netlink.add_address(&address("eth0", twice)).await.unwrap();
        let state = || async {
            let all = netlink.addresses().await.unwrap();
            let mine = all
                .into_iter()
                .find(|(found, _)| *found == address("eth0", twice));
            mine.map(|(_, state)| state)
        };
        for _ in 0..250 {
            if state().await == Some(AddressState::Duplicate) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("{:?}", state().await);
    });
}

#[test]
fn routes_of_all_kinds() {
    in_netns(|| async {
        let netlink = port().await;
        let six = address("eth0", "2001:db8::7/64");
        netlink.add_address(&six).await.unwrap();
        let source = Route {
            source: Some("192.0.2.7".parse().unwrap()),
            ..route(801, "10.0.0.0/8", by("eth0", Some("192.0.2.1")))
        };
        let wanted = [
            route(801, "0.0.0.0/0", by("eth0", Some("192.0.2.1"))),
            route(MAIN_TABLE, "198.51.100.0/24", by("eth0", None)),
            source,
            route(70_000, "10.1.0.0/16", RouteKind::Blackhole),
            route(70_000, "10.2.0.0/16", RouteKind::Unreachable),
            route(70_000, "10.3.0.0/16", RouteKind::Prohibited),
            route(801, "10.9.0.0/16", by("eth0", Some("fe80::1"))),
            route(801, "::/0", by("eth0", Some("2001:db8::1"))),
            route(200, "2001:db8:1::/48", by("eth0", None)),
            route(200, "2001:db8:2::/48", RouteKind::Unreachable),
        ];
        for route in &wanted {
            netlink.add_route(route).await.unwrap();
        }
        let seen = ip("route show table 801");
        let default = seen
            .as_array()
            .unwrap()
            .iter()
            .find(|r| r["dst"] == "default");
        let default = default.unwrap();
        assert_eq!(default["gateway"], "192.0.2.1");
        assert_eq!(default["dev"], "eth0");
        assert_eq!(text(&default["protocol"]), "101");
        assert_eq!(default["metric"], 50);
        let via = seen
            .as_array()
            .unwrap()
            .iter()
            .find(|r| r["dst"] == "10.9.0.0/16");
        assert_eq!(via.unwrap()["via"]["host"], "fe80::1");

        let listed = ours(&netlink).await;
        assert_eq!(listed.len(), wanted.len());
        for route in &wanted {
            assert!(listed.contains(route), "{route:?} is not in {listed:#?}");
        }
        for route in &wanted {
            netlink.delete_route(route).await.unwrap();
            netlink.delete_route(route).await.unwrap();
        }
        assert!(ours(&netlink).await.is_empty());
        let kernel = netlink.routes().await.unwrap();
        let connected = kernel.iter().find(|route| route.to == net("192.0.2.0/24"));
        assert_eq!(connected.unwrap().owner, Owner::KERNEL);
    });
}

#[test]
fn other_peoples_routes_stay() {
    in_netns(|| async {
        let netlink = port().await;
        let words = "route add default via 192.0.2.1 table 801 metric 50 proto static";
        let args: Vec<&str> = words.split(' ').collect();
        run("ip", &args);
        let mine = route(801, "0.0.0.0/0", by("eth0", Some("192.0.2.1")));
        assert!(netlink.add_route(&mine).await.unwrap_err().is_exists());
        netlink.delete_route(&mine).await.unwrap();
        assert_eq!(ip("route show table 801").as_array().unwrap().len(), 1);
        assert!(ours(&netlink).await.is_empty());
        // Deleting what is only similar does nothing either.
        let similar = route(801, "0.0.0.0/0", by("eth0", Some("192.0.2.99")));
        netlink.delete_route(&similar).await.unwrap();
        assert_eq!(ip("route show table 801").as_array().unwrap().len(), 1);
    });
}

#[test]
fn a_route_is_replaced_in_one_step() {
    in_netns(|| async {
        let netlink = port().await;
        let first = route(801, "0.0.0.0/0", by("eth0", Some("192.0.2.1")));
        let second = route(801, "0.0.0.0/0", by("eth0", Some("192.0.2.2")));
        netlink.replace_route(&first).await.unwrap();
        netlink.replace_route(&second).await.unwrap();
        assert_eq!(ours(&netlink).await, [second]);
    });
}

#[test]
fn a_route_without_its_port_or_gateway_is_refused_for_now() {
    in_netns(|| async {
        let netlink = port().await;
        let nowhere = route(801, "0.0.0.0/0", by("eth0", Some("203.0.113.1")));
        let error = netlink.add_route(&nowhere).await.unwrap_err();
        assert!(matches!(error, NetlinkError::Refused { .. }) && error.is_transient());
        assert_eq!(
            error.to_string(),
            "cannot add the route to 0.0.0.0/0 by eth0 and 203.0.113.1 in table 801: \
             Network is unreachable (os error 101)"
        );
        let gone = route(801, "0.0.0.0/0", by("eth9", None));
        let error = netlink.add_route(&gone).await.unwrap_err();
        assert!(matches!(error, NetlinkError::NoLink { .. }));
        netlink.delete_route(&gone).await.unwrap();
    });
}

#[test]
fn rules_come_and_go() {
    in_netns(|| async {
        let netlink = Netlink::open().unwrap();
        let owner = Owner::ZEDROUTER;
        let mut everything = Rule::from(10_000, net("10.1.0.0/16"), RuleAction::Table(801), owner);
        everything.to = Some(net("192.0.2.0/24"));
        everything.input = Some("bn1".to_owned());
        everything.output = Some("eth0".to_owned());
        everything.mark = Some((0x10, 0xff));
        let wanted = [
            everything,
            Rule::from(10_001, net("10.2.0.0/16"), RuleAction::Table(100), owner),
            Rule::from(10_001, net("2001:db8::/32"), RuleAction::Table(801), owner),
            Rule::all(10_002, false, RuleAction::Unreachable, owner),
            Rule::all(10_003, true, RuleAction::Blackhole, owner),
            Rule::all(10_004, false, RuleAction::Prohibited, owner),
        ];
        for rule in &wanted {
            netlink.add_rule(rule).await.unwrap();
        }
        let seen = ip("rule show");
        let find = |priority: u32| {
            let mut all = seen.as_array().unwrap().iter();
            all.find(|rule| rule["priority"] == priority).unwrap()
        };
        assert_eq!(find(10_000)["src"], "10.1.0.0");
        assert_eq!(find(10_000)["fwmark"], "0x10");
        assert_eq!(find(10_000)["iif"], "bn1");
        assert_eq!(text(&find(10_001)["table"]), "100");
        assert_eq!(text(&find(10_001)["protocol"]), "102");

        let mine = || async {
            let rules = netlink.rules().await.unwrap();
            let mine = rules.into_iter().filter(|rule| rule.owner == owner);
            mine.collect::<Vec<_>>()
        };
        assert_eq!(mine().await, wanted);
        let all = netlink.rules().await.unwrap();
        assert!(
            all.iter()
                .any(|rule| rule.priority == 32766 && rule.owner == Owner::KERNEL)
        );
        let error = netlink.add_rule(&wanted[1]).await.unwrap_err();
        assert!(error.is_exists(), "{error}");

        let foreign = Rule {
            owner: Owner::NIM,
            ..wanted[1].clone()
        };
        netlink.delete_rule(&foreign).await.unwrap();
        assert_eq!(mine().await.len(), wanted.len());
        for rule in &wanted {
            netlink.delete_rule(rule).await.unwrap();
            netlink.delete_rule(rule).await.unwrap();
        }
        assert!(mine().await.is_empty());
        let bad = Rule {
            input: Some("a b".to_owned()),
            ..wanted[0].clone()
        };
        assert!(netlink.add_rule(&bad).await.is_err());
    });
}
