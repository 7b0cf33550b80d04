//! From wishes to items, in a world that checks what must hold before each step.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub
)]

mod device;
mod fake;
mod wishes;

use std::{collections::BTreeSet, path::Path};

use bus::Bus;
use device::{Device, ports, start};
use fake::State;
use jiff::Timestamp;
use model::{
    app::{AclAction, AclMatch, AclRule, Protocol, RateUnit},
    code::Code,
    fault::Fault,
    id::LogicalLabel,
    network::{
        AppNetworkConfig, AppNetworkPhase, DnsEntry, NetworkInstanceConfig, NetworkInstanceKind,
        NetworkInstancePhase,
    },
    topics::{APP_INTERFACE_TO_NUM, APP_NETWORK_STATUS, NETWORK_INSTANCE_STATUS, UUID_PAIR_TO_NUM},
};
use proptest::prelude::*;
use wishes::{allow, app, instance, instance_id, map, net, port};
use zedrouter::{Present, item::Layer};

fn switch(n: u8, port: &str) -> NetworkInstanceConfig {
    NetworkInstanceConfig {
        kind: NetworkInstanceKind::Switch,
        ..instance(n, port)
    }
}

fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(golden, text, "{name} differs; BLESS=1 rewrites it");
}

/// One of everything.
fn everything() -> (Vec<NetworkInstanceConfig>, Vec<AppNetworkConfig>) {
    let mut shop = instance(1, "uplink");
    shop.subnet = "10.40.0.0/23".parse().ok();
    shop.gateway = "10.40.1.254".parse().ok();
    shop.dhcp_range = Some(("10.40.0.10".parse().unwrap(), "10.40.0.99".parse().unwrap()));
    shop.domain_name = "shop.internal".into();
    shop.ntp_servers = vec!["pool.ntp.org".into(), "192.0.2.123".into()];
    shop.dns_servers = vec![
        "203.0.113.53".parse().unwrap(),
        "127.0.0.1".parse().unwrap(),
    ];
    shop.dns_entries = vec![
        DnsEntry {
            host_name: "scale.shop".into(),
            addresses: vec!["10.40.1.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        },
        DnsEntry {
            host_name: "bad\nname".into(),
            addresses: vec!["10.40.1.2".parse().unwrap()],
        },
    ];
    shop.mtu = 1400;
    let drop = AclRule {
        id: 4,
        matches: vec![net("198.51.100.0/24"), AclMatch::Protocol(Protocol::Icmp)],
        action: AclAction::Drop,
    };
    let limit = AclRule {
        id: 5,
        matches: vec![
            AclMatch::Protocol(Protocol::Udp),
            AclMatch::RemotePort(port(53)),
        ],
        action: AclAction::Limit {
            rate: 30,
            unit: RateUnit::Minute,
            burst: 5,
        },
    };
    let mut mapped = map(6, 8080, 80);
    mapped.matches.push(net("192.0.2.0/28"));
    let mut by_port = map(7, 8443, 443);
    by_port
        .matches
        .push(AclMatch::Adapter(LogicalLabel("eth1".into())));
    let rules = [
        drop,
        limit,
        mapped,
        by_port,
        allow(
            8,
            &[
                AclMatch::Host("example.net".into()),
                AclMatch::RemotePort(port(443)),
            ],
        ),
        allow(9, &[net("fd00::/8")]),
        allow(
            10,
            &[
                net("0.0.0.0/0"),
                AclMatch::Adapter(LogicalLabel("eth0".into())),
            ],
        ),
    ];
    let on_link = [
        allow(
            20,
            &[net("172.16.0.0/12"), AclMatch::Protocol(Protocol::Tcp)],
        ),
        allow(21, &[AclMatch::LocalPort(port(502))]),
    ];
    let mut web = app(1, &[(1, &rules), (2, &on_link)]);
    web.display_name = "Web Server".into();
    let other = app(2, &[(1, &[])]);
    (vec![shop, switch(2, "eth2")], vec![web, other])
}

#[tokio::test(start_paused = true)]
async fn the_texts_are_as_reviewed() {
    let mut device = Device::new();
    let (instances, apps) = everything();
    device.put(&instances, &apps);
    device.settle().await;
    assert_eq!(device.instance(1).phase, NetworkInstancePhase::Up);
    assert_eq!(device.instance(2).phase, NetworkInstancePhase::Up);
    assert_eq!(device.app(1).phase, AppNetworkPhase::Ready);
    let state = device.fake.state();
    for (layer, name) in [
        (Layer::Frames, "frames.nft"),
        (Layer::Packets, "packets.nft"),
    ] {
        let Present::Exactly(table) = &state.actual.filters[&layer] else {
            panic!("a fake table");
        };
        golden(name, &table.replacing().unwrap());
    }
    for name in ["bn1.conf", "bn1.dhcp", "bn1.hosts", "bn1.servers"] {
        golden(name, &state.actual.files[name]);
    }
    let mut rules: Vec<String> = state
        .actual
        .rules
        .iter()
        .map(|r| format!("{r:?}\n"))
        .collect();
    rules.sort();
    golden("rules.txt", &rules.concat());
}

#[tokio::test(start_paused = true)]
async fn a_mark_is_kept_where_it_may_say_more_than_the_rule() {
    let mut device = Device::new();
    let limit = AclRule {
        action: AclAction::Limit {
            rate: 5,
            unit: RateUnit::Second,
            burst: 1,
        },
        ..allow(4, &[])
    };
    let apps = [
        app(1, &[(1, &[map(1, 8080, 80), allow(2, &[])])]),
        app(2, &[(2, &[limit])]),
        app(3, &[(2, &[allow(5, &[])])]),
    ];
    device.put(&[instance(1, "uplink"), instance(2, "uplink")], &apps);
    device.settle().await;
    let state = device.fake.state();
    let Present::Exactly(table) = &state.actual.filters[&Layer::Packets] else {
        panic!("a fake table");
    };
    let text = table.replacing().unwrap();
    let marks = |chain: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim);
        let mut rules = lines.skip_while(|line| *line != format!("chain {chain} {{"));
        rules.next().unwrap();
        let rules = rules.take_while(|line| *line != "}");
        let sets =
            rules.filter_map(|rule| rule.split_once("ct mark set ")?.1.split_once(" return"));
        sets.map(|(set, _)| set.to_owned()).collect()
    };
    // Nobody in the instance limits, and no device port is in the mark.
    assert_eq!(marks("v1x1_out"), ["0x2"]);
    assert_eq!(marks("v1x1_in"), ["0x2"]);
    assert_eq!(marks("v1x1_map"), ["ct mark & 0xff000000 | 0x1"]);
    // A limit stays, also behind a rule of the other side that has none.
    assert_eq!(marks("v1x2_out"), ["ct mark & 0xff000000 | 0x80000004"]);
    assert_eq!(marks("v1x3_out"), ["ct mark & 0xff000000 | 0x5"]);
    assert_eq!(marks("v1x3_in"), ["ct mark & 0xff000000 | 0x5"]);
}

#[tokio::test(start_paused = true)]
async fn numbers_and_addresses_stay_for_good() {
    let mut device = Device::new();
    let all = [allow(1, &[])];
    let apps: Vec<_> = (1..=4).map(|n| app(n, &[(1, &all)])).collect();
    device.put(&[instance(1, "uplink"), instance(2, "")], &apps);
    device.settle().await;
    let before: Vec<_> = (1..=4)
        .map(|n| (device.app(n).number, device.app(n).vifs))
        .collect();
    assert_eq!(device.app(3).vifs[0].ip.unwrap().to_string(), "10.1.0.4");

    // One goes, one is switched off, and the device boots.
    let mut off = apps[1].clone();
    off.activate = false;
    device.put(
        &[instance(1, "uplink"), instance(2, "")],
        &[off, apps[2].clone(), apps[3].clone()],
    );
    device.settle().await;
    assert_eq!(device.app(2).phase, AppNetworkPhase::Inactive);
    device.fake.reboot();
    let bus = device.bus.acting_as("zedrouter");
    bus.publisher(&NETWORK_INSTANCE_STATUS)
        .unwrap()
        .replace(&[].into())
        .unwrap();
    bus.publisher(&APP_NETWORK_STATUS)
        .unwrap()
        .replace(&[].into())
        .unwrap();
    device.runtime = start(&device.bus, &device.fake);
    device.put(&[instance(1, "uplink"), instance(2, "")], &apps[1..]);
    device.settle().await;
    for n in [2, 3, 4_u8] {
        let (number, vifs) = &before[usize::from(n) - 1];
        assert_eq!((device.app(n).number, &device.app(n).vifs), (*number, vifs));
    }
    // A new one takes what became free.
    device.put(
        &[instance(1, "uplink"), instance(2, "")],
        &[app(9, &[(1, &all)]), apps[2].clone()],
    );
    device.settle().await;
    assert_eq!(device.app(9).number, 1);
    assert_eq!(device.app(9).vifs[0].ip.unwrap().to_string(), "10.1.0.2");
    let numbers = device.bus.read(&UUID_PAIR_TO_NUM).unwrap().unwrap();
    assert_eq!(numbers.len(), 4);
    let rows = device.bus.read(&APP_INTERFACE_TO_NUM).unwrap().unwrap();
    assert_eq!(rows.len(), 4, "{rows:?}");
}

#[tokio::test(start_paused = true)]
async fn an_interface_keeps_its_number_when_another_is_taken_from_the_config() {
    let mut device = Device::new();
    let both = app(1, &[(1, &[]), (2, &[])]);
    device.put(
        &[instance(1, ""), instance(2, "")],
        std::slice::from_ref(&both),
    );
    device.settle().await;
    let second = device.app(1).vifs[1].clone();
    assert_eq!(second.vif, "nbu2x1");
    let mut one = both;
    one.vifs.remove(0);
    device.put(&[instance(1, ""), instance(2, "")], &[one]);
    device.settle().await;
    assert_eq!(device.app(1).vifs, [second]);
    assert!(!device.fake.state().actual.links.contains_key("nbu1x1"));
}

#[tokio::test(start_paused = true)]
async fn nothing_joins_whose_rules_can_not_be_said_yet() {
    let mut device = Device::new();
    let rules = [allow(1, &[])];
    let (first, second) = (app(1, &[(1, &rules)]), app(2, &[(1, &rules)]));
    device.put(&[instance(1, "uplink")], std::slice::from_ref(&first));
    device.settle().await;
    let before = device.fake.state();

    // zedrouter and nim start anew, and nim has not spoken.
    let old = device;
    let bus = Bus::memory();
    let own = bus.acting_as("zedrouter");
    let numbers = old.bus.read(&UUID_PAIR_TO_NUM).unwrap().unwrap();
    own.publisher(&UUID_PAIR_TO_NUM)
        .unwrap()
        .replace(&numbers)
        .unwrap();
    let mut device = Device::on(bus, old.fake.clone());
    device.instances.set_ready().unwrap();
    device.apps.set_ready().unwrap();
    device.put(&[instance(1, "uplink")], &[first, second]);
    device.settle().await;
    assert_eq!(device.fake.state().steps, before.steps);
    assert_eq!(device.app(1).phase, AppNetworkPhase::Ready);
    assert_eq!(device.app(2).phase, AppNetworkPhase::Creating);
    device.put_ports(&ports());
    device.ports.set_ready().unwrap();
    device.settle().await;
    assert_eq!(device.app(2).phase, AppNetworkPhase::Ready);
    assert!(device.fake.state().actual.links["nbu1x2"].up);
}

#[tokio::test(start_paused = true)]
async fn wrong_addresses_are_told() {
    let mut device = Device::new();
    let mut one = app(1, &[(1, &[])]);
    one.vifs[0].ip = "10.1.0.1".parse().ok();
    let mut two = app(2, &[(1, &[])]);
    two.vifs[0].ip = "10.1.0.9".parse().ok();
    let mut three = app(3, &[(1, &[])]);
    three.vifs[0].ip = "10.1.0.9".parse().ok();
    device.put(&[instance(1, "")], &[one, two, three]);
    device.settle().await;
    for n in [1, 3] {
        let status = device.app(n);
        let code = status.fault.unwrap().code;
        assert_eq!(
            (status.phase, code),
            (AppNetworkPhase::Failed, Code::NetworkAddresses)
        );
    }
    assert_eq!(device.app(2).vifs[0].ip.unwrap().to_string(), "10.1.0.9");

    let fault = Fault::new(
        Code::ConfigInvalid,
        "x",
        "bad from the start",
        Timestamp::UNIX_EPOCH,
    );
    let mut faulty = instance(2, "");
    faulty.fault = Some(fault);
    let waits = app(4, &[(2, &[]), (3, &[])]);
    device.put(&[instance(1, ""), faulty], &[waits]);
    device.settle().await;
    assert_eq!(device.instance(2).phase, NetworkInstancePhase::Failed);
    let network_instance = instance_id(2);
    assert_eq!(
        device.app(4).phase,
        AppNetworkPhase::AwaitNetworkInstance { network_instance }
    );
}

#[tokio::test(start_paused = true)]
async fn chosen_subnets_avoid_those_of_ports_and_others() {
    let mut device = Device::new();
    let mut eth = ports();
    eth[0].addresses = vec!["10.1.0.77/16".parse().unwrap()];
    device.put_ports(&eth);
    let mut fixed = instance(2, "");
    fixed.subnet = "10.254.0.0/24".parse().ok();
    device.put(&[instance(1, ""), fixed], &[]);
    device.settle().await;
    assert_eq!(device.instance(1).subnet, "10.254.1.0/24".parse().ok());
    // A port that comes later takes nothing from what works, and it is told.
    eth[1].addresses = vec!["10.254.1.9/24".parse().unwrap()];
    device.put_ports(&eth);
    device.settle().await;
    let status = device.instance(1);
    assert_eq!(status.phase, NetworkInstancePhase::Up);
    assert_eq!(status.fault.unwrap().code, Code::NetworkSubnet);
}

/// Wishes of any kind: which instances, of which kind, with which port; which applications where.
fn any_wishes() -> impl Strategy<Value = (Vec<NetworkInstanceConfig>, Vec<AppNetworkConfig>)> {
    let one_instance = (1_u8..5, 0_u8..8, any::<bool>()).prop_map(|(n, how, big)| {
        let mut config = match how {
            0 => instance(n, ""),
            1 | 2 => instance(n, "uplink"),
            3 => instance(n, "all"),
            4 => instance(n, "eth9"),
            5 => switch(n, "eth2"),
            6 => switch(n, ""),
            _ => switch(n, "eth0"),
        };
        if how == 2 {
            config.subnet = "10.77.0.0/24".parse().ok();
        }
        config.mtu = if big { 9000 } else { 0 };
        config
    });
    let rules = || {
        proptest::sample::subsequence(
            vec![
                allow(1, &[]),
                map(2, 8080, 80),
                map(3, 8081, 81),
                allow(4, &[AclMatch::Host("example.net".into())]),
            ],
            0..=4,
        )
    };
    let one_app = (
        1_u8..5,
        any::<bool>(),
        proptest::collection::vec((1_u8..5, rules()), 0..3),
    )
        .prop_map(|(n, activate, vifs)| {
            let vifs: Vec<(u8, &[AclRule])> =
                vifs.iter().map(|(i, r)| (*i, r.as_slice())).collect();
            AppNetworkConfig {
                activate,
                ..app(n, &vifs)
            }
        });
    let unique = |instances: Vec<NetworkInstanceConfig>, apps: Vec<AppNetworkConfig>| {
        let (mut seen, mut seen_apps) = (BTreeSet::new(), BTreeSet::new());
        let instances = instances
            .into_iter()
            .filter(|i| seen.insert(i.id))
            .collect();
        let apps = apps
            .into_iter()
            .filter(|a| seen_apps.insert(a.app))
            .collect();
        (instances, apps)
    };
    (
        proptest::collection::vec(one_instance, 0..5),
        proptest::collection::vec(one_app, 0..5),
    )
        .prop_map(move |(instances, apps)| unique(instances, apps))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever was there, whatever is wanted: it settles, a restart has nothing to do, and after
    /// everything was removed nothing is left.
    #[test]
    fn it_settles_from_any_state(
        first in any_wishes(),
        second in any_wishes(),
        damage in any::<u64>(),
        restarts in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async move {
            let mut device = Device::new();
            device.put(&first.0, &first.1);
            device.settle().await;
            device.fake.damage(damage);
            device.put(&second.0, &second.1);
            if restarts {
                device.runtime = start(&device.bus, &device.fake);
            }
            device.settle().await;
            let settled = device.fake.state();
            device.runtime = start(&device.bus, &device.fake);
            device.settle().await;
            assert_eq!(device.fake.state().steps, settled.steps, "a restart does nothing");
            check(&device, &second);
            device.put(&[], &[]);
            device.settle().await;
            let left = device.fake.state();
            assert_eq!(left.traces(), State::default().traces());
            let numbers = device.bus.read(&UUID_PAIR_TO_NUM).unwrap().unwrap();
            assert!(numbers.is_empty(), "{numbers:?}");
        });
    }
}

/// Who is told to be ready is ready, and nobody shares anything.
fn check(device: &Device, wishes: &(Vec<NetworkInstanceConfig>, Vec<AppNetworkConfig>)) {
    let state = device.fake.state();
    let mut names = BTreeSet::new();
    for config in &wishes.1 {
        let status = device.bus.read(&APP_NETWORK_STATUS).unwrap().unwrap();
        let status = &status[&config.app.to_string()];
        for vif in &status.vifs {
            assert!(names.insert(vif.vif.clone()));
            assert!(names.insert(format!("{} {}", vif.network_instance, vif.mac)));
            if let Some(ip) = vif.ip {
                assert!(names.insert(format!("{} {ip}", vif.network_instance)));
            }
        }
        if status.phase == AppNetworkPhase::Ready {
            assert_eq!(status.vifs.len(), config.vifs.len());
            for vif in &status.vifs {
                let link = &state.actual.links[&vif.vif];
                assert!(link.up && link.master.as_deref() == Some(&vif.bridge));
            }
        }
    }
    for config in &wishes.0 {
        let status = device.bus.read(&NETWORK_INSTANCE_STATUS).unwrap().unwrap();
        let status = &status[&config.id.to_string()];
        let settled = matches!(
            status.phase,
            NetworkInstancePhase::Up
                | NetworkInstancePhase::NoUplink { .. }
                | NetworkInstancePhase::Failed
        );
        assert!(settled, "{status:?}");
        assert_eq!(
            status.phase == NetworkInstancePhase::Failed,
            !state.actual.links.contains_key(&status.bridge)
        );
    }
}
