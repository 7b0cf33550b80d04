#![allow(clippy::unwrap_used, clippy::expect_used)]
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::support::{Ca, Leaf};

const SIGNING: i32 = 1;
const INTERMEDIATE: i32 = 2;
const ECDH: i32 = 3;

fn now() -> Timestamp {
    Timestamp::now()
}

fn zcert(kind: i32, pem: &str) -> ZCert {
    let cert = pem.trim().as_bytes().to_vec();
    ZCert {
        hash_algo: 1,
        cert_hash: sha256(&cert)[..16].to_vec(),
        r#type: kind,
        cert,
        ..ZCert::default()
    }
}

fn message(certs: &[(i32, &Leaf)], intermediates: &[&str]) -> Vec<u8> {
    let leaves = certs.iter().map(|(kind, leaf)| zcert(*kind, &leaf.pem));
    let certs = leaves
        .chain(intermediates.iter().map(|pem| zcert(INTERMEDIATE, pem)))
        .collect();
    ZControllerCert { certs }.encode_to_vec()
}

fn roots(ca: &Ca) -> SigningRoots {
    SigningRoots::from_pem(ca.pem.as_bytes()).unwrap()
}

#[test]
fn a_good_set() {
    let ca = Ca::new("root");
    let (signing, ecdh) = (ca.leaf(&["signing"]), ca.leaf(&["ecdh"]));
    let bytes = message(&[(SIGNING, &signing), (ECDH, &ecdh)], &[]);
    let certs = ControllerCerts::verify(&bytes, &roots(&ca), now()).unwrap();
    assert_eq!(
        *certs.signing().hash(),
        sha256(signing.pem.trim().as_bytes())
    );
    assert_eq!(certs.bytes(), bytes);
    let hash = &sha256(ecdh.pem.trim().as_bytes())[..16];
    assert_eq!(certs.by_hash(hash).unwrap().pem, ecdh.pem.trim().as_bytes());
    let hash = &sha256(signing.pem.trim().as_bytes())[..16];
    assert!(certs.by_hash(hash).is_some());
    assert!(certs.by_hash(b"other").is_none());
}

#[test]
fn intermediates_lead_to_the_root() {
    let ca = Ca::new("root");
    let middle = ca.intermediate("middle");
    let low = middle.intermediate("low");
    let (signing, ecdh) = (low.leaf(&["signing"]), middle.leaf(&["ecdh"]));
    let pair = [(SIGNING, &signing), (ECDH, &ecdh)];
    let with = |pems: &[&str]| ControllerCerts::verify(&message(&pair, pems), &roots(&ca), now());
    with(&[&middle.pem, &low.pem]).unwrap();
    with(&[&low.pem, &middle.pem]).unwrap();
    assert_eq!(
        with(&[&middle.pem]).unwrap_err().status(),
        SenderStatus::CertUnknownAuthority
    );
    let expired = middle.expired(&["signing"]);
    let bytes = message(&[(SIGNING, &expired), (ECDH, &ecdh)], &[&middle.pem]);
    let error = ControllerCerts::verify(&bytes, &roots(&ca), now()).unwrap_err();
    assert_eq!(error.status(), SenderStatus::CertInvalid);
}

#[test]
fn the_rules_on_kinds() {
    let ca = Ca::new("root");
    let (a, b) = (ca.leaf(&["a"]), ca.leaf(&["b"]));
    let verify =
        |certs: &[(i32, &Leaf)]| ControllerCerts::verify(&message(certs, &[]), &roots(&ca), now());
    assert_eq!(verify(&[(ECDH, &a)]).unwrap_err(), CertsError::Signing(0));
    assert_eq!(
        verify(&[(SIGNING, &a), (SIGNING, &b), (ECDH, &b)]).unwrap_err(),
        CertsError::Signing(2)
    );
    assert_eq!(verify(&[(SIGNING, &a)]).unwrap_err(), CertsError::NoEcdh);
    assert_eq!(
        verify(&[(SIGNING, &a), (13, &b)]).unwrap_err(),
        CertsError::Kind { index: 1, kind: 13 }
    );
    assert!(matches!(
        ControllerCerts::verify(b"\xff", &roots(&ca), now()),
        Err(CertsError::Malformed(_))
    ));
    let mut broken = zcert(SIGNING, &a.pem);
    broken.cert = b"no certificate".to_vec();
    let bytes = ZControllerCert {
        certs: vec![broken, zcert(ECDH, &b.pem)],
    }
    .encode_to_vec();
    let error = ControllerCerts::verify(&bytes, &roots(&ca), now()).unwrap_err();
    assert!(matches!(error, CertsError::Unreadable { index: 0, .. }));
}

#[test]
fn foreign_and_misused_certificates_are_refused() {
    let (ca, other) = (Ca::new("root"), Ca::new("root"));
    let (good, foreign) = (ca.leaf(&["a"]), other.leaf(&["a"]));
    let verify = |leaf: &Leaf| {
        let bytes = message(&[(SIGNING, &good), (ECDH, leaf)], &[]);
        ControllerCerts::verify(&bytes, &roots(&ca), now())
    };
    assert!(matches!(
        verify(&foreign),
        Err(CertsError::Chain { index: 1, .. })
    ));
    let client_only = ca.leaf_with(&["a"], |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    assert!(matches!(
        verify(&client_only),
        Err(CertsError::Chain { index: 1, .. })
    ));
    let unlimited = ca.leaf_with(&["a"], |params| params.extended_key_usages = Vec::new());
    verify(&unlimited).unwrap();
    assert!(SigningRoots::from_pem(b"").is_err());
    let early: jiff::Timestamp = "1999-01-01T00:00:00Z".parse().unwrap();
    let bytes = message(&[(SIGNING, &good), (ECDH, &good)], &[]);
    let error = ControllerCerts::verify(&bytes, &roots(&ca), early).unwrap_err();
    assert_eq!(error.status(), SenderStatus::CertInvalid);
}

#[test]
fn order_is_no_change() {
    let ca = Ca::new("root");
    let (a, b, c) = (ca.leaf(&["a"]), ca.leaf(&["b"]), ca.leaf(&["c"]));
    let verify = |certs: &[(i32, &Leaf)]| {
        ControllerCerts::verify(&message(certs, &[]), &roots(&ca), now()).unwrap()
    };
    let one = verify(&[(SIGNING, &a), (ECDH, &b)]);
    assert!(!one.differs_from(&verify(&[(ECDH, &b), (SIGNING, &a)])));
    assert!(one.differs_from(&verify(&[(SIGNING, &a), (ECDH, &c)])));
    assert!(one.differs_from(&verify(&[(SIGNING, &a), (ECDH, &b), (ECDH, &c)])));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        static CA: std::sync::LazyLock<SigningRoots> = std::sync::LazyLock::new(|| roots(&Ca::new("root")));
        let _ = ControllerCerts::verify(&bytes, &CA, now());
    }
}
