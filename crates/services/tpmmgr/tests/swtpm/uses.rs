//! What the TPM does for others.

use p256::ecdsa::signature::hazmat::PrehashVerifier;
use p256::ecdsa::{Signature, VerifyingKey};
use sha2::{Digest as _, Sha256};
use tpm::{
    CertificateKind, Key, PCRS_QUOTED, Pcr, PcrSelection, PcrValues, SoftKey, Tpm as _, TpmError,
    extended, identity::certified_point,
};

use crate::chip::Swtpm;
use crate::device::{Device, with_tpm};

fn pcr(index: u32) -> Pcr {
    Pcr::new(index).unwrap()
}

#[tokio::test]
async fn the_device_key_signs_and_its_certificate_proves_it() {
    with_tpm(async |device, _| {
        let client = device.client();
        let found = client.describe().await.unwrap();
        let pem = &found.certificate(CertificateKind::Device).unwrap().pem;
        let key = VerifyingKey::from_sec1_bytes(&certified_point(pem).unwrap()).unwrap();
        for digest in [[0; 32], [1; 32], [0xff; 32]] {
            let signature = client.sign(Key::Device, digest).await.unwrap();
            let signature = Signature::from_slice(&signature.0).unwrap();
            key.verify_prehash(&digest, &signature).unwrap();
        }
        let missing = client.sign(Key::Onboarding, [1; 32]).await;
        assert!(matches!(missing, Err(TpmError::NotFound { .. })));
    })
    .await;
}

#[tokio::test]
async fn both_sides_of_an_exchange_have_the_same_point() {
    with_tpm(async |device, _| {
        let client = device.client();
        let found = client.describe().await.unwrap();
        let pem = &found.certificate(CertificateKind::Ecdh).unwrap().pem;
        let ours = certified_point(pem).unwrap();
        for seed in 1..20 {
            let peer = SoftKey::from_bytes(&[seed; 32]).unwrap();
            let shared = client.ecdh(&peer.point()).await.unwrap();
            assert_eq!(shared, peer.ecdh(&ours).unwrap());
        }
        for bad in [&[][..], &[4; 65], &[0], &ours[..64]] {
            let refused = client.ecdh(bad).await;
            assert!(
                matches!(refused, Err(TpmError::Invalid { .. })),
                "{refused:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn its_quotes_are_signed_by_the_quote_key_and_say_what_the_pcrs_are() {
    with_tpm(async |device, _| {
        let client = device.client();
        client.extend_pcr(pcr(14), [9; 32]).await.unwrap();
        let nonce = [5; 32];
        let quote = client.quote(&nonce, true).await.unwrap();
        assert_eq!(quote.pcrs.len(), 16);
        assert_eq!(quote.pcrs[&pcr(14)], extended([0; 32], [9; 32]));
        let found = client.describe().await.unwrap();
        let pem = &found.certificate(CertificateKind::Quote).unwrap().pem;
        let key = VerifyingKey::from_sec1_bytes(&certified_point(pem).unwrap()).unwrap();
        let digest = Sha256::digest(&quote.attest);
        let signature = Signature::from_der(&quote.signature).unwrap();
        key.verify_prehash(&digest, &signature).unwrap();
        let holds = |part: &[u8]| quote.attest.windows(part.len()).any(|found| found == part);
        let values: Vec<u8> = quote.pcrs.values().flatten().copied().collect();
        assert!(holds(&nonce) && holds(&Sha256::digest(values)));
        for bad in [&[][..], &[1; 33]] {
            let refused = client.quote(bad, false).await;
            assert!(matches!(refused, Err(TpmError::Invalid { .. })));
        }
    })
    .await;
}

#[tokio::test]
async fn a_secret_opens_now_and_after_the_expected_update_only() {
    with_tpm(async |device, tpm| {
        let client = device.client();
        let pcrs: PcrSelection = (0..15).filter(|i| *i != 5).map(pcr).collect();
        let secret = [7; 32];
        client.seal("vault", &secret, pcrs, &[]).await.unwrap();
        let out = client.unseal("vault").await.unwrap();
        assert_eq!((&out.secret[..], out.matched), (&secret[..], 0));
        // Not of those that count.
        client.extend_pcr(pcr(5), [1; 32]).await.unwrap();
        client.unseal("vault").await.unwrap();

        // The next image's measurement is known before it runs.
        let next = [3; 32];
        let future: PcrValues = [(pcr(13), extended([0; 32], next))].into();
        client
            .seal("vault", &secret, pcrs, std::slice::from_ref(&future))
            .await
            .unwrap();
        assert_eq!(client.unseal("vault").await.unwrap().matched, 0);
        client.extend_pcr(pcr(13), next).await.unwrap();
        let out = client.unseal("vault").await.unwrap();
        assert_eq!((&out.secret[..], out.matched), (&secret[..], 1));
        let slot = client.inspect("vault").await.unwrap().unwrap();
        assert_eq!((slot.pcrs, slot.alternatives.len()), (pcrs, 2));
        assert_eq!(slot.alternatives[1][&pcr(13)], future[&pcr(13)]);

        // Something that nobody expected.
        client.extend_pcr(pcr(8), [4; 32]).await.unwrap();
        let differ = TpmError::Mismatch {
            pcrs: vec![pcr(8), pcr(13)],
        };
        assert_eq!(client.unseal("vault").await, Err(differ));
        // A boot.
        tpm.kill();
        tpm.start();
        assert_eq!(client.unseal("vault").await.unwrap().matched, 0);
        client.erase("vault").await.unwrap();
        assert_eq!(client.inspect("vault").await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn whoever_edits_the_record_of_a_seal_gains_nothing() {
    with_tpm(async |device, _| {
        let client = device.client();
        let pcrs: PcrSelection = [pcr(0), pcr(7)].into_iter().collect();
        client.seal("vault", b"secret", pcrs, &[]).await.unwrap();
        client.extend_pcr(pcr(7), [1; 32]).await.unwrap();
        // The record claims that the secret is sealed to what the PCRs are now.
        let now = client.read_pcrs(pcrs).await.unwrap();
        let path = device.path("persist/tpmmgr/sealed/vault.json");
        let mut record: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        record["alternatives"][0]["7"] = hex::encode(now[&pcr(7)]).into();
        std::fs::write(&path, record.to_string()).unwrap();
        let refused = client.unseal("vault").await;
        assert!(
            matches!(refused, Err(TpmError::Failed { .. })),
            "{refused:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    with_tpm(async |device, _| {
        let client = device.client();
        let some: PcrSelection = [pcr(0)].into_iter().collect();
        let none = PcrSelection::default();
        let foreign: PcrValues = [(pcr(9), [0; 32])].into();
        let eight = vec![PcrValues::new(); 8];
        for refused in [
            client.seal("vault", b"", some, &[]).await,
            client.seal("vault", &[1; 129], some, &[]).await,
            client.seal("vault", b"x", none, &[]).await,
            client.seal("vault", b"x", some, &eight).await,
            client.seal("vault", b"x", some, &[foreign]).await,
            client.seal("../vault", b"x", some, &[]).await,
            client.erase("Vault").await,
            client.write_nv(0x0180_0000, b"").await,
            client.write_nv(0x0180_0000, &[1; 5000]).await,
            client.write_nv(0x8100_0001, b"x").await,
            // The mirror of the device's certificate.
            client.write_nv(0x0150_0000, b"x").await,
        ] {
            assert!(
                matches!(refused, Err(TpmError::Invalid { .. })),
                "{refused:?}"
            );
        }
        client
            .seal("vault", &[1; 128], some, &vec![PcrValues::new(); 7])
            .await
            .unwrap();
        assert_eq!(client.unseal("vault").await.unwrap().secret.len(), 128);
    })
    .await;
}

#[tokio::test]
async fn nv_memory_keeps_what_it_is_given() {
    with_tpm(async |device, tpm| {
        let client = device.client();
        let index = 0x0180_0001;
        assert_eq!(client.read_nv(index).await.unwrap(), None);
        for size in [1, 511, 512, 513, 1500, 32] {
            let data: Vec<u8> = (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect();
            client.write_nv(index, &data).await.unwrap();
            assert_eq!(client.read_nv(index).await.unwrap(), Some(data));
        }
        tpm.kill();
        tpm.start();
        assert_eq!(client.read_nv(index).await.unwrap().unwrap().len(), 32);
    })
    .await;
}

#[tokio::test]
async fn a_thousand_operations_lose_none_of_the_tpms_slots() {
    with_tpm(async |device, tpm| {
        let client = device.client();
        let pcrs: PcrSelection = [pcr(0), pcr(7)].into_iter().collect();
        let peer = SoftKey::from_bytes(&[9; 32]).unwrap().point();
        client.seal("vault", b"secret", pcrs, &[]).await.unwrap();
        for _ in 0..125 {
            client.sign(Key::Device, [1; 32]).await.unwrap();
            client.ecdh(&peer).await.unwrap();
            client.quote(&[1; 16], false).await.unwrap();
            client.unseal("vault").await.unwrap();
            client
                .seal("vault-next", b"secret", pcrs, &[])
                .await
                .unwrap();
            client.read_pcrs(PCRS_QUOTED).await.unwrap();
            client.write_nv(0x0180_0000, &[1; 32]).await.unwrap();
            client.read_nv(0x0180_0000).await.unwrap();
        }
        // Failures lose none either.
        client.extend_pcr(pcr(7), [1; 32]).await.unwrap();
        for _ in 0..10 {
            assert!(client.unseal("vault").await.is_err());
        }
        for kind in ["handles-loaded-session", "handles-transient"] {
            let (done, text) = tpm.tool("tpm2_getcap", &[kind]);
            assert!(done && text.trim().is_empty(), "{kind}: {text}");
        }
    })
    .await;
}

#[tokio::test]
async fn config_is_measured_once_a_boot_and_again_after_a_reset_of_the_tpm() {
    let (device, mut tpm) = (Device::new(), Swtpm::new());
    let tcti = tpm.tcti();
    std::fs::write(device.path("config/server"), "evc.example\n").unwrap();
    let value = async || {
        device.healthy().await;
        let pcr = Pcr::new(14).unwrap();
        let client = device.client();
        let log = client.quote(&[1; 32], true).await.unwrap().event_log;
        assert!(log.ends_with(b"CONFIG server"), "{log:?}");
        client.read_pcrs([pcr].into_iter().collect()).await.unwrap()[&pcr]
    };
    let first = device.live(&tcti, value()).await;
    assert_ne!(first, [0; 32]);
    // Another life of the service, another CONFIG meanwhile: it counts from the next boot on.
    std::fs::write(device.path("config/server"), "evc.elsewhere\n").unwrap();
    assert_eq!(device.live(&tcti, value()).await, first);
    // The same boot, the TPM alone began anew.
    tpm.kill();
    tpm.start();
    assert_eq!(device.live(&tcti, value()).await, first);
    // A boot.
    std::fs::remove_file(device.path("run/tpmmgr/measured.json")).unwrap();
    tpm.kill();
    tpm.start();
    assert_ne!(device.live(&tcti, value()).await, first);
}
