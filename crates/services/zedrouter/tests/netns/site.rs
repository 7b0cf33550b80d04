//! A device in a network namespace, with an outside and guests in others.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use agent::{Clock, Runtime, Settled};
use bus::{Bus, Publisher, Rows, Topic};
use jiff::Timestamp;
use model::{
    network::{AppNetworkConfig, AppNetworkStatus, NetworkInstanceConfig, NetworkInstanceStatus},
    port::{DeviceNetworkStatus, PortStatus},
    topics::{
        APP_NETWORK_CONFIG, APP_NETWORK_STATUS, DEVICE_NETWORK_STATUS, NETWORK_INSTANCE_CONFIG,
        NETWORK_INSTANCE_STATUS,
    },
};
use netlink::{Netlink, Owner};
use units::ids;
use zedrouter::{Zedrouter, world::Kernel};

use crate::{
    units::Processes,
    wishes::{app_id, instance_id},
};

/// Runs `test` on a thread of its own in a new network namespace, which ends with the thread.
pub fn in_netns<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let body = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root is needed");
        run("ip", &["link", "set", "lo", "up"]);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
    };
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

pub fn ip(command: &str) -> String {
    run("ip", &command.split(' ').collect::<Vec<_>>())
}

/// Another network namespace. What was started in it ends with it.
pub struct Peer {
    holder: Child,
    children: Mutex<Vec<Child>>,
    dir: tempfile::TempDir,
}

impl Peer {
    pub fn new() -> Self {
        let holder = Command::new("unshare")
            .args(["-n", "sleep", "900"])
            .spawn()
            .unwrap();
        let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let path = format!("/proc/{}/ns/net", holder.id());
        let start = Instant::now();
        while fs::read_link(&path).unwrap() == own {
            assert!(start.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(5));
        }
        let peer = Self {
            holder,
            children: Mutex::default(),
            dir: tempfile::tempdir().unwrap(),
        };
        peer.sh("ip link set lo up");
        peer
    }

    pub fn pid(&self) -> String {
        self.holder.id().to_string()
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid(), "-n", "sh", "-c", script]);
        command.stdin(Stdio::null());
        command
    }

    pub fn try_sh(&self, script: &str) -> Output {
        self.command(script).output().unwrap()
    }

    pub fn sh(&self, script: &str) -> String {
        let output = self.try_sh(script);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{script}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts something that goes on.
    pub fn start(&self, script: &str) -> u32 {
        let mut command = self.command(&format!("exec {script}"));
        let child = command.process_group(0).spawn().unwrap();
        let id = child.id();
        self.children.lock().unwrap().push(child);
        id
    }

    /// An HTTP server that answers with `text`.
    pub fn serve(&self, address: &str, text: &str) {
        let dir = self.dir.path().join(address.replace(':', "_"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("index.html"), text).unwrap();
        self.start(&format!(
            "busybox httpd -f -p {address} -h {}",
            dir.display()
        ));
    }

    /// What an HTTP server answers, if it does so within `seconds`.
    pub fn get(&self, address: &str, seconds: &str) -> Option<String> {
        let script = format!("timeout {seconds} busybox wget -q -O - http://{address}/");
        let output = self.try_sh(&script);
        let text = String::from_utf8(output.stdout).unwrap();
        output.status.success().then_some(text)
    }

    /// Whether it is answered as expected; a slow machine is given time.
    #[track_caller]
    pub fn reaches(&self, address: &str, text: &str) {
        let start = Instant::now();
        loop {
            let got = self.get(address, "3");
            if got.as_deref() == Some(text) {
                return;
            }
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "{address}: {got:?}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    #[track_caller]
    pub fn is_refused(&self, address: &str) {
        assert_eq!(self.get(address, "1"), None, "{address}");
    }

    pub fn pings(&self, address: &str) -> bool {
        let script = format!("timeout 2 ping -c1 -W1 {address}");
        self.try_sh(&script).status.success()
    }

    /// Asks for a lease as a guest does, and gives what it was told.
    pub fn dhcp(&self, link: &str) -> String {
        let script = self.dir.path().join("lease.sh");
        let told = self.dir.path().join("told");
        let text = format!(
            "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nip addr flush dev {link}\n\
             ip addr add $ip/$mask dev {link}\nset -- $staticroutes\n\
             if [ -n \"$2\" ]; then ip route add default via $2; fi\n\
             echo ip=$ip router=$router dns=$dns mtu=$mtu ntp=$ntpsrv domain=$domain \
             static=$staticroutes lease=$lease > {}\n",
            told.display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let command = format!(
            "busybox udhcpc -q -n -f -i {link} -t 10 -T 1 -O mtu -O ntpsrv -O staticroutes \
             -O domain -s {}",
            script.display()
        );
        self.sh(&command);
        fs::read_to_string(told).unwrap()
    }

    /// What the resolver at `server` says of a name.
    pub fn lookup(&self, name: &str, server: &str) -> Vec<String> {
        let output = self.try_sh(&format!(
            "timeout 5 busybox nslookup -type=a {name} {server}"
        ));
        let text = String::from_utf8(output.stdout).unwrap();
        let answers = text.split("\n\n").skip(1).flat_map(str::lines);
        answers
            .filter_map(|line| line.strip_prefix("Address: "))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        for child in self.children.get_mut().unwrap() {
            let group = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
            let _ = child.wait();
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The device.
pub struct Device {
    pub bus: Bus,
    pub root: PathBuf,
    pub units: Arc<Processes>,
    pub netlink: Netlink,
    pub instances: Publisher<NetworkInstanceConfig>,
    pub apps: Publisher<AppNetworkConfig>,
    pub ports: Publisher<DeviceNetworkStatus>,
    pub runtime: Runtime<Zedrouter, Kernel>,
    _dir: tempfile::TempDir,
}

impl Device {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let root = dir.path().to_owned();
        let net = root.join(zedrouter::world::DIRECTORY);
        fs::create_dir_all(&net).unwrap();
        chown(&net, ids::service_uid("zedrouter"), Some(ids::EVE_GID)).unwrap();
        let (bus, units) = (Bus::memory(), Processes::new());
        let runtime = start(&bus, &root, &units);
        Self {
            instances: bus
                .acting_as("zedagent")
                .publisher(&NETWORK_INSTANCE_CONFIG)
                .unwrap(),
            apps: bus
                .acting_as("zedmanager")
                .publisher(&APP_NETWORK_CONFIG)
                .unwrap(),
            ports: bus
                .acting_as("nim")
                .publisher(&DEVICE_NETWORK_STATUS)
                .unwrap(),
            netlink: Netlink::open().unwrap(),
            runtime,
            bus,
            root,
            units,
            _dir: dir,
        }
    }

    /// zedrouter dies and is started again.
    pub fn restart(&mut self) {
        self.runtime = start(&self.bus, &self.root, &self.units);
    }

    /// Everybody has spoken.
    pub fn ready(&mut self) {
        self.instances.set_ready().unwrap();
        self.apps.set_ready().unwrap();
        self.ports.set_ready().unwrap();
    }

    /// Until nothing is left to do.
    #[track_caller]
    pub fn settle(&mut self) -> impl Future<Output = ()> {
        let at = std::panic::Location::caller();
        async move {
            let settled = self.runtime.settle().await.unwrap();
            assert_eq!(settled, Settled::Quiet, "{at}");
            let plan = self.runtime.dry_turn().await.unwrap().unwrap();
            assert!(plan.actions.is_empty(), "{at}: {:#?}", plan.actions);
        }
    }

    pub fn rows<T: bus::Object>(&self, topic: &Topic<T>) -> Rows<T> {
        self.bus.read(topic).unwrap().unwrap()
    }

    pub fn instance(&self, n: u8) -> NetworkInstanceStatus {
        self.rows(&NETWORK_INSTANCE_STATUS)[&instance_id(n).to_string()].clone()
    }

    pub fn app(&self, n: u8) -> AppNetworkStatus {
        self.rows(&APP_NETWORK_STATUS)[&app_id(n).to_string()].clone()
    }

    /// A guest of an application that stands behind the interface that it will get.
    pub async fn guest(&self, vif: &str) -> Peer {
        let peer = Peer::new();
        self.netlink
            .create_veth(vif, "far", Owner::ZEDROUTER)
            .await
            .unwrap();
        ip(&format!("link set far netns {}", peer.pid()));
        peer.sh("ip link set far name eth0");
        peer
    }

    /// Gives the guest the hardware address that it was told, and a lease.
    pub fn boot(&self, guest: &Peer, app: u8, vif: usize) -> String {
        let status = &self.app(app).vifs[vif];
        guest.sh(&format!("ip link set eth0 address {} up", status.mac));
        guest.dhcp("eth0")
    }

    pub fn put_instance(&mut self, config: &NetworkInstanceConfig) {
        let key = config.id.to_string();
        self.instances.publish(&key, config).unwrap();
    }

    pub fn put_app(&mut self, config: &AppNetworkConfig) {
        self.apps.publish(&config.app.to_string(), config).unwrap();
    }

    pub fn put_ports(&mut self, ports: &[PortStatus]) {
        let status = DeviceNetworkStatus {
            ports: ports.to_vec(),
            ..DeviceNetworkStatus::default()
        };
        self.ports.publish("global", &status).unwrap();
    }
}

/// A device port that leads to `outside`.
pub fn cable(link: &str, outside: &Peer, far: &str) {
    let holder = outside.pid();
    ip(&format!(
        "link add {link} type veth peer name {far} netns {holder}"
    ));
    ip(&format!("link set {link} up"));
    outside.sh(&format!("ip link set {far} up"));
}

fn start(bus: &Bus, root: &Path, units: &Arc<Processes>) -> Runtime<Zedrouter, Kernel> {
    let world = Kernel::with(root, units.clone(), false).unwrap();
    Runtime::new(
        bus.acting_as("zedrouter"),
        world,
        Clock::tokio(Timestamp::now()),
        1,
    )
}

/// Gives a port its address and the routes of its own table, as nim does.
pub fn connect(port: &PortStatus) {
    let (name, table) = (&port.if_name, port.route_table);
    ip(&format!("addr add {} dev {name}", port.addresses[0]));
    for gateway in &port.gateways {
        ip(&format!(
            "route add default via {gateway} dev {name} table {table}"
        ));
    }
}
