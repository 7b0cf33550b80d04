//! Policy rules: packets of an instance leave by its port, or not at all.
//!
//! | priority | packets | go by |
//! |---|---|---|
//! | 1000 | to a guest | the main table, which knows the bridges |
//! | 1010 | of connections that came in by a port | that port's table |
//! | 1020 | from a guest | the table of the instance's port |
//! | 1030 | from a guest | nothing: they are refused |
//!
//! They come before all rules of the device's own connectivity.

use ipnet::IpNet;
use netlink::{MAIN_TABLE, Owner, Rule, RuleAction};

use super::{
    Model,
    filter::{PORT_MASK, port_mark},
};

/// The rules for all local instances.
pub(super) fn rules(model: &Model) -> Vec<Rule> {
    let owner = Owner::ZEDROUTER;
    let mut rules = Vec::new();
    let mut answering = Vec::new();
    for instance in model.instances.iter().filter(|i| i.is_made()) {
        let Some(lan) = &instance.lan else { continue };
        let subnet = IpNet::V4(lan.subnet);
        rules.push(Rule {
            to: Some(subnet),
            ..Rule::all(1000, false, RuleAction::Table(MAIN_TABLE), owner)
        });
        if let Some(port) = &instance.uplink.chosen {
            rules.push(Rule::from(
                1020,
                subnet,
                RuleAction::Table(port.table),
                owner,
            ));
        }
        rules.push(Rule::from(1030, subnet, RuleAction::Unreachable, owner));
        answering.extend(&instance.uplink.ports);
    }
    answering.sort_by_key(|port| port.index);
    answering.dedup_by_key(|port| port.index);
    for port in answering.into_iter().filter(|port| port.index > 0) {
        rules.push(Rule {
            mark: Some((port_mark(port), PORT_MASK)),
            ..Rule::all(1010, false, RuleAction::Table(port.table), owner)
        });
    }
    rules
}
