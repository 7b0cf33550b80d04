//! Who the device is, and that it stays so.

use std::fs;

use model::security::{EdgeNodeCertKind, KeyKeeper};
use tpm::{CertificateKind, Keeper, Key, SoftKey, Tpm as _, TpmError, TroubleKind};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::chip::Swtpm;
use crate::device::{Device, read, with_tpm};

const CERT: &str = "config/device.cert.pem";

fn der(pem: &[u8]) -> Vec<u8> {
    x509_parser::pem::parse_x509_pem(pem).unwrap().1.contents
}

#[tokio::test]
async fn the_first_boot_makes_keys_in_the_tpm_and_no_file_of_them() {
    with_tpm(async |device, tpm| {
        assert!(!device.path("config/device.key.pem").exists());
        let status = device.status();
        assert_eq!((status.keeper, &status.fault), (KeyKeeper::Tpm, &None));
        assert!(status.vendor.contains("SW"), "{status:?}");
        let device_der = der(&read(&device.path(CERT)));
        let (_, own) = X509Certificate::from_der(&device_der).unwrap();
        own.verify_signature(None).unwrap();
        let certs = device.certs();
        assert_eq!(certs.len(), 3);
        for cert in certs {
            assert!(cert.is_tpm);
            let has_area = cert.kind == EdgeNodeCertKind::Endorsement;
            assert_eq!(!cert.public_area.is_empty(), has_area);
            let cert = der(cert.pem.as_bytes());
            let (_, cert) = X509Certificate::from_der(&cert).unwrap();
            cert.verify_signature(Some(own.public_key())).unwrap();
        }
        let (_, handles) = tpm.tool("tpm2_getcap", &["handles-persistent"]);
        for handle in [
            "0x817FFFFF",
            "0x81000001",
            "0x81000002",
            "0x81000003",
            "0x81000005",
        ] {
            assert!(handles.contains(handle), "{handle}: {handles}");
        }
        // The chip refuses to give it to another parent.
        let (_, public) = tpm.tool("tpm2_readpublic", &["-c", "0x817FFFFF"]);
        assert!(
            public.contains("fixedtpm|fixedparent|sensitivedataorigin"),
            "{public}"
        );
        let (_, mirror) = tpm.tool("tpm2_nvread", &["-C", "o", "0x1500000"]);
        assert!(mirror.contains("BEGIN CERTIFICATE"), "{mirror}");
    })
    .await;
}

#[tokio::test]
async fn a_wiped_config_partition_gets_the_same_identity_back() {
    let (device, tpm) = (Device::new(), Swtpm::new());
    let tcti = tpm.tcti();
    let first = device.live(&tcti, device.healthy()).await;
    let cert = read(&device.path(CERT));
    let further = device.certs();
    // CONFIG alone, and then with the disk: installed anew.
    for dirs in [&["config"][..], &["config", "persist"]] {
        for dir in dirs {
            let _ = fs::remove_dir_all(device.path(dir));
            fs::create_dir(device.path(dir)).unwrap();
        }
        let again = device.live(&tcti, device.healthy()).await;
        assert_eq!(read(&device.path(CERT)), cert);
        let own = |d: &tpm::Description| d.certificate(CertificateKind::Device).cloned();
        assert_eq!(own(&again), own(&first));
    }
    // The further certificates are new with a new disk, and of the same keys.
    let points = |certs: &[model::security::EdgeNodeCert]| {
        let mut points: Vec<_> = certs
            .iter()
            .map(|c| tpm::identity::certified_point(c.pem.as_bytes()).unwrap())
            .collect();
        points.sort();
        points
    };
    assert_eq!(points(&device.certs()), points(&further));
}

#[tokio::test]
async fn a_lost_handle_is_made_again_with_the_same_key() {
    let (device, tpm) = (Device::new(), Swtpm::new());
    let tcti = tpm.tcti();
    device.live(&tcti, device.healthy()).await;
    let certs = device.certs();
    for handle in ["0x817FFFFF", "0x81000005"] {
        let (done, text) = tpm.tool("tpm2_evictcontrol", &["-C", "o", "-c", handle]);
        assert!(done, "{text}");
    }
    device.live(&tcti, device.healthy()).await;
    assert_eq!(device.certs(), certs);
}

#[tokio::test]
async fn a_cleared_tpm_is_not_this_devices_and_nothing_is_overwritten() {
    let (device, tpm) = (Device::new(), Swtpm::new());
    let tcti = tpm.tcti();
    device.live(&tcti, device.healthy()).await;
    let cert = read(&device.path(CERT));
    let (done, text) = tpm.tool("tpm2_clear", &["-c", "p"]);
    assert!(done, "{text}");
    device
        .live(&tcti, async {
            let is_keys = |d: &tpm::Description| {
                d.trouble
                    .as_ref()
                    .is_some_and(|t| t.kind == TroubleKind::Keys)
            };
            let found = device.until(is_keys).await;
            assert_eq!(found.keeper, Keeper::Tpm);
            let refused = device.client().sign(Key::Device, [1; 32]).await;
            assert!(matches!(refused, Err(TpmError::Trouble(_))), "{refused:?}");
        })
        .await;
    assert_eq!(read(&device.path(CERT)), cert);
    assert!(!device.path("config/device.key.pem").exists());
    let fault = device.status().fault.unwrap();
    assert_eq!(fault.code, model::code::Code::TpmKeys);
    let (_, handles) = tpm.tool("tpm2_getcap", &["handles-persistent"]);
    assert!(!handles.contains("0x817FFFFF"), "{handles}");
}

#[tokio::test]
async fn without_a_tpm_a_file_serves_only_where_the_device_was_installed_so() {
    const NONE: &str = "device:/nowhere/tpmrm0";
    let is_missing = |d: &tpm::Description| {
        d.trouble
            .as_ref()
            .is_some_and(|t| t.kind == TroubleKind::Missing)
    };
    let device = Device::new();
    device
        .live(NONE, async {
            device.until(is_missing).await;
            assert!(device.client().sign(Key::Device, [1; 32]).await.is_err());
        })
        .await;
    assert!(!device.path("config/device.key.pem").exists());

    fs::write(device.path("config/soft_key"), "").unwrap();
    device
        .live(NONE, async {
            let found = device.healthy().await;
            assert_eq!(found.keeper, Keeper::Software);
            let client = device.client();
            client.sign(Key::Device, [1; 32]).await.unwrap();
            let peer = SoftKey::from_bytes(&[3; 32]).unwrap();
            let ecdh = &found.certificate(CertificateKind::Ecdh).unwrap().pem;
            let ours = tpm::identity::certified_point(ecdh).unwrap();
            let shared = client.ecdh(&peer.point()).await.unwrap();
            assert_eq!(shared, peer.ecdh(&ours).unwrap());
            assert_eq!(client.quote(&[1; 16], false).await, Err(TpmError::NeedsTpm));
            assert_eq!(client.unseal("vault").await, Err(TpmError::NeedsTpm));
        })
        .await;
    assert_eq!(device.status().keeper, KeyKeeper::Software);
    assert_eq!(device.certs().len(), 1);

    // A TPM that appears is not used, and said to be there.
    let tpm = Swtpm::new();
    let tcti = tpm.tcti();
    let found = device.live(&tcti, device.healthy()).await;
    assert_eq!(found.keeper, Keeper::Software);
    assert!(device.status().unused_tpm);
}

#[tokio::test]
async fn a_device_that_used_a_tpm_never_takes_a_file() {
    let (device, tpm) = (Device::new(), Swtpm::new());
    let tcti = tpm.tcti();
    device.live(&tcti, device.healthy()).await;
    drop(tpm);
    // Somebody takes the chip out and adds what a device without one has.
    let key = SoftKey::from_bytes(&[3; 32]).unwrap();
    fs::write(device.path("config/soft_key"), "").unwrap();
    fs::write(
        device.path("config/device.key.pem"),
        &*key.to_pem().unwrap(),
    )
    .unwrap();
    device
        .live("device:/nowhere/tpmrm0", async {
            let is_missing = |d: &tpm::Description| {
                d.trouble
                    .as_ref()
                    .is_some_and(|t| t.kind == TroubleKind::Missing)
            };
            let found = device.until(is_missing).await;
            assert_eq!(found.keeper, Keeper::Tpm);
            assert!(device.client().sign(Key::Device, [1; 32]).await.is_err());
        })
        .await;
    let status = device.status();
    assert_eq!(status.keeper, KeyKeeper::Tpm);
    assert!(status.maintenance.is_some());
}
