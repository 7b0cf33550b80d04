//! From nim's published status to the ports of a choice.

use std::net::SocketAddr;
use std::sync::Arc;

use model::port::{DeviceNetworkStatus, PortStatus};

use crate::port::Port;
use crate::proxy::{BadProxy, Proxy, ProxyKind, ProxyRules};

const DNS_PORT: u16 = 53;

/// The ports of a device, and the proxies that can't be used, each with its port's name.
///
/// A port with an unusable proxy is still a way to the outside: without that proxy. The
/// caller reports it.
pub fn ports(status: &DeviceNetworkStatus) -> (Vec<Port>, Vec<(String, BadProxy)>) {
    let mut problems = Vec::new();
    let ports = status
        .ports
        .iter()
        .map(|port| from_status(port, &mut problems))
        .collect();
    (ports, problems)
}

fn from_status(status: &PortStatus, problems: &mut Vec<(String, BadProxy)>) -> Port {
    let ifname = status.if_name.to_string();
    let label = status.label.to_string();
    let name = if label.is_empty() {
        ifname.clone()
    } else {
        label
    };
    let wanted = [
        (ProxyKind::Http, &status.proxy.http),
        (ProxyKind::Https, &status.proxy.https),
    ];
    let mut proxies = Vec::new();
    for (kind, server) in wanted {
        match server.as_deref().filter(|server| !server.trim().is_empty()) {
            None => {}
            Some(server) => match Proxy::new(kind, server, 0) {
                Ok(proxy) => proxies.push(proxy),
                Err(problem) => problems.push((name.clone(), problem)),
            },
        }
    }
    Port {
        name,
        ifname,
        is_mgmt: status.is_mgmt,
        cost: status.cost,
        failed: status.fault.is_some(),
        addresses: status.addresses.iter().map(ipnet::IpNet::addr).collect(),
        dns_servers: status
            .dns_servers
            .iter()
            .map(|ip| SocketAddr::new(*ip, DNS_PORT))
            .collect(),
        proxies: Arc::new(ProxyRules::new(proxies, &status.proxy.exceptions)),
        proxy_certs: status
            .proxy
            .certificates_pem
            .iter()
            .map(|pem| pem.clone().into_bytes())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn the_published_status_becomes_ports() {
        let text = r#"{"DpcKey": "zedagent", "Ports": [
            {"IfName": "eth0", "Label": "uplink", "IsMgmt": true, "Cost": 3,
             "Addresses": ["10.1.0.7/24", "fe80::1/64"], "DnsServers": ["10.1.0.1"],
             "Proxy": {"Https": "proxy.example:3128", "Http": "ftp://bad", "Exceptions": ".example",
                       "CertificatesPem": ["pem"]}}]}"#;
        let status: DeviceNetworkStatus = serde_json::from_str(text).unwrap();
        let (ports, problems) = ports(&status);
        let port = &ports[0];
        assert_eq!(
            (port.name.as_str(), port.ifname.as_str(), port.cost),
            ("uplink", "eth0", 3)
        );
        assert!(port.is_mgmt && !port.failed);
        assert_eq!(
            port.sources().collect::<Vec<_>>(),
            ["10.1.0.7".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(port.dns_servers, ["10.1.0.1:53".parse().unwrap()]);
        assert_eq!(port.proxy_certs, [b"pem".to_vec()]);
        let proxy = port.proxies.lookup("https", "evc.test", 443).unwrap();
        assert_eq!(proxy.to_string(), "proxy.example:3128");
        assert!(port.proxies.lookup("http", "evc.test", 80).is_none());
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].0, "uplink");
    }
}
