//! What concerns the device as a whole: its hardware model and its commands.

use api::{
    common::{PhyIoMemberUsage, PhyIoType},
    config::{EdgeDevConfig, PhysicalIo},
};
use model::{
    adapter::{AdapterKind, AdapterUsage, PhysicalIoAdapter, PhysicalIoAdapterList},
    id::LogicalLabel,
    node::{DeviceOperation, DeviceOperationKind},
};

use super::Translated;

pub(super) fn adapters(config: &EdgeDevConfig, to: &mut Translated) {
    to.adapters = PhysicalIoAdapterList {
        initialized: true,
        adapters: config.device_io_list.iter().map(adapter).collect(),
    };
}

fn adapter(from: &PhysicalIo) -> PhysicalIoAdapter {
    let address = |name: &str| {
        let found = from
            .phyaddrs
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map_or(String::new(), |(_, value)| value.clone())
    };
    let kind = match PhyIoType::try_from(from.ptype) {
        Ok(PhyIoType::PhyIoNetEth | PhyIoType::PhyIoNetEthPf) => AdapterKind::Ethernet,
        Ok(PhyIoType::PhyIoUsb | PhyIoType::PhyIoUsbController | PhyIoType::PhyIoUsbDevice) => {
            AdapterKind::Usb
        }
        Ok(PhyIoType::PhyIoCom) => AdapterKind::Com,
        Ok(PhyIoType::PhyIoNetWlan) => AdapterKind::WirelessLan,
        Ok(PhyIoType::PhyIoNetWwan) => AdapterKind::Cellular,
        Ok(_) | Err(_) => AdapterKind::Other(from.ptype),
    };
    let usage = match PhyIoMemberUsage::try_from(from.usage) {
        Ok(PhyIoMemberUsage::PhyIoUsageShared) => AdapterUsage::Shared,
        Ok(PhyIoMemberUsage::PhyIoUsageDedicated) => AdapterUsage::Dedicated,
        Ok(PhyIoMemberUsage::PhyIoUsageDisabled) => AdapterUsage::Disabled,
        Ok(
            PhyIoMemberUsage::PhyIoUsageNone
            | PhyIoMemberUsage::PhyIoUsageMgmtAndApps
            | PhyIoMemberUsage::PhyIoUsageMgmtOnly,
        )
        | Err(_) => AdapterUsage::Mgmt,
    };
    PhysicalIoAdapter {
        kind,
        phy_label: from.phylabel.clone(),
        logical_label: LogicalLabel(from.logicallabel.clone()),
        assign_group: from.assigngrp.clone(),
        if_name: address("ifname"),
        pci_long: address("pcilong"),
        serial: address("serial"),
        usb_addr: address("usbaddr"),
        usage,
        cost: 0,
    }
}

pub(super) fn operations(config: &EdgeDevConfig, to: &mut Translated) {
    // A command that was never given has the counter 0: the first one is news.
    let counter =
        |command: &Option<api::config::DeviceOpsCmd>| command.as_ref().map_or(0, |c| c.counter);
    to.operations = vec![
        DeviceOperation {
            kind: DeviceOperationKind::Reboot,
            counter: counter(&config.reboot),
        },
        DeviceOperation {
            kind: DeviceOperationKind::Shutdown,
            counter: counter(&config.shutdown),
        },
    ];
}
