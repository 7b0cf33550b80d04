//! Switch network instances: guests on the link of a device port.

use model::{
    app::AclMatch,
    code::Code,
    network::{AppNetworkPhase, NetworkInstanceKind, NetworkInstancePhase},
    port::PortAddressing,
};

use crate::{
    site::{Device, Peer, cable, connect, in_netns, ip},
    wishes::{allow, app, instance, map, net, port, uplink},
};

#[test]
fn guests_are_on_the_ports_link_and_reach_what_rules_allow() {
    in_netns(|| async {
        let mut device = Device::new();
        let lan = Peer::new();
        cable("eth1", &lan, "up1");
        lan.sh("ip addr add 172.30.0.1/24 dev up1");
        lan.serve("0.0.0.0:80", "lan");
        lan.serve("0.0.0.0:81", "other");
        let mut eth1 = uplink("eth1", "192.0.2.2/24", "192.0.2.1", 0);
        eth1.is_mgmt = false;
        eth1.addressing = PortAddressing::None;
        eth1.addresses.clear();
        device.put_ports(&[eth1]);
        device.ready();
        let mut config = instance(1, "eth1");
        config.kind = NetworkInstanceKind::Switch;
        device.put_instance(&config);
        let (one, two) = (device.guest("nbu1x1").await, device.guest("nbu1x2").await);
        let out = [
            allow(1, &[net("172.30.0.1/32"), AclMatch::RemotePort(port(80))]),
            allow(2, &[net("172.30.0.1/32"), AclMatch::LocalPort(port(8000))]),
        ];
        device.put_app(&app(1, &[(1, &out)]));
        device.put_app(&app(2, &[(1, &[])]));
        device.settle().await;
        assert_eq!(device.instance(1).phase, NetworkInstancePhase::Up);
        assert_eq!(device.instance(1).ports, ["eth1"]);
        for (guest, app, address) in [(&one, 1, "172.30.0.2"), (&two, 2, "172.30.0.3")] {
            let mac = device.app(app).vifs[0].mac;
            guest.sh(&format!("ip link set eth0 address {mac} up"));
            guest.sh(&format!("ip addr add {address}/24 dev eth0"));
            guest.serve("0.0.0.0:8000", address);
        }
        one.reaches("172.30.0.1:80", "lan");
        one.is_refused("172.30.0.1:81");
        assert!(!one.pings("172.30.0.1"));
        lan.reaches("172.30.0.2:8000", "172.30.0.2");
        lan.is_refused("172.30.0.2:80");
        lan.is_refused("172.30.0.3:8000");
        two.is_refused("172.30.0.1:80");
        two.is_refused("172.30.0.2:8000");
        one.is_refused("172.30.0.3:8000");

        two.sh(&format!(
            "ip link set eth0 address {}",
            device.app(1).vifs[0].mac
        ));
        two.is_refused("172.30.0.1:80");

        device.apps.replace(&[].into()).unwrap();
        device.instances.replace(&[].into()).unwrap();
        device.settle().await;
        assert!(!ip("link show eth1").contains("master"));
        lan.is_refused("172.30.0.2:8000");
    });
}

#[test]
fn the_devices_own_ports_and_what_needs_addresses_are_refused() {
    in_netns(|| async {
        let mut device = Device::new();
        let lan = Peer::new();
        cable("eth0", &lan, "up0");
        let eth0 = uplink("eth0", "192.0.2.2/24", "192.0.2.1", 501);
        connect(&eth0);
        device.put_ports(&[eth0]);
        device.ready();
        let mut own = instance(1, "eth0");
        own.kind = NetworkInstanceKind::Switch;
        device.put_instance(&own);
        let mut alone = instance(2, "");
        alone.kind = NetworkInstanceKind::Switch;
        device.put_instance(&alone);
        device.put_app(&app(1, &[(1, &[])]));
        device.put_app(&app(2, &[(2, &[map(7, 80, 80)])]));
        device.settle().await;
        let refused = device.instance(1);
        assert_eq!(refused.phase, NetworkInstancePhase::Failed);
        assert_eq!(refused.fault.unwrap().code, Code::ConfigInvalid);
        let waits = device.app(1).phase;
        assert!(matches!(
            waits,
            AppNetworkPhase::AwaitNetworkInstance { .. }
        ));
        assert_eq!(device.instance(2).phase, NetworkInstancePhase::Up);
        let text = device.app(2).fault.unwrap().text;
        assert!(
            text.starts_with("rule 7 of interface eth0: port maps"),
            "{text}"
        );
        assert!(!ip("link show eth0").contains("master"));
    });
}
