//! What a service can't do once it is taken over, seen from inside: `examples/probe.rs` runs as the service's
//! binary under the very row of the table, and tries. Where the answer is "no", a "yes" beside it shows that the
//! question was asked well.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use supervisor::calls::{Calls, Network};
use supervisor::table::{SERVICES, Service};
use units::{Client, Output, Paths, UnitSpec, Units, UnitsError, ids};

use crate::device::{Device, block_as, name, uid, until};

/// `EACCES`, as the probe says it.
const DENIED: &str = "no, Permission denied (os error 13)";
const NOT_PERMITTED: &str = "no, Operation not permitted (os error 1)";
const ABSENT: &str = "no, Function not implemented (os error 38)";
const NO_FAMILY: &str = "no, Address family not supported by protocol (os error 97)";
/// `SIGSYS`, in the words of the bus.
const KILLED: &str = "killed by signal 31";

/// The example, which cargo builds with the tests.
fn probe() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let built = deps.parent().unwrap().parent().unwrap();
    let probe = built.join("examples/probe");
    assert!(probe.exists(), "cargo build -p supervisor --example probe");
    probe
}

/// A device whose services are probes.
fn device(services: &[&str], prepare: impl FnOnce(&Path)) -> Device {
    Device::start_probes(services, &probe(), prepare)
}

/// Lets a service try things; its answers, in order.
fn answers(device: &Device, service: &str, orders: &[String]) -> Vec<String> {
    order(device, service, orders);
    let log = || device.log(service);
    until(&format!("{service} has tried all: {}", log()), || {
        log().contains("done\n") || log().lines().count() > orders.len()
    });
    let log = log();
    let lines = log.lines().zip(orders);
    lines
        .map(|(line, order)| {
            let answer = line.strip_prefix(&format!("{order}: "));
            answer
                .unwrap_or_else(|| panic!("{order}: {log}"))
                .to_owned()
        })
        .collect()
}

fn order(device: &Device, service: &str, orders: &[String]) {
    let dir = device.root().join("etc/probe");
    let new = dir.join(".new");
    fs::write(&new, orders.join("\n")).unwrap();
    fs::rename(new, dir.join(service)).unwrap();
}

/// Asks, and compares with what is expected.
fn expect(device: &Device, service: &str, expected: &[(String, &str)]) {
    let orders: Vec<_> = expected.iter().map(|(order, _)| order.clone()).collect();
    let answers = answers(device, service, &orders);
    let got: Vec<_> = orders.iter().zip(&answers).collect();
    let wanted: Vec<_> = expected
        .iter()
        .map(|(order, answer)| (order, *answer))
        .collect();
    let got: Vec<_> = got
        .iter()
        .map(|(order, answer)| (*order, answer.as_str()))
        .collect();
    assert_eq!(got, wanted, "{service}");
}

/// A file that belongs to a service and its group, readable and writable to both.
fn file(path: &Path, owner: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "content").unwrap();
    chown(path, Some(uid(owner)), Some(ids::EVE_GID)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).unwrap();
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn the_downloader_reaches_neither_keys_nor_the_topics_of_others() {
    let device = device(&["downloader", "zedagent", ids::KEEPER], |root| {
        for key in ["device.key.pem", "onboard.key.pem"] {
            fs::write(root.join("config").join(key), "key").unwrap();
        }
        fs::write(root.join("config/root-certificate.pem"), "certificate").unwrap();
    });
    let at = |path: &str| device.root().join(path).display().to_string();
    let topic = "run/zedagent/DatastoreConfig";
    file(&device.root().join(format!("{topic}/x.json")), "zedagent");
    expect(
        &device,
        "downloader",
        &[
            (format!("read {}", at("config/root-certificate.pem")), "yes"),
            (format!("read {}", at("config/device.key.pem")), DENIED),
            (format!("read {}", at("config/onboard.key.pem")), DENIED),
            (format!("list {}", at("config")), DENIED),
            (format!("read {}", at(&format!("{topic}/x.json"))), "yes"),
            (format!("open {}", at(&format!("{topic}/x.json"))), DENIED),
            (format!("make {}", at(&format!("{topic}/y.json"))), DENIED),
            (format!("make {}", at("run/.bus-tmp/zedagent/y")), DENIED),
            (format!("make {}", at("run/downloader/y")), "yes"),
            (
                format!(
                    "move {} {}",
                    at("run/downloader/y"),
                    at(&format!("{topic}/y.json"))
                ),
                DENIED,
            ),
            (
                format!("make {}", at("persist/vault/downloader/downloads/y")),
                "yes",
            ),
            (
                format!("make {}", at("persist/vault/verifier/verified/y")),
                DENIED,
            ),
        ],
    );
    // Whoever speaks with the controller signs without its key.
    expect(
        &device,
        "zedagent",
        &[(format!("read {}", at("config/device.key.pem")), DENIED)],
    );
    expect(
        &device,
        ids::KEEPER,
        &[(format!("read {}", at("config/device.key.pem")), "yes")],
    );
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn the_verifier_has_no_network() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    let device = device(&["verifier", "downloader"], |_| ());
    let internet = [
        (format!("tcp {address}"), "yes"),
        (format!("udp {address}"), "yes"),
        ("socket 16 3".to_owned(), NO_FAMILY),
        ("socket 17 3".to_owned(), NO_FAMILY),
    ];
    expect(&device, "downloader", &internet);
    // Internet, netlink, packet, vsock, kernel crypto; the namespace is empty whatever else fails.
    let mut nothing: Vec<_> = [2, 10, 16, 17, 40, 38]
        .iter()
        .flat_map(|family| [1, 2, 3].map(|kind| (format!("socket {family} {kind}"), NO_FAMILY)))
        .collect();
    nothing.extend([
        (format!("tcp {address}"), NO_FAMILY),
        (format!("udp {address}"), NO_FAMILY),
        ("listen 0.0.0.0:0".to_owned(), NO_FAMILY),
        ("call io_uring_setup".to_owned(), ABSENT),
        ("interfaces 1".to_owned(), "yes"),
        ("socket 1 1".to_owned(), "yes"),
    ]);
    expect(&device, "verifier", &nothing);
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn zedrouter_can_not_read_volumes_not_even_by_a_unit_of_its_own() {
    let device = device(&["zedrouter", "volumemgr"], |_| ());
    let root = device.root();
    let volume = root.join("persist/vault/volumemgr/volumes/v.qcow2");
    file(&volume, "volumemgr");
    let at = |path: &str| root.join(path).display().to_string();
    let read = format!("read {}", volume.display());
    expect(
        &device,
        "zedrouter",
        &[
            (read.clone(), DENIED),
            (format!("open {}", volume.display()), DENIED),
            (
                format!("list {}", at("persist/vault/volumemgr/volumes")),
                DENIED,
            ),
            (format!("make {}", at("run/zedrouter-net/x")), "yes"),
        ],
    );
    expect(&device, "volumemgr", &[(read, "yes")]);

    let ask = |spec: UnitSpec| {
        block_as("zedrouter", || async {
            let client = Client::connect(&root).unwrap();
            client.start(spec.clone()).await?;
            let state = client.wait(&spec.name).await?;
            Ok::<_, UnitsError>(state.last_exit.unwrap().kind.to_string())
        })
    };
    let script = format!("cat {} && echo it can", volume.display());
    let unit = |number: u32, paths: Option<Paths>| {
        let unit = name(&format!("zedrouter/cat{number}"));
        let mut spec = UnitSpec::new(unit, "/bin/sh", uid("zedrouter")).args(["-c", &script]);
        spec.sandbox.paths = paths;
        spec
    };
    let reading = |path: PathBuf| {
        Some(Paths {
            read: vec![path],
            ..Paths::default()
        })
    };
    for paths in [
        None,
        reading(root.join("persist/vault/volumemgr/volumes")),
        reading("/".into()),
    ] {
        let refused = ask(unit(0, paths));
        assert!(
            matches!(refused, Err(UnitsError::Refused { .. })),
            "{refused:?}"
        );
    }
    let mut output = unit(1, Some(Paths::default()));
    output.output = Output::File(volume.clone());
    assert!(matches!(ask(output), Err(UnitsError::Refused { .. })));
    // A link from where its units may go to where they may not.
    let link = root.join("run/zedrouter-net/link");
    symlink(root.join("persist/vault/volumemgr/volumes"), &link).unwrap();
    assert_eq!(
        ask(unit(2, reading(link.clone()))).unwrap(),
        "exited with code 1"
    );
    assert!(!device.log("zedrouter/cat2").contains("it can"));
    let mut output = unit(3, Some(Paths::default()));
    output.output = Output::File(link.join("v.qcow2"));
    assert!(ask(output).unwrap().contains("can't open the output"));
    assert_eq!(fs::read_to_string(&volume).unwrap(), "content");
}

/// The row of newlogd; until there is one, a row that has as little as a service for logs.
fn logger() -> &'static Service {
    let row = |name: &str| SERVICES.iter().find(|service| service.name == name);
    row("newlogd").or_else(|| row("nodeagent")).unwrap()
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn a_compromised_log_service_publishes_nothing_but_its_own() {
    let own = logger().name;
    let device = device(&[own, "zedmanager"], |_| ());
    let root = device.root();
    let at = |path: &str| root.join(path).display().to_string();
    let topic = "run/zedmanager/DomainConfig";
    file(&root.join(format!("{topic}/x.json")), "zedmanager");
    let orders = [
        (format!("make {}", at(&format!("run/{own}/y"))), "yes"),
        (format!("read {}", at(&format!("{topic}/x.json"))), "yes"),
        (format!("open {}", at(&format!("{topic}/x.json"))), DENIED),
        (format!("remove {}", at(&format!("{topic}/x.json"))), DENIED),
        (format!("make {}", at(&format!("{topic}/y.json"))), DENIED),
        (format!("make {}", at(&format!("{topic}/ready"))), DENIED),
        (format!("make {}", at("run/zedmanager/Other")), DENIED),
        (format!("make {}", at("run/.bus-tmp/zedmanager/y")), DENIED),
        (
            format!("make {}", at("persist/status/zedmanager/y")),
            DENIED,
        ),
        (format!("read {}", at("config/device.key.pem")), DENIED),
        (
            format!(
                "move {} {}",
                at(&format!("run/{own}/y")),
                at(&format!("{topic}/y.json"))
            ),
            DENIED,
        ),
    ];
    fs::write(root.join("config/device.key.pem"), "key").unwrap();
    fs::set_permissions(
        root.join("config/device.key.pem"),
        fs::Permissions::from_mode(0o640),
    )
    .unwrap();
    expect(&device, own, &orders);
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn no_service_reaches_the_process_of_another_user() {
    let all: Vec<_> = SERVICES.iter().map(|service| service.name).collect();
    let device = device(&all, |_| ());
    for service in SERVICES {
        // All services but this one, and root.
        let own = uid(service.name);
        let mut orders = vec![("thread".to_owned(), "yes")];
        for (first, last) in [
            (0, 0),
            (ids::EVE_GID, own - 1),
            (own + 1, ids::EVE_GID + 100),
        ] {
            let none = !SERVICES
                .iter()
                .any(|other| (first..=last).contains(&uid(other.name)));
            if none && first != 0 {
                continue;
            }
            orders.push((format!("signal user {first} {last}"), NOT_PERMITTED));
            orders.push((format!("memory user {first} {last}"), DENIED));
        }
        let forks = if service.calls.has_processes() {
            "yes"
        } else {
            ABSENT
        };
        orders.push(("call fork".to_owned(), forks));
        let runs = if service.calls.has_processes() && !service.calls.starts_programs() {
            DENIED
        } else {
            forks
        };
        orders.push(("run /bin/true".to_owned(), runs));
        for absent in ["userfaultfd", "io_uring_setup", "clone3"] {
            orders.push((format!("call {absent}"), ABSENT));
        }
        if service.calls != Calls::Guests {
            orders.push(("call seccomp".to_owned(), ABSENT));
        }
        if service.network == Network::Nothing {
            orders.push(("interfaces 1".to_owned(), "yes"));
        }
        expect(&device, service.name, &orders);
    }
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn an_attack_by_system_call_ends_the_service_and_is_seen() {
    let all: Vec<_> = SERVICES.iter().map(|service| service.name).collect();
    let device = device(&all, |_| ());
    let calls = [
        "ptrace",
        "process_vm_readv",
        "mount",
        "umount2",
        "chroot",
        "init_module",
        "kexec_load",
        "bpf",
        "perf_event_open",
        "keyctl",
        "unshare",
        "setns",
        "clone-newuser",
        "reboot",
    ];
    // Every service tries ptrace and one of the others.
    for (index, service) in all.iter().enumerate() {
        let attack = |call: &str| order(&device, service, &[format!("call {call}")]);
        let exits = || {
            let status = device.status(service);
            status.map_or((0, String::new()), |status| {
                (status.restarts, status.last_exit)
            })
        };
        attack("ptrace");
        until(&format!("{service} is killed"), || exits().0 >= 1);
        attack(calls[1 + index % (calls.len() - 1)]);
        until(&format!("{service} is killed again"), || exits().0 >= 2);
        assert!(exits().1.contains(KILLED), "{service}: {:?}", exits());
        let log = device.log(service);
        assert!(log.starts_with("call ptrace: "), "{log}");
        assert!(
            !log.contains("yes") && !log.contains("no, "),
            "{service}: {log}"
        );
        assert!(!device.evidence(service).is_empty(), "{service}");
        order(&device, service, &[]);
    }
}

/// What a taken-over QEMU tries. Perl, because what runs as a unit of domainmgr lies in the system's directories.
const GUEST: &str = r#"use Socket; $| = 1;
my ($root, $own, $other, $port) = @ARGV;
sub say_it { my ($what, $done) = @_; print "$what: ", ($done ? "yes" : "no, $!"), "\n"; }
sub opens { my ($what, $mode, $path) = @_; say_it($what, open(my $f, $mode, $path)); }
opens('own disk read', '<', $own); opens('own disk write', '+<', $own);
opens('other disk read', '<', $other); opens('other disk write', '>>', $other);
say_it('list volumes', opendir(my $v, "$root/persist/vault/volumemgr/volumes"));
say_it('list the bus', opendir(my $b, "$root/run/zedmanager"));
opens('read the bus', '<', "$root/run/zedmanager/DomainConfig/x.json");
opens('write the bus', '>', "$root/run/zedmanager/DomainConfig/y.json");
opens('key', '<', "$root/config/device.key.pem"); opens('certificate', '<', "$root/config/x.pem");
my $s;
sub unix { socket($s, AF_UNIX, SOCK_STREAM, 0) and connect($s, sockaddr_un($_[0])); }
say_it('supervisor', unix("$root/run/supervisor/supervisor.sock"));
sub tcp { socket($s, AF_INET, SOCK_STREAM, 0) and connect($s, pack_sockaddr_in($_[0], inet_aton('127.0.0.1'))); }
sub listens { socket($s, AF_INET, SOCK_STREAM, 0) and bind($s, pack_sockaddr_in($_[0], INADDR_LOOPBACK)); }
say_it('connect', tcp($port)); say_it('screen', listens(5999)); say_it('listen', listens(5899));
say_it('datagrams', socket(my $d, AF_INET, SOCK_DGRAM, 0)); say_it('packets', socket(my $p, 17, SOCK_RAW, 0));
say_it('signal', kill('KILL', getppid())); say_it('fork', defined(my $c = fork()));
exec('/bin/true') or say_it('shell', 0);
"#;

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn a_taken_over_qemu_reaches_neither_bus_nor_keys_nor_the_disk_of_another_guest() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port().to_string();
    let device = device(
        &["domainmgr", "zedmanager", "volumemgr", "zedagent"],
        |root| {
            fs::write(root.join("config/device.key.pem"), "key").unwrap();
            fs::write(root.join("config/x.pem"), "certificate").unwrap();
        },
    );
    let root = device.root();
    file(
        &root.join("run/zedmanager/DomainConfig/x.json"),
        "zedmanager",
    );
    let disk = |number: u32| {
        let path = root.join(format!("persist/vault/volumemgr/volumes/{number}.qcow2"));
        file(&path, "volumemgr");
        chown(&path, Some(ids::GUEST_UID_FIRST + number), None).unwrap();
        path
    };
    let (own, other) = (disk(1), disk(2));
    let guest = |rules: Vec<PathBuf>, unit: &str| {
        let mut spec = UnitSpec::new(name(unit), "/usr/bin/perl", ids::GUEST_UID_FIRST + 1).args([
            "-e".to_owned(),
            GUEST.to_owned(),
            root.display().to_string(),
            own.display().to_string(),
            other.display().to_string(),
            port.clone(),
        ]);
        spec.sandbox.gid = ids::GUESTS_GID;
        spec.sandbox.paths = Some(Paths {
            write: rules,
            ..Paths::default()
        });
        block_as("domainmgr", || async {
            let client = Client::connect(&root).unwrap();
            client.start(spec.clone()).await.unwrap();
            client.wait(&spec.name).await.unwrap();
        });
        device.log(unit)
    };
    let rest = "list volumes: no, Permission denied\nlist the bus: no, Permission denied\n\
        read the bus: no, Permission denied\nwrite the bus: no, Permission denied\nkey: no, Permission denied\n\
        certificate: no, Permission denied\nsupervisor: no, Permission denied\n\
        connect: no, Permission denied\nscreen: yes\nlisten: no, Permission denied\n\
        datagrams: no, Address family not supported by protocol\n\
        packets: no, Address family not supported by protocol\nsignal: no, Operation not permitted\n\
        fork: no, Function not implemented\nshell: no, Permission denied\n";
    let disks = "own disk read: yes\nown disk write: yes\n\
        other disk read: no, Permission denied\nother disk write: no, Permission denied\n";
    assert_eq!(
        guest(vec![own.clone()], "domainmgr/one"),
        format!("{disks}{rest}")
    );
    // Without Landlock's help (the rules allow all volumes): the user alone keeps guests apart.
    let all = guest(
        vec![root.join("persist/vault/volumemgr/volumes")],
        "domainmgr/two",
    );
    assert_eq!(all, format!("{disks}{rest}"));
}

#[test]
#[cfg_attr(not(has_qemu), ignore = "needs root and qemu-system-x86")]
fn qemu_runs_in_its_class_with_its_own_filter_and_a_screen() {
    use std::io::{Read, Write};
    let device = device(&["domainmgr"], |_| ());
    let root = device.root();
    let home = root.join("run/hypervisor/kvm/one");
    fs::create_dir_all(&home).unwrap();
    chown(&home, Some(ids::GUEST_UID_FIRST), Some(ids::GUESTS_GID)).unwrap();
    let qmp = home.join("qmp");
    let socket = format!("unix:{},server=on,wait=off", qmp.display());
    let arguments = "-nodefaults -no-user-config -machine q35,accel=tcg -m 64 -display none -device VGA \
        -vnc 127.0.0.1:97 -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny -qmp";
    let mut spec = UnitSpec::new(
        name("domainmgr/one"),
        "/usr/bin/qemu-system-x86_64",
        ids::GUEST_UID_FIRST,
    )
    .args(arguments.split_whitespace())
    .args([socket]);
    spec.sandbox.gid = ids::GUESTS_GID;
    spec.sandbox.paths = Some(Paths {
        write: vec![home.clone()],
        ..Paths::default()
    });
    block_as("domainmgr", || async {
        Client::connect(&root).unwrap().start(spec).await.unwrap();
    });
    let mut greeting = [0; 4];
    until(
        &format!("it shows its screen: {}", device.log("domainmgr/one")),
        || {
            std::net::TcpStream::connect("127.0.0.1:5997")
                .and_then(|mut screen| screen.read_exact(&mut greeting))
                .is_ok()
        },
    );
    assert_eq!(&greeting, b"RFB ");
    let mut control = std::os::unix::net::UnixStream::connect(qmp).unwrap();
    control
        .write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"quit\"}\n")
        .unwrap();
    until("it quits when told to", || {
        let status = device.status("domainmgr/one").unwrap();
        status.last_exit.contains("exited with code 0")
    });
}
