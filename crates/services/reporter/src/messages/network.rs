//! Network instances.

use api::{
    config::ZNetworkInstType,
    info::{
        ZInfoNetworkInstance, ZInfoTypes, ZNetworkInstanceState, ZmetIpAssignmentEntry,
        ZmetVifInfo, z_info_msg::InfoContent,
    },
};
use model::network::{NetworkInstanceKind, NetworkInstancePhase, NetworkInstanceStatus};

use super::{Content, Messages, error, gone};
use crate::Desired;

const PREFIX: &str = "network-instance.";

pub(super) fn infos(desired: &Desired, all: &mut Messages) {
    let Some(instances) = &desired.network_instances else {
        return;
    };
    for (key, status) in instances.iter() {
        all.insert(format!("{PREFIX}{key}"), content(info(key, status), false));
    }
    gone(desired, PREFIX, all, |id| {
        content(
            ZInfoNetworkInstance {
                network_id: id.to_owned(),
                activated: false,
                ..Default::default()
            },
            true,
        )
    });
}

fn content(info: ZInfoNetworkInstance, last: bool) -> Content {
    Content::new(
        ZInfoTypes::ZiNetworkInstance,
        InfoContent::Niinfo(info),
        last,
    )
}

fn info(key: &str, status: &NetworkInstanceStatus) -> ZInfoNetworkInstance {
    let kind = match status.kind {
        NetworkInstanceKind::Local => ZNetworkInstType::ZnetInstLocal,
        NetworkInstanceKind::Switch => ZNetworkInstType::ZnetInstSwitch,
    };
    let (activated, state) = match status.phase {
        NetworkInstancePhase::Up | NetworkInstancePhase::NoUplink { .. } => {
            (true, ZNetworkInstanceState::ZnetinstStateOnline)
        }
        NetworkInstancePhase::Creating => (false, ZNetworkInstanceState::ZnetinstStateInit),
        NetworkInstancePhase::Deleting => (false, ZNetworkInstanceState::ZnetinstStateUnspecified),
        NetworkInstancePhase::Failed => (false, ZNetworkInstanceState::ZnetinstStateError),
    };
    ZInfoNetworkInstance {
        network_id: key.to_owned(),
        inst_type: u32::try_from(i32::from(kind)).unwrap_or_default(),
        displayname: status.display_name.clone(),
        activated,
        // Its successor is `ports`; older controllers read this one.
        #[allow(deprecated)]
        current_uplink_intf: status.ports.first().cloned().unwrap_or_default(),
        ports: status.ports.clone(),
        bridge_num: u32::from(status.number),
        bridge_name: status.bridge.clone(),
        bridge_ip_addr: status.gateway.map(|g| g.to_string()).unwrap_or_default(),
        ip_assignments: status
            .vifs
            .iter()
            .map(|vif| ZmetIpAssignmentEntry {
                mac_address: vif.mac.to_string(),
                ip_address: vif.ip.iter().map(ToString::to_string).collect(),
            })
            .collect(),
        vifs: status
            .vifs
            .iter()
            .map(|vif| ZmetVifInfo {
                vif_name: vif.vif.clone(),
                mac_address: vif.mac.to_string(),
                app_id: vif.app.to_string(),
            })
            .collect(),
        network_err: status.fault.iter().map(error).collect(),
        state: state.into(),
        ..ZInfoNetworkInstance::default()
    }
}
