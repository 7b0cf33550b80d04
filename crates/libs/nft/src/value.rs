//! What packets can be compared with.

use crate::Interface;
use crate::field::Kind;
use ipnet::{Ipv4Net, Ipv6Net};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// IPv4 addresses: one, or a range that includes both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Net4 {
    first: Ipv4Addr,
    last: Ipv4Addr,
}

impl Net4 {
    /// From `first` to `last`, in whichever order they are given.
    pub fn range(first: Ipv4Addr, last: Ipv4Addr) -> Self {
        let (first, last) = (first.min(last), first.max(last));
        Self { first, last }
    }
}

impl From<Ipv4Addr> for Net4 {
    fn from(address: Ipv4Addr) -> Self {
        Self::range(address, address)
    }
}

impl From<Ipv4Net> for Net4 {
    /// All addresses of the network, whichever of them is written before the slash.
    fn from(net: Ipv4Net) -> Self {
        Self::range(net.network(), net.broadcast())
    }
}

impl fmt::Display for Net4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (u32::from(self.first), u32::from(self.last));
        match prefix_len(first.into(), last.into(), 32) {
            Some(32) => write!(f, "{}", self.first),
            Some(len) => write!(f, "{}/{len}", self.first),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// IPv6 addresses: one, or a range that includes both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Net6 {
    first: Ipv6Addr,
    last: Ipv6Addr,
}

impl Net6 {
    /// From `first` to `last`, in whichever order they are given.
    pub fn range(first: Ipv6Addr, last: Ipv6Addr) -> Self {
        let (first, last) = (first.min(last), first.max(last));
        Self { first, last }
    }
}

impl From<Ipv6Addr> for Net6 {
    fn from(address: Ipv6Addr) -> Self {
        Self::range(address, address)
    }
}

impl From<Ipv6Net> for Net6 {
    /// All addresses of the network, whichever of them is written before the slash.
    fn from(net: Ipv6Net) -> Self {
        Self::range(net.network(), net.broadcast())
    }
}

impl fmt::Display for Net6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match prefix_len(self.first.into(), self.last.into(), 128) {
            Some(128) => write!(f, "{}", self.first),
            Some(len) => write!(f, "{}/{len}", self.first),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// The length of the prefix that has exactly the addresses from `first` to `last`, of `width` bits.
fn prefix_len(first: u128, last: u128, width: u32) -> Option<u32> {
    let host = first ^ last;
    let is_prefix = host & host.wrapping_add(1) == 0 && first & host == 0;
    is_prefix.then(|| width - host.count_ones())
}

/// TCP, UDP or SCTP ports: one, or a range that includes both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// From `first` to `last`, in whichever order they are given.
    pub fn range(first: u16, last: u16) -> Self {
        let (first, last) = (first.min(last), first.max(last));
        Self { first, last }
    }
}

impl From<u16> for Ports {
    fn from(port: u16) -> Self {
        Self::range(port, port)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// A protocol over IP, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// Control messages of IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// Control messages of IPv6.
    pub const ICMP6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ICMP => f.write_str("icmp"),
            Self::TCP => f.write_str("tcp"),
            Self::UDP => f.write_str("udp"),
            Self::ICMP6 => f.write_str("ipv6-icmp"),
            Self(number) => write!(f, "{number}"),
        }
    }
}

/// What an Ethernet frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EtherType {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Address resolution of IPv4.
    Arp,
    /// A VLAN tag.
    Vlan,
}

impl fmt::Display for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Arp => "arp",
            Self::Vlan => "8021q",
        })
    }
}

/// A value of any kind that can be a (part of an) element of a set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// An interface name.
    Interface(Interface),
    /// A mark of a packet or connection.
    Mark(u32),
    /// A MAC address.
    Mac([u8; 6]),
    /// What an Ethernet frame carries.
    EtherType(EtherType),
    /// IPv4 addresses.
    Net4(Net4),
    /// IPv6 addresses.
    Net6(Net6),
    /// A protocol over IP.
    Protocol(Protocol),
    /// Ports.
    Ports(Ports),
    /// A small number, such as an ICMP type.
    Number(u8),
}

impl Value {
    /// Whether a field of this kind can be compared with it.
    pub(crate) fn fits(&self, kind: Kind) -> bool {
        match self {
            Self::Interface(_) => kind == Kind::Interface,
            Self::Mark(_) => kind == Kind::Mark,
            Self::Mac(_) => kind == Kind::Mac,
            Self::EtherType(_) => kind == Kind::EtherType,
            Self::Net4(_) => kind == Kind::Ip4,
            Self::Net6(_) => kind == Kind::Ip6,
            Self::Protocol(_) => kind == Kind::Protocol,
            Self::Ports(_) => kind == Kind::Port,
            Self::Number(_) => matches!(kind, Kind::IcmpType | Kind::Icmp6Type),
        }
    }

    /// First and last of the values it stands for; `None` for what has no ranges.
    pub(crate) fn span(&self) -> Option<(u128, u128)> {
        match self {
            Self::Net4(net) => Some((u32::from(net.first).into(), u32::from(net.last).into())),
            Self::Net6(net) => Some((net.first.into(), net.last.into())),
            Self::Ports(ports) => Some((ports.first.into(), ports.last.into())),
            Self::Interface(_)
            | Self::Mark(_)
            | Self::Mac(_)
            | Self::EtherType(_)
            | Self::Protocol(_)
            | Self::Number(_) => None,
        }
    }

    /// Whether some value is in both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        match (self.span(), other.span()) {
            (Some((first, last)), Some((from, to))) => first <= to && from <= last,
            (None, _) | (_, None) => self == other,
        }
    }

    /// Whether it stands for more than one value.
    pub(crate) fn is_range(&self) -> bool {
        self.span().is_some_and(|(first, last)| first != last)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface(name) => write!(f, "\"{name}\""),
            Self::Mark(mark) => write!(f, "{mark:#x}"),
            Self::Mac(bytes) => {
                let pairs = bytes.map(|byte| format!("{byte:02x}"));
                f.write_str(&pairs.join(":"))
            }
            Self::EtherType(kind) => kind.fmt(f),
            Self::Net4(net) => net.fmt(f),
            Self::Net6(net) => net.fmt(f),
            Self::Protocol(protocol) => protocol.fmt(f),
            Self::Ports(ports) => ports.fmt(f),
            Self::Number(number) => number.fmt(f),
        }
    }
}

/// Makes a `Value` from the Rust types that stand for one.
macro_rules! from {
    ($($variant:ident($source:ty) = $make:expr;)*) => {$(
        impl From<$source> for Value {
            fn from(value: $source) -> Self {
                let make: fn($source) -> _ = $make;
                Self::$variant(make(value))
            }
        }
    )*};
}

from! {
    Interface(Interface) = |name| name;
    Mark(u32) = |mark| mark;
    Mac([u8; 6]) = |mac| mac;
    EtherType(EtherType) = |kind| kind;
    Net4(Net4) = |net| net;
    Net4(Ipv4Addr) = Net4::from;
    Net4(Ipv4Net) = Net4::from;
    Net6(Net6) = |net| net;
    Net6(Ipv6Addr) = Net6::from;
    Net6(Ipv6Net) = Net6::from;
    Protocol(Protocol) = |protocol| protocol;
    Ports(Ports) = |ports| ports;
    Ports(u16) = Ports::from;
    Number(u8) = |number| number;
}

/// One element of a set, or one key of a map: as many values as the [`Key`](crate::Key) has
/// fields. [`element!`](crate::element) makes one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element(pub(crate) Vec<Value>);

impl Element {
    /// An element of these values.
    pub fn of(values: impl IntoIterator<Item = Value>) -> Self {
        Self(values.into_iter().collect())
    }

    /// Whether some packet could match both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let mut pairs = self.0.iter().zip(&other.0);
        pairs.all(|(mine, theirs)| mine.overlaps(theirs))
    }

    /// Whether any of its values is a range.
    pub(crate) fn has_range(&self) -> bool {
        self.0.iter().any(Value::is_range)
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, value) in self.0.iter().enumerate() {
            let dot = if n == 0 { "" } else { " . " };
            write!(f, "{dot}{value}")?;
        }
        Ok(())
    }
}

/// Makes an [`Element`] of anything that is a [`Value`]: `element![interface, address, 80_u16]`.
#[macro_export]
macro_rules! element {
    ($($value:expr),+ $(,)?) => {
        $crate::Element::of([$($crate::Value::from($value)),+])
    };
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::{Net4, Net6, Ports, Value};
    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn ranges_print_as_nft_reads_them() {
        let range = |a: [u8; 4], b: [u8; 4]| Net4::range(a.into(), b.into()).to_string();
        assert_eq!(range([10, 0, 0, 2], [10, 0, 0, 9]), "10.0.0.2-10.0.0.9");
        assert_eq!(range([10, 0, 0, 9], [10, 0, 0, 2]), "10.0.0.2-10.0.0.9");
        assert_eq!(range([10, 0, 0, 0], [10, 0, 0, 255]), "10.0.0.0/24");
        assert_eq!(range([0; 4], [255; 4]), "0.0.0.0/0");
        // Differs in the right number of bits, but does not start at a network.
        assert_eq!(range([10, 0, 0, 1], [10, 0, 0, 2]), "10.0.0.1-10.0.0.2");
        assert_eq!(Ports::range(90, 80).to_string(), "80-90");
        assert_eq!(Value::Mark(255).to_string(), "0xff");
        assert_eq!(
            Value::Mac([2, 0x16, 0x3e, 0, 0, 0xab]).to_string(),
            "02:16:3e:00:00:ab"
        );
    }

    proptest! {
        #[test]
        fn networks_print_as_themselves(bits in any::<u32>(), len in 0..=32_u8) {
            let net = Ipv4Net::new(Ipv4Addr::from(bits), len).unwrap().trunc();
            let text = Net4::from(net).to_string();
            let plain = if len == 32 { net.addr().to_string() } else { net.to_string() };
            prop_assert_eq!(text, plain);
        }

        #[test]
        fn networks_of_ipv6_too(bits in any::<u128>(), len in 0..=128_u8) {
            let net = Ipv6Net::new(Ipv6Addr::from(bits), len).unwrap().trunc();
            let text = Net6::from(net).to_string();
            let plain = if len == 128 { net.addr().to_string() } else { net.to_string() };
            prop_assert_eq!(text, plain);
        }

        #[test]
        fn ranges_are_networks_only_if_they_are(a in 0..1024_u32, b in 0..1024_u32) {
            let (a, b) = (a.min(b), a.max(b));
            let text = Net4::range(Ipv4Addr::from(a), Ipv4Addr::from(b)).to_string();
            if let Some((first, last)) = text.split_once('-') {
                prop_assert_eq!(first.parse::<Ipv4Addr>().unwrap(), Ipv4Addr::from(a));
                prop_assert_eq!(last.parse::<Ipv4Addr>().unwrap(), Ipv4Addr::from(b));
            } else {
                let net: Ipv4Net = text.parse().or_else(|_| format!("{text}/32").parse()).unwrap();
                prop_assert_eq!(u32::from(net.network()), a);
                prop_assert_eq!(u32::from(net.broadcast()), b);
            }
        }
    }
}
