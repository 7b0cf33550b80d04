//! Certificates for the servers of a world, and nothing of the product's own: the controller and the
//! device make theirs themselves.

use crate::site::SiteError;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

/// A certificate authority that lives and dies with its world.
pub struct Authority {
    root_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate chain and its key, both PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key, PKCS #8.
    pub key_pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a root certificate with a new P-256 key, valid for ten years from yesterday.
    pub fn new(common_name: &str) -> Result<Authority, SiteError> {
        let failed = |source: rcgen::Error| failed(common_name, &source);
        let mut params = valid(CertificateParams::default(), common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(failed)?;
        let root_pem = params.self_signed(&key).map_err(failed)?.pem();
        Ok(Authority {
            root_pem,
            issuer: Issuer::new(params, key),
        })
    }

    /// The root certificate, PEM: what clients must trust.
    #[must_use]
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// A server certificate for these DNS names and IP addresses; the first is the common name.
    pub fn issue(&self, names: &[&str]) -> Result<Identity, SiteError> {
        let subject = names.first().copied().unwrap_or("nobody");
        let failed = |source: rcgen::Error| failed(subject, &source);
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = valid(CertificateParams::new(names).map_err(failed)?, subject);
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Identity {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}

fn valid(mut params: CertificateParams, common_name: &str) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::days(1);
    params.not_after = now + Duration::days(3650);
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}

fn failed(subject: &str, source: &rcgen::Error) -> SiteError {
    SiteError::Certificate {
        subject: subject.to_owned(),
        reason: source.to_string(),
    }
}
