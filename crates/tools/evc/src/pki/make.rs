//! Creates and renews the certificates.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::OID_EC_P256;
use x509_parser::prelude::FromDer as _;

use super::{DEVICE_FOLDER, FOLDER, PkiError};

/// Certificate authorities live as long as devices are meant to.
const CA_DAYS: i64 = 20 * 365;
/// Leaves are renewed by `evc pki renew`; longer than this some TLS stacks refuse them.
const LEAF_DAYS: i64 = 825;

/// What `init` needs to know.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// Host name or address, with an optional `:port`, that devices will contact.
    pub name: String,
    /// More names and addresses for the TLS certificate.
    pub sans: Vec<String>,
}

/// What `init` made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Folder of the PKI.
    pub pki: PathBuf,
    /// Folder with the files for the CONFIG partition of devices.
    pub device: PathBuf,
    /// Names in the TLS certificate.
    pub sans: Vec<String>,
}

/// Makes a new PKI below `dir` and the files that go to the CONFIG partition of devices.
pub fn init(dir: &Path, options: &InitOptions) -> Result<Made, PkiError> {
    let pki = dir.join(FOLDER);
    if pki.exists() {
        return Err(PkiError::Exists(pki));
    }
    let mut sans = vec![host_of(&options.name).to_owned()];
    sans.extend(options.sans.iter().cloned());
    sans.dedup();
    check_names(&sans)?;
    let device = dir.join(DEVICE_FOLDER);
    for folder in [dir, &pki, &device] {
        make_dir(folder)?;
    }

    let root_key = key("root")?;
    let root_params = ca(&format!("EVC root of {}", sans[0]));
    let root = root_params
        .self_signed(&root_key)
        .map_err(|e| make_error("root", e))?;
    let issuer = Issuer::from_params(&root_params, &root_key);
    let middle_key = key("intermediate")?;
    let mut middle_params = ca(&format!("EVC intermediate of {}", sans[0]));
    middle_params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    middle_params.use_authority_key_identifier_extension = true;
    let middle = middle_params
        .signed_by(&middle_key, &issuer)
        .map_err(|e| make_error("intermediate", e))?;

    put(&pki.join("root-certificate.pem"), &root.pem(), 0o644)?;
    put(&pki.join("root.key.pem"), &root_key.serialize_pem(), 0o600)?;
    put(&pki.join("intermediate.cert.pem"), &middle.pem(), 0o644)?;
    put(
        &pki.join("intermediate.key.pem"),
        &middle_key.serialize_pem(),
        0o600,
    )?;
    put(&pki.join("sans"), &(sans.join("\n") + "\n"), 0o644)?;
    leaves(&pki, &sans)?;

    let (onboard, onboard_key) = new_onboarding(&sans[0])?;
    put(
        &device.join("server"),
        &format!("{}\n", options.name.trim()),
        0o644,
    )?;
    put(&device.join("root-certificate.pem"), &root.pem(), 0o644)?;
    put(&device.join("onboard.cert.pem"), &onboard, 0o644)?;
    put(&device.join("onboard.key.pem"), &onboard_key, 0o600)?;
    Ok(Made { pki, device, sans })
}

/// Makes new server, signing and key exchange certificates with new keys, to be used at once; `sans` are added to the
/// names of the old server certificate. Devices fetch them when they meet them.
pub fn renew(dir: &Path, sans: &[String]) -> Result<Vec<String>, PkiError> {
    let pki = dir.join(FOLDER);
    let mut names: Vec<String> = super::read(&pki.join("sans"))?
        .lines()
        .map(str::to_owned)
        .collect();
    for name in sans {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    check_names(&names)?;
    put(&pki.join("sans"), &(names.join("\n") + "\n"), 0o644)?;
    keep_former(&pki)?;
    // A rotation that is under way is over.
    put(&pki.join(super::ROTATION), "0\n", 0o644)?;
    leaves(&pki, &names)?;
    Ok(names)
}

/// Makes new signing and key exchange certificates, and keeps the former ones. Devices are told of the new ones at once; the
/// former ones are used for another `overlap`, so that each device has fetched the new ones before it needs them.
/// Gives the second since 1970 from which on the new ones are used.
pub fn rotate(dir: &Path, overlap: std::time::Duration) -> Result<i64, PkiError> {
    let pki = dir.join(FOLDER);
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let wait = i64::try_from(overlap.as_secs()).unwrap_or(i64::MAX);
    let from = now.saturating_add(wait);
    let first = super::read(&pki.join("sans"))?;
    let first = first.lines().next().unwrap_or_default();
    keep_former(&pki)?;
    put(&pki.join(super::ROTATION), &format!("{from}\n"), 0o644)?;
    for leaf in LEAVES.iter().filter(|leaf| !leaf.is_server) {
        make_leaf(&pki, leaf, first, &[])?;
    }
    Ok(from)
}

/// What a controller loads is complete at every moment, also when it is stopped between two files of the new ones.
fn keep_former(pki: &Path) -> Result<(), PkiError> {
    for name in ["signing", "ecdh"] {
        for (part, mode) in [("key", 0o600), ("cert", 0o644)] {
            let text = super::read(&pki.join(format!("{name}.{part}.pem")))?;
            put(&pki.join(format!("{name}.former.{part}.pem")), &text, mode)?;
        }
    }
    Ok(())
}

/// A new self-signed onboarding certificate and its key, both PEM.
pub fn new_onboarding(name: &str) -> Result<(String, String), PkiError> {
    let onboard_key = key("onboarding")?;
    let mut params = base(&format!("EVE onboarding for {name}"), CA_DAYS);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let cert = params
        .self_signed(&onboard_key)
        .map_err(|e| make_error("onboarding", e))?;
    Ok((cert.pem(), onboard_key.serialize_pem()))
}

/// One of the certificates that are made anew now and then.
struct Leaf {
    name: &'static str,
    usage: KeyUsagePurpose,
    is_server: bool,
}

const LEAVES: [Leaf; 3] = [
    Leaf {
        name: "server",
        usage: KeyUsagePurpose::DigitalSignature,
        is_server: true,
    },
    Leaf {
        name: "signing",
        usage: KeyUsagePurpose::DigitalSignature,
        is_server: false,
    },
    Leaf {
        name: "ecdh",
        usage: KeyUsagePurpose::KeyAgreement,
        is_server: false,
    },
];

/// A certificate for the key of a device, out of its request: as long-lived as the device, good for nothing that another
/// certificate of the controller is good for.
pub fn sign_device(dir: &Path, csr: &str, serial: &str) -> Result<String, PkiError> {
    let is_word = |c: char| c.is_ascii_graphic();
    if serial.is_empty() || serial.len() > 64 || !serial.chars().all(is_word) {
        let why = "a serial has 1 to 64 printable characters";
        return Err(PkiError::Request(why.to_owned()));
    }
    let use_for = ExtendedKeyUsagePurpose::ClientAuth;
    let (cert, _) = sign_request(dir, csr, serial, CA_DAYS, use_for)?;
    Ok(cert)
}

/// A certificate for somebody who signs images, out of their request, followed by the one between it and the root.
pub fn sign_image_signer(dir: &Path, csr: &str, name: &str) -> Result<String, PkiError> {
    let is_plain = |c: char| c.is_ascii_graphic() || c == ' ';
    if name.trim().is_empty() || name.len() > 64 || !name.chars().all(is_plain) {
        let why = "a name has 1 to 64 printable characters";
        return Err(PkiError::Request(why.to_owned()));
    }
    let use_for = ExtendedKeyUsagePurpose::CodeSigning;
    let (cert, between) = sign_request(dir, csr, name, LEAF_DAYS, use_for)?;
    Ok(cert + &between)
}

/// The certificate, and that of its issuer.
fn sign_request(
    dir: &Path,
    csr: &str,
    name: &str,
    days: i64,
    use_for: ExtendedKeyUsagePurpose,
) -> Result<(String, String), PkiError> {
    let bad = |why: String| PkiError::Request(why);
    let (_, block) =
        x509_parser::pem::parse_x509_pem(csr.as_bytes()).map_err(|e| bad(e.to_string()))?;
    let (_, request) =
        X509CertificationRequest::from_der(&block.contents).map_err(|e| bad(e.to_string()))?;
    // Who asks holds the key.
    request.verify_signature().map_err(|e| bad(e.to_string()))?;
    let spki = &request.certification_request_info.subject_pki;
    let curve = spki
        .algorithm
        .parameters
        .as_ref()
        .and_then(|p| p.as_oid().ok());
    if curve.is_none_or(|oid| oid != OID_EC_P256) {
        return Err(bad("the key is not ECDSA P-256".to_owned()));
    }
    let mut request =
        CertificateSigningRequestParams::from_pem(csr).map_err(|e| bad(e.to_string()))?;
    // Nothing that it asks for itself.
    request.params = base(name, days);
    request.params.is_ca = IsCa::ExplicitNoCa;
    request.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    request.params.extended_key_usages = vec![use_for];
    request.params.use_authority_key_identifier_extension = true;
    let pki = dir.join(FOLDER);
    let ca_pem = super::read(&pki.join("intermediate.cert.pem"))?;
    let ca_key = KeyPair::from_pem(&super::read(&pki.join("intermediate.key.pem"))?)
        .map_err(|e| make_error("intermediate", e))?;
    let issuer =
        Issuer::from_ca_cert_pem(&ca_pem, &ca_key).map_err(|e| make_error("intermediate", e))?;
    let cert = request
        .signed_by(&issuer)
        .map_err(|e| make_error("requested", e))?;
    Ok((cert.pem(), ca_pem))
}

fn leaves(pki: &Path, sans: &[String]) -> Result<(), PkiError> {
    for leaf in &LEAVES {
        make_leaf(pki, leaf, &sans[0], sans)?;
    }
    Ok(())
}

fn make_leaf(pki: &Path, leaf: &Leaf, of: &str, sans: &[String]) -> Result<(), PkiError> {
    let Leaf {
        name,
        usage,
        is_server,
    } = leaf;
    let ca_pem = super::read(&pki.join("intermediate.cert.pem"))?;
    let ca_key = KeyPair::from_pem(&super::read(&pki.join("intermediate.key.pem"))?)
        .map_err(|e| make_error("intermediate", e))?;
    let issuer =
        Issuer::from_ca_cert_pem(&ca_pem, &ca_key).map_err(|e| make_error("intermediate", e))?;

    let leaf_key = key(name)?;
    let mut params = base(&format!("EVC {name} of {of}"), LEAF_DAYS);
    params.key_usages = vec![*usage];
    // On all three: devices verify signing and exchange certificates with the usual rules of a TLS server certificate.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    if *is_server {
        params.subject_alt_names = CertificateParams::new(sans.to_vec())
            .map_err(|e| make_error(name, e))?
            .subject_alt_names;
    }
    let cert = params
        .signed_by(&leaf_key, &issuer)
        .map_err(|e| make_error(name, e))?;
    // Key first: a certificate whose key is another one is not loaded.
    put(
        &pki.join(format!("{name}.key.pem")),
        &leaf_key.serialize_pem(),
        0o600,
    )?;
    put(&pki.join(format!("{name}.cert.pem")), &cert.pem(), 0o644)
}

fn base(common_name: &str, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "EVE");
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let now = OffsetDateTime::now_utc();
    // A device's clock may be behind until it has synchronised.
    params.not_before = now - Duration::days(1);
    params.not_after = now + Duration::days(days);
    params
}

fn ca(common_name: &str) -> CertificateParams {
    let mut params = base(common_name, CA_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn key(what: &'static str) -> Result<KeyPair, PkiError> {
    KeyPair::generate().map_err(|e| make_error(what, e))
}

fn make_error(what: &'static str, source: rcgen::Error) -> PkiError {
    PkiError::Make { what, source }
}

/// `host` of `host`, `host:port`, `[v6]:port` or a bare IPv6 address.
fn host_of(name: &str) -> &str {
    let name = name.trim();
    if let Some(rest) = name.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    if name.parse::<IpAddr>().is_ok() {
        return name;
    }
    name.rsplit_once(':').map_or(name, |(host, _)| host)
}

fn check_names(names: &[String]) -> Result<(), PkiError> {
    for name in names {
        let dns = !name.is_empty()
            && name.split('.').all(|label| {
                (1..=63).contains(&label.len())
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b"-*_".contains(&b))
            });
        if !dns && name.parse::<IpAddr>().is_err() {
            return Err(PkiError::Name(name.clone()));
        }
    }
    Ok(())
}

fn make_dir(path: &Path) -> Result<(), PkiError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| PkiError::Io {
            path: path.to_owned(),
            source,
        })
}

/// Writes beside the target and renames, so that a running controller never loads half a file.
fn put(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let io = |source| PkiError::Io {
        path: path.to_owned(),
        source,
    };
    let temporary = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .map_err(io)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(io)?;
    fs::rename(&temporary, path).map_err(io)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::pki::Pki;

    fn options(name: &str) -> InitOptions {
        InitOptions {
            name: name.to_owned(),
            sans: vec!["10.1.2.3".to_owned()],
        }
    }

    #[test]
    fn makes_a_chain_that_loads_and_verifies() {
        let dir = tempfile::tempdir().unwrap();
        let made = init(dir.path(), &options("evc.lab:8443")).unwrap();
        assert_eq!(made.sans, ["evc.lab", "10.1.2.3"]);
        let pki = Pki::load(dir.path()).unwrap();
        assert_eq!(pki.certs.len(), 3);
        assert!(pki.certs.iter().all(|c| c.pem == c.pem.trim()));
        assert_eq!(pki.signer.sender(), pki.certs[0].hash);
        let parse = |pem: &str| crate::cert::Certificate::from_pem(pem.as_bytes()).unwrap();
        let (root, middle) = (parse(&pki.root_pem), parse(&pki.certs[1].pem));
        assert!(root.is_signed_by(&root));
        assert!(middle.is_signed_by(&root));
        assert!(parse(&pki.certs[0].pem).is_signed_by(&middle));
        assert!(parse(&pki.certs[2].pem).is_signed_by(&middle));
        let server = std::fs::read_to_string(made.device.join("server")).unwrap();
        assert_eq!(server, "evc.lab:8443\n");
    }

    #[test]
    fn keys_are_private_and_a_second_init_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let made = init(dir.path(), &options("evc")).unwrap();
        for entry in std::fs::read_dir(&made.pki).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            let secret = entry.file_name().to_string_lossy().contains(".key.");
            assert_eq!(
                mode,
                if secret { 0o600 } else { 0o644 },
                "{:?}",
                entry.path()
            );
        }
        assert!(matches!(
            init(dir.path(), &options("evc")),
            Err(PkiError::Exists(_))
        ));
    }

    #[test]
    fn renewal_changes_the_hash_that_devices_watch() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), &options("evc")).unwrap();
        let before = Pki::load(dir.path()).unwrap().certs_hash();
        assert_eq!(renew(dir.path(), &["x.lab".to_owned()]).unwrap().len(), 3);
        assert_ne!(Pki::load(dir.path()).unwrap().certs_hash(), before);
    }

    #[test]
    fn rotated_keys_are_told_of_at_once_and_used_later() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), &options("evc")).unwrap();
        let before = Pki::load(dir.path()).unwrap();
        let from = rotate(dir.path(), std::time::Duration::from_secs(600)).unwrap();
        let told = Pki::load_at(dir.path(), from - 1).unwrap();
        assert_eq!(told.changes, Some(from));
        assert_ne!(told.certs_hash(), before.certs_hash());
        assert_eq!(told.signer.sender(), before.signer.sender());
        assert_eq!(told.exchange.hash, before.exchange.hash);
        let hashes = |pki: &Pki| pki.certs.iter().map(|c| c.hash).collect::<Vec<_>>();
        assert_eq!(hashes(&told)[3], before.exchange.hash, "both are delivered");
        assert_ne!(hashes(&told)[0], before.signer.sender());

        let after = Pki::load_at(dir.path(), from).unwrap();
        assert_eq!((after.changes, hashes(&after)), (None, hashes(&told)));
        assert_eq!(after.signer.sender(), hashes(&after)[0]);
        assert_eq!(after.exchange.hash, hashes(&after)[2]);
        assert_ne!(after.certs_hash(), told.certs_hash(), "to be signed anew");
        // When the former one ends it is not delivered any more.
        let late = Pki::load_at(dir.path(), from + (LEAF_DAYS + 1) * 86_400).unwrap();
        assert_eq!(late.certs.len(), 3);
    }

    #[test]
    fn a_controller_that_was_stopped_while_it_made_keys_goes_on_with_the_former_ones() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), &options("evc")).unwrap();
        let before = Pki::load(dir.path()).unwrap();
        renew(dir.path(), &[]).unwrap();
        let pki = dir.path().join(FOLDER);
        for name in ["signing", "ecdh"] {
            let former = pki.join(format!("{name}.former.cert.pem"));
            fs::copy(former, pki.join(format!("{name}.cert.pem"))).unwrap();
        }
        let loaded = Pki::load(dir.path()).unwrap();
        assert_eq!(loaded.signer.sender(), before.signer.sender());
        assert_eq!(loaded.exchange.hash, before.exchange.hash);
    }

    #[test]
    fn a_device_certificate_is_good_for_a_device_only() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), &options("evc")).unwrap();
        let csr = |algorithm, name: &str| {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let mut params = CertificateParams::new(vec!["evc".to_owned()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.serialize_request(&key).unwrap().pem().unwrap()
        };
        let request = csr(&rcgen::PKCS_ECDSA_P256_SHA256, "EVC signing");
        let pem = sign_device(dir.path(), &request, "SN-1").unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let cert = block.parse_x509().unwrap();
        assert!(
            cert.subject().to_string().contains("CN=SN-1"),
            "{}",
            cert.subject()
        );
        assert!(!cert.is_ca());
        let usage = cert.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any);
        assert!(cert.subject_alternative_name().unwrap().is_none());
        let middle = fs::read(dir.path().join("pki/intermediate.cert.pem")).unwrap();
        let middle = crate::cert::Certificate::from_pem(&middle).unwrap();
        let own = crate::cert::Certificate::from_pem(pem.as_bytes()).unwrap();
        assert!(own.is_signed_by(&middle));

        // The same for somebody who signs images: for nothing but that.
        let pem = sign_image_signer(dir.path(), &request, "the image builder").unwrap();
        let parts: Vec<_> = x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes())
            .map(Result::unwrap)
            .collect();
        let [own, between] = parts.as_slice() else {
            panic!("{pem}");
        };
        let (own, between) = (own.parse_x509().unwrap(), between.parse_x509().unwrap());
        assert!(own.subject().to_string().contains("CN=the image builder"));
        assert_eq!(own.issuer(), between.subject());
        let usage = own.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.code_signing && !usage.server_auth && !usage.client_auth && !usage.any);
        assert!(!own.is_ca() && between.is_ca());
        for name in ["", " ", "a\nb"] {
            let refused = sign_image_signer(dir.path(), &request, name);
            assert!(matches!(refused, Err(PkiError::Request(_))), "{refused:?}");
        }

        let other = csr(&rcgen::PKCS_ECDSA_P384_SHA384, "x");
        let mut changed = request.clone().into_bytes();
        let at = changed.len() / 2;
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        for (csr, serial) in [
            (other.as_str(), "SN"),
            (&changed, "SN"),
            ("", "SN"),
            (&pem, "SN"),
            (&request, ""),
            (&request, "a b"),
        ] {
            let refused = sign_device(dir.path(), csr, serial);
            assert!(matches!(refused, Err(PkiError::Request(_))), "{refused:?}");
        }
    }

    #[test]
    fn names_of_any_shape() {
        assert_eq!(host_of("a.b:443"), "a.b");
        assert_eq!(host_of("[fd00::1]:443"), "fd00::1");
        assert_eq!(host_of("fd00::1"), "fd00::1");
        assert_eq!(host_of("10.0.0.1:80"), "10.0.0.1");
        assert!(check_names(&["bad name".to_owned()]).is_err());
        assert!(check_names(&["a..b".to_owned()]).is_err());
    }
}
