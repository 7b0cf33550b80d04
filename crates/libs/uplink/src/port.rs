//! What a choice has to know of a device port.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::proxy::ProxyRules;

/// State of a device port as far as reaching the outside is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Name for people: the logical label, else the interface's name.
    pub name: String,
    /// Interface in the kernel.
    pub ifname: String,
    /// True if the device's own traffic may use it.
    pub is_mgmt: bool,
    /// 0 is free; higher is tried later, and not at all above a limit of the caller.
    pub cost: u8,
    /// Its last test failed: it is tried only when no other port is left.
    pub failed: bool,
    /// Its addresses, in the order of preference.
    pub addresses: Vec<IpAddr>,
    /// Its DNS servers, in the order of preference.
    pub dns_servers: Vec<SocketAddr>,
    /// Its proxies and what goes past them.
    pub proxies: Arc<ProxyRules>,
    /// PEM certificates of its intercepting proxies, roots of TLS for traffic over this device.
    pub proxy_certs: Vec<Vec<u8>>,
}

impl Port {
    /// A free management port in good health with these addresses, nothing else configured.
    pub fn new(ifname: impl Into<String>, addresses: Vec<IpAddr>) -> Self {
        let ifname = ifname.into();
        Self {
            name: ifname.clone(),
            ifname,
            is_mgmt: true,
            cost: 0,
            failed: false,
            addresses,
            dns_servers: Vec::new(),
            proxies: Arc::default(),
            proxy_certs: Vec::new(),
        }
    }

    /// The addresses that a connection to the outside can leave from: no link-local,
    /// unspecified or multicast ones.
    pub fn sources(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses
            .iter()
            .copied()
            .filter(|address| is_source(*address))
    }
}

fn is_source(address: IpAddr) -> bool {
    !(address.is_unspecified() || address.is_multicast() || is_link_local(address))
}

/// 169.254.0.0/16 and fe80::/10.
pub(crate) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
