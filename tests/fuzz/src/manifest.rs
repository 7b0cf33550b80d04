//! What operators write. Whatever the controller accepts every device can read: all objects have names of
//! their own, the device stays within reach. (It need not be able to do all of it: the controller also
//! serves devices that can do more.) What is kept is read back the same.

use std::collections::BTreeMap;

use evc::config::{
    DeviceSpec, Identity, Problems, build,
    deploy::{self, ImageSource, Options},
    manifest, protect, read,
    size::Size,
};
use zedagent::translate::translate;

use crate::{
    config::{device, sound},
    keys::{NOW, now},
};

/// Reads it as a manifest and as YAML.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match manifest::read(text) {
        Ok(needs) => {
            let mut spec = DeviceSpec::default();
            match deploy::deploy(&mut spec, &needs, &options()) {
                Ok(name) => {
                    built(&spec);
                    assert!(deploy::remove(&mut spec, &name), "{name} can't be removed");
                    assert!(spec.apps.is_empty() && spec.volumes.is_empty());
                }
                Err(problems) => said(&problems),
            }
        }
        Err(problems) => said(&problems),
    }
    match read::yaml(text) {
        Ok(documents) => documents.iter().for_each(|document| built(&document.spec)),
        Err(problems) => said(&problems),
    }
}

fn options() -> Options {
    let source = ImageSource {
        url: "https://198.51.100.9:8443/vm/x.qcow2".to_owned(),
        sha256: "ab".repeat(32),
        size: Size(300 << 20),
        ..ImageSource::default()
    };
    Options {
        images: BTreeMap::from([(String::new(), source)]),
        ..Options::default()
    }
}

fn said(problems: &Problems) {
    assert!(!problems.0.is_empty(), "refused without a reason");
}

fn built(spec: &DeviceSpec) {
    let json = serde_json::to_vec(spec).expect("a spec as JSON");
    let back: DeviceSpec = serde_json::from_slice(&json).expect("what was kept");
    assert_eq!(back, *spec, "kept and read back");
    let identity = Identity {
        device: device().0,
        name: "edge".to_owned(),
        version: 3,
        changed_ms: NOW * 1000,
        ..Identity::default()
    };
    let config = match build(spec, &identity) {
        Ok(mut built) => {
            // As for a device that can't read them.
            protect(&mut built, None);
            built.config
        }
        Err(problems) => return said(&problems),
    };
    let to = translate(&config, device(), None, now()).expect("it is for this device");
    sound(&config, &to);
    assert!(to.faults.is_empty(), "without a name: {:#?}", to.faults);
    let ports = to.ports.and_then(|ports| ports.fault);
    assert!(ports.is_none(), "out of reach: {ports:#?}");
}

/// Manifest and YAML of the controller's own tests, and YAML bombs.
pub fn seeds() -> Vec<Vec<u8>> {
    let yaml = include_bytes!("../../../crates/tools/evc/tests/golden/config/device.yaml");
    let manifest = include_bytes!("../../../crates/tools/evc/tests/golden/config/manifest.json");
    let small = "device: a\nports:\n- {name: eth0, usage: management}\n\
        network_instances:\n- {name: n, subnet: 10.0.0.0/24}\n\
        datastores:\n- {name: d, url: \"https://d.example\"}\n\
        images:\n- {name: i, datastore: d, file: x.qcow2, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08, size: 1MiB}\n\
        volumes:\n- {name: v, image: i, size: 2MiB}\n\
        apps:\n- {name: x, memory: 64MiB, volumes: [v], interfaces: [{name: e, network: n}]}\n";
    let bomb = "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b]\ndevice: c\nd: [*c,*c,*c,*c]\n";
    let deep = format!("device: {}", "[".repeat(300));
    vec![
        yaml.to_vec(),
        manifest.to_vec(),
        small.as_bytes().to_vec(),
        bomb.as_bytes().to_vec(),
        deep.into_bytes(),
    ]
}
