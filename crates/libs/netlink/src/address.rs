//! IP addresses of interfaces.

use crate::connection::Mode;
use crate::{Netlink, NetlinkError, Owner};
use ipnet::IpNet;
use rtnetlink::AddressMessageBuilder;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How usable an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressState {
    /// It can be used.
    Usable,
    /// It is being checked whether somebody else on the link has it. IPv6 only.
    Tentative,
    /// Somebody else on the link has it. IPv6 only.
    Duplicate,
    /// It still works but new connections should use another. IPv6 only.
    Deprecated,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// The interface.
    pub link: String,
    /// The address, with the length of the prefix of its network.
    pub net: IpNet,
    /// Whether the kernel has a route to the network in the main table because of it.
    pub prefix_route: bool,
    /// Who made it.
    pub owner: Owner,
}

impl Netlink {
    /// All addresses, with what can be said about their use.
    pub async fn addresses(&self) -> Result<Vec<(Address, AddressState)>, NetlinkError> {
        let what = "list addresses";
        // Names after addresses: an address of a new interface is then not missed.
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let messages = self.dump(what, request).await?;
        let names = self.names(what).await?;
        let addresses = messages.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewAddress(address) => parse(address, &names),
            _ => None,
        });
        Ok(addresses.collect())
    }

    /// Gives an interface an address.
    pub async fn add_address(&self, address: &Address) -> Result<(), NetlinkError> {
        let what = format!("add address {} to interface {}", address.net, address.link);
        let index = self.index(&what, &address.link).await?;
        let message = message(index, address);
        self.ask(
            &what,
            RouteNetlinkMessage::NewAddress(message),
            Mode::Create,
        )
        .await
        .map(|_| ())
    }

    /// Takes an address from an interface; fine if it hasn't got it, or isn't there.
    pub async fn delete_address(&self, address: &Address) -> Result<(), NetlinkError> {
        let what = format!(
            "delete address {} of interface {}",
            address.net, address.link
        );
        let index = match self.index(&what, &address.link).await {
            Err(error) if error.is_gone() => return Ok(()),
            index => index?,
        };
        let message = message(index, address);
        self.ask_gone(&what, RouteNetlinkMessage::DelAddress(message))
            .await
    }
}

fn message(index: u32, address: &Address) -> AddressMessage {
    let len = address.net.prefix_len();
    let mut message = match address.net.addr() {
        IpAddr::V4(ip) => AddressMessageBuilder::<Ipv4Addr>::new()
            .index(index)
            .address(ip, len)
            .build(),
        IpAddr::V6(ip) => AddressMessageBuilder::<Ipv6Addr>::new()
            .index(index)
            .address(ip, len)
            .build(),
    };
    let owner = AddressProtocol::from(address.owner.0);
    message.attributes.push(AddressAttribute::Protocol(owner));
    if !address.prefix_route {
        let flags = AddressFlags::Noprefixroute;
        message.attributes.push(AddressAttribute::Flags(flags));
    }
    message
}

fn parse(
    message: &AddressMessage,
    names: &BTreeMap<u32, String>,
) -> Option<(Address, AddressState)> {
    let link = names.get(&message.header.index)?.clone();
    let (mut local, mut remote) = (None, None);
    let mut owner = Owner::UNKNOWN;
    let mut flags = AddressFlags::empty();
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => remote = Some(*ip),
            AddressAttribute::Protocol(protocol) => owner = Owner(u8::from(*protocol)),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    // IPv6 has only the latter, unless there is a peer.
    let net = IpNet::new(local.or(remote)?, message.header.prefix_len).ok()?;
    let prefix_route = !flags.contains(AddressFlags::Noprefixroute);
    let state = if flags.contains(AddressFlags::Dadfailed) {
        AddressState::Duplicate
    } else if flags.contains(AddressFlags::Tentative) {
        AddressState::Tentative
    } else if flags.contains(AddressFlags::Deprecated) {
        AddressState::Deprecated
    } else {
        AddressState::Usable
    };
    let address = Address {
        link,
        net,
        prefix_route,
        owner,
    };
    Some((address, state))
}
