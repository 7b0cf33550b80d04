//! The controller's certificates. None that did not come from the root is taken, however they are put
//! together.

use api::certs::ZControllerCert;
use chain::pem::{first_certificate, not_after, not_before, public_key};
use controller::{Certificate, ControllerCerts};
use jiff::{SignedDuration, Timestamp};
use prost::Message as _;

use crate::keys::{CERTS, CONTROLLER, DEVICE, ROOT, ROOTS, delivered, now};

/// Reads it as a message with certificates and as a single one.
pub fn check(bytes: &[u8]) {
    let ages = [0, 1, 30 * 365 * 24];
    let times = ages.map(|hours| now() + SignedDuration::from_hours(hours));
    for time in times.into_iter().chain([Timestamp::MIN, Timestamp::MAX]) {
        match ControllerCerts::verify(bytes, &ROOTS, time) {
            Ok(certs) => {
                assert_eq!(certs.signing().key(), CERTS.signing().key(), "whose key?");
                assert_eq!(certs.bytes(), bytes);
                assert!(!certs.differs_from(&certs));
            }
            Err(error) => {
                let _ = error.status();
            }
        }
    }
    if let Ok(message) = ZControllerCert::decode(bytes) {
        message.certs.iter().for_each(|cert| single(&cert.cert));
    }
    single(bytes);
}

fn single(pem: &[u8]) {
    let _ = chain::SigningRoots::from_pem(pem);
    if let Ok(der) = first_certificate(pem) {
        certificate(&der);
        assert_eq!(
            Certificate::from_pem(pem).map(|cert| cert.pem().to_vec()),
            Ok(pem.to_vec())
        );
    }
    // Also what PEM would keep away: DER that is none.
    certificate(pem);
    if let Ok(cert) = evc::cert::Certificate::from_pem(pem) {
        let device = evc::cert::Certificate::from_pem(DEVICE.cert_pem.as_bytes());
        let _ = cert.is_signed_by(&device.expect("a certificate"));
    }
}

fn certificate(der: &[u8]) {
    let _ = (public_key(der), not_before(der), not_after(der));
}

/// Sets of certificates, PEM and DER.
pub fn seeds() -> Vec<Vec<u8>> {
    let der = first_certificate(CONTROLLER.cert_pem.as_bytes()).expect("a certificate");
    let set = |kinds: &[i32]| {
        let certs = kinds.iter().map(|kind| CONTROLLER.zcert(*kind)).collect();
        ZControllerCert { certs }.encode_to_vec()
    };
    let stranger = ZControllerCert {
        certs: vec![DEVICE.zcert(1), CONTROLLER.zcert(3)],
    };
    vec![
        delivered(),
        set(&[1]),
        set(&[1, 2, 3, 3]),
        set(&[1, 1, 3]),
        set(&[2, 4]),
        stranger.encode_to_vec(),
        CONTROLLER.cert_pem.clone().into_bytes(),
        format!("{}\n{}", ROOT.cert_pem, DEVICE.cert_pem).into_bytes(),
        der.to_vec(),
        include_bytes!("../../../crates/libs/controller/tests/vectors/envelope.json").to_vec(),
    ]
}
