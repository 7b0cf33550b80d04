//! Whether an image's signature counts. Pure.
//!
//! What is signed is the whole file, by ECDSA with SHA-256; the digest is known before a byte of it is here, so the
//! signature is judged first and nothing is fetched in vain (`docs/decisions/109-image-signatures.md`).

use chain::{
    ChainError, Flaw, PemError, PublicKey, Purpose, RootsError, SigningRoots, When,
    pem::{self, certificates, first_certificate, public_key},
};
use model::{content::ImageSignature, id::Digest};
use p256::ecdsa::{Signature, VerifyingKey, signature::hazmat::PrehashVerifier as _};
use thiserror::Error;

/// Why a signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// There is nothing to judge it by.
    #[error("/config/root-certificate.pem can't be read, so nobody's signature counts")]
    NoRoots,
    /// There is nothing sensible to judge it by.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// The signer's certificate can't be read.
    #[error("the signer's certificate can't be read: {0}")]
    Signer(PemError),
    /// One in between can't be read.
    #[error("a certificate between the signer's and the root can't be read: {0}")]
    Between(PemError),
    /// The signer is a stranger.
    #[error("the certificate of {signer} {}: {}", word(error.flaw), error.why)]
    Chain {
        /// As the certificate names it.
        signer: String,
        /// Why.
        error: ChainError,
    },
    /// A key that is not used here.
    #[error("the key of {signer} is not on the curve P-256")]
    Key {
        /// As the certificate names it.
        signer: String,
    },
    /// Not a signature.
    #[error("{bytes} bytes that are no ECDSA signature, neither in DER nor as r || s")]
    Form {
        /// Its length.
        bytes: usize,
    },
    /// Of something else or by somebody else.
    #[error("{signer} did not sign this image: it is another file, or another key")]
    Wrong {
        /// As the certificate names it.
        signer: String,
    },
}

impl SignatureError {
    /// Time may mend it, without another config.
    pub fn mends_itself(&self) -> bool {
        match self {
            Self::NoRoots | Self::Roots(_) => true,
            Self::Chain { error, .. } => error.flaw == Flaw::NotBegun,
            Self::Signer(_)
            | Self::Between(_)
            | Self::Key { .. }
            | Self::Form { .. }
            | Self::Wrong { .. } => false,
        }
    }
}

fn word(flaw: Flaw) -> &'static str {
    match flaw {
        Flaw::Ended => "has ended",
        Flaw::NotBegun => "is not valid yet",
        Flaw::OtherRoot => "does not lead to a root in /config/root-certificate.pem",
        Flaw::Unsound => "can't vouch for images",
    }
}

/// Who vouches for the image.
///
/// # Errors
/// Why nobody does. That dates do not fit is found last: everything else is in order then.
pub fn judge(
    signature: &ImageSignature,
    image: Digest,
    roots: &SigningRoots,
    when: When,
) -> Result<String, SignatureError> {
    let ImageSignature {
        signature,
        signer_pem,
        between_pem,
    } = signature;
    let certificate = first_certificate(signer_pem.as_bytes()).map_err(SignatureError::Signer)?;
    let signer = pem::subject(&certificate).map_err(SignatureError::Signer)?;
    let between = certificates(between_pem.as_bytes()).map_err(SignatureError::Between)?;
    let point = match public_key(&certificate) {
        Ok(PublicKey::P256(point)) => point,
        Ok(PublicKey::P384(_) | PublicKey::Rsa(_)) | Err(PemError::KeyKind(_)) => {
            return Err(SignatureError::Key { signer });
        }
        Err(error) => return Err(SignatureError::Signer(error)),
    };
    let Ok(key) = VerifyingKey::from_sec1_bytes(&point) else {
        return Err(SignatureError::Key { signer });
    };
    let bytes = signature.0.as_slice();
    let form = |_| SignatureError::Form { bytes: bytes.len() };
    let signature = Signature::from_der(bytes)
        .or_else(|_| Signature::from_slice(bytes))
        .map_err(form)?;
    if key.verify_prehash(&image.0, &signature).is_err() {
        return Err(SignatureError::Wrong { signer });
    }
    match chain::verify(&certificate, &between, roots, Purpose::CodeSigning, when) {
        Ok(()) => Ok(signer),
        Err(error) => Err(SignatureError::Chain { signer, error }),
    }
}
