//! DHCP for IPv4, the client's side. Pure: bytes, frames, and the machine of an exchange.
//!
//! A lease's life is not in here: `plan` sees its age and asks for what is due ([`Ask`]), and an
//! exchange ends in seconds, with or without an answer. So nothing has to survive a restart but
//! the lease itself.
//!
//! Where to look: [`exchange`] for who says what when, [`message`] for the bytes, [`frame`] for
//! what is around them.

pub mod exchange;
pub mod frame;
pub mod message;

use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;

/// What is asked of the servers of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Any address.
    Discover,
    /// The address of a lease that is still valid, after a restart or on a link that was down: it
    /// may be another network. Any address if nobody answers.
    Confirm {
        /// The address.
        address: Ipv4Addr,
    },
    /// More time, of the server that gave it.
    Renew {
        /// The address.
        address: Ipv4Addr,
        /// The server.
        server: Ipv4Addr,
    },
    /// More time, of any server.
    Rebind {
        /// The address.
        address: Ipv4Addr,
    },
}

/// A question to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    /// What it asks.
    pub kind: QueryKind,
    /// Whether the answer shall go to everybody on the link.
    pub broadcast_answer: bool,
}

/// What a question asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryKind {
    /// Who has an address?
    Discover,
    /// May I have the one that you offered?
    Select {
        /// The address.
        address: Ipv4Addr,
        /// Who offered it.
        server: Ipv4Addr,
    },
    /// May I have the one that I know?
    Confirm {
        /// The address.
        address: Ipv4Addr,
    },
    /// May I keep mine?
    Extend {
        /// The address.
        address: Ipv4Addr,
        /// Who gave it; nobody in particular if it does not answer any more.
        server: Option<Ipv4Addr>,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// This one is free.
    Offer(Grant),
    /// It is yours.
    Ack(Grant),
    /// It is not for you.
    Nak,
}

/// What a server gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// Address with prefix length.
    pub address: Ipv4Net,
    /// Default gateways.
    pub gateways: Vec<IpAddr>,
    /// DNS servers.
    pub dns_servers: Vec<IpAddr>,
    /// NTP servers.
    pub ntp_servers: Vec<String>,
    /// Domain to search.
    pub domain_name: String,
    /// MTU in bytes.
    pub mtu: Option<u16>,
    /// The server.
    pub server: Ipv4Addr,
    /// How long it is valid, in seconds.
    pub lease_seconds: u32,
    /// After so many seconds its server is asked for more time.
    pub renew_seconds: u32,
    /// After so many seconds any server is asked for more time.
    pub rebind_seconds: u32,
}
