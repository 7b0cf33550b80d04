//! What is to be there.

use agent::Turn;
use graph::{Item as _, Items, items as by_id};
use model::{code::Code, fault::Fault};
use sha2::{Digest, Sha256};

use super::{
    Model, Zedrouter, dns, filter,
    instance::{self, DEFAULT_MTU, Instance, Lan},
    item::{Item, Layer, Own, Setting},
    routing,
    vif::Vif,
};

/// What is to be there, and why something of it can't be said.
pub(super) struct Intended {
    pub(super) items: Items<Item>,
    /// The packet filter could not be described; then the one that is there stays.
    pub(super) fault: Option<Fault>,
}

pub(super) fn items(turn: &Turn<'_, Zedrouter>, model: &Model) -> Intended {
    let mut all = Vec::new();
    let made = || model.instances.iter().filter(|i| i.is_made());
    for instance in made() {
        bridge(instance, &mut all);
        let vifs: Vec<&Vif> = model.vifs_of(instance.id).collect();
        if let Some(lan) = &instance.lan {
            resolver(turn, instance, lan, &vifs, &mut all);
        }
        for vif in vifs {
            interface(vif, instance, &mut all);
        }
    }
    // A faulty config that came before any good one is nothing to keep.
    let accepted = made().filter_map(|i| {
        let content = serde_json::to_string(&i.config).ok()?;
        let name = instance::accepted_name(i.id);
        Some(Item::File { name, content })
    });
    all.extend(accepted);
    all.extend(routing::rules(model).into_iter().map(Item::Rule));
    let mut fault = None;
    if made().next().is_some() {
        all.extend(Setting::GENERAL.map(Item::Setting));
        match filter::tables(model) {
            Ok((frames, packets)) => {
                all.push(table(Layer::Frames, Some(frames)));
                all.push(table(Layer::Packets, Some(packets)));
            }
            Err(error) => {
                all.push(table(Layer::Frames, None));
                all.push(table(Layer::Packets, None));
                let object = "packet filter";
                fault = Some(Fault::new(
                    Code::NetworkRules,
                    object,
                    error.to_string(),
                    turn.now,
                ));
            }
        }
    }
    Intended {
        items: by_id(all),
        fault,
    }
}

fn table(layer: Layer, table: Option<nft::Table>) -> Item {
    let table = table.map(Box::new);
    Item::Filter { layer, table }
}

fn bridge(instance: &Instance, all: &mut Vec<Item>) {
    let name = || instance.bridge.clone();
    let link = || Own::Bridge(name());
    all.push(Item::Bridge {
        name: name(),
        mac: bridge_mac(instance),
        filtered: !instance.is_local(),
    });
    if instance.mtu() != DEFAULT_MTU {
        all.push(Item::Mtu {
            link: link(),
            mtu: instance.mtu().into(),
        });
    }
    if let Some(net) = instance.lan.and_then(|lan| lan.address()) {
        all.push(Item::Address {
            bridge: name(),
            net,
        });
        all.extend(Setting::of_bridge(&instance.bridge).map(Item::Setting));
    } else {
        all.push(Item::Setting(Setting::NoIp6(name())));
    }
    if let Some(port) = instance.member() {
        all.push(Item::Member {
            link: port.name().to_owned(),
            bridge: name(),
        });
    }
    all.push(Item::Up {
        link: link(),
        isolated: false,
    });
}

/// The same for ever: guests remember their gateway's.
fn bridge_mac(instance: &Instance) -> [u8; 6] {
    let digest = Sha256::digest(instance.id.0.as_bytes());
    [0x02, 0x16, 0x3e, digest[0], digest[1], digest[2]]
}

fn interface(vif: &Vif, instance: &Instance, all: &mut Vec<Item>) {
    let name = || vif.name.clone();
    let link = || Own::Vif(name());
    let isolated = instance.is_local();
    all.push(Item::Vif { name: name() });
    if instance.mtu() != DEFAULT_MTU {
        all.push(Item::Mtu {
            link: link(),
            mtu: instance.mtu().into(),
        });
    }
    all.push(Item::Port {
        vif: name(),
        bridge: instance.bridge.clone(),
    });
    if isolated {
        all.push(Item::Isolated { vif: name() });
    }
    all.push(Item::Up {
        link: link(),
        isolated,
    });
    if let Some(ip) = vif.ip {
        let rules = serde_json::to_string(&vif.wanted.acls).unwrap_or_default();
        let port = instance.uplink.chosen.as_ref().map(super::Port::name);
        let refused = format!("{:?}", vif.refused);
        let digest = dns::digest(&[&rules, port.unwrap_or_default(), &refused]);
        all.push(Item::Flows {
            vif: name(),
            state: format!("{ip} {digest}"),
        });
    }
}

fn resolver(
    turn: &Turn<'_, Zedrouter>,
    instance: &Instance,
    lan: &Lan,
    vifs: &[&Vif],
    all: &mut Vec<Item>,
) {
    let files = dns::files(instance, lan, vifs, &turn.actual.directory);
    let to_item = |(name, content)| Item::File { name, content };
    all.extend(files.all.into_iter().map(to_item));
    let bridge = || instance.bridge.clone();
    all.push(Item::Loaded {
        bridge: bridge(),
        tables: files.tables,
    });
    // It listens on this very bridge, so it is started when the bridge is there.
    let link = turn.actual.links.get(&instance.bridge);
    if let Some(link) = link.filter(|_| instance::is_ours(turn, &instance.bridge))
        && turn.actual.resolvers.is_some()
    {
        all.push(Item::Resolver {
            bridge: bridge(),
            config: files.config,
            index: link.index,
        });
    }
}

impl Intended {
    /// Whether this very item is intended.
    pub(super) fn has(&self, item: &Item) -> bool {
        self.items.get(&item.id()) == Some(item)
    }
}
