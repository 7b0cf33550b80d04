//! What the controller wants, in a form that is easy to change and to compare with.

use std::collections::{BTreeMap, BTreeSet};

use api::config::{ConfigResponse, EdgeDevConfig};
use model::id::{AppId, Digest, VolumeId, VolumeKey};
use serde_json::{Value, json};
use uuid::Uuid;

pub(crate) const MIB: u64 = 1 << 20;
/// This device.
pub(crate) const DEVICE: &str = "00000000-0000-4000-8000-000000000001";
const ANOTHER_DEVICE: &str = "00000000-0000-4000-8000-000000000002";
pub(crate) const DATASTORE: &str = "00000000-0000-4000-8000-0000000000d5";
pub(crate) const NETWORK: &str = "00000000-0000-4000-8000-0000000000e7";

/// A whole config.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wish {
    /// Applications by number.
    pub apps: BTreeMap<AppNumber, AppWish>,
    /// Volumes of applications that are not there (any more).
    pub parked: BTreeMap<AppNumber, AppWish>,
    /// Applications that were there once. Who comes back as another one counts on: a device may never have seen that it
    /// was gone.
    pub former: BTreeMap<AppNumber, AppWish>,
    /// Parts that are missing or wrong though others refer to them.
    pub broken: BTreeSet<Part>,
    /// The reboot command's counter.
    pub reboot: u32,
    /// The shutdown command's counter.
    pub shutdown: u32,
    /// Counts the configs that were made; part of the hash.
    pub version: u32,
    /// It is meant for another device.
    pub foreign: bool,
    /// Bumped when every report is wanted again.
    pub epoch: i64,
    /// Nothing new is to be taken on.
    pub maintenance: bool,
    /// Configuration properties.
    pub items: BTreeMap<String, String>,
}

/// Something that is missing from a config, or wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The only datastore is missing.
    Datastore,
    /// The only network instance is missing.
    Network,
    /// The content tree of an image is missing.
    Tree(Image),
    /// The volumes of an application are missing.
    Volumes(AppNumber),
    /// An application has no memory.
    Memory(AppNumber),
}

/// An image, by number.
pub type Image = u8;

/// An application, by number; below 4096.
pub type AppNumber = u16;

/// An application.
#[derive(Debug, Clone, PartialEq)]
pub struct AppWish {
    /// Shall run.
    pub activate: bool,
    /// Restart commands.
    pub restart: u32,
    /// Purge commands.
    pub purge: u32,
    /// Generation of its volumes.
    pub generation: u32,
    /// What its first disk is made of.
    pub image: Image,
    /// Has a second, blank disk.
    pub data: bool,
    /// Has an interface in the network instance.
    pub vif: bool,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Seconds after boot before it is started.
    pub delay: u32,
}

impl Default for AppWish {
    fn default() -> Self {
        Self {
            activate: true,
            restart: 0,
            purge: 0,
            generation: 0,
            image: 1,
            data: false,
            vif: true,
            memory_mib: 256,
            delay: 0,
        }
    }
}

/// The UUID of an application.
pub fn app_id(n: AppNumber) -> AppId {
    AppId(Uuid::from_u128(0xa9_0000 + u128::from(n)))
}

/// The number of an application.
pub(crate) fn app_number(app: AppId) -> AppNumber {
    AppNumber::try_from(app.0.as_u128() & 0xffff).unwrap()
}

/// The digest of an image.
pub fn digest(image: Image) -> Digest {
    Digest([image; 32])
}

/// Bytes of an image.
pub(crate) fn image_bytes(image: Image) -> u64 {
    (8 + u64::from(image)) * MIB
}

fn tree_id(image: Image) -> String {
    Uuid::from_u128(0xc700 + u128::from(image)).to_string()
}

/// The second disk has an odd last digit.
fn volume_id(n: AppNumber, disk: u8) -> VolumeId {
    VolumeId(Uuid::from_u128(
        0xf_0000 + u128::from(n) * 16 + u128::from(disk),
    ))
}

/// The application that a volume belongs to.
pub(crate) fn owner(volume: VolumeId) -> AppNumber {
    AppNumber::try_from((volume.0.as_u128() >> 4) & 0xfff).unwrap()
}

impl AppWish {
    /// Its volumes as the config names them.
    pub(crate) fn volumes(&self, n: AppNumber) -> Vec<VolumeKey> {
        let disks = if self.data { 2 } else { 1 };
        (0..disks)
            .map(|disk| VolumeKey {
                volume: volume_id(n, disk),
                generation: self.generation.into(),
            })
            .collect()
    }
}

impl Wish {
    /// The controller's hash of it.
    pub fn hash(&self) -> String {
        format!("v{}", self.version)
    }

    /// An application and everything that it refers to is in order.
    pub(crate) fn is_sound(&self, n: AppNumber) -> bool {
        let Some(app) = self.apps.get(&n) else {
            return false;
        };
        let mut needs = vec![
            Part::Datastore,
            Part::Tree(app.image),
            Part::Volumes(n),
            Part::Memory(n),
        ];
        if app.vif {
            needs.push(Part::Network);
        }
        !needs.iter().any(|part| self.broken.contains(part))
    }

    /// Images whose content tree is in the config.
    pub(crate) fn images(&self) -> BTreeSet<Image> {
        let all = self.apps.values().chain(self.parked.values());
        all.map(|app| app.image)
            .filter(|image| !self.broken.contains(&Part::Tree(*image)))
            .collect()
    }

    /// Volumes in the config, by application.
    pub(crate) fn volumes(&self) -> impl Iterator<Item = (AppNumber, &AppWish)> {
        let apps = self.apps.iter().chain(&self.parked);
        apps.map(|(n, app)| (*n, app))
            .filter(|(n, _)| !self.broken.contains(&Part::Volumes(*n)))
    }

    /// As the controller sends it.
    pub(crate) fn response(&self) -> ConfigResponse {
        ConfigResponse {
            config: Some(self.config()),
            config_hash: self.hash(),
        }
    }

    fn config(&self) -> EdgeDevConfig {
        let missing = |part: Part| self.broken.contains(&part);
        let datastores = if missing(Part::Datastore) {
            json!([])
        } else {
            json!([{"id": DATASTORE, "dType": "DsHttps", "fqdn": "ds.example", "dpath": "images"}])
        };
        let networks = if missing(Part::Network) {
            json!([])
        } else {
            json!([{"uuidandversion": {"uuid": NETWORK}, "displayname": "local", "instType": "ZnetInstLocal",
                "port": {"name": "uplink"}, "ip": {"subnet": "10.1.0.0/24", "gateway": "10.1.0.1"}}])
        };
        let trees: Vec<Value> = self
            .images()
            .into_iter()
            .map(|image| {
                json!({"uuid": tree_id(image), "dsIdsList": [DATASTORE], "URL": format!("{image}.qcow2"),
                    "iformat": "QCOW2", "sha256": digest(image).to_string(),
                    "maxSizeBytes": image_bytes(image).to_string(), "displayName": format!("image {image}")})
            })
            .collect();
        let volumes: Vec<Value> = self
            .volumes()
            .flat_map(|(n, app)| wire_volumes(n, app))
            .collect();
        let apps: Vec<Value> = self
            .apps
            .iter()
            .map(|(n, app)| self.wire_app(*n, app))
            .collect();
        let items: Vec<Value> = self
            .items
            .iter()
            .map(|(key, value)| json!({"key": key, "value": value}))
            .collect();
        let device = if self.foreign { ANOTHER_DEVICE } else { DEVICE };
        let config = json!({
            "id": {"uuid": device, "version": self.version.to_string()},
            "datastores": datastores,
            "contentInfo": trees,
            "volumes": volumes,
            "networkInstances": networks,
            "apps": apps,
            "reboot": {"counter": self.reboot},
            "shutdown": {"counter": self.shutdown},
            "controllerEpoch": self.epoch.to_string(),
            "configItems": items,
            "maintenanceMode": self.maintenance,
        });
        serde_json::from_value(config).unwrap()
    }

    fn wire_app(&self, n: AppNumber, app: &AppWish) -> Value {
        let volumes: Vec<Value> = app
            .volumes(n)
            .iter()
            .map(|key| json!({"uuid": key.volume.to_string(), "generationCount": key.generation.to_string()}))
            .collect();
        let memory = if self.broken.contains(&Part::Memory(n)) {
            0
        } else {
            app.memory_mib * 1024
        };
        let interfaces = if app.vif {
            json!([{"name": "eth0", "networkId": NETWORK, "acls": [{"id": 1, "matches": [{"type": "ip", "value": "0.0.0.0/0"}]}]}])
        } else {
            json!([])
        };
        json!({"uuidandversion": {"uuid": app_id(n).to_string(), "version": self.version.to_string()},
            "displayname": format!("app {n}"), "activate": app.activate,
            "fixedresources": {"memory": memory, "vcpus": 1, "virtualizationMode": "HVM"},
            "volumeRefList": volumes, "interfaces": interfaces, "startDelayInSeconds": app.delay,
            "restart": {"counter": app.restart}, "purge": {"counter": app.purge}})
    }
}

fn wire_volumes(n: AppNumber, app: &AppWish) -> Vec<Value> {
    let wire = |key: &VolumeKey| {
        let origin = if *key == app.volumes(n)[0] {
            json!({"type": "VCOT_DOWNLOAD", "downloadContentTreeID": tree_id(app.image)})
        } else {
            json!({"type": "VCOT_BLANK"})
        };
        json!({"uuid": key.volume.to_string(), "generationCount": key.generation.to_string(), "origin": origin,
            "maxsizebytes": (20 * MIB).to_string(), "displayName": format!("disk of app {n}")})
    };
    app.volumes(n).iter().map(wire).collect()
}
