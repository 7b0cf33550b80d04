//! Points on P-256.

use std::fmt;

use p256::elliptic_curve::sec1::{FromEncodedPoint, ToEncodedPoint};
use p256::{AffinePoint, EncodedPoint, ProjectivePoint, PublicKey, SecretKey};
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::pem::parse_x509_pem;

use crate::key::SharedPoint;

/// Why there is no point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CurveError {
    /// No certificate to take it from.
    #[error("not a certificate in PEM form: {0}")]
    Certificate(String),
    /// A key of another kind.
    #[error("the certificate's key is {0}, not one on the curve P-256")]
    Kind(String),
    /// Bytes that are no point of the curve, or the one at infinity.
    #[error("the key is no point on the curve P-256")]
    Point,
}

/// The other side's public key.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerKey([u8; 65]);

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerKey({})", hex::encode(self.0))
    }
}

impl PeerKey {
    /// The key of the first certificate of a PEM text.
    pub fn from_certificate(pem: &[u8]) -> Result<Self, CurveError> {
        let bad = |why: String| CurveError::Certificate(why);
        let (_, block) = parse_x509_pem(pem).map_err(|error| bad(error.to_string()))?;
        let certificate = block.parse_x509().map_err(|error| bad(error.to_string()))?;
        let spki = certificate.public_key();
        let curve = spki
            .algorithm
            .parameters
            .as_ref()
            .and_then(|any| any.as_oid().ok());
        match curve {
            Some(curve)
                if spki.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
                    && curve == OID_EC_P256 =>
            {
                Self::from_sec1(&spki.subject_public_key.data)
            }
            Some(curve) => Err(CurveError::Kind(format!("of the kind {curve}"))),
            None => {
                let kind = spki.algorithm.algorithm.to_id_string();
                Err(CurveError::Kind(format!("of the kind {kind}")))
            }
        }
    }

    /// A point in SEC1 form, compressed or not. It is checked to be on the curve: a made-up one would let the other
    /// side learn the private key bit by bit.
    pub fn from_sec1(bytes: &[u8]) -> Result<Self, CurveError> {
        let key = PublicKey::from_sec1_bytes(bytes).map_err(|_| CurveError::Point)?;
        let mut point = [0; 65];
        let encoded = key.to_encoded_point(false);
        if encoded.as_bytes().len() != point.len() {
            return Err(CurveError::Point);
        }
        point.copy_from_slice(encoded.as_bytes());
        Ok(Self(point))
    }

    /// The uncompressed SEC1 form.
    pub fn sec1(&self) -> &[u8; 65] {
        &self.0
    }
}

/// The exchange with a private key in software: the whole shared point, which plain ECDH does not give.
pub fn agree(own: &SecretKey, peer: &PeerKey) -> Result<SharedPoint, CurveError> {
    let encoded = EncodedPoint::from_bytes(peer.0).map_err(|_| CurveError::Point)?;
    let point = Option::<AffinePoint>::from(AffinePoint::from_encoded_point(&encoded))
        .ok_or(CurveError::Point)?;
    let shared = (ProjectivePoint::from(point) * *own.to_nonzero_scalar()).to_affine();
    let shared = shared.to_encoded_point(false);
    match (shared.x(), shared.y()) {
        (Some(x), Some(y)) => Ok(SharedPoint::new((*x).into(), (*y).into())),
        _ => Err(CurveError::Point),
    }
}
