//! Keys and certificates that are the same in every run. They are made here and belong to nobody.

use std::sync::LazyLock;

use api::certs::{ZCert, ZControllerCert};
use chain::SigningRoots;
use controller::{ControllerCerts, Signer, SoftwareKey, identity::generate};
use jiff::Timestamp;
use p256::ecdsa::{DerSignature, SigningKey, signature::Signer as _};
use prost::Message as _;
use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, PublicKeyData, SerialNumber};
use sha2::{Digest as _, Sha256};

/// Now, for everybody.
pub(crate) const NOW: i64 = 1_800_000_000;

/// The moment at which everything happens.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(NOW).expect("a time")
}

/// Key and certificate of somebody.
pub(crate) struct Identity {
    pub(crate) cert_pem: String,
    pub(crate) key_pem: String,
    pub(crate) key: SoftwareKey,
}

impl Identity {
    /// As a device makes its own.
    fn own(seed: u8) -> Self {
        let mut random = |buffer: &mut [u8]| {
            buffer.fill(seed);
            Ok(())
        };
        let made = generate(now(), &mut random).expect("an identity");
        Self::new(made.cert_pem, made.key_pem)
    }

    /// With a certificate of `issuer`.
    fn of(issuer: &Self, seed: u8) -> Self {
        let own = Self::own(seed);
        let issuer = Issuer::from_ca_cert_pem(&issuer.cert_pem, Key::of(issuer)).expect("a CA");
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(&[seed]));
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "controller");
        let cert = params.signed_by(&Key::of(&own), &issuer).expect("a leaf");
        Self::new(cert.pem(), own.key_pem)
    }

    fn new(cert_pem: String, key_pem: String) -> Self {
        let key = SoftwareKey::from_pem("test", cert_pem.as_bytes(), key_pem.as_bytes());
        Self {
            key: key.expect("a key"),
            cert_pem,
            key_pem,
        }
    }

    /// The certificate as controllers deliver it.
    pub(crate) fn zcert(&self, kind: i32) -> ZCert {
        let cert = self.cert_pem.trim().as_bytes().to_vec();
        ZCert {
            hash_algo: 1,
            cert_hash: Sha256::digest(&cert)[..16].to_vec(),
            r#type: kind,
            cert,
            ..ZCert::default()
        }
    }

    /// The certificate's hash as the controller's envelopes name it.
    pub(crate) fn text_hash(&self) -> Vec<u8> {
        Sha256::digest(self.cert_pem.trim().as_bytes()).to_vec()
    }

    /// The key alone.
    pub(crate) fn signing_key(&self) -> SigningKey {
        SigningKey::from(p256::SecretKey::from_sec1_pem(&self.key_pem).expect("a key"))
    }
}

/// Signs certificates, the same way each time: kept inputs hold hashes of them.
struct Key {
    key: SigningKey,
    point: Vec<u8>,
}

impl Key {
    fn of(identity: &Identity) -> Self {
        let key = identity.signing_key();
        let point = key.verifying_key().to_encoded_point(false);
        Self {
            point: point.as_bytes().to_vec(),
            key,
        }
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: DerSignature = self.key.sign(message);
        Ok(signature.as_bytes().to_vec())
    }
}

/// The device.
pub(crate) static DEVICE: LazyLock<Identity> = LazyLock::new(|| Identity::own(7));
/// Whom the device trusts.
pub(crate) static ROOT: LazyLock<Identity> = LazyLock::new(|| Identity::own(8));
/// The controller.
pub(crate) static CONTROLLER: LazyLock<Identity> = LazyLock::new(|| Identity::of(&ROOT, 9));

/// The roots that the controller's certificates lead to.
pub(crate) static ROOTS: LazyLock<SigningRoots> =
    LazyLock::new(|| SigningRoots::from_pem(ROOT.cert_pem.as_bytes()).expect("a root certificate"));

/// The controller's certificates as delivered.
pub(crate) fn delivered() -> Vec<u8> {
    let certs = vec![CONTROLLER.zcert(1), CONTROLLER.zcert(3)];
    ZControllerCert { certs }.encode_to_vec()
}

/// The controller's certificates as taken into use.
pub(crate) static CERTS: LazyLock<ControllerCerts> = LazyLock::new(|| {
    ControllerCerts::verify(&delivered(), &ROOTS, now()).expect("acceptable certificates")
});

/// A message in the controller's envelope.
pub(crate) fn sealed(payload: &[u8]) -> Vec<u8> {
    let key: &dyn Signer = &CONTROLLER.key;
    let mut container =
        controller::envelope::seal(key, payload.to_vec(), false).expect("an envelope");
    container.sender_cert_hash = CONTROLLER.text_hash();
    container.encode_to_vec()
}
