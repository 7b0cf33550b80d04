//! Lives of a device to read. Everything is real but the machine and the controller; time is virtual.
//! `DAYS=n` says how long the controller is gone (one day when nobody says).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{cell::RefCell, env, time::Duration};

use api::info::{MaintenanceModeReason, ZDeviceState, ZSwState, z_info_msg::InfoContent};
use jiff::Timestamp;
use model::{
    app::AppPhase,
    code::Code,
    id::VolumeKey,
    node::{BootReason, ConfigSource, MaintenanceReason, NodeAgentStatus, OnboardPhase},
    topics::{APP_INSTANCE_STATUS, NODE_AGENT_STATUS, ONBOARDING_STATUS, ZEDAGENT_STATUS},
};
use scenarios::sim::{AppWish, Device, Part, Qemu, Reach, Wish, app_id};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// A device whose only application runs, and which is quiet.
async fn deployed() -> Device {
    let mut device = Device::new(1);
    want(&device, |wish| {
        wish.apps.insert(1, AppWish::default());
    });
    assert!(
        device.until(2 * MINUTE, is_settled).await,
        "{:?}",
        device.differences()
    );
    device
}

fn want(device: &Device, change: impl FnOnce(&mut Wish)) {
    device.machine.with(|s| s.evc.want(change));
}

fn is_settled(device: &Device) -> bool {
    device.differences().is_empty()
}

fn runs(device: &Device, n: u16) -> bool {
    device
        .machine
        .with(|s| s.guests.qemus.get(&app_id(n)).is_some_and(Qemu::runs))
}

fn starts(device: &Device, n: u16) -> u32 {
    device
        .machine
        .with(|s| s.guests.starts.get(&app_id(n)).copied().unwrap_or(0))
}

/// The volumes on the disk and when they were made.
fn volumes(device: &Device) -> Vec<(VolumeKey, Timestamp)> {
    device.machine.with(|s| {
        s.disk
            .volumes
            .iter()
            .map(|(key, file)| (*key, file.made))
            .collect()
    })
}

fn done(device: &Device, service: &'static str, action: &str) -> u64 {
    let key = (service, action.to_owned());
    device
        .machine
        .with(|s| s.actions.get(&key).copied().unwrap_or(0))
}

fn node(device: &Device) -> NodeAgentStatus {
    device.rows(&NODE_AGENT_STATUS)["nodeagent"].clone()
}

/// What the controller believes of an application.
fn believed(device: &Device, n: u16) -> Option<ZSwState> {
    let key = format!("app.{}", app_id(n));
    device
        .machine
        .with(|s| match &s.evc.believes.get(&key)?.content {
            InfoContent::Ainfo(info) => ZSwState::try_from(info.state).ok(),
            _ => None,
        })
}

/// A name for each phase, without what is in it.
fn word(phase: &AppPhase) -> String {
    let text = format!("{phase:?}");
    text.split([' ', '{']).next().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn from_power_on_to_a_running_guest() {
    let mut device = Device::new(1);
    want(&device, |wish| {
        wish.apps.insert(1, AppWish::default());
    });
    let key = app_id(1).to_string();
    let (seen, beliefs) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
    let arrived = device
        .until(MINUTE, |device| {
            if let Some(status) = device.rows(&APP_INSTANCE_STATUS).get(&key) {
                seen.borrow_mut().push(word(&status.phase));
            }
            beliefs.borrow_mut().extend(believed(device, 1));
            is_settled(device)
        })
        .await;
    assert!(arrived, "{:?}", device.differences());
    let mut seen = seen.into_inner();
    seen.dedup();
    assert_eq!(seen, ["Preparing", "Booting", "Running"]);
    let mut beliefs = beliefs.into_inner();
    beliefs.dedup();
    assert_eq!(beliefs.first(), Some(&ZSwState::DownloadStarted));
    assert_eq!(beliefs.last(), Some(&ZSwState::Running));
    assert!(device.uptime() < 15 * SECOND, "{:?}", device.uptime());
    assert_eq!(
        device.rows(&ONBOARDING_STATUS)["global"].phase,
        OnboardPhase::Onboarded
    );
    assert_eq!(node(&device).boot_reason, BootReason::First);
    // Each thing once.
    for (service, action) in [
        ("nim", "Dhcp"),
        ("zedagent", "Introduce"),
        ("zedagent", "FetchConfig"),
        ("downloader", "Fetch"),
        ("verifier", "Verify"),
        ("volumemgr", "Create"),
        ("domainmgr", "Start"),
        ("domainmgr", "Boot"),
    ] {
        assert_eq!(done(&device, service, action), 1, "{service} {action}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reboot_command_is_carried_out_once_and_says_why() {
    let mut device = deployed().await;
    let before = volumes(&device);
    want(&device, |wish| wish.reboot += 1);
    assert!(device.until(5 * MINUTE, |d| d.boots == 2).await);
    assert_eq!(
        done(&device, "domainmgr", "Press"),
        1,
        "guests are shut down first"
    );
    assert!(
        device.until(5 * MINUTE, is_settled).await,
        "{:?}",
        device.differences()
    );
    let status = node(&device);
    assert_eq!(status.boot_reason, BootReason::RebootCmd);
    assert!(
        status.reboot_text.contains("reboot command number 1"),
        "{status:?}"
    );
    assert_eq!((volumes(&device), starts(&device, 1)), (before, 2));
    assert_eq!(
        done(&device, "downloader", "Fetch"),
        1,
        "nothing is fetched again"
    );
    device.pass(HOUR).await;
    assert_eq!((device.boots, done(&device, "nodeagent", "Ask")), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_purge_makes_new_volumes_while_the_guest_runs_and_swaps_them_in() {
    let mut device = deployed().await;
    let (old, old_made) = volumes(&device)[0];
    want(&device, |wish| wish.apps.get_mut(&1).unwrap().purge += 1);
    assert!(device.until(2 * MINUTE, |d| volumes(d).len() == 2).await);
    assert!(
        runs(&device, 1),
        "until the new volume is complete the old guest runs"
    );
    assert!(
        device.until(2 * MINUTE, is_settled).await,
        "{:?}",
        device.differences()
    );
    let (new, new_made) = volumes(&device)[0];
    assert_eq!(
        (new.volume, new.generation, volumes(&device).len()),
        (old.volume, old.generation + 1, 1)
    );
    assert!(new_made > old_made);
    let disks = device
        .machine
        .with(|s| s.guests.qemus[&app_id(1)].disks.clone());
    assert_eq!((disks, starts(&device, 1)), (vec![new], 2));
    assert_eq!(
        done(&device, "downloader", "Fetch"),
        1,
        "the image was still there"
    );
}

#[tokio::test(start_paused = true)]
async fn the_controller_is_gone_for_days() {
    // Seven days of turns take a minute of a processor, so each is as long as the run has time for.
    let days: u32 = env::var("DAYS").map_or(1, |days| days.parse().unwrap());
    let day = DAY * days / 7;
    let mut device = deployed().await;
    let before = volumes(&device);
    device.machine.with(|s| s.evc.reach = Reach::Down);
    device.pass(2 * day).await;
    assert_eq!((runs(&device, 1), starts(&device, 1)), (true, 1));

    // The power fails: the device goes on with what it was told last.
    device.power_cut(10 * MINUTE);
    assert!(device.until(20 * MINUTE, |d| runs(d, 1)).await);
    let status = device.rows(&ZEDAGENT_STATUS)["zedagent"].clone();
    assert_eq!(status.config_source, ConfigSource::Saved);
    device.pass(3 * day).await;

    // The guest ends by itself and is started again.
    device.machine.with(|s| s.kill_guest(app_id(1), s.now()));
    device.pass(day).await;
    assert_eq!((runs(&device, 1), starts(&device, 1)), (true, 3));
    device.kill("zedagent");
    device.pass(day).await;
    assert_eq!((volumes(&device), device.boots), (before, 2));

    let infos = device.machine.with(|s| {
        s.evc.reach = Reach::Up;
        s.evc.infos
    });
    assert!(
        device.until(2 * MINUTE, is_settled).await,
        "{:?}",
        device.differences()
    );
    assert_eq!(believed(&device, 1), Some(ZSwState::Running));
    let told = device.machine.with(|s| s.evc.infos) - infos;
    assert!(
        told <= 12,
        "{told} messages, but not every state in between"
    );
    assert_eq!(
        starts(&device, 1),
        3,
        "the same config again changes nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn a_reference_that_dangles_over_a_reboot_costs_nothing() {
    let mut device = deployed().await;
    let before = volumes(&device);
    for part in [
        Part::Volumes(1),
        Part::Memory(1),
        Part::Network,
        Part::Tree(1),
        Part::Datastore,
    ] {
        want(&device, |wish| {
            wish.broken.insert(part);
        });
        device.pass(3 * MINUTE).await;
        assert!(runs(&device, 1), "{part:?}");
        device.power_cut(SECOND);
        device.pass(10 * MINUTE).await;
        want(&device, |wish| wish.broken.clear());
        assert!(
            device.until(15 * MINUTE, is_settled).await,
            "{:?}",
            device.differences()
        );
        assert_eq!(volumes(&device), before, "{part:?}");
    }
    // Without its content tree the image is nobody's, and fetched again.
    assert!(done(&device, "downloader", "Fetch") <= 2);
}

#[tokio::test(start_paused = true)]
async fn in_maintenance_mode_what_runs_goes_on_and_what_is_new_waits() {
    let mut device = deployed().await;
    let before = volumes(&device);
    let polls = |device: &Device| device.machine.with(|s| s.evc.polls);
    // In one config: the device decides by what it says, not by what came first.
    want(&device, |wish| {
        wish.maintenance = true;
        wish.apps.insert(2, AppWish::default());
    });
    device.pass(5 * MINUTE).await;
    assert_eq!((runs(&device, 1), starts(&device, 1)), (true, 1));
    assert_eq!((runs(&device, 2), starts(&device, 2)), (false, 0));
    let waits = device.rows(&APP_INSTANCE_STATUS)[&app_id(2).to_string()].clone();
    let fault = waits.fault.unwrap();
    assert_eq!(fault.code, Code::AppDeferred, "{}", fault.line());
    assert_eq!(
        node(&device).maintenance,
        [MaintenanceReason::UserRequested]
    );
    let told = device
        .machine
        .with(|s| match &s.evc.believes["device"].content {
            InfoContent::Dinfo(info) => info.clone(),
            other => panic!("{other:?}"),
        });
    assert!(told.maintenance_mode);
    assert_eq!(
        told.maintenance_mode_reasons,
        [i32::from(MaintenanceModeReason::UserRequested)]
    );
    assert_eq!(
        told.state,
        i32::from(ZDeviceState::ZdeviceStateMaintenanceMode)
    );

    // The config is still fetched and obeyed, also after a loss of power.
    let asked = polls(&device);
    device.power_cut(MINUTE);
    device.pass(10 * MINUTE).await;
    assert!(polls(&device) > asked + 3);
    assert_eq!((runs(&device, 1), starts(&device, 1)), (true, 2));
    assert_eq!(starts(&device, 2), 0);
    want(&device, |wish| wish.apps.get_mut(&1).unwrap().restart += 1);
    device.pass(5 * MINUTE).await;
    assert_eq!((runs(&device, 1), starts(&device, 1)), (true, 3));
    assert!(before.iter().all(|kept| volumes(&device).contains(kept)));

    let fetched = done(&device, "zedagent", "NoteMaintenance");
    want(&device, |wish| wish.maintenance = false);
    assert!(
        device.until(5 * MINUTE, is_settled).await,
        "{:?}",
        device.differences()
    );
    assert!(runs(&device, 2));
    assert_eq!(done(&device, "zedagent", "NoteMaintenance"), fetched + 1);
    assert_eq!(starts(&device, 1), 3);
}
