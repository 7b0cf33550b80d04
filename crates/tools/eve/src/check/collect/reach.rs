//! Real DNS queries and connections, each from the address of a port, as services make them.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use controller::{
    ApiVersion, ConfigPartition, Controller, ControllerCerts, Keeper, Keys as _, Phase, Problem,
    client::Timers,
};
use model::content::{DatastoreConfig, DatastoreKind};
use tokio::{net::TcpSocket, task::JoinSet, time::timeout};
use uplink::{Attempt, Choice, Hosts, Port, Reason, attempts};

use crate::{
    Device,
    check::{
        Fact, Facts,
        facts::{DnsFact, WayFact},
    },
};

/// For a lookup or a connection.
const DIAL: Duration = Duration::from_secs(5);
/// For a whole request.
const SEND: Duration = Duration::from_secs(15);

pub(super) fn look(root: &Path, device: &Device, facts: &mut Facts) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(ask(root, device, facts)),
        Err(error) => facts.no_way = Some(format!("no runtime: {error}")),
    }
}

async fn ask(root: &Path, device: &Device, facts: &mut Facts) {
    let Some(network) = device.ports() else {
        facts.no_way = Some("nim has published no port".to_owned());
        return;
    };
    let (mut ports, _) = uplink::ports(network);
    // A port that failed its last test is worth asking above all.
    for port in &mut ports {
        port.failed = false;
    }
    let ways = match attempts(&ports, &Choice::any_cost(0)) {
        Ok(ways) => ways,
        Err(error) => {
            facts.no_way = Some(error.to_string());
            return;
        }
    };
    // All at once: a dead server costs its timeout once.
    let server = facts.config.server.known().cloned();
    let to_controller = async {
        match server {
            Some(server) => controller(root, device, &server, &ports, &ways).await,
            None => Err("CONFIG does not name the controller".to_owned()),
        }
    };
    let (datastores, reached) = tokio::join!(stores(device, &ways), to_controller);
    facts.datastores = datastores;
    match reached {
        Ok(reached) => {
            facts.dns = reached.dns;
            facts.ways = reached.ways;
            if facts.dns.is_empty() {
                facts.no_way = Some("the controller's address needs no DNS".to_owned());
            }
        }
        Err(why) => facts.no_way = Some(why),
    }
}

/// What was found on the ways to the controller.
struct Reached {
    dns: Vec<DnsFact>,
    ways: Vec<WayFact>,
}

async fn controller(
    root: &Path,
    device: &Device,
    server: &str,
    ports: &[Port],
    ways: &[Attempt],
) -> Result<Reached, String> {
    let (host, port) =
        host_and_port(server, 443).ok_or_else(|| format!("{server} is not host[:port]"))?;
    let partition = ConfigPartition::read(&root.join("config"));
    let hosts = partition
        .as_ref()
        .map(|partition| Arc::new(partition.hosts.clone()))
        .unwrap_or_default();
    let own = client(root, device, partition);
    let mut set = JoinSet::new();
    for (index, way) in ways.iter().cloned().enumerate() {
        let client = own.clone().map(|client| over(client, ports, &way));
        let (host, hosts) = (host.clone(), Arc::clone(&hosts));
        set.spawn(async move { (index, reach(&way, &host, port, hosts, client).await) });
    }
    let (dns, mut found) = tokio::join!(dns(ways, &host, &hosts), set.join_all());
    found.sort_by_key(|(index, _)| *index);
    Ok(Reached {
        dns,
        ways: found.into_iter().map(|(_, way)| way).collect(),
    })
}

/// `host`, `host:port`, `[v6]:port`.
fn host_and_port(text: &str, default: u16) -> Option<(String, u16)> {
    let url = uplink::reqwest::Url::parse(&format!("https://{text}/")).ok()?;
    let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
    let has_port = text
        .trim_end_matches('/')
        .rsplit_once(':')
        .is_some_and(|(before, port)| {
            port.parse::<u16>().is_ok() && (!before.contains(':') || before.ends_with(']'))
        });
    let port = if has_port {
        url.port_or_known_default()?
    } else {
        default
    };
    Some((host, port))
}

async fn dns(ways: &[Attempt], host: &str, hosts: &Arc<Hosts>) -> Vec<DnsFact> {
    if host.parse::<IpAddr>().is_ok() {
        return Vec::new();
    }
    let mut set = JoinSet::new();
    let mut count = 0;
    for way in ways {
        for server in &way.dns {
            let mut way = way.clone();
            way.dns = vec![*server];
            let (server, index, name) = (*server, count, host.to_owned());
            let fixed = !hosts.lookup(host).is_empty();
            count += 1;
            set.spawn(async move {
                let begun = Instant::now();
                let answer = uplink::lookup(&way, Arc::default(), &name, DIAL).await;
                let answer = match answer {
                    Ok(addresses) => Fact::Known((addresses, begun.elapsed())),
                    Err(error) if fixed => Fact::Skipped(format!(
                        "CONFIG's hosts file has the name; the server: {error}"
                    )),
                    Err(error) => Fact::Failed(error.to_string()),
                };
                let fact = DnsFact {
                    port: way.port,
                    server: server.server.ip(),
                    source: server.source,
                    name,
                    answer,
                };
                (index, fact)
            });
        }
    }
    let mut found = set.join_all().await;
    found.sort_by_key(|(index, _)| *index);
    found.into_iter().map(|(_, fact)| fact).collect()
}

/// The device's own client, with its key.
fn client(
    root: &Path,
    device: &Device,
    partition: Result<ConfigPartition, controller::PartitionError>,
) -> Result<Controller, String> {
    let text = |error: &dyn std::error::Error| match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    let partition = partition.map_err(|error| text(&error))?;
    let key = Keeper::of(root).device().map_err(|error| text(&error))?;
    let mut client = Controller::new(&partition, key, "", root).map_err(|error| text(&error))?;
    if let Some(row) = device.onboarding.get("global") {
        client.set_uuid(row.device.map(|id| id.0));
        if row.api_v1 {
            client.set_version(ApiVersion::V1);
        }
    }
    let saved = fs::read(root.join("persist/checkpoint/controllercerts"));
    if let Ok(bytes) = saved
        && let Ok(certs) = ControllerCerts::verify(&bytes, client.signing_roots(), device.at)
    {
        client.set_certs(Some(Arc::new(certs)));
    }
    client.set_timers(Timers {
        dial: DIAL,
        send: SEND,
    });
    Ok(client)
}

/// The same over one source address of one port.
fn over(mut client: Controller, ports: &[Port], way: &Attempt) -> Controller {
    let mut chosen: Vec<Port> = ports
        .iter()
        .filter(|port| port.ifname == way.ifname)
        .cloned()
        .collect();
    for port in &mut chosen {
        port.addresses = vec![way.source];
    }
    let _ = client.set_ports(chosen);
    client
}

async fn reach(
    way: &Attempt,
    host: &str,
    port: u16,
    hosts: Arc<Hosts>,
    client: Result<Controller, String>,
) -> WayFact {
    let proxy = way
        .proxies
        .lookup("https", host, port)
        .map(ToString::to_string);
    let target = match &proxy {
        None => Some((host.to_owned(), port)),
        Some(proxy) => host_and_port(proxy, 3128),
    };
    let connect = match target {
        Some((host, port)) => connect(way, &host, port, &hosts).await,
        None => Fact::Failed("the proxy's address makes no sense".to_owned()),
    };
    let (tls, ping) = match client {
        Err(why) => (Fact::Skipped(why.clone()), Fact::Skipped(why)),
        Ok(client) => {
            let begun = Instant::now();
            match client.ping().await {
                Ok(_) => (
                    Fact::Known("accepted".to_owned()),
                    Fact::Known(format!("answered in {} ms", begun.elapsed().as_millis())),
                ),
                Err(failure) => failed(&failure),
            }
        }
    };
    WayFact {
        port: way.port.clone(),
        source: way.source,
        proxy,
        connect,
        tls,
        ping,
    }
}

/// How far a ping came that failed.
fn failed(failure: &controller::Failure) -> (Fact<String>, Fact<String>) {
    let Some(error) = failure.decisive() else {
        let why = failure.to_string();
        return (Fact::Skipped(why.clone()), Fact::Skipped(why));
    };
    let why = match &error.problem {
        Problem::Transport(transport) if transport.reason == Reason::TimedOut => {
            let (what, limit) = match transport.phase {
                uplink::Phase::Dns => ("no answer of the DNS servers", DIAL),
                uplink::Phase::Tls => ("the TLS handshake did not end", DIAL),
                uplink::Phase::Proxy => ("no answer of the proxy", DIAL),
                uplink::Phase::Setup | uplink::Phase::Connect => ("no connection", DIAL),
                uplink::Phase::Http | uplink::Phase::Body => ("no answer", SEND),
            };
            format!("{what} within {} s", limit.as_secs())
        }
        other => other.to_string(),
    };
    match error.problem.phase() {
        Phase::Setup | Phase::Dns | Phase::Connect | Phase::Proxy => {
            let text = format!("it did not come so far: {why}");
            (Fact::Skipped(text.clone()), Fact::Failed(why))
        }
        Phase::Tls => (Fact::Failed(why.clone()), Fact::Failed(why)),
        Phase::Http | Phase::Envelope => (Fact::Known("accepted".to_owned()), Fact::Failed(why)),
    }
}

/// A TCP connection from the way's source address, names asked of its DNS servers.
async fn connect(way: &Attempt, host: &str, port: u16, hosts: &Arc<Hosts>) -> Fact<String> {
    let addresses = match host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => match uplink::lookup(way, Arc::clone(hosts), host, DIAL).await {
            Ok(addresses) => addresses,
            Err(error) => return Fact::Failed(error.to_string()),
        },
    };
    let Some(address) = addresses
        .iter()
        .find(|address| address.is_ipv4() == way.source.is_ipv4())
    else {
        return Fact::Skipped(format!(
            "{host} has no address of the family of {}",
            way.source
        ));
    };
    let target = SocketAddr::new(*address, port);
    let begun = Instant::now();
    let dial = async {
        let socket = if way.source.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.bind(SocketAddr::new(way.source, 0))?;
        socket.connect(target).await
    };
    match timeout(DIAL, dial).await {
        Ok(Ok(_)) => Fact::Known(format!("{target} in {} ms", begun.elapsed().as_millis())),
        Ok(Err(error)) => Fact::Failed(format!("{target}: {error}")),
        Err(_) => Fact::Failed(format!("{target}: no answer in {} s", DIAL.as_secs())),
    }
}

async fn stores(device: &Device, ways: &[Attempt]) -> BTreeMap<String, Fact<String>> {
    let Some(way) = ways.first() else {
        return BTreeMap::new();
    };
    let mut set = JoinSet::new();
    for (key, store) in &device.datastores.rows {
        let (key, way) = (key.clone(), way.clone());
        let store = store.clone();
        set.spawn(async move { (key, datastore(&store, &way).await) });
    }
    set.join_all().await.into_iter().collect()
}

async fn datastore(store: &DatastoreConfig, way: &Attempt) -> Fact<String> {
    let (scheme, default) = match store.kind {
        DatastoreKind::Http => ("http", 80),
        DatastoreKind::Sftp => return Fact::Skipped("this version has no SFTP".to_owned()),
        DatastoreKind::Https
        | DatastoreKind::S3
        | DatastoreKind::ContainerRegistry
        | DatastoreKind::AzureBlob
        | DatastoreKind::GoogleStorage => ("https", 443),
    };
    let (scheme, rest) = store
        .fqdn
        .split_once("://")
        .unwrap_or((scheme, &store.fqdn));
    let default = if scheme == "http" { 80 } else { default };
    let Some((host, port)) = host_and_port(rest.trim_end_matches('/'), default) else {
        return Fact::Failed(format!("{} is not host[:port]", store.fqdn));
    };
    if let Some(proxy) = way.proxies.lookup(scheme, &host, port) {
        return Fact::Skipped(format!("it is reached through proxy {proxy}"));
    }
    match connect(way, &host, port, &Arc::default()).await {
        Fact::Known(text) => Fact::Known(format!("{text} over {}", way.port)),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_and_without_ports() {
        let parsed = |text| host_and_port(text, 3128);
        assert_eq!(
            parsed("evc.example"),
            Some(("evc.example".to_owned(), 3128))
        );
        assert_eq!(
            parsed("evc.example:443"),
            Some(("evc.example".to_owned(), 443))
        );
        assert_eq!(parsed("[fd00::1]:8443"), Some(("fd00::1".to_owned(), 8443)));
        assert_eq!(parsed("[fd00::1]"), Some(("fd00::1".to_owned(), 3128)));
        assert_eq!(parsed("10.0.0.1:80"), Some(("10.0.0.1".to_owned(), 80)));
        assert_eq!(parsed(""), None);
    }
}
