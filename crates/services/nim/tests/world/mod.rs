//! A device's namespace with ports, the networks at their other ends, and nim in between.

use std::{
    fs::File,
    io::Read,
    os::fd::AsFd,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use agent::{Clock, Runtime};
use bus::{Bus, Publisher};
use model::{
    port::{DeviceNetworkStatus, DevicePortConfig, DhcpLease},
    topics::{DEVICE_NETWORK_STATUS, DEVICE_PORT_CONFIG, DHCP_LEASE},
};
use nim::{Nim, world::Kernel};
use serde_json::Value;
use tokio::{sync::oneshot, task::JoinHandle};

/// Runs `test` on a thread of its own in a new network namespace, which ends with the thread.
pub(crate) fn in_netns<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
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

pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `ip` with words split at spaces.
pub(crate) fn ip(command: &str) {
    run("ip", &command.split(' ').collect::<Vec<_>>());
}

/// What `ip -j` says.
pub(crate) fn ip_json(command: &str) -> Value {
    let args: Vec<&str> = ["-j", "-d", "-N"]
        .into_iter()
        .chain(command.split(' '))
        .collect();
    let text = run("ip", &args);
    serde_json::from_str(if text.trim().is_empty() { "[]" } else { &text }).unwrap()
}

/// IPv4 addresses of an interface, as `ip` shows them.
pub(crate) fn addresses(link: &str) -> Vec<String> {
    let shown = ip_json(&format!("-4 addr show dev {link}"));
    let infos = shown[0]["addr_info"].as_array().cloned();
    let text = |info: &Value| format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"]);
    infos.unwrap_or_default().iter().map(text).collect()
}

/// Routes of a table as `destination via gateway dev link metric n`.
pub(crate) fn routes(table: &str) -> Vec<String> {
    let shown = Command::new("ip")
        .args(["-j", "-4", "route", "show", "table", table])
        .output()
        .unwrap();
    // There is no such table while it is empty.
    let routes: Value = serde_json::from_slice(&shown.stdout).unwrap_or(Value::Array(Vec::new()));
    let text = |route: &Value| {
        let word = |name: &str| route[name].as_str().map(|text| format!(" {text}"));
        let gateway = word("gateway").map_or(String::new(), |g| format!(" via{g}"));
        let device = word("dev").map_or(String::new(), |d| format!(" dev{d}"));
        let to = route["dst"].as_str().unwrap();
        format!("{to}{gateway}{device} metric {}", route["metric"])
    };
    let mut all: Vec<String> = routes.as_array().unwrap().iter().map(text).collect();
    all.sort();
    all
}

/// A child that ends with this thread, or when it is dropped.
pub(crate) struct Helper(Child);

impl Helper {
    pub(crate) fn spawn(program: &str, args: &[String]) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", program]).args(args);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The network at the other end of a port: its own namespace with interface `far`.
pub(crate) struct Network {
    holder: Helper,
    port: String,
    gateway: String,
    server: Option<Helper>,
}

impl Network {
    /// A network `10.<n>.0.0/24` whose router is `.1`, behind a new port `eth<n>`.
    pub(crate) fn new(n: u8) -> Self {
        let holder = Helper::spawn("unshare", &["--net", "sleep", "600"].map(str::to_owned));
        let own = File::open("/proc/thread-self/ns/net").unwrap();
        let inode = |file: &File| nix::sys::stat::fstat(file).unwrap().st_ino;
        let network = Self {
            port: format!("eth{n}"),
            gateway: format!("10.{n}.0.1"),
            server: None,
            holder,
        };
        let began = Instant::now();
        while File::open(network.path()).is_ok_and(|file| inode(&file) == inode(&own)) {
            assert!(began.elapsed() < Duration::from_secs(10), "unshare");
            std::thread::sleep(Duration::from_millis(5));
        }
        network.plug();
        network
    }

    /// Makes the port and its cable, in a new network or after it was deleted.
    pub(crate) fn plug(&self) {
        let (port, pid) = (&self.port, self.holder.id());
        let mac = format!("02:16:3e:00:00:{:02x}", port.bytes().last().unwrap());
        ip(&format!(
            "link add {port} address {mac} type veth peer name far netns {pid}"
        ));
        self.ip(&format!("addr add {}/24 dev far", self.gateway));
        self.ip("link set lo up");
        self.ip("link set far up");
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.id()).into()
    }

    /// Runs `ip` on the other side.
    pub(crate) fn ip(&self, command: &str) {
        let net = format!("--net={}", self.path().display());
        let args: Vec<&str> = [net.as_str(), "ip"]
            .into_iter()
            .chain(command.split(' '))
            .collect();
        run("nsenter", &args);
    }

    /// Starts the DHCP server. `more` are further arguments.
    pub(crate) fn serve(&mut self, more: &[&str]) {
        let n = &self.gateway[..self.gateway.len() - 1];
        let fixed = [
            &format!("--net={}", self.path().display()),
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--interface=far",
            "--bind-dynamic",
            "--no-ping",
            "--leasefile-ro",
            "--user=root",
            "--pid-file=",
            "--log-facility=/dev/null",
            &format!("--dhcp-range={n}50,{n}99,255.255.255.0,120s"),
            &format!("--dhcp-option=option:router,{}", self.gateway),
            &format!("--dhcp-option=option:dns-server,{n}53"),
            "--dhcp-option=option:domain-name,lab.test",
        ];
        let args: Vec<String> = fixed.iter().chain(more).map(|a| (*a).to_owned()).collect();
        self.server = Some(Helper::spawn("nsenter", &args));
    }

    /// Waits until its server has its socket.
    pub(crate) async fn is_serving(&self) {
        let table = format!("/proc/{}/net/udp", self.holder.id());
        until("server", || {
            let mut text = String::new();
            File::open(&table)
                .unwrap()
                .read_to_string(&mut text)
                .unwrap();
            // Port 67 in hexadecimal.
            text.contains(":0043 ").then_some(())
        })
        .await;
    }

    pub(crate) fn stop_serving(&mut self) {
        self.server = None;
    }

    /// Runs something on a thread on the other side.
    pub(crate) fn there<T: Send + 'static>(
        &self,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let netns = File::open(self.path()).unwrap();
        std::thread::spawn(move || {
            nix::sched::setns(netns.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            body()
        })
    }
}

/// Asks again and again; fails when there is no answer for long.
pub(crate) async fn until<T>(what: &str, mut question: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = question() {
            return answer;
        }
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "waited for: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The service with its bus.
pub(crate) struct Device {
    pub(crate) bus: Bus,
    pub(crate) source: Publisher<DevicePortConfig>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Device {
    pub(crate) fn new() -> Self {
        let bus = Bus::memory();
        Self {
            source: bus
                .acting_as("zedagent")
                .publisher(&DEVICE_PORT_CONFIG)
                .unwrap(),
            bus,
            running: None,
        }
    }

    pub(crate) fn start(&mut self) {
        // All of this machine's boot.
        let clock = Clock::real(Duration::from_secs(1000) + began().elapsed());
        let world = Kernel::open(clock.clone()).unwrap();
        let runtime = Runtime::<Nim, _>::new(self.bus.acting_as("nim"), world, clock, 1);
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(runtime.run(async {
            let _ = stopped.await;
        }));
        self.running = Some((stop, task));
    }

    pub(crate) async fn stop(&mut self) {
        let (stop, task) = self.running.take().unwrap();
        let _ = stop.send(());
        task.await.unwrap();
    }

    pub(crate) fn give(&mut self, config: &DevicePortConfig) {
        self.source.publish(&config.key, config).unwrap();
        self.source.set_ready().unwrap();
    }

    pub(crate) fn status(&self) -> Option<DeviceNetworkStatus> {
        let rows = self.bus.read(&DEVICE_NETWORK_STATUS).unwrap()?;
        rows.get("global").cloned()
    }

    pub(crate) fn lease(&self, port: &str) -> Option<DhcpLease> {
        let rows = self.bus.read(&DHCP_LEASE).unwrap()?;
        rows.get(port).cloned()
    }

    /// Waits until the status is as wanted.
    pub(crate) async fn when(
        &self,
        what: &str,
        is_so: impl Fn(&DeviceNetworkStatus) -> bool,
    ) -> DeviceNetworkStatus {
        until(what, || self.status().filter(|status| is_so(status))).await
    }
}

fn began() -> Instant {
    static BEGAN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *BEGAN.get_or_init(Instant::now)
}
