//! Which signatures count, by real certificates; and what is said of those that do not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests fail by panicking"
)]

use std::{path::PathBuf, sync::Arc, time::Duration};

use agent::{Jobs, Plan, Service as _, Turn};
use bus::Rows;
use chain::{Flaw, SigningRoots, When};
use jiff::{SignedDuration, Timestamp};
use model::{
    code::Code,
    content::{ContentTreeConfig, ImageSignature, SignatureStatus},
    id::{ContentTreeId, Digest},
    security::Octets,
    volume::ImageFormat,
};
use p256::{
    ecdsa::{Signature, SigningKey, signature::hazmat::PrehashSigner as _},
    pkcs8::DecodePrivateKey as _,
};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P384_SHA384,
};
use uuid::Uuid;
use verifier::{
    Actual, Desired, Verified, Verifier,
    signature::{SignatureError, judge},
};

const DAY: i64 = 86_400;

fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

struct Builder {
    pem: String,
    key: SigningKey,
}

fn params(name: &str, from_day: i64, to_day: i64) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let at = |day: i64| {
        time::OffsetDateTime::from_unix_timestamp(now().as_second() + day * DAY).unwrap()
    };
    (params.not_before, params.not_after) = (at(from_day), at(to_day));
    params
}

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = params(name, -100, 3650);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    fn below(&self, name: &str) -> Self {
        let mut params = params(name, -50, 1000);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    fn builder(&self, change: impl FnOnce(&mut CertificateParams)) -> Builder {
        let mut params = params("image builder", -10, 365);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Builder {
            pem: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: SigningKey::from_pkcs8_der(&key.serialize_der()).unwrap(),
        }
    }

    fn roots(&self) -> SigningRoots {
        SigningRoots::from_pem(self.pem.as_bytes()).unwrap()
    }
}

impl Builder {
    fn sign(&self, image: Digest) -> ImageSignature {
        let signature: Signature = self.key.sign_prehash(&image.0).unwrap();
        ImageSignature {
            signature: Octets(signature.to_der().as_bytes().to_vec()),
            signer_pem: self.pem.clone(),
            between_pem: String::new(),
        }
    }
}

const IMAGE: Digest = Digest([7; 32]);

#[test]
fn a_signer_below_the_root_vouches_for_the_image_that_was_signed() {
    let root = Ca::new("root");
    let builder = root.builder(|_| {});
    let good = builder.sign(IMAGE);
    let judged = |signature: &ImageSignature, image| {
        judge(signature, image, &root.roots(), When::from(now()))
    };
    assert_eq!(judged(&good, IMAGE).unwrap(), "CN=image builder");

    let mut raw = good.clone();
    raw.signature = Octets(
        Signature::from_der(&good.signature.0)
            .unwrap()
            .to_bytes()
            .to_vec(),
    );
    assert!(judged(&raw, IMAGE).is_ok(), "r || s");

    let error = judged(&good, Digest([8; 32])).unwrap_err();
    assert!(matches!(error, SignatureError::Wrong { .. }));
    assert_eq!(
        error.to_string(),
        "CN=image builder did not sign this image: it is another file, or another key"
    );
    let mut other_key = good.clone();
    other_key.signer_pem = root.builder(|_| {}).pem;
    assert!(matches!(
        judged(&other_key, IMAGE),
        Err(SignatureError::Wrong { .. })
    ));
    for garbage in [
        vec![],
        vec![0; 64],
        vec![0x30, 6, 2, 1, 0, 2, 1, 0],
        vec![1; 1024],
    ] {
        let mut bad = good.clone();
        bad.signature = Octets(garbage);
        let error = judged(&bad, IMAGE).unwrap_err();
        assert!(matches!(error, SignatureError::Form { .. }), "{error}");
    }
    for garbage in [
        "",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let mut bad = good.clone();
        garbage.clone_into(&mut bad.signer_pem);
        assert!(matches!(
            judged(&bad, IMAGE),
            Err(SignatureError::Signer(_))
        ));
    }
    let mut bad = good;
    bad.between_pem = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n".to_owned();
    assert!(matches!(
        judged(&bad, IMAGE),
        Err(SignatureError::Between(_))
    ));
}

#[test]
fn only_a_chain_for_signing_code_that_is_valid_now_leads_to_the_root() {
    let (root, stranger) = (Ca::new("root"), Ca::new("root"));
    let middle = root.below("builders");
    let flaw = |signature: &ImageSignature| {
        let verdict = judge(signature, IMAGE, &root.roots(), When::from(now()));
        verdict.map_err(|error| match error {
            SignatureError::Chain { error, .. } => error.flaw,
            other => panic!("{other}"),
        })
    };
    let mut through = middle.builder(|_| {}).sign(IMAGE);
    assert_eq!(
        flaw(&through),
        Err(Flaw::OtherRoot),
        "the one between is not there"
    );
    through.between_pem.clone_from(&middle.pem);
    assert!(flaw(&through).is_ok());
    assert_eq!(
        flaw(&stranger.builder(|_| {}).sign(IMAGE)),
        Err(Flaw::OtherRoot)
    );
    let of = |from, to| {
        root.builder(|p| {
            (p.not_before, p.not_after) = {
                let params = params("", from, to);
                (params.not_before, params.not_after)
            }
        })
    };
    assert_eq!(flaw(&of(-20, -1).sign(IMAGE)), Err(Flaw::Ended));
    assert_eq!(flaw(&of(1, 10).sign(IMAGE)), Err(Flaw::NotBegun));
    let used = |usage| {
        root.builder(|p| p.extended_key_usages = vec![usage])
            .sign(IMAGE)
    };
    assert!(flaw(&used(ExtendedKeyUsagePurpose::CodeSigning)).is_ok());
    let controller = used(ExtendedKeyUsagePurpose::ServerAuth);
    assert_eq!(
        flaw(&controller),
        Err(Flaw::Unsound),
        "the controller's own keys sign no images"
    );
}

#[test]
fn other_keys_than_p_256_are_named() {
    let root = Ca::new("root");
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let pem = params("big", -1, 10)
        .signed_by(&key, &root.issuer)
        .unwrap()
        .pem();
    let mut signature = root.builder(|_| {}).sign(IMAGE);
    signature.signer_pem = pem;
    let error = judge(&signature, IMAGE, &root.roots(), When::from(now())).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the key of CN=big is not on the curve P-256"
    );
}

fn tree(signature: Option<ImageSignature>) -> ContentTreeConfig {
    ContentTreeConfig {
        id: ContentTreeId(Uuid::from_u128(1)),
        display_name: "image".to_owned(),
        datastores: vec![],
        relative_url: "image.raw".to_owned(),
        format: ImageFormat::Raw,
        sha256: IMAGE,
        max_download_bytes: 0,
        signature,
        fault: None,
    }
}

/// A verifier from turn to turn.
#[derive(Default)]
struct Device {
    actual: Actual,
    judged: Rows<SignatureStatus>,
}

impl Device {
    fn turn(&mut self, tree: ContentTreeConfig, now: Timestamp) -> Plan<Verifier> {
        let desired = Desired {
            trees: Some(Arc::new(Rows::from([(tree.id.to_string(), tree)]))),
            judged: Arc::new(self.judged.clone()),
            ..Desired::default()
        };
        let plan = Verifier::plan(&Turn {
            desired: &desired,
            actual: &self.actual,
            jobs: &Jobs::default(),
            now,
            uptime: Duration::ZERO,
        });
        self.judged = plan.report.signatures.clone().unwrap();
        plan
    }

    fn row(&self) -> &SignatureStatus {
        self.judged.values().next().unwrap()
    }
}

#[test]
fn what_is_said_follows_the_config_and_mends_itself_when_only_time_was_missing() {
    let root = Ca::new("root");
    let builder = root.builder(|_| {});
    let mut device = Device::default();
    device.turn(tree(None), now());
    assert!(device.judged.is_empty(), "an image need not be signed");

    let plan = device.turn(tree(Some(builder.sign(IMAGE))), now());
    let fault = device.row().fault.clone().unwrap();
    assert_eq!((fault.code, fault.transient), (Code::VerifySignature, true));
    assert!(
        fault.text.contains("root-certificate.pem"),
        "{}",
        fault.text
    );
    assert!(plan.wake.unwrap() <= Duration::from_mins(1));
    let again = now() + SignedDuration::from_secs(60);
    device.turn(tree(Some(builder.sign(IMAGE))), again);
    assert_eq!(
        device.row().fault.as_ref().unwrap().since,
        now(),
        "the row stays as it is"
    );

    device.actual.roots_pem = Some(root.pem.as_bytes().to_vec());
    let signed = tree(Some(builder.sign(IMAGE)));
    device.turn(signed.clone(), now());
    assert_eq!(device.row().signer.as_deref(), Some("CN=image builder"));
    assert_eq!(device.row().fault, None);
    assert!(device.row().is_of(&signed));

    // The config changes: it is judged anew.
    let wrong = tree(Some(builder.sign(Digest([8; 32]))));
    let plan = device.turn(wrong.clone(), now());
    let fault = device.row().fault.clone().unwrap();
    assert!(device.row().is_of(&wrong) && !fault.transient);
    assert_eq!(plan.wake, None, "time does not mend it");
}

#[test]
fn a_certificate_that_ended_since_takes_nothing_away_from_what_was_verified() {
    let root = Ca::new("root");
    let signed = tree(Some(root.builder(|_| {}).sign(IMAGE)));
    let later = now() + SignedDuration::from_hours(24 * 400);
    let mut device = Device::default();
    device.actual.roots_pem = Some(root.pem.as_bytes().to_vec());
    device.turn(signed.clone(), later);
    let fault = device.row().fault.clone().unwrap();
    assert!(
        fault
            .text
            .starts_with("the certificate of CN=image builder has ended"),
        "{}",
        fault.text
    );
    let file = Verified {
        path: PathBuf::from("/v"),
        size_bytes: 10,
    };
    device.actual.verified.insert(IMAGE, file);
    device.turn(signed, later);
    assert_eq!(device.row().fault, None);
}

#[test]
fn a_clock_that_was_never_set_refuses_no_signature_for_its_date() {
    let root = Ca::new("root");
    let mut device = Device::default();
    device.actual.roots_pem = Some(root.pem.as_bytes().to_vec());
    device.turn(
        tree(Some(root.builder(|_| {}).sign(IMAGE))),
        Timestamp::UNIX_EPOCH,
    );
    assert_eq!(device.row().fault, None);
}

proptest! {
    #[test]
    fn nothing_but_the_signature_is_good(bytes in prop::collection::vec(any::<u8>(), 0..200), pem in ".{0,200}") {
        static ROOT: std::sync::LazyLock<(SigningRoots, ImageSignature)> = std::sync::LazyLock::new(|| {
            let root = Ca::new("root");
            (root.roots(), root.builder(|_| {}).sign(IMAGE))
        });
        let (roots, good) = &*ROOT;
        let mut bad = good.clone();
        bad.signature = Octets(bytes);
        prop_assert!(judge(&bad, IMAGE, roots, When::from(now())).is_err());
        let mut bad = good.clone();
        bad.signer_pem = pem;
        prop_assert!(judge(&bad, IMAGE, roots, When::from(now())).is_err());
    }
}
