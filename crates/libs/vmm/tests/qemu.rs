//! Real QEMU, paused or running without a disk: the arguments are accepted, the protocol works.
//! Every QEMU is ended by its process id, also when a test fails. A test that can't run because
//! QEMU is not installed fails and says so.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use uuid::Uuid;
use vmm::image::QemuImg;
use vmm::probe::TcgReason;
use vmm::qmp::{Events, Limits, Link, Notice, Qmp, QmpError, RunState};
use vmm::seed::Seed;
use vmm::spec::{
    BaseImage, Console, Disk, DiskBus, DiskTarget, Firmware, ImageFormat, Mac, Nic, NicModel, Vnc,
};
use vmm::{Host, QEMU, VmSpec, qemu_args};

const PATIENCE: Duration = Duration::from_secs(60);

struct Guest {
    process: Child,
    spec: VmSpec,
    directory: tempfile::TempDir,
}

impl Guest {
    fn start(change: impl FnOnce(&mut VmSpec, &Path)) -> Self {
        Self::start_by(Command::new(QEMU), change)
    }

    /// `command` gets the arguments of QEMU appended.
    fn start_by(mut command: Command, change: impl FnOnce(&mut VmSpec, &Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut spec = VmSpec::new("test,guest", Uuid::new_v4(), directory.path());
        change(&mut spec, directory.path());
        let args = qemu_args(&spec, &Host::emulated(TcgReason::Forced)).unwrap();
        let log = std::fs::File::create(directory.path().join("stderr")).unwrap();
        let process = command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("qemu-system-x86 is installed");
        Self {
            process,
            spec,
            directory,
        }
    }

    async fn connect(&self) -> (Qmp, Events) {
        let limits = Limits::default();
        let executor = Link::new(&self.spec.qmp.executor, limits)
            .client_within(PATIENCE)
            .await;
        let executor = executor.unwrap_or_else(|error| panic!("{error}: {}", self.said()));
        let (_, events) = Qmp::connect(&self.spec.qmp.listener, limits).await.unwrap();
        (executor, events)
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default()
    }

    fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("QEMU does not end");
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

async fn heard(events: &mut Events, name: &str) -> serde_json::Value {
    let wait = async {
        loop {
            match events.next().await.expect("connection stands") {
                Notice::Event(event) if event.name == name => return event.data,
                Notice::Event(_) | Notice::Lost(_) => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect(name)
}

fn disk(path: &Path, format: ImageFormat) -> Disk {
    Disk {
        path: path.to_owned(),
        format,
        base: None,
        readonly: false,
        target: DiskTarget::Disk,
        bus: DiskBus::Virtio,
        serial: None,
    }
}

fn seed(path: &Path) {
    let seed = Seed {
        instance_id: "i-1".into(),
        hostname: "guest".into(),
        user_data: b"#!/bin/sh\n".to_vec(),
        network_config: None,
        vendor_data: None,
    };
    seed.write(path).unwrap();
}

#[tokio::test]
async fn a_guest_starts_paused_runs_stops_and_quits() {
    let mut guest = Guest::start(|_, _| {});
    let (qmp, mut events) = guest.connect().await;
    assert!(qmp.greeting().major >= 7);
    let status = qmp.status().await.unwrap();
    assert_eq!((status.running, status.state), (false, RunState::Prelaunch));
    let pid = std::fs::read_to_string(&guest.spec.pid_file).unwrap();
    assert_eq!(pid.trim().parse(), Ok(guest.process.id()));

    qmp.cont().await.unwrap();
    heard(&mut events, "RESUME").await;
    assert_eq!(qmp.status().await.unwrap().state, RunState::Running);
    let cpus = qmp.cpus().await.unwrap();
    assert_eq!(cpus.len(), 1);
    let thread = format!("/proc/{}/task/{}", guest.process.id(), cpus[0].thread_id);
    assert!(Path::new(&thread).exists());

    qmp.stop().await.unwrap();
    heard(&mut events, "STOP").await;
    assert_eq!(qmp.status().await.unwrap().state, RunState::Paused);
    qmp.cont().await.unwrap();
    qmp.system_powerdown().await.unwrap();
    heard(&mut events, "POWERDOWN").await;

    qmp.quit().await.unwrap();
    let shutdown = heard(&mut events, "SHUTDOWN").await;
    assert_eq!(shutdown["reason"], "host-qmp-quit");
    assert_eq!(guest.exit_code(), Some(0), "{}", guest.said());
    assert!(!guest.spec.qmp.executor.exists());
}

#[tokio::test]
async fn sigterm_ends_it_although_it_would_outlive_its_guest() {
    let mut guest = Guest::start(|_, _| {});
    let (_qmp, mut events) = guest.connect().await;
    let pid = nix::unistd::Pid::from_raw(guest.process.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(
        heard(&mut events, "SHUTDOWN").await["reason"],
        "host-signal"
    );
    assert_eq!(guest.exit_code(), Some(0));
}

#[tokio::test]
async fn a_second_client_of_one_socket_is_given_up_and_then_served() {
    let guest = Guest::start(|_, _| {});
    let (qmp, events) = guest.connect().await;
    let limits = Limits {
        greeting: Duration::from_millis(500),
        ..Limits::default()
    };
    let path = &guest.spec.qmp.executor;
    let second = Qmp::connect(path, limits).await.unwrap_err();
    assert!(matches!(second, QmpError::NoGreeting { .. }));
    drop((qmp, events));
    let mut link = Link::new(path, Limits::default());
    let third = link.client_within(PATIENCE).await.unwrap();
    assert_eq!(third.status().await.unwrap().state, RunState::Prelaunch);
}

#[tokio::test]
async fn every_kind_of_device_is_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let tool = QemuImg::default();
    let mib = 1 << 20;
    tool.create(&at("base, 1.raw"), ImageFormat::Raw, mib)
        .await
        .unwrap();
    let base = BaseImage {
        path: at("base, 1.raw"),
        format: ImageFormat::Raw,
    };
    tool.create_overlay(&at("overlay"), &base, Some(2 * mib))
        .await
        .unwrap();
    tool.create(&at("hard"), ImageFormat::Raw, mib)
        .await
        .unwrap();
    seed(&at("seed.iso"));
    seed(&at("cd.iso"));
    let guest = Guest::start(|spec, run| {
        spec.memory_kib = 256 * 1024;
        let vars = run.join("vars.fd");
        std::fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &vars).expect("ovmf is installed");
        spec.firmware = Firmware::Uefi {
            code: "/usr/share/OVMF/OVMF_CODE_4M.fd".into(),
            vars,
        };
        let mut overlay = disk(&at("overlay"), ImageFormat::Qcow2);
        overlay.base = Some(base.clone());
        overlay.serial = Some("vol-1".into());
        let mut hard = disk(&at("hard"), ImageFormat::Raw);
        hard.bus = DiskBus::Ahci;
        let mut cd = disk(&at("cd.iso"), ImageFormat::Raw);
        cd.target = DiskTarget::Cdrom;
        let mut old_cd = cd.clone();
        old_cd.bus = DiskBus::Ahci;
        spec.disks = vec![overlay, hard, cd, old_cd];
        spec.seed = Some(at("seed.iso"));
        spec.cpus = 2;
        spec.vnc = Some(Vnc::Unix(run.join("vnc,1")));
        spec.console = Console::Socket {
            path: run.join("cons,1"),
            log: Some(run.join("console.log")),
        };
    });
    let (qmp, _events) = guest.connect().await;
    let stats = qmp.block_stats().await.unwrap();
    let nodes: Vec<_> = stats.iter().map(|s| s.node.as_str()).collect();
    for node in ["disk0", "disk1", "disk2", "disk3", "seed"] {
        assert!(nodes.contains(&node), "{node} in {nodes:?}");
    }
    assert_eq!(qmp.cpus().await.unwrap().len(), 2);
    let vnc = qmp.vnc().await.unwrap();
    assert!(vnc.enabled && vnc.clients.is_empty());
    assert!(guest.directory.path().join("vnc,1").exists());
    assert_eq!(guest.said(), "");
    qmp.quit().await.unwrap();
}

/// A guest of 512 bytes: prints a word on its serial port and then does one thing.
#[derive(Clone, Copy)]
enum Deed {
    Idle,
    PowerOff,
    Panic,
}

fn boot_sector(path: &Path, deed: Deed) {
    let mut code = vec![0xba, 0xf8, 0x03]; // mov dx, 0x3f8
    for letter in b"hello from the guest\n" {
        code.extend([0xb0, *letter, 0xee]); // mov al, letter; out dx, al
    }
    code.extend(match deed {
        Deed::Idle => &[][..],
        // mov dx, 0x604; mov ax, 0x2000; out dx, ax: the ACPI register for soft off
        Deed::PowerOff => &[0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef],
        // mov dx, 0x505; mov al, 1; out dx, al: the pvpanic device
        Deed::Panic => &[0xba, 0x05, 0x05, 0xb0, 0x01, 0xee],
    });
    code.extend([0xf4, 0xeb, 0xfd]); // hlt; jmp to it
    code.resize(1 << 20, 0);
    code[510..512].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(path, code).unwrap();
}

impl Guest {
    fn boot(deed: Deed, change: impl FnOnce(&mut VmSpec)) -> Self {
        Self::start(|spec, run| {
            let image = run.join("boot.raw");
            boot_sector(&image, deed);
            spec.disks = vec![disk(&image, ImageFormat::Raw)];
            spec.console = Console::Log(run.join("console.log"));
            change(spec);
        })
    }

    async fn printed(&self, word: &str) {
        let log = self.directory.path().join("console.log");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read(&log).unwrap_or_default();
            if String::from_utf8_lossy(&text).contains(word) {
                return;
            }
            assert!(Instant::now() < deadline, "{word:?} not in {text:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn it_boots_from_virtio_and_ahci_with_all_slots_taken() {
    for bus in [DiskBus::Virtio, DiskBus::Ahci] {
        let guest = Guest::boot(Deed::Idle, |spec| {
            spec.hotplug_slots = 95;
            spec.disks[0].bus = bus;
        });
        let (qmp, _events) = guest.connect().await;
        qmp.cont().await.unwrap();
        guest.printed("hello from the guest").await;
        let read = qmp.block_stats().await.unwrap()[0].read_bytes;
        assert!(read >= 512, "{read}");
        qmp.quit().await.unwrap();
    }
}

#[tokio::test]
async fn a_guest_that_powers_off_stays_to_be_asked() {
    let mut guest = Guest::boot(Deed::PowerOff, |_| {});
    let (qmp, mut events) = guest.connect().await;
    qmp.cont().await.unwrap();
    let data = heard(&mut events, "SHUTDOWN").await;
    assert_eq!(
        (&data["guest"], &data["reason"]),
        (&true.into(), &"guest-shutdown".into())
    );
    let status = qmp.status().await.unwrap();
    assert_eq!((status.running, status.state), (false, RunState::Shutdown));
    qmp.quit().await.unwrap();
    assert_eq!(guest.exit_code(), Some(0));
}

#[tokio::test]
async fn a_guest_that_panics_stays_to_be_asked() {
    let guest = Guest::boot(Deed::Panic, |_| {});
    let (qmp, mut events) = guest.connect().await;
    qmp.cont().await.unwrap();
    heard(&mut events, "GUEST_PANICKED").await;
    assert_eq!(qmp.status().await.unwrap().state, RunState::GuestPanicked);
    qmp.quit().await.unwrap();
}

#[tokio::test]
async fn disks_and_password_come_while_it_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("extra.qcow2");
    let tool = QemuImg::default();
    tool.create(&image, ImageFormat::Qcow2, 1 << 20)
        .await
        .unwrap();
    // Not the same for two runs at the same time.
    let display = u16::try_from(50 + std::process::id() % 50).unwrap();
    let guest = Guest::start(|spec, _| {
        spec.vnc = Some(Vnc::Loopback {
            display,
            password: true,
        });
    });
    let (qmp, _events) = guest.connect().await;
    qmp.set_vnc_password("s3cret12").await.unwrap();
    let vnc = qmp.vnc().await.unwrap();
    assert_eq!(vnc.auth.as_deref(), Some("vnc"));
    let port = (5900 + display).to_string();
    assert_eq!(vnc.service.as_deref(), Some(port.as_str()));

    let extra = disk(&image, ImageFormat::Qcow2);
    let missing = qmp.plug_disk("extra", &extra, "nowhere").await;
    assert!(matches!(missing, Err(QmpError::Refused { .. })));
    let slot = vmm::args::spare_slot(0);
    qmp.plug_disk("extra", &extra, &slot).await.unwrap();
    let stats = qmp.block_stats().await.unwrap();
    assert!(stats.iter().any(|s| s.node == "extra"));
    qmp.unplug("extra").await.unwrap();
    qmp.quit().await.unwrap();
}

#[tokio::test]
async fn an_unknown_command_is_refused() {
    let guest = Guest::start(|_, _| {});
    let (qmp, _events) = guest.connect().await;
    let unknown = qmp.execute::<serde_json::Value>("make-coffee", serde_json::Value::Null);
    let error = unknown.await.unwrap_err();
    let class = vmm::qmp::ErrorClass::CommandNotFound;
    assert!(matches!(&error, QmpError::Refused { class: c, .. } if *c == class));
    qmp.quit().await.unwrap();
}

/// Cards on real taps, in a network namespace that ends with QEMU.
#[tokio::test]
async fn cards_are_there_from_the_start_or_come_later() {
    if !nix::unistd::geteuid().is_root() {
        println!("not root: no network namespace, no taps");
        return;
    }
    let nic = |n: u8, model| Nic {
        tap: format!("tap{n}"),
        mac: Mac([2, 0, 0, 0, 0, n]),
        model,
    };
    let taps = "for n in 1 2 3; do ip tuntap add tap$n mode tap; done; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", taps, "sh", QEMU]);
    let guest = Guest::start_by(command, |spec, _| {
        spec.nics = vec![nic(1, NicModel::Virtio), nic(2, NicModel::E1000e)];
    });
    let (qmp, _events) = guest.connect().await;
    let slot = vmm::args::spare_slot(0);
    let first = nic(1, NicModel::Virtio);
    let taken = qmp.plug_nic("again", &first, false, &slot);
    let busy = taken.await.unwrap_err();
    assert!(busy.to_string().contains("tap1"), "{busy}");
    let third = nic(3, NicModel::Virtio);
    let nowhere = qmp.plug_nic("third", &third, false, "nowhere").await;
    assert!(matches!(nowhere, Err(QmpError::Refused { .. })));
    // The failed attempt left no back end behind: the same name works.
    qmp.plug_nic("third", &third, false, &slot).await.unwrap();
    let filters = qmp.execute::<serde_json::Value>("query-rx-filter", serde_json::Value::Null);
    let text = filters.await.unwrap().to_string();
    for mac in ["02:00:00:00:00:01", "02:00:00:00:00:03"] {
        assert!(text.contains(mac), "{mac} in {text}");
    }
    assert_eq!(guest.said(), "");
    qmp.quit().await.unwrap();
}
