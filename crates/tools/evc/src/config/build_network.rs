//! Networks, ports and network instances.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::common::{
    DhcpType, IpRange, Ipspec, NetworkType, PhyIoMemberUsage, PhyIoType, ProxyConfig, ProxyProto,
    ProxyServer, ZnetStaticDnsEntry,
};
use api::config::{
    Adapter, AddressType, NetworkConfig, NetworkInstanceConfig, NetworkInstanceOpaqueConfig,
    PhyIoUsagePolicy, PhysicalIo, SystemAdapter, UuiDandVersion, ZNetworkInstType,
};
use ipnet::IpNet;
use model::id::IfName;

use super::build::{Check, object_id};
use super::spec::{
    DeviceSpec, Dhcp, IpVersions, Network, NetworkInstance, NetworkInstanceKind, Port, PortKind,
    Proxy, Usage,
};

pub(super) fn networks(spec: &DeviceSpec, check: &mut Check<'_>) -> Vec<NetworkConfig> {
    let mut out = Vec::new();
    for (i, network) in spec.networks.iter().enumerate() {
        let path = format!("networks[{i}]");
        out.push(network_config(network, &path, check));
    }
    out
}

fn network_config(network: &Network, path: &str, check: &mut Check<'_>) -> NetworkConfig {
    check.parses::<IpNet>(
        &network.subnet,
        &format!("{path}.subnet"),
        "a subnet such as 10.0.0.0/24",
    );
    check.parses::<IpAddr>(
        &network.gateway,
        &format!("{path}.gateway"),
        "an IP address",
    );
    check.addresses(&network.dns, &format!("{path}.dns"));
    if network.dhcp == Dhcp::Static && network.subnet.is_empty() {
        check.problem(format!("{path}.subnet"), "is needed with `dhcp: static`");
    }
    let ip = match network.ip {
        IpVersions::V4 => NetworkType::V4,
        IpVersions::V6 => NetworkType::V6,
        IpVersions::V4Only => NetworkType::V4Only,
        IpVersions::V6Only => NetworkType::V6Only,
        IpVersions::Dual => NetworkType::DualV4v6,
    };
    let dhcp = match network.dhcp {
        Dhcp::Client => DhcpType::Client,
        Dhcp::Static => DhcpType::Static,
        Dhcp::None => DhcpType::DhcpNone,
    };
    let mut ntp = network.ntp.iter().cloned();
    NetworkConfig {
        id: object_id(check.device, "network", &network.name).to_string(),
        r#type: ip.into(),
        ip: Some(Ipspec {
            dhcp: dhcp.into(),
            subnet: network.subnet.clone(),
            gateway: network.gateway.clone(),
            domain: network.domain.clone(),
            ntp: ntp.next().unwrap_or_default(),
            dns: network.dns.clone(),
            more_ntp: ntp.collect(),
            ..Ipspec::default()
        }),
        ent_proxy: proxy(&network.proxy, &format!("{path}.proxy"), check),
        mtu: network.mtu,
        ..NetworkConfig::default()
    }
}

fn proxy(proxy: &Proxy, path: &str, check: &mut Check<'_>) -> Option<ProxyConfig> {
    if *proxy == Proxy::default() {
        return None;
    }
    let mut proxies = Vec::new();
    let entries = [
        ("http", &proxy.http, ProxyProto::ProxyHttp),
        ("https", &proxy.https, ProxyProto::ProxyHttps),
    ];
    for (field, text, proto) in entries {
        if text.is_empty() {
            continue;
        }
        match text
            .rsplit_once(':')
            .map(|(host, port)| (host, port.parse::<u16>()))
        {
            Some((host, Ok(port))) if !host.is_empty() => proxies.push(ProxyServer {
                proto: proto.into(),
                server: host.to_owned(),
                port: u32::from(port),
            }),
            _ => check.problem(
                format!("{path}.{field}"),
                format!("{text:?} is not host:port"),
            ),
        }
    }
    Some(ProxyConfig {
        network_proxy_enable: proxy.wpad,
        proxies,
        exceptions: proxy.exceptions.clone(),
        // The API carries the file itself in base64.
        pacfile: super::build_storage::base64(&proxy.pac),
        network_proxy_url: proxy.pac_url.clone(),
        proxy_cert_pem: proxy
            .certificates
            .iter()
            .map(|c| c.clone().into_bytes())
            .collect(),
    })
}

pub(super) fn ports(
    spec: &DeviceSpec,
    check: &mut Check<'_>,
) -> (Vec<PhysicalIo>, Vec<SystemAdapter>) {
    let (mut ios, mut adapters) = (Vec::new(), Vec::new());
    for (i, port) in spec.ports.iter().enumerate() {
        let path = format!("ports[{i}]");
        if let Some(interface) = interface(port) {
            let field = if port.interface.is_empty() {
                "name"
            } else {
                "interface"
            };
            check.parses::<IfName>(interface, &format!("{path}.{field}"), "an interface name");
        }
        ios.push(physical_io(port));
        adapters.extend(system_adapter(port, &path, check));
    }
    (ios, adapters)
}

/// Ports of a network have an interface, which bears the port's name unless another is given.
fn interface(port: &Port) -> Option<&str> {
    let networked = matches!(
        port.kind,
        PortKind::Ethernet | PortKind::Wlan | PortKind::Wwan
    );
    let own = Some(port.interface.as_str()).filter(|name| !name.is_empty());
    own.or_else(|| networked.then_some(port.name.as_str()))
}

fn physical_io(port: &Port) -> PhysicalIo {
    let addresses = [
        ("Ifname", interface(port).unwrap_or_default()),
        ("PciLong", &port.pci),
        ("UsbAddr", &port.usb),
        ("Serial", &port.serial),
    ];
    PhysicalIo {
        ptype: io_type(port.kind).into(),
        phylabel: port.name.clone(),
        phyaddrs: addresses
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        logicallabel: port.name.clone(),
        assigngrp: port.group.clone(),
        usage: usage(port.usage).into(),
        usage_policy: Some(PhyIoUsagePolicy {
            free_uplink: port.cost == 0,
        }),
        cbattr: BTreeMap::new(),
        ..PhysicalIo::default()
    }
}

fn system_adapter(port: &Port, path: &str, check: &mut Check<'_>) -> Option<SystemAdapter> {
    check.parses::<IpAddr>(&port.address, &format!("{path}.address"), "an IP address");
    let networked = matches!(
        port.kind,
        PortKind::Ethernet | PortKind::Wlan | PortKind::Wwan
    );
    let used = matches!(
        port.usage,
        Usage::Management | Usage::ManagementOnly | Usage::Apps
    );
    if !networked || !used {
        if !port.network.is_empty() {
            check.problem(
                format!("{path}.network"),
                "only network ports that the device itself uses are in a network",
            );
        }
        return None;
    }
    let uplink = matches!(port.usage, Usage::Management | Usage::ManagementOnly);
    if uplink && port.network.is_empty() {
        check.problem(
            format!("{path}.network"),
            "a management port needs a network",
        );
        return None;
    }
    let network_uuid = if port.network.is_empty() {
        String::new()
    } else {
        check.reference("network", &port.network, &format!("{path}.network"))
    };
    Some(SystemAdapter {
        name: port.name.clone(),
        free_uplink: port.cost == 0,
        uplink,
        network_uuid,
        addr: port.address.clone(),
        lower_layer_name: port.name.clone(),
        cost: u32::from(port.cost),
        shared_labels: port.labels.clone(),
        ..SystemAdapter::default()
    })
}

/// The API's number for a kind of hardware.
pub(super) fn io_type(kind: PortKind) -> PhyIoType {
    match kind {
        PortKind::Ethernet => PhyIoType::PhyIoNetEth,
        PortKind::Wlan => PhyIoType::PhyIoNetWlan,
        PortKind::Wwan => PhyIoType::PhyIoNetWwan,
        PortKind::Usb => PhyIoType::PhyIoUsb,
        PortKind::Com => PhyIoType::PhyIoCom,
        PortKind::Audio => PhyIoType::PhyIoAudio,
        PortKind::Hdmi => PhyIoType::PhyIoHdmi,
        PortKind::Nvme => PhyIoType::PhyIoNvmeStorage,
        PortKind::Sata => PhyIoType::PhyIoSataStorage,
        PortKind::Can => PhyIoType::PhyIoCan,
        PortKind::Other => PhyIoType::PhyIoOther,
    }
}

fn usage(usage: Usage) -> PhyIoMemberUsage {
    match usage {
        Usage::Management => PhyIoMemberUsage::PhyIoUsageMgmtAndApps,
        Usage::ManagementOnly => PhyIoMemberUsage::PhyIoUsageMgmtOnly,
        Usage::Apps => PhyIoMemberUsage::PhyIoUsageShared,
        Usage::Direct => PhyIoMemberUsage::PhyIoUsageDedicated,
        Usage::Disabled => PhyIoMemberUsage::PhyIoUsageDisabled,
    }
}

pub(super) fn instances(spec: &DeviceSpec, check: &mut Check<'_>) -> Vec<NetworkInstanceConfig> {
    let labels: Vec<&str> = spec
        .ports
        .iter()
        .flat_map(|p| std::iter::once(&p.name).chain(&p.labels))
        .map(String::as_str)
        .chain(["uplink", "freeuplink", "all"])
        .collect();
    let mut out = Vec::new();
    for (i, instance) in spec.network_instances.iter().enumerate() {
        let path = format!("network_instances[{i}]");
        // A device without a port list uses all its ports, under names that only it knows.
        if !instance.port.is_empty()
            && !spec.ports.is_empty()
            && !labels.contains(&instance.port.as_str())
        {
            let hint = super::read::closest(&instance.port, labels.iter().copied())
                .map_or_else(String::new, |meant| format!("; did you mean {meant:?}?"));
            check.problem(
                format!("{path}.port"),
                format!("no port or label called {:?}{hint}", instance.port),
            );
        }
        out.push(match instance.kind {
            NetworkInstanceKind::Local => local(instance, &path, check),
            NetworkInstanceKind::Switch => switch(instance, &path, check),
        });
    }
    out
}

fn common(instance: &NetworkInstance, device: uuid::Uuid) -> NetworkInstanceConfig {
    NetworkInstanceConfig {
        uuidandversion: Some(UuiDandVersion {
            uuid: object_id(device, "network instance", &instance.name).to_string(),
            version: "1".to_owned(),
        }),
        displayname: instance.name.clone(),
        activate: true,
        port: (!instance.port.is_empty()).then(|| Adapter {
            r#type: PhyIoType::PhyIoNoop.into(),
            name: instance.port.clone(),
            ..Adapter::default()
        }),
        cfg: Some(NetworkInstanceOpaqueConfig::default()),
        mtu: instance.mtu,
        disable_flowlog: !instance.flow_log,
        ..NetworkInstanceConfig::default()
    }
}

fn switch(instance: &NetworkInstance, path: &str, check: &mut Check<'_>) -> NetworkInstanceConfig {
    if !instance.subnet.is_empty() || instance.range.is_some() || !instance.hosts.is_empty() {
        check.problem(path, "a switch has no subnet, range or hosts of its own");
    }
    NetworkInstanceConfig {
        inst_type: ZNetworkInstType::ZnetInstSwitch.into(),
        ip_type: AddressType::First.into(),
        ip: Some(Ipspec::default()),
        ..common(instance, check.device)
    }
}

fn local(instance: &NetworkInstance, path: &str, check: &mut Check<'_>) -> NetworkInstanceConfig {
    check.addresses(&instance.dns, &format!("{path}.dns"));
    for (name, addresses) in &instance.hosts {
        check.addresses(addresses, &format!("{path}.hosts.{name}"));
    }
    let addresses = match addressing(instance) {
        Ok(addresses) => addresses,
        Err((field, what)) => {
            check.problem(format!("{path}.{field}"), what);
            return NetworkInstanceConfig::default();
        }
    };
    let ip_type = if addresses.gateway.is_ipv6() {
        AddressType::Ipv6
    } else {
        AddressType::Ipv4
    };
    NetworkInstanceConfig {
        inst_type: ZNetworkInstType::ZnetInstLocal.into(),
        ip_type: ip_type.into(),
        ip: Some(Ipspec {
            subnet: addresses.subnet.trunc().to_string(),
            gateway: addresses.gateway.to_string(),
            domain: instance.domain.clone(),
            dns: instance.dns.clone(),
            dhcp_range: Some(IpRange {
                start: addresses.first.to_string(),
                end: addresses.last.to_string(),
            }),
            ..Ipspec::default()
        }),
        dns: instance
            .hosts
            .iter()
            .map(|(name, address)| ZnetStaticDnsEntry {
                host_name: name.clone(),
                address: address.clone(),
            })
            .collect(),
        ..common(instance, check.device)
    }
}

struct Addressing {
    subnet: IpNet,
    gateway: IpAddr,
    first: IpAddr,
    last: IpAddr,
}

/// Completes subnet, gateway and range; an error is the field and what is wrong with it.
fn addressing(instance: &NetworkInstance) -> Result<Addressing, (&'static str, String)> {
    let subnet: IpNet = match instance.subnet.as_str() {
        "" => return Err(("subnet", "is needed by a local network".to_owned())),
        text => text.parse().map_err(|_| {
            (
                "subnet",
                format!("{text:?} is not a subnet such as 10.1.0.0/24"),
            )
        })?,
    };
    // Network address, gateway, one application and broadcast.
    if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
        return Err(("subnet", format!("{subnet} has no room for applications")));
    }
    let inside = |field: &'static str, text: &str| -> Result<IpAddr, (&'static str, String)> {
        let address: IpAddr = text
            .parse()
            .map_err(|_| (field, format!("{text:?} is not an IP address")))?;
        if subnet.contains(&address) && address != subnet.network() && address != subnet.broadcast()
        {
            Ok(address)
        } else {
            Err((
                field,
                format!("{address} is not an address for hosts in {subnet}"),
            ))
        }
    };
    let gateway = match instance.gateway.as_str() {
        "" => offset(subnet.network(), 1),
        text => inside("gateway", text)?,
    };
    let (first, last) = if let Some((first, last)) = &instance.range {
        (inside("range[0]", first)?, inside("range[1]", last)?)
    } else {
        free_range(subnet, gateway)
    };
    if first > last {
        return Err(("range", format!("{first} is after {last}")));
    }
    if (first..=last).contains(&gateway) {
        return Err((
            "range",
            format!("{first} to {last} includes the gateway {gateway}"),
        ));
    }
    Ok(Addressing {
        subnet,
        gateway,
        first,
        last,
    })
}

/// The larger part of the subnet on one side of the gateway, 254 addresses of IPv6 at most.
fn free_range(subnet: IpNet, gateway: IpAddr) -> (IpAddr, IpAddr) {
    let first = offset(subnet.network(), 1);
    let last = match subnet {
        IpNet::V4(_) => offset(subnet.broadcast(), -1),
        IpNet::V6(_) => offset(subnet.network(), 0xff).min(offset(subnet.broadcast(), -1)),
    };
    let number = |address: IpAddr| match address {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    };
    if gateway < first || gateway > last {
        (first, last)
    } else if number(gateway) - number(first) > number(last) - number(gateway) {
        (first, offset(gateway, -1))
    } else {
        (offset(gateway, 1), last)
    }
}

fn offset(address: IpAddr, by: i32) -> IpAddr {
    match address {
        IpAddr::V4(a) => IpAddr::V4(a.to_bits().wrapping_add_signed(by).into()),
        IpAddr::V6(a) => IpAddr::V6(a.to_bits().wrapping_add_signed(i128::from(by)).into()),
    }
}
