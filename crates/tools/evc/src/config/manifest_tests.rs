#![allow(clippy::unwrap_used, clippy::expect_used)]
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// The example of the product's own presentation, field by field.
fn example() -> serde_json::Value {
    json!({
        "acKind": "VMManifest", "acVersion": "1.1.1", "name": "xenial2intf", "owner": {},
        "enablevnc": true, "vmmode": "HV_HVM",
        "images": [{
            "imagename": "xenial-amd64-docker-20180725", "maxsize": 1_195_376,
            "readonly": false, "preserve": true, "target": "Disk", "drvtype": "HDD",
            "maxsizeUnit": "GB", "maxsizeDisplayUnit": "GB"
        }],
        "interfaces": [
            {"name": "indirect", "directattach": false,
             "acls": [{"matches": [{"type": "host", "value": "amazonaws.com"}]}]},
            {"name": "direct", "directattach": false,
             "acls": [{"matches": [{"type": "ip", "value": "0.0.0.0/0"}]}]}
        ],
        "resources": [
            {"name": "cpus", "value": 2},
            {"name": "memory", "value": 512_000},
            {"name": "storage", "value": 3_145_728}
        ]
    })
}

fn problems(change: impl FnOnce(&mut serde_json::Value)) -> String {
    let mut value = example();
    change(&mut value);
    read(&value.to_string()).unwrap_err().to_string()
}

#[test]
fn the_example_is_understood() {
    let needs = read(&example().to_string()).unwrap();
    assert_eq!(
        (needs.cpus, needs.memory, needs.mode),
        (2, 512_000 * 1024, VmMode::Hvm)
    );
    assert!(needs.vnc && needs.notes.is_empty());
    assert_eq!(needs.disks[0].max_bytes, 1_195_376 * 1024);
    assert_eq!(needs.interfaces[0].acls[0].host, "amazonaws.com");
    assert_eq!(needs.interfaces[1].acls[0].ip, "0.0.0.0/0");
}

#[test]
fn a_port_map_is_written_like_an_ace() {
    let mut value = example();
    value["interfaces"][0]["acls"] = json!([{
        "matches": [{"type": "protocol", "value": "tcp"}, {"type": "lport", "value": 8080}],
        "actions": [{"portmap": true, "appPort": 80}]
    }]);
    let acl = read(&value.to_string()).unwrap().interfaces[0].acls[0].clone();
    assert_eq!(
        (acl.protocol.as_str(), acl.lport, acl.portmap),
        ("tcp", Some(8080), Some(80))
    );
}

#[test]
fn every_mistake_is_one_line_that_names_the_field() {
    assert_eq!(
        problems(|m| m["images"][0]["maxsizeUnit"] = json!("Gb")),
        "images[0].maxsizeUnit: \"Gb\" is not one of KB, MB, GB, TB"
    );
    assert_eq!(
        problems(|m| m["images"][0]["target"] = json!("Disc")),
        "images[0].target: \"Disc\" is not one of Disk, Kernel, Initrd, RamDisk; \
         did you mean \"Disk\"?"
    );
    assert_eq!(
        problems(|m| m["resources"][1]["value"] = json!(512)),
        "resources[1].value: memory is in KB: 512 would be less than 16 MB; 512 MB is 524288"
    );
    assert_eq!(
        problems(|m| m["resources"][1]["unit"] = json!("MB")),
        "resources[1].unit: \"MB\": memory is always in KB\nresources: memory is missing"
            .lines()
            .next()
            .unwrap()
    );
    assert_eq!(
        problems(|m| m["resources"][1]["value"] = json!("512MB")),
        "resources[1].value: \"512MB\" is not a whole number (of KB for amounts)"
    );
    assert_eq!(
        problems(|m| m["resources"][0]["name"] = json!("cpu")),
        "resources[0].name: \"cpu\" is not one of cpus, memory, storage; did you mean \"cpus\"?"
    );
    assert_eq!(
        problems(|m| m["vmmode"] = json!("HV_HMV")),
        "vmmode: \"HV_HMV\" is not one of HV_HVM, HV_PV, HV_FML, HV_NOHYPER, HV_LEGACY; \
         did you mean \"HV_HVM\"?"
    );
    assert_eq!(
        problems(|m| m["acKind"] = json!("PodManifest")),
        "acKind: \"PodManifest\" is not \"VMManifest\""
    );
    assert_eq!(
        problems(|m| m["interfaces"][0]["acls"][0]["matches"][0]["type"] = json!("hosts")),
        "interfaces[0].acls[0].matches[0].type: \"hosts\" is not one of ip, host, eidset, \
         protocol, adapter, lport, fport; did you mean \"host\"?"
    );
    assert!(
        problems(|m| m["images"][0]["imgname"] = json!("x"))
            .starts_with("images[0].imgname: unknown field `imgname`")
    );
    assert_eq!(
        problems(|m| m["resources"][2]["value"] = json!(1000)),
        "resources: storage is less than the images' maxsize together (1195376 KB)"
    );
}

#[test]
fn modes_as_people_write_them() {
    for word in ["HV_HVM", "HV HVM", "hvm", "HVM", ""] {
        assert_eq!(vm_mode(word), Ok(VmMode::Hvm), "{word}");
    }
    assert_eq!(vm_mode("HV_LEGACY"), Ok(VmMode::Legacy));
}

proptest! {
    #[test]
    fn any_value_in_any_place_is_a_problem_or_understood(
        pointer in prop::sample::select(vec![
            "/acVersion", "/name", "/vmmode", "/images", "/images/0/maxsize", "/images/0/drvtype",
            "/interfaces/0/acls/0/matches/0/value", "/resources/1/value", "/resources",
        ]),
        value in prop_oneof![
            Just(json!(null)), Just(json!([])), Just(json!({})), Just(json!(-1)), Just(json!(1.5)),
            any::<u64>().prop_map(|n| json!(n)), ".*".prop_map(|s| json!(s)),
        ],
    ) {
        let mut manifest = example();
        *manifest.pointer_mut(pointer).unwrap() = value;
        if let Err(problems) = read(&manifest.to_string()) {
            prop_assert!(!problems.0.is_empty());
        }
    }
}
