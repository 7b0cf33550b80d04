//! What devices send to the controller: paths, messages, logs, registrations, attestation. A message is
//! its sender's and says something, or is refused; what is kept can be shown.

use std::sync::LazyLock;

use api::{
    attest::{ZAttestQuote, ZAttestReq, ZAttestReqType},
    info::{ZInfoApp, ZInfoMsg, z_info_msg},
    metrics::ZMetricMsg,
    register::ZRegisterMsg,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use evc::{
    cert::Certificate,
    decide::{
        attest::{self, quote},
        logs,
        messages::{self, Kind},
        register,
        route::route,
    },
};
use http::Method;
use newlogd::gzip::{Header, Origin, Packer};
use p256::ecdsa::{DerSignature, SigningKey, signature::Signer as _};
use prost::Message as _;
use uuid::Uuid;

use crate::keys::{DEVICE, NOW};

/// Takes it as everything that a device can send.
pub fn check(bytes: &[u8]) {
    let device = Uuid::from_u128(1);
    for kind in Kind::ALL {
        if let Ok(report) = messages::read(kind, device, bytes) {
            assert_eq!(report.body, bytes);
            // Anything that was taken can be shown later.
            assert!(
                messages::to_json(kind, bytes).is_ok(),
                "{kind:?} can't be shown"
            );
        }
    }
    match logs::parse(bytes) {
        Ok(upload) => upload.lines.iter().for_each(|line| {
            let _ = line.timestamp.ms();
        }),
        Err(refusal) => assert!(!refusal.reason.is_empty()),
    }
    if let Ok(path) = std::str::from_utf8(bytes) {
        let _ = (route(&Method::GET, path), route(&Method::POST, path));
    }
    if let Ok(message) = ZRegisterMsg::decode(bytes)
        && let Ok(request) = register::parse(&message)
    {
        assert!(!request.serial.is_empty() || !request.soft_serial.is_empty());
    }
    let cert = Certificate::from_pem(DEVICE.cert_pem.as_bytes()).expect("a certificate");
    if let Ok(request) = ZAttestReq::decode(bytes) {
        let _ = attest::parse(request, &cert);
    }
    // A quote is looked at only once its signature holds.
    let forged = quoted(bytes, b"forged".to_vec());
    assert!(quote::verify(&forged, &cert, NONCE).is_err());
    let signature: DerSignature = QUOTE_KEY.sign(bytes);
    let signed = quoted(bytes, signature.as_bytes().to_vec());
    let verdict = quote::verify(&signed, &cert, NONCE);
    assert!(verdict.is_err() || bytes.windows(NONCE.len()).any(|w| w == NONCE));
}

const NONCE: &[u8] = b"a nonce of ours.";

/// Here the device's key also signs quotes.
static QUOTE_KEY: LazyLock<SigningKey> = LazyLock::new(|| DEVICE.signing_key());

fn quoted(bytes: &[u8], signature: Vec<u8>) -> ZAttestQuote {
    ZAttestQuote {
        attest_data: bytes.to_vec(),
        signature,
        ..ZAttestQuote::default()
    }
}

/// A `TPMS_ATTEST` over PCR 0 and 7.
fn attest_data() -> Vec<u8> {
    let mut data = vec![0xff, 0x54, 0x43, 0x47, 0x80, 0x18, 0, 2, 1, 2];
    data.extend([0, u8::try_from(NONCE.len()).expect("short")]);
    data.extend(NONCE);
    data.extend([0; 25]);
    data.extend([0, 0, 0, 1, 0, 0x0b, 3, 0x81, 0, 0, 0, 32]);
    data.extend([7; 32]);
    data
}

/// One of everything.
pub fn seeds() -> Vec<Vec<u8>> {
    let register = ZRegisterMsg {
        pem_cert: STANDARD.encode(&DEVICE.cert_pem).into_bytes(),
        serial: "s".to_owned(),
        ..ZRegisterMsg::default()
    };
    let certs = ZAttestReq {
        req_type: ZAttestReqType::AttestReqCert.into(),
        certs: vec![DEVICE.zcert(6)],
        ..ZAttestReq::default()
    };
    let asks = ZAttestReq {
        req_type: ZAttestReqType::AttestReqQuote.into(),
        quote: Some(quoted(&attest_data(), vec![1; 70])),
        ..ZAttestReq::default()
    };
    let at = Some(pbjson_types::Timestamp {
        seconds: NOW,
        nanos: 5,
    });
    let info = ZInfoMsg {
        dev_id: Uuid::from_u128(1).to_string(),
        at_time_stamp: at,
        info_content: Some(z_info_msg::InfoContent::Ainfo(ZInfoApp::default())),
        ..ZInfoMsg::default()
    };
    let metrics = ZMetricMsg {
        at_time_stamp: at,
        ..ZMetricMsg::default()
    };
    let mut packer = Packer::new(Header::Device(Origin::default()), 1_800_000_000);
    let line = r#"{"content":"a","msgid":1,"timestamp":{"seconds":9223372036854775807}}"#;
    assert!(packer.push(line).expect("a line").is_none());
    let log = packer.finish().expect("a file").expect("lines").bytes;
    vec![
        register.encode_to_vec(),
        certs.encode_to_vec(),
        asks.encode_to_vec(),
        attest_data(),
        info.encode_to_vec(),
        metrics.encode_to_vec(),
        log,
        b"/api/v2/edgedevice/id/00000000-0000-4000-8000-000000000001/apps/instanceid/00000000-0000-4000-8000-0000000000a9/newlogs".to_vec(),
        b"/api/v1/edgeDevice/config".to_vec(),
    ]
}
