//! The device's own ports, out of system adapters, networks and the hardware model.

use api::{
    common::{DhcpType, ProxyProto},
    config::{EdgeDevConfig, NetworkConfig, SystemAdapter},
};
use ipnet::IpNet;
use jiff::Timestamp;
use model::{
    id::LogicalLabel,
    port::{DevicePortConfig, PortAddressing, PortConfig, ProxyConfig},
};

use super::{Check, Problem, Translated, all, network, optional, secret};

pub(super) fn ports(config: &EdgeDevConfig, now: Timestamp, to: &mut Translated) {
    if config.system_adapter_list.is_empty() {
        return;
    }
    let mut check = Check::default();
    let mut secrets = Vec::new();
    let ports = config.system_adapter_list.iter().filter_map(|adapter| {
        let result = port(config, adapter, to, &mut secrets);
        result
            .map_err(|p| {
                check.note(Problem {
                    text: format!("port {}: {}", adapter.name, p.text),
                    ..p
                });
            })
            .ok()
    });
    let ports: Vec<PortConfig> = ports.collect();
    if check.first.is_none() && !ports.iter().any(|p| p.is_mgmt) {
        check.note(Problem::invalid(
            "no port is for management: the device would be out of reach",
        ));
    }
    // The network of a secret that is of no use is unreachable; the other ports are to work all the same.
    to.faults.extend(
        secrets
            .into_iter()
            .map(|problem: Problem| problem.fault("device ports".to_owned(), now)),
    );
    to.ports = Some(DevicePortConfig {
        key: "zedagent".to_owned(),
        time_priority: super::timestamp(config).unwrap_or(now),
        ports,
        fault: check.fault("device ports".to_owned(), now),
    });
}

fn port(
    config: &EdgeDevConfig,
    adapter: &SystemAdapter,
    to: &Translated,
    secrets: &mut Vec<Problem>,
) -> Result<PortConfig, Problem> {
    // The adapter names its physical port by logical label, older configs by the label on the box
    // or by the interface itself.
    let lower = if adapter.lower_layer_name.is_empty() {
        &adapter.name
    } else {
        &adapter.lower_layer_name
    };
    let physical = to
        .adapters
        .adapters
        .iter()
        .find(|a| a.logical_label.0 == *lower || a.phy_label == *lower || a.if_name == *lower);
    let if_name = physical
        .map(|p| p.if_name.as_str())
        .filter(|n| !n.is_empty())
        .unwrap_or(lower);
    let empty = NetworkConfig::default();
    let network = match adapter.network_uuid.as_str() {
        "" => &empty,
        id => config
            .networks
            .iter()
            .find(|n| n.id == id)
            .ok_or_else(|| Problem::dangling(format!("network {id} is not in the config")))?,
    };
    let ip = network.ip.clone().unwrap_or_default();
    let ntp = std::iter::once(&ip.ntp)
        .chain(&ip.more_ntp)
        .filter(|n| !n.is_empty());
    let wireless = secret::wireless(network, &to.cipher_contexts, &mut |problem| {
        secrets.push(Problem {
            text: format!("port {}: {}", adapter.name, problem.text),
            ..problem
        });
    });
    Ok(PortConfig {
        if_name: if_name.parse()?,
        label: LogicalLabel(adapter.name.clone()),
        is_mgmt: adapter.uplink || adapter.free_uplink,
        cost: u8::try_from(adapter.cost)
            .map_err(|_| Problem::invalid(format!("cost {} is above 255", adapter.cost)))?,
        addressing: addressing(adapter, &ip)?,
        dns_servers: all(&ip.dns, "an address")?,
        ntp_servers: ntp.cloned().collect(),
        domain_name: ip.domain.clone(),
        proxy: proxy(network)?,
        mtu: network::mtu(network.mtu)?,
        wireless,
    })
}

fn addressing(
    adapter: &SystemAdapter,
    ip: &api::common::Ipspec,
) -> Result<PortAddressing, Problem> {
    match DhcpType::try_from(ip.dhcp) {
        Ok(DhcpType::Client | DhcpType::DhcpNoop) => Ok(PortAddressing::Dhcp),
        Ok(DhcpType::DhcpNone) => Ok(PortAddressing::None),
        Ok(DhcpType::Static) => {
            let text = adapter.addr.trim();
            // The prefix length is with the address or with the network's subnet.
            let address: IpNet = if let Ok(net) = text.parse() {
                net
            } else {
                let address = text
                    .parse()
                    .map_err(|_| Problem::invalid(format!("{text:?} is not an address")))?;
                let subnet: IpNet = ip.subnet.trim().parse().map_err(|_| {
                    Problem::invalid(format!("subnet {:?} is not a prefix", ip.subnet))
                })?;
                IpNet::new(address, subnet.prefix_len())
                    .map_err(|e| Problem::invalid(e.to_string()))?
            };
            let gateway = optional(&ip.gateway, "an address")?;
            Ok(PortAddressing::Static { address, gateway })
        }
        Err(_) => Err(Problem::invalid(format!(
            "dhcp type {} is not known",
            ip.dhcp
        ))),
    }
}

fn proxy(network: &NetworkConfig) -> Result<ProxyConfig, Problem> {
    let mut to = ProxyConfig::default();
    let Some(from) = &network.ent_proxy else {
        return Ok(to);
    };
    for server in &from.proxies {
        let port = u16::try_from(server.port)
            .map_err(|_| Problem::invalid(format!("proxy port {} is above 65535", server.port)))?;
        let host = server.server.trim();
        let text = if port == 0 {
            host.to_owned()
        } else {
            format!("{host}:{port}")
        };
        match ProxyProto::try_from(server.proto) {
            Ok(ProxyProto::ProxyHttp) => to.http = Some(text),
            Ok(ProxyProto::ProxyHttps) => to.https = Some(text),
            // EVE never used these for its own requests either.
            Ok(ProxyProto::ProxySocks | ProxyProto::ProxyFtp | ProxyProto::ProxyOther) | Err(_) => {
            }
        }
    }
    to.exceptions.clone_from(&from.exceptions);
    to.certificates_pem = from
        .proxy_cert_pem
        .iter()
        .map(|pem| String::from_utf8_lossy(pem).into_owned())
        .collect();
    Ok(to)
}
