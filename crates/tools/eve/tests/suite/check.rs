//! `eve check`: verdicts on facts, and the command on a directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use eve::{
    Device,
    check::{
        Check, Fact, Facts, Outcome, checks_text, evaluate,
        facts::{
            Case, ConfigFacts, DnsFact, Identity, KeyFile, Memory, Process, Saved, Socket, Space,
            Validity, WayFact,
        },
        sandbox_rows, sandbox_text,
    },
    snapshot::Supervisor,
};
use jiff::SignedDuration;
use listeners::{
    Place::{self, Frames, Path, Port},
    Protocol::{self, Packet, Tcp, Udp, Udp6, Unix},
};
use model::{
    access::Way,
    code::Code,
    domain::Accelerator,
    node::BootReason,
    port::DhcpLease,
    security::{ControllerCert, ControllerCertKind, KeyKeeper, TpmSanityStatus},
    vault::VaultPhase,
};
use supervisor::calls::Network;
use units::ids;

use crate::{access::shut, device::*};

fn valid(days: i64) -> Validity {
    Validity {
        not_before: before(86_400),
        not_after: now() + SignedDuration::from_hours(24 * days),
    }
}

fn identity(days: i64) -> Identity {
    Identity {
        validity: valid(days),
        key: Fact::Known(()),
    }
}

fn key(name: &'static str) -> KeyFile {
    KeyFile {
        name,
        mode: 0o640,
        gid: ids::KEYS_GID,
    }
}

/// Bits of CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW.
const CAPABILITIES: u64 = 1 << 10 | 1 << 12 | 1 << 13;

/// The process of a unit as its row of the table says.
fn process(unit: &str) -> Process {
    let row = supervisor::table::SERVICES
        .iter()
        .find(|row| row.name == unit);
    let bits = match unit {
        "nim" | "zedrouter" | "zedrouter/dns-bn1" => CAPABILITIES,
        // Chown, DacOverride, Fowner.
        "accessmgr" => 1 << 1,
        "domainmgr" | "vaultmgr" => 1 | 1 << 1 | 1 << 3,
        _ => 0,
    };
    Process {
        pid: 1000,
        uid: row.map_or(ids::GUEST_UID_FIRST, supervisor::table::Service::uid),
        gid: if row.is_some() {
            ids::EVE_GID
        } else {
            ids::GUESTS_GID
        },
        groups: row.map(|row| row.groups.to_vec()).unwrap_or_default(),
        effective: bits,
        bounding: bits,
        no_new_privileges: true,
        seccomp: 2,
        filters: Some(3),
        interfaces: Some(match row.map(|row| row.network) {
            Some(Network::Nothing) => BTreeSet::from(["lo".to_owned()]),
            Some(Network::Local | Network::Screen | Network::Internet | Network::Everything)
            | None => BTreeSet::from(["eth0".to_owned(), "lo".to_owned()]),
        }),
        memory_limit: None,
    }
}

/// What is seen of a device on which all is well.
fn well(device: &Device) -> Facts {
    let space = Space {
        total: 10 << 30,
        available: 7 << 30,
        inodes: 1000,
        inodes_free: 900,
        read_only: false,
    };
    let programs = [
        "conntrack",
        "dnsmasq",
        "nft",
        "qemu-img",
        "qemu-system-x86_64",
    ];
    let units = device.services.rows.keys();
    Facts {
        not_live: None,
        config: ConfigFacts {
            server: Fact::Known("evc.example".to_owned()),
            partition: Fact::Known(()),
            root: Fact::Known(vec![valid(3000), valid(400)]),
            tls_roots: Fact::Skipped("CONFIG has none; the root certificate is used".to_owned()),
            onboarding: Fact::Known(identity(500)),
            device: Fact::Known(identity(7000)),
            keys: vec![key("onboard.key.pem")],
            chain: Fact::Known(()),
        },
        persist: Fact::Known(space),
        run: Fact::Known(space),
        durable_write: Fact::Known(Duration::from_millis(4)),
        saved_config: Fact::Known(Saved {
            bytes: 1100,
            at: before(1900),
        }),
        volume_files: Fact::Known(vec![format!("{VOLUME}.qcow2")]),
        cases: Fact::Known(Vec::new()),
        tpm: Fact::Known("version 2".to_owned()),
        watchdog: Fact::Known("/dev/watchdog".to_owned()),
        memory: Fact::Known(Memory {
            total: 4 << 30,
            available: 3 << 30,
        }),
        cpus: Fact::Known(2),
        landlock: Fact::Known(5),
        programs: programs
            .iter()
            .map(|name| (*name, Fact::Known(format!("/usr/bin/{name}").into())))
            .collect(),
        firmware: Fact::Known("/usr/share/OVMF/OVMF_CODE_4M.fd".into()),
        interfaces: Fact::Known(["lo", "eth0"].map(str::to_owned).into()),
        forwarding: Fact::Known(true),
        dns: vec![DnsFact {
            port: "mgmt".to_owned(),
            server: "10.0.0.1".parse().unwrap(),
            source: "10.0.0.7".parse().unwrap(),
            name: "evc.example".to_owned(),
            answer: Fact::Known((vec!["192.0.2.1".parse().unwrap()], Duration::from_millis(3))),
        }],
        ways: vec![WayFact {
            port: "mgmt".to_owned(),
            source: "10.0.0.7".parse().unwrap(),
            proxy: None,
            connect: Fact::Known("192.0.2.1:443 in 1 ms".to_owned()),
            tls: Fact::Known("accepted".to_owned()),
            ping: Fact::Known("answered in 5 ms".to_owned()),
        }],
        no_way: None,
        datastores: BTreeMap::from([(
            STORE.to_owned(),
            Fact::Known("192.0.2.2:443 in 1 ms over mgmt".to_owned()),
        )]),
        processes: units
            .map(|unit| (unit.clone(), Fact::Known(process(unit))))
            .collect(),
        sockets: Fact::Known(vec![
            listens(
                Some("supervisor"),
                Unix,
                Path("/dev/root/run/supervisor/supervisor.sock".into()),
            ),
            listens(
                Some("supervisor"),
                Unix,
                Path("/dev/root/run/supervisor/notify/nim".into()),
            ),
            listens(
                Some("supervisor"),
                Unix,
                Path("/dev/root/run/supervisor/notify/zedagent".into()),
            ),
            listens(Some("nim"), Packet, Frames(0x0800)),
            listens(
                Some("zedrouter/dnsmasq-bn1"),
                Udp,
                Port("10.11.12.1:53".parse().unwrap()),
            ),
            listens(
                Some("zedrouter/dnsmasq-bn1"),
                Tcp,
                Port("10.11.12.1:53".parse().unwrap()),
            ),
            listens(
                Some("accessmgr/ssh"),
                Tcp,
                Port("0.0.0.0:22".parse().unwrap()),
            ),
        ]),
        root: "/dev/root".into(),
    }
}

/// A socket of a unit.
fn listens(unit: Option<&str>, protocol: Protocol, place: Place) -> Socket {
    Socket {
        socket: listeners::Socket {
            protocol,
            place,
            inode: 1,
        },
        unit: unit.map(str::to_owned),
        pid: Some(7),
        program: None,
    }
}

/// A device on which all is well, with what the others leave out.
fn device() -> Device {
    with(|d| {
        d.supervisor = Supervisor::Answers;
        let cert = |kind| ControllerCert {
            kind,
            pem: String::new(),
            hash: String::new(),
            not_after: now() + SignedDuration::from_hours(24 * 800),
        };
        one(
            &mut d.controller_certs,
            "a",
            cert(ControllerCertKind::Signing),
        );
        one(
            &mut d.controller_certs,
            "b",
            cert(ControllerCertKind::EcdhExchange),
        );
        one(
            &mut d.leases,
            "eth0",
            DhcpLease {
                if_name: "eth0".parse().unwrap(),
                address: "10.0.0.7/24".parse().unwrap(),
                gateways: Vec::new(),
                dns_servers: Vec::new(),
                ntp_servers: Vec::new(),
                domain_name: String::new(),
                mtu: None,
                server: "10.0.0.1".parse().unwrap(),
                obtained: before(600),
                obtained_uptime: 0,
                lease_seconds: 3600,
                renew_seconds: 1800,
                rebind_seconds: 3000,
            },
        );
        d.node.rows.get_mut("nodeagent").unwrap().boot_reason = BootReason::First;
        for way in Way::ALL {
            one(&mut d.access, way.key(), shut(way));
        }
    })
}

fn text(device: &Device, facts: &Facts) -> String {
    checks_text(PLAIN, &evaluate(device, facts), false)
}

/// Only what is amiss.
pub(crate) fn amiss(spoil: impl FnOnce(&mut Device, &mut Facts)) -> String {
    let mut d = device();
    let mut facts = well(&d);
    spoil(&mut d, &mut facts);
    checks_text(PLAIN, &evaluate(&d, &facts), true)
}

#[test]
fn a_device_on_which_all_is_well_and_one_that_was_just_unpacked() {
    let d = device();
    let empty = bare();
    let cases = [
        ("all is well", text(&d, &well(&d))),
        (
            "nothing was published, nothing was looked at",
            text(&empty, &Facts::default()),
        ),
    ];
    golden("check", &cases);
    let all = evaluate(&d, &well(&d));
    let unknown: Vec<&Check> = all
        .iter()
        .filter(|check| check.result >= Outcome::Warn)
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn every_check_answers_whatever_was_seen() {
    let d = device();
    for (device, facts) in [
        (&d, well(&d)),
        (&d, Facts::default()),
        (&bare(), Facts::default()),
    ] {
        let answered = evaluate(device, &facts);
        for spec in eve::check::CATALOGUE {
            assert!(
                answered.iter().any(|check| check.number == spec.number),
                "{}",
                spec.id
            );
        }
    }
}

#[test]
fn what_is_wrong_is_told_with_a_remedy() {
    let failed = |why: &str| why.to_owned();
    let cases = vec![
        (
            "certificates: expired, ending, of another key",
            amiss(|d, f| {
                f.config.root = Fact::Known(vec![valid(40)]);
                f.config.device = Fact::Known(Identity {
                    validity: valid(7000),
                    key: Fact::Failed(
                        "the device key does not belong to the device certificate".to_owned(),
                    ),
                });
                f.config.onboarding = Fact::Known(identity(-3));
                f.config.keys = vec![KeyFile {
                    mode: 0o644,
                    ..key("device.key.pem")
                }];
                d.controller_certs.rows.get_mut("a").unwrap().not_after = before(7200);
                d.controller_certs.rows.remove("b");
                f.config.chain =
                    Fact::Failed("certificate 0 does not lead to the root: expired".to_owned());
            }),
        ),
        (
            "the clock stands at 1970",
            amiss(|d, _| d.at = jiff::Timestamp::UNIX_EPOCH),
        ),
        (
            "the device key is a file",
            amiss(|_, f| {
                f.tpm = Fact::Failed("there is no TPM".to_owned());
                f.config.keys.push(key("device.key.pem"));
            }),
        ),
        (
            "the device key is a file though there is a TPM",
            amiss(|d, _| {
                let status = TpmSanityStatus {
                    keeper: KeyKeeper::Software,
                    unused_tpm: true,
                    ..TpmSanityStatus::default()
                };
                d.tpm.rows.insert("global".to_owned(), status);
            }),
        ),
        (
            "the TPM with the device key does not answer",
            amiss(|d, _| {
                let text = "the TPM does not answer: no answer within 25s";
                let status = TpmSanityStatus {
                    keeper: KeyKeeper::Tpm,
                    fault: Some(fault(Code::TpmDead, "TPM", text)),
                    ..TpmSanityStatus::default()
                };
                d.tpm.rows.insert("global".to_owned(), status);
            }),
        ),
        (
            "network: no interface, no address, DNS and controller silent",
            amiss(|d, f| {
                f.interfaces = Fact::Known(["lo", "enp1s0"].map(str::to_owned).into());
                f.dns[0].answer = Fact::Failed(failed(
                    "evc.example: no answer from the DNS servers of port mgmt (10.0.0.1) within 5s",
                ));
                f.ways[0].connect =
                    Fact::Failed(failed("192.0.2.1:443: Connection refused (os error 111)"));
                f.ways[0].tls = Fact::Skipped(failed("it did not come so far: refused"));
                f.ways[0].ping = Fact::Failed(failed("refused"));
                f.datastores.insert(
                    STORE.to_owned(),
                    Fact::Failed(failed("ds.example: no such name")),
                );
                f.forwarding = Fact::Known(false);
                no_lease(d);
                d.leases.rows.clear();
                d.zedagent.rows.get_mut("zedagent").unwrap().last_contact = Some(before(4000));
            }),
        ),
        (
            "network: overlapping subnets, a bad proxy, an old lease",
            amiss(|d, f| {
                let subnet = Some("192.168.0.0/16".parse().unwrap());
                d.network_instances.rows.get_mut(NETWORK).unwrap().subnet = subnet;
                eth0(d).proxy.https = Some("ftp://proxy".to_owned());
                let lease = d.leases.rows.get_mut("eth0").unwrap();
                lease.obtained = before(3200);
                f.ways.push(WayFact {
                    port: "lte".to_owned(),
                    source: "10.1.0.2".parse().unwrap(),
                    ping: Fact::Failed("code 503".to_owned()),
                    ..f.ways[0].clone()
                });
            }),
        ),
        (
            "storage: read-only, the reserve touched, nobody's files, nothing saved",
            amiss(|d, f| {
                if let Fact::Known(space) = &mut f.persist {
                    space.read_only = true;
                    space.inodes_free = 10;
                }
                d.disk.rows.get_mut("global").unwrap().used_bytes = 9 << 30;
                let vault = d.vault.rows.get_mut("vault").unwrap();
                vault.phase = VaultPhase::Disabled;
                f.volume_files = Fact::Known(vec!["old.img".to_owned()]);
                f.saved_config = Fact::Failed(
                    "/persist/checkpoint/lastconfig: No such file or directory (os error 2)"
                        .to_owned(),
                );
                d.volumes.rows.clear();
                d.volume_configs
                    .rows
                    .get_mut(VOLUME)
                    .unwrap()
                    .max_size_bytes = 20 << 30;
            }),
        ),
        (
            "storage: the vault is locked",
            amiss(|d, _| {
                let text = "the software is not the one that its key is sealed to: PCR 13 differ";
                lock_vault(d, Some(fault(Code::VaultLocked, "vault", text)));
            }),
        ),
        (
            "machine: TCG, too little memory, no program",
            amiss(|d, f| {
                d.capabilities.rows.get_mut("global").unwrap().accelerator = Accelerator::Tcg {
                    reason: "/proc/cpuinfo has neither vmx nor svm".to_owned(),
                };
                f.memory = Fact::Known(Memory {
                    total: 256 << 20,
                    available: 10 << 20,
                });
                f.cpus = Fact::Known(0);
                f.watchdog = Fact::Failed("there is no /dev/watchdog".to_owned());
                f.landlock = Fact::Failed("not supported".to_owned());
                f.programs
                    .insert("nft", Fact::Failed("there is no nft".to_owned()));
                f.firmware = Fact::Failed("there is no /usr/share/OVMF/OVMF_CODE_4M.fd".to_owned());
            }),
        ),
        (
            "services: down, restarted, quarantined, refused reports, power failed",
            amiss(|d, f| {
                down(d, "verifier", 4);
                d.supervisor = Supervisor::Silent;
                let nim = d.services.rows.get_mut("nim").unwrap();
                nim.restarts = 2;
                nim.last_exit = "killed by signal 9".to_owned();
                nim.memory = Some(120 << 20);
                nim.memory_limit = Some(128 << 20);
                d.apps.quarantined.push(APP.to_owned());
                d.apps
                    .unreadable
                    .insert("x".to_owned(), "missing field `Id`".to_owned());
                let report = d.journal.rows.get_mut("device").unwrap();
                report.fault = Some(fault(Code::ReportRefused, "report device", "code 400"));
                d.node.rows.get_mut("nodeagent").unwrap().boot_reason = BootReason::None;
                f.cases = Fact::Known(vec![Case {
                    unit: "nim".to_owned(),
                    at: before(500),
                    reason: "killed by signal 9".to_owned(),
                }]);
            }),
        ),
        (
            "sandbox: root, capabilities, keys, strangers",
            amiss(|d, f| {
                let nodeagent = d.services.rows.get_mut("nodeagent").unwrap();
                nodeagent.memory_limit = Some(128 << 20);
                f.landlock = Fact::Failed("not there".to_owned());
                let spoil = |f: &mut Facts, unit: &str, spoil: &dyn Fn(&mut Process)| {
                    let mut process = process(unit);
                    spoil(&mut process);
                    f.processes.insert(unit.to_owned(), Fact::Known(process));
                };
                spoil(f, "downloader", &|p| p.groups = vec![ids::KEYS_GID]);
                spoil(f, "verifier", &|p| {
                    p.uid = 0;
                    p.gid = 0;
                    p.effective = 1 << 21;
                    p.bounding = (1 << 41) - 1;
                    p.no_new_privileges = false;
                    p.seccomp = 0;
                });
                spoil(f, "nim", &|p| p.effective = 0);
                spoil(f, "reporter", &|p| p.seccomp = 0);
                spoil(f, "nodeagent", &|p| {
                    p.filters = Some(1);
                    p.interfaces = Some(BTreeSet::from(["eth0".to_owned()]));
                    p.memory_limit = Some(None);
                });
                spoil(f, "zedrouter/dns-bn1", &|p| p.uid = 0);
                f.processes.insert(
                    "zedmanager".to_owned(),
                    Fact::Failed("there is no process 7".to_owned()),
                );
                f.sockets = Fact::Known(vec![
                    Socket {
                        pid: Some(4711),
                        program: Some("sshd".to_owned()),
                        ..listens(None, Tcp, Port("0.0.0.0:22".parse().unwrap()))
                    },
                    listens(Some("zedagent"), Udp6, Port("[::]:5353".parse().unwrap())),
                    Socket {
                        pid: None,
                        ..listens(None, Unix, Path("@hidden".into()))
                    },
                ]);
            }),
        ),
    ];
    golden("check-amiss", &cases);
}

#[test]
fn the_sandbox_of_every_unit_is_a_table() {
    let d = device();
    let mut facts = well(&d);
    facts.processes.remove("zedmanager");
    golden(
        "check-sandbox",
        &[("table", sandbox_text(PLAIN, &sandbox_rows(&d, &facts)))],
    );
}
