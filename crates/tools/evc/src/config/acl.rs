//! Access rules: checks, and the form that the API gives them.

use std::net::IpAddr;

use api::config::{Ace, AceAction, AceDirection, AceMatch};
use ipnet::IpNet;

use super::build::Check;
use super::spec::{Acl, Direction, Limit};

/// Rules in the API's form, numbered from 1.
pub(super) fn wire(acls: &[Acl], path: &str, check: &mut Check<'_>) -> Vec<Ace> {
    let mut out = Vec::new();
    for (i, acl) in acls.iter().enumerate() {
        let at = format!("{path}[{i}]");
        examine(acl, &at, check);
        if let (Some(_), Some(port)) = (acl.portmap, acl.lport) {
            let same = |other: &&Acl| {
                other.portmap.is_some()
                    && other.lport == Some(port)
                    && other.protocol == acl.protocol
            };
            if acls.iter().take(i).any(|other| same(&other)) {
                check.problem(
                    format!("{at}.lport"),
                    format!("port {port} is mapped twice"),
                );
            }
        }
        out.push(Ace {
            matches: matches(acl),
            actions: actions(acl),
            name: acl.name.clone(),
            id: i32::try_from(i + 1).unwrap_or(i32::MAX),
            dir: match acl.direction {
                Direction::Both => AceDirection::Both,
                Direction::Ingress => AceDirection::Ingress,
                Direction::Egress => AceDirection::Egress,
            }
            .into(),
        });
    }
    out
}

fn examine(acl: &Acl, path: &str, check: &mut Check<'_>) {
    if !acl.ip.is_empty() && acl.ip.parse::<IpNet>().is_err() && acl.ip.parse::<IpAddr>().is_err() {
        check.problem(
            format!("{path}.ip"),
            format!("{:?} is not an address or subnet", acl.ip),
        );
    }
    let known = matches!(
        acl.protocol.as_str(),
        "" | "tcp" | "udp" | "icmp" | "icmpv6" | "sctp"
    );
    if !known && acl.protocol.parse::<u8>().is_err() {
        check.problem(
            format!("{path}.protocol"),
            format!(
                "{:?} is not tcp, udp, icmp or a number up to 255",
                acl.protocol
            ),
        );
    }
    let has_ports = acl.lport.is_some() || acl.fport.is_some();
    if has_ports
        && !matches!(
            acl.protocol.as_str(),
            "tcp" | "udp" | "sctp" | "6" | "17" | "132"
        )
    {
        check.problem(
            format!("{path}.protocol"),
            "a rule with ports needs tcp, udp or sctp",
        );
    }
    if matches(acl).is_empty() {
        check.problem(
            path,
            "matches nothing in particular; to allow all write `ip: 0.0.0.0/0`",
        );
    }
    let given = [acl.drop, acl.limit.is_some(), acl.portmap.is_some()]
        .into_iter()
        .filter(|a| *a)
        .count();
    if given > 1 {
        check.problem(path, "has more than one of drop, limit and portmap");
    }
    if acl.portmap.is_some() {
        if acl.lport.is_none() {
            check.problem(
                format!("{path}.lport"),
                "is needed by a port map: the device's port",
            );
        }
        if acl.portmap == Some(0) {
            check.problem(format!("{path}.portmap"), "0 is not a port");
        }
    }
    if let Some(Limit { rate, unit, .. }) = &acl.limit {
        if *rate == 0 {
            check.problem(
                format!("{path}.limit.rate"),
                "0 lets nothing pass; use drop",
            );
        }
        if !matches!(unit.as_str(), "s" | "m" | "h") {
            check.problem(
                format!("{path}.limit.unit"),
                format!("{unit:?} is not s, m or h"),
            );
        }
    }
}

fn matches(acl: &Acl) -> Vec<AceMatch> {
    let number = |port: Option<u16>| port.map(|p| p.to_string()).unwrap_or_default();
    [
        ("ip", acl.ip.clone()),
        ("host", acl.host.clone()),
        ("eidset", acl.eidset.clone()),
        ("protocol", acl.protocol.clone()),
        ("lport", number(acl.lport)),
        ("fport", number(acl.fport)),
        ("adapter", acl.adapter.clone()),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(kind, value)| AceMatch {
        r#type: kind.to_owned(),
        value,
    })
    .collect()
}

/// No action means to let pass.
fn actions(acl: &Acl) -> Vec<AceAction> {
    if acl.drop {
        vec![AceAction {
            drop: true,
            ..AceAction::default()
        }]
    } else if let Some(limit) = &acl.limit {
        vec![AceAction {
            limit: true,
            limitrate: limit.rate,
            limitunit: limit.unit.clone(),
            limitburst: limit.burst,
            ..AceAction::default()
        }]
    } else if let Some(port) = acl.portmap {
        vec![AceAction {
            portmap: true,
            app_port: u32::from(port),
            ..AceAction::default()
        }]
    } else {
        Vec::new()
    }
}
