//! `eve why app` on networks.

use eve::Device;
use model::{
    app::AppPhase,
    code::Code,
    domain::DomainPhase,
    id::LogicalLabel,
    network::{AppNetworkPhase, NetworkInstancePhase},
};

use crate::device::*;

#[test]
fn networks_of_an_app() {
    let waits = |d: &mut Device| {
        set_app(d, AppPhase::AwaitNetwork, None);
        let phase = AppNetworkPhase::AwaitNetworkInstance {
            network_instance: network(),
        };
        set_interfaces(d, phase, None);
    };
    let cases = vec![
        (
            "the network is not in the config",
            with(|d| {
                waits(d);
                d.network_instance_configs.rows.clear();
                d.network_instances.rows.clear();
            }),
        ),
        (
            "the network's subnet is taken",
            with(|d| {
                waits(d);
                let fault = fault(
                    Code::NetworkSubnet,
                    "network",
                    "10.1.0.0/24 is also that of eth0",
                );
                set_network_instance(d, NetworkInstancePhase::Failed, Some(fault));
            }),
        ),
        (
            "zedrouter is down",
            with(|d| {
                waits(d);
                d.network_instances.rows.clear();
                down(d, "zedrouter", 4);
            }),
        ),
        (
            "the rules can't be loaded",
            with(|d| {
                set_app(d, AppPhase::Failed, None);
                let fault = fault(Code::NetworkRules, "interfaces", "nft refused line 3");
                set_interfaces(d, AppNetworkPhase::Failed, Some(fault));
            }),
        ),
        (
            "no address is left for it",
            with(|d| {
                set_app(d, AppPhase::Failed, None);
                let text = "interface eth0: no address of 10.1.0.2 to 10.1.0.2 is free";
                let fault = fault(Code::NetworkAddresses, "interfaces", text);
                set_interfaces(d, AppNetworkPhase::Failed, Some(fault));
            }),
        ),
        (
            "the interfaces are being made",
            with(|d| {
                set_app(d, AppPhase::AwaitNetwork, None);
                set_interfaces(d, AppNetworkPhase::Creating, None);
            }),
        ),
        (
            "it runs, and its network's port has no address",
            with(|d| {
                no_lease(d);
                let port = LogicalLabel("mgmt".to_owned());
                set_network_instance(d, NetworkInstancePhase::NoUplink { port }, None);
            }),
        ),
        (
            "it runs, and its network's port is not there",
            with(|d| {
                let port = LogicalLabel("shopfloor".to_owned());
                d.network_instance_configs
                    .rows
                    .get_mut(NETWORK)
                    .unwrap()
                    .port = port.clone();
                set_network_instance(d, NetworkInstancePhase::NoUplink { port }, None);
            }),
        ),
        (
            "its start does not wait for an uplink",
            with(|d| {
                let port = LogicalLabel("mgmt".to_owned());
                set_network_instance(d, NetworkInstancePhase::NoUplink { port }, None);
                set_app(d, AppPhase::Booting, None);
                set_domain(d, DomainPhase::Booting { since: before(7) }, None);
            }),
        ),
    ];
    golden("network", &about_app(&cases));
}
