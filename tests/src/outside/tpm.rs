//! tpmmgr as zedagent sees it: with a TPM in memory, or on a device that was installed without one.

use std::{fs, path::Path, sync::Arc};

use bus::Bus;
use jiff::Timestamp;
use model::{
    security::{EdgeNodeCert, EdgeNodeCertKind},
    topics::EDGE_NODE_CERT,
};
use sha2::{Digest as _, Sha256};
use tpm::{
    CertificateKind, MemoryTpm, SoftKey,
    identity::{certificate_by, system_random},
};

/// Of a device that was installed without a TPM. What it signs with is of no account: the services have their keys from
/// files here.
pub fn without_tpm() -> Arc<MemoryTpm> {
    Arc::new(MemoryTpm::software(key(1)))
}

/// Of a device with one, whose further keys are certified and published as tpmmgr does it.
pub fn memory_tpm(config: &Path, bus: &Bus) -> MemoryTpm {
    let device_pem = fs::read_to_string(config.join("device.cert.pem")).unwrap();
    let device = SoftKey::from_pem(&fs::read_to_string(config.join("device.key.pem")).unwrap());
    let device = device.unwrap();
    let (exchange, quote) = (key(9), key(10));
    let mut keeper = bus.acting_as("tpmmgr").publisher(&EDGE_NODE_CERT).unwrap();
    let mut certificates = Vec::new();
    for (kind, row_kind, point) in [
        (
            CertificateKind::Ecdh,
            EdgeNodeCertKind::Ecdh,
            exchange.point(),
        ),
        (
            CertificateKind::Quote,
            EdgeNodeCertKind::Quote,
            quote.point(),
        ),
    ] {
        let now = Timestamp::now();
        let pem =
            certificate_by(&device, &device_pem, kind, &point, now, &mut system_random).unwrap();
        let hash = hex::encode(&Sha256::digest(&pem)[..16]);
        let row = EdgeNodeCert {
            kind: row_kind,
            pem: pem.clone(),
            hash: hash.clone(),
            is_tpm: true,
            public_area: String::new(),
        };
        keeper.publish(&hash, &row).unwrap();
        certificates.push((kind, pem));
    }
    keeper.set_ready().unwrap();
    let tpm = MemoryTpm::new(device, exchange, quote);
    for (kind, pem) in certificates {
        tpm.certify(kind, pem);
    }
    tpm
}

fn key(n: u8) -> SoftKey {
    SoftKey::from_bytes(&[n; 32]).unwrap()
}
