//! The certificates of the further keys: kept while they fit, made where they do not.

use std::cell::RefCell;

use jiff::Timestamp;
use tpm::identity::{CertKey, IdentityError, certificate_by, certified_point, system_random};
use tpm::{CertificateKind, Signature, TpmError};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::chip::{ChipError, Link};
use crate::trouble;

/// The TPM's device key as what signs certificates, on the thread that has it.
pub(super) struct InChip<'a> {
    link: RefCell<&'a mut Link>,
    point: Vec<u8>,
    /// What the TPM said when it did not sign: rcgen only says that it did not.
    failed: RefCell<Option<ChipError>>,
}

impl<'a> InChip<'a> {
    pub(super) fn new(link: &'a mut Link, point: Vec<u8>) -> Self {
        Self {
            link: RefCell::new(link),
            point,
            failed: RefCell::default(),
        }
    }

    /// The better error, if there is one.
    pub(super) fn explain(&self, error: &IdentityError) -> ChipError {
        let failed = self.failed.borrow_mut().take();
        failed.unwrap_or_else(|| ChipError::Keys(error.to_string()))
    }
}

impl CertKey for InChip<'_> {
    fn public_point(&self) -> &[u8] {
        &self.point
    }

    fn sign_digest(&self, digest: [u8; 32]) -> Result<Signature, TpmError> {
        self.link.borrow_mut().sign(&digest).map_err(|error| {
            *self.failed.borrow_mut() = Some(error.clone());
            trouble::answer(error, Timestamp::UNIX_EPOCH)
        })
    }
}

/// A certificate of the key with this point: the one that is kept if it is of this key and signed by the
/// device's, else a new one.
pub(super) fn certificate(
    device: &impl CertKey,
    device_pem: &str,
    kind: CertificateKind,
    point: &[u8],
    kept: Option<&str>,
    now: Timestamp,
) -> Result<(String, bool), IdentityError> {
    if let Some(kept) = kept.filter(|kept| fits(kept, point, device_pem)) {
        return Ok((kept.to_owned(), false));
    }
    let made = certificate_by(device, device_pem, kind, point, now, &mut system_random)?;
    Ok((made, true))
}

fn fits(pem: &str, point: &[u8], device_pem: &str) -> bool {
    let is_of_key = certified_point(pem.as_bytes()).is_ok_and(|found| found == point);
    is_of_key && is_signed(pem, device_pem).unwrap_or(false)
}

fn is_signed(pem: &str, by: &str) -> Option<bool> {
    let der = |pem: &str| {
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
        Some(block.contents)
    };
    let (own, issuer) = (der(pem)?, der(by)?);
    let (_, own) = X509Certificate::from_der(&own).ok()?;
    let (_, issuer) = X509Certificate::from_der(&issuer).ok()?;
    // The device's certificate may have been exchanged for an authority's, of the same key and with another name.
    let names_it = own.issuer() == issuer.subject();
    Some(names_it && own.verify_signature(Some(issuer.public_key())).is_ok())
}

/// Begin of a certificate's validity: it is not earlier now, whatever the clock says.
pub(super) fn not_before(pem: &[u8]) -> Option<Timestamp> {
    let begins = x509_parser::pem::Pem::iter_from_buffer(pem)
        .filter_map(Result::ok)
        .filter_map(|block| {
            let (_, cert) = X509Certificate::from_der(&block.contents).ok()?;
            Some(cert.validity().not_before.timestamp())
        });
    begins
        .max()
        .and_then(|second| Timestamp::from_second(second).ok())
}
