//! Maintenance mode: what speaks against taking on something new.

use model::node::MaintenanceReason;

use crate::Device;

/// Why the device takes on nothing new, a sentence for each reason; nothing when it does.
pub(crate) fn maintenance(device: &Device) -> Vec<String> {
    let nodes = device.node.rows.values();
    nodes
        .flat_map(|node| &node.maintenance)
        .map(|reason| detail(device, *reason).unwrap_or_else(|| reason.to_string()))
        .collect()
}

fn detail(device: &Device, reason: MaintenanceReason) -> Option<String> {
    let tpm = || device.tpm.get("global")?.fault.clone();
    let attestation = || device.zedagent.get("zedagent")?.fault.clone();
    let fault = match reason {
        MaintenanceReason::UserRequested => {
            let by = match device.items().text("maintenance.mode") {
                "enabled" => "the property maintenance.mode",
                _ => "the device's config",
            };
            return Some(format!("{reason}, by {by}"));
        }
        MaintenanceReason::LowDiskSpace => {
            let disk = device.disk.get("global")?;
            let used = crate::words::part(disk.used_bytes, disk.total_bytes);
            let reserved = crate::words::size(disk.reserved_bytes);
            return Some(format!(
                "{reason}: {used} used, {reserved} are kept for the device itself"
            ));
        }
        MaintenanceReason::VaultLockedUp => device.vault.get("vault")?.fault.clone(),
        MaintenanceReason::TpmEncFailure => tpm(),
        MaintenanceReason::TpmQuoteFailure => tpm().or_else(attestation),
        MaintenanceReason::EdgeNodeCertsRefused => attestation(),
        MaintenanceReason::Unknown => None,
    };
    fault.map(|fault| format!("{reason}: [{}] {}", fault.code, fault.text))
}
