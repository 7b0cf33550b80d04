//! The reference vectors, and what must hold for all keys and blocks.
#![allow(clippy::unwrap_used)]

use cipher::{BlockError, CurveError, Key, PeerKey, SharedPoint, agree};
use model::id::Digest;
use p256::SecretKey;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Vector {
    aes256_key: String,
    #[serde(rename = "cipherData")]
    cipher_data: String,
    #[serde(rename = "clearTextSha256")]
    clear_text_sha256: String,
    controller_priv: String,
    controller_pub_xy: String,
    device_priv: String,
    device_pub_xy: String,
    #[serde(rename = "initialValue")]
    initial_value: String,
    note: String,
    plaintext: String,
    shared_x: String,
    shared_y: String,
}

fn vectors() -> Vec<Vector> {
    serde_json::from_str(include_str!("ecdh-vectors.json")).unwrap()
}

fn bytes(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

fn secret(text: &str) -> SecretKey {
    SecretKey::from_slice(&bytes(text)).unwrap()
}

fn peer(xy: &str) -> PeerKey {
    PeerKey::from_sec1(&[vec![4], bytes(xy)].concat()).unwrap()
}

#[test]
fn the_reference_vectors_hold_on_both_sides() {
    let vectors = vectors();
    let notes: Vec<&str> = vectors.iter().map(|v| v.note.as_str()).collect();
    assert!(notes.iter().any(|n| n.contains("X has a leading zero")));
    assert!(notes.iter().any(|n| n.contains("Y has a leading zero")));
    for v in vectors {
        let device = agree(&secret(&v.device_priv), &peer(&v.controller_pub_xy)).unwrap();
        let controller = agree(&secret(&v.controller_priv), &peer(&v.device_pub_xy)).unwrap();
        assert_eq!(device, controller);
        let trim = |text: &str| -> Vec<u8> {
            let long = bytes(text);
            long.iter().copied().skip_while(|b| *b == 0).collect()
        };
        let told = SharedPoint::from_coordinates(&trim(&v.shared_x), &trim(&v.shared_y));
        assert_eq!(Some(&device), told.as_ref(), "a TPM leaves zeros out");
        let key = Key::derive(&device);
        assert_eq!(key.bytes()[..], bytes(&v.aes256_key));
        let digest: Digest = v.clear_text_sha256.parse().unwrap();
        let iv: [u8; 16] = bytes(&v.initial_value).try_into().unwrap();
        let clear = key.decrypt(&iv, &bytes(&v.cipher_data), &digest).unwrap();
        assert_eq!(*clear, bytes(&v.plaintext));
        let sealed = key.encrypt(&iv, &clear);
        assert_eq!(
            (sealed.data, sealed.digest),
            (bytes(&v.cipher_data), digest)
        );
    }
}

#[test]
fn another_curve_and_made_up_points_are_refused() {
    let certificate = |algorithm: &'static rcgen::SignatureAlgorithm| {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.self_signed(&key).unwrap().pem()
    };
    let good = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
    PeerKey::from_certificate(good.as_bytes()).unwrap();
    for other in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let refused = PeerKey::from_certificate(certificate(other).as_bytes());
        assert!(matches!(refused, Err(CurveError::Kind(_))), "{refused:?}");
    }
    assert!(matches!(
        PeerKey::from_certificate(b"no certificate"),
        Err(CurveError::Certificate(_))
    ));
    let mut off = peer(&vectors()[0].device_pub_xy).sec1().to_vec();
    off[64] ^= 1;
    for bad in [&off[..], &[0], &[4; 65], &[], &[2; 33][..5]] {
        assert_eq!(PeerKey::from_sec1(bad), Err(CurveError::Point), "{bad:?}");
    }
    assert_eq!(SharedPoint::from_coordinates(&[1; 33], &[1]), None);
}

#[test]
fn secrets_are_not_shown() {
    let point = SharedPoint::new([0x41; 32], [0x42; 32]);
    let shown = format!("{point:?} {:?}", Key::derive(&point));
    assert_eq!(shown, "SharedPoint(***) Key(***)");
}

proptest! {
    #[test]
    fn what_is_encrypted_comes_back_and_every_change_is_found(
        d in prop::array::uniform32(1_u8..), q in prop::array::uniform32(1_u8..),
        iv in prop::array::uniform16(any::<u8>()),
        clear in prop::collection::vec(any::<u8>(), 1..200),
        at in any::<prop::sample::Index>(), flip in 1_u8..,
    ) {
        let (Ok(d), Ok(q)) = (SecretKey::from_slice(&d), SecretKey::from_slice(&q)) else {
            return Ok(());
        };
        let point = |key: &SecretKey| {
            PeerKey::from_sec1(key.public_key().to_encoded_point(true).as_bytes()).unwrap()
        };
        let key = Key::derive(&agree(&d, &point(&q)).unwrap());
        prop_assert_eq!(&key, &Key::derive(&agree(&q, &point(&d)).unwrap()));
        let sealed = key.encrypt(&iv, &clear);
        prop_assert_eq!(sealed.data.len(), clear.len());
        let opened = key.decrypt(&iv, &sealed.data, &sealed.digest).unwrap();
        prop_assert_eq!(&*opened, &clear);

        let mut data = sealed.data.clone();
        data[at.index(clear.len())] ^= flip;
        prop_assert_eq!(key.decrypt(&iv, &data, &sealed.digest), Err(BlockError::Digest));
        let mut digest = sealed.digest;
        digest.0[at.index(32)] ^= flip;
        prop_assert_eq!(key.decrypt(&iv, &sealed.data, &digest), Err(BlockError::Digest));
        let mut other = iv;
        other[at.index(16)] ^= flip;
        prop_assert_eq!(key.decrypt(&other, &sealed.data, &sealed.digest), Err(BlockError::Digest));
    }

    #[test]
    fn no_block_panics(
        iv in prop::collection::vec(any::<u8>(), 0..40),
        data in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let key = Key::derive(&SharedPoint::new([1; 32], [2; 32]));
        let result = key.decrypt(&iv, &data, &Digest([0; 32]));
        match (iv.len(), data.len()) {
            (16, 0) => prop_assert_eq!(result, Err(BlockError::Empty)),
            (16, _) => prop_assert_eq!(result, Err(BlockError::Digest)),
            (n, _) => prop_assert_eq!(result, Err(BlockError::InitialValue(n))),
        }
    }
}
