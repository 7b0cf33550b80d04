//! The plan as a function: what it never does, and where it ends.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use agent::{Action as _, Failure, Job, Jobs, Plan, Service, Turn};
use bus::Rows;
use downloader::{Actual, Desired, Do, Downloader, Files, Limits, subject};
use jiff::Timestamp;
use model::{
    code::Code,
    content::{DatastoreConfig, DatastoreKind, DownloadPhase, DownloaderConfig, DownloaderStatus},
    fault::Fault,
    id::{DatastoreId, Digest},
    port::DeviceNetworkStatus,
};
use proptest::prelude::*;
use uuid::Uuid;

fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

fn datastore(n: u8) -> DatastoreConfig {
    DatastoreConfig {
        id: DatastoreId(Uuid::from_u128(u128::from(n))),
        kind: DatastoreKind::Http,
        fqdn: format!("store{n}"),
        dpath: String::new(),
        region: String::new(),
        certificates_pem: vec![],
        credentials: None,
        fault: None,
    }
}

fn config(n: u8, attempt: u32) -> DownloaderConfig {
    DownloaderConfig {
        sha256: digest(n),
        datastores: vec![datastore(1).id, datastore(2).id],
        relative_url: "x".to_owned(),
        max_bytes: 0,
        attempt,
    }
}

fn network(cost: u8) -> DeviceNetworkStatus {
    let port = |name: &str, mgmt: bool, cost: u8, address: &str| {
        format!(
            r#"{{"IfName": "{name}", "Label": "{name}", "IsMgmt": {mgmt}, "Cost": {cost}, "Addresses": ["{address}"]}}"#
        )
    };
    let ports = [
        port("eth0", true, cost, "10.0.0.2/24"),
        port("eth1", false, 0, "10.1.0.2/24"),
    ];
    serde_json::from_str(&format!(
        r#"{{"DpcKey": "x", "Ports": [{}]}}"#,
        ports.join(",")
    ))
    .unwrap()
}

#[allow(clippy::unnecessary_wraps, reason = "as it is in Desired")]
fn stores(ids: &[u8]) -> Option<Arc<Rows<DatastoreConfig>>> {
    Some(Arc::new(
        ids.iter()
            .map(|n| (datastore(*n).id.to_string(), datastore(*n)))
            .collect(),
    ))
}

#[allow(clippy::unnecessary_wraps, reason = "as it is in Desired")]
fn rows(configs: &[DownloaderConfig]) -> Option<Arc<Rows<DownloaderConfig>>> {
    Some(Arc::new(
        configs
            .iter()
            .map(|c| (c.sha256.to_string(), c.clone()))
            .collect(),
    ))
}

/// What a server does with a request for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Right,
    Wrong,
    Down,
}

#[derive(Debug)]
struct Sim {
    desired: Desired,
    actual: Actual,
    jobs: BTreeMap<String, Job>,
    servers: BTreeMap<Digest, Server>,
    /// Attempts that brought all bytes.
    fetched: Vec<(Digest, u32)>,
}

impl Sim {
    fn new(files: Option<Arc<Rows<DownloaderConfig>>>) -> Self {
        let desired = Desired {
            files,
            datastores: stores(&[1, 2]),
            contexts: None,
            certs: None,
            network: Some(network(0)),
            limits: Limits::default(),
            own: Arc::default(),
        };
        let (actual, jobs, servers) = (Actual::default(), BTreeMap::new(), BTreeMap::new());
        Self {
            desired,
            actual,
            jobs,
            servers,
            fetched: vec![],
        }
    }

    fn plan(&self) -> Plan<Downloader> {
        let jobs = Jobs::of(self.jobs.clone());
        let (now, uptime) = (Timestamp::UNIX_EPOCH, Duration::ZERO);
        Downloader::plan(&Turn {
            desired: &self.desired,
            actual: &self.actual,
            jobs: &jobs,
            now,
            uptime,
        })
    }

    fn row(&self, n: u8) -> &DownloaderStatus {
        &self.desired.own[&digest(n).to_string()]
    }

    fn apply(&mut self, action: &Do) {
        match action {
            Do::Discard(digest) => {
                assert!(
                    self.actual.files.remove(digest).is_some(),
                    "nothing to discard"
                );
            }
            Do::Tidy(digest) => {
                let files = self.actual.files.get_mut(digest).expect("a file");
                assert!(files.complete.is_some(), "bytes to go on from are kept");
                assert!(files.partial.take().is_some(), "nothing to tidy");
            }
            Do::Fetch(order) => {
                let digest = order.file.sha256;
                let files = self.actual.files.entry(digest).or_default();
                assert!(files.complete.is_none(), "fetches what is there");
                let server = self.servers.get(&digest).copied().unwrap_or(Server::Down);
                let code = match server {
                    Server::Right => {
                        *files = Files {
                            complete: Some(("/d".into(), 10)),
                            partial: None,
                        };
                        self.fetched.push((digest, order.file.attempt));
                        return;
                    }
                    Server::Wrong => {
                        self.actual.files.remove(&digest);
                        self.fetched.push((digest, order.file.attempt));
                        Code::VerifyDigest
                    }
                    Server::Down => {
                        files.partial = Some(files.partial.unwrap_or(5));
                        Code::DownloadNetwork
                    }
                };
                let fault =
                    Failure::new(code, subject(digest), "no").into_fault(Timestamp::UNIX_EPOCH);
                self.jobs.insert(action.subject(), Job::Failed(fault));
            }
        }
    }

    /// Turns until only failed actions are left; returns their number.
    fn settle(&mut self) -> usize {
        for turn in 0..12 {
            let Plan {
                report, actions, ..
            } = self.plan();
            let same = *self.desired.own == report.files;
            self.desired.own = Arc::new(report.files);
            // As the runtime: what is no longer planned is forgotten.
            self.jobs
                .retain(|subject, _| actions.iter().any(|a| a.subject() == *subject));
            let fresh: Vec<Do> = actions
                .into_iter()
                .filter(|a| !self.jobs.contains_key(&a.subject()))
                .collect();
            if fresh.is_empty() && same {
                return turn;
            }
            for action in &fresh {
                self.apply(action);
            }
        }
        panic!("does not settle: {self:#?}");
    }
}

#[test]
fn nothing_is_removed_before_volumemgr_has_spoken() {
    let mut sim = Sim::new(None);
    sim.actual.files.insert(
        digest(1),
        Files {
            complete: Some(("/d".into(), 10)),
            partial: None,
        },
    );
    sim.actual.files.insert(
        digest(2),
        Files {
            complete: None,
            partial: Some(4),
        },
    );
    sim.settle();
    assert!(matches!(
        sim.row(1).phase,
        DownloadPhase::Downloaded { size_bytes: 10, .. }
    ));
    assert_eq!(sim.row(2).phase, DownloadPhase::Waiting { done_bytes: 4 });
    sim.desired.files = rows(&[config(1, 0)]);
    assert_eq!(sim.plan().actions, [Do::Discard(digest(2))]);
}

#[test]
fn a_new_attempt_throws_away_what_the_former_one_brought() {
    let mut sim = Sim::new(rows(&[config(1, 0)]));
    sim.servers.insert(digest(1), Server::Right);
    sim.settle();
    sim.desired.files = rows(&[config(1, 1)]);
    let plan = sim.plan();
    assert_eq!(plan.actions, [Do::Discard(digest(1))]);
    let row = &plan.report.files[&digest(1).to_string()];
    assert_eq!(
        (row.attempt, &row.phase),
        (0, &DownloadPhase::Waiting { done_bytes: 0 })
    );
    sim.settle();
    assert_eq!(sim.row(1).attempt, 1);
    assert_eq!(sim.fetched, [(digest(1), 0), (digest(1), 1)]);
    // After a reboot nobody knows which attempt it was.
    sim.desired.own = Arc::default();
    sim.desired.files = rows(&[config(1, 0)]);
    sim.settle();
    assert!(matches!(sim.row(1).phase, DownloadPhase::Downloaded { .. }));
    assert_eq!(sim.fetched.len(), 2);
}

#[test]
fn a_wrong_digest_ends_the_attempt_also_across_a_restart() {
    let mut sim = Sim::new(rows(&[config(1, 0)]));
    sim.servers.insert(digest(1), Server::Wrong);
    sim.settle();
    let fault = sim.row(1).fault.clone().unwrap();
    assert_eq!((fault.code, fault.next), (Code::VerifyDigest, None));
    sim.jobs.clear();
    assert_eq!(sim.plan().actions, []);
    sim.desired.files = None;
    sim.settle();
    assert_eq!(sim.row(1).fault.as_ref(), Some(&fault));
    sim.desired.files = rows(&[config(1, 1)]);
    sim.servers.insert(digest(1), Server::Right);
    sim.settle();
    assert!(matches!(sim.row(1).phase, DownloadPhase::Downloaded { .. }));
}

#[test]
fn what_blocks_a_fetch_is_told_and_costs_no_try() {
    let mut sim = Sim::new(rows(&[config(1, 0)]));
    let told = |sim: &mut Sim| {
        sim.settle();
        assert!(sim.fetched.is_empty() && sim.actual.files.is_empty());
        sim.row(1).fault.as_ref().map(|f| (f.code, f.text.clone()))
    };
    sim.desired.network = Some(network(3));
    let (code, text) = told(&mut sim).unwrap();
    assert!(
        code == Code::DownloadNetwork && text.contains("costs more than 0"),
        "{text}"
    );
    sim.desired.network = None;
    assert_eq!(told(&mut sim), None, "nim has not spoken");
    sim.desired.network = Some(network(0));
    sim.desired.datastores = None;
    assert_eq!(told(&mut sim), None, "zedagent has not spoken");
    sim.desired.datastores = stores(&[3]);
    assert_eq!(told(&mut sim).unwrap().0, Code::ConfigReference);
    let mut broken = datastore(1);
    broken.fault = Some(Fault::new(
        Code::ConfigInvalid,
        "datastore 1",
        "no host",
        Timestamp::UNIX_EPOCH,
    ));
    sim.desired.datastores = Some(Arc::new([(broken.id.to_string(), broken)].into()));
    let (code, text) = told(&mut sim).unwrap();
    assert!(code == Code::ConfigInvalid && text.contains("no host"));
}

#[test]
fn datastores_keep_their_order_and_ports_of_no_use_do_not_disturb() {
    let mut sim = Sim::new(rows(&[config(1, 0)]));
    let before = sim.plan().actions;
    let Do::Fetch(order) = &before[0] else {
        panic!("{before:?}")
    };
    let names: Vec<&str> = order.datastores.iter().map(|d| d.fqdn.as_str()).collect();
    assert_eq!(names, ["store1", "store2"]);
    assert_eq!(
        order
            .ports
            .iter()
            .map(|p| p.ifname.as_str())
            .collect::<Vec<_>>(),
        ["eth0"]
    );
    let network = sim.desired.network.as_mut().unwrap();
    network.ports[1].addresses.clear();
    network.dpc_key = "other".to_owned();
    assert_eq!(sim.plan().actions, before);
    sim.desired.network.as_mut().unwrap().ports[0].addresses = vec!["10.0.0.9/24".parse().unwrap()];
    assert_ne!(sim.plan().actions, before);
}

#[test]
fn a_fetch_in_the_making_says_how_far_it_is_and_over_which_port() {
    let mut sim = Sim::new(rows(&[config(1, 0)]));
    let running = |note: &str| Job::Running {
        since: Timestamp::UNIX_EPOCH,
        after: None,
        progress: agent::Progressed {
            done: 3,
            total: 9,
            note: note.to_owned(),
        },
    };
    sim.jobs.insert(subject(digest(1)), running("eth0"));
    let row = &sim.plan().report.files[&digest(1).to_string()];
    assert_eq!(
        (row.port.as_str(), &row.phase),
        (
            "eth0",
            &DownloadPhase::Downloading {
                done_bytes: 3,
                total_bytes: 9
            }
        )
    );
    sim.jobs.insert(subject(digest(1)), running(""));
    let row = &sim.plan().report.files[&digest(1).to_string()];
    assert_eq!(row.phase, DownloadPhase::Waiting { done_bytes: 0 });
}

fn servers() -> impl Strategy<Value = Server> {
    prop_oneof![Just(Server::Right), Just(Server::Wrong), Just(Server::Down)]
}

proptest! {
    /// From any state it settles with what is asked for, and nothing that is wanted is lost.
    #[test]
    fn settles_from_any_state(
        known: bool,
        wanted in proptest::collection::btree_map(0u8..6, 0u32..3, 0..6),
        complete in proptest::collection::btree_set(0u8..6, 0..6),
        partial in proptest::collection::btree_map(0u8..6, 0u64..9, 0..6),
        servers in proptest::collection::btree_map(0u8..6, servers(), 0..6),
        own in proptest::collection::btree_map(0u8..6, (0u32..3, any::<bool>()), 0..6),
        online: bool,
    ) {
        let configs: Vec<_> = wanted.iter().map(|(n, attempt)| config(*n, *attempt)).collect();
        let mut sim = Sim::new(if known { rows(&configs) } else { None });
        for n in &complete {
            sim.actual.files.entry(digest(*n)).or_default().complete = Some(("/d".into(), 10));
        }
        for (n, bytes) in &partial {
            sim.actual.files.entry(digest(*n)).or_default().partial = Some(*bytes);
        }
        sim.servers = servers.iter().map(|(n, s)| (digest(*n), *s)).collect();
        let old = own.iter().map(|(n, (attempt, wrong))| {
            let fault = wrong.then(|| Fault::new(Code::VerifyDigest, subject(digest(*n)), "no", Timestamp::UNIX_EPOCH));
            let phase = DownloadPhase::Waiting { done_bytes: 0 };
            (digest(*n).to_string(), DownloaderStatus { sha256: digest(*n), attempt: *attempt, phase, port: String::new(), fault })
        });
        sim.desired.own = Arc::new(old.collect());
        if !online {
            sim.desired.network = None;
        }
        let before = (sim.actual.clone(), Arc::clone(&sim.desired.own));

        sim.settle();
        prop_assert_eq!(sim.settle(), 0, "a further turn does something");
        if !known {
            prop_assert_eq!(&sim.actual, &before.0);
            return Ok(());
        }
        prop_assert_eq!(sim.desired.own.len(), configs.len());
        prop_assert!(sim.actual.files.keys().all(|d| configs.iter().any(|c| c.sha256 == *d)));
        for config in &configs {
            let row = &sim.desired.own[&config.sha256.to_string()];
            prop_assert_eq!(row.attempt, config.attempt);
            let former = before.1.get(&config.sha256.to_string());
            let same_attempt = former.is_none_or(|row| row.attempt == config.attempt);
            let had = before.0.files.get(&config.sha256).is_some_and(|f| f.complete.is_some());
            let known_wrong = former.is_some_and(|row| row.attempt == config.attempt && row.fault.is_some());
            match &row.phase {
                DownloadPhase::Downloaded { .. } => {
                    let fetched = sim.fetched.contains(&(config.sha256, config.attempt));
                    prop_assert!(fetched || (had && same_attempt));
                    prop_assert_eq!(sim.actual.files[&config.sha256].partial, None);
                }
                DownloadPhase::Waiting { .. } => {
                    prop_assert!(!(had && same_attempt), "lost what was there");
                    let fine = !online || row.fault.is_some();
                    prop_assert!(fine, "{row:?}");
                    let right = sim.servers.get(&config.sha256) == Some(&Server::Right);
                    prop_assert!(!right || known_wrong || !online);
                }
                DownloadPhase::Downloading { .. } => prop_assert!(false, "{row:?}"),
            }
        }
    }
}
