//! Measurements: who may come in with which, and what people are told of them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::Write as _;

use api::attest::{
    TpmHashAlgo, TpmPcrValue, ZAttestQuote, ZAttestReqType, ZAttestResponse, ZAttestResponseCode,
};
use api::certs::ZCertType;
use evc::admin::{Accept, Apply, Bind};
use evc::decide::attest::baseline::Comparison;
use evc::decide::attest::eventlog;
use sha2::{Digest as _, Sha256};
use support::{Device, World, attest, certs_request, signing_pem};
use tpm::{MemoryTpm, Pcr, SoftKey, Tpm as _};

/// A device with a TPM in memory that booted what its log says.
struct Chip {
    device: Device,
    tpm: MemoryTpm,
    log: Vec<u8>,
    quote_pem: String,
}

/// A log in the crypto agile format, of the SHA-256 bank alone.
fn log(events: &[(u32, u32, &str)]) -> Vec<u8> {
    let mut spec = b"Spec ID Event03\0".to_vec();
    spec.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    spec.extend(1_u32.to_le_bytes());
    spec.extend([0x0b, 0, 32, 0, 0]);
    let mut log = [0_u32.to_le_bytes(), 3_u32.to_le_bytes()].concat();
    log.extend([0; 20]);
    log.extend(u32::try_from(spec.len()).unwrap().to_le_bytes());
    log.extend(spec);
    for (pcr, kind, text) in events {
        for number in [*pcr, *kind, 1] {
            log.extend(number.to_le_bytes());
        }
        log.extend([0x0b, 0]);
        log.extend(Sha256::digest(text));
        log.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
        log.extend(text.as_bytes());
    }
    log
}

impl Chip {
    fn new(device: Device, seed: u8) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let quote_pem = device.identity.certify(&key);
        let soft = |n: u8| SoftKey::from_bytes(&[n; 32]).unwrap();
        let quote = SoftKey::from_pem(&key.serialize_pem()).unwrap();
        Self {
            device,
            tpm: MemoryTpm::new(soft(seed), soft(seed + 1), quote),
            log: Vec::new(),
            quote_pem,
        }
    }

    /// Boots: firmware, a bootloader, and a kernel with these parameters.
    fn boot(&mut self, firmware: &str, parameters: &str) {
        let parameters = format!("grub_cmd: linux /vmlinuz {parameters}");
        self.log = log(&[
            (0, 8, firmware),
            (4, 0x8000_0003, "shim"),
            (8, 0xd, &parameters),
            (9, 0xd, "/vmlinuz"),
        ]);
        let values = eventlog::parse(&self.log).unwrap().replay();
        let values = values.into_iter().map(|(n, v)| (Pcr::new(n).unwrap(), v));
        self.tpm.boot(&values.collect());
    }

    async fn shows(&self, world: &World, pem: &str, kind: ZCertType) -> u16 {
        let request = self.device.seal(&certs_request(pem, kind));
        world
            .post(&self.device.path("attest"), request)
            .await
            .status
    }

    /// Attests; whether it got a token.
    async fn attests(&self, world: &World, pem: &str) -> bool {
        let path = self.device.path("attest");
        let ask = attest(ZAttestReqType::AttestReqNonce);
        let nonce = world.post(&path, self.device.seal(&ask)).await;
        let nonce = nonce.opened::<ZAttestResponse>(pem).nonce.unwrap().nonce;
        let quoted = self.tpm.quote(&nonce, false).await.unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&self.log).unwrap();
        let mut request = attest(ZAttestReqType::AttestReqQuote);
        request.quote = Some(ZAttestQuote {
            attest_data: quoted.attest,
            signature: quoted.signature,
            pcr_values: quoted
                .pcrs
                .iter()
                .map(|(pcr, value)| TpmPcrValue {
                    index: pcr.index(),
                    hash_algo: TpmHashAlgo::Sha256.into(),
                    value: value.to_vec(),
                })
                .collect(),
            tpm_binary_event_log: gzip.finish().unwrap(),
            ..ZAttestQuote::default()
        });
        let reply = world.post(&path, self.device.seal(&request)).await;
        let answer = reply.opened::<ZAttestResponse>(pem).quote_resp.unwrap();
        let is_success = answer.response == i32::from(ZAttestResponseCode::Success);
        assert_eq!(is_success, !answer.integrity_token.is_empty());
        is_success
    }
}

async fn policy(world: &World, device: &str, measurements: &str) {
    let yaml = format!(
        "device: {device}\npolicy: {{measurements: {measurements}}}\n\
         labels: {{manufacturer: Acme, product: Box}}\n"
    );
    let apply = Apply {
        yaml,
        dry_run: false,
    };
    world.admin.apply(&apply).await.unwrap();
}

#[tokio::test]
async fn trust_attest_tells_what_changed_and_keeps_out_what_nobody_reviewed() {
    let world = World::new().await;
    let pem = signing_pem(&world).await;
    let quote_key = ZCertType::CertTypeDeviceRestrictedSigning;
    let mut one = Chip::new(world.onboarded("SN-1").await, 10);
    assert_eq!(one.shows(&world, &one.quote_pem, quote_key).await, 201);
    one.boot("BIOS 1", "quiet");
    let seen = async |device: &str| world.admin.attestation(device).await.unwrap();

    // By default it comes in, and people are told that nobody looked.
    assert!(one.attests(&world, &pem).await);
    assert!(seen("SN-1").await.note.contains("nobody has reviewed"));
    policy(&world, "SN-1", "enforce").await;
    assert!(!one.attests(&world, &pem).await);
    let view = seen("SN-1").await;
    assert_eq!(view.comparison, Some(Comparison::NoBaseline));
    let state = view.state.unwrap();
    assert_eq!(state.events[0].text, "BIOS 1");
    assert!(state.explained.contains(&8), "the log gives the values");

    // Reviewed for the model, it is for all of them.
    let accept = Accept {
        name: "1.0".to_owned(),
        model: true,
    };
    world.admin.accept("SN-1", &accept).await.unwrap();
    assert!(one.attests(&world, &pem).await);
    assert!(seen("SN-1").await.note.ends_with("as reviewed"));
    let mut two = Chip::new(world.onboarded("SN-2").await, 20);
    two.shows(&world, &two.quote_pem, quote_key).await;
    policy(&world, "SN-2", "enforce").await;
    two.boot("BIOS 1", "quiet");
    assert!(two.attests(&world, &pem).await);

    // Another kernel command line, and other firmware.
    two.boot("BIOS 2", "init=/bin/sh");
    assert!(!two.attests(&world, &pem).await);
    let view = seen("SN-2").await;
    let Some(Comparison::Changed(changes)) = &view.comparison else {
        panic!("{view:?}")
    };
    let named: Vec<_> = changes.iter().map(|c| (c.pcr, c.explained)).collect();
    assert_eq!(named, [(0, true), (8, true)]);
    assert!(changes[1].new[0].contains("init=/bin/sh"), "{changes:?}");
    assert!(view.note.contains("firmware (PCR 0)"), "{}", view.note);
    assert!(!view.note.contains('\n'));

    // It may be what was wanted: for this device alone.
    let accept = Accept::default();
    let accepted = world.admin.accept("SN-2", &accept).await.unwrap();
    assert!(two.attests(&world, &pem).await);
    one.boot("BIOS 2", "init=/bin/sh");
    assert!(!one.attests(&world, &pem).await);
    world.admin.forget_baseline(accepted.id).await.unwrap();
    assert!(!two.attests(&world, &pem).await);
    assert!(world.admin.forget_baseline(accepted.id).await.is_err());

    // A log that tells of something else explains nothing, and the values are what counts.
    two.boot("BIOS 1", "quiet");
    two.log = log(&[(0, 8, "BIOS 9")]);
    assert!(two.attests(&world, &pem).await, "the TPM's word is good");
    assert!(seen("SN-2").await.state.unwrap().explained.is_empty());
    world.end().await;
}

#[tokio::test]
async fn trust_onboarding_bound_to_a_tpm() {
    let world = World::new().await;
    let pem = signing_pem(&world).await;
    let (own, other) = (
        rcgen::KeyPair::generate().unwrap(),
        rcgen::KeyPair::generate().unwrap(),
    );
    let hash = hex::encode(Sha256::digest(
        rcgen::PublicKeyData::subject_public_key_info(&own),
    ));
    let mut admission = evc::admin::NewAdmission {
        serial: "SN-1".to_owned(),
        ek: Some(hash.clone()),
        ..evc::admin::NewAdmission::default()
    };
    world.admin.admit(&admission).await.unwrap();
    let mut device = Device::new("SN-1");
    let reply = world.post("register", device.register(&world.batch)).await;
    assert_eq!(reply.status, 201);
    device.uuid = world.admin.device("SN-1").await.unwrap().uuid;
    let mut chip = Chip::new(device, 10);
    chip.boot("BIOS 1", "quiet");
    let quote_key = ZCertType::CertTypeDeviceRestrictedSigning;
    chip.shows(&world, &chip.quote_pem, quote_key).await;
    let note = async || world.admin.attestation("SN-1").await.unwrap().note;

    assert!(!chip.attests(&world, &pem).await);
    assert!(note().await.contains("has not shown the endorsement key"));
    let endorsement = ZCertType::CertTypeDeviceEndorsementRsa;
    let foreign = chip.device.identity.certify(&other);
    assert_eq!(chip.shows(&world, &foreign, endorsement).await, 201);
    assert!(!chip.attests(&world, &pem).await);
    assert!(note().await.contains("another endorsement key"));
    let stranger = support::Identity::new();
    let unsigned = stranger.certify(&own);
    chip.shows(&world, &unsigned, endorsement).await;
    assert!(!chip.attests(&world, &pem).await);
    assert!(
        note()
            .await
            .contains("neither the device's key nor a known maker")
    );

    let mine = chip.device.identity.certify(&own);
    chip.shows(&world, &mine, endorsement).await;
    assert!(chip.attests(&world, &pem).await);
    let view = world.admin.attestation("SN-1").await.unwrap();
    assert_eq!(view.bound.as_ref(), Some(&hash));
    assert_eq!(
        view.endorsement.unwrap().vouched,
        "by the device's own key only"
    );

    // People bind and unbind.
    let bound = world.admin.bind("SN-1", &Bind::Shown).await.unwrap();
    assert_eq!(bound.bound, Some(hash));
    let none = world.admin.bind("SN-1", &Bind::None).await.unwrap();
    assert_eq!(none.bound, None);
    let bad = world.admin.bind("SN-1", &Bind::Key("xyz".to_owned())).await;
    assert!(bad.is_err());
    admission.serial = "*".to_owned();
    assert!(
        world.admin.admit(&admission).await.is_err(),
        "one key is one device's"
    );
    world.end().await;
}
