//! The objects of the kernel and of the resolver that are made, one item each.

use ipnet::Ipv4Net;
use netlink::Rule;
use nft::Table;

/// An interface of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Own {
    /// A network instance's bridge.
    Bridge(String),
    /// An application's interface.
    Vif(String),
}

impl Own {
    /// The interface's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Bridge(name) | Self::Vif(name) => name,
        }
    }

    fn id(&self) -> String {
        match self {
            Self::Bridge(name) => bridge_id(name),
            Self::Vif(name) => vif_id(name),
        }
    }
}

/// Which frames or packets a filter sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// Frames on our bridges.
    Frames,
    /// IP packets of the whole device.
    Packets,
}

/// A switch of the kernel, turned from its default to the other value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// IPv4 packets are forwarded between interfaces.
    Forwarding,
    /// What bridges carry does not pass the IP packet filter, unless the bridge asks for it.
    IpBypass,
    /// The same for IPv6.
    Ip6Bypass,
    /// The same for ARP.
    ArpBypass,
    /// The bridge answers ARP requests for the addresses of others on the same link, so that its
    /// isolated ports send to each other through the device.
    ProxyArp(String),
    /// It answers them at once.
    PromptArp(String),
    /// The bridge has no IPv6 addresses.
    NoIp6(String),
}

impl Setting {
    /// The settings of the whole namespace.
    pub const GENERAL: [Self; 4] = [
        Self::Forwarding,
        Self::IpBypass,
        Self::Ip6Bypass,
        Self::ArpBypass,
    ];

    /// The settings of a local instance's bridge.
    pub fn of_bridge(bridge: &str) -> [Self; 3] {
        let name = || bridge.to_owned();
        [
            Self::ProxyArp(name()),
            Self::PromptArp(name()),
            Self::NoIp6(name()),
        ]
    }

    /// The value that we set, and the kernel's default.
    pub fn values(&self) -> (&'static str, &'static str) {
        match self {
            Self::Forwarding | Self::ProxyArp(_) | Self::NoIp6(_) => ("1", "0"),
            Self::IpBypass | Self::Ip6Bypass | Self::ArpBypass => ("0", "1"),
            Self::PromptArp(_) => ("0", "80"),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Forwarding => "forwarding".to_owned(),
            Self::IpBypass => "bridge-bypass ip".to_owned(),
            Self::Ip6Bypass => "bridge-bypass ip6".to_owned(),
            Self::ArpBypass => "bridge-bypass arp".to_owned(),
            Self::ProxyArp(bridge) => format!("{bridge} proxy-arp"),
            Self::PromptArp(bridge) => format!("{bridge} prompt-arp"),
            Self::NoIp6(bridge) => format!("{bridge} no-ip6"),
        }
    }
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Somebody else's interface, which can be needed.
    Link {
        /// Its name.
        name: String,
    },
    /// A bridge, down and without ports.
    Bridge {
        /// Its name.
        name: String,
        /// Its MAC address.
        mac: [u8; 6],
        /// What it carries passes the IP packet filter.
        filtered: bool,
    },
    /// A setting, turned on.
    Setting(Setting),
    /// An interface's MTU that is not the default.
    Mtu {
        /// The interface.
        link: Own,
        /// Bytes.
        mtu: u32,
    },
    /// A bridge's address.
    Address {
        /// The bridge.
        bridge: String,
        /// Address and prefix length.
        net: Ipv4Net,
    },
    /// An interface is up.
    Up {
        /// The interface.
        link: Own,
        /// It is an isolated port, and must be so before it is up.
        isolated: bool,
    },
    /// A device port is a port of a bridge.
    Member {
        /// The device port.
        link: String,
        /// The bridge.
        bridge: String,
    },
    /// An application's interface, down and nowhere.
    Vif {
        /// Its name.
        name: String,
    },
    /// An application's interface is a port of a bridge.
    Port {
        /// The interface.
        vif: String,
        /// The bridge.
        bridge: String,
    },
    /// An application's interface exchanges frames with the device only.
    Isolated {
        /// The interface.
        vif: String,
    },
    /// A policy rule.
    Rule(Rule),
    /// A table of the packet filter; `None` for one that is there but not the intended one.
    Filter {
        /// What it sees.
        layer: Layer,
        /// Its content.
        table: Option<Box<Table>>,
    },
    /// A file.
    File {
        /// Its name.
        name: String,
        /// Its content.
        content: String,
    },
    /// The DHCP and DNS server of a local instance.
    Resolver {
        /// Its bridge.
        bridge: String,
        /// Digest of its configuration; empty for one that is ending.
        config: String,
        /// The kernel's number of the bridge that it listens on.
        index: u32,
    },
    /// The resolver was told to read its tables of names and leases again.
    Loaded {
        /// Its bridge.
        bridge: String,
        /// Digest of the tables.
        tables: String,
    },
    /// No connection of this interface is left that older rules let through.
    Flows {
        /// The interface.
        vif: String,
        /// What it was flushed for: address and digest of the rules.
        state: String,
    },
}

fn bridge_id(name: &str) -> String {
    format!("bridge {name}")
}

fn vif_id(name: &str) -> String {
    format!("vif {name}")
}

fn address_id(bridge: &str) -> String {
    format!("address {bridge}")
}

pub(super) fn filter_id(layer: Layer) -> String {
    match layer {
        Layer::Frames => "filter frames".to_owned(),
        Layer::Packets => "filter packets".to_owned(),
    }
}

pub(super) fn resolver_id(bridge: &str) -> String {
    format!("resolver {bridge}")
}

/// What lets no packet through before it is there.
fn filters() -> [String; 2] {
    [filter_id(Layer::Frames), filter_id(Layer::Packets)]
}

impl graph::Item for Item {
    type Id = String;

    fn id(&self) -> String {
        match self {
            Self::Link { name } => format!("port {name}"),
            Self::Bridge { name, .. } => bridge_id(name),
            Self::Setting(setting) => format!("setting {}", setting.text()),
            Self::Mtu { link, .. } => format!("mtu {}", link.name()),
            Self::Address { bridge, .. } => address_id(bridge),
            Self::Up { link, .. } => format!("up {}", link.name()),
            Self::Member { link, .. } => format!("member {link}"),
            Self::Vif { name } => vif_id(name),
            Self::Port { vif, .. } => format!("bridge-port {vif}"),
            Self::Isolated { vif } => format!("isolated {vif}"),
            Self::Rule(rule) => {
                let side = match (rule.from, rule.to, rule.mark) {
                    (Some(from), _, _) => format!("from {from}"),
                    (None, Some(to), _) => format!("to {to}"),
                    (None, None, Some((mark, _))) => format!("mark {mark:#x}"),
                    (None, None, None) => "all".to_owned(),
                };
                format!("rule {} {side} {:?}", rule.priority, rule.action)
            }
            Self::Filter { layer, .. } => filter_id(*layer),
            Self::File { name, .. } => format!("file {name}"),
            Self::Resolver { bridge, .. } => resolver_id(bridge),
            Self::Loaded { bridge, .. } => format!("loaded {bridge}"),
            Self::Flows { vif, .. } => format!("flows {vif}"),
        }
    }

    fn needs(&self) -> Vec<String> {
        match self {
            Self::Link { .. }
            | Self::Bridge { .. }
            | Self::Vif { .. }
            | Self::Filter { .. }
            | Self::Rule(_)
            | Self::Loaded { .. }
            | Self::File { .. } => Vec::new(),
            Self::Setting(setting) => match setting {
                Setting::Forwarding
                | Setting::IpBypass
                | Setting::Ip6Bypass
                | Setting::ArpBypass => filters().to_vec(),
                Setting::ProxyArp(bridge) | Setting::PromptArp(bridge) | Setting::NoIp6(bridge) => {
                    vec![bridge_id(bridge)]
                }
            },
            Self::Mtu { link, .. } => vec![link.id()],
            Self::Address { bridge, .. } => vec![bridge_id(bridge)],
            Self::Up { link, isolated } => {
                let mut needs = vec![link.id()];
                needs.extend(filters());
                match link {
                    Own::Bridge(_) => {}
                    Own::Vif(vif) if *isolated => {
                        needs.push(Self::Isolated { vif: vif.clone() }.id());
                    }
                    Own::Vif(vif) => needs.push(format!("bridge-port {vif}")),
                }
                needs
            }
            Self::Member { link, bridge } => {
                let link = Self::Link { name: link.clone() };
                [vec![link.id(), bridge_id(bridge)], filters().to_vec()].concat()
            }
            Self::Port { vif, bridge } => {
                [vec![vif_id(vif), bridge_id(bridge)], filters().to_vec()].concat()
            }
            Self::Isolated { vif } => vec![format!("bridge-port {vif}")],
            Self::Resolver { bridge, .. } => vec![
                address_id(bridge),
                format!("up {bridge}"),
                format!("file {bridge}.conf"),
                filter_id(Layer::Packets),
            ],
            Self::Flows { .. } => filters().to_vec(),
        }
    }

    fn can_change_to(&self, _: &Self) -> bool {
        match self {
            Self::Mtu { .. }
            | Self::Filter { .. }
            | Self::File { .. }
            | Self::Loaded { .. }
            | Self::Flows { .. } => true,
            Self::Link { .. }
            | Self::Bridge { .. }
            | Self::Setting(_)
            | Self::Address { .. }
            | Self::Up { .. }
            | Self::Member { .. }
            | Self::Vif { .. }
            | Self::Port { .. }
            | Self::Isolated { .. }
            | Self::Rule(_)
            | Self::Resolver { .. } => false,
        }
    }

    fn is_external(&self) -> bool {
        matches!(self, Self::Link { .. })
    }
}

impl Item {
    /// The bridge or the application's interface that it is about, if it is about one.
    pub(super) fn about(&self) -> Option<&str> {
        match self {
            Self::Bridge { name, .. } | Self::Vif { name } => Some(name),
            Self::Setting(setting) => match setting {
                Setting::ProxyArp(bridge) | Setting::PromptArp(bridge) | Setting::NoIp6(bridge) => {
                    Some(bridge)
                }
                Setting::Forwarding
                | Setting::IpBypass
                | Setting::Ip6Bypass
                | Setting::ArpBypass => None,
            },
            Self::Mtu { link, .. } | Self::Up { link, .. } => Some(link.name()),
            Self::Address { bridge, .. }
            | Self::Member { bridge, .. }
            | Self::Resolver { bridge, .. }
            | Self::Loaded { bridge, .. } => Some(bridge),
            Self::Port { vif, .. } | Self::Isolated { vif } | Self::Flows { vif, .. } => Some(vif),
            Self::File { name, .. } => name.split('.').next(),
            Self::Link { .. } | Self::Rule(_) | Self::Filter { .. } => None,
        }
    }

    /// Whether it is a state of an interface.
    pub(super) fn is_of_link(&self) -> bool {
        match self {
            Self::Bridge { .. }
            | Self::Setting(_)
            | Self::Mtu { .. }
            | Self::Address { .. }
            | Self::Up { .. }
            | Self::Member { .. }
            | Self::Vif { .. }
            | Self::Port { .. }
            | Self::Isolated { .. } => true,
            Self::Link { .. }
            | Self::Rule(_)
            | Self::Filter { .. }
            | Self::File { .. }
            | Self::Resolver { .. }
            | Self::Loaded { .. }
            | Self::Flows { .. } => false,
        }
    }

    /// Whether it depends on what applications want or on how the device is connected. What is
    /// there of these stays as it is while that is not known.
    pub(super) fn depends_on_unknown(&self) -> bool {
        match self {
            Self::Filter { .. }
            | Self::File { .. }
            | Self::Resolver { .. }
            | Self::Loaded { .. }
            | Self::Flows { .. }
            | Self::Rule(_)
            | Self::Vif { .. }
            | Self::Port { .. }
            | Self::Isolated { .. }
            | Self::Member { .. } => true,
            Self::Up { link, .. } | Self::Mtu { link, .. } => matches!(link, Own::Vif(_)),
            Self::Link { .. } | Self::Bridge { .. } | Self::Setting(_) | Self::Address { .. } => {
                false
            }
        }
    }
}
