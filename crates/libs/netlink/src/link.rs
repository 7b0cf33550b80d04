//! Interfaces.

use crate::connection::Mode;
use crate::{Netlink, NetlinkError, Owner};
use rtnetlink::packet_core::Nla;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoTun, LinkAttribute,
    LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use rtnetlink::{LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth};
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What an interface is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The namespace's own loopback.
    Loopback,
    /// A device, physical or passed through; the kernel doesn't say more.
    Device,
    /// A bridge.
    Bridge,
    /// One end of a pair.
    Veth,
    /// A tap (frames) made by or for a user process.
    Tap {
        /// The uid that may open it, if one was named.
        owner: Option<u32>,
        /// The group that may open it, if one was named.
        group: Option<u32>,
        /// Whether it stays while nobody has it open.
        persistent: bool,
    },
    /// Another kind, by the kernel's name.
    Other(String),
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts that the kernel keeps as flags"
)]
pub struct Link {
    /// The kernel's number. Not used again while the namespace lives, so it tells a new interface
    /// from an old one of the same name.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Who made it, as far as that is known: the number of its group if that is below 256.
    pub owner: Owner,
    /// Its MAC address, if it is an Ethernet interface.
    pub mac: Option<[u8; 6]>,
    /// The MAC address that the hardware came with, where it has one.
    pub permanent_mac: Option<[u8; 6]>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Whether it is meant to be up.
    pub up: bool,
    /// Whether there is a carrier: a cable with something alive at its other end.
    pub lower_up: bool,
    /// The bridge that it is a port of.
    pub master: Option<String>,
    /// Of a bridge's port: it exchanges no frames with other isolated ports.
    pub isolated: bool,
    /// Of a bridge: what it carries passes the IP packet filter, too.
    pub filtered: bool,
    /// A text for people.
    pub alias: Option<String>,
}

/// What an interface has moved since it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets received broken.
    pub rx_errors: u64,
    /// Packets received and dropped.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets dropped instead of sent.
    pub tx_dropped: u64,
}

/// A bridge to be made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Bridge {
    /// Its name.
    pub name: String,
    /// Its MAC address. Without one it takes the lowest of its ports', which changes with them.
    pub mac: Option<[u8; 6]>,
    /// Whether the IPv4 packets that it carries from port to port pass the IP packet filter
    /// (br_netfilter), whatever the namespace's setting says.
    pub filtered: bool,
    /// Who makes it.
    pub owner: Owner,
}

/// A name that an interface can have.
pub(crate) fn checked(name: &str) -> Result<&str, NetlinkError> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '/' || c == '%' || c == ':';
    let fits = (1..=15).contains(&name.len()) && name != "." && name != "..";
    if fits && !name.contains(bad) {
        return Ok(name);
    }
    Err(NetlinkError::BadName {
        name: name.to_owned(),
    })
}

impl Netlink {
    /// All interfaces, by name.
    pub async fn links(&self) -> Result<BTreeMap<String, Link>, NetlinkError> {
        let links = self.read_links("list interfaces").await?;
        Ok(links
            .into_iter()
            .map(|link| (link.name.clone(), link))
            .collect())
    }

    /// What each interface has moved, by name.
    pub async fn stats(&self) -> Result<BTreeMap<String, Stats>, NetlinkError> {
        let messages = self.link_messages("read interface counters").await?;
        Ok(messages
            .iter()
            .filter_map(|message| Some((link_name(message)?, stats(message)?)))
            .collect())
    }

    /// Makes a bridge, down and without ports.
    pub async fn create_bridge(&self, bridge: &Bridge) -> Result<(), NetlinkError> {
        let name = checked(&bridge.name)?;
        let mut builder =
            LinkMessageBuilder::<LinkBridge>::new(name).link_group(bridge.owner.0.into());
        if let Some(mac) = bridge.mac {
            builder = builder.address(mac.to_vec());
        }
        if bridge.filtered {
            builder = builder.nf_call_iptables(true);
        }
        let what = format!("create bridge {name}");
        self.new_link(&what, builder.build(), Mode::Create).await
    }

    /// Makes two interfaces, down; what goes into one comes out of the other.
    pub async fn create_veth(
        &self,
        name: &str,
        peer: &str,
        owner: Owner,
    ) -> Result<(), NetlinkError> {
        let (name, peer) = (checked(name)?, checked(peer)?);
        let far = LinkUnspec::new_with_name(peer)
            .link_group(owner.0.into())
            .build();
        let near = LinkVeth::new(name, peer)
            .set_info_data(InfoData::Veth(
                rtnetlink::packet_route::link::InfoVeth::Peer(far),
            ))
            .link_group(owner.0.into())
            .build();
        let what = format!("create veth pair {name} and {peer}");
        self.new_link(&what, near, Mode::Create).await
    }

    /// Deletes an interface; fine if there is none.
    pub async fn delete_link(&self, name: &str) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_name(checked(name)?).build();
        let what = format!("delete interface {name}");
        self.ask_gone(&what, RouteNetlinkMessage::DelLink(message))
            .await
    }

    /// Turns an interface on or off.
    pub async fn set_up(&self, name: &str, up: bool) -> Result<(), NetlinkError> {
        let what = format!("set interface {name} {}", if up { "up" } else { "down" });
        self.change(name, &what, |link| if up { link.up() } else { link.down() })
            .await
    }

    /// Makes an interface a port of a bridge, or of none.
    pub async fn set_master(&self, name: &str, master: Option<&str>) -> Result<(), NetlinkError> {
        let what = match master {
            Some(master) => format!("make interface {name} a port of {master}"),
            None => format!("take interface {name} from its bridge"),
        };
        let index = match master {
            Some(master) => self.index(&what, master).await?,
            None => 0,
        };
        self.change(name, &what, |link| link.controller(index))
            .await
    }

    /// Sets whether a port may only exchange frames with ports that aren't isolated, and with the
    /// bridge's own address. Ports of one bridge start as not isolated.
    pub async fn set_isolated(&self, name: &str, isolated: bool) -> Result<(), NetlinkError> {
        let what = format!("set isolation of bridge port {name}");
        let index = self.index(&what, name).await?;
        let message = LinkBridgePort::new(index).isolated(isolated).build();
        self.new_link(&what, message, Mode::Change).await
    }

    /// Sets the MAC address. Some drivers want the interface down for that.
    pub async fn set_mac(&self, name: &str, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let what = format!("set the MAC address of interface {name}");
        self.change(name, &what, |link| link.address(mac.to_vec()))
            .await
    }

    /// Sets the largest packet, in bytes.
    pub async fn set_mtu(&self, name: &str, mtu: u32) -> Result<(), NetlinkError> {
        let what = format!("set the MTU of interface {name} to {mtu}");
        self.change(name, &what, |link| link.mtu(mtu)).await
    }

    /// Sets a text for people of up to 255 bytes; an empty one takes it away.
    pub async fn set_alias(&self, name: &str, alias: &str) -> Result<(), NetlinkError> {
        let what = format!("set the alias of interface {name}");
        self.change(name, &what, |link| link.alias(alias)).await
    }

    /// Gives an interface another name. Some kernels want it down for that.
    pub async fn rename(&self, name: &str, to: &str) -> Result<(), NetlinkError> {
        let to = checked(to)?;
        let what = format!("rename interface {name} to {to}");
        let index = self.index(&what, name).await?;
        let message = LinkUnspec::new_with_index(index).name(to).build();
        self.new_link(&what, message, Mode::Change).await
    }

    /// Moves an interface into another network namespace, given by any open file of it.
    pub async fn move_to(&self, name: &str, netns: BorrowedFd<'_>) -> Result<(), NetlinkError> {
        let what = format!("move interface {name} to another namespace");
        self.change(name, &what, |link| link.setns_by_fd(netns.as_raw_fd()))
            .await
    }

    pub(crate) async fn set_owner(&self, name: &str, owner: Owner) -> Result<(), NetlinkError> {
        let what = format!("mark interface {name} as owned by {owner}");
        self.change(name, &what, |link| link.link_group(owner.0.into()))
            .await
    }

    /// The index of an interface.
    pub(crate) async fn index(&self, what: &str, name: &str) -> Result<u32, NetlinkError> {
        let message = LinkUnspec::new_with_name(checked(name)?).build();
        let request = RouteNetlinkMessage::GetLink(message);
        let answer = self.ask(what, request, Mode::Change).await;
        let answer = answer.map_err(|error| no_link(error, what, name))?;
        let found = answer.into_iter().find_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(link.header.index),
            _ => None,
        });
        found.ok_or_else(|| NetlinkError::NoLink {
            what: what.to_owned(),
            link: name.to_owned(),
        })
    }

    pub(crate) async fn read_links(&self, what: &str) -> Result<Vec<Link>, NetlinkError> {
        let messages = self.link_messages(what).await?;
        let names: BTreeMap<u32, String> = messages
            .iter()
            .filter_map(|message| Some((message.header.index, link_name(message)?)))
            .collect();
        let link = |message: &LinkMessage| parse(message, &names);
        Ok(messages.iter().filter_map(link).collect())
    }

    async fn link_messages(&self, what: &str) -> Result<Vec<LinkMessage>, NetlinkError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let messages = self.dump(what, request).await?.into_iter();
        Ok(messages
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(link),
                _ => None,
            })
            .collect())
    }

    async fn change(
        &self,
        name: &str,
        what: &str,
        with: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<(), NetlinkError> {
        let message = with(LinkUnspec::new_with_name(checked(name)?)).build();
        let changed = self.new_link(what, message, Mode::Change).await;
        changed.map_err(|error| no_link(error, what, name))
    }

    async fn new_link(
        &self,
        what: &str,
        message: LinkMessage,
        mode: Mode,
    ) -> Result<(), NetlinkError> {
        let request = RouteNetlinkMessage::NewLink(message);
        self.ask(what, request, mode).await.map(|_| ())
    }
}

/// Names the interface if that is what the kernel didn't find.
fn no_link(error: NetlinkError, what: &str, name: &str) -> NetlinkError {
    if error.errno() == Some(libc::ENODEV) {
        return NetlinkError::NoLink {
            what: what.to_owned(),
            link: name.to_owned(),
        };
    }
    error
}

fn link_name(message: &LinkMessage) -> Option<String> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        })
}

fn stats(message: &LinkMessage) -> Option<Stats> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Stats64(stats) => Some(Stats {
                rx_bytes: stats.rx_bytes,
                rx_packets: stats.rx_packets,
                rx_errors: stats.rx_errors,
                rx_dropped: stats.rx_dropped,
                tx_bytes: stats.tx_bytes,
                tx_packets: stats.tx_packets,
                tx_errors: stats.tx_errors,
                tx_dropped: stats.tx_dropped,
            }),
            _ => None,
        })
}

fn parse(message: &LinkMessage, names: &BTreeMap<u32, String>) -> Option<Link> {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: link_name(message)?,
        kind: match message.header.link_layer_type {
            LinkLayerType::Loopback => Kind::Loopback,
            _ => Kind::Device,
        },
        owner: Owner::UNKNOWN,
        mac: None,
        permanent_mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        lower_up: flags.contains(LinkFlags::LowerUp),
        master: None,
        isolated: false,
        filtered: false,
        alias: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::PermAddress(mac) => {
                link.permanent_mac = mac.as_slice().try_into().ok();
            }
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(index) => link.master = names.get(index).cloned(),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::Group(group) => {
                link.owner = u8::try_from(*group).map_or(Owner::UNKNOWN, Owner);
            }
            LinkAttribute::LinkInfo(infos) => {
                if let Some(kind) = kind(infos) {
                    link.kind = kind;
                }
                (link.isolated, link.filtered) = bridging(infos);
            }
            _ => {}
        }
    }
    if link.kind == Kind::Loopback {
        link.mac = None;
    }
    Some(link)
}

fn kind(infos: &[LinkInfo]) -> Option<Kind> {
    let kind = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })?;
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Tun(data)) => Some(data.as_slice()),
        _ => None,
    });
    Some(match kind {
        InfoKind::Bridge => Kind::Bridge,
        InfoKind::Veth => Kind::Veth,
        InfoKind::Tun => tun(data.unwrap_or_default()),
        other => Kind::Other(other.to_string()),
    })
}

/// Whether it is an isolated port of a bridge, and whether it is a bridge that filters.
fn bridging(infos: &[LinkInfo]) -> (bool, bool) {
    let (mut isolated, mut filtered) = (false, false);
    for info in infos {
        match info {
            LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
                isolated = port.contains(&InfoBridgePort::Isolated(true));
            }
            LinkInfo::Data(InfoData::Bridge(bridge)) => {
                filtered = bridge.contains(&InfoBridge::NfCallIpTables(true));
            }
            _ => {}
        }
    }
    (isolated, filtered)
}

/// A tun or tap interface by its attributes, whose numbers are the kernel's `IFLA_TUN_*`.
fn tun(data: &[InfoTun]) -> Kind {
    const OWNER: u16 = 1;
    const GROUP: u16 = 2;
    const TYPE: u16 = 3;
    const PERSIST: u16 = 6;
    let value = |kind: u16| {
        let attribute = data.iter().find(|attribute| attribute.kind() == kind)?;
        let mut bytes = vec![0; attribute.value_len()];
        attribute.emit_value(&mut bytes);
        Some(bytes)
    };
    let byte = |kind| value(kind).and_then(|bytes| bytes.first().copied());
    let id = |kind| {
        let bytes = value(kind)?.as_slice().try_into().ok()?;
        Some(u32::from_ne_bytes(bytes))
    };
    if byte(TYPE) == u8::try_from(libc::IFF_TAP).ok() {
        return Kind::Tap {
            owner: id(OWNER),
            group: id(GROUP),
            persistent: byte(PERSIST) == Some(1),
        };
    }
    Kind::Other(InfoKind::Tun.to_string())
}

#[cfg(test)]
mod tests {
    use super::checked;

    #[test]
    fn names_are_checked() {
        for good in ["eth0", "bn1.100", "a", "fifteen-letters"] {
            assert!(checked(good).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a b",
            "a/b",
            "x%d",
            "a:1",
            "sixteen-letters-",
            "a\0",
        ] {
            assert!(checked(bad).is_err(), "{bad:?}");
        }
    }
}
