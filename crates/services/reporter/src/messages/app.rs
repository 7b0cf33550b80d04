//! Applications.

use api::info::{ZInfoApp, ZInfoNetwork, ZInfoTypes, ZSwState, z_info_msg::InfoContent};
use model::app::{AppInstanceStatus, AppPhase};

use super::{Content, Messages, error, gone, time};
use crate::Desired;

const PREFIX: &str = "app.";

pub(super) fn infos(desired: &Desired, all: &mut Messages) {
    let Some(apps) = &desired.apps else { return };
    for (key, status) in apps.iter() {
        all.insert(
            format!("{PREFIX}{key}"),
            content(info(desired, key, status), false),
        );
    }
    gone(desired, PREFIX, all, |id| {
        content(
            ZInfoApp {
                app_id: id.to_owned(),
                state: ZSwState::Halted.into(),
                ..ZInfoApp::default()
            },
            true,
        )
    });
}

fn content(info: ZInfoApp, last: bool) -> Content {
    Content::new(ZInfoTypes::ZiApp, InfoContent::Ainfo(info), last)
}

fn info(desired: &Desired, key: &str, status: &AppInstanceStatus) -> ZInfoApp {
    let network = desired.app_networks.as_ref().and_then(|t| t.get(key));
    let vifs = network.map(|n| n.vifs.as_slice()).unwrap_or_default();
    ZInfoApp {
        app_id: key.to_owned(),
        app_version: status.version.clone(),
        app_name: status.display_name.clone(),
        boot_time: status.boot_time.map(time),
        app_err: status.fault.iter().map(error).collect(),
        state: state(&status.phase).into(),
        network: vifs
            .iter()
            .map(|vif| ZInfoNetwork {
                mac_addr: vif.mac.to_string(),
                dev_name: vif.name.clone(),
                local_name: vif.vif.clone(),
                ip_addrs: vif.ip.iter().map(ToString::to_string).collect(),
                ipv4_up: vif.lease_expires.is_some(),
                ..ZInfoNetwork::default()
            })
            .collect(),
        volume_refs: status
            .volumes
            .iter()
            .map(|v| v.volume.to_string())
            .collect(),
        ..ZInfoApp::default()
    }
}

fn state(phase: &AppPhase) -> ZSwState {
    match phase {
        AppPhase::Preparing { percent, .. } if *percent >= 90 => ZSwState::CreatingVolume,
        AppPhase::Preparing { .. } => ZSwState::DownloadStarted,
        AppPhase::AwaitNetwork => ZSwState::Awaitnetworkinstance,
        AppPhase::StartDelayed { .. } => ZSwState::StartDelayed,
        AppPhase::Booting => ZSwState::Booting,
        AppPhase::Running { .. } => ZSwState::Running,
        AppPhase::Halting | AppPhase::Deleting => ZSwState::Halting,
        AppPhase::Halted => ZSwState::Halted,
        AppPhase::Restarting => ZSwState::Restarting,
        AppPhase::Purging => ZSwState::Purging,
        AppPhase::Failed => ZSwState::Error,
    }
}
