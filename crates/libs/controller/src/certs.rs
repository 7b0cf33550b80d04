//! The controller's certificates (`ZControllerCert`) and their chain to the device's root.
//! Pure: the caller keeps the bytes and gives the time.
//!
//! Exactly one signing certificate, at least one for ECDH, any number of intermediates;
//! each leaf must lead to a root of the CONFIG partition at the given time and, if it
//! limits its use, be allowed for a TLS server.

use std::collections::BTreeSet;

use api::certs::{ZCert, ZCertType, ZControllerCert};
use chain::pem::{first_certificate, not_before, public_key, sha256};
use chain::{Flaw, PemError, PublicKey, Purpose, SigningRoots, When};
use prost::Message;
use rustls_pki_types::CertificateDer;
use thiserror::Error;

use crate::error::undecoded;
use crate::status::SenderStatus;

/// Why the controller's certificates are not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CertsError {
    /// Not the message.
    #[error("not a ZControllerCert: {0}")]
    Malformed(String),
    /// A certificate of a kind that has no place here.
    #[error("certificate {index} has the type {kind}")]
    Kind {
        /// Position, from 0.
        index: usize,
        /// As in the message.
        kind: i32,
    },
    /// A certificate can't be read.
    #[error("certificate {index}")]
    Unreadable {
        /// Position, from 0.
        index: usize,
        /// Why.
        #[source]
        source: PemError,
    },
    /// Not exactly one signing certificate.
    #[error("{0} signing certificates instead of one")]
    Signing(usize),
    /// No certificate for key exchange.
    #[error("no certificate for ECDH key exchange")]
    NoEcdh,
    /// The chain does not hold.
    #[error("certificate {index} has no valid chain to the device's root: {why}")]
    Chain {
        /// Position, from 0.
        index: usize,
        /// The verifier's words.
        why: String,
        /// What they mean.
        status: SenderStatus,
    },
}

impl CertsError {
    /// EVE's name for it.
    pub fn status(&self) -> SenderStatus {
        match self {
            Self::Chain { status, .. } => *status,
            Self::Malformed(_)
            | Self::Kind { .. }
            | Self::Unreadable { .. }
            | Self::Signing(_)
            | Self::NoEcdh => SenderStatus::Failed,
        }
    }
}

/// The certificate that the controller signs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningCert {
    hash: [u8; 32],
    key: PublicKey,
    not_before: i64,
}

impl SigningCert {
    pub(crate) fn from_pem(pem: &[u8]) -> Result<Self, PemError> {
        let der = first_certificate(pem)?;
        Ok(Self {
            hash: sha256(pem),
            key: public_key(&der)?,
            not_before: not_before(&der)?,
        })
    }

    /// SHA-256 of the PEM text as delivered: how envelopes name it.
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Its public key.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Begin of its validity, seconds since 1970; a LOC must not hand out an older one.
    pub fn not_before(&self) -> i64 {
        self.not_before
    }
}

/// A certificate for key exchange, as delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EcdhCert {
    /// The hash by which cipher contexts name it; opaque.
    pub hash: Vec<u8>,
    /// PEM text.
    pub pem: Vec<u8>,
}

/// Certificates of the controller whose chains hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerCerts {
    signing: SigningCert,
    /// What the controller signed with before.
    former: Option<SigningCert>,
    signing_as_ecdh: EcdhCert,
    ecdh: Vec<EcdhCert>,
    hashes: BTreeSet<Vec<u8>>,
    bytes: Vec<u8>,
}

impl ControllerCerts {
    /// Checks a bare `ZControllerCert`, as fetched or as kept by an earlier boot.
    pub fn verify(
        bytes: &[u8],
        roots: &SigningRoots,
        now: impl Into<When>,
    ) -> Result<Self, CertsError> {
        let now = now.into();
        let message = ZControllerCert::decode(bytes)
            .map_err(|error| CertsError::Malformed(undecoded(&error)))?;
        let kinds = message
            .certs
            .iter()
            .enumerate()
            .map(kind)
            .collect::<Result<Vec<_>, _>>()?;
        let of = |wanted: Kind| {
            let pairs = kinds.iter().zip(&message.certs).enumerate();
            pairs
                .filter(move |(_, (kind, _))| **kind == wanted)
                .map(|(index, (_, cert))| (index, cert))
        };
        let intermediates = of(Kind::Intermediate)
            .map(|(index, cert)| certificate(index, cert))
            .collect::<Result<Vec<_>, _>>()?;
        for (index, cert) in of(Kind::Signing).chain(of(Kind::Ecdh)) {
            verify_chain(
                index,
                &certificate(index, cert)?,
                &intermediates,
                roots,
                now,
            )?;
        }
        let signing: Vec<(usize, &ZCert)> = of(Kind::Signing).collect();
        let [(index, signing)] = signing.as_slice() else {
            return Err(CertsError::Signing(signing.len()));
        };
        let ecdh: Vec<EcdhCert> = of(Kind::Ecdh).map(|(_, cert)| as_ecdh(cert)).collect();
        if ecdh.is_empty() {
            return Err(CertsError::NoEcdh);
        }
        Ok(Self {
            signing: SigningCert::from_pem(&signing.cert).map_err(|source| {
                CertsError::Unreadable {
                    index: *index,
                    source,
                }
            })?,
            former: None,
            signing_as_ecdh: as_ecdh(signing),
            ecdh,
            hashes: message
                .certs
                .iter()
                .map(|cert| cert.cert_hash.clone())
                .collect(),
            bytes: bytes.to_vec(),
        })
    }

    /// The certificate that the controller signs with.
    pub fn signing(&self) -> &SigningCert {
        &self.signing
    }

    /// The same as the successor of `former`: what that signed is still the controller's.
    #[must_use]
    pub fn after(mut self, former: &Self) -> Self {
        if former.signing != self.signing {
            self.former = Some(former.signing.clone());
        }
        self
    }

    /// What the controller signed with before.
    pub fn former(&self) -> Option<&SigningCert> {
        self.former.as_ref()
    }

    /// The certificate that a cipher context names by its hash. The type is not looked at:
    /// controllers also encrypt with their signing certificate.
    pub fn by_hash(&self, hash: &[u8]) -> Option<&EcdhCert> {
        std::iter::once(&self.signing_as_ecdh)
            .chain(&self.ecdh)
            .find(|cert| cert.hash == hash)
    }

    /// The bare `ZControllerCert` as delivered, to be kept.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// True if it holds other certificates than `other`; the order means nothing.
    pub fn differs_from(&self, other: &Self) -> bool {
        self.hashes != other.hashes
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Signing,
    Intermediate,
    Ecdh,
}

fn kind((index, cert): (usize, &ZCert)) -> Result<Kind, CertsError> {
    match ZCertType::try_from(cert.r#type) {
        Ok(ZCertType::CertTypeControllerSigning) => Ok(Kind::Signing),
        Ok(ZCertType::CertTypeControllerIntermediate) => Ok(Kind::Intermediate),
        Ok(ZCertType::CertTypeControllerEcdhExchange) => Ok(Kind::Ecdh),
        Ok(_) | Err(_) => Err(CertsError::Kind {
            index,
            kind: cert.r#type,
        }),
    }
}

fn as_ecdh(cert: &ZCert) -> EcdhCert {
    EcdhCert {
        hash: cert.cert_hash.clone(),
        pem: cert.cert.clone(),
    }
}

fn certificate(index: usize, cert: &ZCert) -> Result<CertificateDer<'static>, CertsError> {
    first_certificate(&cert.cert).map_err(|source| CertsError::Unreadable { index, source })
}

fn verify_chain(
    index: usize,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'static>],
    roots: &SigningRoots,
    now: When,
) -> Result<(), CertsError> {
    chain::verify(leaf, intermediates, roots, Purpose::Server, now).map_err(|error| {
        CertsError::Chain {
            index,
            status: match error.flaw {
                Flaw::Ended | Flaw::NotBegun => SenderStatus::CertInvalid,
                Flaw::OtherRoot => SenderStatus::CertUnknownAuthority,
                Flaw::Unsound => SenderStatus::Failed,
            },
            why: error.why,
        }
    })
}

#[cfg(test)]
#[path = "certs_tests.rs"]
mod tests;
