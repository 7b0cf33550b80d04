//! The controller's config becomes the device's objects, or says what is wrong with it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use api::config::EdgeDevConfig;
use base64::{Engine as _, prelude::BASE64_STANDARD as STANDARD};
use jiff::Timestamp;
use model::{
    app::{AclAction, AclMatch, DiskTarget, PortRange, Protocol},
    code::Code,
    config_item::ConfigItemValueMap,
    content::DatastoreKind,
    fault::Fault,
    id::DeviceId,
    network::NetworkInstanceKind,
    node::DeviceOperationKind,
    port::PortAddressing,
    volume::{ImageFormat, VolumeOrigin},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use zedagent::translate::{Refusal, Translated, config_items, translate};

const DEVICE: &str = "00000000-0000-4000-8000-000000000001";
const DATASTORE: &str = "00000000-0000-4000-8000-0000000000d5";
const TREE: &str = "00000000-0000-4000-8000-0000000000c7";
const VOLUME: &str = "00000000-0000-4000-8000-000000000f01";
const NETWORK: &str = "00000000-0000-4000-8000-0000000000e7";
const APP: &str = "00000000-0000-4000-8000-0000000000a9";
const SHA: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn config() -> Value {
    json!({
        "id": {"uuid": DEVICE},
        "datastores": [{"id": DATASTORE, "dType": "DsHttps", "fqdn": "ds.example", "dpath": "images"}],
        "contentInfo": [{"uuid": TREE, "dsIdsList": [DATASTORE], "URL": "tiny.qcow2", "iformat": "QCOW2",
            "sha256": SHA, "maxSizeBytes": "20000000", "displayName": "tiny"}],
        "volumes": [{"uuid": VOLUME, "origin": {"type": "VCOT_DOWNLOAD", "downloadContentTreeID": TREE},
            "maxsizebytes": "100000000", "displayName": "root"}],
        "networkInstances": [{"uuidandversion": {"uuid": NETWORK}, "displayname": "local", "instType": "ZnetInstLocal",
            "port": {"name": "uplink"}, "ip": {"subnet": "10.1.0.0/24", "gateway": "10.1.0.1",
            "dhcpRange": {"start": "10.1.0.2", "end": "10.1.0.254"}, "dns": ["10.1.0.1"]}}],
        "apps": [{"uuidandversion": {"uuid": APP, "version": "3"}, "displayname": "web", "activate": true,
            "fixedresources": {"memory": 131_072, "vcpus": 1, "virtualizationMode": "HVM"},
            "volumeRefList": [{"uuid": VOLUME}], "userData": "I2Nsb3VkLWNvbmZpZwo=",
            "restart": {"counter": 2},
            "interfaces": [{"name": "eth0", "networkId": NETWORK, "acls": [
                {"id": 1, "matches": [{"type": "ip", "value": "0.0.0.0/0"}]},
                {"id": 2, "matches": [{"type": "protocol", "value": "tcp"}, {"type": "lport", "value": "8080"}],
                 "actions": [{"portmap": true, "appPort": 80}]}]}]}],
        "reboot": {"counter": 7},
        "configItems": [{"key": "timer.config.interval", "value": "30"}],
    })
}

fn run(config: &Value) -> Result<Translated, Refusal> {
    let config: EdgeDevConfig = serde_json::from_value(config.clone()).unwrap();
    translate(
        &config,
        DEVICE.parse().unwrap(),
        None,
        Timestamp::UNIX_EPOCH,
    )
}

fn with(change: impl FnOnce(&mut Value)) -> Translated {
    let mut config = config();
    change(&mut config);
    run(&config).unwrap()
}

/// Every fault, wherever it is.
fn faults(t: &Translated) -> Vec<Fault> {
    let rows = t.datastores.values().filter_map(|r| r.fault.clone());
    rows.chain(t.content_trees.values().filter_map(|r| r.fault.clone()))
        .chain(t.volumes.values().filter_map(|r| r.fault.clone()))
        .chain(t.network_instances.values().filter_map(|r| r.fault.clone()))
        .chain(t.apps.values().filter_map(|r| r.fault.clone()))
        .chain(t.ports.iter().filter_map(|r| r.fault.clone()))
        .chain(t.faults.iter().cloned())
        .collect()
}

#[test]
fn a_sound_config_is_translated_without_loss() {
    let t = run(&config()).unwrap();
    assert_eq!(faults(&t), []);
    let datastore = &t.datastores[DATASTORE];
    assert_eq!(
        (datastore.kind, datastore.dpath.as_str()),
        (DatastoreKind::Https, "images")
    );
    let tree = &t.content_trees[TREE];
    assert_eq!(
        (tree.format, tree.sha256.to_string().as_str()),
        (ImageFormat::Qcow2, SHA)
    );
    let volume = &t.volumes[&format!("{VOLUME}#0")];
    assert_eq!(volume.origin, VolumeOrigin::Content(TREE.parse().unwrap()));
    let network = &t.network_instances[NETWORK];
    assert_eq!(network.kind, NetworkInstanceKind::Local);
    assert_eq!(network.subnet.unwrap().to_string(), "10.1.0.0/24");
    let app = &t.apps[APP];
    assert_eq!(
        (
            app.user_data.as_str(),
            app.restart_counter,
            app.resources.memory_kib
        ),
        ("#cloud-config\n", 2, 131_072)
    );
    assert_eq!(app.volumes[0].target, DiskTarget::Disk);
    let map = &app.vifs[0].acls[1];
    assert_eq!(map.action, AclAction::PortMap { app_port: 80 });
    assert_eq!(
        map.matches,
        [
            AclMatch::Protocol(Protocol::Tcp),
            AclMatch::LocalPort(PortRange {
                first: 8080,
                last: 8080
            })
        ]
    );
    assert_eq!(
        (t.operations[0].kind, t.operations[0].counter),
        (DeviceOperationKind::Reboot, 7)
    );
    assert!(
        t.ports.is_none(),
        "a config that says nothing about ports leaves them alone"
    );
}

#[test]
fn a_signature_is_carried_whole_or_the_image_is_refused() {
    let signed = |info: Value| {
        let t = with(|c| c["contentInfo"][0]["siginfo"] = info);
        t.content_trees[TREE].clone()
    };
    let text = |text: &str| {
        format!(
            "data:application/x-pem-file;base64,{}",
            STANDARD.encode(text)
        )
    };
    assert_eq!(signed(json!({})).signature, None, "an empty one is none");
    let whole = json!({"signature": "AQI=", "signercerturl": text("signer"), "intercertsurl": text("between")});
    let tree = signed(whole.clone());
    assert_eq!(tree.fault, None);
    let signature = tree.signature.unwrap();
    assert_eq!(
        (
            signature.signature.0.as_slice(),
            signature.signer_pem.as_str(),
            signature.between_pem.as_str()
        ),
        (&[1, 2][..], "signer", "between")
    );
    let directly = json!({"signature": "AQI=", "signercerturl": text("signer")});
    assert_eq!(signed(directly).signature.unwrap().between_pem, "");
    for (field, value, named) in [
        ("signature", json!(""), "both"),
        ("signercerturl", json!(""), "both"),
        (
            "signercerturl",
            json!("https://ds.example/signer.pem"),
            "not fetched",
        ),
        ("signercerturl", json!("data:,plain"), "base64"),
        ("intercertsurl", json!("data:;base64,*"), "base64"),
        ("intercertsurl", json!("data:;base64,/w=="), "PEM"),
        ("signature", json!(STANDARD.encode([0; 1025])), "1025 bytes"),
        (
            "signercerturl",
            json!(text(&"x".repeat(64 << 10))),
            "too many",
        ),
    ] {
        let mut info = whole.clone();
        info[field] = value;
        let tree = signed(info);
        let fault = tree.fault.expect(named);
        assert_eq!((tree.signature, fault.code), (None, Code::ConfigInvalid));
        assert!(fault.text.contains(named), "{}", fault.text);
    }
}

#[test]
fn a_config_for_another_device_is_refused_whole() {
    let mut other = config();
    other["id"]["uuid"] = json!("00000000-0000-4000-8000-000000000002");
    assert!(matches!(run(&other), Err(Refusal::Foreign { .. })));
    other["id"]["uuid"] = json!("nonsense");
    assert!(matches!(run(&other), Err(Refusal::Nameless(_))));
}

#[test]
fn one_bad_value_is_one_fault_that_names_it_and_everything_else_goes_on() {
    type Change = fn(&mut Value);
    let cases: &[(Change, Code, &str)] = &[
        (
            |c| c["contentInfo"][0]["sha256"] = json!("abc"),
            Code::ConfigInvalid,
            "sha256",
        ),
        (
            |c| c["contentInfo"][0]["iformat"] = json!("VMDK"),
            Code::ConfigInvalid,
            "VMDK",
        ),
        (
            |c| c["contentInfo"][0]["dsIdsList"] = json!([APP]),
            Code::ConfigReference,
            "datastore",
        ),
        (
            |c| c["datastores"][0]["dType"] = json!("DsUnknown"),
            Code::ConfigInvalid,
            "type 0",
        ),
        (
            |c| c["volumes"][0]["origin"] = json!(null),
            Code::ConfigReference,
            "volume",
        ),
        (
            |c| c["apps"][0]["volumeRefList"][0]["uuid"] = json!(TREE),
            Code::ConfigReference,
            "volume",
        ),
        (
            |c| c["apps"][0]["interfaces"][0]["networkId"] = json!(TREE),
            Code::ConfigReference,
            "network instance",
        ),
        (
            |c| {
                c["apps"][0]["interfaces"][0]["acls"][0]["matches"][0]["value"] =
                    json!("10.0.0.0/99");
            },
            Code::ConfigInvalid,
            "10.0.0.0/99",
        ),
        (
            |c| c["apps"][0]["interfaces"][0]["acls"][1]["matches"] = json!([]),
            Code::ConfigInvalid,
            "port map",
        ),
        (
            |c| c["apps"][0]["fixedresources"]["memory"] = json!(0),
            Code::ConfigInvalid,
            "memory",
        ),
        (
            |c| c["apps"][0]["userData"] = json!("###"),
            Code::ConfigInvalid,
            "base64",
        ),
        (
            |c| c["networkInstances"][0]["ip"]["gateway"] = json!("10.2.0.1"),
            Code::ConfigInvalid,
            "10.2.0.1",
        ),
        (
            |c| c["networkInstances"][0]["instType"] = json!("ZnetInstHoneyPot"),
            Code::ConfigInvalid,
            "HoneyPot",
        ),
    ];
    for (change, code, word) in cases {
        let t = with(*change);
        let faults = faults(&t);
        let found = faults
            .iter()
            .find(|f| f.code == *code && f.text.contains(word));
        assert!(found.is_some(), "{word}: {faults:?}");
        assert_eq!(
            (t.apps.len(), t.volumes.len(), t.network_instances.len()),
            (1, 1, 1)
        );
    }
}

#[test]
fn an_object_without_a_usable_id_or_with_one_of_another_is_reported() {
    let t = with(|c| c["volumes"][0]["uuid"] = json!("x"));
    assert!(faults(&t).iter().any(|f| f.object == "volume number 1"));
    let t = with(|c| {
        let again = c["apps"][0].clone();
        c["apps"].as_array_mut().unwrap().push(again);
    });
    assert_eq!(t.apps.len(), 1);
    assert!(t.faults[0].text.contains("twice"));
}

#[test]
fn ports_come_from_adapters_networks_and_the_model() {
    let ports = |dhcp: &str, addr: &str| {
        with(|c| {
            c["deviceIoList"] = json!([{"ptype": "PhyIoNetEth", "phylabel": "LAN1", "logicallabel": "lan1",
                "phyaddrs": {"Ifname": "enp3s0"}}]);
            c["networks"] = json!([{"id": "n1", "type": "V4", "ip": {"dhcp": dhcp, "subnet": "192.0.2.0/24",
                "gateway": "192.0.2.1", "dns": ["192.0.2.53"]},
                "entProxy": {"proxies": [{"proto": "PROXY_HTTPS", "server": "proxy", "port": 3128}]}}]);
            c["systemAdapterList"] = json!([{"name": "mgmt", "lowerLayerName": "lan1", "uplink": true,
                "networkUUID": "n1", "addr": addr, "cost": 3}]);
        })
        .ports
        .unwrap()
    };
    let by_dhcp = ports("Client", "");
    assert_eq!(by_dhcp.fault, None);
    let port = &by_dhcp.ports[0];
    assert_eq!(
        (port.if_name.as_str(), port.label.0.as_str(), port.cost),
        ("enp3s0", "mgmt", 3)
    );
    assert_eq!(
        (&port.addressing, port.proxy.https.as_deref()),
        (&PortAddressing::Dhcp, Some("proxy:3128"))
    );
    let fixed = &ports("Static", "192.0.2.7").ports[0].addressing;
    let PortAddressing::Static { address, gateway } = fixed else {
        panic!("{fixed:?}")
    };
    assert_eq!(
        (
            address.to_string().as_str(),
            gateway.unwrap().to_string().as_str()
        ),
        ("192.0.2.7/24", "192.0.2.1")
    );
    assert_eq!(
        ports("Static", "here").fault.unwrap().code,
        Code::ConfigInvalid
    );
}

#[test]
fn a_bad_property_keeps_its_last_good_value() {
    let item = |value: &str| vec![("timer.config.interval".to_owned(), value.to_owned())];
    let first = config_items(&item("30"), &ConfigItemValueMap::default());
    let second = config_items(&item("3"), &first);
    assert_eq!(second.int("timer.config.interval"), 30);
    assert!(second.errors["timer.config.interval"].contains("from 5 to 86400"));
    assert_eq!(
        config_items(&[], &second).int("timer.config.interval"),
        60,
        "no longer named: default"
    );
}

/// A config in which the datastore has a login and the app has secret user data.
fn with_secrets(change: impl FnOnce(&mut Value)) -> Translated {
    with(|c| {
        let block = json!({"cipherContextId": "ctx", "initialValue": "AAAAAAAAAAAAAAAAAAAAAA==",
            "cipherData": "c2VjcmV0", "clearTextSha256": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="});
        c["cipherContexts"] = json!([{"contextId": "ctx", "hashScheme": "HASH_ALGORITHM_SHA256_16BYTES",
            "keyExchangeScheme": "KEA_ECDH", "encryptionScheme": "SA_AES_256_CFB",
            "deviceCertHash": "AAAAAAAAAAAAAAAAAAAAAA==",
            "controllerCertHash": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="}]);
        c["datastores"][0]["cipherData"] = block.clone();
        c["apps"][0]["cipherData"] = block;
        change(c);
    })
}

#[test]
fn trust_secrets_are_carried_on_as_they_came() {
    let t = with_secrets(|_| {});
    assert_eq!(faults(&t), []);
    let context = &t.cipher_contexts["ctx"];
    assert_eq!(context.device_cert_hash, "00".repeat(16));
    assert_eq!(context.controller_cert_hash, "01".repeat(32));
    let login = t.datastores[DATASTORE].credentials.as_ref().unwrap();
    assert_eq!(
        (login.context.as_str(), login.cipher_data.0.as_slice()),
        ("ctx", &b"secret"[..])
    );
    let app = &t.apps[APP];
    assert_eq!(app.user_data, "", "the old form beside it is not used");
    assert!(app.secret_user_data.as_ref().unwrap().is_same_secret(login));
}

#[test]
fn trust_bad_secrets_are_faults_of_what_has_them() {
    let large = |bytes: usize| {
        json!(base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            vec![0; bytes]
        ))
    };
    let table: [(&str, Value, Code, &str); 9] = [
        (
            "/datastores/0/cipherData/cipherContextId",
            json!("none"),
            Code::CipherContext,
            "no cipher context \"none\"",
        ),
        (
            "/cipherContexts/0/keyExchangeScheme",
            json!("KEA_NONE"),
            Code::CipherContext,
            "key exchange scheme 0",
        ),
        (
            "/cipherContexts/0/encryptionScheme",
            json!("SA_NONE"),
            Code::CipherContext,
            "encryption scheme 0",
        ),
        (
            "/cipherContexts/0/hashScheme",
            json!("HASH_ALGORITHM_INVALID"),
            Code::CipherContext,
            "hash scheme 0",
        ),
        (
            "/cipherContexts/0/deviceCertHash",
            json!("AAAA"),
            Code::CipherContext,
            "device's certificate has 3 bytes",
        ),
        (
            "/datastores/0/cipherData/initialValue",
            json!("AAAA"),
            Code::CipherBlock,
            "initialValue has 3 bytes",
        ),
        (
            "/datastores/0/cipherData/cipherData",
            json!(""),
            Code::CipherBlock,
            "it is empty",
        ),
        (
            "/datastores/0/cipherData/cipherData",
            large((64 << 10) + 1),
            Code::CipherBlock,
            "65537 bytes",
        ),
        (
            "/datastores/0/cipherData/clearTextSha256",
            json!("AAAA"),
            Code::CipherBlock,
            "clearTextSha256 has 3 bytes",
        ),
    ];
    for (place, value, code, text) in table {
        let t = with_secrets(|c| *c.pointer_mut(place).unwrap() = value);
        let fault = t.datastores[DATASTORE].fault.as_ref().unwrap();
        assert_eq!(fault.code, code, "{place}");
        assert!(fault.text.contains(text), "{place}: {}", fault.text);
        assert_eq!(t.datastores[DATASTORE].credentials, None);
    }
    let large = with_secrets(|c| c["apps"][0]["cipherData"]["cipherData"] = large((2 << 20) + 1));
    assert_eq!(
        large.apps[APP].fault.as_ref().unwrap().code,
        Code::CipherBlock
    );
    assert_eq!(large.datastores[DATASTORE].fault, None, "the others go on");
    let plain = with(|c| c["datastores"][0]["password"] = json!("p"));
    let fault = plain.datastores[DATASTORE].fault.as_ref().unwrap();
    assert_eq!(fault.code, Code::CipherPlain);
    assert!(
        !serde_json::to_string(&plain.datastores)
            .unwrap()
            .contains("\"p\"")
    );
}

#[test]
fn trust_wireless_logins_are_carried_encrypted_or_not_at_all() {
    let t = with_secrets(|c| {
        let block = c["apps"][0]["cipherData"].clone();
        c["networks"] = json!([{"id": NETWORK, "ip": {"dhcp": "Client"}, "wireless": {"wifiCfg": [
            {"wifiSSID": "shop", "priority": 3, "cipherData": block},
            {"wifiSSID": "yard", "identity": "i", "password": "CANARY"}]}}]);
        c["systemAdapterList"] = json!([{"name": "wlan0", "uplink": true, "networkUUID": NETWORK}]);
    });
    let ports = t.ports.as_ref().unwrap();
    assert_eq!(
        ports.fault, None,
        "the device must not lose its way to the controller"
    );
    let [shop, yard] = ports.ports[0].wireless.as_slice() else {
        panic!("{ports:?}")
    };
    assert_eq!((shop.name.as_str(), shop.priority), ("shop", 3));
    assert!(shop.credentials.is_some() && yard.credentials.is_none());
    let codes: Vec<Code> = t.faults.iter().map(|f| f.code).collect();
    assert_eq!(codes, [Code::CipherPlain], "{:?}", t.faults);
    assert!(!serde_json::to_string(ports).unwrap().contains("CANARY"));
}

proptest! {
    /// Bytes that happen to decode never make it panic.
    #[test]
    fn any_message_is_translated_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        use prost::Message;
        if let Ok(config) = EdgeDevConfig::decode(bytes.as_slice()) {
            let _ = translate(&config, DeviceId::default(), None, Timestamp::UNIX_EPOCH);
        }
    }

    /// Texts in the places where texts go never make it panic, and never pass as an id.
    #[test]
    fn any_text_in_any_place(text in "\\PC{0,40}", place in 0usize..12) {
        let t = with(|c| {
            let places = ["/datastores/0/fqdn", "/contentInfo/0/URL", "/contentInfo/0/sha256", "/volumes/0/displayName",
                "/networkInstances/0/ip/subnet", "/networkInstances/0/ip/gateway", "/apps/0/displayname",
                "/apps/0/interfaces/0/name", "/apps/0/interfaces/0/acls/0/matches/0/value",
                "/apps/0/interfaces/0/acls/0/matches/0/type", "/apps/0/userData", "/networkInstances/0/port/name"];
            *c.pointer_mut(places[place]).unwrap() = json!(text);
        });
        prop_assert_eq!(t.apps.len(), 1);
    }
}
