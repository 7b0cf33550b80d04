//! The service on a bus in memory, with real files and a supervisor that runs nothing.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use accessmgr::{Accessmgr, world::Machine};
use agent::{Clock, Runtime, Settled};
use bus::{Bus, Publisher};
use jiff::Timestamp;
use model::{
    access::{AccessPhase, AccessReason, AccessStatus, SSH, USB},
    code::Code,
    config_item::{ConfigItemValueMap, parse_item},
    node::{ConfigSource, ZedAgentStatus},
    topics::{ACCESS_STATUS, CONFIG_ITEMS, ZEDAGENT_STATUS},
};
use units::{
    FakeUnits, UnitName,
    login::{self, Login},
};

struct Device {
    dir: tempfile::TempDir,
    bus: Bus,
    items: Publisher<ConfigItemValueMap>,
    zedagent: Publisher<ZedAgentStatus>,
    units: FakeUnits,
    /// Stands for sshd, which a supervisor that runs nothing does not start.
    listener: TcpListener,
    runtime: Runtime<Accessmgr, Machine>,
}

impl Device {
    /// zedagent has spoken, there is no config yet.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for path in ["config", "run/access", "persist/accessmgr", "persist/log"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        let bus = Bus::memory();
        let zedagent = bus.acting_as("zedagent");
        let units = FakeUnits::new("accessmgr");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let runtime = Self::start(&bus, &units, &listener, dir.path());
        let mut device = Self {
            items: zedagent.publisher(&CONFIG_ITEMS).unwrap(),
            zedagent: zedagent.publisher(&ZEDAGENT_STATUS).unwrap(),
            bus,
            units,
            listener,
            runtime,
            dir,
        };
        device.set(&[]);
        device.config_from(ConfigSource::None);
        device
    }

    fn start(
        bus: &Bus,
        units: &FakeUnits,
        listener: &TcpListener,
        root: &Path,
    ) -> Runtime<Accessmgr, Machine> {
        let port = listener.local_addr().unwrap().port();
        let machine = Machine::with(root.to_owned(), Arc::new(units.clone()), port);
        let clock = Clock::tokio(Timestamp::UNIX_EPOCH);
        Runtime::new(bus.acting_as("accessmgr"), machine, clock, 1)
    }

    fn restart(&mut self) {
        self.runtime = Self::start(&self.bus, &self.units, &self.listener, self.dir.path());
    }

    fn root(&self) -> &Path {
        self.dir.path()
    }

    /// Properties, as zedagent takes them.
    fn set(&mut self, values: &[(&str, &str)]) {
        let taken =
            |(name, value): &(&str, &str)| ((*name).to_owned(), parse_item(name, value).unwrap());
        let row = ConfigItemValueMap {
            values: values.iter().map(taken).collect(),
            errors: BTreeMap::new(),
        };
        self.items.publish("global", &row).unwrap();
        self.items.set_ready().unwrap();
    }

    fn config_from(&mut self, source: ConfigSource) {
        let row = ZedAgentStatus {
            config_source: source,
            ..ZedAgentStatus::default()
        };
        self.zedagent.publish("zedagent", &row).unwrap();
        self.zedagent.set_ready().unwrap();
    }

    async fn settle(&mut self) {
        assert_eq!(self.runtime.settle().await.unwrap(), Settled::Quiet);
    }

    fn way(&self, key: &str) -> AccessStatus {
        self.bus.read(&ACCESS_STATUS).unwrap().unwrap()[key].clone()
    }

    fn sshd(&self) -> Option<units::UnitSpec> {
        let name: UnitName = "accessmgr/ssh".parse().unwrap();
        let runs = self.units.table().contains_key(&name);
        self.units.spec(&name).filter(|_| runs)
    }

    fn keys(&self) -> Option<String> {
        fs::read_to_string(login::keys_file(self.root())).ok()
    }
}

/// A public key, and its fingerprint by the real tool.
fn key(dir: &Path, name: &str) -> (String, String) {
    let file = dir.join(name);
    let made = Command::new("ssh-keygen")
        .args(["-q", "-N", "", "-t", "ed25519", "-C", name, "-f"])
        .arg(&file)
        .status();
    assert!(made.unwrap().success());
    let public = fs::read_to_string(file.with_extension("pub")).unwrap();
    (public.trim().to_owned(), keygen(&["-lf"], &file))
}

fn keygen(arguments: &[&str], file: &Path) -> String {
    let output = Command::new("ssh-keygen")
        .args(arguments)
        .arg(file)
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn a_key_opens_and_its_end_closes() {
    let mut device = Device::new();
    let tools = tempfile::tempdir().unwrap();
    let (ada, told) = key(tools.path(), "ada");
    device.settle().await;
    assert_eq!(device.way("ssh").phase, AccessPhase::Closed);
    assert_eq!((device.sshd(), device.keys()), (None, None));

    device.config_from(ConfigSource::Controller);
    device.set(&[(SSH, &ada)]);
    device.settle().await;
    let row = device.way("ssh");
    assert_eq!(
        (row.phase, row.reason),
        (AccessPhase::Open, AccessReason::Property)
    );
    assert_eq!(told.split(' ').nth(1).unwrap(), row.keys[0].fingerprint);
    assert_eq!(device.keys().unwrap(), format!("{ada}\n"));
    assert_eq!(mode(&login::keys_file(device.root())), 0o600);
    let spec = device.sshd().unwrap();
    let port = device.listener.local_addr().unwrap().port();
    assert_eq!(login::spec(device.root(), &Login::Ssh(port)), Ok(spec));

    // The device's own key is one that OpenSSH takes, nobody else reads, and stays.
    let host_key = login::host_key_file(device.root());
    assert_eq!(mode(&host_key), 0o600);
    let public = keygen(&["-yf"], &host_key);
    assert!(public.starts_with("ssh-ed25519 "), "{public}");

    // The service's own end changes nothing.
    device.restart();
    device.settle().await;
    assert_eq!(device.way("ssh").phase, AccessPhase::Open);

    device.set(&[(SSH, "")]);
    device.settle().await;
    assert_eq!(device.way("ssh").phase, AccessPhase::Closed);
    assert_eq!((device.sshd(), device.keys()), (None, None));
    device.set(&[(SSH, &ada)]);
    device.settle().await;
    assert_eq!(keygen(&["-yf"], &host_key), public);
}

#[tokio::test]
async fn the_supervisors_absence_is_told_and_nothing_opens_meanwhile() {
    let mut device = Device::new();
    let tools = tempfile::tempdir().unwrap();
    let (ada, _) = key(tools.path(), "ada");
    device.settle().await;
    device.units.set_unreachable(true);
    device.set(&[(SSH, &ada)]);
    // Once: it would be tried again and again.
    device.runtime.turn().await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    device.runtime.turn().await.unwrap();
    let row = device.way("ssh");
    assert_eq!(row.phase, AccessPhase::Opening);
    assert_eq!(row.fault.unwrap().code, Code::AccessLogin);
    assert_eq!(device.sshd(), None);
}

#[tokio::test]
async fn config_forbids_for_ever_and_so_does_one_that_is_gone() {
    let tools = tempfile::tempdir().unwrap();
    let (ada, _) = key(tools.path(), "ada");
    for gone in [false, true] {
        let mut device = Device::new();
        device.set(&[(SSH, &ada)]);
        device.config_from(ConfigSource::Controller);
        device.settle().await;
        assert!(device.sshd().is_some());
        if gone {
            fs::remove_dir_all(device.root().join("config")).unwrap();
        } else {
            fs::write(device.root().join(login::DISABLED_FLAG), "").unwrap();
        }
        device.restart();
        device.settle().await;
        let row = device.way("ssh");
        assert_eq!(
            (row.phase, row.reason),
            (AccessPhase::Closed, AccessReason::Disabled)
        );
        assert_eq!(row.fault.unwrap().code, Code::AccessDisabled);
        assert_eq!((device.sshd(), device.keys()), (None, None));
    }
}

#[tokio::test]
async fn the_keys_of_config_count_until_the_first_config() {
    let mut device = Device::new();
    let tools = tempfile::tempdir().unwrap();
    let (ada, _) = key(tools.path(), "ada");
    fs::write(device.root().join("config/authorized_keys"), &ada).unwrap();
    device.settle().await;
    assert_eq!(device.way("ssh").reason, AccessReason::FirstBoot);
    assert!(device.sshd().is_some());
    device.config_from(ConfigSource::Controller);
    device.settle().await;
    assert_eq!(device.sshd(), None);
    // Also when zedagent has forgotten that there was one.
    device.config_from(ConfigSource::None);
    device.restart();
    device.settle().await;
    assert_eq!(device.sshd(), None);
}

#[tokio::test]
async fn a_keyboard_is_shut_out_by_the_kernels_files() {
    let mut device = Device::new();
    let usb: PathBuf = device.root().join("sys/bus/usb/devices");
    for (file, content) in [
        ("usb1/interface_authorized_default", "1\n"),
        ("1-1:1.0/bInterfaceClass", "03\n"),
        ("1-1:1.0/authorized", "1\n"),
        ("1-2:1.0/bInterfaceClass", "02\n"),
        ("1-2:1.0/authorized", "0\n"),
        ("../drivers_probe", ""),
    ] {
        let path = usb.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let value = |file: &str| fs::read_to_string(usb.join(file)).unwrap();
    device.runtime.turn().await.unwrap();
    assert_eq!(value("usb1/interface_authorized_default"), "0");
    assert_eq!(value("1-1:1.0/authorized"), "0");
    assert_eq!(value("1-2:1.0/authorized"), "1", "a modem");
    device.runtime.turn().await.unwrap();
    let row = device.way("usb");
    assert_eq!(row.phase, AccessPhase::Closed);
    assert_eq!(row.places, ["1-1:1.0 (keyboard or mouse)"]);
    device.set(&[(USB, "true")]);
    device.runtime.turn().await.unwrap();
    assert_eq!(value("1-1:1.0/authorized"), "1");
    assert_eq!(value("../drivers_probe"), "1-1:1.0");
    assert_eq!(Login::of(&"accessmgr/usb".parse().unwrap()), None);
}
