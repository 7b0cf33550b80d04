#![allow(clippy::unwrap_used, clippy::expect_used)]
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::identity::{NewIdentity, generate};
use crate::signer::SoftwareKey;
use tpm::Signature;

fn identity(seed: u8) -> NewIdentity {
    let mut random = |buffer: &mut [u8]| {
        buffer.fill(seed);
        Ok(())
    };
    generate(
        Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(1_000_000 / 2),
        &mut random,
    )
    .unwrap()
}

fn signer(seed: u8) -> SoftwareKey {
    let made = identity(seed);
    SoftwareKey::from_pem("device", made.cert_pem.as_bytes(), made.key_pem.as_bytes()).unwrap()
}

/// The key's certificate seen as a controller's, whose hash is over the text.
fn seen_as_controller(signer: &SoftwareKey) -> SigningCert {
    SigningCert::from_pem(signer.certificate().pem()).unwrap()
}

fn as_controller(signer: &SoftwareKey, payload: &[u8]) -> AuthContainer {
    let mut container = seal(signer, payload.to_vec(), false).unwrap();
    container.sender_cert_hash = seen_as_controller(signer).hash().to_vec();
    container
}

/// Key and signature of "sample" with SHA-256 on P-256 in RFC 6979, A.2.5.
#[test]
fn our_signatures_are_those_of_rfc_6979() {
    let secret =
        hex::decode("c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721").unwrap();
    let key = tpm::SoftKey::from_bytes(&secret.try_into().unwrap()).unwrap();
    let signature = key.sign(&sha256(b"sample")).unwrap();
    let expected = "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716\
                    f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8";
    assert_eq!(hex::encode(signature.0), expected);
}

#[derive(serde::Deserialize)]
struct Vector {
    kind: String,
    certificate: String,
    certificate_text_sha256: String,
    certificate_der_sha256: String,
    payload: String,
    signature: String,
}

/// Made with openssl 3 from keys that were thrown away.
#[test]
fn signatures_of_other_implementations_are_accepted() {
    let text = include_str!("../tests/vectors/envelope.json");
    for vector in serde_json::from_str::<Vec<Vector>>(text).unwrap() {
        let cert = SigningCert::from_pem(vector.certificate.as_bytes()).unwrap();
        assert_eq!(hex::encode(cert.hash()), vector.certificate_text_sha256);
        let der = chain::pem::first_certificate(vector.certificate.as_bytes()).unwrap();
        assert_eq!(hex::encode(sha256(&der)), vector.certificate_der_sha256);
        for (algo, length) in [(1, 16), (2, 32)] {
            let mut container = AuthContainer {
                protected_payload: Some(AuthBody {
                    payload: vector.payload.clone().into_bytes(),
                }),
                algo,
                sender_cert_hash: cert.hash()[..length].to_vec(),
                signature_hash: hex::decode(&vector.signature).unwrap(),
                ..AuthContainer::default()
            };
            let opened = open(&container.encode_to_vec(), &cert).unwrap();
            assert_eq!(opened, vector.payload.as_bytes(), "{}", vector.kind);
            container.signature_hash[3] ^= 1;
            assert_eq!(
                open(&container.encode_to_vec(), &cert),
                Err(EnvelopeError::Signature)
            );
        }
    }
}

#[test]
fn what_we_send() {
    let signer = signer(1);
    let container = seal(&signer, Vec::new(), true).unwrap();
    assert_eq!(
        container.protected_payload,
        Some(AuthBody {
            payload: Vec::new()
        })
    );
    assert_eq!(container.algo, 2);
    assert_eq!(
        container.sender_cert_hash,
        sha256(signer.certificate().der())
    );
    assert_eq!(container.signature_hash.len(), 64);
    assert_eq!(
        STANDARD.decode(&container.sender_cert).unwrap(),
        signer.certificate().pem()
    );
    assert!(
        seal(&signer, Vec::new(), false)
            .unwrap()
            .sender_cert
            .is_empty()
    );
    // Present on the wire even when empty.
    let wire = container.encode_to_vec();
    assert_eq!(&wire[..2], [0x0a, 0]);
}

#[test]
fn every_way_to_be_wrong_has_its_name() {
    let (ours, other) = (signer(1), signer(2));
    let cert = seen_as_controller(&ours);
    let good = as_controller(&ours, b"message");
    assert_eq!(open(&good.encode_to_vec(), &cert).unwrap(), b"message");
    let with = |change: &dyn Fn(&mut AuthContainer)| {
        let mut container = good.clone();
        change(&mut container);
        open(&container.encode_to_vec(), &cert).unwrap_err()
    };
    let status = |change: &dyn Fn(&mut AuthContainer)| with(change).status();
    assert_eq!(
        status(&|c| c.sender_cert_hash.truncate(20)),
        SenderStatus::HashSizeError
    );
    assert_eq!(
        status(&|c| c.sender_cert_hash.clear()),
        SenderStatus::HashSizeError
    );
    assert_eq!(
        status(&|c| c.sender_cert_hash.truncate(16)),
        SenderStatus::HashSizeError
    );
    assert_eq!(status(&|c| c.algo = 0), SenderStatus::AlgoFail);
    assert_eq!(status(&|c| c.algo = 9), SenderStatus::AlgoFail);
    assert_eq!(
        status(&|c| c.sender_cert_hash[0] ^= 1),
        SenderStatus::CertMiss
    );
    // The hash of the DER is not the hash of the text.
    let der_hash = ours.certificate().der_hash().to_vec();
    assert_eq!(
        status(&|c| c.sender_cert_hash.clone_from(&der_hash)),
        SenderStatus::CertMiss
    );
    let foreign = as_controller(&other, b"message");
    assert_eq!(
        open(&foreign.encode_to_vec(), &cert).unwrap_err().status(),
        SenderStatus::CertMiss
    );
    assert_eq!(
        status(&|c| c.signature_hash.clone_from(&foreign.signature_hash)),
        SenderStatus::SignVerifyFail
    );
    assert_eq!(
        status(&|c| c.signature_hash.clear()),
        SenderStatus::SignVerifyFail
    );
    let changed = |c: &mut AuthContainer| {
        c.protected_payload = Some(AuthBody {
            payload: b"massage".to_vec(),
        });
    };
    assert_eq!(status(&changed), SenderStatus::SignVerifyFail);
    assert_eq!(
        with(&|c| c.protected_payload = None),
        EnvelopeError::NoPayload
    );
    assert_eq!(
        with(&|c| c.cipher_data = Some(api::common::CipherBlock::default())),
        EnvelopeError::Encrypted
    );
    assert!(matches!(
        open(b"<html>", &cert),
        Err(EnvelopeError::Malformed(_))
    ));
    // Controllers must send r || s, not DER.
    let der = Signature(good.signature_hash.clone().try_into().unwrap())
        .to_der()
        .unwrap();
    assert_eq!(
        status(&|c| c.signature_hash.clone_from(&der)),
        SenderStatus::SignVerifyFail
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn sealed_is_opened(payload: Vec<u8>) {
        let signer = signer(3);
        let container = as_controller(&signer, &payload);
        prop_assert_eq!(open(&container.encode_to_vec(), &seen_as_controller(&signer)).unwrap(), payload.clone());
        prop_assert_eq!(open_unverified(&container.encode_to_vec()).unwrap(), payload);
    }

    /// No flipped bit leads to another payload.
    #[test]
    fn a_flipped_bit_never_changes_the_payload(payload in proptest::collection::vec(any::<u8>(), 1..40), place: prop::sample::Index, bit in 0u8..8) {
        let signer = signer(3);
        let mut wire = as_controller(&signer, &payload).encode_to_vec();
        let place = place.index(wire.len());
        wire[place] ^= 1 << bit;
        if let Ok(opened) = open(&wire, &seen_as_controller(&signer)) {
            prop_assert_eq!(opened, payload);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = open(&bytes, &seen_as_controller(&signer(3)));
    }

    /// ASN.1 made by hand agrees with the library's, for the curve that both know.
    #[test]
    fn raw_to_der_agrees(r in 1u128.., s in 1u128.., zeros in 0usize..16) {
        let mut raw = [0u8; 64];
        raw[16 + zeros..32].copy_from_slice(&r.to_be_bytes()[zeros..]);
        raw[48..].copy_from_slice(&s.to_be_bytes());
        if let Ok(der) = Signature(raw).to_der() {
            prop_assert_eq!(raw_to_der(&raw), der);
        }
    }
}
