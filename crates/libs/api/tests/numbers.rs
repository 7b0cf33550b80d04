//! Pins the wire-critical numbers: a device that gets one of these wrong cannot register, cannot
//! prove who it is or misreads what it is told to run.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

const PACKAGE: &str = "org.lfedge.eve.";

/// `(message, field, number, type)`, names after `org.lfedge.eve.`.
const FIELDS: &[(&str, &str, i32, Type)] = &[
    ("auth.AuthBody", "payload", 1, Type::Bytes),
    ("auth.AuthContainer", "protectedPayload", 1, Type::Message),
    ("auth.AuthContainer", "algo", 2, Type::Enum),
    ("auth.AuthContainer", "senderCertHash", 3, Type::Bytes),
    ("auth.AuthContainer", "signatureHash", 4, Type::Bytes),
    ("auth.AuthContainer", "senderCert", 5, Type::Bytes),
    ("auth.AuthContainer", "cipherContext", 6, Type::Message),
    ("auth.AuthContainer", "cipherData", 7, Type::Message),
    ("register.ZRegisterMsg", "pemCert", 2, Type::Bytes),
    ("register.ZRegisterMsg", "serial", 3, Type::String),
    ("register.ZRegisterMsg", "softSerial", 4, Type::String),
    ("uuid.UuidResponse", "uuid", 1, Type::String),
    ("uuid.UuidResponse", "manufacturer", 2, Type::String),
    ("uuid.UuidResponse", "product_name", 3, Type::String),
    ("certs.ZControllerCert", "certs", 1, Type::Message),
    ("certs.ZCert", "hashAlgo", 1, Type::Enum),
    ("certs.ZCert", "certHash", 2, Type::Bytes),
    ("certs.ZCert", "type", 3, Type::Enum),
    ("certs.ZCert", "cert", 4, Type::Bytes),
    ("common.CipherBlock", "cipherContextId", 1, Type::String),
    ("common.CipherBlock", "initialValue", 2, Type::Bytes),
    ("common.CipherBlock", "cipherData", 3, Type::Bytes),
    ("common.CipherBlock", "clearTextSha256", 4, Type::Bytes),
    ("attest.ZAttestReq", "reqType", 1, Type::Enum),
    ("attest.ZAttestReq", "quote", 2, Type::Message),
    ("attest.ZAttestReq", "certs", 3, Type::Message),
    ("attest.ZAttestResponse", "respType", 1, Type::Enum),
    ("attest.ZAttestResponse", "nonce", 2, Type::Message),
    ("attest.ZAttestResponse", "quoteResp", 3, Type::Message),
    ("attest.ZAttestQuoteResp", "integrity_token", 2, Type::Bytes),
    ("config.ConfigRequest", "configHash", 1, Type::String),
    ("config.ConfigRequest", "integrity_token", 2, Type::Bytes),
    ("config.ConfigResponse", "config", 1, Type::Message),
    ("config.ConfigResponse", "configHash", 2, Type::String),
    ("config.EdgeDevConfig", "id", 1, Type::Message),
    ("config.EdgeDevConfig", "apps", 4, Type::Message),
    ("config.EdgeDevConfig", "networks", 5, Type::Message),
    ("config.EdgeDevConfig", "datastores", 6, Type::Message),
    ("config.EdgeDevConfig", "reboot", 9, Type::Message),
    ("config.EdgeDevConfig", "configItems", 11, Type::Message),
    (
        "config.EdgeDevConfig",
        "systemAdapterList",
        12,
        Type::Message,
    ),
    ("config.EdgeDevConfig", "deviceIoList", 13, Type::Message),
    (
        "config.EdgeDevConfig",
        "networkInstances",
        16,
        Type::Message,
    ),
    ("config.EdgeDevConfig", "cipherContexts", 19, Type::Message),
    ("config.EdgeDevConfig", "contentInfo", 20, Type::Message),
    ("config.EdgeDevConfig", "volumes", 21, Type::Message),
    (
        "config.EdgeDevConfig",
        "controllercert_confighash",
        22,
        Type::String,
    ),
    ("config.EdgeDevConfig", "controller_epoch", 25, Type::Int64),
    ("config.EdgeDevConfig", "baseos", 26, Type::Message),
    (
        "config.EdgeDevConfig",
        "config_timestamp",
        40,
        Type::Message,
    ),
    ("config.DatastoreConfig", "id", 100, Type::String),
    ("config.NetworkInstanceConfig", "ip", 40, Type::Message),
    ("config.NetworkAdapter", "acls", 40, Type::Message),
    ("info.ZInfoMsg", "ztype", 1, Type::Enum),
    ("info.ZInfoMsg", "devId", 2, Type::String),
    ("info.ZInfoMsg", "dinfo", 3, Type::Message),
    ("info.ZInfoMsg", "ainfo", 5, Type::Message),
    ("info.ZInfoMsg", "atTimeStamp", 6, Type::Message),
    ("info.ZInfoMsg", "niinfo", 12, Type::Message),
    ("info.ZInfoMsg", "vinfo", 13, Type::Message),
    ("info.ZInfoMsg", "cinfo", 14, Type::Message),
    ("metrics.ZMetricMsg", "devID", 1, Type::String),
    ("metrics.ZMetricMsg", "atTimeStamp", 3, Type::Message),
    ("metrics.ZMetricMsg", "dm", 4, Type::Message),
    ("metrics.ZMetricMsg", "am", 5, Type::Message),
    ("logs.LogBundle", "devID", 1, Type::String),
    ("logs.LogBundle", "eveVersion", 5, Type::String),
    ("flowlog.FlowMessage", "devId", 1, Type::String),
    ("hardwarehealth.ZHardwareHealth", "dev_id", 1, Type::String),
];

/// `(enum, value, number)`, names after `org.lfedge.eve.`.
const VALUES: &[(&str, &str, i32)] = &[
    ("common.HashAlgorithm", "HASH_ALGORITHM_SHA256_16BYTES", 1),
    ("common.HashAlgorithm", "HASH_ALGORITHM_SHA256_32BYTES", 2),
    ("common.DHCPType", "Static", 1),
    ("common.DHCPType", "Client", 4),
    ("common.NetworkType", "V4", 4),
    ("certs.ZCertType", "CERT_TYPE_CONTROLLER_SIGNING", 1),
    ("certs.ZCertType", "CERT_TYPE_CONTROLLER_INTERMEDIATE", 2),
    ("certs.ZCertType", "CERT_TYPE_CONTROLLER_ECDH_EXCHANGE", 3),
    ("certs.ZCertType", "CERT_TYPE_DEVICE_ECDH_EXCHANGE", 13),
    ("attest.ZAttestReqType", "ATTEST_REQ_CERT", 1),
    ("attest.ZAttestReqType", "ATTEST_REQ_NONCE", 2),
    ("attest.ZAttestReqType", "ATTEST_REQ_QUOTE", 3),
    ("attest.ZAttestReqType", "Z_ATTEST_REQ_TYPE_STORE_KEYS", 4),
    (
        "attest.ZAttestResponseCode",
        "Z_ATTEST_RESPONSE_CODE_SUCCESS",
        1,
    ),
    ("config.Format", "QCOW2", 3),
    ("config.Format", "CONTAINER", 8),
    ("config.DsType", "DsHttps", 2),
    ("config.VolumeContentOriginType", "VCOT_DOWNLOAD", 2),
    ("config.ZNetworkInstType", "ZnetInstSwitch", 1),
    ("config.ZNetworkInstType", "ZnetInstLocal", 2),
    ("config.VmMode", "HVM", 1),
    ("info.ZInfoTypes", "ZiDevice", 1),
    ("info.ZInfoTypes", "ZiApp", 3),
    ("info.ZInfoTypes", "ZiNetworkInstance", 6),
    ("info.ZSwState", "DOWNLOADED", 3),
    ("info.ZSwState", "RUNNING", 7),
    ("info.ZSwState", "ERROR", 21),
    ("info.BootReason", "BOOT_REASON_REBOOT_CMD", 2),
];

fn schemas() -> FileDescriptorSet {
    FileDescriptorSet::decode(api::FILE_DESCRIPTOR_SET).unwrap()
}

fn messages(set: &FileDescriptorSet) -> BTreeMap<String, &DescriptorProto> {
    let mut all = BTreeMap::new();
    for file in &set.file {
        let Some(package) = file.package().strip_prefix(PACKAGE) else {
            continue;
        };
        for message in &file.message_type {
            all.insert(format!("{package}.{}", message.name()), message);
        }
    }
    all
}

fn enums(set: &FileDescriptorSet) -> BTreeMap<String, &EnumDescriptorProto> {
    let mut all = BTreeMap::new();
    for file in &set.file {
        let Some(package) = file.package().strip_prefix(PACKAGE) else {
            continue;
        };
        for item in &file.enum_type {
            all.insert(format!("{package}.{}", item.name()), item);
        }
    }
    all
}

#[test]
fn fields_have_their_numbers_and_types() {
    let set = schemas();
    let messages = messages(&set);
    for &(message, name, number, kind) in FIELDS {
        let found = messages
            .get(message)
            .unwrap_or_else(|| panic!("no message {message}"))
            .field
            .iter()
            .find(|field| field.number() == number)
            .unwrap_or_else(|| panic!("{message} has no field {number}"));
        assert_eq!(found.name(), name, "{message} = {number}");
        assert_eq!(found.r#type(), kind, "{message}.{name}");
    }
}

#[test]
fn enum_values_have_their_numbers() {
    let set = schemas();
    let enums = enums(&set);
    for &(item, name, number) in VALUES {
        let found = enums
            .get(item)
            .unwrap_or_else(|| panic!("no enum {item}"))
            .value
            .iter()
            .find(|value| value.name() == name)
            .unwrap_or_else(|| panic!("{item} has no {name}"));
        assert_eq!(found.number(), number, "{item}.{name}");
    }
}

#[test]
fn the_descriptor_holds_every_package_and_nothing_of_our_own_services() {
    let set = schemas();
    let packages: BTreeSet<&str> = set
        .file
        .iter()
        .filter_map(|file| file.package().strip_prefix(PACKAGE))
        .collect();
    let expected = BTreeSet::from([
        "attest",
        "auth",
        "certs",
        "common",
        "config",
        "flowlog",
        "hardwarehealth",
        "info",
        "logs",
        "metrics",
        "nestedappinstancemetrics",
        "profile",
        "proxy",
        "register",
        "uuid",
    ]);
    assert_eq!(packages, expected);
    assert!(set.file.iter().all(|file| file.service.is_empty()));
    assert!(set.file.iter().all(|file| {
        file.package().starts_with(PACKAGE) || file.package() == "google.protobuf"
    }));
}

/// Every message says what it is for: the schemas are the only place where that is written down.
#[test]
fn every_message_and_enum_is_described() {
    // Field numbers of FileDescriptorProto, the first step of a location's path.
    const MESSAGE: i32 = 4;
    const ENUM: i32 = 5;
    let mut bare = Vec::new();
    for file in schemas().file {
        if !file.package().starts_with(PACKAGE) {
            continue;
        }
        let described: BTreeSet<Vec<i32>> = file
            .source_code_info
            .iter()
            .flat_map(|info| &info.location)
            .filter(|place| !place.leading_comments().is_empty())
            .map(|place| place.path.clone())
            .collect();
        let messages: Vec<&str> = file
            .message_type
            .iter()
            .map(DescriptorProto::name)
            .collect();
        let enums: Vec<&str> = file
            .enum_type
            .iter()
            .map(EnumDescriptorProto::name)
            .collect();
        for (kind, names) in [(MESSAGE, messages), (ENUM, enums)] {
            for (index, name) in (0..).zip(names) {
                if !described.contains(&vec![kind, index]) {
                    bare.push(format!("{}: {name}", file.name()));
                }
            }
        }
    }
    assert!(bare.is_empty(), "no comment: {bare:?}");
}
