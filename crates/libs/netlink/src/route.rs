//! Routes.

use crate::connection::Mode;
use crate::{Netlink, NetlinkError, Owner};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The table that is asked when no rule says otherwise.
pub const MAIN_TABLE: u32 = 254;

/// The table of the host's own addresses, which the kernel keeps by itself.
const LOCAL_TABLE: u32 = 255;

/// What happens to packets that take a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// They leave by an interface, directly or to a gateway.
    Unicast {
        /// The interface.
        link: String,
        /// The next host, which must be reachable by that interface already; `None` if the
        /// destination itself is.
        gateway: Option<IpAddr>,
    },
    /// They vanish.
    Blackhole,
    /// Their sender is told that the destination is unreachable.
    Unreachable,
    /// Their sender is told that it isn't allowed.
    Prohibited,
    /// Something else, such as several gateways; only seen on other owners' routes.
    Other,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route {
    /// Its table.
    pub table: u32,
    /// The destinations it is for; a prefix of length 0 for a default route.
    pub to: IpNet,
    /// Its rank among routes to the same destinations in the same table, lower first. For IPv6 it
    /// must not be 0: the kernel takes that for 1024.
    pub metric: u32,
    /// What happens to packets.
    pub kind: RouteKind,
    /// The source address of packets from this host that have none yet.
    pub source: Option<IpAddr>,
    /// Who made it.
    pub owner: Owner,
}

impl Netlink {
    /// All routes but those to the host's own addresses.
    pub async fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let what = "list routes";
        let mut messages = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let request = RouteNetlinkMessage::GetRoute(message);
            messages.extend(self.dump(what, request).await?);
        }
        let names = self.names(what).await?;
        let routes = messages.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewRoute(route) => parse(route, &names),
            _ => None,
        });
        Ok(routes.filter(|route| route.table != LOCAL_TABLE).collect())
    }

    /// Adds a route. There must be none with the same table, destinations and metric.
    pub async fn add_route(&self, route: &Route) -> Result<(), NetlinkError> {
        let what = format!("add {}", describe(route));
        self.new_route(&what, route, Mode::Create).await
    }

    /// Puts a route in the place of one with the same table, destinations and metric, whoever
    /// made that, in one step; or adds it.
    pub async fn replace_route(&self, route: &Route) -> Result<(), NetlinkError> {
        let what = format!("replace {}", describe(route));
        self.new_route(&what, route, Mode::Replace).await
    }

    /// Deletes a route; fine if it isn't there as given, by the same owner.
    pub async fn delete_route(&self, route: &Route) -> Result<(), NetlinkError> {
        let what = format!("delete {}", describe(route));
        let message = match self.message(&what, route).await {
            Err(error) if error.is_gone() => return Ok(()),
            message => message?,
        };
        self.ask_gone(&what, RouteNetlinkMessage::DelRoute(message))
            .await
    }

    async fn new_route(&self, what: &str, route: &Route, mode: Mode) -> Result<(), NetlinkError> {
        let message = self.message(what, route).await?;
        self.ask(what, RouteNetlinkMessage::NewRoute(message), mode)
            .await
            .map(|_| ())
    }

    async fn message(&self, what: &str, route: &Route) -> Result<RouteMessage, NetlinkError> {
        let mut message = match route.to {
            IpNet::V4(net) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .table_id(route.table)
                .priority(route.metric)
                .build(),
            IpNet::V6(net) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .table_id(route.table)
                .priority(route.metric)
                .build(),
        };
        message.header.protocol = RouteProtocol::from(route.owner.0);
        message.header.kind = match route.kind {
            RouteKind::Unicast { .. } => RouteType::Unicast,
            RouteKind::Blackhole => RouteType::BlackHole,
            RouteKind::Unreachable => RouteType::Unreachable,
            RouteKind::Prohibited => RouteType::Prohibit,
            RouteKind::Other => RouteType::Unspec,
        };
        if let RouteKind::Unicast { link, gateway } = &route.kind {
            let index = self.index(what, link).await?;
            message.attributes.push(RouteAttribute::Oif(index));
            match (route.to, gateway) {
                (_, None) => message.header.scope = RouteScope::Link,
                (IpNet::V4(_), Some(IpAddr::V6(ip))) => {
                    let via = RouteAttribute::Via(RouteVia::Inet6(*ip));
                    message.attributes.push(via);
                }
                (IpNet::V4(_) | IpNet::V6(_), Some(ip)) => {
                    let gateway = RouteAttribute::Gateway(RouteAddress::from(*ip));
                    message.attributes.push(gateway);
                }
            }
        }
        if let Some(source) = route.source {
            let source = RouteAttribute::PrefSource(RouteAddress::from(source));
            message.attributes.push(source);
        }
        Ok(message)
    }
}

fn describe(route: &Route) -> String {
    let way = match &route.kind {
        RouteKind::Unicast { link, gateway } => match gateway {
            Some(gateway) => format!("by {link} and {gateway}"),
            None => format!("by {link}"),
        },
        RouteKind::Blackhole => "into nothing".to_owned(),
        RouteKind::Unreachable => "as unreachable".to_owned(),
        RouteKind::Prohibited => "as prohibited".to_owned(),
        RouteKind::Other => "of another kind".to_owned(),
    };
    format!("the route to {} {way} in table {}", route.to, route.table)
}

fn parse(message: &RouteMessage, names: &BTreeMap<u32, String>) -> Option<Route> {
    let mut table = u32::from(message.header.table);
    let (mut to, mut gateway, mut source, mut link) = (None, None, None, None);
    let mut metric = 0;
    let mut many = false;
    for attribute in &message.attributes {
        match attribute {
            // Tables above 255 have a stand-in in the header.
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => to = ip(address),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some((*address).into()),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Oif(index) => link = Some(names.get(index)?.clone()),
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::MultiPath(_) => many = true,
            _ => {}
        }
    }
    let any: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let len = message.header.destination_prefix_length;
    let to = match to.unwrap_or(any) {
        IpAddr::V4(ip) => IpNet::V4(Ipv4Net::new(ip, len).ok()?),
        IpAddr::V6(ip) => IpNet::V6(Ipv6Net::new(ip, len).ok()?),
    };
    let kind = match (message.header.kind, link) {
        (RouteType::Unicast, Some(link)) if !many => RouteKind::Unicast { link, gateway },
        (RouteType::BlackHole, _) => RouteKind::Blackhole,
        (RouteType::Unreachable, _) => RouteKind::Unreachable,
        (RouteType::Prohibit, _) => RouteKind::Prohibited,
        _ => RouteKind::Other,
    };
    Some(Route {
        table,
        to,
        metric,
        kind,
        source,
        owner: Owner(u8::from(message.header.protocol)),
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}
