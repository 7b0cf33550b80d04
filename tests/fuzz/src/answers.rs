//! Answers of the controller, out of their envelopes: bodies of every endpoint, refusals, headers. What
//! they say about themselves stays short enough for a log and for the bus.

use api::{attest::ZAttestResponse, config::ConfigResponse, uuid::UuidResponse};
use controller::{
    ConfigAnswer, DeviceName, SenderStatus,
    calls::server_load,
    exchange::{retry_after, words},
};
use prost::Message as _;
use uplink::reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};

use crate::{config, keys::now};

/// Reads it as every kind of answer.
pub fn check(bytes: &[u8]) {
    match DeviceName::parse(bytes) {
        Ok(name) => assert!(name.product_name.len() <= bytes.len()),
        Err(problem) => assert!(problem.to_string().len() < 1000, "{problem}"),
    }
    match ConfigAnswer::parse("known", bytes, bytes.to_vec()) {
        Ok(ConfigAnswer::Unchanged) => {
            let message = ConfigResponse::decode(bytes).expect("it was decoded");
            assert_eq!(message.config_hash, "known");
        }
        Ok(ConfigAnswer::Changed {
            response,
            bytes: kept,
        }) => {
            assert!(response.config_hash != "known" && kept == bytes);
        }
        Err(problem) => assert!(problem.to_string().len() < 1000, "{problem}"),
    }
    // A whole answer that is no message is no reason to forget what there was.
    if let Ok(ConfigAnswer::Changed { response, .. }) = ConfigAnswer::parse("", bytes, Vec::new()) {
        assert_eq!(
            ConfigResponse::decode(bytes).ok().as_ref(),
            Some(&*response)
        );
    }
    if let Ok(answer) = ZAttestResponse::decode(bytes) {
        let again = ZAttestResponse::decode(answer.encode_to_vec().as_slice());
        assert_eq!(again.ok(), Some(answer));
    }
    if let Some(load) = server_load(bytes) {
        let json = serde_json::to_vec(&load).expect("JSON");
        assert_eq!(server_load(&json), Some(load), "it goes on the bus");
    }
    let said = words(bytes.to_vec());
    assert!(
        said.chars().count() <= 200 && !said.contains('\n'),
        "{said:?}"
    );
    if let Ok(value) = HeaderValue::from_bytes(bytes) {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, value)]);
        if let Some(pause) = retry_after(&headers) {
            assert!(now().checked_add(pause).is_ok(), "until when? {pause:?}");
        }
    }
    if let [high, low, ..] = bytes {
        let _ = SenderStatus::of_http(u16::from_be_bytes([*high, *low]));
    }
}

/// Real answers.
pub fn seeds() -> Vec<Vec<u8>> {
    let name = UuidResponse {
        uuid: config::DEVICE.to_owned(),
        manufacturer: "ACME".to_owned(),
        product_name: "Box".to_owned(),
    };
    let answer = ConfigResponse {
        config: Some(config::message(&config::example())),
        config_hash: "hash".to_owned(),
    };
    let known = ConfigResponse {
        config_hash: "known".to_owned(),
        ..ConfigResponse::default()
    };
    let device = evc::cert::Certificate::from_pem(crate::keys::DEVICE.cert_pem.as_bytes());
    assert!(device.is_ok(), "our own certificate");
    vec![
        name.encode_to_vec(),
        answer.encode_to_vec(),
        known.encode_to_vec(),
        evc::decide::attest::nonce_answer(&[7; 16]).encode_to_vec(),
        evc::decide::attest::certs_answer().encode_to_vec(),
        br#"{"cpuPercentage": 12.5, "logProcessDelay": 3}"#.to_vec(),
        br#"{"cpuPercentage": 1e39}"#.to_vec(),
        b"120".to_vec(),
        b"18446744073709551615".to_vec(),
        b"the device is not known here\n".to_vec(),
        b"\x01\xf4".to_vec(),
    ]
}
