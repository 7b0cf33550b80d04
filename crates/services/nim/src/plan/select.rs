//! Which sets of ports there are, and which of them is used.
//!
//! ```text
//!  zedagent/DevicePortConfig (any source) --+
//!  DevicePortConfigList of before the boot -+--> list, newest first --> the first that can be used
//!  last resort: every Ethernet port, DHCP --+         (lowest)
//! ```
//! A set with a fault, or whose management ports do not exist, is passed over; its entry says why.
//! Of each source the list keeps the newest set, and the last other one that worked: with it a
//! device that was told nonsense goes on.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use bus::Rows;
use jiff::{SignedDuration, Timestamp};
use model::{
    adapter::{AdapterUsage, PhysicalIoAdapterList},
    code::Code,
    fault::Fault,
    id::{IfName, LogicalLabel},
    port::{
        DevicePortConfig, DevicePortConfigList, DpcEntry, DpcState, PortAddressing, PortConfig,
        ProxyConfig,
    },
};
use netlink::Link;

use super::ethernet::is_port;

/// Key of the set that is used when there is no other.
pub const LAST_RESORT: &str = "lastresort";

/// How long the ports of the set in use may be away before another set is used.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The set for a device that was told nothing: DHCP on every Ethernet port that is not given to
/// an application.
pub(super) fn last_resort(
    links: &BTreeMap<String, Link>,
    adapters: Option<&PhysicalIoAdapterList>,
) -> DevicePortConfig {
    let is_given_away = |name: &str| {
        adapters.is_some_and(|list| {
            list.adapters
                .iter()
                .filter(|adapter| adapter.if_name == name)
                .any(|adapter| match adapter.usage {
                    AdapterUsage::Dedicated | AdapterUsage::Disabled => true,
                    AdapterUsage::Mgmt | AdapterUsage::Shared => false,
                })
        })
    };
    let names = links
        .values()
        .filter(|link| is_port(link) && !is_given_away(&link.name))
        .filter_map(|link| link.name.parse::<IfName>().ok());
    let mut names: Vec<IfName> = names.collect();
    // `eth10` after `eth9`.
    names.sort_by_key(|name| (name.as_str().len(), name.clone()));
    DevicePortConfig {
        key: LAST_RESORT.to_owned(),
        time_priority: Timestamp::UNIX_EPOCH,
        ports: names.into_iter().map(plain_port).collect(),
        fault: None,
    }
}

fn plain_port(if_name: IfName) -> PortConfig {
    PortConfig {
        label: LogicalLabel(if_name.to_string()),
        if_name,
        is_mgmt: true,
        cost: 0,
        addressing: PortAddressing::Dhcp,
        dns_servers: Vec::new(),
        ntp_servers: Vec::new(),
        domain_name: String::new(),
        proxy: ProxyConfig::default(),
        mtu: 0,
        wireless: vec![],
    }
}

/// Every set that is known, best first: from the sources, from memory, and the last resort.
pub(super) fn merge(
    old: &DevicePortConfigList,
    sources: Option<&Rows<DevicePortConfig>>,
    last_resort: DevicePortConfig,
    now: Timestamp,
) -> Vec<DpcEntry> {
    let live: Vec<&DevicePortConfig> = sources
        .into_iter()
        .flat_map(Rows::values)
        .filter(|config| config.key != LAST_RESORT)
        .collect();
    let mut list: Vec<DpcEntry> = live
        .iter()
        .map(|config| entry(old, (*config).clone(), now))
        .collect();
    let mut keys: Vec<&str> = old.list.iter().map(|e| e.config.key.as_str()).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys.into_iter().filter(|key| *key != LAST_RESORT) {
        let newest = live.iter().find(|config| config.key == key);
        let known: Vec<&DpcEntry> = old
            .list
            .iter()
            .filter(|e| e.config.key == key)
            .filter(|e| !list.iter().any(|other| is_same(&other.config, &e.config)))
            // The source took back what it said later.
            .filter(|e| newest.is_none_or(|n| e.config.time_priority <= n.time_priority))
            .collect();
        let is_sound = |e: &&&DpcEntry| problem(&e.config).is_none();
        let is_replaced = newest.is_some_and(|n| problem(n).is_none());
        let best = known.iter().filter(is_sound);
        // Of two said at the same time the one that was preferred before: the first.
        let best = best.min_by_key(|e| Reverse(e.config.time_priority));
        let best = best.filter(|_| !is_replaced);
        // Before its source has spoken, what is wrong stays known to be wrong.
        let said_last = known.iter().min_by_key(|e| Reverse(e.config.time_priority));
        let said_last = said_last.filter(|_| sources.is_none());
        let worked = known
            .iter()
            .filter(is_sound)
            .filter(|e| best.is_none_or(|b| !is_same(&b.config, &e.config)))
            .filter(|e| e.last_succeeded.is_some())
            .min_by_key(|e| Reverse(e.last_succeeded));
        let kept = [said_last, best, worked];
        for e in kept.into_iter().flatten() {
            if !list.iter().any(|other| is_same(&other.config, &e.config)) {
                list.push((*e).clone());
            }
        }
    }
    list.sort_by(|a, b| {
        let rank = |e: &DpcEntry| (e.config.time_priority, e.config.key.clone());
        rank(b).cmp(&rank(a))
    });
    list.push(entry(old, last_resort, now));
    list
}

/// The entry of a set as its source says it now, with what is known of it.
fn entry(old: &DevicePortConfigList, config: DevicePortConfig, now: Timestamp) -> DpcEntry {
    let known = old.list.iter().find(|e| is_same(&e.config, &config));
    let known_fault = known.and_then(|e| e.fault.as_ref());
    let wrong = problem(&config).map(|text| match &config.fault {
        Some(fault) => fault.clone(),
        None => Fault::new(Code::ConfigInvalid, object(&config), text, now).continuing(known_fault),
    });
    let state = known.map(|e| e.state).unwrap_or_default();
    DpcEntry {
        state: if wrong.is_some() {
            DpcState::None
        } else {
            state
        },
        last_succeeded: known.and_then(|e| e.last_succeeded),
        last_failed: known.and_then(|e| e.last_failed),
        fault: wrong.or_else(|| known_fault.cloned()),
        config,
    }
}

/// The same content of the same source is the same set, whenever it was said.
pub(super) fn is_same(a: &DevicePortConfig, b: &DevicePortConfig) -> bool {
    a.key == b.key && (a.key == LAST_RESORT || (a.ports == b.ports && a.fault == b.fault))
}

/// Why a set cannot be used, whatever there is.
fn problem(config: &DevicePortConfig) -> Option<String> {
    if let Some(fault) = &config.fault {
        return Some(fault.text.clone());
    }
    if config.key == LAST_RESORT {
        return None;
    }
    let ports = &config.ports;
    let twice = ports
        .iter()
        .enumerate()
        .find(|(n, port)| ports[..*n].iter().any(|p| p.if_name == port.if_name));
    if let Some((_, port)) = twice {
        return Some(format!("interface {} is in it twice", port.if_name));
    }
    for port in ports {
        if let PortAddressing::Static {
            address,
            gateway: Some(gateway),
        } = &port.addressing
            && address.addr() == *gateway
        {
            let text = format!("the gateway of port {} is its own address", port.label);
            return Some(text);
        }
    }
    let reachable = ports.iter().any(|port| port.is_mgmt);
    (!reachable).then(|| "none of its ports is for management".to_owned())
}

fn object(config: &DevicePortConfig) -> String {
    format!("ports of {}", config.key)
}

/// The set to use, and when to choose again though nothing changed.
pub(super) struct Choice {
    /// Index in the list.
    pub(super) current: usize,
    /// The one in use has no ports; another is used after so long.
    pub(super) patience: Option<Duration>,
}

/// Notes which sets lack their ports, and chooses.
///
/// `fallback` allows the last resort also after another set has worked. The list ends with the
/// last resort.
pub(super) fn choose(
    list: &mut [DpcEntry],
    in_use: Option<&DevicePortConfig>,
    links: &BTreeMap<String, Link>,
    fallback: bool,
    now: Timestamp,
) -> Choice {
    for e in list.iter_mut().filter(|e| problem(&e.config).is_none()) {
        note_missing(e, links, now);
    }
    let worked = |e: &DpcEntry| e.config.key != LAST_RESORT && e.last_succeeded.is_some();
    let last_resort = fallback || !list.iter().any(worked);
    let usable =
        |e: &DpcEntry| problem(&e.config).is_none() && (e.config.key != LAST_RESORT || last_resort);
    for (n, e) in list.iter().enumerate().filter(|(_, e)| usable(e)) {
        let Some(fault) = missing(e) else {
            return Choice {
                current: n,
                patience: None,
            };
        };
        let is_in_use = in_use.is_some_and(|config| is_same(config, &e.config));
        let waited = now.duration_since(fault.since);
        if is_in_use && !waited.is_negative() {
            let left = SignedDuration::try_from(PATIENCE).unwrap_or_default() - waited;
            if let Ok(left) = Duration::try_from(left)
                && !left.is_zero()
            {
                return Choice {
                    current: n,
                    patience: Some(left),
                };
            }
        }
    }
    Choice {
        current: list.iter().position(usable).unwrap_or(list.len() - 1),
        patience: None,
    }
}

fn missing(e: &DpcEntry) -> Option<&Fault> {
    e.fault.as_ref().filter(|f| f.code == Code::PortMissing)
}

/// A set without a management port on this device waits for one.
fn note_missing(e: &mut DpcEntry, links: &BTreeMap<String, Link>, now: Timestamp) {
    let there = |port: &&PortConfig| links.contains_key(port.if_name.as_str());
    let management = e.config.ports.iter().filter(|port| port.is_mgmt);
    if management.clone().any(|port| there(&port)) {
        if missing(e).is_some() {
            e.fault = None;
            e.state = DpcState::None;
        }
        return;
    }
    let names: Vec<&str> = management.map(|port| port.if_name.as_str()).collect();
    let text = match names.as_slice() {
        [] => "there is no Ethernet port".to_owned(),
        names => format!("no such interface: {}", names.join(", ")),
    };
    let fault = Fault::new(Code::PortMissing, object(&e.config), text, now);
    e.fault = Some(fault.continuing(e.fault.as_ref()));
    e.state = DpcState::IntfWait;
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
