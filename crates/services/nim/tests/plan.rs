//! nim with a fake kernel: from anywhere it settles, a restart does nothing, others' objects stay.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod fake;

use std::time::Duration;

use agent::{Clock, Runtime, Settled};
use bus::{Bus, Publisher};
use fake::{Fake, link};
use ipnet::IpNet;
use jiff::Timestamp;
use model::{
    code::Code,
    id::LogicalLabel,
    port::{
        DeviceNetworkStatus, DevicePortConfig, DevicePortConfigList, DpcState, PortAddressing,
        PortConfig, ProxyConfig,
    },
    topics::{DEVICE_NETWORK_STATUS, DEVICE_PORT_CONFIG, DEVICE_PORT_CONFIG_LIST, DHCP_LEASE},
};
use netlink::{Address, MAIN_TABLE, Owner, Route, RouteKind, Rule, RuleAction};
use nim::{Action, Nim, RULE_PRIORITY, dhcp::Ask};
use proptest::prelude::*;

struct Device {
    bus: Bus,
    fake: Fake,
    nim: Runtime<Nim, Fake>,
    source: Publisher<DevicePortConfig>,
}

impl Device {
    fn new(ports: &[&str]) -> Self {
        let bus = Bus::memory();
        let clock = Clock::tokio(Timestamp::from_second(1_700_000_000).unwrap());
        let fake = Fake::new(clock, ports);
        Self {
            source: bus
                .acting_as("zedagent")
                .publisher(&DEVICE_PORT_CONFIG)
                .unwrap(),
            nim: runtime(&bus, &fake),
            fake,
            bus,
        }
    }

    fn give(&mut self, ports: &[PortConfig]) {
        let at = 100 + i64::try_from(self.source.rows().len()).unwrap();
        let config = DevicePortConfig {
            key: "zedagent".to_owned(),
            time_priority: Timestamp::from_second(at).unwrap(),
            ports: ports.to_vec(),
            fault: None,
        };
        self.source.publish("zedagent", &config).unwrap();
        self.source.set_ready().unwrap();
    }

    async fn settle(&mut self) -> DeviceNetworkStatus {
        assert_eq!(self.nim.settle().await.unwrap(), Settled::Quiet);
        self.status()
    }

    fn status(&self) -> DeviceNetworkStatus {
        let rows = self.bus.read(&DEVICE_NETWORK_STATUS).unwrap().unwrap();
        rows["global"].clone()
    }

    fn list(&self) -> DevicePortConfigList {
        let rows = self.bus.read(&DEVICE_PORT_CONFIG_LIST).unwrap().unwrap();
        rows["global"].clone()
    }

    fn has_lease(&self, port: &str) -> bool {
        self.bus
            .read(&DHCP_LEASE)
            .unwrap()
            .unwrap()
            .contains_key(port)
    }

    fn restart(&mut self) {
        self.nim = runtime(&self.bus, &self.fake.restarted());
    }

    /// Lets time pass, with turns as the runtime would take them.
    async fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            tokio::time::advance(Duration::from_secs(1)).await;
            self.settle().await;
        }
    }

    fn asked(&self) -> Vec<Ask> {
        let state = self.fake.state();
        let ask = |action: &Action| match action {
            Action::Dhcp { ask, .. } => Some(*ask),
            Action::Kernel(_) => None,
        };
        state.log.iter().filter_map(ask).collect()
    }

    fn kernel_steps(&self) -> usize {
        let state = self.fake.state();
        let steps = state.log.iter().filter(|a| matches!(a, Action::Kernel(_)));
        steps.count()
    }

    fn our_addresses(&self) -> Vec<String> {
        let state = self.fake.state();
        let ours = state.addresses.iter().filter(|a| a.owner == Owner::NIM);
        ours.map(|a| format!("{} {}", a.link, a.net)).collect()
    }
}

fn runtime(bus: &Bus, fake: &Fake) -> Runtime<Nim, Fake> {
    Runtime::new(bus.acting_as("nim"), fake.clone(), fake.clock.clone(), 7)
}

fn port(if_name: &str, addressing: PortAddressing) -> PortConfig {
    PortConfig {
        if_name: if_name.parse().unwrap(),
        label: LogicalLabel(if_name.to_owned()),
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

fn fixed(if_name: &str, address: &str, gateway: &str) -> PortConfig {
    let addressing = PortAddressing::Static {
        address: address.parse().unwrap(),
        gateway: Some(gateway.parse().unwrap()),
    };
    port(if_name, addressing)
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_by_its_server_then_by_any_and_ends_with_the_address() {
    let mut device = Device::new(&["eth0"]);
    let status = device.settle().await;
    assert_eq!(
        (status.state, status.dpc_key.as_str()),
        (DpcState::Success, "lastresort")
    );
    assert_eq!(device.asked(), [Ask::Discover]);
    device.pass(59).await;
    assert_eq!(device.asked().len(), 1, "nothing is due before");
    device.pass(2).await;
    assert!(
        matches!(device.asked()[1..], [Ask::Renew { .. }]),
        "{:?}",
        device.asked()
    );
    // The server is gone. It is asked again, then all are, and nothing else changes.
    device.fake.state().servers.clear();
    device.fake.state().log.clear();
    device.pass(110).await;
    let asked = device.asked();
    assert!(matches!(asked[0], Ask::Renew { .. }));
    assert!(
        matches!(asked.last(), Some(Ask::Rebind { .. })),
        "{asked:?}"
    );
    assert!(asked.len() <= 12, "not all the time: {}", asked.len());
    let status = device.status();
    assert_eq!(
        (status.state, &status.ports[0].fault),
        (DpcState::Success, &None)
    );
    assert_eq!(device.our_addresses(), ["eth0 10.0.2.77/24"]);
    // The end.
    device.pass(12).await;
    assert!(device.our_addresses().is_empty() && !device.has_lease("eth0"));
    let status = device.status();
    assert_eq!(status.state, DpcState::Fail);
    assert_eq!(status.ports[0].fault.clone().unwrap().code, Code::PortDhcp);
    let state = device.fake.state();
    assert!(state.routes.is_empty() && state.rules.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_address_that_the_server_takes_back_is_given_up_at_once() {
    let mut device = Device::new(&["eth0"]);
    device.settle().await;
    device
        .fake
        .state()
        .servers
        .insert("eth0".to_owned(), (9, 5));
    device.pass(61).await;
    assert_eq!(device.our_addresses(), ["eth0 10.0.9.5/24"]);
    assert!(matches!(
        device.asked()[..],
        [Ask::Discover, Ask::Renew { .. }, Ask::Discover]
    ));
}

#[tokio::test(start_paused = true)]
async fn a_restart_only_confirms_and_a_cable_does_too() {
    let mut device = Device::new(&["eth0", "eth1"]);
    let before = device.settle().await;
    device.restart();
    assert_eq!(device.settle().await, before);
    assert_eq!(device.kernel_steps(), 0);
    assert!(matches!(
        device.asked()[..],
        [Ask::Confirm { .. }, Ask::Confirm { .. }]
    ));

    let carrier = |device: &Device, on: bool| {
        device.fake.state().links.get_mut("eth0").unwrap().lower_up = on;
    };
    carrier(&device, false);
    let status = device.settle().await;
    assert!(!status.ports[0].link_up && status.ports[0].addresses.is_empty());
    assert_eq!(device.our_addresses().len(), 2, "kept");
    let main = |device: &Device| {
        let state = device.fake.state();
        let main = state.routes.iter().filter(|r| r.table == MAIN_TABLE);
        main.count()
    };
    assert_eq!(main(&device), 2, "of the other port");
    carrier(&device, true);
    assert_eq!(device.settle().await, before);
    assert_eq!(main(&device), 4);
    assert!(matches!(device.asked()[2..], [Ask::Confirm { .. }]));
}

#[tokio::test(start_paused = true)]
async fn after_a_reboot_the_last_good_set_is_used_before_anybody_spoke() {
    let mut device = Device::new(&["eth0", "eth1"]);
    device.give(&[
        fixed("eth1", "192.0.2.5/24", "192.0.2.1"),
        port("eth0", PortAddressing::Dhcp),
    ]);
    let status = device.settle().await;
    assert_eq!(
        (status.dpc_key.as_str(), status.state),
        ("zedagent", DpcState::Success)
    );
    let list = device.list();
    assert!(
        list.list[list.current_index.unwrap()]
            .last_succeeded
            .is_some()
    );

    // What survives is the persistent list: a new bus with nothing else.
    let mut next = Device::new(&["eth0", "eth1"]);
    let mut lists = next
        .bus
        .acting_as("nim")
        .publisher(&DEVICE_PORT_CONFIG_LIST)
        .unwrap();
    lists.publish("global", &list).unwrap();
    drop(lists);
    next.nim = runtime(&next.bus, &next.fake);
    let status = next.settle().await;
    assert_eq!(
        (status.dpc_key.as_str(), status.state),
        ("zedagent", DpcState::Success)
    );
    assert_eq!(
        next.our_addresses(),
        ["eth1 192.0.2.5/24", "eth0 10.0.2.77/24"]
    );
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_made_is_a_fault_of_its_port_and_the_rest_goes_on() {
    let mut device = Device::new(&["eth0", "eth1"]);
    device.fake.state().refused.insert(net("192.0.2.0/24"));
    let missing = port("eth7", PortAddressing::Dhcp);
    let ports = [
        fixed("eth1", "192.0.2.5/24", "192.0.2.1"),
        missing,
        port("eth0", PortAddressing::Dhcp),
    ];
    device.give(&ports);
    let status = device.settle().await;
    let fault = |n: usize| status.ports[n].fault.clone();
    let refused = fault(0).unwrap();
    assert_eq!(
        (refused.code, refused.object.as_str()),
        (Code::PortAddress, "port eth1")
    );
    assert!(refused.next.is_some());
    assert_eq!(fault(1).unwrap().code, Code::PortMissing);
    assert_eq!((fault(2), status.state), (None, DpcState::Success));
    device.fake.state().refused.clear();
    device.pass(80).await;
    assert_eq!(device.status().ports[0].fault, None);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_somebody_else_gave_is_used_and_left_alone() {
    let mut device = Device::new(&["eth1"]);
    let theirs = Address {
        link: "eth1".to_owned(),
        net: net("192.0.2.5/24"),
        prefix_route: true,
        owner: Owner::UNKNOWN,
    };
    device.fake.state().addresses.push(theirs.clone());
    device.give(&[fixed("eth1", "192.0.2.5/24", "192.0.2.1")]);
    let status = device.settle().await;
    assert_eq!(status.ports[0].addresses, [net("192.0.2.5/24")]);
    assert_eq!(device.fake.state().rules.len(), 1);
    device.give(&[fixed("eth1", "192.0.2.6/24", "192.0.2.1")]);
    device.settle().await;
    assert!(device.fake.state().addresses.contains(&theirs));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_outside_the_subnet_is_reached_by_a_route_to_itself() {
    let mut device = Device::new(&["eth0"]);
    device.give(&[fixed("eth0", "10.128.0.9/32", "10.128.0.1")]);
    device.settle().await;
    let state = device.fake.state();
    let to: Vec<String> = state.routes.iter().map(|r| r.to.to_string()).collect();
    assert_eq!(
        to.iter().filter(|to| *to == "10.128.0.1/32").count(),
        2,
        "{to:?}"
    );
    assert_eq!(
        to.iter().filter(|to| *to == "0.0.0.0/0").count(),
        2,
        "{to:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_address_that_moves_to_another_port_keeps_its_routes() {
    let mut device = Device::new(&["eth0", "eth1", "eth2"]);
    device.give(&[fixed("eth0", "10.0.0.3/24", "10.0.0.1")]);
    device.settle().await;
    // While both ports have the address, the one that goes must not take the routes of the other with it.
    device.give(&[
        fixed("eth1", "10.0.0.3/25", "10.0.0.1"),
        port("eth2", PortAddressing::Dhcp),
    ]);
    device.settle().await;
    let state = device.fake.state();
    let default = state.routes.iter().filter(|r| r.to.prefix_len() == 0);
    let by_eth1 = default.filter(
        |r| matches!(&r.kind, RouteKind::Unicast { link, gateway: Some(_) } if link == "eth1"),
    );
    assert!(by_eth1.count() > 0, "{:?}", state.routes);
}

#[tokio::test(start_paused = true)]
async fn ports_that_change_places_swap_their_routes_in_place() {
    let mut device = Device::new(&["eth0", "eth1"]);
    let (a, b) = (
        fixed("eth0", "10.1.0.5/24", "10.1.0.1"),
        fixed("eth1", "10.2.0.5/24", "10.2.0.1"),
    );
    device.give(&[a.clone(), b.clone()]);
    let before = device.settle().await;
    device.fake.state().log.clear();
    device.give(&[b, a]);
    let after = device.settle().await;
    assert_eq!(before.ports[0].route_table, after.ports[1].route_table);
    let everywhere = |action: &Action| match action {
        Action::Kernel(step) => step
            .id()
            .to_string()
            .starts_with("route 0.0.0.0/0 table 254"),
        Action::Dhcp { .. } => false,
    };
    let state = device.fake.state();
    let changed = state.log.iter().filter(|a| everywhere(a));
    for action in changed {
        assert!(
            matches!(action, Action::Kernel(step) if matches!(**step, graph::Step::Change { .. })),
            "{action:?}"
        );
    }
}

/// Ports that a config may name, one more than there are.
const NAMES: [&str; 4] = ["eth0", "eth1", "eth2", "eth3"];

fn any_port() -> impl Strategy<Value = PortConfig> {
    let addressing = prop_oneof![
        Just(PortAddressing::Dhcp),
        Just(PortAddressing::None),
        (
            0u8..4,
            2u8..5,
            any::<bool>(),
            prop_oneof![Just(24u8), Just(25), Just(32)]
        )
            .prop_map(|(n, host, gateway, len)| PortAddressing::Static {
                address: net(&format!("10.0.{n}.{host}/{len}")),
                gateway: gateway.then(|| format!("10.0.{n}.1").parse().unwrap()),
            }),
        Just(PortAddressing::Static {
            address: net("2001:db8::5/64"),
            gateway: Some("2001:db8::1".parse().unwrap()),
        }),
    ];
    (
        addressing,
        0u8..3,
        any::<bool>(),
        prop_oneof![Just(0u16), Just(1400)],
    )
        .prop_map(|(addressing, cost, is_mgmt, mtu)| PortConfig {
            cost,
            is_mgmt,
            mtu,
            wireless: vec![],
            ..port("eth0", addressing)
        })
}

fn any_config() -> impl Strategy<Value = Vec<PortConfig>> {
    let ports = proptest::collection::vec(proptest::option::weighted(0.6, any_port()), 4);
    ports.prop_map(|ports| {
        let named = ports.into_iter().zip(NAMES).filter_map(|(port, name)| {
            let if_name = name.parse().unwrap();
            port.map(|p| PortConfig { if_name, ..p })
        });
        named.collect()
    })
}

/// An object of ours or of somebody else's, as a crash or a person may have left it.
#[derive(Debug, Clone)]
enum Debris {
    Address(u8, u8, bool),
    Route(u8, u32, u8, u32, bool),
    Rule(u8, u32, bool),
    Mtu(u8, u32),
}

fn debris() -> impl Strategy<Value = Debris> {
    prop_oneof![
        (0u8..3, 0u8..6, any::<bool>()).prop_map(|(l, n, o)| Debris::Address(l, n, o)),
        (
            0u8..3,
            prop_oneof![Just(254u32), Just(501), Just(502), Just(777)],
            0u8..6,
            1000u32..1003,
            any::<bool>()
        )
            .prop_map(|(l, t, n, m, o)| Debris::Route(l, t, n, m, o)),
        (0u8..6, 501u32..504, any::<bool>()).prop_map(|(n, t, o)| Debris::Rule(n, t, o)),
        (0u8..3, prop_oneof![Just(1500u32), Just(1280)]).prop_map(|(l, m)| Debris::Mtu(l, m)),
    ]
}

fn scatter(fake: &Fake, debris: &[Debris]) {
    let mut state = fake.state();
    let owner = |ours: bool| if ours { Owner::NIM } else { Owner(4) };
    for one in debris {
        match *one {
            Debris::Address(l, n, ours) => {
                let address = Address {
                    link: NAMES[usize::from(l)].to_owned(),
                    net: net(&format!("10.0.{n}.3/24")),
                    prefix_route: false,
                    owner: owner(ours),
                };
                let is_there = |a: &Address| a.link == address.link && a.net == address.net;
                if !state.addresses.iter().any(is_there) {
                    state.addresses.push(address);
                }
            }
            Debris::Route(l, table, n, metric, ours) => {
                let route = Route {
                    table,
                    // Others' are elsewhere: two cannot have the same place.
                    to: net(&format!("{}.0.{n}.0/24", if ours { 10 } else { 198 })),
                    metric,
                    kind: RouteKind::Unicast {
                        link: NAMES[usize::from(l)].to_owned(),
                        gateway: None,
                    },
                    source: None,
                    owner: owner(ours),
                };
                let same =
                    |r: &Route| (r.table, r.to, r.metric) == (route.table, route.to, route.metric);
                if !state.routes.iter().any(same) {
                    state.routes.push(route);
                }
            }
            Debris::Rule(n, table, ours) => {
                let from = net(&format!("10.0.{n}.3/32"));
                let priority = if ours { RULE_PRIORITY } else { 700 };
                let rule = Rule::from(priority, from, RuleAction::Table(table), owner(ours));
                if !state.rules.contains(&rule) {
                    state.rules.push(rule);
                }
            }
            Debris::Mtu(l, mtu) => {
                let link = state.links.get_mut(NAMES[usize::from(l)]).unwrap();
                link.mtu = mtu;
            }
        }
    }
}

fn foreign(fake: &Fake) -> (Vec<Address>, Vec<Route>, Vec<Rule>) {
    let state = fake.state();
    let others = |owner: &Owner| *owner != Owner::NIM;
    (
        state
            .addresses
            .iter()
            .filter(|a| others(&a.owner))
            .cloned()
            .collect(),
        state
            .routes
            .iter()
            .filter(|r| others(&r.owner))
            .cloned()
            .collect(),
        state
            .rules
            .iter()
            .filter(|r| others(&r.owner))
            .cloned()
            .collect(),
    )
}

/// When something is tried again is up to the runtime.
fn timeless(mut status: DeviceNetworkStatus) -> DeviceNetworkStatus {
    let faults = status.ports.iter_mut().filter_map(|p| p.fault.as_mut());
    faults.for_each(|fault| fault.next = None);
    status
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// From any partial state and for any config: it settles, a further turn and a restart
    /// change nothing, what belongs to others is as before, and what is left of ours is wanted.
    #[test]
    fn from_anywhere_it_settles(
        configs in proptest::collection::vec(any_config(), 1..3),
        left in proptest::collection::vec(debris(), 0..12),
        up in 0u8..8,
        silent in 0u8..8,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut device = Device::new(&NAMES[..3]);
            scatter(&device.fake, &left);
            for (n, name) in NAMES[..3].iter().enumerate() {
                let mut state = device.fake.state();
                state.links.get_mut(*name).unwrap().up = up & (1 << n) != 0;
                if silent & (1 << n) != 0 {
                    state.servers.remove(*name);
                }
            }
            device.fake.state().links.insert("docker0".to_owned(), link("docker0", 9));
            let others = foreign(&device.fake);
            for config in &configs {
                device.give(config);
                device.settle().await;
                prop_assert_eq!(&foreign(&device.fake), &others);
                prop_assert!(!device.fake.state().links["docker0"].up);

                let status = device.status();
                let wanted: Vec<String> = status.ports.iter().flat_map(|p| p.addresses.iter().map(|a| format!("{} {a}", p.if_name))).collect();
                for ours in device.our_addresses() {
                    prop_assert!(wanted.contains(&ours), "{ours} is left over");
                }
                let tables: Vec<u32> = status.ports.iter().map(|p| p.route_table).collect();
                for route in device.fake.state().routes.iter().filter(|r| r.owner == Owner::NIM) {
                    prop_assert!(route.table == MAIN_TABLE || tables.contains(&route.table));
                }

                device.restart();
                prop_assert_eq!(timeless(device.settle().await), timeless(status));
                prop_assert_eq!(device.kernel_steps(), 0, "{:?}", device.fake.state().log);
            }
            Ok(())
        })?;
    }
}
