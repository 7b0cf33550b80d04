//! Both ends of a TLS connection, without a network between them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use controller::{Signer, signer::tls_identity};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    client::Resumption,
    pki_types::{PrivateKeyDer, ServerName},
};

const NAME: &str = "controller.example";

/// A device that shows its certificate, and a controller that asks for it.
pub struct Ends {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Ends {
    /// With this key of the device.
    pub fn new(signer: &Arc<dyn Signer>) -> Result<Self> {
        let key = rcgen::KeyPair::generate()?;
        let cert = rcgen::CertificateParams::new(vec![NAME.to_owned()])?.self_signed(&key)?;
        let private = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|why| anyhow::anyhow!("the controller's key: {why}"))?;
        let server = evc::serve::tls::server_config(&[cert.der().clone()], &private, true)?;
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_cert_resolver(tls_identity(Arc::clone(signer)));
        // Each is a whole one.
        client.resumption = Resumption::disabled();
        Ok(Self {
            client: Arc::new(client),
            server,
        })
    }

    /// Microseconds of a handshake, until both sides are done with it.
    pub fn handshake(&self) -> Result<f64> {
        let begun = Instant::now();
        let name = ServerName::try_from(NAME)?;
        let mut client = ClientConnection::new(Arc::clone(&self.client), name)?;
        let mut server = ServerConnection::new(Arc::clone(&self.server))?;
        let mut wire = Vec::new();
        while client.is_handshaking() || server.is_handshaking() {
            wire.clear();
            while client.wants_write() {
                client.write_tls(&mut wire)?;
            }
            let mut unread = wire.as_slice();
            while !unread.is_empty() {
                server.read_tls(&mut unread)?;
                server.process_new_packets().context("the controller")?;
            }
            wire.clear();
            while server.wants_write() {
                server.write_tls(&mut wire)?;
            }
            let mut unread = wire.as_slice();
            while !unread.is_empty() {
                client.read_tls(&mut unread)?;
                client.process_new_packets().context("the device")?;
            }
        }
        let took = begun.elapsed();
        ensure!(
            server.peer_certificates().is_some_and(|c| !c.is_empty()),
            "the device has shown no certificate"
        );
        Ok(us(took))
    }
}

/// Microseconds of a signature, as an envelope has one.
pub fn signature(signer: &Arc<dyn Signer>) -> Result<f64> {
    let begun = Instant::now();
    signer.sign_digest(&[7; 32])?;
    Ok(us(begun.elapsed()))
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
