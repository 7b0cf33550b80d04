//! Interfaces in the real kernel, checked by `ip`. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod netns;

use netlink::{Bridge, Kind, Netlink, NetlinkError, Owner, Tap};
use netns::{in_netns, ip, run};
use std::time::Duration;

const MAC: [u8; 6] = [2, 0x16, 0x3e, 0, 0, 1];

fn bridge(name: &str) -> Bridge {
    Bridge {
        name: name.to_owned(),
        mac: Some(MAC),
        filtered: false,
        owner: Owner::ZEDROUTER,
    }
}

fn tap(name: &str) -> Tap {
    Tap {
        name: name.to_owned(),
        user: Some(1234),
        group: None,
        multi_queue: false,
        owner: Owner::ZEDROUTER,
    }
}

#[test]
fn a_bridge_is_made_marked_and_deleted() {
    in_netns(|| async {
        let netlink = Netlink::open().unwrap();
        netlink.create_bridge(&bridge("bn1")).await.unwrap();
        let seen = &ip("link show bn1")[0];
        assert_eq!(seen["linkinfo"]["info_kind"], "bridge");
        assert_eq!(seen["address"], "02:16:3e:00:00:01");
        assert_eq!(seen["group"], "102");
        assert_eq!(seen["operstate"], "DOWN");

        run("ip", &["link", "add", "foreign", "type", "bridge"]);
        let links = netlink.links().await.unwrap();
        let names: Vec<&str> = links.keys().map(String::as_str).collect();
        assert_eq!(names, ["bn1", "foreign", "lo"]);
        let made = &links["bn1"];
        assert_eq!((&made.kind, made.owner), (&Kind::Bridge, Owner::ZEDROUTER));
        assert_eq!((made.mac, made.mtu, made.up), (Some(MAC), 1500, false));
        assert_eq!(links["foreign"].owner, Owner::UNKNOWN);
        assert_eq!(links["lo"].kind, Kind::Loopback);
        assert!(links["lo"].up && links["lo"].lower_up);

        let error = netlink.create_bridge(&bridge("bn1")).await.unwrap_err();
        assert!(error.is_exists() && !error.is_gone());
        assert_eq!(
            error.to_string(),
            "cannot create bridge bn1: File exists (os error 17)"
        );

        netlink.delete_link("bn1").await.unwrap();
        netlink.delete_link("bn1").await.unwrap();
        assert!(!netlink.links().await.unwrap().contains_key("bn1"));
    });
}

#[test]
fn a_tap_stays_belongs_to_its_user_and_can_be_opened_by_it() {
    in_netns(|| async {
        let netlink = Netlink::open().unwrap();
        netlink.create_tap(&tap("vif1")).await.unwrap();
        let seen = &ip("link show vif1")[0];
        let info = &seen["linkinfo"]["info_data"];
        assert_eq!(info["type"], "tap");
        assert_eq!(info["persist"], true);
        assert_eq!(info["vnet_hdr"], true);
        assert_eq!(info["pi"], false);
        assert_eq!(info["user"].to_string().trim_matches('"'), "1234");
        assert_eq!(seen["group"], "102");

        let links = netlink.links().await.unwrap();
        let wanted = Kind::Tap {
            owner: Some(1234),
            group: None,
            persistent: true,
        };
        assert_eq!(links["vif1"].kind, wanted);
        assert_eq!(links["vif1"].owner, Owner::ZEDROUTER);
        assert!(!links["vif1"].lower_up, "nobody has it open");

        let error = netlink.create_tap(&tap("vif1")).await.unwrap_err();
        assert!(error.is_exists(), "{error}");
        // Nor is an interface of another kind taken over.
        netlink.create_bridge(&bridge("bn1")).await.unwrap();
        assert!(netlink.create_tap(&tap("bn1")).await.is_err());
        assert_eq!(netlink.links().await.unwrap()["bn1"].kind, Kind::Bridge);

        let queues = Tap {
            multi_queue: true,
            ..tap("vif2")
        };
        netlink.create_tap(&queues).await.unwrap();
        let info = &ip("link show vif2")[0]["linkinfo"]["info_data"];
        assert_eq!(info["multi_queue"], true);

        let reason = opened_by(1235, "vif1").unwrap_err();
        assert!(reason.contains("not permitted"), "{reason}");
        opened_by(1234, "vif1").unwrap();

        let shared = Tap {
            user: None,
            group: Some(1234),
            ..tap("vif3")
        };
        netlink.create_tap(&shared).await.unwrap();
        let wanted = Kind::Tap {
            owner: None,
            group: Some(1234),
            persistent: true,
        };
        assert_eq!(netlink.links().await.unwrap()["vif3"].kind, wanted);
        opened_by(1235, "vif3").unwrap_err();
        opened_by(1234, "vif3").unwrap();

        netlink.delete_link("vif1").await.unwrap();
        assert!(!netlink.links().await.unwrap().contains_key("vif1"));
    });
}

/// Opens a tap as QEMU does, as a user without privileges.
fn opened_by(user: u32, name: &str) -> Result<(), String> {
    // 0x400454ca is TUNSETIFF, 0x5002 tap frames without a header but with that of virtio.
    let script = "open(F, '+<', '/dev/net/tun') or die; $) = $( = $ARGV[0]; $< = $> = $ARGV[0]; \
                  ioctl(F, 0x400454ca, pack('a16 S x22', $ARGV[1], 0x5002)) or die $!";
    let output = std::process::Command::new("perl")
        .args(["-e", script, &user.to_string(), name])
        .output()
        .unwrap();
    let reason = String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then_some(()).ok_or(reason)
}

#[test]
fn properties_are_set_one_by_one() {
    in_netns(|| async {
        let netlink = Netlink::open().unwrap();
        netlink.create_bridge(&bridge("bn1")).await.unwrap();
        netlink
            .create_veth("vif1", "far1", Owner::NIM)
            .await
            .unwrap();
        netlink.set_master("vif1", Some("bn1")).await.unwrap();
        netlink.set_isolated("vif1", true).await.unwrap();
        netlink.set_mtu("vif1", 1400).await.unwrap();
        netlink.set_mac("vif1", [2, 0, 0, 0, 0, 9]).await.unwrap();
        netlink.set_alias("vif1", "application one").await.unwrap();
        netlink.set_up("vif1", true).await.unwrap();
        let seen = &ip("link show vif1")[0];
        assert_eq!(seen["master"], "bn1");
        assert_eq!(seen["linkinfo"]["info_slave_data"]["isolated"], true);
        assert_eq!(seen["mtu"], 1400);
        assert_eq!(seen["address"], "02:00:00:00:00:09");
        assert_eq!(seen["ifalias"], "application one");

        let links = netlink.links().await.unwrap();
        let vif = &links["vif1"];
        assert_eq!(vif.master.as_deref(), Some("bn1"));
        assert_eq!(vif.alias.as_deref(), Some("application one"));
        assert!(vif.isolated && !links["bn1"].filtered);
        assert_eq!((vif.mtu, vif.mac), (1400, Some([2, 0, 0, 0, 0, 9])));
        assert_eq!((vif.kind.clone(), vif.owner), (Kind::Veth, Owner::NIM));
        assert_eq!(links["far1"].owner, Owner::NIM);
        assert!(vif.up && !vif.lower_up, "the other end is down");

        netlink.set_up("far1", true).await.unwrap();
        // The carrier follows a moment later.
        for _ in 0..100 {
            if netlink.links().await.unwrap()["vif1"].lower_up {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(netlink.links().await.unwrap()["vif1"].lower_up);

        let filtered = Bridge {
            filtered: true,
            ..bridge("bn2")
        };
        netlink.create_bridge(&filtered).await.unwrap();
        assert!(netlink.links().await.unwrap()["bn2"].filtered);

        netlink.set_master("vif1", None).await.unwrap();
        netlink.set_up("vif1", false).await.unwrap();
        netlink.rename("vif1", "vif9").await.unwrap();
        let links = netlink.links().await.unwrap();
        assert_eq!(links["vif9"].master, None);
        assert!(!links["vif9"].up && !links.contains_key("vif1"));
        netlink.delete_link("vif9").await.unwrap();
        assert!(!netlink.links().await.unwrap().contains_key("far1"));
    });
}

#[test]
fn errors_name_the_object() {
    in_netns(|| async {
        let netlink = Netlink::open().unwrap();
        let error = netlink.set_up("nope", true).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot set interface nope up: there is no interface nope"
        );
        assert!(error.is_gone() && error.is_transient());

        netlink.create_bridge(&bridge("bn1")).await.unwrap();
        let error = netlink.set_master("bn1", Some("nope")).await.unwrap_err();
        assert!(matches!(&error, NetlinkError::NoLink { link, .. } if link == "nope"));
        // A bridge can't be a port of itself.
        let error = netlink.set_master("bn1", Some("bn1")).await.unwrap_err();
        assert!(matches!(error, NetlinkError::Refused { .. }), "{error}");

        for bad in ["", "a b", "../x", "much-too-long-for-a-name"] {
            let error = netlink.create_bridge(&bridge(bad)).await.unwrap_err();
            assert!(matches!(error, NetlinkError::BadName { .. }));
            assert!(!error.is_transient());
            assert!(netlink.delete_link(bad).await.is_err());
            assert!(netlink.create_tap(&tap(bad)).await.is_err());
        }
    });
}

#[test]
fn an_interface_moves_to_another_namespace() {
    in_netns(|| async {
        let netlink = Netlink::open().unwrap();
        netlink
            .create_veth("near", "far", Owner::NIM)
            .await
            .unwrap();
        let (send, receive) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            send.send(std::fs::File::open("/proc/thread-self/ns/net").unwrap())
                .unwrap();
            wait.recv().unwrap();
            ip("link show far")
        });
        let netns = receive.recv().unwrap();
        let fd = std::os::fd::AsFd::as_fd(&netns);
        netlink.move_to("far", fd).await.unwrap();
        assert!(!netlink.links().await.unwrap().contains_key("far"));
        done.send(()).unwrap();
        assert_eq!(other.join().unwrap()[0]["ifname"], "far");
    });
}

#[test]
fn counters_count() {
    in_netns(|| async {
        let netlink = Netlink::open().unwrap();
        let before = netlink.stats().await.unwrap()["lo"];
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..10 {
            socket.send_to(&[0; 100], "127.0.0.1:9").unwrap();
        }
        let after = netlink.stats().await.unwrap()["lo"];
        assert!(after.tx_packets >= before.tx_packets + 10);
        assert!(after.rx_bytes >= before.rx_bytes + 1000);
    });
}

#[test]
fn a_broken_socket_is_replaced() {
    in_netns(|| async {
        // The runtime that serves a socket ends, and the socket with it.
        let netlink = std::thread::scope(|scope| {
            let open = || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                let netlink = runtime.block_on(async { Netlink::open().unwrap() });
                runtime.block_on(netlink.links()).unwrap();
                netlink
            };
            scope.spawn(open).join().unwrap()
        });
        assert!(netlink.links().await.unwrap().contains_key("lo"));
    });
}

#[test]
fn many_interfaces_are_listed_whole() {
    in_netns(|| async {
        let netlink = Netlink::open().unwrap();
        for n in 0..150 {
            netlink
                .create_bridge(&bridge(&format!("bn{n}")))
                .await
                .unwrap();
        }
        assert_eq!(netlink.links().await.unwrap().len(), 151);
        // At the same time as somebody deletes them, a list is still one that was true once.
        let delete = async {
            for n in 0..150 {
                netlink.delete_link(&format!("bn{n}")).await.unwrap();
            }
        };
        let list = async {
            let mut last = 151;
            while last > 1 {
                let now = match netlink.links().await {
                    Ok(links) => links.len(),
                    Err(NetlinkError::Torn { .. }) => last,
                    Err(error) => panic!("{error}"),
                };
                assert!(now <= last, "{now} after {last}");
                last = now;
            }
        };
        tokio::join!(delete, list);
    });
}
