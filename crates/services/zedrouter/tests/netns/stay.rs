//! What is there stays while something is not known, and comes back when it was damaged.

use model::{
    code::Code,
    fault::Fault,
    network::{AppNetworkPhase, NetworkInstancePhase},
};

use crate::{
    site::{Device, in_netns, ip, run},
    wishes::{allow, app, app_id, instance},
};

fn up() -> Device {
    let mut device = Device::new();
    device.ready();
    device.put_instance(&instance(1, ""));
    device.put_app(&app(1, &[(1, &[allow(1, &[])])]));
    device
}

#[test]
fn while_zedmanager_or_nim_is_silent_nothing_goes() {
    in_netns(|| async {
        let mut device = up();
        device.settle().await;
        let before = ip("-o link show") + &run("nft", &["list", "ruleset"]);
        // zedmanager starts anew and has not spoken: another bus, with our rows of before.
        let mut fresh = Device::new();
        std::mem::swap(&mut device.root, &mut fresh.root);
        std::mem::swap(&mut device.units, &mut fresh.units);
        fresh.put_instance(&instance(1, ""));
        fresh.instances.set_ready().unwrap();
        copy_own_rows(&device, &fresh);
        fresh.restart();
        fresh.settle().await;
        assert_eq!(
            ip("-o link show") + &run("nft", &["list", "ruleset"]),
            before
        );
        fresh.put_app(&app(1, &[(1, &[allow(1, &[])])]));
        fresh.apps.set_ready().unwrap();
        fresh.settle().await;
        assert_eq!(
            ip("-o link show") + &run("nft", &["list", "ruleset"]),
            before
        );
        fresh.ports.set_ready().unwrap();
        fresh.settle().await;
        assert_eq!(fresh.app(1).phase, AppNetworkPhase::Ready);
        assert_eq!(
            ip("-o link show") + &run("nft", &["list", "ruleset"]),
            before
        );
        // The units end with the device that holds them.
        std::mem::swap(&mut device.units, &mut fresh.units);
    });
}

fn copy_own_rows(from: &Device, to: &Device) {
    use model::topics::{APP_INTERFACE_TO_NUM, APP_NETWORK_STATUS, UUID_PAIR_TO_NUM};
    let bus = to.bus.acting_as("zedrouter");
    bus.publisher(&UUID_PAIR_TO_NUM)
        .unwrap()
        .replace(&from.rows(&UUID_PAIR_TO_NUM))
        .unwrap();
    let addresses = from.rows(&APP_INTERFACE_TO_NUM);
    bus.publisher(&APP_INTERFACE_TO_NUM)
        .unwrap()
        .replace(&addresses)
        .unwrap();
    bus.publisher(&APP_NETWORK_STATUS)
        .unwrap()
        .replace(&from.rows(&APP_NETWORK_STATUS))
        .unwrap();
}

#[test]
fn an_instance_goes_on_with_its_last_good_config() {
    in_netns(|| async {
        let mut device = up();
        device.settle().await;
        let before = ip("-o addr show bn1");
        let mut faulty = instance(1, "");
        faulty.subnet = "10.99.0.0/24".parse().ok();
        let fault = Fault::new(
            Code::ConfigInvalid,
            "network instance",
            "bad",
            jiff::Timestamp::now(),
        );
        faulty.fault = Some(fault);
        device.put_instance(&faulty);
        device.settle().await;
        assert_eq!(ip("-o addr show bn1"), before);
        let status = device.instance(1);
        assert_eq!(status.phase, NetworkInstancePhase::Up);
        assert_eq!(status.fault.unwrap().code, Code::ConfigInvalid);
        faulty.fault = None;
        device.put_instance(&faulty);
        device.settle().await;
        assert_eq!(device.instance(1).fault, None);
        assert!(ip("-o addr show bn1").contains("10.99.0.1/24"));
        assert_eq!(device.app(1).vifs[0].ip.unwrap().to_string(), "10.99.0.2");
    });
}

#[test]
fn damage_is_repaired_and_what_is_foreign_is_left_alone() {
    in_netns(|| async {
        let mut device = up();
        device.settle().await;
        let whole = state();
        run("ip", &["link", "add", "foreign", "type", "bridge"]);
        run("nft", &["add", "table", "inet", "foreign"]);
        let damages = [
            "ip link del nbu1x1",
            "ip link del bn1",
            "ip link set nbu1x1 nomaster",
            "ip link set bn1 down",
            "ip addr flush dev bn1",
            "ip rule del priority 1000",
            "bridge link set dev nbu1x1 isolated off",
            "nft delete table bridge eve_apps",
            "nft delete table inet eve_apps",
            "sysctl -qw net.ipv4.ip_forward=0",
            "sysctl -qw net.ipv4.conf.bn1.proxy_arp_pvlan=0",
        ];
        for damage in damages {
            run("sh", &["-c", damage]);
            device.restart();
            device.settle().await;
            let now = state();
            let differs = now.iter().zip(&whole).find(|(now, whole)| now != whole);
            assert_eq!(differs, None, "{damage}");
            assert_eq!(now.len(), whole.len(), "{damage}");
            assert_eq!(device.app(1).phase, AppNetworkPhase::Ready);
        }
        // A bridge that was made anew has a resolver of its own.
        assert!(*device.units.started.lock().unwrap() > 1);
        device.apps.unpublish(&app_id(1).to_string()).unwrap();
        device.instances.replace(&[].into()).unwrap();
        device.settle().await;
        assert!(ip("link show foreign").contains("foreign"));
        assert!(run("nft", &["list", "tables"]).contains("inet foreign"));
        assert!(!ip("link show").contains("bn1"));
    });
}

/// What the kernel has of us, without what differs each time.
fn state() -> Vec<String> {
    let texts = [
        ip("-o -d link show type bridge_slave"),
        ip("-o -4 addr show bn1"),
        ip("rule show"),
        run("nft", &["-s", "list", "table", "inet", "eve_apps"]),
        run("nft", &["-s", "list", "table", "bridge", "eve_apps"]),
        run(
            "sysctl",
            &["net.ipv4.ip_forward", "net.ipv4.conf.bn1.proxy_arp_pvlan"],
        ),
    ];
    let varies = |word: &str| {
        let is_mac = word.len() == 17 && word.split(':').count() == 6;
        let is_number = word.trim_end_matches(':').parse::<f64>().is_ok();
        is_mac || is_number || word.contains("0x80") || word.contains("8000.")
    };
    let line = |line: &str| {
        let words = line.split_whitespace().filter(|word| !varies(word));
        words.collect::<Vec<_>>().join(" ")
    };
    texts
        .iter()
        .flat_map(|text| text.lines())
        .map(line)
        .collect()
}
