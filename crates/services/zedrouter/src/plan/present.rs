//! What is there, as items.

use agent::Turn;
use graph::{Items, items as by_id};
use ipnet::IpNet;
use netlink::{Kind, Owner};

use super::{
    Model, Present, Zedrouter,
    instance::{DEFAULT_MTU, is_ours},
    intended::Intended,
    item::{Item, Own, Setting},
    vif,
};

/// End of the names of files that say for what an interface's connections were flushed.
pub(crate) const FLOWS: &str = ".flows";
/// End of the names of files that say which tables a resolver has read.
pub(crate) const LOADED: &str = ".loaded";
/// Ends of the names of files that a resolver writes.
const OF_RESOLVER: [&str; 2] = [".leases", ".pid"];

/// What is there. What is not known is taken into `intended` as it is, so that it stays.
pub(super) fn items(
    turn: &Turn<'_, Zedrouter>,
    model: &Model,
    intended: &mut Intended,
) -> Items<Item> {
    let mut all = Vec::new();
    links(turn, &mut all);
    for address in &turn.actual.addresses {
        if let IpNet::V4(net) = address.net {
            let bridge = address.link.clone();
            all.push(Item::Address { bridge, net });
        }
    }
    all.extend(turn.actual.rules.iter().cloned().map(Item::Rule));
    filters(turn, intended, &mut all);
    settings(turn, &mut all);
    files(turn, intended, &mut all);
    let resolvers = turn.actual.resolvers.iter().flatten();
    all.extend(resolvers.map(|(bridge, resolver)| Item::Resolver {
        bridge: bridge.clone(),
        config: if !resolver.config.is_empty() && holds_strangers(turn, model, bridge) {
            format!("{} with leases of strangers", resolver.config)
        } else {
            resolver.config.clone()
        },
        index: resolver.index,
    }));
    let current = by_id(all);
    if turn.desired.apps.is_none() || turn.desired.ports.is_none() {
        freeze(&current, intended);
    }
    current
}

/// What is there stays, and nothing joins it whose rules can't be said yet. Only where nothing
/// filters there is nothing to spoil: there the little that is known is begun with.
fn freeze(current: &Items<Item>, intended: &mut Intended) {
    let is_filter = |item: &Item| matches!(item, Item::Filter { .. });
    if current.values().any(is_filter) {
        intended.items.retain(|id, item| {
            !item.depends_on_unknown() || is_filter(item) || current.contains_key(id)
        });
    }
    for (id, item) in current {
        if item.depends_on_unknown() || !intended.items.contains_key(id) {
            intended.items.insert(id.clone(), item.clone());
        }
    }
}

fn links(turn: &Turn<'_, Zedrouter>, all: &mut Vec<Item>) {
    for (name, link) in &turn.actual.links {
        let name = || name.clone();
        let master = link.master.as_ref().filter(|m| is_ours(turn, m));
        if link.owner != Owner::ZEDROUTER {
            all.push(Item::Link { name: name() });
            all.extend(master.map(|bridge| Item::Member {
                link: name(),
                bridge: bridge.clone(),
            }));
            continue;
        }
        let own = if link.kind == Kind::Bridge {
            all.push(Item::Bridge {
                name: name(),
                mac: link.mac.unwrap_or_default(),
                filtered: link.filtered,
            });
            Own::Bridge(name())
        } else {
            all.push(Item::Vif { name: name() });
            all.extend(master.map(|bridge| Item::Port {
                vif: name(),
                bridge: bridge.clone(),
            }));
            if link.isolated {
                all.push(Item::Isolated { vif: name() });
            }
            Own::Vif(name())
        };
        if link.mtu != u32::from(DEFAULT_MTU) {
            let (link, mtu) = (own.clone(), link.mtu);
            all.push(Item::Mtu { link, mtu });
        }
        if link.up {
            all.push(Item::Up {
                isolated: link.isolated,
                link: own,
            });
        }
    }
}

/// A table is the intended one, or another one of its name.
fn filters(turn: &Turn<'_, Zedrouter>, intended: &mut Intended, all: &mut Vec<Item>) {
    for (layer, present) in &turn.actual.filters {
        let id = super::item::filter_id(*layer);
        let layer = *layer;
        let wanted = match intended.items.get(&id) {
            Some(Item::Filter { table, .. }) => table.clone(),
            Some(_) | None => None,
        };
        let table = wanted.filter(|table| match present {
            Present::Listed(listing) => listing.holds(table).unwrap_or(false),
            Present::Exactly(exactly) => exactly == table,
        });
        all.push(Item::Filter { layer, table });
    }
}

/// Settings of the whole namespace carry no mark; they are ours while anything of ours is there.
fn settings(turn: &Turn<'_, Zedrouter>, all: &mut Vec<Item>) {
    let actual = turn.actual;
    let is_present = !actual.filters.is_empty()
        || !actual.files.is_empty()
        || actual
            .links
            .values()
            .any(|link| link.owner == Owner::ZEDROUTER);
    let ours = turn.actual.settings.iter().filter(|setting| match setting {
        Setting::Forwarding | Setting::IpBypass | Setting::Ip6Bypass | Setting::ArpBypass => {
            is_present
        }
        Setting::ProxyArp(bridge) | Setting::PromptArp(bridge) | Setting::NoIp6(bridge) => {
            is_ours(turn, bridge)
        }
    });
    all.extend(ours.cloned().map(Item::Setting));
}

/// Whether a resolver holds addresses for interfaces that are gone. It forgets them only when it is
/// started anew, and until then gives them to nobody else.
fn holds_strangers(turn: &Turn<'_, Zedrouter>, model: &Model, bridge: &str) -> bool {
    let mut leases = turn
        .actual
        .leases
        .iter()
        .filter(|lease| lease.bridge == bridge);
    leases.any(|lease| !model.vifs().any(|vif| vif.mac == lease.mac))
}

fn files(turn: &Turn<'_, Zedrouter>, intended: &Intended, all: &mut Vec<Item>) {
    let is_running = |name: &str| {
        let bridge = OF_RESOLVER.iter().find_map(|end| name.strip_suffix(end));
        bridge.is_some_and(|bridge| {
            let conf = format!("file {bridge}.conf");
            intended.items.contains_key(&conf)
        })
    };

    for (name, content) in &turn.actual.files {
        let content = content.clone();
        if let Some(vif) = name
            .strip_suffix(FLOWS)
            .filter(|v| vif::numbers_of(v).is_some())
        {
            let vif = vif.to_owned();
            all.push(Item::Flows {
                vif,
                state: content,
            });
        } else if let Some(bridge) = name.strip_suffix(LOADED) {
            let bridge = bridge.to_owned();
            all.push(Item::Loaded {
                bridge,
                tables: content,
            });
        } else if !is_running(name) {
            let name = name.clone();
            all.push(Item::File { name, content });
        }
    }
}
