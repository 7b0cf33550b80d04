//! A device configuration. One bad object marks itself and whoever needs it, never a sibling: nothing
//! that has a name gets lost, and every row can be published and read back.

use std::{collections::BTreeSet, str::FromStr};

use api::config::EdgeDevConfig;
use bus::{Object, Rows};
use model::{
    config_item::{ConfigItemValueMap, parse_item},
    fault::Fault,
    id::{AppId, ContentTreeId, DatastoreId, DeviceId, NetworkInstanceId, VolumeId},
    volume::VolumeOrigin,
};
use prost::Message as _;
use serde_json::{Value, json};
use zedagent::translate::{Refusal, Translated, config_items, translate};

use crate::keys::now;

/// The device's name.
pub(crate) const DEVICE: &str = "00000000-0000-4000-8000-000000000001";
/// Longest text of a fault: it is for people, and goes over the network again and again.
const LONGEST_TEXT: usize = 1004;

/// The device.
pub(crate) fn device() -> DeviceId {
    DEVICE.parse().expect("a UUID")
}

/// Translates it, as it is and with this device's name in it.
pub fn check(bytes: &[u8]) {
    let Ok(mut config) = EdgeDevConfig::decode(bytes) else {
        return;
    };
    let _ = translate(&config, device(), Some(now()), now());
    DEVICE.clone_into(&mut config.id.get_or_insert_default().uuid);
    let to = match translate(&config, device(), None, now()) {
        Ok(to) => to,
        Err(
            refusal @ (Refusal::Nameless(_) | Refusal::Foreign { .. } | Refusal::Obsolete { .. }),
        ) => {
            panic!("{refusal}")
        }
    };
    sound(&config, &to);
    siblings(&config, &to, bytes.len());
}

/// What must hold for every translation.
pub(crate) fn sound(config: &EdgeDevConfig, to: &Translated) {
    nothing_is_lost(config, to);
    references_hold(to);
    is_published(&to.datastores, |row| row.fault.as_ref());
    is_published(&to.content_trees, |row| row.fault.as_ref());
    is_published(&to.volumes, |row| row.fault.as_ref());
    is_published(&to.network_instances, |row| row.fault.as_ref());
    is_published(&to.apps, |row| row.fault.as_ref());
    let ports = to.ports.clone().map(|ports| (String::new(), ports));
    is_published(&ports.into_iter().collect(), |row| row.fault.as_ref());
    is_published(&Rows::from([(String::new(), to.adapters.clone())]), |_| {
        None
    });
    to.faults.iter().for_each(is_short);
    items(&to.items);
}

fn nothing_is_lost(config: &EdgeDevConfig, to: &Translated) {
    fn named<T: FromStr + ToString>(ids: impl Iterator<Item = String>) -> BTreeSet<String> {
        ids.filter_map(|id| Some(id.parse::<T>().ok()?.to_string()))
            .collect()
    }
    fn keys<T>(rows: &Rows<T>) -> BTreeSet<String> {
        rows.keys().cloned().collect()
    }
    let uuid = |id: &Option<api::config::UuiDandVersion>| {
        id.as_ref().map_or(String::new(), |id| id.uuid.clone())
    };
    let apps = config.apps.iter().map(|app| uuid(&app.uuidandversion));
    assert_eq!(keys(&to.apps), named::<AppId>(apps), "apps");
    let networks = config.network_instances.iter();
    let networks = networks.map(|network| uuid(&network.uuidandversion));
    let networks = named::<NetworkInstanceId>(networks);
    assert_eq!(keys(&to.network_instances), networks, "network instances");
    let trees = config.content_info.iter().map(|tree| tree.uuid.clone());
    assert_eq!(keys(&to.content_trees), named::<ContentTreeId>(trees));
    let stores = config.datastores.iter().map(|store| store.id.clone());
    assert_eq!(keys(&to.datastores), named::<DatastoreId>(stores));
    let volumes = config.volumes.iter().map(|volume| volume.uuid.clone());
    let found = to.volumes.values().map(|volume| volume.id.to_string());
    assert_eq!(
        found.collect::<BTreeSet<_>>(),
        named::<VolumeId>(volumes),
        "volumes"
    );
}

/// What is in order needs only what is there and in order.
fn references_hold(to: &Translated) {
    for app in to.apps.values().filter(|app| app.fault.is_none()) {
        for attached in &app.volumes {
            let volume = to.volumes.get(&attached.volume.to_string());
            assert!(volume.is_some_and(|v| v.fault.is_none()), "{app:?}");
        }
        for vif in &app.vifs {
            let network = to.network_instances.get(&vif.network_instance.to_string());
            assert!(network.is_some_and(|n| n.fault.is_none()), "{app:?}");
        }
    }
    for volume in to.volumes.values().filter(|v| v.fault.is_none()) {
        if let VolumeOrigin::Content(tree) = volume.origin {
            let tree = to.content_trees.get(&tree.to_string());
            assert!(tree.is_some_and(|t| t.fault.is_none()), "{volume:?}");
        }
    }
    for tree in to.content_trees.values().filter(|t| t.fault.is_none()) {
        for store in &tree.datastores {
            let store = to.datastores.get(&store.to_string());
            assert!(store.is_some_and(|d| d.fault.is_none()), "{tree:?}");
        }
    }
    if let Some(ports) = to.ports.as_ref().filter(|ports| ports.fault.is_none()) {
        assert!(ports.ports.iter().any(|port| port.is_mgmt), "{ports:?}");
    }
}

fn is_published<T: Object + std::fmt::Debug>(rows: &Rows<T>, fault: impl Fn(&T) -> Option<&Fault>) {
    for row in rows.values() {
        let json = serde_json::to_vec(row).expect("a row as JSON");
        let back: T = serde_json::from_slice(&json).unwrap_or_else(|e| panic!("{e}: {row:?}"));
        assert!(back == *row, "{row:?} is read as {back:?}");
        fault(row).into_iter().for_each(is_short);
    }
}

fn is_short(fault: &Fault) {
    for text in [&fault.text, &fault.object]
        .into_iter()
        .chain(&fault.causes)
    {
        let length = text.chars().count();
        assert!(length <= LONGEST_TEXT, "{length} characters");
    }
}

/// A good value stays what it is, a bad one changes nothing.
fn items(items: &[(String, String)]) {
    let before = config_items(
        &[("timer.config.interval".to_owned(), "77".to_owned())],
        &ConfigItemValueMap::default(),
    );
    let map = config_items(items, &before);
    for (name, value) in &map.values {
        assert_eq!(parse_item(name, value).ok().as_ref(), Some(value), "{name}");
    }
    for (name, error) in &map.errors {
        assert!(error.len() < 1000, "{name}: {error}");
    }
    let again = config_items(items, &map);
    assert_eq!(again.errors, map.errors);
}

/// Takes one object out, if there is any.
fn drop_one<T>(list: &mut Vec<T>, chance: usize) -> bool {
    let found = !list.is_empty();
    if found {
        list.remove(chance % list.len());
    }
    found
}

/// Takes one object of each kind out: its siblings stay as they are.
fn siblings(config: &EdgeDevConfig, to: &Translated, chance: usize) {
    let mut less = config.clone();
    if drop_one(&mut less.apps, chance) {
        let without = translated(&less);
        stays(&to.apps, &without.apps);
        assert!(to.volumes == without.volumes && to.ports == without.ports);
        assert!(to.network_instances == without.network_instances);
    }
    less.clone_from(config);
    if drop_one(&mut less.volumes, chance) {
        stays(&to.volumes, &translated(&less).volumes);
    }
    less.clone_from(config);
    if drop_one(&mut less.content_info, chance) {
        stays(&to.content_trees, &translated(&less).content_trees);
    }
    less.clone_from(config);
    if drop_one(&mut less.datastores, chance) {
        stays(&to.datastores, &translated(&less).datastores);
    }
    less.clone_from(config);
    if drop_one(&mut less.network_instances, chance) {
        let without = translated(&less);
        stays(&to.network_instances, &without.network_instances);
        assert!(to.volumes == without.volumes && to.ports == without.ports);
    }
}

/// Translated for this device.
pub(crate) fn translated(config: &EdgeDevConfig) -> Translated {
    translate(config, device(), None, now()).expect("our own config")
}

/// At most one row is gone, or is another now because it was there twice.
fn stays<T: PartialEq + std::fmt::Debug>(all: &Rows<T>, without: &Rows<T>) {
    let changed = all
        .iter()
        .filter(|(key, row)| without.get(*key) != Some(*row));
    let changed: Vec<_> = changed.collect();
    assert!(changed.len() <= 1, "siblings suffer: {changed:?}");
    assert!(without.keys().all(|key| all.contains_key(key)));
}

/// A config with something of everything, as JSON.
pub(crate) fn example() -> Value {
    let (store, tree, volume) = (id(0xd5), id(0xc7), id(0xf01));
    let (network, app) = (id(0xe7), id(0xa9));
    json!({
        "id": {"uuid": DEVICE, "version": "3"},
        "datastores": [
            {"id": store, "dType": "DsHttps", "fqdn": "ds.example", "dpath": "images"},
            {"id": id(0xd6), "dType": "DsS3", "fqdn": "", "region": "eu"}],
        "contentInfo": [
            {"uuid": tree, "dsIdsList": [store], "URL": "tiny.qcow2", "iformat": "QCOW2",
             "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
             "maxSizeBytes": "20000000", "displayName": "tiny"},
            {"uuid": id(0xc8), "dsId": id(0xd6), "URL": "x.iso", "iformat": "ISO", "sha256": "xyz"}],
        "volumes": [
            {"uuid": volume, "origin": {"type": "VCOT_DOWNLOAD", "downloadContentTreeID": tree},
             "maxsizebytes": "100000000", "displayName": "root", "generationCount": "1"},
            {"uuid": id(0xf02), "origin": {"type": "VCOT_BLANK"}, "maxsizebytes": "1000000", "target": "Disk"},
            {"uuid": id(0xf03), "origin": {"type": "VCOT_DOWNLOAD", "downloadContentTreeID": id(0xc8)}}],
        "networkInstances": [
            {"uuidandversion": {"uuid": network}, "displayname": "local", "instType": "ZnetInstLocal",
             "port": {"name": "uplink"}, "ip": {"subnet": "10.1.0.0/24", "gateway": "10.1.0.1",
             "dhcpRange": {"start": "10.1.0.2", "end": "10.1.0.254"}, "dns": ["10.1.0.1"], "ntp": "pool.example"},
             "dns": [{"HostName": "db", "Address": ["10.1.0.9"]}]},
            {"uuidandversion": {"uuid": id(0xe8)}, "instType": "ZnetInstSwitch", "port": {"name": "eth1"}, "mtu": 9000}],
        "apps": [
            {"uuidandversion": {"uuid": app, "version": "3"}, "displayname": "web", "activate": true,
             "fixedresources": {"memory": 131_072, "vcpus": 1, "virtualizationMode": "HVM", "enableVnc": true},
             "volumeRefList": [{"uuid": volume, "generationCount": "1"}, {"uuid": id(0xf02)}],
             "userData": "I2Nsb3VkLWNvbmZpZwo=", "restart": {"counter": 2}, "purge": {"counter": 1},
             "interfaces": [{"name": "eth0", "networkId": network, "macAddress": "02:16:3e:01:02:03", "addr": "10.1.0.7", "acls": [
                {"id": 1, "matches": [{"type": "ip", "value": "0.0.0.0/0"}]},
                {"id": 2, "matches": [{"type": "protocol", "value": "tcp"}, {"type": "lport", "value": "8080"}],
                 "actions": [{"portmap": true, "appPort": 80}]},
                {"id": 3, "matches": [{"type": "host", "value": "a.example"}, {"type": "fport", "value": "80-90"}],
                 "actions": [{"limit": true, "limitrate": 5, "limitunit": "s", "limitburst": 9}]},
                {"id": 4, "matches": [{"type": "adapter", "value": "uplink"}], "actions": [{"drop": true}]}]}]},
            {"uuidandversion": {"uuid": id(0xaa)}, "fixedresources": {"memory": 4096, "virtualizationMode": "PV", "bootMode": "VM_BOOT_MODE_UEFI"},
             "volumeRefList": [{"uuid": id(0xf03)}], "interfaces": [{"name": "n", "networkId": id(0xe8)}]}],
        "networks": [
            {"id": id(0x11), "type": "V4", "ip": {"dhcp": "Client"}},
            {"id": id(0x12), "type": "V4", "ip": {"dhcp": "Static", "subnet": "192.0.2.0/24", "gateway": "192.0.2.1", "dns": ["192.0.2.53"]},
             "entProxy": {"proxies": [{"proto": "PROXY_HTTP", "server": "proxy.example", "port": 3128}], "exceptions": "*.local"}, "mtu": 1400}],
        "systemAdapterList": [
            {"name": "uplink", "networkUUID": id(0x11), "uplink": true, "lowerLayerName": "eth0"},
            {"name": "second", "networkUUID": id(0x12), "addr": "192.0.2.7", "cost": 3, "lowerLayerName": "eth1"}],
        "deviceIoList": [
            {"ptype": "PhyIoNetEth", "phylabel": "eth0", "logicallabel": "eth0", "assigngrp": "g0", "phyaddrs": {"Ifname": "eth0", "PciLong": "0000:02:00.0"}, "usage": "PhyIoUsageMgmtAndApps"},
            {"ptype": "PhyIoNetEth", "phylabel": "eth1", "logicallabel": "eth1", "phyaddrs": {"Ifname": "eth1"}, "usage": "PhyIoUsageShared"}],
        "reboot": {"counter": 7}, "shutdown": {"counter": 1},
        "configItems": [
            {"key": "timer.config.interval", "value": "30"}, {"key": "timer.config.interval", "value": "x"},
            {"key": "debug.default.loglevel", "value": "warn"}, {"key": "no.such", "value": "18446744073709551616"}],
        "configTimestamp": "2026-11-30T00:00:00.5Z", "controllerEpoch": "4", "controllercertConfighash": "abc",
    })
}

fn id(n: u16) -> String {
    format!("00000000-0000-4000-8000-00000000{n:04x}")
}

/// The example as a message.
pub(crate) fn message(json: &Value) -> EdgeDevConfig {
    serde_json::from_value(json.clone()).expect("a config")
}

/// The example, parts of it, and what the controller makes of its own examples.
pub fn seeds() -> Vec<Vec<u8>> {
    let example = example();
    let mut seeds = vec![message(&example).encode_to_vec()];
    for field in [
        "apps",
        "volumes",
        "networkInstances",
        "systemAdapterList",
        "configItems",
    ] {
        let mut less = example.clone();
        let object = less.as_object_mut().expect("an object");
        object.retain(|name, _| name == field || name == "id" || name == "networks");
        seeds.push(message(&less).encode_to_vec());
    }
    for golden in [
        include_str!("../../../crates/tools/evc/tests/golden/config/device.json"),
        include_str!("../../../crates/tools/evc/tests/golden/config/manifest-config.json"),
    ] {
        let json: Value = serde_json::from_str(golden).expect("JSON");
        seeds.push(message(&json).encode_to_vec());
    }
    seeds
}
