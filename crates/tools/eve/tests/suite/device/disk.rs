//! A device as a directory, and what `eve` says about it.

use std::path::Path;

use bus::{Bus, Object, Topic};
use eve::{
    Device, Snapshot,
    device::Table,
    output::Output,
    snapshot::Supervisor,
    why::{self, Asked},
};
use model::topics;

use super::*;

fn publish<T: Object>(root: &Path, topic: &Topic<T>, table: &Table<T>) {
    if !table.known {
        return;
    }
    let bus = Bus::open(root, topic.service()).unwrap();
    let mut publisher = bus.publisher(topic).unwrap();
    let rows = table
        .rows
        .iter()
        .map(|(key, row)| (key.clone(), row.clone()));
    publisher.replace(&rows.collect()).unwrap();
    publisher.set_ready().unwrap();
    if !table.ready {
        // Its writer starts again.
        drop(publisher);
        bus.publisher(topic).unwrap();
    }
}

/// Writes a device's bus as its services would.
pub(crate) fn write(d: &Device, root: &Path) {
    std::fs::create_dir_all(root.join("run")).unwrap();
    macro_rules! all {
        ($($field:ident: $topic:ident),+ $(,)?) => {
            $(publish(root, &topics::$topic, &d.$field);)+
        };
    }
    all!(
        services: SERVICE_STATUS, onboarding: ONBOARDING_STATUS,
        controller_certs: CONTROLLER_CERT, config_items: CONFIG_ITEMS, zedagent: ZEDAGENT_STATUS,
        port_configs: DEVICE_PORT_CONFIG, datastores: DATASTORE_CONFIG,
        content_tree_configs: CONTENT_TREE_CONFIG, volume_configs: VOLUME_CONFIG,
        network_instance_configs: NETWORK_INSTANCE_CONFIG, app_configs: APP_INSTANCE_CONFIG,
        network: DEVICE_NETWORK_STATUS, leases: DHCP_LEASE, apps: APP_INSTANCE_STATUS,
        volume_refs: VOLUME_REF_CONFIG, app_network_configs: APP_NETWORK_CONFIG,
        domain_configs: DOMAIN_CONFIG, content_trees: CONTENT_TREE_STATUS, blobs: BLOB_STATUS,
        volumes: VOLUME_STATUS, volume_ref_statuses: VOLUME_REF_STATUS,
        download_configs: DOWNLOADER_CONFIG, verify_configs: VERIFY_IMAGE_CONFIG,
        disk: DISK_METRIC, downloads: DOWNLOADER_STATUS, verifications: VERIFY_IMAGE_STATUS, signatures: SIGNATURE_STATUS,
        domains: DOMAIN_STATUS, capabilities: CAPABILITIES,
        network_instances: NETWORK_INSTANCE_STATUS, app_networks: APP_NETWORK_STATUS,
        journal: DELIVERY_JOURNAL, node: NODE_AGENT_STATUS,
    );
}

/// The device as `eve` reads it from a directory, with every object a minute old.
pub(crate) fn read(root: &Path, supervisor: Supervisor) -> Device {
    let mut snapshot = Snapshot::load(root, now()).unwrap();
    snapshot.supervisor = supervisor;
    for table in snapshot.topics.values_mut() {
        for at in table.changed.values_mut() {
            *at = before(60);
        }
    }
    Device::of(&snapshot)
}

pub(crate) const PLAIN: Output = Output {
    json: false,
    colour: false,
    width: None,
};

/// The answer about one object of the device, by way of a directory.
pub(crate) fn why(d: &Device, kind: Asked, name: &str) -> String {
    let root = tempfile::tempdir().unwrap();
    write(d, root.path());
    let device = read(root.path(), d.supervisor);
    let answer = why::why(&device, Some(kind), name).unwrap();
    why::answer_text(PLAIN, &answer, device.at)
}

/// Everything that is not as wanted, by way of a directory.
pub(crate) fn whole(d: &Device) -> String {
    let root = tempfile::tempdir().unwrap();
    write(d, root.path());
    let device = read(root.path(), d.supervisor);
    why::troubles_text(PLAIN, &why::troubles(&device, None), device.at)
}

/// Compares with `tests/golden/<name>.txt`, which `BLESS=1` rewrites.
pub(crate) fn golden(name: &str, cases: &[(&str, String)]) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.txt"));
    let text: Vec<String> = cases
        .iter()
        .map(|(case, text)| format!("=== {case}\n{text}"))
        .collect();
    let text = text.join("\n");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&file, &text).unwrap();
        return;
    }
    let wanted = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = wanted.lines().zip(text.lines()).position(|(a, b)| a != b);
    assert!(
        wanted == text,
        "{} differs from line {}; BLESS=1 rewrites it. Now:\n{text}",
        file.display(),
        differs.unwrap_or(0) + 1
    );
}
