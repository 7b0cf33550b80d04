//! Local network instances.

use std::{fs, time::Duration};

use model::{
    app::{AclAction, AclMatch, AclRule, Protocol, RateUnit},
    code::Code,
    network::{AppNetworkPhase, NetworkInstancePhase},
    topics::{NETWORK_INSTANCE_STATUS, NETWORK_METRICS},
};

use crate::{
    site::{Device, Peer, cable, connect, in_netns, ip, run},
    wishes::{allow, app, app_id, instance, instance_id, map, net, port, uplink},
};

/// A device with one uplink; behind it three servers and a resolver that knows one of them.
fn world() -> (Device, Peer) {
    let mut device = Device::new();
    let outside = Peer::new();
    cable("eth0", &outside, "up0");
    outside.sh("ip addr add 192.0.2.1/24 dev up0");
    for n in [10, 20, 30] {
        outside.sh(&format!("ip addr add 198.51.100.{n}/32 dev lo"));
        outside.serve(&format!("198.51.100.{n}:80"), &format!("server {n}"));
    }
    outside.start(
        "dnsmasq -k --conf-file=/dev/null --no-resolv --no-hosts --listen-address=192.0.2.1 \
         --bind-interfaces --address=/files.example.net/198.51.100.10 --pid-file= \
         --log-facility=/dev/null",
    );
    let eth0 = uplink("eth0", "192.0.2.2/24", "192.0.2.1", 501);
    connect(&eth0);
    device.put_ports(&[eth0]);
    device.ready();
    (device, outside)
}

#[test]
fn a_guest_gets_its_lease_and_reaches_what_its_rules_allow() {
    in_netns(|| async {
        let (mut device, outside) = world();
        let mut config = instance(1, "uplink");
        config.ntp_servers = vec!["192.0.2.123".into()];
        config.domain_name = "apps.internal".into();
        config.mtu = 1400;
        device.put_instance(&config);
        let (one, two) = (device.guest("nbu1x1").await, device.guest("nbu1x2").await);
        let rules = [
            allow(
                1,
                &[net("198.51.100.20/32"), AclMatch::RemotePort(port(80))],
            ),
            allow(2, &[AclMatch::Host("example.net".into())]),
            map(3, 8080, 80),
        ];
        device.put_app(&app(1, &[(1, &rules)]));
        device.put_app(&app(2, &[(1, &[])]));
        device.settle().await;
        assert_eq!(device.instance(1).phase, NetworkInstancePhase::Up);
        assert_eq!(device.instance(1).subnet, "10.1.0.0/24".parse().ok());
        assert_eq!(device.app(1).phase, AppNetworkPhase::Ready);

        let told = device.boot(&one, 1, 0);
        assert_eq!(
            told.trim(),
            "ip=10.1.0.2 router=10.1.0.1 dns=10.1.0.1 mtu=1400 ntp=192.0.2.123 \
             domain=apps.internal static=0.0.0.0/0 10.1.0.1 lease=3600"
        );
        device.boot(&two, 2, 0);
        device.settle().await;
        assert!(device.app(1).vifs[0].lease_expires.is_some());
        assert!(
            device
                .instance(1)
                .vifs
                .iter()
                .all(|vif| vif.expires.is_some())
        );

        // Outside: by address and port, by name once it was asked for, and nothing else.
        one.reaches("198.51.100.20", "server 20");
        one.is_refused("198.51.100.30");
        assert!(!one.pings("198.51.100.20"));
        one.is_refused("198.51.100.10");
        assert_eq!(
            one.lookup("files.example.net", "10.1.0.1"),
            ["198.51.100.10"]
        );
        one.reaches("198.51.100.10", "server 10");
        two.is_refused("198.51.100.20");

        // Names of applications.
        assert_eq!(one.lookup("app2", "10.1.0.1"), ["10.1.0.3"]);
        assert_eq!(one.lookup("app2.apps.internal", "10.1.0.1"), ["10.1.0.3"]);

        // The device: echo, and no other service of any of its addresses.
        let dir = tempfile::tempdir().unwrap();
        let mut service = std::process::Command::new("busybox")
            .args(["httpd", "-f", "-p", "9000", "-h"])
            .arg(dir.path())
            .spawn()
            .unwrap();
        assert!(one.pings("10.1.0.1"));
        one.is_refused("10.1.0.1:9000");
        one.is_refused("192.0.2.2:9000");
        service.kill().unwrap();
        service.wait().unwrap();

        // From outside: through the port map only.
        one.serve("0.0.0.0:80", "I am one");
        one.serve("0.0.0.0:81", "hidden");
        outside.reaches("192.0.2.2:8080", "I am one");
        outside.is_refused("192.0.2.2:8081");
        outside.sh("ip route add 10.1.0.0/24 via 192.0.2.2");
        outside.is_refused("10.1.0.2:80");

        // Other guests: only what both allow.
        two.is_refused("10.1.0.2:80");
        assert!(!two.pings("10.1.0.2"));

        device.restart();
        let plan = device.runtime.dry_turn().await.unwrap().unwrap();
        assert!(plan.actions.is_empty(), "{:#?}", plan.actions);
        let metrics = &device.rows(&NETWORK_METRICS)["global"];
        assert!(!metrics.interfaces.is_empty());
        device.runtime.turn().await.unwrap();
        let metrics = &device.rows(&NETWORK_METRICS)["global"];
        let count = |id| {
            metrics
                .rules
                .iter()
                .find(|r| r.rule == id && r.vif == "nbu1x1")
        };
        for id in [1, 2, 3] {
            assert!(count(id).unwrap().packets > 0, "rule {id}: {metrics:?}");
        }
    });
}

#[test]
fn guests_of_one_instance_meet_where_both_allow_it() {
    in_netns(|| async {
        let (mut device, outside) = world();
        device.put_instance(&instance(1, "uplink"));
        let (one, two) = (device.guest("nbu1x1").await, device.guest("nbu1x2").await);
        let to_one = [
            allow(1, &[net("10.1.0.2/32"), AclMatch::Protocol(Protocol::Tcp)]),
            allow(2, &[net("192.0.2.2/32"), AclMatch::RemotePort(port(8080))]),
        ];
        let from_two = [
            allow(11, &[net("10.1.0.3/32"), AclMatch::LocalPort(port(80))]),
            allow(12, &[net("192.0.2.2/32"), AclMatch::RemotePort(port(8080))]),
            map(13, 8080, 81),
        ];
        device.put_app(&app(1, &[(1, &from_two)]));
        device.put_app(&app(2, &[(1, &to_one)]));
        device.settle().await;
        device.boot(&one, 1, 0);
        device.boot(&two, 2, 0);
        for (address, text) in [
            ("0.0.0.0:80", "for two"),
            ("0.0.0.0:81", "for all"),
            ("0.0.0.0:82", "no"),
        ] {
            one.serve(address, text);
        }
        two.serve("0.0.0.0:80", "I am two");

        two.reaches("10.1.0.2:80", "for two");
        two.is_refused("10.1.0.2:82");
        assert!(!two.pings("10.1.0.2"), "not that protocol");
        one.is_refused("10.1.0.3:80");

        // Through the device's own address: from outside, from the same instance, from itself.
        outside.reaches("192.0.2.2:8080", "for all");
        two.reaches("192.0.2.2:8080", "for all");
        one.reaches("192.0.2.2:8080", "for all");
        two.is_refused("10.1.0.2:81");
    });
}

#[test]
fn nobody_speaks_in_anothers_name() {
    in_netns(|| async {
        let (mut device, outside) = world();
        device.put_instance(&instance(1, "uplink"));
        let (one, two) = (device.guest("nbu1x1").await, device.guest("nbu1x2").await);
        let all = [allow(1, &[])];
        device.put_app(&app(1, &[(1, &all)]));
        device.put_app(&app(2, &[(1, &[])]));
        device.settle().await;
        device.boot(&one, 1, 0);
        device.boot(&two, 2, 0);
        one.reaches("198.51.100.10", "server 10");
        two.is_refused("198.51.100.10");

        // Another address, another hardware address, both of somebody who may.
        two.sh("ip addr add 10.1.0.2/24 dev eth0");
        let spoofed = two.try_sh("timeout 2 ping -c1 -W1 -I 10.1.0.2 10.1.0.1");
        assert!(!spoofed.status.success());
        let mac = device.app(1).vifs[0].mac;
        two.sh(&format!("ip link set eth0 address {mac}"));
        two.is_refused("198.51.100.10");
        assert!(!two.pings("10.1.0.1"));
        one.reaches("198.51.100.10", "server 10");

        // An address that is nobody's, and IPv6.
        one.sh("ip addr add 10.1.0.77/24 dev eth0");
        let unknown = one.try_sh("timeout 2 ping -c1 -W1 -I 10.1.0.77 10.1.0.1");
        assert!(!unknown.status.success());
        one.sh("ip -6 addr add fe80::1/64 dev eth0 nodad");
        two.sh("ip -6 addr add fe80::2/64 dev eth0 nodad");
        assert!(!one.pings("fe80::2%eth0"));
        drop(outside);
    });
}

#[test]
fn instances_are_apart_and_one_without_a_port_leads_nowhere() {
    in_netns(|| async {
        let (mut device, outside) = world();
        device.put_instance(&instance(1, "uplink"));
        device.put_instance(&instance(2, ""));
        device.put_instance(&instance(3, "label-of-nothing"));
        let (one, two) = (device.guest("nbu1x1").await, device.guest("nbu1x2").await);
        let all = [allow(1, &[]), map(2, 8080, 80)];
        device.put_app(&app(1, &[(1, &all)]));
        device.put_app(&app(2, &[(2, &all)]));
        device.settle().await;
        assert_eq!(device.instance(2).phase, NetworkInstancePhase::Up);
        let third = device.instance(3);
        assert!(matches!(third.phase, NetworkInstancePhase::NoUplink { .. }));
        assert_eq!(third.fault.unwrap().code, Code::PortMissing);
        device.boot(&one, 1, 0);
        let told = device.boot(&two, 2, 0);
        assert!(told.contains("ip=10.2.0.2 router= dns=10.2.0.1"), "{told}");
        one.serve("0.0.0.0:80", "one");
        two.serve("0.0.0.0:80", "two");
        two.sh("ip route add default via 10.2.0.1");

        outside.reaches("192.0.2.2:8080", "one");
        two.is_refused("198.51.100.10");
        two.is_refused("10.1.0.2:80");
        one.is_refused("10.2.0.2:80");
        assert!(!one.pings("10.2.0.1") && !two.pings("192.0.2.2"));
        assert!(two.pings("10.2.0.1"));

        // Through the port map of another instance, as anybody from outside.
        one.is_refused("10.2.0.2:80");
        let three = device.guest("nbu1x3").await;
        device.put_app(&app(3, &[(3, &all)]));
        device.settle().await;
        device.boot(&three, 3, 0);
        three.reaches("192.0.2.2:8080", "one");
    });
}

#[test]
fn a_rule_that_goes_ends_what_it_let_through_and_the_rest_goes_on() {
    in_netns(|| async {
        let (mut device, outside) = world();
        device.put_instance(&instance(1, "uplink"));
        let (one, two) = (device.guest("nbu1x1").await, device.guest("nbu1x2").await);
        let all = [allow(1, &[])];
        device.put_app(&app(1, &[(1, &all)]));
        device.put_app(&app(2, &[(1, &all)]));
        device.settle().await;
        device.boot(&one, 1, 0);
        device.boot(&two, 2, 0);
        outside.start("busybox nc -ll -p 7000 -e /bin/cat");
        let listens = || {
            outside
                .try_sh("busybox nc -w 1 127.0.0.1 7000 < /dev/null")
                .status
                .success()
        };
        while !listens() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let dir = tempfile::tempdir().unwrap();
        let talk = |guest: &Peer, name: &str| {
            let file = dir.path().join(name);
            let script = format!(
                "sh -c 'while sleep 0.1; do echo x; done | busybox nc 198.51.100.10 7000 > {}'",
                file.display()
            );
            guest.start(&script);
            file
        };
        let (first, second) = (talk(&one, "one"), talk(&two, "two"));
        let grows = |file: &std::path::Path| {
            let size = || fs::metadata(file).map_or(0, |m| m.len());
            let before = size();
            for _ in 0..30 {
                std::thread::sleep(Duration::from_millis(100));
                if size() > before {
                    return true;
                }
            }
            false
        };
        assert!(grows(&first) && grows(&second));

        // Another rule for the one, and a restart: the other notices nothing.
        device.put_app(&app(1, &[(1, &[allow(9, &[net("198.51.100.20/32")])])]));
        device.settle().await;
        device.restart();
        device.settle().await;
        std::thread::sleep(Duration::from_millis(300));
        assert!(grows(&second));
        assert!(!grows(&first));
        one.reaches("198.51.100.20", "server 20");
        assert_eq!(
            *device.units.started.lock().unwrap(),
            1,
            "one resolver, never restarted"
        );
    });
}

#[test]
fn a_limit_lets_so_much_through() {
    in_netns(|| async {
        let (mut device, outside) = world();
        device.put_instance(&instance(1, "uplink"));
        let one = device.guest("nbu1x1").await;
        let limit = AclRule {
            id: 4,
            matches: vec![AclMatch::Protocol(Protocol::Icmp)],
            action: AclAction::Limit {
                rate: 1,
                unit: RateUnit::Minute,
                burst: 3,
            },
        };
        let refuse = AclRule {
            id: 5,
            matches: vec![net("198.51.100.20/32")],
            action: AclAction::Drop,
        };
        device.put_app(&app(1, &[(1, &[limit, refuse, allow(6, &[])])]));
        device.settle().await;
        device.boot(&one, 1, 0);
        let text = one.try_sh("ping -c 8 -i 0.2 -W 1 198.51.100.10").stdout;
        let text = String::from_utf8(text).unwrap();
        // One connection: its every packet asks the rule.
        assert!(text.contains(" 3 received"), "{text}");
        one.is_refused("198.51.100.20");
        one.reaches("198.51.100.30", "server 30");
        drop(outside);
    });
}

#[test]
fn a_name_that_is_asked_for_again_after_a_change_of_rules_stays_open() {
    in_netns(|| async {
        let (mut device, _outside) = world();
        device.put_instance(&instance(1, "uplink"));
        let one = device.guest("nbu1x1").await;
        let by_name = [allow(1, &[AclMatch::Host("example.net".into())])];
        device.put_app(&app(1, &[(1, &by_name)]));
        device.settle().await;
        device.boot(&one, 1, 0);
        one.lookup("files.example.net", "10.1.0.1");
        one.reaches("198.51.100.10", "server 10");

        // A second application comes and goes: the first one's names are not forgotten.
        let two = device.guest("nbu1x2").await;
        device.put_app(&app(2, &[(1, &[])]));
        device.settle().await;
        device.boot(&two, 2, 0);
        one.reaches("198.51.100.10", "server 10");
        assert_eq!(two.lookup("app1", "10.1.0.1"), ["10.1.0.2"]);
        device.apps.unpublish(&app_id(2).to_string()).unwrap();
        device.settle().await;
        one.reaches("198.51.100.10", "server 10");
        assert_eq!(one.lookup("app2", "10.1.0.1"), [""; 0]);

        // The table is lost: names are forgotten with it, and asked for again.
        run("nft", &["delete", "table", "inet", "eve_apps"]);
        device.restart();
        device.settle().await;
        one.is_refused("198.51.100.10");
        one.lookup("files.example.net", "10.1.0.1");
        one.reaches("198.51.100.10", "server 10");
    });
}

#[test]
fn another_port_takes_over_and_answers_leave_by_the_port_of_the_question() {
    in_netns(|| async {
        let (mut device, first) = world();
        let second = Peer::new();
        cable("eth1", &second, "up1");
        second.sh("ip addr add 203.0.113.1/24 dev up1");
        second.sh("ip addr add 198.51.100.10/32 dev lo");
        second.serve("198.51.100.10:80", "second");
        let mut eth0 = uplink("eth0", "192.0.2.2/24", "192.0.2.1", 501);
        let mut eth1 = uplink("eth1", "203.0.113.2/24", "203.0.113.1", 502);
        eth1.cost = 5;
        connect(&eth1);
        device.put_ports(&[eth0.clone(), eth1.clone()]);
        device.put_instance(&instance(1, "all"));
        let one = device.guest("nbu1x1").await;
        device.put_app(&app(1, &[(1, &[allow(1, &[]), map(2, 8080, 80)])]));
        device.settle().await;
        device.boot(&one, 1, 0);
        one.serve("0.0.0.0:80", "one");
        one.reaches("198.51.100.10", "server 10");
        first.reaches("192.0.2.2:8080", "one");
        second.reaches("203.0.113.2:8080", "one");

        eth0.addresses.clear();
        ip("addr flush dev eth0");
        device.put_ports(&[eth0, eth1]);
        device.settle().await;
        assert_eq!(device.instance(1).ports, ["eth1"]);
        one.reaches("198.51.100.10", "second");
        second.reaches("203.0.113.2:8080", "one");
    });
}

#[test]
fn whoever_asks_for_what_is_taken_is_told_and_nobody_else_is_disturbed() {
    in_netns(|| async {
        let (mut device, outside) = world();
        let mut one = instance(1, "uplink");
        one.subnet = "10.5.0.0/24".parse().ok();
        device.put_instance(&one);
        device.put_app(&app(2, &[(1, &[map(1, 8080, 80)])]));
        device.settle().await;
        let mut rival = instance(2, "uplink");
        rival.subnet = "10.5.0.128/25".parse().ok();
        device.put_instance(&rival);
        let mut at_port = instance(3, "uplink");
        at_port.subnet = "192.0.0.0/16".parse().ok();
        device.put_instance(&at_port);
        device.put_app(&app(1, &[(1, &[map(1, 8080, 81)])]));
        device.settle().await;
        for n in [2, 3] {
            let status = device.instance(n);
            let code = status.fault.unwrap().code;
            assert_eq!(
                (status.phase, code),
                (NetworkInstancePhase::Failed, Code::NetworkSubnet)
            );
        }
        assert_eq!(device.app(2).phase, AppNetworkPhase::Ready);
        assert_eq!(device.app(2).fault, None);
        assert_eq!(device.app(1).fault.unwrap().code, Code::NetworkPortMap);
        drop(outside);
    });
}

#[test]
fn nothing_is_left_when_everything_is_removed() {
    in_netns(|| async {
        let before = traces();
        let (mut device, _outside) = world();
        let ports = traces();
        device.put_instance(&instance(1, "uplink"));
        device.put_instance(&instance(2, ""));
        let all = [
            allow(1, &[AclMatch::Host("example.net".into())]),
            map(2, 8080, 80),
        ];
        // Real taps this time.
        device.put_app(&app(1, &[(1, &all), (2, &all)]));
        device.put_app(&app(2, &[(1, &[])]));
        device.settle().await;
        assert_eq!(device.app(1).phase, AppNetworkPhase::Ready);
        let tap = ip("-d -j link show nbu2x1");
        assert!(
            tap.contains("\"group\":48000") || tap.contains("\"group\":\"48000\""),
            "{tap}"
        );
        assert!(tap.contains("\"isolated\":true"), "{tap}");
        assert_ne!(traces(), ports);
        assert_ne!(before, ports);

        // The instance goes first: it stays while a guest is in it.
        device.instances.replace(&[].into()).unwrap();
        device.settle().await;
        assert_eq!(device.instance(1).phase, NetworkInstancePhase::Deleting);
        assert!(ip("link show").contains("bn1"));
        let mut stopped = app(1, &[(1, &all), (2, &all)]);
        stopped.activate = false;
        device.put_app(&stopped);
        device.apps.unpublish(&app_id(2).to_string()).unwrap();
        device.settle().await;
        assert_eq!(device.app(1).phase, AppNetworkPhase::Inactive);
        assert!(device.rows(&NETWORK_INSTANCE_STATUS).is_empty());
        assert_eq!(traces(), ports);
        let left: Vec<_> = fs::read_dir(device.root.join(zedrouter::world::DIRECTORY))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert!(left.is_empty(), "{left:?}");

        // It comes back as it was.
        device.put_instance(&instance(1, "uplink"));
        device.put_instance(&instance(2, ""));
        device.put_app(&app(1, &[(1, &all), (2, &all)]));
        device.settle().await;
        assert_eq!(device.app(1).number, 1);
        assert!(device.instance(1).id == instance_id(1) && device.instance(1).number == 1);
    });
}

/// Everything that a kernel keeps of a network.
fn traces() -> String {
    let mut all = String::new();
    for command in [
        "link show",
        "addr show",
        "rule show",
        "route show table all",
    ] {
        let text = ip(&format!("-o {command}"));
        // Only what is there, not how long it is valid or how it fares.
        let lines = text
            .lines()
            .filter(|line| !line.contains("fe80") && !line.contains("ff00"));
        let words = |line: &str| {
            line.split_whitespace()
                .skip(1)
                .take(4)
                .collect::<Vec<_>>()
                .join(" ")
        };
        let mut lines: Vec<String> = lines.map(words).collect();
        lines.sort();
        all += &lines.join("\n");
    }
    all += &run("nft", &["list", "ruleset"]);
    for setting in ["ipv4/ip_forward", "bridge/bridge-nf-call-iptables"] {
        all +=
            &fs::read_to_string(format!("/proc/thread-self/root/proc/sys/net/{setting}")).unwrap();
    }
    all
}
