#![allow(clippy::unwrap_used, clippy::expect_used)]
use proptest::prelude::*;
use prost::Message as _;

use super::*;

/// A key pair made once for these tests; the signatures below were made with it by another
/// implementation (Python's `cryptography`), as was the hash.
const GOLDEN_CERT: &str = include_str!("../tests/golden/envelope/device.cert.pem");
const GOLDEN_ENVELOPE: &str = include_str!("../tests/golden/envelope/envelope.hex");
const GOLDEN_PAYLOAD: &[u8] = b"what the device says";

fn identity() -> (Certificate, Signer) {
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = rcgen::CertificateParams::new(vec![])
        .unwrap()
        .self_signed(&key)
        .unwrap()
        .pem();
    let cert = Certificate::from_pem(pem.as_bytes()).unwrap();
    let signer = Signer::new(&key.serialize_der(), cert.hash()).unwrap();
    (cert, signer)
}

#[test]
fn opens_an_envelope_made_by_another_implementation() {
    let cert = Certificate::from_pem(GOLDEN_CERT.as_bytes()).unwrap();
    let bytes = hex::decode(GOLDEN_ENVELOPE.trim()).unwrap();
    let container = AuthContainer::decode(bytes.as_slice()).unwrap();
    assert_eq!(open(&container, &cert), Ok(GOLDEN_PAYLOAD));
    // Our own encoding of the same message is the same bytes.
    assert_eq!(container.encode_to_vec(), bytes);
}

#[test]
fn an_empty_payload_still_has_its_body() {
    let (cert, signer) = identity();
    let bytes = signer.seal(Vec::new()).unwrap().encode_to_vec();
    let container = AuthContainer::decode(bytes.as_slice()).unwrap();
    assert!(container.protected_payload.is_some());
    assert_eq!(open(&container, &cert), Ok(&b""[..]));
}

#[test]
fn sixteen_byte_hashes_are_accepted() {
    let (cert, signer) = identity();
    let mut short = signer.seal(b"x".to_vec()).unwrap();
    short.algo = HashAlgorithm::Sha25616bytes.into();
    short.sender_cert_hash.truncate(16);
    assert_eq!(open(&short, &cert), Ok(&b"x"[..]));
}

#[test]
fn every_wrong_part_has_its_own_error() {
    let (cert, signer) = identity();
    let (other, _) = identity();
    let good = signer.seal(b"payload".to_vec()).unwrap();
    let with = |change: &dyn Fn(&mut AuthContainer)| {
        let mut bad = good.clone();
        change(&mut bad);
        open(&bad, &cert).unwrap_err()
    };
    assert_eq!(
        with(&|c| c.protected_payload = None),
        EnvelopeError::NoPayload
    );
    assert_eq!(with(&|c| c.algo = 0), EnvelopeError::Algorithm(0));
    assert_eq!(with(&|c| c.algo = 9), EnvelopeError::Algorithm(9));
    assert_eq!(
        with(&|c| c.algo = 1),
        EnvelopeError::HashLength {
            algo: 1,
            wanted: 16,
            found: 32
        }
    );
    assert_eq!(
        with(&|c| c.sender_cert_hash = other.hash().to_vec()),
        EnvelopeError::Sender
    );
    assert_eq!(
        with(&|c| c.signature_hash[7] ^= 1),
        EnvelopeError::Signature
    );
    assert_eq!(
        with(&|c| c.signature_hash.push(0)),
        EnvelopeError::SignatureLength(65)
    );
    assert_eq!(
        with(&|c| c.cipher_data = Some(api::common::CipherBlock::default())),
        EnvelopeError::Encrypted
    );
    let payload = AuthBody {
        payload: b"Payload".to_vec(),
    };
    assert_eq!(
        with(&|c| c.protected_payload = Some(payload.clone())),
        EnvelopeError::Signature
    );
    assert_eq!(open(&good, &other), Err(EnvelopeError::Sender));
}

#[test]
fn the_controller_hash_is_of_the_pem_text() {
    assert_eq!(
        hex::encode(pem_hash("abc")),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    assert_ne!(pem_hash("abc"), pem_hash("abc\n"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_sealed_opens_and_no_flipped_bit_does(
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        flip in any::<prop::sample::Index>(),
    ) {
        let (cert, signer) = identity();
        let container = signer.seal(payload.clone()).unwrap();
        prop_assert_eq!(open(&container, &cert), Ok(payload.as_slice()));
        let mut bytes = container.encode_to_vec();
        let bit = flip.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(changed) = AuthContainer::decode(bytes.as_slice()) {
            let same = changed.protected_payload == container.protected_payload;
            prop_assert!(same || open(&changed, &cert).is_err());
        }
    }
}
