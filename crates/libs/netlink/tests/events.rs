//! Notifications and settings in the real kernel. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod netns;

use netlink::{
    Address, Bridge, Change, Events, Family, Netlink, NetlinkError, Owner, Route, RouteKind, Rule,
    RuleAction, Sysctl,
};
use netns::{in_netns, ip, run};
use std::collections::BTreeSet;
use std::time::Duration;

fn bridge(name: &str) -> Bridge {
    Bridge {
        name: name.to_owned(),
        mac: None,
        filtered: false,
        owner: Owner::NIM,
    }
}

/// Everything that is reported until nothing was for a while.
async fn reported(events: &mut Events) -> BTreeSet<Change> {
    let mut all = BTreeSet::new();
    while let Ok(changes) = tokio::time::timeout(Duration::from_millis(200), events.changed()).await
    {
        all.extend(changes.unwrap().iter());
    }
    all
}

#[test]
fn what_we_and_others_change_is_reported() {
    in_netns(|| async {
        let mut events = Events::open().unwrap();
        let netlink = Netlink::open().unwrap();
        assert!(reported(&mut events).await.is_empty());

        netlink.create_bridge(&bridge("bn1")).await.unwrap();
        assert_eq!(reported(&mut events).await, BTreeSet::from([Change::Links]));

        run("ip", &["addr", "add", "192.0.2.1/32", "dev", "lo"]);
        let seen = reported(&mut events).await;
        assert!(seen.contains(&Change::Addresses) && !seen.contains(&Change::Lost));

        let address = Address {
            link: "lo".to_owned(),
            net: "2001:db8::1/128".parse().unwrap(),
            prefix_route: false,
            owner: Owner::NIM,
        };
        netlink.add_address(&address).await.unwrap();
        assert!(reported(&mut events).await.contains(&Change::Addresses));

        for to in ["10.0.0.0/8", "2001:db8:9::/48"] {
            let route = Route {
                table: 801,
                to: to.parse().unwrap(),
                metric: 5,
                kind: RouteKind::Blackhole,
                source: None,
                owner: Owner::NIM,
            };
            netlink.add_route(&route).await.unwrap();
            assert_eq!(
                reported(&mut events).await,
                BTreeSet::from([Change::Routes])
            );
        }
        for ipv6 in [false, true] {
            let rule = Rule::all(10_000, ipv6, RuleAction::Table(801), Owner::NIM);
            netlink.add_rule(&rule).await.unwrap();
            assert_eq!(reported(&mut events).await, BTreeSet::from([Change::Rules]));
        }
    });
}

#[test]
fn dropped_notifications_are_reported_as_such() {
    in_netns(|| async {
        let mut events = Events::with_queue(Some(1)).unwrap();
        let netlink = Netlink::open().unwrap();
        for n in 0..60 {
            netlink
                .create_bridge(&bridge(&format!("bn{n}")))
                .await
                .unwrap();
        }
        let changes = events.changed().await.unwrap();
        assert!(changes.has(Change::Lost) && changes.has(Change::Rules));
        // And then it goes on.
        assert!(reported(&mut events).await.len() <= 5);
        netlink.delete_link("bn7").await.unwrap();
        assert!(reported(&mut events).await.contains(&Change::Links));
    });
}

#[test]
fn settings_of_interfaces() {
    in_netns(|| async {
        let netlink = Netlink::open().unwrap();
        netlink.create_bridge(&bridge("bn1.100")).await.unwrap();
        let forwarding = Sysctl::interface(Family::Ipv4, "bn1.100", "forwarding").unwrap();
        assert_eq!(forwarding.get().unwrap(), "0");
        assert!(forwarding.set("1").unwrap());
        assert!(!forwarding.set("1").unwrap());
        assert_eq!(forwarding.get().unwrap(), "1");
        assert_eq!(forwarding.to_string(), "net/ipv4/conf/bn1.100/forwarding");
        let other = Sysctl::interface(Family::Ipv4, "lo", "forwarding").unwrap();
        assert_eq!(other.get().unwrap(), "0");

        let six = Sysctl::interface(Family::Ipv6, "bn1.100", "disable_ipv6").unwrap();
        assert!(six.set("1").unwrap());
        netlink.set_up("bn1.100", true).await.unwrap();
        let addresses = ip("addr show dev bn1.100")[0]["addr_info"].clone();
        assert_eq!(addresses.as_array().unwrap().len(), 0);

        let all = Sysctl::net("ipv4/ip_forward");
        all.set("1").unwrap();
        assert_eq!(all.get().unwrap(), "1");

        let missing = Sysctl::interface(Family::Ipv4, "nope", "forwarding").unwrap();
        let error = missing.get().unwrap_err();
        assert!(error.is_gone());
        assert_eq!(
            error.to_string(),
            "cannot read /proc/sys/net/ipv4/conf/nope/forwarding: \
             No such file or directory (os error 2)"
        );
        let error = forwarding.set("nonsense").unwrap_err();
        assert!(matches!(error, NetlinkError::Sysctl { .. }) && !error.is_transient());
        for outside in ["../../x", "..", "a/b"] {
            assert!(Sysctl::interface(Family::Ipv4, outside, "forwarding").is_err());
        }
    });
}
