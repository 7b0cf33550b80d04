//! Binary and JSON forms of messages: known bytes, round trips, tolerance of what is not known.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Debug;

use api::auth::{AuthBody, AuthContainer};
use api::common::{CipherBlock, HashAlgorithm, Ipspec};
use api::config::{
    Ace, AceMatch, AppInstanceConfig, ConfigItem, ConfigResponse, DeviceOpsCmd, EdgeDevConfig,
    NetworkAdapter, NetworkInstanceConfig, UuiDandVersion, VmConfig, Volume, ZNetworkInstType,
};
use api::info::z_info_msg::InfoContent;
use api::info::{ErrorInfo, Severity, ZInfoApp, ZInfoMsg, ZInfoTypes, ZSwState};
use api::register::ZRegisterMsg;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

/// Encodes and decodes in both forms.
fn round_trip<M>(message: &M)
where
    M: Message + Default + PartialEq + Debug + Serialize + DeserializeOwned,
{
    let decoded = M::decode(message.encode_to_vec().as_slice()).unwrap();
    assert_eq!(&decoded, message);
    let text = serde_json::to_string(message).unwrap();
    let parsed: M = serde_json::from_str(&text).unwrap();
    assert_eq!(&parsed, message);
}

#[test]
fn register_message_has_the_known_bytes() {
    let message = ZRegisterMsg {
        pem_cert: b"PEM".to_vec(),
        serial: "s1".into(),
        soft_serial: "s2".into(),
        ..ZRegisterMsg::default()
    };
    // tag = number << 3 | 2, then length, then content
    let bytes = b"\x12\x03PEM\x1a\x02s1\x22\x02s2";
    assert_eq!(message.encode_to_vec(), bytes);
}

#[test]
fn an_empty_payload_still_has_its_body() {
    let message = AuthContainer {
        protected_payload: Some(AuthBody::default()),
        algo: HashAlgorithm::Sha25632bytes.into(),
        ..AuthContainer::default()
    };
    assert_eq!(message.encode_to_vec(), b"\x0a\x00\x10\x02");
}

#[test]
fn json_uses_the_names_and_enum_names_of_the_schema() {
    let message = ZInfoMsg {
        ztype: ZInfoTypes::ZiApp.into(),
        dev_id: "d".into(),
        at_time_stamp: Some(pbjson_types::Timestamp {
            seconds: 1,
            nanos: 0,
        }),
        info_content: Some(InfoContent::Ainfo(ZInfoApp {
            app_id: "a".into(),
            state: ZSwState::Running.into(),
            ..ZInfoApp::default()
        })),
    };
    assert_eq!(
        serde_json::to_value(&message).unwrap(),
        json!({
            "ztype": "ZiApp",
            "devId": "d",
            "atTimeStamp": "1970-01-01T00:00:01+00:00",
            "ainfo": {"AppID": "a", "state": "RUNNING"},
        })
    );
    round_trip(&message);
}

#[test]
fn json_accepts_both_spellings_of_a_field() {
    let short: ConfigResponse =
        serde_json::from_value(json!({"config": {"maintenanceMode": true}})).unwrap();
    let schema: ConfigResponse =
        serde_json::from_value(json!({"config": {"maintenance_mode": true}})).unwrap();
    assert_eq!(short, schema);
    assert!(short.config.unwrap().maintenance_mode);
}

#[test]
fn unknown_fields_are_ignored_in_both_forms() {
    let mut bytes = ConfigResponse {
        config_hash: "h".into(),
        ..ConfigResponse::default()
    }
    .encode_to_vec();
    // field 1999, a string
    bytes.extend_from_slice(b"\xfa\x7c\x03new");
    let decoded = ConfigResponse::decode(bytes.as_slice()).unwrap();
    assert_eq!(decoded.config_hash, "h");

    let parsed: ConfigResponse =
        serde_json::from_value(json!({"configHash": "h", "new": {"a": [1]}})).unwrap();
    assert_eq!(parsed, decoded);
}

#[test]
fn an_unknown_enum_number_is_kept() {
    // ZInfoApp.state = 99
    let decoded = ZInfoApp::decode(b"\x78\x63".as_slice()).unwrap();
    assert_eq!(decoded.state, 99);
    assert_eq!(decoded.encode_to_vec(), b"\x78\x63");
}

#[test]
fn a_cut_message_is_an_error() {
    let bytes = AuthContainer {
        sender_cert_hash: vec![7; 32],
        ..AuthContainer::default()
    }
    .encode_to_vec();
    for end in 1..bytes.len() {
        assert!(
            AuthContainer::decode(&bytes[..end]).is_err(),
            "cut at {end}"
        );
    }
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,12}"
}

fn blob() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

fn id() -> impl Strategy<Value = Option<UuiDandVersion>> {
    proptest::option::of(
        (text(), text()).prop_map(|(uuid, version)| UuiDandVersion { uuid, version }),
    )
}

prop_compose! {
    fn envelope()(
        body in proptest::option::of(blob()),
        algo in 0..3_i32,
        sender_cert_hash in blob(),
        signature_hash in blob(),
        sender_cert in blob(),
        cipher in proptest::option::of((text(), blob(), blob(), blob())),
    ) -> AuthContainer {
        AuthContainer {
            protected_payload: body.map(|payload| AuthBody { payload }),
            algo,
            sender_cert_hash,
            signature_hash,
            sender_cert,
            cipher_context: None,
            cipher_data: cipher.map(|(id, iv, data, sum)| CipherBlock {
                cipher_context_id: id,
                initial_value: iv,
                cipher_data: data,
                clear_text_sha256: sum,
            }),
        }
    }
}

prop_compose! {
    fn app()(
        uuidandversion in id(),
        displayname in text(),
        activate in any::<bool>(),
        memory in any::<u32>(),
        rules in vec((text(), text(), any::<i32>()), 0..4),
    ) -> AppInstanceConfig {
        let acls = rules
            .into_iter()
            .map(|(r#type, value, id)| Ace {
                matches: vec![AceMatch { r#type, value }],
                id,
                ..Ace::default()
            })
            .collect();
        AppInstanceConfig {
            uuidandversion,
            displayname,
            activate,
            fixedresources: Some(VmConfig { memory, ..VmConfig::default() }),
            interfaces: vec![NetworkAdapter { acls, ..NetworkAdapter::default() }],
            ..AppInstanceConfig::default()
        }
    }
}

prop_compose! {
    fn config()(
        id in id(),
        apps in vec(app(), 0..4),
        items in vec((text(), text()), 0..4),
        volumes in vec((text(), any::<i64>()), 0..4),
        subnets in vec(text(), 0..3),
        counter in any::<u32>(),
        controller_epoch in any::<i64>(),
        nanos in 0..1_000_000_000_i32,
    ) -> EdgeDevConfig {
        EdgeDevConfig {
            id,
            apps,
            config_items: items
                .into_iter()
                .map(|(key, value)| ConfigItem { key, value })
                .collect(),
            volumes: volumes
                .into_iter()
                .map(|(uuid, maxsizebytes)| Volume { uuid, maxsizebytes, ..Volume::default() })
                .collect(),
            network_instances: subnets
                .into_iter()
                .map(|subnet| NetworkInstanceConfig {
                    inst_type: ZNetworkInstType::ZnetInstLocal.into(),
                    ip: Some(Ipspec { subnet, ..Ipspec::default() }),
                    ..NetworkInstanceConfig::default()
                })
                .collect(),
            reboot: Some(DeviceOpsCmd { counter, ..DeviceOpsCmd::default() }),
            controller_epoch,
            config_timestamp: Some(pbjson_types::Timestamp { seconds: 1_700_000_000, nanos }),
            ..EdgeDevConfig::default()
        }
    }
}

prop_compose! {
    fn info()(
        dev_id in text(),
        app_id in text(),
        state in 0..25_i32,
        error in proptest::option::of(text()),
    ) -> ZInfoMsg {
        let app_err = error
            .into_iter()
            .map(|description| ErrorInfo {
                description,
                severity: Severity::Error.into(),
                ..ErrorInfo::default()
            })
            .collect();
        ZInfoMsg {
            ztype: ZInfoTypes::ZiApp.into(),
            dev_id,
            info_content: Some(InfoContent::Ainfo(ZInfoApp {
                app_id,
                state,
                app_err,
                ..ZInfoApp::default()
            })),
            at_time_stamp: None,
        }
    }
}

proptest! {
    #[test]
    fn envelopes_round_trip(message in envelope()) {
        round_trip(&message);
    }

    #[test]
    fn configurations_round_trip(config in config(), config_hash in text()) {
        round_trip(&ConfigResponse { config: Some(config), config_hash });
    }

    #[test]
    fn information_round_trips(message in info()) {
        round_trip(&message);
    }

    /// Bytes from the network never panic; what decodes has one stable encoding.
    #[test]
    fn any_bytes_decode_or_fail(bytes in vec(any::<u8>(), 0..256)) {
        if let Ok(message) = EdgeDevConfig::decode(bytes.as_slice()) {
            let again = EdgeDevConfig::decode(message.encode_to_vec().as_slice()).unwrap();
            prop_assert_eq!(message.encode_to_vec(), again.encode_to_vec());
        }
        let _ = AuthContainer::decode(bytes.as_slice());
        let _ = ZInfoMsg::decode(bytes.as_slice());
    }
}
