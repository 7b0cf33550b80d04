//! Certificates as PEM texts, and whether they lead to the roots of the CONFIG partition. Pure: the caller gives
//! bytes and time.
//!
//! Who asks: `controller` for the controller's certificates, verifier for those who sign images.
//!
//! Where to look: [`verify`], one certificate and what is between it and a root; [`When`], how a clock that was never set
//! is judged; [`pem`], what a certificate says.
#![forbid(unsafe_code)]

pub mod pem;

use std::time::Duration;

use jiff::Timestamp;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

pub use pem::{PemError, PublicKey};

/// id-kp-codeSigning, 1.3.6.1.5.5.7.3.3 (RFC 5280, section 4.2.1.12), without tag and length.
const CODE_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 3];

/// Root certificates that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("root certificates: {0}")]
pub struct RootsError(pub String);

/// Where chains end: root-certificate.pem of the CONFIG partition.
#[derive(Debug, Clone)]
pub struct SigningRoots {
    anchors: Vec<TrustAnchor<'static>>,
    made: Option<Timestamp>,
}

impl SigningRoots {
    /// Every certificate of a PEM text; at least one.
    ///
    /// # Errors
    /// When one can't be read, or there is none.
    pub fn from_pem(pem: &[u8]) -> Result<Self, RootsError> {
        let mut anchors = Vec::new();
        let mut made = None;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| RootsError(error.to_string()))?;
            let anchor = anchor_from_trusted_cert(&certificate)
                .map_err(|error| RootsError(error.to_string()))?;
            anchors.push(anchor.to_owned());
            let begins = pem::not_before(&certificate).ok();
            made = made.max(begins.and_then(|second| Timestamp::from_second(second).ok()));
        }
        if anchors.is_empty() {
            return Err(RootsError("there is no PEM certificate".to_owned()));
        }
        Ok(Self { anchors, made })
    }

    /// When the newest of them was made: it is not earlier now, whatever the clock says.
    pub fn made(&self) -> Option<Timestamp> {
        self.made
    }
}

/// The time that chains are judged at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When {
    time: Timestamp,
    /// The wall clock was ever set: what it says to be not valid yet is not.
    is_set: bool,
}

impl When {
    /// What the wall clock says, and what is certain whatever it says.
    pub fn new(clock: Timestamp, certain: Option<Timestamp>) -> Self {
        Self {
            time: certain.map_or(clock, |certain| certain.max(clock)),
            is_set: model::clock::was_set(clock),
        }
    }
}

/// A moment that is beyond doubt.
impl From<Timestamp> for When {
    fn from(time: Timestamp) -> Self {
        Self { time, is_set: true }
    }
}

/// What a certificate has to be for. One that does not limit its use is for everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// TLS servers, as the controller's certificates are.
    Server,
    /// Signing images.
    CodeSigning,
}

/// Why a chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{why}")]
pub struct ChainError {
    /// In the judge's words.
    pub why: String,
    /// What it means.
    pub flaw: Flaw,
}

/// What is wrong with a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// It has ended.
    Ended,
    /// It has not begun.
    NotBegun,
    /// It leads elsewhere.
    OtherRoot,
    /// Anything else: damaged, for another purpose.
    Unsound,
}

/// Judges a certificate, through `between`, by `roots`, at a time.
///
/// # Errors
/// Why it is not to be trusted.
pub fn verify(
    leaf: &CertificateDer<'_>,
    between: &[CertificateDer<'static>],
    roots: &SigningRoots,
    purpose: Purpose,
    when: When,
) -> Result<(), ChainError> {
    let seconds = u64::try_from(when.time.as_second()).unwrap_or(0);
    let judge = |time: UnixTime| {
        let leaf = EndEntityCert::try_from(leaf)?;
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        let usage = match purpose {
            Purpose::Server => KeyUsage::server_auth(),
            Purpose::CodeSigning => KeyUsage::required_if_present(CODE_SIGNING),
        };
        leaf.verify_for_usage(algorithms, &roots.anchors, between, time, usage, None, None)
            .map(|_| ())
    };
    let mut verdict = judge(UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
    // To a clock that was never set everything is of the future: each link of the chain in turn.
    for _ in 0..=between.len() {
        match verdict {
            Err(webpki::Error::CertNotValidYet { not_before, .. }) if !when.is_set => {
                verdict = judge(not_before);
            }
            Ok(()) | Err(_) => break,
        }
    }
    verdict.map_err(|error| ChainError {
        why: error.to_string(),
        flaw: flaw(&error),
    })
}

fn flaw(error: &webpki::Error) -> Flaw {
    match error {
        webpki::Error::CertExpired { .. } => Flaw::Ended,
        webpki::Error::CertNotValidYet { .. } => Flaw::NotBegun,
        // A root of the same name with another key is another root.
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            Flaw::OtherRoot
        }
        _ => Flaw::Unsound,
    }
}
