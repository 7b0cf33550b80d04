//! Envelopes. Nothing that the key did not sign comes out, whatever is changed on the way.

use std::{collections::BTreeSet, sync::LazyLock};

use api::auth::AuthContainer;
use chain::SigningRoots;
use controller::{ControllerCerts, envelope};
use evc::{cert::Certificate, envelope as evc_envelope};
use jiff::Timestamp;
use prost::Message as _;

use crate::keys::{CERTS, CONTROLLER, DEVICE, ROOTS, now, sealed};

/// All that was ever signed here.
static SIGNED: LazyLock<BTreeSet<Vec<u8>>> = LazyLock::new(|| {
    let messages: [&[u8]; 3] = [b"", b"a config", &[0; 600]];
    messages.into_iter().map(<[u8]>::to_vec).collect()
});

/// Controllers with keys of other kinds, and what they signed.
static OTHERS: LazyLock<Vec<(ControllerCerts, Vec<u8>)>> =
    LazyLock::new(|| vectors().into_iter().filter_map(Vector::certs).collect());

#[derive(serde::Deserialize)]
struct Vector {
    certificate: String,
    payload: String,
    signature: String,
}

fn vectors() -> Vec<Vector> {
    let text = include_str!("../../../crates/libs/controller/tests/vectors/envelope.json");
    serde_json::from_str(text).expect("vectors")
}

impl Vector {
    fn certs(self) -> Option<(ControllerCerts, Vec<u8>)> {
        let zcert = |kind| api::certs::ZCert {
            r#type: kind,
            cert: self.certificate.clone().into_bytes(),
            ..api::certs::ZCert::default()
        };
        let certs = vec![zcert(1), zcert(3)];
        let bytes = api::certs::ZControllerCert { certs }.encode_to_vec();
        let roots = SigningRoots::from_pem(self.certificate.as_bytes()).ok()?;
        let der = chain::pem::first_certificate(self.certificate.as_bytes()).ok()?;
        let begin = chain::pem::not_before(&der).ok()?;
        let then = Timestamp::from_second(begin + 60).ok()?;
        let certs = ControllerCerts::verify(&bytes, &roots, then).ok()?;
        Some((certs, self.payload.into_bytes()))
    }

    fn sealed(&self) -> Option<Vec<u8>> {
        use sha2::Digest as _;
        let container = AuthContainer {
            protected_payload: Some(api::auth::AuthBody {
                payload: self.payload.clone().into_bytes(),
            }),
            algo: 2,
            sender_cert_hash: sha2::Sha256::digest(&self.certificate).to_vec(),
            signature_hash: hex(&self.signature)?,
            ..AuthContainer::default()
        };
        Some(container.encode_to_vec())
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().as_chunks::<2>().0;
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.iter().map(byte).collect()
}

/// Opens it as the device does and as the controller does.
pub fn check(bytes: &[u8]) {
    match envelope::open(bytes, CERTS.signing()) {
        Ok(payload) => assert!(SIGNED.contains(&payload), "never signed: {payload:?}"),
        Err(error) => assert!(error.to_string().len() < 1000, "{error}"),
    }
    for (certs, signed) in &*OTHERS {
        if let Ok(payload) = envelope::open(bytes, certs.signing()) {
            assert_eq!(&payload, signed, "never signed");
        }
    }
    if let Ok(payload) = envelope::open_unverified(bytes) {
        assert!(payload.len() <= bytes.len(), "more comes out than went in");
    }
    if let Ok(container) = AuthContainer::decode(bytes) {
        let device = Certificate::from_pem(DEVICE.cert_pem.as_bytes()).expect("a certificate");
        if let Ok(payload) = evc_envelope::open(&container, &device) {
            assert!(SIGNED.contains(payload), "never signed: {payload:?}");
        }
        let again = AuthContainer::decode(container.encode_to_vec().as_slice());
        assert_eq!(again.expect("what was written"), container);
        let _ = evc::decide::register::onboarding_cert(&container.sender_cert);
    }
    if let Ok(certs) = ControllerCerts::verify(bytes, &ROOTS, now()) {
        assert_eq!(certs.signing().key(), CERTS.signing().key(), "whose key?");
    }
}

/// Envelopes of both sides.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = SIGNED.iter().map(|message| sealed(message)).collect();
    for signer in [&DEVICE.key, &CONTROLLER.key] {
        let container = envelope::seal(signer, b"a config".to_vec(), true).expect("an envelope");
        seeds.push(container.encode_to_vec());
        let short = AuthContainer {
            algo: 1,
            sender_cert_hash: container.sender_cert_hash[..16].to_vec(),
            ..container
        };
        seeds.push(short.encode_to_vec());
    }
    seeds.extend(vectors().iter().filter_map(Vector::sealed));
    seeds
}
