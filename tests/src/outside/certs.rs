//! Certificates that a controller should not show, made under its own root.

use std::{fs, path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use time::{Duration, OffsetDateTime};

use super::fault::Shown;

/// What the front shows, for each kind of certificate.
pub(super) fn configs(pki: &Path) -> Vec<(Shown, Arc<ServerConfig>)> {
    let read = |name: &str| fs::read_to_string(pki.join(name)).unwrap();
    let key = KeyPair::from_pem(&read("root.key.pem")).unwrap();
    let root = Issuer::from_ca_cert_pem(&read("root-certificate.pem"), key).unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let foreign = Issuer::new(params, KeyPair::generate().unwrap());
    let now = OffsetDateTime::now_utc();
    let day = Duration::days(1);
    vec![
        (Shown::Good, config(&root, now - 2 * day, now + 1000 * day)),
        (
            Shown::Expired,
            config(&root, now - 400 * day, now - 35 * day),
        ),
        (
            Shown::NotYet,
            config(&root, now + 35 * day, now + 400 * day),
        ),
        (Shown::Foreign, config(&foreign, now - day, now + 365 * day)),
    ]
}

fn config(
    issuer: &Issuer<'_, KeyPair>,
    from: OffsetDateTime,
    to: OffsetDateTime,
) -> Arc<ServerConfig> {
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (from, to);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, issuer).unwrap();
    let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    Arc::new(
        builder
            .with_single_cert(vec![cert.der().clone()], private)
            .unwrap(),
    )
}
