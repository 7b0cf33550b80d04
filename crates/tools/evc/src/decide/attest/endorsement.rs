//! The endorsement key of a TPM: who vouches for it, and whether it is the one that a device is bound to.
//!
//! The protocol has no step in which the TPM itself proves that quote key and endorsement key are in one chip (TPM2
//! ActivateCredential). What is checked is what it gives: the device's key signed the certificate of the quote key and
//! that of the endorsement key, or the maker of the TPM signed the latter.

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use sha2::{Digest as _, Sha256};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::quote::Reader;
use crate::cert::Certificate;

/// `tcg-kp-EKCertificate` (2.23.133.8.1) in DER.
const EK_USAGE: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];
const TPM_ALG_RSA: u16 = 0x0001;
const TPM_ALG_ECC: u16 = 0x0023;
const TPM_ALG_NULL: u16 = 0x0010;

/// Why a certificate is none of an endorsement key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndorsementError {
    /// It can't be read.
    #[error("the endorsement certificate can't be read: {0}")]
    Certificate(String),
    /// The TPM's description of the key can't be read.
    #[error("TPM2_PUBLIC: {0}")]
    Public(&'static str),
    /// They are of two keys.
    #[error("TPM2_PUBLIC describes another key than the certificate")]
    Mismatch,
    /// Nobody who counts signed it.
    #[error(
        "neither the device's key nor a known maker of TPMs signed the endorsement certificate"
    )]
    Nobody,
}

/// Who says that it is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vouched {
    /// The maker of the TPM.
    Maker,
    /// The device's own key.
    Device,
}

/// An endorsement key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endorsement {
    /// SHA-256 of its public key (`SubjectPublicKeyInfo`): what people register.
    pub key: [u8; 32],
    /// SHA-256 of its TPM2_PUBLIC, the digest in its TPM name; none when that was not sent.
    pub name: Option<[u8; 32]>,
    /// Who vouches for it.
    pub vouched: Vouched,
}

impl Endorsement {
    /// Whether it is the key that was registered, by the hash of its public key or by its TPM name.
    pub fn is(&self, registered: &[u8; 32]) -> bool {
        self.key == *registered || self.name.as_ref() == Some(registered)
    }
}

/// Certificates of makers of TPMs that people trust: roots and what is between.
#[derive(Debug, Clone, Default)]
pub struct Makers {
    roots: Vec<TrustAnchor<'static>>,
    between: Vec<CertificateDer<'static>>,
}

impl Makers {
    /// Adds a certificate in DER; one that signed itself is a root.
    pub fn add(&mut self, der: CertificateDer<'static>) -> Result<(), EndorsementError> {
        let bad = |why: String| EndorsementError::Certificate(why);
        let is_root = {
            let (_, cert) = X509Certificate::from_der(&der).map_err(|e| bad(e.to_string()))?;
            cert.subject() == cert.issuer()
        };
        if is_root {
            let anchor = anchor_from_trusted_cert(&der).map_err(|e| bad(e.to_string()))?;
            self.roots.push(anchor.to_owned());
        } else {
            self.between.push(der);
        }
        Ok(())
    }

    fn vouch_for(&self, der: &[u8], now: i64) -> bool {
        let der = CertificateDer::from(der);
        let Ok(leaf) = EndEntityCert::try_from(&der) else {
            return false;
        };
        let seconds = u64::try_from(now).unwrap_or(0);
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let usage = KeyUsage::required_if_present(EK_USAGE);
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        leaf.verify_for_usage(
            algorithms,
            &self.roots,
            &self.between,
            time,
            usage,
            None,
            None,
        )
        .is_ok()
    }
}

/// Judges a presented endorsement certificate at a second since 1970.
pub fn judge(
    pem: &[u8],
    tpm_public: &[u8],
    device: &Certificate,
    makers: &Makers,
    now: i64,
) -> Result<Endorsement, EndorsementError> {
    let bad = |why: String| EndorsementError::Certificate(why);
    let (_, block) = x509_parser::pem::parse_x509_pem(pem).map_err(|e| bad(e.to_string()))?;
    let cert = block.parse_x509().map_err(|e| bad(e.to_string()))?;
    let spki = cert.public_key();
    let name = if tpm_public.is_empty() {
        None
    } else {
        let (area, key) = public(tpm_public)?;
        if !is_same(&key, spki) {
            return Err(EndorsementError::Mismatch);
        }
        Some(Sha256::digest(area).into())
    };
    let (_, parent) = X509Certificate::from_der(device.der()).map_err(|e| bad(e.to_string()))?;
    let vouched = if makers.vouch_for(&block.contents, now) {
        Vouched::Maker
    } else if cert.verify_signature(Some(parent.public_key())).is_ok() {
        Vouched::Device
    } else {
        return Err(EndorsementError::Nobody);
    };
    Ok(Endorsement {
        key: Sha256::digest(spki.raw).into(),
        name,
        vouched,
    })
}

/// The key in a TPM2_PUBLIC.
#[derive(Debug, PartialEq, Eq)]
enum TpmKey<'a> {
    Rsa(&'a [u8]),
    Ecc(&'a [u8], &'a [u8]),
}

/// Reads `TPM2B_PUBLIC`, or the `TPMT_PUBLIC` in it. Gives the latter and its key.
fn public(bytes: &[u8]) -> Result<(&[u8], TpmKey<'_>), EndorsementError> {
    let short = |_| EndorsementError::Public("too short");
    let mut rest = Reader(bytes);
    let size = usize::from(rest.u16().map_err(short)?);
    let area = if size == bytes.len() - 2 {
        rest.0
    } else {
        bytes
    };
    let mut rest = Reader(area);
    let kind = rest.u16().map_err(short)?;
    rest.take(2 + 4).map_err(short)?; // algorithm of the name, attributes
    rest.sized().map_err(short)?; // policy
    let symmetric = rest.u16().map_err(short)?;
    if symmetric != TPM_ALG_NULL {
        rest.take(2 + 2).map_err(short)?; // bits and mode
    }
    let scheme = rest.u16().map_err(short)?;
    if scheme != TPM_ALG_NULL {
        rest.take(2).map_err(short)?; // its hash
    }
    let key = match kind {
        TPM_ALG_RSA => {
            rest.take(2 + 4).map_err(short)?; // bits and exponent
            TpmKey::Rsa(rest.sized().map_err(short)?)
        }
        TPM_ALG_ECC => {
            rest.take(2).map_err(short)?; // curve
            if rest.u16().map_err(short)? != TPM_ALG_NULL {
                rest.take(2).map_err(short)?; // hash of the KDF
            }
            TpmKey::Ecc(rest.sized().map_err(short)?, rest.sized().map_err(short)?)
        }
        _ => return Err(EndorsementError::Public("neither RSA nor ECC")),
    };
    if rest.0.is_empty() {
        Ok((area, key))
    } else {
        Err(EndorsementError::Public("bytes after the end"))
    }
}

fn is_same(key: &TpmKey<'_>, spki: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> bool {
    fn trim(number: &[u8]) -> &[u8] {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        &number[zeros..]
    }
    match (key, spki.parsed()) {
        (TpmKey::Rsa(modulus), Ok(PublicKey::RSA(rsa))) => trim(modulus) == trim(rsa.modulus),
        (TpmKey::Ecc(x, y), Ok(PublicKey::EC(point))) => {
            let data = point.data();
            let Some((4, xy)) = data.split_first().map(|(first, rest)| (*first, rest)) else {
                return false;
            };
            let (theirs_x, theirs_y) = xy.split_at(xy.len() / 2);
            trim(x) == trim(theirs_x) && trim(y) == trim(theirs_y)
        }
        _ => false,
    }
}

/// For the fuzzers: any bytes as TPM2_PUBLIC.
pub fn check_public(bytes: &[u8]) -> bool {
    public(bytes).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use rcgen::{CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    struct Ca {
        params: CertificateParams,
        key: KeyPair,
        pem: String,
    }

    impl Ca {
        fn new(name: &str) -> Self {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![]).unwrap();
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
            params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let pem = params.self_signed(&key).unwrap().pem();
            Self { params, key, pem }
        }

        fn certify(&self, key: &KeyPair) -> String {
            let issuer = Issuer::from_params(&self.params, &self.key);
            let params = CertificateParams::new(vec![]).unwrap();
            params.signed_by(key, &issuer).unwrap().pem()
        }

        fn cert(&self) -> Certificate {
            Certificate::from_pem(self.pem.as_bytes()).unwrap()
        }
    }

    fn ecc_public(key: &KeyPair) -> Vec<u8> {
        use rcgen::PublicKeyData as _;
        let point = key.der_bytes();
        let mut area = [TPM_ALG_ECC.to_be_bytes(), [0, 0x0b]].concat();
        area.extend([0, 3, 0, 0xb2]);
        area.extend([0, 2, 9, 9]);
        area.extend([0, 6, 0, 128, 0, 0x43]);
        area.extend(TPM_ALG_NULL.to_be_bytes());
        area.extend([0, 3]);
        area.extend(TPM_ALG_NULL.to_be_bytes());
        for half in [&point[1..33], &point[33..]] {
            area.extend([0, 32]);
            area.extend(half);
        }
        let size = u16::try_from(area.len()).unwrap().to_be_bytes();
        [size.to_vec(), area].concat()
    }

    #[test]
    fn who_vouches_for_an_endorsement_key() {
        let (device, maker, stranger) = (Ca::new("EVE"), Ca::new("Chips"), Ca::new("X"));
        let ek = KeyPair::generate().unwrap();
        let public = ecc_public(&ek);
        let mut makers = Makers::default();
        makers.add(crate::cert::der_of(&maker.pem)).unwrap();
        let judged =
            |pem: &str, public: &[u8]| judge(pem.as_bytes(), public, &device.cert(), &makers, NOW);
        let own = judged(&device.certify(&ek), &public).unwrap();
        assert_eq!(own.vouched, Vouched::Device);
        let made = judged(&maker.certify(&ek), &public[2..]).unwrap();
        assert_eq!((&made.vouched, made.key), (&Vouched::Maker, own.key));
        assert_eq!(made.name, own.name, "with the size before it or without");
        assert!(made.is(&own.key) && made.is(&own.name.unwrap()) && !made.is(&[0; 32]));
        assert_eq!(
            judged(&stranger.certify(&ek), &public),
            Err(EndorsementError::Nobody)
        );
        let other = ecc_public(&KeyPair::generate().unwrap());
        assert_eq!(
            judged(&device.certify(&ek), &other),
            Err(EndorsementError::Mismatch)
        );
        assert_eq!(judged(&device.certify(&ek), &[]).unwrap().name, None);
        for cut in 1..public.len() {
            assert!(
                judged(&device.certify(&ek), &public[..cut]).is_err(),
                "{cut}"
            );
        }
        assert!(matches!(
            judged("x", &[]),
            Err(EndorsementError::Certificate(_))
        ));
    }
}
