//! Which ports and source addresses to try, in which order. Pure.
//!
//! Rules (EVE's, in this order):
//! 1. only management ports, only those not above the caller's cost limit;
//! 2. only ports that have an address which is not link-local;
//! 3. ports whose last test failed are left out, unless all have failed;
//! 4. ascending cost; ports of equal cost take turns, by the caller's iteration counter;
//! 5. every source address of a port, in the port's order.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use thiserror::Error;

use crate::port::{Port, is_link_local};
use crate::proxy::ProxyRules;

/// What the caller allows, and whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Counts the caller's walks over the ports: ports of equal cost take turns by it.
    pub iteration: u32,
    /// Ports above this cost are left out. 255 allows all;
    /// downloads pass the property `network.download.max.cost`.
    pub max_cost: u8,
}

impl Choice {
    /// All costs allowed.
    pub const fn any_cost(iteration: u32) -> Self {
        Self {
            iteration,
            max_cost: u8::MAX,
        }
    }
}

/// A DNS server and the source address to ask it from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsServer {
    /// The server.
    pub server: SocketAddr,
    /// Address of the port, of the server's family.
    pub source: IpAddr,
}

/// One way to the outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The port's name for people.
    pub port: String,
    /// The port's interface in the kernel.
    pub ifname: String,
    /// The port's cost.
    pub cost: u8,
    /// Address that connections leave from; the kernel routes by it.
    pub source: IpAddr,
    /// The port's DNS servers that can be reached from its addresses.
    pub dns: Vec<DnsServer>,
    /// The port's proxies.
    pub proxies: Arc<ProxyRules>,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {} from {}", self.port, self.source)
    }
}

/// There is no way to the outside at all.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoAttempt {
    /// The device has no management port.
    #[error("none of the {ports} device ports is a management port")]
    NoManagementPort {
        /// Ports of any use.
        ports: usize,
    },
    /// Management ports exist but all cost more than the caller allows.
    #[error(
        "every management port costs more than {max_cost} (the cheapest is {port} with {cost})"
    )]
    TooExpensive {
        /// The caller's limit.
        max_cost: u8,
        /// The cheapest port.
        port: String,
        /// Its cost.
        cost: u8,
    },
    /// The ports have no address to send from.
    #[error("no usable address on {}", .ports.join(", "))]
    NoAddress {
        /// The management ports within the limit.
        ports: Vec<String>,
    },
}

impl NoAttempt {
    /// True when it can change without a new configuration: an address may come.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoAddress { .. } => true,
            Self::NoManagementPort { .. } | Self::TooExpensive { .. } => false,
        }
    }
}

/// The ways to the outside, in the order in which they are to be tried; never an empty list.
pub fn attempts(ports: &[Port], choice: &Choice) -> Result<Vec<Attempt>, NoAttempt> {
    let management: Vec<&Port> = ports.iter().filter(|port| port.is_mgmt).collect();
    let Some(cheapest) = management.iter().min_by_key(|port| port.cost) else {
        return Err(NoAttempt::NoManagementPort { ports: ports.len() });
    };
    if cheapest.cost > choice.max_cost {
        return Err(NoAttempt::TooExpensive {
            max_cost: choice.max_cost,
            port: cheapest.name.clone(),
            cost: cheapest.cost,
        });
    }
    let affordable: Vec<&Port> = management
        .into_iter()
        .filter(|port| port.cost <= choice.max_cost)
        .collect();
    let with_address: Vec<&Port> = affordable
        .iter()
        .copied()
        .filter(|port| port.sources().next().is_some())
        .collect();
    if with_address.is_empty() {
        let ports = affordable.iter().map(|port| port.name.clone()).collect();
        return Err(NoAttempt::NoAddress { ports });
    }
    let healthy: Vec<&Port> = with_address
        .iter()
        .copied()
        .filter(|port| !port.failed)
        .collect();
    let chosen = if healthy.is_empty() {
        with_address
    } else {
        healthy
    };
    Ok(in_turns(chosen, choice.iteration)
        .into_iter()
        .flat_map(of_port)
        .collect())
}

/// Ascending cost; within equal cost rotated by the counter.
fn in_turns(mut ports: Vec<&Port>, iteration: u32) -> Vec<&Port> {
    ports.sort_by_key(|port| port.cost);
    let turn = usize::try_from(iteration).unwrap_or(0);
    for group in ports.chunk_by_mut(|a, b| a.cost == b.cost) {
        group.rotate_left(turn % group.len());
    }
    ports
}

fn of_port(port: &Port) -> Vec<Attempt> {
    port.sources()
        .map(|source| Attempt {
            port: port.name.clone(),
            ifname: port.ifname.clone(),
            cost: port.cost,
            source,
            dns: dns_from(port, source),
            proxies: Arc::clone(&port.proxies),
        })
        .collect()
}

/// The servers in the port's order. A server of the other family is asked from the port's
/// first address of that family; one that no address can reach is left out, and so is a
/// link-local one (it would need a zone).
fn dns_from(port: &Port, source: IpAddr) -> Vec<DnsServer> {
    let same_family = |server: &SocketAddr, ip: &IpAddr| server.is_ipv4() == ip.is_ipv4();
    port.dns_servers
        .iter()
        .filter(|server| !is_link_local(server.ip()))
        .filter_map(|server| {
            let source = Some(source)
                .filter(|ip| same_family(server, ip))
                .or_else(|| port.sources().find(|ip| same_family(server, ip)))?;
            Some(DnsServer {
                server: *server,
                source,
            })
        })
        .collect()
}

#[cfg(test)]
#[path = "choice_tests.rs"]
mod tests;
