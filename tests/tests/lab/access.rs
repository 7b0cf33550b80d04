//! No way in: nobody gets into a device but by a key of its config, for as long as it stands there.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::{linux::net::SocketAddrExt, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::Result;
use demo::{Options, Stage, View};
use lab::Netns;
use model::{
    access::{AccessPhase, AccessReason, AccessStatus},
    code::Code,
    topics::{ACCESS_STATUS, CONFIG_ITEMS, SERVICE_STATUS},
};
use serde_json::Value;
use units::{
    Client, Units as _, UnitsError, ids,
    login::{self, Login},
};

use crate::support::{PATIENCE, deploy_app, onboarded, pid};

/// A pair of keys of somebody, made by the real tool.
struct Person {
    file: PathBuf,
    public: String,
    fingerprint: String,
}

impl Person {
    fn new(dir: &Path, name: &str, kind: &str) -> Self {
        let file = dir.join(name);
        let made = Command::new("ssh-keygen")
            .args(["-q", "-N", "", "-C", name, "-t", kind, "-f"])
            .arg(&file)
            .status();
        assert!(made.unwrap().success());
        let told = run(Command::new("ssh-keygen").arg("-lf").arg(&file));
        Self {
            public: fs::read_to_string(file.with_extension("pub"))
                .unwrap()
                .trim()
                .to_owned(),
            fingerprint: text(&told).split(' ').nth(1).unwrap().to_owned(),
            file,
        }
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

/// Where somebody sits who tries to get in, and what he knows.
struct Attempt {
    outside: Netns,
    device: IpAddr,
    known_hosts: PathBuf,
}

impl Attempt {
    fn at(stage: &Stage) -> Self {
        Self {
            outside: stage.outside(),
            device: stage.device_address(),
            known_hosts: stage.world().dir().join("known_hosts"),
        }
    }

    fn command(&self, person: &Person, more: &[&str]) -> Command {
        let mut command = Command::new("ssh");
        command
            .args([
                "-F",
                "none",
                "-o",
                "IdentitiesOnly=yes",
                "-o",
                "BatchMode=yes",
            ])
            .args(["-o", "StrictHostKeyChecking=accept-new"])
            .args(["-o", "ConnectTimeout=5", "-o"])
            .arg(format!("UserKnownHostsFile={}", self.known_hosts.display()))
            .arg("-i")
            .arg(&person.file)
            .args(more);
        command
    }

    fn ssh(&self, person: &Person, more: &[&str]) -> Output {
        let mut command = self.command(person, more);
        self.outside.run(|| run(&mut command)).unwrap()
    }

    fn root(&self) -> String {
        format!("root@{}", self.device)
    }

    /// The words of a command on the device.
    fn says(&self, person: &Person, words: &str) -> String {
        text(&self.ssh(person, &[&self.root(), words]))
    }

    fn is_in(&self, person: &Person) -> bool {
        let output = self.ssh(person, &[&self.root(), "id -u"]);
        output.stdout == b"0\n"
    }

    fn is_denied(&self, person: &Person) -> bool {
        self.says(person, "id -u").contains("Permission denied")
    }

    /// Whether nobody listens at all.
    fn is_closed(&self) -> bool {
        let address = SocketAddr::new(self.device, login::SSH_PORT);
        let connected = self
            .outside
            .run(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)))
            .unwrap();
        connected.is_err()
    }

    /// Comes in and stays.
    fn session(&self, person: &Person) -> Session {
        let mut command = self.command(person, &[&self.root(), "echo in; exec cat"]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = self.outside.run(|| command.spawn()).unwrap().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut session = Session { child, out };
        assert_eq!(session.line(), "in\n");
        session
    }
}

/// Somebody who is in.
struct Session {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Session {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    /// The device still answers.
    fn lives(&mut self) -> bool {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(b"hello\n").is_ok() && self.line() == "hello\n"
    }

    fn ends_within(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if self.child.try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ssh_status(stage: &Stage) -> Result<AccessStatus> {
    let rows = stage.bus()?.read(&ACCESS_STATUS)?.unwrap_or_default();
    let row = rows.get("ssh").cloned();
    row.ok_or_else(|| anyhow::anyhow!("accessmgr has not spoken"))
}

fn authorize(stage: &Stage, people: &[&Person]) {
    let keys: Vec<&str> = people.iter().map(|person| person.public.as_str()).collect();
    set_keys(stage, &keys.join("\\n"));
}

/// A description is the whole of the device's properties.
fn set_keys(stage: &Stage, keys: &str) {
    let properties = [("timer.config.interval", "5"), ("debug.enable.ssh", keys)];
    stage.set_properties("edge", &properties).unwrap();
}

fn wait(stage: &Stage, what: &str, done: impl FnMut() -> Result<bool>) {
    stage.wait(what, PATIENCE, done).unwrap();
}

/// What sshd said last.
fn sshd_says(stage: &Stage) -> String {
    let log = stage.device().root().join("persist/log/accessmgr+ssh.log");
    fs::read_to_string(log).unwrap_or_default()
}

fn is_open_for(stage: &Stage, people: &[&Person]) -> Result<bool> {
    let status = ssh_status(stage)?;
    let keys: Vec<&str> = status.keys.iter().map(|k| k.fingerprint.as_str()).collect();
    let wanted: Vec<&str> = people.iter().map(|p| p.fingerprint.as_str()).collect();
    anyhow::ensure!(
        status.phase == AccessPhase::Open && keys == wanted,
        "{status:?}; sshd: {}",
        sshd_says(stage)
    );
    Ok(true)
}

fn eve(stage: &Stage, arguments: &[&str]) -> Output {
    let mut command = Command::new(Options::of_this_build().unwrap().binaries.join("eve"));
    command
        .args(arguments)
        .arg("--root")
        .arg(stage.device().root());
    run(&mut command)
}

#[test]
fn trust_nobody_gets_in_but_by_a_key_of_the_config_for_as_long_as_it_stands() {
    let stage = onboarded(1);
    let dir = tempfile::tempdir().unwrap();
    let ada = Person::new(dir.path(), "ada", "ed25519");
    let bob = Person::new(dir.path(), "bob", "ecdsa");
    let attempt = Attempt::at(&stage);

    // As it comes: nobody listens, nothing is open.
    wait(&stage, "the doors are shut", || {
        Ok(ssh_status(&stage)?.phase == AccessPhase::Closed)
    });
    let rows = stage.bus().unwrap().read(&ACCESS_STATUS).unwrap().unwrap();
    assert_eq!(rows.len(), 4);
    assert!(rows.values().all(|row| row.phase == AccessPhase::Closed));
    assert!(attempt.is_closed());
    assert!(attempt.says(&ada, "id").contains("Connection refused"));

    authorize(&stage, &[&ada]);
    wait(&stage, "ada may", || is_open_for(&stage, &[&ada]));
    assert!(attempt.is_in(&ada), "{}", attempt.says(&ada, "id -u"));
    assert!(attempt.is_denied(&bob));
    // By no other means, as nobody else, to nowhere else.
    let no_key = [
        "-o",
        "PreferredAuthentications=password,keyboard-interactive,hostbased,gssapi-with-mic",
        &attempt.root(),
        "id",
    ];
    let denied = text(&attempt.ssh(&ada, &no_key));
    assert!(denied.contains("Permission denied (publickey)"), "{denied}");
    let other = format!("nobody@{}", attempt.device);
    let denied = text(&attempt.ssh(&ada, &[&other, "id"]));
    assert!(denied.contains("Permission denied (publickey)"), "{denied}");
    let through = text(&attempt.ssh(&ada, &["-W", "127.0.0.1:22", &attempt.root()]));
    assert!(through.contains("administratively prohibited"), "{through}");
    let back = [
        "-N",
        "-R",
        "0:127.0.0.1:22",
        "-o",
        "ExitOnForwardFailure=yes",
        &attempt.root(),
    ];
    let back = attempt.ssh(&ada, &back);
    assert!(!back.status.success(), "{}", text(&back));
    assert!(
        text(&back).contains("remote port forwarding failed"),
        "{}",
        text(&back)
    );
    let local = [
        "-N",
        "-R",
        "/tmp/x.sock:127.0.0.1:22",
        "-o",
        "ExitOnForwardFailure=yes",
        &attempt.root(),
    ];
    assert!(!attempt.ssh(&ada, &local).status.success());
    let sets = [
        "-o",
        "SetEnv=LD_PRELOAD=/x",
        &attempt.root(),
        "echo [$LD_PRELOAD]",
    ];
    assert_eq!(text(&attempt.ssh(&ada, &sets)).trim(), "[]");

    // Who is in, is known by his key, and stays when this service dies or somebody is added.
    let mut session = attempt.session(&ada);
    wait(&stage, "ada is seen", || {
        let status = ssh_status(&stage)?;
        let keys: Vec<_> = status.sessions.iter().map(|s| s.key.as_deref()).collect();
        Ok(keys == [Some(ada.fingerprint.as_str())])
    });
    let told = text(&eve(&stage, &["status"]));
    assert!(told.contains(&format!("by {}", ada.fingerprint)), "{told}");
    let old = pid(
        &View::read(&stage.bus().unwrap()).unwrap().services,
        "accessmgr",
    )
    .unwrap();
    let mut kill = Command::new("kill");
    kill.args(["-9", &old.to_string()]);
    stage.world().spawn_device("kill", &mut kill).unwrap();
    wait(&stage, "accessmgr comes back", || {
        let services = View::read(&stage.bus()?)?.services;
        Ok(pid(&services, "accessmgr").is_some_and(|new| new != old))
    });
    authorize(&stage, &[&ada, &bob]);
    wait(&stage, "bob may, too", || {
        is_open_for(&stage, &[&ada, &bob])
    });
    assert!(attempt.is_in(&bob));
    assert!(session.lives());

    // A key that stands no longer: its session ends, and it gets nobody in.
    authorize(&stage, &[&bob]);
    assert!(session.ends_within(PATIENCE), "ada is still in");
    wait(&stage, "only bob may", || is_open_for(&stage, &[&bob]));
    assert!(attempt.is_denied(&ada));
    assert!(attempt.is_in(&bob), "{}", attempt.says(&bob, "id"));

    // What can't be read changes nothing and is named.
    let mut session = attempt.session(&bob);
    let bad = format!("{}\\ncommand=\\\"sh\\\" {}", bob.public, ada.public);
    set_keys(&stage, &bad);
    wait(&stage, "it is refused", || {
        let items = stage.bus()?.read(&CONFIG_ITEMS)?.unwrap_or_default();
        Ok(items["global"].errors.contains_key("debug.enable.ssh"))
    });
    let why = text(&eve(&stage, &["why", "config"]));
    assert!(
        why.contains("line 2") && why.contains("config.item"),
        "{why}"
    );
    assert!(attempt.is_denied(&ada));
    assert!(session.lives());

    // Nothing stands: everybody is out, nobody listens.
    authorize(&stage, &[]);
    assert!(session.ends_within(PATIENCE), "bob is still in");
    wait(&stage, "the door is shut", || Ok(attempt.is_closed()));
    wait(&stage, "and said to be", || {
        Ok(ssh_status(&stage)?.phase == AccessPhase::Closed)
    });
    let units = stage.bus().unwrap().read(&SERVICE_STATUS).unwrap().unwrap();
    assert!(units.keys().all(|name| !name.starts_with("accessmgr/")));
    assert!(!login::keys_file(stage.device().root()).exists());

    // The device stays the same one to who comes again, also after a boot.
    stage.device().power_cut().unwrap();
    stage.device().start().unwrap();
    authorize(&stage, &[&bob]);
    wait(&stage, "bob may again", || is_open_for(&stage, &[&bob]));
    assert!(attempt.is_in(&bob), "{}", attempt.says(&bob, "id"));
}

/// As the doorkeeper taken over: asks the supervisor for sshd.
fn asks_for_sshd(stage: &Stage) -> Result<(), UnitsError> {
    use rustix::{process, thread};
    let uid = process::Uid::from_raw(ids::service_uid(ids::DOORKEEPER).unwrap());
    let gid = process::Gid::from_raw(ids::EVE_GID);
    let root = stage.device().root().to_owned();
    let asking = std::thread::spawn(move || {
        thread::set_thread_groups(&[]).unwrap();
        thread::set_thread_res_gid(gid, gid, gid).unwrap();
        thread::set_thread_res_uid(uid, uid, uid).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let client = Client::connect(&root).unwrap();
            let spec = login::spec(&root, &Login::Ssh(login::SSH_PORT)).unwrap();
            client.start(spec).await.map(drop)
        })
    });
    asking.join().unwrap()
}

#[test]
fn trust_remote_access_that_is_disabled_in_config_wins_for_ever() {
    let options = Options::of_this_build().unwrap();
    let stage = Stage::build(&options).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ada = Person::new(dir.path(), "ada", "ed25519");
    stage
        .device()
        .configure("remote_access_disabled", "")
        .unwrap();
    // Nor by the keys that count before the first config.
    stage
        .device()
        .configure("authorized_keys", format!("{}\n", ada.public))
        .unwrap();
    let attempt = Attempt::at(&stage);
    let is_disabled = || {
        let status = ssh_status(&stage)?;
        Ok(status.reason == AccessReason::Disabled && status.phase == AccessPhase::Closed)
    };
    stage.power_on().unwrap();
    wait(&stage, "it says so", is_disabled);
    stage
        .claim(Duration::from_secs(40), |stage, name| {
            let properties = [
                ("timer.config.interval", "5"),
                ("debug.enable.ssh", ada.public.as_str()),
            ];
            stage.set_properties(name, &properties)
        })
        .unwrap();
    wait(&stage, "the config asks in vain", || {
        let fault = ssh_status(&stage)?.fault;
        Ok(fault.is_some_and(|fault| fault.code == Code::AccessDisabled))
    });
    assert!(attempt.is_closed());
    let refused = asks_for_sshd(&stage).unwrap_err();
    assert!(matches!(refused, UnitsError::Refused { .. }), "{refused}");
    wait(&stage, "the controller knows", || {
        let info = stage.evc(&["info", "--device", "edge"])?.to_string();
        Ok(info.contains("\"remoteAccessDisabled\":true"))
    });
    stage.device().power_cut().unwrap();
    stage.device().start().unwrap();
    wait(&stage, "it says so after a boot", is_disabled);
    assert!(attempt.is_closed());
    let check = text(&eve(&stage, &["check", "access"]));
    assert!(check.contains("remote_access_disabled"), "{check}");
}

#[test]
fn trust_the_keys_of_config_get_in_until_the_first_config_and_never_again() {
    let options = Options::of_this_build().unwrap();
    let stage = Stage::build(&options).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ada = Person::new(dir.path(), "ada", "rsa");
    stage
        .device()
        .configure("authorized_keys", format!("# installer\n{}\n", ada.public))
        .unwrap();
    let attempt = Attempt::at(&stage);
    stage.power_on().unwrap();
    wait(&stage, "who installs it may", || {
        is_open_for(&stage, &[&ada])
    });
    assert_eq!(ssh_status(&stage).unwrap().reason, AccessReason::FirstBoot);
    wait(&stage, "and gets in", || Ok(attempt.is_in(&ada)));
    let mut session = attempt.session(&ada);
    stage
        .claim(Duration::from_secs(40), |stage, name| {
            stage.set_properties(name, &[("timer.config.interval", "5")])
        })
        .unwrap();
    assert!(
        session.ends_within(PATIENCE),
        "the first config has not ended it"
    );
    wait(&stage, "the door is shut", || Ok(attempt.is_closed()));
    stage.device().power_cut().unwrap();
    stage.device().start().unwrap();
    wait(&stage, "it is shut after a boot", || {
        Ok(ssh_status(&stage)?.phase == AccessPhase::Closed)
    });
    assert!(attempt.is_closed());
}

/// `eve check sockets`: outcome, subject and detail of each.
fn sockets(stage: &Stage) -> Vec<(String, String, String)> {
    let output = eve(stage, &["check", "sockets", "--json"]);
    let value: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
    let word = |check: &Value, name: &str| check[name].as_str().unwrap_or_default().to_owned();
    let checks = value["Checks"].as_array().unwrap();
    checks
        .iter()
        .map(|check| {
            (
                word(check, "Result"),
                word(check, "Subject"),
                word(check, "Detail"),
            )
        })
        .collect()
}

#[test]
fn trust_every_socket_that_listens_is_in_the_table_and_a_stranger_is_found() {
    let stage = onboarded(1);
    let dir = tempfile::tempdir().unwrap();
    let ada = Person::new(dir.path(), "ada", "ed25519");
    authorize(&stage, &[&ada]);
    deploy_app(&stage);
    wait(&stage, "ada may", || is_open_for(&stage, &[&ada]));
    let attempt = Attempt::at(&stage);
    let mut session = attempt.session(&ada);
    let all = sockets(&stage);
    for (result, subject, detail) in &all {
        assert_eq!(result, "Ok", "{subject}: {detail}");
    }
    let seen: Vec<&str> = all.iter().map(|(_, subject, _)| subject.as_str()).collect();
    for unit in [
        "supervisor",
        "tpmmgr",
        "accessmgr/ssh",
        "zedrouter/",
        "domainmgr/",
    ] {
        let found = seen.iter().any(|subject| subject.starts_with(unit));
        assert!(found, "{unit} is not among {seen:?}");
    }
    assert!(session.lives());

    // The control: somebody listens who should not, in each of the ways.
    let stray = stage.world().device().run(|| {
        let tcp = TcpListener::bind("0.0.0.0:4444").unwrap();
        let udp = std::net::UdpSocket::bind("[::]:4445").unwrap();
        let name = std::os::unix::net::SocketAddr::from_abstract_name("stray").unwrap();
        (tcp, udp, UnixListener::bind_addr(&name).unwrap())
    });
    let failed: Vec<_> = sockets(&stage)
        .into_iter()
        .filter(|(result, ..)| result != "Ok")
        .collect();
    assert_eq!(failed.len(), 3, "{failed:?}");
    let own = format!("process {}", std::process::id());
    for place in ["tcp 0.0.0.0:4444", "udp6 [::]:4445", "unix @stray"] {
        let found = failed.iter().any(|(result, _, detail)| {
            result == "Fail"
                && detail.contains(place)
                && detail.contains(&own)
                && detail.contains("access.listener")
        });
        assert!(found, "{place}: {failed:?}");
    }
    assert!(!eve(&stage, &["check", "sockets"]).status.success());
    drop(stray);
    assert!(sockets(&stage).iter().all(|(result, ..)| result == "Ok"));
}
