//! Block nodes, network back ends and devices as the JSON objects of QEMU.
//!
//! The same object is an argument of the command line (`-blockdev`, `-netdev`, `-device`) and of
//! QMP (`blockdev-add`, `netdev_add`, `device_add`), so a disk that comes while the guest runs is
//! the same as one that was there at its start. JSON also means that no path needs quoting.

use serde_json::{Map, Value, json};

use crate::spec::{BaseImage, Disk, DiskBus, DiskTarget, ImageFormat, Nic, NicModel};

/// The block node of a disk; `id` becomes its node name (31 bytes at most).
///
/// The whole chain is spelled out: format, base image, and `null` where a qcow2 image has no base,
/// so that nothing which stands in an image decides which file of the host is opened.
pub fn disk_node(id: &str, disk: &Disk) -> Value {
    let mut node = Map::new();
    node.insert("node-name".into(), id.into());
    node.insert("driver".into(), disk.format.name().into());
    node.insert("read-only".into(), disk.is_readonly().into());
    if !disk.is_readonly() {
        node.insert("discard".into(), "unmap".into());
    }
    let mut file = json!({ "driver": "file", "filename": disk.path.to_string_lossy() });
    if !disk.is_readonly() {
        file["discard"] = "unmap".into();
    }
    node.insert("file".into(), file);
    if disk.format == ImageFormat::Qcow2 {
        let base = disk.base.as_ref().map_or(Value::Null, base_node);
        node.insert("backing".into(), base);
    }
    Value::Object(node)
}

fn base_node(base: &BaseImage) -> Value {
    let mut node = json!({
        "driver": base.format.name(),
        "read-only": true,
        "file": { "driver": "file", "filename": base.path.to_string_lossy() },
    });
    if base.format == ImageFormat::Qcow2 {
        node["backing"] = Value::Null;
    }
    node
}

/// The block node of any read-only or private file without a format of its own (firmware, seed).
pub fn raw_node(id: &str, path: &std::path::Path, readonly: bool) -> Value {
    json!({
        "node-name": id,
        "driver": "raw",
        "read-only": readonly,
        "file": { "driver": "file", "filename": path.to_string_lossy() },
    })
}

/// The device that shows the node `id` to the guest, on the bus `bus`; see [`crate::args`] for the
/// names of the buses. `boot` is the place in the boot order, from 0.
pub fn disk_device(id: &str, disk: &Disk, bus: &str, boot: Option<usize>) -> Value {
    let driver = match (disk.bus, disk.target) {
        (DiskBus::Virtio, DiskTarget::Disk) => "virtio-blk-pci",
        (DiskBus::Virtio, DiskTarget::Cdrom) => "scsi-cd",
        (DiskBus::Ahci, DiskTarget::Disk) => "ide-hd",
        (DiskBus::Ahci, DiskTarget::Cdrom) => "ide-cd",
    };
    let mut device = json!({ "driver": driver, "id": id, "bus": bus, "drive": id });
    if let Some(serial) = &disk.serial {
        device["serial"] = serial.as_str().into();
    }
    if let Some(boot) = boot {
        device["bootindex"] = boot.into();
    }
    device
}

/// The host's side of a network card. `vhost` moves packets in the kernel; ask for it only where
/// the kernel has it, QEMU aborts otherwise. No script is ever run: the tap is ready. Who starts QEMU makes sure of that: with
/// the right to do so QEMU would make a missing tap itself, connected to nothing.
pub fn nic_backend(id: &str, nic: &Nic, vhost: bool) -> Value {
    json!({
        "type": "tap",
        "id": id,
        "ifname": nic.tap,
        "script": "no",
        "downscript": "no",
        "vhost": vhost && nic.model == NicModel::Virtio,
    })
}

/// The guest's side of the network back end `backend`. Without a ROM: guests boot from their
/// disks, and the firmware need not wait for a boot server.
pub fn nic_device(id: &str, nic: &Nic, backend: &str, bus: &str) -> Value {
    let driver = match nic.model {
        NicModel::Virtio => "virtio-net-pci",
        NicModel::E1000e => "e1000e",
    };
    json!({
        "driver": driver,
        "id": id,
        "bus": bus,
        "netdev": backend,
        "mac": nic.mac.to_string(),
        "romfile": "",
    })
}
