#![allow(clippy::unwrap_used)]
use model::{
    domain::DomainVif,
    id::{VolumeId, VolumeKey},
};
use units::ids;

use super::*;
use crate::{Launch, plan::digest};

pub(crate) fn config() -> DomainConfig {
    let volume = |n: u128| VolumeKey {
        volume: VolumeId(uuid::Uuid::from_u128(n)),
        generation: 1,
    };
    DomainConfig {
        app: AppId(uuid::Uuid::from_u128(1)),
        display_name: "web".into(),
        activate: true,
        incarnation: 3,
        resources: Resources {
            vcpus: 2,
            memory_kib: 512 * 1024,
            ..Resources::default()
        },
        disks: vec![
            DiskConfig {
                volume: volume(2),
                path: "/persist/vault/volumemgr/volumes/root.qcow2".into(),
                format: ImageFormat::Qcow2,
                target: DiskTarget::Disk,
                read_only: false,
            },
            DiskConfig {
                volume: volume(3),
                path: "/persist/vault/volumemgr/volumes/tools.iso".into(),
                format: ImageFormat::Iso,
                target: DiskTarget::Disk,
                read_only: false,
            },
        ],
        vifs: vec![DomainVif {
            vif: "nbu1x1".into(),
            bridge: "bn1".into(),
            mac: "02:16:3e:00:00:01".parse().unwrap(),
            mtu: 1500,
        }],
        user_data: String::new(),
        secret_user_data: None,
    }
}

fn launch(config: DomainConfig) -> Launch {
    Launch {
        config,
        keys: None,
        uid: 48_001,
        accelerator: Accelerator::Kvm,
        retry: std::time::Duration::from_secs(600),
    }
}

fn unit_of(launch: &Launch, devices: &unit::HostDevices) -> units::UnitSpec {
    let places = Places::of(Path::new("/r"), launch.config.app);
    let machine = vm_spec(&launch.config, &places).unwrap();
    let now = jiff::Timestamp::UNIX_EPOCH;
    let spec = unit::unit_spec(launch, &machine, &places, devices, now).unwrap();
    spec.check().unwrap();
    spec
}

#[test]
fn qemu_has_a_user_of_its_own_and_reaches_its_own_files_only() {
    let mut devices = unit::HostDevices::default();
    let spec = unit_of(&launch(config()), &devices);
    let sandbox = &spec.sandbox;
    assert_eq!((sandbox.uid, sandbox.gid), (48_001, ids::GUESTS_GID));
    assert!(sandbox.capabilities.is_empty() && sandbox.groups.is_empty());
    let paths = sandbox.paths.clone().unwrap();
    assert_eq!(
        paths.read,
        [Path::new("/persist/vault/volumemgr/volumes/tools.iso")]
    );
    let app = config().app;
    let expected = [
        format!("/r/run/hypervisor/kvm/{app}"),
        format!("/r/persist/log/guests/{app}.console"),
        "/persist/vault/volumemgr/volumes/root.qcow2".to_owned(),
        "/dev/kvm".to_owned(),
        "/dev/net/tun".to_owned(),
    ];
    assert_eq!(paths.write, expected.map(PathBuf::from));
    let limit = spec.limits.memory_bytes.unwrap();
    assert!(limit > 512 << 20 && limit < 800 << 20, "{limit}");

    devices.groups = [("/dev/kvm".into(), 104), ("/dev/net/tun".into(), 104)].into();
    assert_eq!(unit_of(&launch(config()), &devices).sandbox.groups, [104]);
}

#[test]
fn a_unit_tells_what_it_runs() {
    let launch = launch(config());
    let spec = unit_of(&launch, &unit::HostDevices::default());
    assert_eq!(unit::app_of(&spec.name), Some(launch.config.app));
    let state = units::UnitState {
        name: spec.name.clone(),
        phase: units::Phase::Ended {
            at: jiff::Timestamp::UNIX_EPOCH,
        },
        restarts: 0,
        last_exit: None,
        memory_bytes: None,
        uid: spec.sandbox.uid,
        labels: spec.labels.clone(),
        status_text: String::new(),
    };
    let unit = unit::unit_of(&state);
    assert_eq!(unit.incarnation, 3);
    assert_eq!(unit.config, digest(&launch.config));
    assert_eq!(
        unit.memory_kib,
        memory_kib(&launch.config, &Accelerator::Kvm)
    );
    assert_eq!(unit::started(&state), jiff::Timestamp::UNIX_EPOCH);
    for other in ["domainmgr", "domainmgr/x", "zedrouter/dns"] {
        assert_eq!(unit::app_of(&other.parse().unwrap()), None);
    }
}

#[test]
fn kernels_are_started_and_not_shown() {
    let places = Places::of(Path::new("/r"), config().app);
    let mut guest = config();
    guest.disks[0].target = DiskTarget::Kernel;
    let spec = vm_spec(&guest, &places).unwrap();
    assert_eq!(spec.disks.len(), 1);
    assert_eq!(spec.disks[0].target, VmTarget::Cdrom);
    assert!(!is_writable(&guest.disks[0]));
    guest.disks[1].target = DiskTarget::Kernel;
    assert_eq!(vm_spec(&guest, &places), Err(LaunchError::Twice("kernel")));
    guest.disks.truncate(1);
    guest.disks[0].target = DiskTarget::Initrd;
    assert_eq!(vm_spec(&guest, &places), Err(LaunchError::InitrdAlone));
}

#[test]
fn what_no_machine_can_be_made_from_is_named() {
    let places = Places::of(Path::new("/r"), config().app);
    let mut guest = config();
    guest.resources.vm_mode = VmMode::NoHyper;
    assert_eq!(vm_spec(&guest, &places), Err(LaunchError::NoHyper));
    guest.resources.vm_mode = VmMode::Legacy;
    guest.disks[0].format = ImageFormat::Container;
    assert!(matches!(
        vm_spec(&guest, &places),
        Err(LaunchError::Container(_))
    ));
    guest.disks[0].format = ImageFormat::Raw;
    let spec = vm_spec(&guest, &places).unwrap();
    assert_eq!(
        (spec.disks[0].bus, spec.nics[0].model),
        (DiskBus::Ahci, NicModel::E1000e)
    );
    guest.resources.enable_vnc = true;
    guest.resources.vnc_display = 100;
    assert_eq!(vm_spec(&guest, &places), Err(LaunchError::VncDisplay(100)));
    assert_eq!(vnc_port(&guest.resources), None);
    guest.resources.vnc_display = 99;
    guest.resources.vnc_password = "s3cret".into();
    assert_eq!(vnc_port(&guest.resources), Some(5999));
    let spec = unit_of(&launch(guest), &unit::HostDevices::default());
    assert!(!format!("{spec:?}").contains("s3cret"));
}
