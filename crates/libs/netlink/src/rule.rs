//! Policy rules: which routing table a packet asks.

use crate::connection::Mode;
use crate::link::checked;
use crate::{Netlink, NetlinkError, Owner};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::rule::{self, RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::IpAddr;

/// What a rule does with the packets that match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleAction {
    /// They ask this table, and if it has no route, the next rule.
    Table(u32),
    /// They vanish.
    Blackhole,
    /// Their sender is told that the destination is unreachable.
    Unreachable,
    /// Their sender is told that it isn't allowed.
    Prohibited,
    /// Something else; only seen on other owners' rules.
    Other,
}

/// A rule. What is `None` matches everything.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Its place: lower ones are asked first. The kernel's own are 0, 32766 and 32767.
    pub priority: u32,
    /// Whether it is for IPv6 packets, or else for IPv4.
    pub ipv6: bool,
    /// Source addresses.
    pub from: Option<IpNet>,
    /// Destination addresses.
    pub to: Option<IpNet>,
    /// The interface by which they came; `lo` for packets of this host itself.
    pub input: Option<String>,
    /// The interface that their socket is bound to.
    pub output: Option<String>,
    /// Value and mask of their mark.
    pub mark: Option<(u32, u32)>,
    /// What it does.
    pub action: RuleAction,
    /// Who made it.
    pub owner: Owner,
}

impl Rule {
    /// A rule for all packets from these addresses.
    pub fn from(priority: u32, from: IpNet, action: RuleAction, owner: Owner) -> Self {
        let ipv6 = matches!(from, IpNet::V6(_));
        let from = Some(from);
        Self {
            from,
            ..Self::all(priority, ipv6, action, owner)
        }
    }

    /// A rule for all packets.
    pub fn all(priority: u32, ipv6: bool, action: RuleAction, owner: Owner) -> Self {
        Self {
            priority,
            ipv6,
            from: None,
            to: None,
            input: None,
            output: None,
            mark: None,
            action,
            owner,
        }
    }
}

impl Netlink {
    /// All rules of both IP versions, in order.
    pub async fn rules(&self) -> Result<Vec<Rule>, NetlinkError> {
        let mut rules = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RuleMessage::default();
            message.header.family = family;
            let request = RouteNetlinkMessage::GetRule(message);
            let answers = self.dump("list policy rules", request).await?;
            rules.extend(answers.iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRule(rule) => parse(rule),
                _ => None,
            }));
        }
        rules.sort();
        Ok(rules)
    }

    /// Adds a rule. There must be none that is equal but for its owner.
    pub async fn add_rule(&self, rule: &Rule) -> Result<(), NetlinkError> {
        let what = format!("add {}", describe(rule));
        let request = RouteNetlinkMessage::NewRule(message(rule)?);
        self.ask(&what, request, Mode::Create).await.map(|_| ())
    }

    /// Deletes a rule; fine if there is none such of the same owner.
    pub async fn delete_rule(&self, rule: &Rule) -> Result<(), NetlinkError> {
        let what = format!("delete {}", describe(rule));
        let request = RouteNetlinkMessage::DelRule(message(rule)?);
        self.ask_gone(&what, request).await
    }
}

fn describe(rule: &Rule) -> String {
    let version = if rule.ipv6 { 6 } else { 4 };
    format!("the IPv{version} policy rule at priority {}", rule.priority)
}

fn message(rule: &Rule) -> Result<RuleMessage, NetlinkError> {
    let mut message = RuleMessage::default();
    let owner = RouteProtocol::from(rule.owner.0);
    let mut attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Protocol(owner),
    ];
    message.header.family = if rule.ipv6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    message.header.action = match rule.action {
        RuleAction::Table(table) => {
            attributes.push(RuleAttribute::Table(table));
            rule::RuleAction::ToTable
        }
        RuleAction::Blackhole => rule::RuleAction::Blackhole,
        RuleAction::Unreachable => rule::RuleAction::Unreachable,
        RuleAction::Prohibited => rule::RuleAction::Prohibit,
        RuleAction::Other => rule::RuleAction::Unspec,
    };
    if let Some(from) = rule.from {
        message.header.src_len = from.prefix_len();
        attributes.push(RuleAttribute::Source(from.network()));
    }
    if let Some(to) = rule.to {
        message.header.dst_len = to.prefix_len();
        attributes.push(RuleAttribute::Destination(to.network()));
    }
    if let Some(input) = &rule.input {
        attributes.push(RuleAttribute::Iifname(checked(input)?.to_owned()));
    }
    if let Some(output) = &rule.output {
        attributes.push(RuleAttribute::Oifname(checked(output)?.to_owned()));
    }
    if let Some((value, mask)) = rule.mark {
        attributes.push(RuleAttribute::FwMark(value));
        attributes.push(RuleAttribute::FwMask(mask));
    }
    message.attributes = attributes;
    Ok(message)
}

fn parse(message: &RuleMessage) -> Option<Rule> {
    let header = &message.header;
    let ipv6 = header.family == AddressFamily::Inet6;
    let mut table = u32::from(header.table);
    let mut rule = Rule::all(0, ipv6, RuleAction::Other, Owner::UNKNOWN);
    let (mut value, mut mask) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Protocol(protocol) => rule.owner = Owner(u8::from(*protocol)),
            RuleAttribute::Source(ip) => rule.from = Some(net(*ip, header.src_len)?),
            RuleAttribute::Destination(ip) => rule.to = Some(net(*ip, header.dst_len)?),
            RuleAttribute::Iifname(name) => rule.input = Some(name.clone()),
            RuleAttribute::Oifname(name) => rule.output = Some(name.clone()),
            RuleAttribute::FwMark(mark) => value = Some(*mark),
            RuleAttribute::FwMask(bits) => mask = Some(*bits),
            _ => {}
        }
    }
    rule.mark = match (value, mask) {
        (None, None) => None,
        (value, mask) => Some((value.unwrap_or(0), mask.unwrap_or(u32::MAX))),
    };
    rule.action = match header.action {
        rule::RuleAction::ToTable => RuleAction::Table(table),
        rule::RuleAction::Blackhole => RuleAction::Blackhole,
        rule::RuleAction::Unreachable => RuleAction::Unreachable,
        rule::RuleAction::Prohibit => RuleAction::Prohibited,
        _ => RuleAction::Other,
    };
    Some(rule)
}

fn net(ip: IpAddr, len: u8) -> Option<IpNet> {
    match ip {
        IpAddr::V4(ip) => Ipv4Net::new(ip, len).ok().map(IpNet::V4),
        IpAddr::V6(ip) => Ipv6Net::new(ip, len).ok().map(IpNet::V6),
    }
}
