//! Names asked of a port's own DNS servers, from the port's own addresses.
//!
//! The device has no single resolver: the same name may exist behind one port only, and
//! a dead port's servers must not slow down another port. Only addresses of the source
//! address's family are asked for, because no other could be connected to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
    ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;

use crate::choice::{Attempt, DnsServer};
use crate::hosts::Hosts;
use crate::stage::{Begun, Stage};

/// Why a name has no address.
#[derive(Debug, Clone, Error)]
pub enum DnsError {
    /// The port has no server that could be asked.
    #[error("{name}: port {port} has no DNS server")]
    NoServers {
        /// Name asked for.
        name: String,
        /// The port.
        port: String,
    },
    /// The servers say that there is no such name, or it has no address of our family.
    #[error("{name}: no such name with an {family} address, says the DNS of port {port}")]
    NotFound {
        /// Name asked for.
        name: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// The port.
        port: String,
    },
    /// No server answered in time.
    #[error("{name}: no answer from the DNS servers of port {port} ({servers}) within {time:?}")]
    TimedOut {
        /// Name asked for.
        name: String,
        /// The port.
        port: String,
        /// The servers.
        servers: String,
        /// Time allowed for all of them.
        time: Duration,
    },
    /// Something else went wrong with the servers.
    #[error("{name}: the DNS servers of port {port} ({servers}) failed: {why}")]
    Failed {
        /// Name asked for.
        name: String,
        /// The port.
        port: String,
        /// The servers.
        servers: String,
        /// The resolver's words.
        why: String,
    },
}

/// Asks the DNS servers of one attempt for the addresses of `name` in the family of the attempt's source, in
/// their order; each gets an equal share of `timeout`. Names in `hosts` are not asked for.
pub async fn lookup(
    attempt: &Attempt,
    hosts: Arc<Hosts>,
    name: &str,
    timeout: Duration,
) -> Result<Vec<IpAddr>, DnsError> {
    PortResolver::new(attempt, hosts, timeout, Arc::default())
        .lookup(name)
        .await
}

/// The resolver of one attempt.
pub(crate) struct PortResolver {
    port: String,
    dns: Vec<DnsServer>,
    v4: bool,
    hosts: Arc<Hosts>,
    timeout: Duration,
    stage: Arc<Stage>,
}

impl PortResolver {
    pub(crate) fn new(
        attempt: &Attempt,
        hosts: Arc<Hosts>,
        timeout: Duration,
        stage: Arc<Stage>,
    ) -> Self {
        Self {
            port: attempt.port.clone(),
            dns: attempt.dns.clone(),
            v4: attempt.source.is_ipv4(),
            hosts,
            timeout,
            stage,
        }
    }

    async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, DnsError> {
        let fixed: Vec<IpAddr> = self.ours(self.hosts.lookup(name).iter().copied());
        if !fixed.is_empty() {
            return Ok(fixed);
        }
        if self.dns.is_empty() {
            return Err(DnsError::NoServers {
                name: name.to_owned(),
                port: self.port.clone(),
            });
        }
        self.ask_in_turn(name).await
    }

    /// Each server gets an equal share of the time; "no such name" of one lets the next one
    /// speak, because split DNS is common.
    async fn ask_in_turn(&self, name: &str) -> Result<Vec<IpAddr>, DnsError> {
        let share = self.timeout / u32::try_from(self.dns.len()).unwrap_or(u32::MAX);
        let mut worst = None;
        for server in &self.dns {
            let error = match self.ask(server, name, share).await {
                Ok(found) if !found.is_empty() => return Ok(found),
                Ok(_) => self.not_found(name),
                Err(error) => self.explain(name, &error),
            };
            // A server that answered "no" tells more than one that did not answer.
            if !matches!(worst, Some(DnsError::NotFound { .. })) {
                worst = Some(error);
            }
        }
        Err(worst.unwrap_or_else(|| self.not_found(name)))
    }

    async fn ask(
        &self,
        server: &DnsServer,
        name: &str,
        time: Duration,
    ) -> Result<Vec<IpAddr>, NetError> {
        let resolver = self.build(server, time)?;
        let answer = tokio::time::timeout(time, resolver.lookup_ip(name))
            .await
            .unwrap_or(Err(NetError::Timeout))?;
        Ok(self.ours(answer.iter()))
    }

    fn ours(&self, addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
        addresses.filter(|ip| ip.is_ipv4() == self.v4).collect()
    }

    fn build(&self, server: &DnsServer, time: Duration) -> Result<TokioResolver, NetError> {
        let mut options = ResolverOpts::default();
        // A lost datagram is sent again once.
        options.timeout = time / 2;
        options.attempts = 1;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.ip_strategy = if self.v4 {
            LookupIpStrategy::Ipv4Only
        } else {
            LookupIpStrategy::Ipv6Only
        };
        TokioResolver::builder_with_config(
            ResolverConfig::from_name_servers(vec![name_server(server)]),
            TokioRuntimeProvider::default(),
        )
        .with_options(options)
        .build()
    }

    fn not_found(&self, name: &str) -> DnsError {
        let family = if self.v4 { "IPv4" } else { "IPv6" };
        DnsError::NotFound {
            name: name.to_owned(),
            family,
            port: self.port.clone(),
        }
    }

    fn explain(&self, name: &str, error: &NetError) -> DnsError {
        let servers: Vec<String> = self
            .dns
            .iter()
            .map(|dns| dns.server.ip().to_string())
            .collect();
        let (name, port, servers) = (name.to_owned(), self.port.clone(), servers.join(", "));
        match error {
            _ if error.is_no_records_found() => self.not_found(&name),
            NetError::Timeout => DnsError::TimedOut {
                name,
                port,
                servers,
                time: self.timeout,
            },
            other => DnsError::Failed {
                name,
                port,
                servers,
                why: other.to_string(),
            },
        }
    }
}

fn name_server(dns: &DnsServer) -> NameServerConfig {
    let bound = |mut connection: ConnectionConfig| {
        connection.port = dns.server.port();
        connection.bind_addr = Some(SocketAddr::new(dns.source, 0));
        connection
    };
    let connections = vec![
        bound(ConnectionConfig::udp()),
        bound(ConnectionConfig::tcp()),
    ];
    NameServerConfig::new(dns.server.ip(), true, connections)
}

/// What reqwest wants: shared, `'static`.
pub(crate) struct SharedResolver(pub(crate) Arc<PortResolver>);

impl Resolve for SharedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = Arc::clone(&self.0);
        Box::pin(async move {
            resolver.stage.begin(Begun::Lookup);
            let found = resolver.lookup(name.as_str()).await?;
            resolver.stage.begin(Begun::Connect);
            // The port number comes from the URL.
            let addresses: Addrs = Box::new(found.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}
