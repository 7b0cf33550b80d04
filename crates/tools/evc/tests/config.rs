//! From YAML and manifests to what a device receives: golden files (`BLESS=1` rewrites them),
//! mistakes, and properties.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use api::config::EdgeDevConfig;
use base64::{Engine as _, prelude::BASE64_STANDARD as STANDARD};
use evc::config::deploy::{self, ImageSource, Options};
use evc::config::size::Size;
use evc::config::{DeviceSpec, Identity, build, manifest, read};
use evc::store::apps::AppOrders;
use evc::store::devices::Orders;
use proptest::prelude::*;
use serde_json::Value;
use uuid::Uuid;

const YAML: &str = include_str!("golden/config/device.yaml");
const MANIFEST: &str = include_str!("golden/config/manifest.json");

fn identity() -> Identity {
    Identity {
        device: Uuid::from_u128(0x6ba7_b810_9dad_11d1_80b4_00c0_4fd4_30c8),
        name: "edge-1".to_owned(),
        version: 7,
        changed_ms: 1_767_225_600_250,
        orders: Orders {
            reboots: 2,
            reboot_ms: 1_767_225_600_000,
            ..Orders::default()
        },
        app_orders: BTreeMap::from([(
            "vm".to_owned(),
            AppOrders {
                restarts: 1,
                restart_ms: 1_767_225_600_000,
                purges: 3,
                purge_ms: 1,
            },
        )]),
        certs_hash: "certs".to_owned(),
        epoch: 5,
    }
}

fn spec(yaml: &str) -> DeviceSpec {
    read::yaml(yaml).unwrap().remove(0).spec
}

/// Keys in order, so that two texts of one value are the same.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<_, _> = map.into_iter().map(|(k, v)| (k, sorted(v))).collect();
            Value::Object(ordered.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        leaf => leaf,
    }
}

fn golden(name: &str, config: &EdgeDevConfig) {
    let text = serde_json::to_string_pretty(&sorted(serde_json::to_value(config).unwrap()))
        .unwrap()
        + "\n";
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/config")
        .join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(
        text,
        std::fs::read_to_string(&path).unwrap(),
        "{name}; BLESS=1 rewrites it"
    );
}

fn options() -> Options {
    let source = ImageSource {
        url: "https://198.51.100.9:8443/vm/xenial.qcow2".to_owned(),
        sha256: "ab".repeat(32),
        size: Size(300 << 20),
        ..ImageSource::default()
    };
    let images = BTreeMap::from([("xenial-amd64-docker-20180725".to_owned(), source)]);
    Options {
        images,
        user_data: "#!/bin/sh\n".to_owned(),
        ..Options::default()
    }
}

#[test]
fn a_device_in_yaml() {
    golden(
        "device.json",
        &build(&spec(YAML), &identity()).unwrap().config,
    );
}

#[test]
fn a_manifest_on_an_empty_device() {
    let mut spec = DeviceSpec::default();
    let needs = manifest::read(MANIFEST).unwrap();
    assert_eq!(
        deploy::deploy(&mut spec, &needs, &options()).unwrap(),
        "xenial2intf"
    );
    golden(
        "manifest-config.json",
        &build(&spec, &identity()).unwrap().config,
    );
}

#[test]
fn deploying_again_replaces_and_removing_leaves_nothing() {
    let mut device = spec(YAML);
    let before = device.clone();
    let needs = manifest::read(MANIFEST).unwrap();
    let mut options = options();
    options.networks.insert(String::new(), "nat".to_owned());
    deploy::deploy(&mut device, &needs, &options).unwrap();
    let once = device.clone();
    deploy::deploy(&mut device, &needs, &options).unwrap();
    assert_eq!(device, once);
    assert!(deploy::remove(&mut device, "xenial2intf"));
    // The datastore stays: others may come from there.
    device
        .datastores
        .retain(|d| before.datastores.iter().any(|b| b.name == d.name));
    assert_eq!(device, before);
    assert!(!deploy::remove(&mut device, "xenial2intf"));
}

#[test]
fn a_manifest_that_does_not_fit_changes_nothing() {
    let needs = manifest::read(MANIFEST).unwrap();
    let problem = |options: &Options| {
        let mut spec = spec(YAML);
        let before = spec.clone();
        let problems = deploy::deploy(&mut spec, &needs, options).unwrap_err();
        assert_eq!(spec, before);
        problems.to_string()
    };
    assert_eq!(
        problem(&Options::default()),
        "images[0].imagename: nothing says where \"xenial-amd64-docker-20180725\" comes from"
    );
    let mut small = options();
    for source in small.images.values_mut() {
        source.size = Size(4 << 30);
    }
    assert_eq!(
        problem(&small),
        "images[0].maxsize: 1195376 KB is less than the image itself (4194304 KB); \
         maxsize is in KB"
    );
}

#[test]
fn a_signed_image_carries_its_signer_and_half_a_signature_is_a_mistake() {
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = |name: &str| {
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.self_signed(&key).unwrap().pem()
    };
    let (leaf, middle) = (pem("leaf"), pem("middle"));
    let mut signed = spec(YAML);
    signed.images[0].signature = "AQI=".to_owned();
    signed.images[0].signer = format!("subject=leaf\n{leaf}issuer\n{middle}\n");
    let config = build(&signed, &identity()).unwrap().config;
    let info = config.content_info[0].siginfo.clone().unwrap();
    assert_eq!(info.signature, [1, 2]);
    let text = |url: &str| {
        let (_, data) = url.split_once("base64,").unwrap();
        String::from_utf8(STANDARD.decode(data).unwrap()).unwrap()
    };
    assert_eq!(text(&info.signercerturl), leaf.trim_end());
    assert_eq!(text(&info.intercertsurl), middle.trim_end());

    for (signature, signer, problem) in [
        ("", leaf.as_str(), "images[0].signature: is needed"),
        ("AQI=", "", "images[0].signer: is needed"),
        ("*", &leaf, "images[0].signature: is not base64"),
        (
            "AQI=",
            "nobody",
            "images[0].signer: is not a PEM certificate",
        ),
        (
            "AQI=",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
            "images[0].signer: certificate 1 can't be read",
        ),
    ] {
        let mut wrong = spec(YAML);
        wrong.images[0].signature = signature.to_owned();
        wrong.images[0].signer = signer.to_owned();
        let problems = build(&wrong, &identity()).unwrap_err().to_string();
        assert!(problems.contains(problem), "{problems}");
    }
}

/// A change of the YAML and the line that it must lead to.
#[test]
fn dangling_names_and_senseless_values_say_where() {
    let problem = |from: &str, to: &str| {
        assert!(YAML.contains(from), "{from}");
        build(&spec(&YAML.replacen(from, to, 1)), &identity())
            .unwrap_err()
            .to_string()
    };
    for (from, to, line) in [
        (
            "network: nat\n",
            "network: nta\n",
            "apps[0].interfaces[0].network: no network instance called \"nta\"; \
             did you mean \"nat\"?",
        ),
        (
            "volumes: [root, data]",
            "volumes: [boot, data]",
            "apps[0].volumes[0]: no volume called \"boot\"; did you mean \"root\"?",
        ),
        (
            "datastore: store",
            "datastore: stor",
            "images[0].datastore: no datastore called \"stor\"; did you mean \"store\"?",
        ),
        (
            "- {name: eth0, network: dhcp,",
            "- {name: eth0, network: dchp,",
            "ports[0].network: no network called \"dchp\"; did you mean \"dhcp\"?",
        ),
        (
            "port: internet",
            "port: internt",
            "network_instances[0].port: no port or label called \"internt\"; \
             did you mean \"internet\"?",
        ),
        (
            "adapters: [g1]",
            "adapters: [g2]",
            "apps[0].adapters[0]: no port called \"g2\"; ",
        ),
        (
            "usage: direct",
            "usage: disabled",
            "apps[0].adapters[0]: \"g1\" is used by the device; only ports with `usage: direct` \
             can be given to an app",
        ),
        (
            "size: 209MiB",
            "size: 0",
            "images[0].size: is needed: a device reserves the room for it",
        ),
        ("9F86", "9F8", "images[0].sha256: \"9f8"),
        (
            "memory: 512MiB",
            "memory: 512KiB",
            "apps[0].memory: 512KiB is less than 16MiB; ",
        ),
        (
            "{name: data, size: 10GiB, ",
            "{name: data, ",
            "volumes[1].size: is needed by a blank volume",
        ),
        (
            "lport: 8080, ",
            "",
            "apps[0].interfaces[0].acls[0].lport: is needed by a port map: the device's port",
        ),
        (
            "protocol: tcp, lport: 8080",
            "protocol: tpc, lport: 8080",
            "apps[0].interfaces[0].acls[0].protocol: \"tpc\" is not tcp, udp, icmp or a number",
        ),
        (
            "- {host: example.com}",
            "- {}",
            "apps[0].interfaces[0].acls[1]: matches nothing",
        ),
        (
            "{ip: 10.0.0.0/8,",
            "{ip: 10.0.0.0/33,",
            "apps[0].interfaces[0].acls[2].ip: ",
        ),
        (
            "subnet: 10.11.0.0/24",
            "subnet: 10.11.0.0/31",
            "network_instances[0].subnet: ",
        ),
        (
            "kind: switch, port",
            "kind: switch, subnet: 10.9.0.0/24, port",
            "network_instances[1]: ",
        ),
        (
            "name: web, image",
            "name: data, image",
            "volumes[2].name: there is another volume",
        ),
        (
            "address: 192.0.2.10",
            "address: 192.0.2",
            "ports[2].address: ",
        ),
        (
            "name: eth1, network",
            "name: eth/1, network",
            "ports[2].name: ",
        ),
        (
            "interface: wwan0",
            "interface: wide_area_network",
            "ports[1].interface: ",
        ),
    ] {
        let found = problem(from, to);
        assert!(
            found.lines().any(|l| l.starts_with(line)),
            "{from} -> {to}: {found}"
        );
    }
}

#[test]
fn a_purge_makes_new_volumes_of_that_app_only() {
    let config = build(&spec(YAML), &identity()).unwrap().config;
    let generations: Vec<_> = config.volumes.iter().map(|v| v.generation_count).collect();
    assert_eq!(generations, [3, 3, 0]);
    assert_eq!(config.apps[0].volume_ref_list[0].generation_count, 3);
}

fn any_name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "net", "", "x y", "ä"]).prop_map(str::to_owned)
}

prop_compose! {
    fn any_yaml()(
        names in prop::collection::vec(any_name(), 6),
        memory in prop::sample::select(vec!["1MiB", "64MiB", "5TiB"]),
        subnet in prop::sample::select(vec!["10.0.0.0/24", "10.0.0.0/30", "fd00::/64", "x", ""]),
        gateway in prop::sample::select(vec!["", "10.0.0.200", "10.0.0.1", "fd00::1"]),
        port in 0_u32..70_000,
        cpus in 0_u32..300,
    ) -> String {
        format!(
            "device: d\n\
             volumes: [{{name: '{0}', size: 1GiB}}]\n\
             network_instances: [{{name: '{1}', subnet: '{subnet}', gateway: '{gateway}'}}]\n\
             apps: [{{name: '{2}', cpus: {cpus}, memory: {memory}, volumes: ['{3}'], interfaces: \
             [{{name: '{4}', network: '{5}', acls: [{{protocol: tcp, lport: {port}, \
             portmap: {port}}}]}}]}}]\n",
            names[0], names[1], names[2], names[3], names[4], names[5],
        )
    }
}

proptest! {
    /// Either all problems are named, or every reference in the result resolves.
    #[test]
    fn a_config_never_dangles(yaml in any_yaml()) {
        let Ok(documents) = read::yaml(&yaml) else { return Ok(()) };
        let spec = &documents[0].spec;
        let built = match build(spec, &identity()) {
            Ok(built) => built,
            Err(problems) => {
                prop_assert!(!problems.0.is_empty());
                prop_assert!(problems.0.iter().all(|p| !p.path.is_empty()));
                return Ok(());
            }
        };
        let config = &built.config;
        let volumes: BTreeSet<_> = config.volumes.iter().map(|v| &v.uuid).collect();
        let networks: BTreeSet<_> = config
            .network_instances
            .iter()
            .map(|n| &n.uuidandversion.as_ref().unwrap().uuid)
            .collect();
        for app in &config.apps {
            prop_assert!(app.volume_ref_list.iter().all(|v| volumes.contains(&v.uuid)));
            prop_assert!(app.interfaces.iter().all(|i| networks.contains(&i.network_id)));
            prop_assert!(app.fixedresources.as_ref().unwrap().memory >= 16 << 10);
        }
        // The same spec gives the same config and hash; storing it as JSON changes nothing.
        let stored: DeviceSpec =
            serde_json::from_str(&serde_json::to_string(spec).unwrap()).unwrap();
        prop_assert_eq!(&stored, spec);
        prop_assert_eq!(build(&stored, &identity()).unwrap().hash, built.hash);
    }
}
