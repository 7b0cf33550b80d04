#![allow(clippy::unwrap_used, clippy::expect_used)]
use model::adapter::{AdapterKind, PhysicalIoAdapter};
use netlink::{Kind, Owner};
use proptest::prelude::*;

use super::*;

fn links(names: &[&str]) -> BTreeMap<String, Link> {
    let link = |(n, name): (usize, &&str)| Link {
        index: u32::try_from(n).unwrap() + 2,
        name: (*name).to_owned(),
        kind: Kind::Device,
        owner: Owner::UNKNOWN,
        mac: Some([2, 0, 0, 0, 0, 1]),
        permanent_mac: None,
        mtu: 1500,
        up: true,
        lower_up: true,
        master: None,
        isolated: false,
        filtered: false,
        alias: None,
    };
    let all = names.iter().enumerate().map(link);
    all.map(|link| (link.name.clone(), link)).collect()
}

fn set(key: &str, at: i64, ports: &[&str]) -> DevicePortConfig {
    DevicePortConfig {
        key: key.to_owned(),
        time_priority: Timestamp::from_second(at).unwrap(),
        ports: ports
            .iter()
            .map(|p| plain_port(p.parse().unwrap()))
            .collect(),
        fault: None,
    }
}

fn faulty(at: i64) -> DevicePortConfig {
    let fault = Fault::new(
        Code::ConfigInvalid,
        "device ports",
        "nonsense",
        at_second(0),
    );
    DevicePortConfig {
        fault: Some(fault),
        ..set("zedagent", at, &["eth0"])
    }
}

fn at_second(n: i64) -> Timestamp {
    Timestamp::from_second(n).unwrap()
}

/// A device that remembers its list.
struct Device {
    list: DevicePortConfigList,
    links: BTreeMap<String, Link>,
    fallback: bool,
}

impl Device {
    fn new(ports: &[&str]) -> Self {
        Self {
            list: DevicePortConfigList::default(),
            links: links(ports),
            fallback: false,
        }
    }

    /// One turn at a time; `worked` says that the set in use works. Gives what is used.
    fn turn(&mut self, now: i64, sources: Option<&[DevicePortConfig]>, worked: bool) -> String {
        let rows: Option<Rows<DevicePortConfig>> =
            sources.map(|all| all.iter().map(|c| (c.key.clone(), c.clone())).collect());
        let last = last_resort(&self.links, None);
        let now = at_second(now);
        let mut list = merge(&self.list, rows.as_ref(), last, now);
        let in_use = self
            .list
            .current_index
            .map(|n| self.list.list[n].config.clone());
        let choice = choose(&mut list, in_use.as_ref(), &self.links, self.fallback, now);
        if worked && list[choice.current].fault.is_none() {
            let entry = &mut list[choice.current];
            entry.state = DpcState::Success;
            entry.last_succeeded = Some(now);
        }
        let used = &list[choice.current].config;
        let name = format!("{}@{}", used.key, used.time_priority.as_second());
        self.list = DevicePortConfigList {
            current_index: Some(choice.current),
            list,
        };
        name
    }

    fn entry(&self, at: i64) -> &DpcEntry {
        let found = self
            .list
            .list
            .iter()
            .find(|e| e.config.time_priority == at_second(at));
        found.unwrap()
    }
}

#[test]
fn the_last_resort_is_every_ethernet_port_that_no_application_has() {
    let given = PhysicalIoAdapterList {
        initialized: true,
        adapters: vec![PhysicalIoAdapter {
            kind: AdapterKind::Ethernet,
            phy_label: "Ethernet1".to_owned(),
            logical_label: LogicalLabel("eth1".to_owned()),
            assign_group: String::new(),
            if_name: "eth1".to_owned(),
            pci_long: String::new(),
            serial: String::new(),
            usb_addr: String::new(),
            usage: AdapterUsage::Dedicated,
            cost: 0,
        }],
    };
    let links = links(&["eth10", "eth0", "eth1", "docker0", "wlan0", "eth9"]);
    let names = |config: DevicePortConfig| -> Vec<String> {
        config.ports.iter().map(|p| p.if_name.to_string()).collect()
    };
    assert_eq!(
        names(last_resort(&links, None)),
        ["eth0", "eth1", "eth9", "eth10"]
    );
    assert_eq!(
        names(last_resort(&links, Some(&given))),
        ["eth0", "eth9", "eth10"]
    );
}

#[test]
fn the_newest_set_is_used_and_the_last_good_one_after_a_reboot() {
    let mut device = Device::new(&["eth0"]);
    assert_eq!(device.turn(1, None, true), "lastresort@0");
    let (old, new) = (
        set("zedagent", 100, &["eth0"]),
        set("zedagent", 200, &["eth0"]),
    );
    let mut new = new;
    new.ports[0].cost = 7;
    assert_eq!(
        device.turn(2, Some(std::slice::from_ref(&old)), true),
        "zedagent@100"
    );
    let manual = set("manual", 150, &["eth0"]);
    assert_eq!(device.turn(3, Some(&[old, manual]), false), "manual@150");
    assert_eq!(device.turn(4, Some(&[new]), true), "zedagent@200");
    // A reboot: only the list is there.
    assert_eq!(device.turn(5, None, false), "zedagent@200");
    assert_eq!(device.entry(200).state, DpcState::Success);
}

#[test]
fn the_same_content_said_again_is_the_same_set() {
    let mut device = Device::new(&["eth0"]);
    device.turn(1, Some(&[set("zedagent", 100, &["eth0"])]), true);
    assert_eq!(
        device.turn(2, Some(&[set("zedagent", 300, &["eth0"])]), false),
        "zedagent@300"
    );
    assert_eq!(device.list.list.len(), 2);
    assert_eq!(device.entry(300).last_succeeded, Some(at_second(1)));
}

#[test]
fn a_faulty_set_is_not_taken_and_says_why() {
    let mut device = Device::new(&["eth0", "eth1"]);
    device.turn(1, Some(&[set("zedagent", 100, &["eth1"])]), true);
    assert_eq!(device.turn(2, Some(&[faulty(200)]), false), "zedagent@100");
    let fault = device.entry(200).fault.clone().unwrap();
    assert_eq!(
        (fault.code, fault.text.as_str()),
        (Code::ConfigInvalid, "nonsense")
    );
    // What makes no sense of itself is found here.
    let twice = set("zedagent", 300, &["eth1", "eth1"]);
    assert_eq!(device.turn(3, Some(&[twice]), false), "zedagent@100");
    assert!(
        device
            .entry(300)
            .fault
            .clone()
            .unwrap()
            .text
            .contains("twice")
    );
    let nobody = set("zedagent", 400, &[]);
    assert_eq!(device.turn(4, Some(&[nobody]), false), "zedagent@100");
    // It stays so across a reboot, and ends with a good one.
    assert_eq!(device.turn(5, None, false), "zedagent@100");
    assert!(device.entry(400).fault.is_some());
    assert_eq!(
        device.turn(6, Some(&[set("zedagent", 500, &["eth0"])]), true),
        "zedagent@500"
    );
    let kept: Vec<i64> = device
        .list
        .list
        .iter()
        .map(|e| e.config.time_priority.as_second())
        .collect();
    assert_eq!(
        kept,
        [500, 100, 0],
        "the one before that worked, nothing faulty"
    );
}

#[test]
fn a_set_whose_ports_do_not_exist_waits_while_another_works() {
    let mut device = Device::new(&["eth0"]);
    assert_eq!(device.turn(1, None, true), "lastresort@0");
    let wrong = [set("zedagent", 100, &["eth7"])];
    assert_eq!(device.turn(2, Some(&wrong), true), "lastresort@0");
    assert_eq!(device.entry(100).state, DpcState::IntfWait);
    let fault = device.entry(100).fault.clone().unwrap();
    assert_eq!((fault.code, fault.since), (Code::PortMissing, at_second(2)));
    device.turn(50, Some(&wrong), true);
    assert_eq!(device.entry(100).fault.clone().unwrap().since, at_second(2));
    device.links = links(&["eth0", "eth7"]);
    assert_eq!(device.turn(60, Some(&wrong), true), "zedagent@100");
    assert_eq!(device.entry(100).fault, None);
}

#[test]
fn a_port_that_vanishes_for_a_moment_changes_nothing_and_for_long_it_does() {
    let mut device = Device::new(&["eth0", "eth1"]);
    let old = [set("zedagent", 100, &["eth0"])];
    device.turn(1, Some(&old), true);
    let new = [set("zedagent", 200, &["eth1"])];
    assert_eq!(device.turn(2, Some(&new), true), "zedagent@200");
    device.links = links(&["eth0"]);
    assert_eq!(device.turn(10, Some(&new), false), "zedagent@200");
    assert_eq!(device.turn(39, Some(&new), false), "zedagent@200");
    assert_eq!(
        device.turn(40, Some(&new), false),
        "zedagent@100",
        "the last that worked"
    );
    device.links = links(&["eth0", "eth1"]);
    assert_eq!(device.turn(50, Some(&new), false), "zedagent@200");
}

#[test]
fn the_last_resort_comes_back_only_where_it_is_allowed() {
    let mut device = Device::new(&["eth0"]);
    let only = [set("zedagent", 100, &["eth0"])];
    device.turn(1, Some(&only), true);
    device.links = links(&["eth5"]);
    assert_eq!(device.turn(10, Some(&only), false), "zedagent@100");
    assert_eq!(device.turn(100, Some(&only), false), "zedagent@100");
    device.fallback = true;
    assert_eq!(device.turn(101, Some(&only), false), "lastresort@0");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Whatever sources say and whatever ports come and go: something is used, it has no fault of
    /// its own, the list stays short and in order, and a repeated turn says the same.
    #[test]
    fn there_is_always_a_choice(steps in proptest::collection::vec((0i64..6, 0u8..8, 0u8..4, any::<bool>(), 0u8..3), 1..40)) {
        let mut device = Device::new(&["eth0"]);
        let names = ["eth0", "eth1", "eth2"];
        for (n, (time, ports, there, worked, what)) in steps.into_iter().enumerate() {
            let chosen: Vec<&str> = names.iter().enumerate().filter(|(i, _)| ports & (1 << i) != 0).map(|(_, n)| *n).collect();
            device.links = links(&names[..usize::from(there)]);
            let sources = match what {
                0 => None,
                1 => Some(vec![faulty(time * 100)]),
                _ => Some(vec![set("zedagent", time * 100, &chosen), set("manual", 250, &["eth1"])]),
            };
            let now = i64::try_from(n).unwrap() * 20;
            let used = device.turn(now, sources.as_deref(), worked);
            let first = device.list.clone();
            prop_assert_eq!(device.turn(now, sources.as_deref(), false), used);
            prop_assert_eq!(&device.list, &first);
            let entry = &first.list[first.current_index.unwrap()];
            prop_assert!(problem(&entry.config).is_none());
            prop_assert!(first.list.len() <= 7, "{}", first.list.len());
            prop_assert_eq!(&first.list.last().unwrap().config.key, LAST_RESORT);
            let times: Vec<_> = first.list.iter().map(|e| e.config.time_priority).collect();
            prop_assert!(times.is_sorted_by(|a, b| a >= b));
        }
    }
}
