//! The services of a device that speak with its controller, on a bus in memory, with real files and real sockets.

use std::{fs, io::Write as _, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use agent::{Boot, Clock, Service as _};
use bus::{Bus, Object, Rows, Topic};
use controller::KeyFiles;
use jiff::Timestamp;
use model::{
    app::AppInstanceConfig,
    code::Code,
    fault::Fault,
    node::{OnboardingStatus, ZedAgentStatus},
    report::DeliveryRecord,
    security::ControllerCert,
    topics::{
        APP_INSTANCE_CONFIG, APP_INSTANCE_STATUS, CONFIG_ITEMS, CONTROLLER_CERT, DELIVERY_JOURNAL,
        DEVICE_NETWORK_STATUS, NEWLOG_METRICS, ONBOARDING_STATUS, VAULT_STATUS, ZEDAGENT_STATUS,
    },
    vault::{ROOTS, VaultStatus},
};
use newlogd::{
    Newlogd,
    world::{Logs, Places, store::Store},
};
use reporter::Reporter;
use serde_json::{Value, json};
use tempfile::TempDir;
use tpm::MemoryTpm;
use zedagent::Zedagent;

use super::{Lives, Site, memory_tpm, without_tpm};

/// The application whose state is reported.
const APP: &str = "00000000-0000-4000-8000-00000000000a";

/// A device.
pub struct Member {
    root: TempDir,
    tpm: Arc<MemoryTpm>,
    /// Its bus.
    pub bus: Bus,
    /// Its services.
    pub lives: Lives,
}

impl Member {
    /// A new device of a site, that connects to `server`. Its wall clock begins now.
    pub fn new(site: &Site, server: SocketAddr) -> Self {
        let (clock, hand) = Clock::by_hand(Timestamp::now());
        Self::with(site, server, clock, hand)
    }

    /// The same, with a clock.
    pub fn with(site: &Site, server: SocketAddr, clock: Clock, hand: agent::Hand) -> Self {
        let root = tempfile::tempdir().unwrap();
        site.partition(&root.path().join("config"), server);
        fs::create_dir_all(root.path().join("persist/log/guests")).unwrap();
        let bus = Bus::memory();
        say(&bus, &DEVICE_NETWORK_STATUS, "global", network());
        // A request that hangs is real time. zedagent remembers these from its last life.
        let items = json!({"Values": {"timer.send.timeout": "10", "timer.dial.timeout": "10"}});
        say(&bus, &CONFIG_ITEMS, "global", items);
        let mut member = Self {
            lives: Lives::new(&bus, clock, hand),
            tpm: without_tpm(),
            bus,
            root,
        };
        member.restart();
        member
    }

    /// A new device that has a TPM.
    pub fn with_tpm(site: &Site, server: SocketAddr) -> (Self, MemoryTpm) {
        let mut member = Self::new(site, server);
        let tpm = memory_tpm(&member.config(), &member.bus);
        member.tpm = Arc::new(tpm.clone());
        // Nothing has begun yet that knows the other one.
        member.restart();
        (member, tpm)
    }

    /// New processes of all services.
    pub fn restart(&mut self) {
        let boot = Boot {
            root: self.root.path().to_owned(),
            bus: self.bus.clone(),
            clock: self.lives.clock.clone(),
            dry_run: false,
        };
        let keys = || Arc::new(KeyFiles::of(&boot.path("/config")));
        self.lives.start::<Zedagent, _>(zedagent::world::Evc::open(
            &boot,
            keys(),
            self.tpm.clone(),
        ));
        self.lives
            .start::<Reporter, _>(reporter::world::Evc::open(&boot, keys()));
        let places = Places {
            logs: boot.path("/persist/log"),
            newlog: boot.path("/persist/newlog"),
            kmsg: None,
            release: boot.path("/run/eve-release"),
            disk: None,
        };
        let store = Store::at(places.newlog.clone());
        let evc = newlogd::world::evc::Evc::new(boot.root.clone(), keys(), boot.clock.clone());
        let logs = Logs::open(places, store, boot.clock.clone(), evc).unwrap();
        self.lives.start::<Newlogd, _>(logs);
    }

    /// The CONFIG partition names this server.
    pub fn serve_by(&self, server: SocketAddr) {
        let path = self.root.path().join("config/server");
        fs::write(path, format!("{server}\n")).unwrap();
    }

    /// Its CONFIG partition.
    pub fn config(&self) -> std::path::PathBuf {
        self.root.path().join("config")
    }

    /// Publishes the state of the application.
    pub fn app(&self, name: &str) {
        say(&self.bus, &APP_INSTANCE_STATUS, APP, app_row(name));
    }

    /// A service prints a line.
    pub fn print(&mut self, line: &str) {
        let path = self.root.path().join("persist/log/nim.log");
        let mut file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        let now = self.lives.clock.now();
        writeln!(
            file,
            r#"{{"timestamp":"{now}","level":"INFO","message":"{line}"}}"#
        )
        .unwrap();
        // As the kernel would.
        self.lives.wake(Newlogd::NAME);
    }

    /// Who the device is.
    pub fn onboarding(&self) -> OnboardingStatus {
        self.one(&ONBOARDING_STATUS, "global")
    }

    /// The config channel.
    pub fn channel(&self) -> ZedAgentStatus {
        self.one(&ZEDAGENT_STATUS, "zedagent")
    }

    /// The controller's certificates that are trusted, by their hash.
    pub fn controller_certs(&self) -> Rows<ControllerCert> {
        self.rows(&CONTROLLER_CERT)
    }

    /// The log channel.
    pub fn logs(&self) -> model::log::NewlogMetrics {
        self.one(&NEWLOG_METRICS, "global")
    }

    /// Log files that the controller does not want, kept for whoever finds out why.
    pub fn refused_logs(&self) -> usize {
        let path = self.root.path().join("persist/newlog/failedUpload");
        fs::read_dir(path).map_or(0, Iterator::count)
    }

    /// What is known to be delivered.
    pub fn journal(&self) -> Rows<DeliveryRecord> {
        self.rows(&DELIVERY_JOURNAL)
    }

    /// Applications in force.
    pub fn apps(&self) -> Rows<AppInstanceConfig> {
        self.rows(&APP_INSTANCE_CONFIG)
    }

    fn rows<T: Object>(&self, topic: &Topic<T>) -> Rows<T> {
        self.bus.read(topic).unwrap().unwrap_or_default()
    }

    fn one<T: Object>(&self, topic: &Topic<T>, key: &str) -> T {
        self.rows(topic)
            .remove(key)
            .unwrap_or_else(|| panic!("nothing in {topic:?}"))
    }

    /// Lets time pass.
    pub async fn pass(&mut self, time: Duration) {
        self.lives.pass(time).await;
    }
}

/// What services find on a new device below `root`: the directories that the supervisor makes, and on the bus, which
/// acts as nim, what nim and vaultmgr say of a network that works and of a disk that is not encrypted.
pub fn ground(root: &Path) -> Bus {
    let persist = root.join("persist");
    for dir in ["persist/checkpoint", "persist/log/guests"]
        .iter()
        .chain(&ROOTS)
    {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::File::open(&persist).unwrap().sync_all().unwrap();
    let bus = Bus::open(root, "nim").unwrap();
    say(&bus, &DEVICE_NETWORK_STATUS, "global", network());
    let vault = serde_json::to_value(VaultStatus::disabled()).unwrap();
    say(&bus, &VAULT_STATUS, "vault", vault);
    bus
}

/// Everything goes over loopback. An address there is not one that a device waits for, so there is a port that has one
/// and is out of order.
pub fn network() -> Value {
    let fault = Fault::new(
        Code::PortDhcp,
        "port eth9",
        "unplugged",
        Timestamp::UNIX_EPOCH,
    );
    json!({
        "DpcKey": "zedagent", "State": "Success", "Ports": [
            {"IfName": "lo", "Label": "lo", "IsMgmt": true, "Addresses": ["127.0.0.1/8"]},
            {"IfName": "eth9", "Label": "eth9", "IsMgmt": true, "Addresses": ["192.0.2.1/24"],
                "Fault": fault},
        ],
    })
}

/// The state of the application.
fn app_row(name: &str) -> Value {
    json!({
        "Id": APP, "DisplayName": name, "Activate": true, "Phase": "Booting",
        "Since": "2026-01-01T00:00:00Z",
    })
}

fn say<T: Object>(bus: &Bus, topic: &Topic<T>, key: &str, row: Value) {
    let writer = bus.acting_as(topic.service());
    let mut publisher = writer.publisher(topic).unwrap();
    let row: T = serde_json::from_value(row).unwrap();
    publisher.publish(key, &row).unwrap();
    publisher.set_ready().unwrap();
}
