#![allow(clippy::unwrap_used, clippy::expect_used)]
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;

/// Predictable bytes.
fn counting(start: u8) -> impl FnMut(&mut [u8]) -> Result<(), NoRandomness> {
    let mut next = start;
    move |buffer: &mut [u8]| {
        for byte in buffer {
            *byte = next;
            next = next.wrapping_add(1);
        }
        Ok(())
    }
}

fn now() -> Timestamp {
    "2026-03-01T12:00:00.5Z".parse().unwrap()
}

#[test]
fn the_certificate_is_what_controllers_expect() {
    let made = generate(now(), &mut counting(1)).unwrap();
    let (_, block) = x509_parser::pem::parse_x509_pem(made.cert_pem.as_bytes()).unwrap();
    let (_, cert) = X509Certificate::from_der(&block.contents).unwrap();
    let key = SoftKey::from_pem(&made.key_pem).unwrap();
    assert_eq!(
        certified_point(made.cert_pem.as_bytes()).unwrap(),
        key.point()
    );
    let time = |text: &str| text.parse::<Timestamp>().unwrap().as_second();
    assert_eq!(
        cert.validity().not_before.timestamp(),
        time("2026-02-28T12:00:00Z")
    );
    assert_eq!(
        cert.validity().not_after.timestamp(),
        time("2046-02-28T12:00:00Z")
    );
    assert_eq!(cert.subject().to_string(), "O=The Linux Foundation, CN=EVE");
    assert_eq!(cert.issuer().to_string(), cert.subject().to_string());
    assert!(cert.is_ca());
    let usage = cert.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.key_cert_sign());
    let extended = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && extended.server_auth && !extended.any);
    assert!(cert.raw_serial()[0] < 0x80);
    cert.verify_signature(None).unwrap();
    assert!(made.key_pem.starts_with("-----BEGIN EC PRIVATE KEY-----"));
    assert!(made.cert_pem.ends_with("-----END CERTIFICATE-----\n"));
    assert!(!made.cert_pem.contains('\r'));
}

#[test]
fn the_same_randomness_and_time_make_the_same_identity() {
    let make = |start| generate(now(), &mut counting(start)).unwrap();
    assert!(make(1) == make(1));
    assert!(make(1).key_pem != make(2).key_pem);
}

#[test]
fn bytes_that_are_no_key_are_drawn_again() {
    let mut first = true;
    let mut random = move |buffer: &mut [u8]| {
        // All ones is beyond the order of the group.
        buffer.fill(if first { 0xff } else { 7 });
        first = false;
        Ok(())
    };
    generate(now(), &mut random).unwrap();
    let mut none = |_: &mut [u8]| Err(NoRandomness);
    assert!(matches!(
        generate(now(), &mut none),
        Err(IdentityError::Random(_))
    ));
}

#[test]
fn an_identity_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let (first, made) = load_or_create(dir.path(), now(), &mut counting(1)).unwrap();
    assert!(made);
    let (second, made) = load_or_create(dir.path(), now(), &mut counting(99)).unwrap();
    assert!(!made);
    assert_eq!(first.cert_pem, second.cert_pem);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(dir.path().join(KEY_FILE))
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn a_power_cut_between_the_files_keeps_the_key() {
    let dir = tempfile::tempdir().unwrap();
    load_or_create(dir.path(), now(), &mut counting(1)).unwrap();
    let key = std::fs::read(dir.path().join(KEY_FILE)).unwrap();
    std::fs::remove_file(dir.path().join(CERT_FILE)).unwrap();
    let (identity, made) = load_or_create(dir.path(), now(), &mut counting(50)).unwrap();
    assert!(made);
    assert_eq!(std::fs::read(dir.path().join(KEY_FILE)).unwrap(), key);
    identity.key.sign(&[7; 32]).unwrap();
}

#[test]
fn what_is_broken_is_said_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    load_or_create(dir.path(), now(), &mut counting(1)).unwrap();
    let other = generate(now(), &mut counting(77)).unwrap();
    std::fs::write(dir.path().join(KEY_FILE), &other.key_pem).unwrap();
    let mismatch = load_or_create(dir.path(), now(), &mut counting(1)).unwrap_err();
    assert!(matches!(
        &mismatch,
        IdentityError::Stored {
            source: StoredError::Mismatch,
            ..
        }
    ));
    std::fs::write(dir.path().join(KEY_FILE), "rubbish").unwrap();
    let garbage = load_or_create(dir.path(), now(), &mut counting(1)).unwrap_err();
    assert!(matches!(
        &garbage,
        IdentityError::Stored {
            source: StoredError::Key(_),
            ..
        }
    ));
    std::fs::remove_file(dir.path().join(CERT_FILE)).unwrap();
    let garbage = load_or_create(dir.path(), now(), &mut counting(1)).unwrap_err();
    assert!(matches!(
        &garbage,
        IdentityError::Stored {
            source: StoredError::Key(_),
            ..
        }
    ));
    assert_eq!(
        std::fs::read(dir.path().join(KEY_FILE)).unwrap(),
        b"rubbish"
    );

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(CERT_FILE), &other.cert_pem).unwrap();
    let lost = load_or_create(dir.path(), now(), &mut counting(1)).unwrap_err();
    assert!(matches!(lost, IdentityError::KeyLost(_)));
}

#[test]
fn the_devices_key_signs_the_certificates_of_its_other_keys() {
    let made = generate(now(), &mut counting(1)).unwrap();
    let device = SoftKey::from_pem(&made.key_pem).unwrap();
    let other = SoftKey::from_bytes(&[9; 32]).unwrap().point();
    let issue = |kind| {
        certificate_by(
            &device,
            &made.cert_pem,
            kind,
            &other,
            now(),
            &mut counting(3),
        )
    };
    let (_, issuer) = x509_parser::pem::parse_x509_pem(made.cert_pem.as_bytes()).unwrap();
    let (_, issuer) = X509Certificate::from_der(&issuer.contents).unwrap();
    for kind in [
        CertificateKind::Ecdh,
        CertificateKind::Quote,
        CertificateKind::Endorsement,
    ] {
        let pem = issue(kind).unwrap();
        assert_eq!(certified_point(pem.as_bytes()).unwrap(), other);
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let (_, cert) = X509Certificate::from_der(&block.contents).unwrap();
        cert.verify_signature(Some(issuer.public_key())).unwrap();
        assert!(!cert.is_ca());
    }
    assert!(issue(CertificateKind::Device).is_err());
}

#[test]
fn a_request_is_signed_by_the_key_and_names_it() {
    let key = new_key(&mut counting(1)).unwrap();
    let pem = request_for(&key).unwrap();
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    assert_eq!(block.label, "CERTIFICATE REQUEST");
    let (_, request) =
        x509_parser::certification_request::X509CertificationRequest::from_der(&block.contents)
            .unwrap();
    request.verify_signature().unwrap();
    let info = &request.certification_request_info;
    assert_eq!(info.subject_pki.subject_public_key.data, key.point());
    assert_eq!(info.subject.to_string(), "O=The Linux Foundation, CN=EVE");
}
