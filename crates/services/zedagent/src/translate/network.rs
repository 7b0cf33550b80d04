//! Network instances.

use std::net::{IpAddr, Ipv4Addr};

use api::{
    common::Ipspec,
    config::{EdgeDevConfig, ZNetworkInstType},
};
use ipnet::Ipv4Net;
use jiff::Timestamp;
use model::{
    id::{LogicalLabel, NetworkInstanceId},
    network::{DnsEntry, NetworkInstanceConfig, NetworkInstanceKind},
};

use super::{Check, Problem, Translated, all, id_of, insert, optional};

pub(super) fn network_instances(config: &EdgeDevConfig, now: Timestamp, to: &mut Translated) {
    for (position, from) in config.network_instances.iter().enumerate() {
        let text = from
            .uuidandversion
            .as_ref()
            .map_or("", |id| id.uuid.as_str());
        let Some(id) = id_of::<NetworkInstanceId>("network instance", position, text, now, to)
        else {
            continue;
        };
        let mut check = Check::default();
        let kind = match ZNetworkInstType::try_from(from.inst_type) {
            Ok(ZNetworkInstType::ZnetInstLocal) => NetworkInstanceKind::Local,
            Ok(ZNetworkInstType::ZnetInstSwitch) => NetworkInstanceKind::Switch,
            Ok(other) => {
                check.note(Problem::invalid(format!(
                    "type {} is not supported",
                    other.as_str_name()
                )));
                NetworkInstanceKind::Local
            }
            Err(_) => {
                check.note(Problem::invalid(format!(
                    "type {} is not known",
                    from.inst_type
                )));
                NetworkInstanceKind::Local
            }
        };
        let empty = Ipspec::default();
        let ip = from.ip.as_ref().unwrap_or(&empty);
        let subnet: Option<Ipv4Net> =
            check.or_default("subnet", optional(&ip.subnet, "an IPv4 prefix"));
        let gateway: Option<Ipv4Addr> =
            check.or_default("gateway", optional(&ip.gateway, "an IPv4 address"));
        let dhcp_range = check.or_default("dhcpRange", dhcp_range(ip));
        check_inside(subnet, gateway, dhcp_range, &mut check);
        let ntp = std::iter::once(&ip.ntp)
            .chain(&ip.more_ntp)
            .filter(|n| !n.is_empty());
        let row = NetworkInstanceConfig {
            id,
            display_name: from.displayname.clone(),
            kind,
            port: LogicalLabel(
                from.port
                    .as_ref()
                    .map_or(String::new(), |p| p.name.trim().to_owned()),
            ),
            subnet: subnet.map(|s| s.trunc()),
            gateway,
            dhcp_range,
            dns_servers: check.or_default("dns", all::<IpAddr>(&ip.dns, "an address")),
            ntp_servers: ntp.cloned().collect(),
            domain_name: ip.domain.clone(),
            dns_entries: check.or_default("dns entries", dns_entries(from)),
            mtu: check.or_default("mtu", mtu(from.mtu)),
            fault: check.fault(format!("network instance {id}"), now),
        };
        insert(
            "network instance",
            &mut to.network_instances,
            id.to_string(),
            row,
            &mut to.faults,
            now,
        );
    }
}

fn dhcp_range(ip: &Ipspec) -> Result<Option<(Ipv4Addr, Ipv4Addr)>, Problem> {
    let Some(range) = &ip.dhcp_range else {
        return Ok(None);
    };
    let first: Option<Ipv4Addr> = optional(&range.start, "an IPv4 address")?;
    let last: Option<Ipv4Addr> = optional(&range.end, "an IPv4 address")?;
    match (first, last) {
        (None, None) => Ok(None),
        (Some(first), Some(last)) if first <= last => Ok(Some((first, last))),
        _ => Err(Problem::invalid(format!(
            "{:?} to {:?} is not a range",
            range.start, range.end
        ))),
    }
}

/// Addresses outside the subnet would never be reachable.
fn check_inside(
    subnet: Option<Ipv4Net>,
    gateway: Option<Ipv4Addr>,
    range: Option<(Ipv4Addr, Ipv4Addr)>,
    check: &mut Check,
) {
    let Some(subnet) = subnet else { return };
    if subnet.prefix_len() > 30 {
        check.note(Problem::invalid(format!(
            "subnet {subnet} has no room for a gateway and an application"
        )));
    }
    let named = [
        ("gateway", gateway),
        ("dhcpRange", range.map(|r| r.0)),
        ("dhcpRange", range.map(|r| r.1)),
    ];
    for (what, address) in named {
        if let Some(address) = address.filter(|a| !subnet.contains(a)) {
            check.note(Problem::invalid(format!(
                "{what} {address} is not in subnet {subnet}"
            )));
        }
    }
}

fn dns_entries(from: &api::config::NetworkInstanceConfig) -> Result<Vec<DnsEntry>, Problem> {
    from.dns
        .iter()
        .map(|entry| {
            let addresses = all(&entry.address, "an address")?;
            Ok(DnsEntry {
                host_name: entry.host_name.clone(),
                addresses,
            })
        })
        .collect()
}

pub(super) fn mtu(mtu: u32) -> Result<u16, Problem> {
    match u16::try_from(mtu) {
        Ok(mtu) if mtu == 0 || mtu >= 1280 => Ok(mtu),
        _ => Err(Problem::invalid(format!(
            "{mtu} is not between 1280 and 65535"
        ))),
    }
}
