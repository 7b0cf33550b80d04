//! Judges a server's certificate as rustls does, but for one thing: see [`crate::moment`].

use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::moment::Moment;

/// Certificates of a chain that may be not valid yet, one after the other.
const CHAIN: usize = 4;

#[derive(Debug)]
pub(crate) struct Patient {
    pub(crate) strict: Arc<WebPkiServerVerifier>,
    pub(crate) moment: Moment,
}

impl ServerCertVerifier for Patient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judge = |at| {
            self.strict.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                at,
            )
        };
        let mut verdict = judge(now);
        if self.moment.is_set() {
            return verdict;
        }
        for _ in 0..CHAIN {
            let Some(begin) = verdict.as_ref().err().and_then(not_before) else {
                break;
            };
            verdict = judge(begin);
        }
        verdict
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.strict.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.strict.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.strict.supported_verify_schemes()
    }
}

/// When the certificate begins to be valid that is not yet.
fn not_before(error: &Error) -> Option<UnixTime> {
    match error {
        Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => Some(
            UnixTime::since_unix_epoch(Duration::from_secs(not_before.as_secs())),
        ),
        _ => None,
    }
}
