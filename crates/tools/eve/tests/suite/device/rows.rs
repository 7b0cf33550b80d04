//! Names, times and the filling of tables.

use eve::{Device, Snapshot, device::Table, snapshot::Supervisor};
use jiff::{SignedDuration, Timestamp};
use model::{
    code::Code,
    fault::Fault,
    id::{AppId, ContentTreeId, DatastoreId, Digest, LogicalLabel, NetworkInstanceId, VolumeKey},
    port::{PortAddressing, PortStatus, ProxyConfig},
    service::{ServicePhase, ServiceStatus},
};

pub(crate) const APP: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
pub(crate) const VOLUME: &str = "11111111-1111-4111-8111-111111111111#0";
pub(crate) const TREE: &str = "22222222-2222-4222-8222-222222222222";
pub(crate) const STORE: &str = "33333333-3333-4333-8333-333333333333";
pub(crate) const NETWORK: &str = "44444444-4444-4444-8444-444444444444";
pub(crate) const DIGEST: &str = "3a7bd3e2360a3d29eea436fcfb7e44c735d117c42d1c1835420b6b9942dd4f1b";
pub(crate) const SERVICES: [&str; 12] = [
    "nim",
    "nodeagent",
    "zedagent",
    "vaultmgr",
    "downloader",
    "verifier",
    "volumemgr",
    "zedrouter",
    "domainmgr",
    "zedmanager",
    "reporter",
    "accessmgr",
];

/// The moment that everything is seen from.
pub(crate) fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

/// So many seconds before (or, negative, after) it.
pub(crate) fn before(seconds: i64) -> Timestamp {
    now()
        .checked_sub(SignedDuration::from_secs(seconds))
        .unwrap()
}

/// A fault that is 200 s old, was tried 4 times, and is tried again in 552 s.
pub(crate) fn fault(code: Code, object: &str, text: &str) -> Fault {
    Fault {
        transient: true,
        attempts: 4,
        next: Some(before(-552)),
        ..Fault::new(code, object, text, before(200))
    }
}

pub(crate) fn app() -> AppId {
    APP.parse().unwrap()
}
pub(crate) fn volume() -> VolumeKey {
    VOLUME.parse().unwrap()
}
pub(crate) fn digest() -> Digest {
    DIGEST.parse().unwrap()
}
pub(crate) fn tree() -> ContentTreeId {
    TREE.parse().unwrap()
}
pub(crate) fn store() -> DatastoreId {
    STORE.parse().unwrap()
}
pub(crate) fn network() -> NetworkInstanceId {
    NETWORK.parse().unwrap()
}

/// Nothing was ever published.
pub(crate) fn bare() -> Device {
    Device::of(&Snapshot {
        at: now(),
        supervisor: Supervisor::Answers,
        topics: std::collections::BTreeMap::new(),
    })
}

pub(crate) fn fill<T>(table: &mut Table<T>, rows: impl IntoIterator<Item = (String, T)>) {
    table.known = true;
    table.ready = true;
    table.rows.extend(rows);
}

pub(crate) fn one<T>(table: &mut Table<T>, key: &str, row: T) {
    fill(table, [(key.to_owned(), row)]);
}

pub(crate) fn unit(name: &str, phase: ServicePhase) -> (String, ServiceStatus) {
    let status = ServiceStatus {
        name: name.to_owned(),
        phase,
        restarts: 0,
        uid: 900,
        memory: Some(12 << 20),
        memory_limit: Some(128 << 20),
        status_text: String::new(),
        last_exit: String::new(),
        last_exit_at: None,
        fault: None,
    };
    (name.to_owned(), status)
}

pub(crate) fn running(pid: u32, seconds: i64) -> ServicePhase {
    ServicePhase::Running {
        pid,
        since: before(seconds),
    }
}

pub(crate) fn port(name: &str, label: &str, cost: u8) -> PortStatus {
    PortStatus {
        if_name: name.parse().unwrap(),
        label: LogicalLabel(label.to_owned()),
        is_mgmt: true,
        cost,
        addressing: PortAddressing::Dhcp,
        mac: None,
        link_up: true,
        addresses: vec!["192.168.1.17/24".parse().unwrap()],
        gateways: vec!["192.168.1.1".parse().unwrap()],
        dns_servers: vec!["192.168.1.1".parse().unwrap()],
        ntp_servers: Vec::new(),
        domain_name: String::new(),
        proxy: ProxyConfig::default(),
        mtu: 1500,
        route_table: 501,
        fault: None,
    }
}
