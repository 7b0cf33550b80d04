//! Physical adapters: what the device model says is in the box.

use serde::{Deserialize, Serialize};

use crate::id::LogicalLabel;

/// Kind of adapter, EVE's `PhyIoType` in the wire protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdapterKind {
    /// Ethernet port.
    Ethernet,
    /// USB port or controller.
    Usb,
    /// Serial port.
    Com,
    /// Wireless LAN.
    WirelessLan,
    /// Cellular modem.
    Cellular,
    /// Anything else, with its wire number.
    Other(i32),
}

/// Who may use an adapter, EVE's `PhyIoMemberUsage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum AdapterUsage {
    /// The device, for management and applications' networks.
    #[default]
    Mgmt,
    /// Applications' networks only.
    Shared,
    /// One application, directly.
    Dedicated,
    /// Nobody.
    Disabled,
}

/// One adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PhysicalIoAdapter {
    /// Kind.
    pub kind: AdapterKind,
    /// Name printed on the box.
    pub phy_label: String,
    /// The user's name of it.
    pub logical_label: LogicalLabel,
    /// Adapters of one group can only be assigned together; empty for never.
    #[serde(default)]
    pub assign_group: String,
    /// Interface name, for network adapters.
    #[serde(default)]
    pub if_name: String,
    /// PCI address, for PCI adapters.
    #[serde(default)]
    pub pci_long: String,
    /// Serial device, for COM ports.
    #[serde(default)]
    pub serial: String,
    /// USB address.
    #[serde(default)]
    pub usb_addr: String,
    /// Who may use it.
    #[serde(default)]
    pub usage: AdapterUsage,
    /// 0 is free; higher is tried later.
    #[serde(default)]
    pub cost: u8,
}

/// All adapters. Topic `zedagent/PhysicalIOAdapterList`, key `zedagent`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PhysicalIoAdapterList {
    /// False until the controller's model was seen.
    pub initialized: bool,
    /// The adapters.
    #[serde(default)]
    pub adapters: Vec<PhysicalIoAdapter>,
}
