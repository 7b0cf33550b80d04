//! The fields of a packet that rules can look at.

use crate::{EtherType, Interface, Net4, Net6, Ports, Protocol};
use std::fmt;
use std::marker::PhantomData;

/// The kind of values that a field has; two fields of one kind can share a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Interface,
    Mark,
    Mac,
    EtherType,
    Ip4,
    Ip6,
    Protocol,
    Port,
    IcmpType,
    Icmp6Type,
}

impl Kind {
    /// nft's name of the type.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Interface => "ifname",
            Self::Mark => "mark",
            Self::Mac => "ether_addr",
            Self::EtherType => "ether_type",
            Self::Ip4 => "ipv4_addr",
            Self::Ip6 => "ipv6_addr",
            Self::Protocol => "inet_proto",
            Self::Port => "inet_service",
            Self::IcmpType => "icmp_type",
            Self::Icmp6Type => "icmpv6_type",
        }
    }
}

/// A field of a packet, or of what the kernel knows about it, that is compared with values of
/// type `T`.
#[derive(Debug)]
pub struct Field<T> {
    pub(crate) text: &'static str,
    pub(crate) kind: Kind,
    of: PhantomData<fn(T)>,
}

impl<T> Clone for Field<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Field<T> {}

impl<T> Field<T> {
    const fn new(text: &'static str, kind: Kind) -> Self {
        let of = PhantomData;
        Self { text, kind, of }
    }
}

/// Interface by which the packet came; in the inet hooks, of a bridged frame the bridge.
pub const IIF: Field<Interface> = Field::new("iifname", Kind::Interface);
/// Interface by which the packet leaves.
pub const OIF: Field<Interface> = Field::new("oifname", Kind::Interface);
/// Mark of the packet, which survives from the bridge hooks into the inet hooks.
pub const MARK: Field<u32> = Field::new("meta mark", Kind::Mark);
/// Mark of the connection.
pub const CONN_MARK: Field<u32> = Field::new("ct mark", Kind::Mark);
/// Source MAC address.
pub const ETHER_SOURCE: Field<[u8; 6]> = Field::new("ether saddr", Kind::Mac);
/// Destination MAC address.
pub const ETHER_TARGET: Field<[u8; 6]> = Field::new("ether daddr", Kind::Mac);
/// What the Ethernet frame carries.
pub const ETHER_TYPE: Field<EtherType> = Field::new("ether type", Kind::EtherType);
/// IPv4 address that an ARP packet claims to come from.
pub const ARP_SOURCE: Field<Net4> = Field::new("arp saddr ip", Kind::Ip4);
/// MAC address that an ARP packet claims to come from.
pub const ARP_SOURCE_MAC: Field<[u8; 6]> = Field::new("arp saddr ether", Kind::Mac);
/// IPv4 source address.
pub const IP4_SOURCE: Field<Net4> = Field::new("ip saddr", Kind::Ip4);
/// IPv4 destination address.
pub const IP4_TARGET: Field<Net4> = Field::new("ip daddr", Kind::Ip4);
/// IPv4 destination address that the first packet of the connection had before any translation.
pub const IP4_ORIGINAL_TARGET: Field<Net4> = Field::new("ct original ip daddr", Kind::Ip4);
/// IPv6 source address.
pub const IP6_SOURCE: Field<Net6> = Field::new("ip6 saddr", Kind::Ip6);
/// IPv6 destination address.
pub const IP6_TARGET: Field<Net6> = Field::new("ip6 daddr", Kind::Ip6);
/// Protocol over IP, of either version.
pub const PROTOCOL: Field<Protocol> = Field::new("meta l4proto", Kind::Protocol);
/// TCP source port.
pub const TCP_SOURCE: Field<Ports> = Field::new("tcp sport", Kind::Port);
/// TCP destination port.
pub const TCP_TARGET: Field<Ports> = Field::new("tcp dport", Kind::Port);
/// UDP source port.
pub const UDP_SOURCE: Field<Ports> = Field::new("udp sport", Kind::Port);
/// UDP destination port.
pub const UDP_TARGET: Field<Ports> = Field::new("udp dport", Kind::Port);
/// Source port of whatever protocol has one where TCP has; match [`PROTOCOL`] first.
pub const PORT_SOURCE: Field<Ports> = Field::new("th sport", Kind::Port);
/// Destination port of whatever protocol has one where TCP has; match [`PROTOCOL`] first.
pub const PORT_TARGET: Field<Ports> = Field::new("th dport", Kind::Port);
/// Destination port that the first packet of the connection had before any translation; match
/// [`PROTOCOL`] first.
pub const PORT_ORIGINAL_TARGET: Field<Ports> = Field::new("ct original proto-dst", Kind::Port);
/// Type of an ICMP message: 8 is an echo request.
pub const ICMP_TYPE: Field<u8> = Field::new("icmp type", Kind::IcmpType);
/// Type of an ICMPv6 message: 128 is an echo request, 133 to 137 are neighbour discovery.
pub const ICMP6_TYPE: Field<u8> = Field::new("icmpv6 type", Kind::Icmp6Type);

/// One field, or several side by side, that are looked up together in a set or map.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(Vec<(&'static str, Kind)>);

impl Key {
    /// A key of one field.
    pub fn of<T>(field: Field<T>) -> Self {
        Self(vec![(field.text, field.kind)])
    }

    /// This key and one more field.
    #[must_use]
    pub fn and<T>(mut self, field: Field<T>) -> Self {
        self.0.push((field.text, field.kind));
        self
    }

    pub(crate) fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.0.iter().map(|(_, kind)| *kind)
    }

    /// nft's name of its type: `ipv4_addr . inet_service`.
    pub(crate) fn type_text(&self) -> String {
        self.kinds().map(Kind::text).collect::<Vec<_>>().join(" . ")
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (text, _)) in self.0.iter().enumerate() {
            let dot = if n == 0 { "" } else { " . " };
            write!(f, "{dot}{text}")?;
        }
        Ok(())
    }
}
