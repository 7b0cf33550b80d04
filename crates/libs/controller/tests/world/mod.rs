//! A controller's keys and a device's, and both ends of their envelopes.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::auth::AuthContainer;
use api::certs::{ZCert, ZControllerCert};
use controller::identity::{generate, system_random};
use controller::{
    ConfigPartition, Controller, ControllerCerts, Signer, SoftwareKey, Timers, envelope,
};
use jiff::Timestamp;
use prost::Message;
use ring::digest::{SHA256, digest};
use uplink::Port;
use uuid::Uuid;

use crate::support::{Ca, Leaf, server_tls};

pub const PROTO: &[(&str, &str)] =
    &[("Content-Type", "application/x-proto-binary; charset=binary")];

pub struct World {
    pub ca: Ca,
    signing: Leaf,
    ecdh: Leaf,
    pub device: Arc<dyn Signer>,
    pub onboarding: Arc<dyn Signer>,
}

fn new_key(owner: &str) -> Arc<dyn Signer> {
    let made = generate(Timestamp::now(), &mut system_random).unwrap();
    Arc::new(
        SoftwareKey::from_pem(owner, made.cert_pem.as_bytes(), made.key_pem.as_bytes()).unwrap(),
    )
}

impl World {
    pub fn new() -> Self {
        let ca = Ca::new("root");
        let (signing, ecdh) = (ca.leaf(&["signing"]), ca.leaf(&["ecdh"]));
        Self {
            ca,
            signing,
            ecdh,
            device: new_key("device"),
            onboarding: new_key("onboarding"),
        }
    }

    /// TLS of the controller; as with v2 it asks for no client certificate.
    pub fn tls(&self) -> Arc<rustls::ServerConfig> {
        server_tls(&self.ca.leaf(&["127.0.0.1"]), None)
    }

    /// A device that knows nothing yet.
    pub fn controller(&self, server: SocketAddr) -> Controller {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("server", &format!("{server}\n"));
        write("root-certificate.pem", &self.ca.pem);
        write("soft_serial", " soft-1\n");
        let partition = ConfigPartition::read(dir.path()).unwrap();
        let mut controller =
            Controller::new(&partition, Arc::clone(&self.device), "SN-1 ", dir.path()).unwrap();
        controller
            .set_onboarding(Some(Arc::clone(&self.onboarding)))
            .unwrap();
        controller.set_timers(Timers {
            dial: Duration::from_secs(5),
            send: Duration::from_secs(10),
        });
        controller.set_ports(two_ports()[..1].to_vec());
        controller
    }

    /// A device that has onboarded.
    pub fn onboarded(&self, server: SocketAddr) -> Controller {
        let mut controller = self.controller(server);
        controller.set_uuid(Some(Uuid::from_u128(1)));
        let roots = chain::SigningRoots::from_pem(self.ca.pem.as_bytes()).unwrap();
        let certs = ControllerCerts::verify(&self.certs(), &roots, Timestamp::now()).unwrap();
        controller.set_certs(Some(Arc::new(certs)));
        controller
    }

    /// The controller's certificates as a bare message.
    pub fn certs(&self) -> Vec<u8> {
        let zcert = |kind, leaf: &Leaf| {
            let cert = leaf.pem.trim().as_bytes().to_vec();
            let cert_hash = digest(&SHA256, &cert).as_ref()[..16].to_vec();
            ZCert {
                hash_algo: 1,
                cert_hash,
                r#type: kind,
                cert,
                ..ZCert::default()
            }
        };
        ZControllerCert {
            certs: vec![zcert(3, &self.ecdh), zcert(1, &self.signing)],
        }
        .encode_to_vec()
    }

    /// What signs answers as a controller does.
    pub fn sealer(&self) -> impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static {
        let pem = self.signing.pem.trim().to_owned();
        let key = self.signing.key.serialize_pem();
        let signer = SoftwareKey::from_pem("signing", pem.as_bytes(), key.as_bytes()).unwrap();
        move |payload| {
            let mut container = envelope::seal(&signer, payload.to_vec(), false).unwrap();
            container.sender_cert_hash = digest(&SHA256, pem.as_bytes()).as_ref().to_vec();
            container.encode_to_vec()
        }
    }
}

/// Two free ports on loopback.
pub fn two_ports() -> Vec<Port> {
    let port = |name: &str, last| Port::new(name, vec![[127, 0, 0, last].into()]);
    vec![port("eth0", 2), port("eth1", 3)]
}

/// The payload of an envelope, whoever signed it.
pub fn payload(body: &[u8]) -> Vec<u8> {
    AuthContainer::decode(body)
        .unwrap()
        .protected_payload
        .unwrap()
        .payload
}

/// What a strict controller checks of a device's envelope.
pub fn check_envelope(body: &[u8], signer: &Arc<dyn Signer>, with_cert: bool) {
    let container = AuthContainer::decode(body).unwrap();
    let certificate = signer.certificate();
    assert_eq!(container.algo, 2);
    assert_eq!(
        container.sender_cert_hash,
        digest(&SHA256, certificate.der()).as_ref()
    );
    assert_eq!(container.sender_cert.is_empty(), !with_cert);
    let chain::pem::PublicKey::P256(point) = chain::pem::public_key(certificate.der()).unwrap()
    else {
        panic!("not a P-256 key");
    };
    let payload = container.protected_payload.unwrap().payload;
    ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, &point)
        .verify(&payload, &container.signature_hash)
        .unwrap();
}

/// Some message.
pub fn info() -> api::info::ZInfoMsg {
    api::info::ZInfoMsg {
        dev_id: "device".into(),
        ..Default::default()
    }
}
