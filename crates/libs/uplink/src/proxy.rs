//! Explicit proxies of a port, and which URLs go past them. Pure.
//!
//! An entry of kind HTTP serves `http` URLs, one of kind HTTPS serves `https` URLs (by
//! CONNECT); both are spoken to in plain HTTP. SOCKS and FTP entries are ignored, as in
//! EVE. The exceptions are a NO_PROXY list: names (with everything below them),
//! `.name` and `*.name` (only what is below), addresses, CIDR prefixes, each but the last
//! with an optional `:port`, and `*` for everything. Loopback never goes to a proxy.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use thiserror::Error;

/// What a proxy entry serves; numbers as in `evecommon.proxyProto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// `http` URLs (0).
    Http,
    /// `https` URLs (1).
    Https,
    /// Ignored (2).
    Socks,
    /// Ignored (3).
    Ftp,
    /// Anything else; ignored.
    Other,
}

/// Host and port of a proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyAddress {
    host: String,
    port: u16,
    login: Option<(String, String)>,
}

impl ProxyAddress {
    /// `http://host:port`, without the login.
    pub fn url(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }

    /// User name and password, when the entry had them.
    pub fn login(&self) -> Option<(&str, &str)> {
        self.login
            .as_ref()
            .map(|(user, password)| (user.as_str(), password.as_str()))
    }
}

/// Without the login, which must not get into logs.
impl fmt::Debug for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyAddress({self})")
    }
}

impl fmt::Display for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A proxy entry that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("proxy {server:?} is neither host, address nor http URL: {why}")]
pub struct BadProxy {
    /// As configured.
    pub server: String,
    /// What is wrong.
    pub why: String,
}

/// A proxy entry of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    kind: ProxyKind,
    address: ProxyAddress,
}

impl Proxy {
    /// An entry. `server` is a host, an address, or `http://[user:password@]host[:port]`;
    /// `port` 0 stands for the URL's port, else 80.
    pub fn new(kind: ProxyKind, server: &str, port: u16) -> Result<Self, BadProxy> {
        // What stands before the @ may be a password.
        let shown = server.rsplit('@').next().unwrap_or_default();
        let bad = |why: &str| BadProxy {
            server: shown.to_owned(),
            why: why.to_owned(),
        };
        let trimmed = server.trim();
        let text = if trimmed.contains("://") {
            trimmed.to_owned()
        } else if trimmed.parse::<std::net::Ipv6Addr>().is_ok() {
            format!("http://[{trimmed}]")
        } else {
            format!("http://{trimmed}")
        };
        let url = reqwest::Url::parse(&text).map_err(|error| bad(&error.to_string()))?;
        if url.scheme() != "http" {
            return Err(bad("the proxy itself must be spoken to in plain http"));
        }
        if !matches!(url.path(), "" | "/") {
            return Err(bad("it has a path"));
        }
        let host = url
            .host_str()
            .ok_or_else(|| bad("it has no host"))?
            .to_owned();
        let port = if port == 0 {
            url.port_or_known_default().unwrap_or(80)
        } else {
            port
        };
        let login = (!url.username().is_empty()).then(|| {
            (
                url.username().to_owned(),
                url.password().unwrap_or_default().to_owned(),
            )
        });
        Ok(Self {
            kind,
            address: ProxyAddress { host, port, login },
        })
    }
}

/// The proxies of a port with its exceptions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProxyRules {
    proxies: Vec<Proxy>,
    exceptions: Vec<Exception>,
}

impl ProxyRules {
    /// From entries and a NO_PROXY list (separated by commas or white space).
    pub fn new(proxies: Vec<Proxy>, exceptions: &str) -> Self {
        Self {
            proxies,
            exceptions: parse_exceptions(exceptions),
        }
    }

    /// True if no URL goes through a proxy.
    pub fn is_empty(&self) -> bool {
        self.proxies.is_empty()
    }

    /// The proxy for this URL; none means a direct connection.
    pub fn for_url(&self, url: &reqwest::Url) -> Option<&ProxyAddress> {
        let host = url.host_str()?;
        let port = url.port_or_known_default()?;
        self.lookup(url.scheme(), host, port)
    }

    /// The proxy for a connection to `host` (brackets around IPv6 allowed).
    pub fn lookup(&self, scheme: &str, host: &str, port: u16) -> Option<&ProxyAddress> {
        let kind = match scheme {
            "http" => ProxyKind::Http,
            "https" => ProxyKind::Https,
            _ => return None,
        };
        let proxy = self.proxies.iter().find(|proxy| proxy.kind == kind)?;
        let host = host.trim().trim_end_matches('.').to_ascii_lowercase();
        let ip = strip_brackets(&host)
            .parse::<IpAddr>()
            .ok()
            .map(|ip| ip.to_canonical());
        let local = host == "localhost" || ip.is_some_and(|ip| ip.is_loopback());
        let excepted = self
            .exceptions
            .iter()
            .any(|exception| exception.matches(&host, ip, port));
        (!local && !excepted).then_some(&proxy.address)
    }
}

/// One word of a NO_PROXY list.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    Everything,
    Address {
        ip: IpAddr,
        port: Option<u16>,
    },
    Prefix(IpNet),
    Domain {
        name: String,
        itself: bool,
        port: Option<u16>,
    },
}

impl Exception {
    fn matches(&self, host: &str, ip: Option<IpAddr>, port: u16) -> bool {
        let same_port = |wanted: Option<u16>| wanted.is_none_or(|wanted| wanted == port);
        match self {
            Self::Everything => true,
            Self::Address { ip: wanted, port } => ip == Some(*wanted) && same_port(*port),
            Self::Prefix(net) => ip.is_some_and(|ip| net.contains(&ip)),
            Self::Domain { name, itself, port } => {
                let below = host
                    .strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'));
                same_port(*port) && ip.is_none() && (below || (*itself && host == name))
            }
        }
    }
}

fn parse_exceptions(list: &str) -> Vec<Exception> {
    list.split(|c: char| c == ',' || c.is_whitespace())
        .filter_map(parse_exception)
        .collect()
}

/// None for an empty word or one that can't match anything.
fn parse_exception(word: &str) -> Option<Exception> {
    let word = word.to_ascii_lowercase();
    if word == "*" {
        return Some(Exception::Everything);
    }
    if let Ok(net) = word.parse::<IpNet>() {
        return Some(Exception::Prefix(net));
    }
    if let Ok(ip) = strip_brackets(&word).parse::<IpAddr>() {
        return Some(Exception::Address {
            ip: ip.to_canonical(),
            port: None,
        });
    }
    let (host, port) = match word.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (word.as_str(), None),
    };
    if let Ok(ip) = strip_brackets(host).parse::<IpAddr>() {
        return Some(Exception::Address {
            ip: ip.to_canonical(),
            port,
        });
    }
    let host = host.trim_end_matches('.');
    let (name, itself) = match host.strip_prefix("*.").or_else(|| host.strip_prefix('.')) {
        Some(name) => (name, false),
        None => (host, true),
    };
    (!name.is_empty()).then(|| Exception::Domain {
        name: name.to_owned(),
        itself,
        port,
    })
}

fn strip_brackets(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    fn rules(exceptions: &str) -> ProxyRules {
        let proxies = vec![
            Proxy::new(ProxyKind::Socks, "socks.example", 1080).unwrap(),
            Proxy::new(ProxyKind::Http, "web.example", 3128).unwrap(),
            Proxy::new(ProxyKind::Https, "tls.example", 3129).unwrap(),
        ];
        ProxyRules::new(proxies, exceptions)
    }

    #[test]
    fn kind_follows_the_scheme() {
        let rules = rules("");
        let proxy = |scheme| {
            rules
                .lookup(scheme, "evc.example", 443)
                .map(ToString::to_string)
        };
        assert_eq!(proxy("http").as_deref(), Some("web.example:3128"));
        assert_eq!(proxy("https").as_deref(), Some("tls.example:3129"));
        assert_eq!(proxy("ftp"), None);
        assert_eq!(
            ProxyRules::default().lookup("https", "evc.example", 443),
            None
        );
    }

    #[test]
    fn exceptions() {
        // (list, host, port, goes past the proxy)
        let table = [
            ("foo.com", "foo.com", 443, true),
            ("foo.com", "bar.foo.com", 443, true),
            ("foo.com", "FOO.com.", 443, true),
            ("foo.com", "barfoo.com", 443, false),
            (".foo.com", "foo.com", 443, false),
            (".foo.com", "bar.foo.com", 443, true),
            ("*.foo.com", "foo.com", 443, false),
            ("*.foo.com", "a.b.foo.com", 443, true),
            ("foo.com:8443", "foo.com", 443, false),
            ("foo.com:8443", "foo.com", 8443, true),
            ("foo.com:nonsense", "foo.com", 443, false),
            ("10.0.0.0/8", "10.1.2.3", 443, true),
            ("10.0.0.0/8", "11.1.2.3", 443, false),
            ("10.0.0.0/8", "host.10.0.0.0", 443, false),
            ("10.1.2.3", "10.1.2.3", 443, true),
            ("10.1.2.3:80", "10.1.2.3", 443, false),
            ("10.1.2.3:443", "10.1.2.3", 443, true),
            ("10.1.2.3", "[::ffff:10.1.2.3]", 443, true),
            ("2001:db8::/32", "[2001:db8::7]", 443, true),
            ("2001:db8::7", "2001:db8::7", 443, true),
            ("[2001:db8::7]:443", "[2001:db8::7]", 443, true),
            ("[2001:db8::7]:444", "[2001:db8::7]", 443, false),
            ("*", "anything.example", 1, true),
            (
                " a.example , ,b.example  c.example ",
                "c.example",
                443,
                true,
            ),
            ("", "localhost", 443, true),
            ("", "127.0.0.9", 443, true),
            ("", "[::1]", 443, true),
            ("", "evc.example", 443, false),
            (".", "evc.example", 443, false),
        ];
        for (list, host, port, past) in table {
            let direct = rules(list).lookup("https", host, port).is_none();
            assert_eq!(direct, past, "NO_PROXY={list:?} {host}:{port}");
        }
    }

    #[test]
    fn entries_are_checked() {
        let url = |server, port| Proxy::new(ProxyKind::Http, server, port).map(|p| p.address.url());
        assert_eq!(
            url("proxy.example", 3128).unwrap(),
            "http://proxy.example:3128"
        );
        assert_eq!(
            url("http://proxy.example:8080/", 0).unwrap(),
            "http://proxy.example:8080"
        );
        assert_eq!(url("proxy.example", 0).unwrap(), "http://proxy.example:80");
        assert_eq!(
            url("2001:db8::1", 3128).unwrap(),
            "http://[2001:db8::1]:3128"
        );
        assert!(url("https://proxy.example", 0).is_err());
        assert!(url("http://proxy.example/x", 0).is_err());
        assert!(url("", 1).is_err());
        assert!(url("a b", 1).is_err());
        let with_login = Proxy::new(ProxyKind::Http, "http://u:p@proxy.example:1", 0).unwrap();
        assert_eq!(with_login.address.login(), Some(("u", "p")));
        assert_eq!(with_login.address.to_string(), "proxy.example:1");
        assert!(!format!("{with_login:?}").contains("\"p\""));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(list in ".{0,60}", host in ".{0,30}", port: u16) {
            let _ = rules(&list).lookup("https", &host, port);
        }

        #[test]
        fn a_prefix_covers_exactly_its_addresses(bits in 0u8..=32, base: [u8; 4], host: [u8; 4]) {
            let net = ipnet::Ipv4Net::new(base.into(), bits).unwrap().trunc();
            let host = std::net::Ipv4Addr::from(host);
            let direct = rules(&net.to_string()).lookup("https", &host.to_string(), 443).is_none();
            prop_assert_eq!(direct, net.contains(&host) || host.is_loopback());
        }
    }
}
