//! Real guests under the real supervisor. Needs root (namespaces, users) and `qemu-system-x86`, `ovmf`,
//! `iproute2`, `util-linux`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod device;

use std::{
    fs,
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

use device::{Deed, Device, is_alive, kill_hard, until};
use model::{
    app::{BootMode, DiskTarget},
    code::Code,
    domain::{DomainPhase, DomainVif},
    topics::{CAPABILITIES, DOMAIN_METRIC},
    volume::ImageFormat,
};
use units::ids;

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn a_guest_outlives_the_service_and_the_supervisor_and_stops_when_asked() {
    let mut device = Device::start();
    let guest = device.guest(Deed::Obey);
    device.want(&[&guest]);
    let (pid, status) = device.running(&guest, 1);
    assert_eq!(status.fault, None);
    device.printed(&guest, "hello from the guest");

    // It is who it should be.
    let proc = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = proc.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_once(':').unwrap().1.trim().to_owned()
    };
    let uid: u32 = field("Uid").split('\t').next().unwrap().parse().unwrap();
    assert!((ids::GUEST_UID_FIRST..=ids::GUEST_UID_LAST).contains(&uid));
    let gid = ids::GUESTS_GID;
    assert_eq!(field("Gid"), format!("{gid}\t{gid}\t{gid}\t{gid}"));
    assert_eq!(field("Groups"), "");
    assert_eq!(field("CapEff"), "0000000000000000");
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(fs::metadata(&guest.disks[0].path).unwrap().uid(), uid);

    kill_hard(device.domainmgr());
    until("domainmgr was started again", || {
        (device.domainmgr() != 0 && device.rows(&CAPABILITIES).len() == 1).then_some(())
    });
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(device.running(&guest, 1).0, pid);
    assert!(is_alive(pid));

    device.replace_supervisor(pid);
    std::thread::sleep(Duration::from_secs(2));
    device.domainmgr();
    assert_eq!(device.running(&guest, 1).0, pid);
    assert!(is_alive(pid));
    assert_eq!(device.rows(&DOMAIN_METRIC).len(), 1);

    let began = Instant::now();
    device.want(&[]);
    until("nothing is left of it", || {
        device.status(&guest).is_none().then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(30), "it obeyed");
    assert!(!is_alive(pid));
    let dir = format!("run/hypervisor/kvm/{}", guest.app);
    assert!(!device.root().join(dir).exists());
    assert!(device.rows(&DOMAIN_METRIC).is_empty());
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn a_killed_qemu_and_another_incarnation_are_new_starts() {
    let mut device = Device::start();
    let mut guest = device.guest(Deed::Obey);
    device.want(&[&guest]);
    let (first, _) = device.running(&guest, 1);
    device.printed(&guest, "hello from the guest");
    kill_hard(first);
    let status = device.status_when(&guest, "it failed", |status| {
        status.phase == DomainPhase::Failed
    });
    let fault = status.fault.unwrap();
    assert_eq!(fault.code, Code::DomainCrashed);
    assert!(fault.text.contains("signal 9"), "{fault}");
    let hello = fault
        .causes
        .iter()
        .any(|cause| cause.contains("console: hello"));
    assert!(hello, "{fault}");
    let (second, status) = device.running(&guest, 2);
    assert_ne!(first, second);
    assert_eq!(status.fault, None);
    let waited = status.boot_time.unwrap().duration_since(fault.since);
    assert!(waited.as_secs() >= 9, "{waited}");

    guest.incarnation = 2;
    device.want(&[&guest]);
    let (third, status) = device.running(&guest, 3);
    assert_ne!(second, third);
    assert_eq!(status.incarnation, 2);
    assert!(!is_alive(second));
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn why_a_guest_does_not_run_is_told() {
    let mut device = Device::start();
    let off = device.guest(Deed::PowerOff);
    let mut broken = device.guest(Deed::Obey);
    broken.disks[0].format = ImageFormat::Qcow2;
    let mut lonely = device.guest(Deed::Obey);
    lonely.vifs.push(DomainVif {
        vif: "nbu9x9".into(),
        bridge: "bn9".into(),
        mac: "02:16:3e:00:00:09".parse().unwrap(),
        mtu: 1500,
    });
    device.want(&[&off, &broken, &lonely]);
    let failed = |config| {
        let status = device.status_when(config, "it failed", |status| {
            status.phase == DomainPhase::Failed && status.fault.is_some()
        });
        status.fault.unwrap()
    };
    let fault = failed(&off);
    assert_eq!(fault.code, Code::DomainCrashed);
    assert!(fault.text.contains("powered itself off"), "{fault}");
    assert!(
        fault.causes.iter().any(|c| c.contains("SHUTDOWN")),
        "{fault}"
    );
    let fault = failed(&broken);
    assert_eq!(fault.code, Code::DomainStart);
    assert!(
        fault
            .causes
            .iter()
            .any(|c| c.contains("not in qcow2 format")),
        "{fault}"
    );
    let fault = failed(&lonely);
    assert_eq!(fault.code, Code::DomainStart);
    assert!(fault.line().contains("nbu9x9"), "{fault}");

    let gid = ids::GUESTS_GID;
    device.in_namespace(&format!("ip tuntap add nbu9x9 mode tap group {gid}"));
    device.running(&lonely, 1);
}

#[test]
#[cfg_attr(not(is_root), ignore = "needs root")]
fn a_guest_with_everything_starts_as_its_own_user() {
    let mut device = Device::start();
    let mut guest = device.guest(Deed::Obey);
    guest.resources.boot_mode = BootMode::Uefi;
    guest.resources.memory_kib = 256 * 1024;
    guest.resources.enable_vnc = true;
    guest.resources.vnc_display = 77;
    guest.resources.vnc_password = "s3cret".into();
    guest.user_data = "#cloud-config\n".into();
    let mut cd = device.volume("tools.iso", &vec![0; 64 * 1024]);
    cd.target = DiskTarget::Cdrom;
    cd.format = ImageFormat::Iso;
    guest.disks.push(cd);
    guest.vifs.push(DomainVif {
        vif: "nbu1x1".into(),
        bridge: "bn1".into(),
        mac: "02:16:3e:00:00:01".parse().unwrap(),
        mtu: 1500,
    });
    device.want(&[&guest]);
    let (pid, status) = device.running(&guest, 1);
    assert_eq!(status.vnc_port, Some(5977));
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(!command.contains("s3cret"));
    let dir = device
        .root()
        .join(format!("run/hypervisor/kvm/{}", guest.app));
    assert!(dir.join("seed.iso").exists());
    let vars = format!("persist/domainmgr/{}.uefi-vars", guest.app);
    assert!(device.root().join(&vars).exists());
}
