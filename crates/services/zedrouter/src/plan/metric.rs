//! Counters as they are published.

use model::network::{InterfaceMetric, NetworkMetrics, RuleMetric};
use netlink::Stats;

use super::{Actual, filter, vif};
use netlink::Owner;

/// The counters of our interfaces and of all rules.
pub(super) fn metrics(actual: &Actual) -> NetworkMetrics {
    let ours = actual
        .links
        .iter()
        .filter(|(_, link)| link.owner == Owner::ZEDROUTER);
    let interfaces = ours.filter_map(|(name, _)| {
        let stats = actual.sample.interfaces.get(name)?;
        Some(interface(name, stats))
    });
    let mut rules: Vec<RuleMetric> = actual
        .sample
        .counters
        .iter()
        .filter_map(|(counter, count)| {
            let (vif, rule) = filter::counted_rule(counter)?;
            Some(RuleMetric {
                vif,
                rule,
                packets: count.packets,
                bytes: count.bytes,
            })
        })
        .collect();
    rules.sort_by_key(|metric| (vif::numbers_of(&metric.vif), metric.rule));
    NetworkMetrics {
        interfaces: interfaces.collect(),
        rules,
    }
}

/// What the device sends is what the application receives.
fn interface(name: &str, stats: &Stats) -> InterfaceMetric {
    InterfaceMetric {
        name: name.to_owned(),
        rx_bytes: stats.tx_bytes,
        rx_packets: stats.tx_packets,
        rx_drops: stats.tx_dropped,
        tx_bytes: stats.rx_bytes,
        tx_packets: stats.rx_packets,
        tx_drops: stats.rx_dropped,
    }
}
