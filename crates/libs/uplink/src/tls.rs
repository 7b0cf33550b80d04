//! Whom TLS trusts, and the TLS configuration of a client.
//!
//! Nothing is trusted by default: a device trusts the roots in its CONFIG partition, the
//! certificates of the ports' intercepting proxies and, if its image has one, the system
//! pool. TLS 1.2 and 1.3, by rustls on ring.

use std::path::Path;
use std::sync::Arc;

use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, ResolvesClientCert, Resumption,
    WebPkiServerVerifier,
};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use thiserror::Error;

use crate::moment::Moment;
use crate::stage::{Begun, Stage};
use crate::verifier::Patient;

/// Files that distributions keep their pool in; the first that exists is used.
const SYSTEM_POOLS: [&str; 3] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/ssl/cert.pem",
    "etc/pki/tls/certs/ca-bundle.crt",
];
/// Servers whose TLS sessions are remembered: the controller, a LOC, some datastores.
const SESSIONS: usize = 32;

/// Why trust can't be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The text holds no certificate.
    #[error("{what}: there is no PEM certificate in it")]
    NoCertificate {
        /// Which text.
        what: String,
    },
    /// A certificate can't be read.
    #[error("{what}: certificate {number} can't be used as a root: {why}")]
    BadCertificate {
        /// Which text.
        what: String,
        /// Counted from 1.
        number: usize,
        /// The parser's words.
        why: String,
    },
    /// The crypto library refuses the configuration.
    #[error("TLS can't be configured")]
    Config(#[source] rustls::Error),
}

/// A set of trusted root certificates.
#[derive(Debug, Clone)]
pub struct Roots(RootCertStore);

impl Default for Roots {
    fn default() -> Self {
        Self(RootCertStore::empty())
    }
}

impl Roots {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if nothing is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds every certificate of a PEM text; `what` names it in errors. All or nothing.
    pub fn add_pem(&mut self, what: &str, pem: &[u8]) -> Result<usize, TlsError> {
        let mut store = self.0.clone();
        let mut added = 0;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let number = added + 1;
            let bad = |why: String| TlsError::BadCertificate {
                what: what.to_owned(),
                number,
                why,
            };
            let certificate = certificate.map_err(|error| bad(error.to_string()))?;
            store
                .add(certificate)
                .map_err(|error| bad(error.to_string()))?;
            added = number;
        }
        if added == 0 {
            return Err(TlsError::NoCertificate {
                what: what.to_owned(),
            });
        }
        self.0 = store;
        Ok(added)
    }

    /// Adds the system pool below `root`, if there is one; certificates in it that can't be
    /// used are skipped. Returns how many were added.
    pub fn add_system_pool(&mut self, root: &Path) -> usize {
        let pool = SYSTEM_POOLS
            .iter()
            .find_map(|file| std::fs::read(root.join(file)).ok());
        let certificates =
            CertificateDer::pem_slice_iter(pool.as_deref().unwrap_or_default()).flatten();
        self.0.add_parsable_certificates(certificates).0
    }
}

/// Trust, our own certificate and the sessions that were made with both.
///
/// Make a new one when either changes: sessions must not outlive the trust they were
/// made under.
#[derive(Debug, Clone)]
pub struct Tls {
    config: ClientConfig,
    sessions: Arc<ClientSessionMemoryCache>,
}

impl Tls {
    /// A configuration that trusts `roots` and shows `identity` to servers that ask.
    pub fn new(
        roots: Roots,
        identity: Option<Arc<dyn ResolvesClientCert>>,
    ) -> Result<Self, TlsError> {
        Self::at(roots, identity, Moment::default())
    }

    /// The same, with the time that certificates are judged by.
    pub fn at(
        roots: Roots,
        identity: Option<Arc<dyn ResolvesClientCert>>,
        moment: Moment,
    ) -> Result<Self, TlsError> {
        let builder = ClientConfig::builder_with_details(provider(), Arc::new(moment.clone()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Config)?;
        let roots = Arc::new(roots.0);
        // Without any root there is nothing that it could be made of, and nothing is trusted.
        let strict = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), provider());
        let builder = match strict.build() {
            Ok(strict) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Patient { strict, moment })),
            Err(_) => builder.with_root_certificates(roots),
        };
        let mut config = match identity {
            Some(identity) => builder.with_client_cert_resolver(identity),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            config,
            sessions: Arc::new(ClientSessionMemoryCache::new(SESSIONS)),
        })
    }

    /// The configuration for one client, which tells `stage` when a handshake begins.
    pub(crate) fn for_client(&self, stage: Arc<Stage>) -> ClientConfig {
        let mut config = self.config.clone();
        let store = StagedSessions {
            sessions: Arc::clone(&self.sessions),
            stage,
        };
        config.resumption = Resumption::store(Arc::new(store));
        config
    }
}

/// The crypto of all TLS on the device.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Session store that sees handshakes begin: rustls asks it for a hint before the first byte.
#[derive(Debug)]
struct StagedSessions {
    sessions: Arc<ClientSessionMemoryCache>,
    stage: Arc<Stage>,
}

mod store {
    //! Delegation only.
    use rustls::NamedGroup;
    use rustls::client::{Tls12ClientSessionValue, Tls13ClientSessionValue};
    use rustls_pki_types::ServerName;

    use super::{Begun, ClientSessionStore, StagedSessions};

    impl ClientSessionStore for StagedSessions {
        fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
            self.sessions.set_kx_hint(server, group);
        }

        fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
            self.stage.begin(Begun::Handshake);
            self.sessions.kx_hint(server)
        }

        fn set_tls12_session(&self, server: ServerName<'static>, value: Tls12ClientSessionValue) {
            self.sessions.set_tls12_session(server, value);
        }

        fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
            self.sessions.tls12_session(server)
        }

        fn remove_tls12_session(&self, server: &ServerName<'static>) {
            self.sessions.remove_tls12_session(server);
        }

        fn insert_tls13_ticket(&self, server: ServerName<'static>, value: Tls13ClientSessionValue) {
            self.sessions.insert_tls13_ticket(server, value);
        }

        fn take_tls13_ticket(
            &self,
            server: &ServerName<'static>,
        ) -> Option<Tls13ClientSessionValue> {
            self.sessions.take_tls13_ticket(server)
        }
    }
}
