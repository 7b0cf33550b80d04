//! A device with the real supervisor, the real domainmgr under its real unit, and real QEMUs. All of it
//! lives in a network namespace that ends with it.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bus::{Bus, Object, Publisher, Rows, Topic};
use model::{
    app::{DiskTarget, Resources},
    config_item::ConfigItemValueMap,
    domain::{DiskConfig, DomainConfig, DomainPhase, DomainStatus},
    id::{AppId, VolumeId, VolumeKey},
    service::ServicePhase,
    topics::{CONFIG_ITEMS, DOMAIN_CONFIG, DOMAIN_STATUS, SERVICE_STATUS},
    volume::ImageFormat,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use units::ids;
use uuid::Uuid;

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) struct Device {
    dir: TempDir,
    supervisor: Option<Child>,
    bus: Bus,
    domains: Publisher<DomainConfig>,
}

/// What a guest of one boot sector does after it printed `hello from the guest`.
#[derive(Clone, Copy)]
pub(crate) enum Deed {
    /// Waits for the power button, then powers off.
    Obey,
    /// Powers off at once.
    PowerOff,
}

pub(crate) fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    let mut look = look;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The supervisor's binary, made if nobody made it yet.
fn supervisor_binary() -> PathBuf {
    let path = bin_dir().join("supervisor");
    if !path.exists() {
        let built = Command::new(env!("CARGO"))
            .args(["build", "-p", "supervisor", "--bin", "supervisor"])
            .stdin(Stdio::null())
            .status();
        assert!(built.is_ok_and(|status| status.success()) && path.exists());
    }
    path
}

fn bin_dir() -> PathBuf {
    let domainmgr = Path::new(env!("CARGO_BIN_EXE_domainmgr"));
    domainmgr.parent().unwrap().to_owned()
}

impl Device {
    /// A device whose namespace has the tap `nbu1x1`, as zedrouter makes it.
    pub(crate) fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("dm").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let bus = Bus::open(&root, "zedmanager").unwrap();
        let mut device = Self {
            domains: bus.publisher(&DOMAIN_CONFIG).unwrap(),
            bus,
            dir,
            supervisor: None,
        };
        device.boot();
        device.item("timer.boot.retry", "10");
        device.domains.set_ready().unwrap();
        device
    }

    /// Starts the supervisor. After the first time it is in the namespace of `inside`.
    fn boot(&mut self) {
        self.boot_in(None);
    }

    fn boot_in(&mut self, inside: Option<u32>) {
        let log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.dir.path().join("supervisor.log"))
            .unwrap();
        let mut command = match inside {
            None => {
                let mut command = Command::new("unshare");
                let taps = format!(
                    "ip tuntap add nbu1x1 mode tap group {}; exec \"$@\"",
                    ids::GUESTS_GID
                );
                command.args(["--net", "sh", "-c", &taps, "sh"]);
                command
            }
            Some(pid) => {
                let mut command = Command::new("nsenter");
                command.args([format!("--net=/proc/{pid}/ns/net")]);
                command
            }
        };
        let child = command
            .arg(supervisor_binary())
            .args(["--root".as_ref(), self.root().as_os_str()])
            .args(["--bin-dir".as_ref(), bin_dir().as_os_str()])
            .args(["--units", "domainmgr"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.supervisor = Some(child);
    }

    /// The supervisor dies of a bug, and another one is started.
    pub(crate) fn replace_supervisor(&mut self, inside: u32) {
        let mut child = self.supervisor.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        self.boot_in(Some(inside));
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn in_namespace(&self, script: &str) {
        let pid = self.supervisor.as_ref().unwrap().id();
        let status = Command::new("nsenter")
            .args([&format!("--net=/proc/{pid}/ns/net"), "sh", "-c", script])
            .status()
            .unwrap();
        assert!(status.success(), "{script}");
    }

    pub(crate) fn rows<T: Object>(&self, topic: &Topic<T>) -> Rows<T> {
        self.bus.read(topic).unwrap().unwrap_or_default()
    }

    pub(crate) fn item(&self, name: &str, value: &str) {
        let bus = Bus::open(&self.root(), "zedagent").unwrap();
        let mut items = bus.publisher(&CONFIG_ITEMS).unwrap();
        let mut map = items.rows().get("global").cloned().unwrap_or_default();
        let ConfigItemValueMap { values, .. } = &mut map;
        values.insert(name.to_owned(), value.to_owned());
        items.publish("global", &map).unwrap();
        items.set_ready().unwrap();
    }

    /// A volume as volumemgr makes it.
    pub(crate) fn volume(&self, name: &str, bytes: &[u8]) -> DiskConfig {
        let dir = self.root().join("persist/vault/volumemgr/volumes");
        until("the supervisor made the directories", || {
            dir.exists().then_some(())
        });
        let path = dir.join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
        let maker = ids::service_uid("volumemgr");
        chown(&path, maker, Some(ids::EVE_GID)).unwrap();
        DiskConfig {
            volume: VolumeKey {
                volume: VolumeId(Uuid::new_v4()),
                generation: 0,
            },
            path,
            format: ImageFormat::Raw,
            target: DiskTarget::Disk,
            read_only: false,
        }
    }

    /// A guest that boots from one sector.
    pub(crate) fn guest(&self, deed: Deed) -> DomainConfig {
        let app = AppId(Uuid::new_v4());
        DomainConfig {
            app,
            display_name: "test guest".into(),
            activate: true,
            incarnation: 1,
            resources: Resources {
                vcpus: 1,
                memory_kib: 64 * 1024,
                ..Resources::default()
            },
            disks: vec![self.volume(&format!("{app}.raw"), &boot_sector(deed))],
            vifs: Vec::new(),
            user_data: String::new(),
            secret_user_data: None,
        }
    }

    pub(crate) fn want(&mut self, configs: &[&DomainConfig]) {
        let rows = configs
            .iter()
            .map(|config| (config.app.to_string(), (*config).clone()))
            .collect();
        self.domains.replace(&rows).unwrap();
    }

    pub(crate) fn status(&self, config: &DomainConfig) -> Option<DomainStatus> {
        self.rows(&DOMAIN_STATUS).remove(&config.app.to_string())
    }

    /// Waits until the guest's status is as asked for.
    pub(crate) fn status_when(
        &self,
        config: &DomainConfig,
        what: &str,
        is: impl Fn(&DomainStatus) -> bool,
    ) -> DomainStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status(config);
            match status {
                Some(status) if is(&status) => return status,
                _ => assert!(
                    Instant::now() < deadline,
                    "not in time: {what}; it is {status:#?}\n{}",
                    self.logs()
                ),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until it runs and gives QEMU's process id.
    pub(crate) fn running(&self, config: &DomainConfig, boots: u32) -> (u32, DomainStatus) {
        let status = self.status_when(config, "it runs", |status| {
            status.boots == boots && matches!(status.phase, DomainPhase::Running { .. })
        });
        match status.phase {
            DomainPhase::Running { pid, .. } => (pid, status),
            _ => unreachable!(),
        }
    }

    /// Waits until the guest has printed a word.
    pub(crate) fn printed(&self, config: &DomainConfig, word: &str) {
        let name = format!("persist/log/guests/{}.console", config.app);
        let log = self.root().join(name);
        until(word, || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            text.contains(word).then_some(())
        });
    }

    /// Process id of domainmgr while it runs.
    pub(crate) fn domainmgr(&self) -> u32 {
        until("domainmgr runs", || {
            let rows = self.rows(&SERVICE_STATUS);
            match rows.get("domainmgr")?.phase {
                ServicePhase::Running { pid, .. } if is_alive(pid) => Some(pid),
                _ => None,
            }
        })
    }

    fn logs(&self) -> String {
        let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        let log = read(self.root().join("persist/log/domainmgr.log"));
        let tail: Vec<&str> = log.lines().rev().take(30).collect();
        let supervisor = read(self.dir.path().join("supervisor.log"));
        format!("{supervisor}\n{}", tail.join("\n"))
    }
}

pub(crate) fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}/exe")).exists()
        && fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

pub(crate) fn kill_hard(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
}

impl Drop for Device {
    /// The supervisor ends its units; what it does not end is ended here, by process id.
    fn drop(&mut self) {
        let pids: Vec<u32> = self
            .bus
            .read(&SERVICE_STATUS)
            .ok()
            .flatten()
            .unwrap_or_default()
            .values()
            .filter_map(|row| match row.phase {
                ServicePhase::Running { pid, .. } | ServicePhase::Stopping { pid, .. } => Some(pid),
                _ => None,
            })
            .collect();
        if let Some(mut child) = self.supervisor.take() {
            let pid = Pid::from_raw(child.id().cast_signed());
            let _ = kill(pid, Signal::SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(20);
            while Instant::now() < deadline && child.try_wait().is_ok_and(|ended| ended.is_none()) {
                std::thread::sleep(Duration::from_millis(50));
            }
            drop(child.kill());
            drop(child.wait());
        }
        for pid in pids.into_iter().filter(|pid| is_alive(*pid)) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }
}

fn boot_sector(deed: Deed) -> Vec<u8> {
    let mut code = vec![0xba, 0xf8, 0x03]; // mov dx, 0x3f8
    for letter in b"hello from the guest\n" {
        code.extend([0xb0, *letter, 0xee]); // mov al, letter; out dx, al
    }
    if let Deed::Obey = deed {
        code.extend([
            0xba, 0x02, 0x06, // mov dx, 0x602: which events count
            0xb8, 0x00, 0x01, // mov ax, 0x100: the power button
            0xef, // out dx, ax
            0xfb, // sti: the timer ends each hlt
            0xf4, // wait: hlt
            0xba, 0x00, 0x06, // mov dx, 0x600: which events came
            0xed, // in ax, dx
            0xf6, 0xc4, 0x01, // test ah, 1
            0x74, 0xf6, // jz wait
        ]);
    }
    // mov dx, 0x604; mov ax, 0x2000; out dx, ax: soft off
    code.extend([0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef]);
    code.extend([0xf4, 0xeb, 0xfd]); // hlt; jmp to it
    code.resize(1 << 20, 0);
    code[510..512].copy_from_slice(&[0x55, 0xaa]);
    code
}
