//! The signed envelope of API version 2 (`AuthContainer`). Pure.
//!
//! The signature is over the payload bytes as sent, so it is checked over the bytes as
//! received. A device's certificate is named by the hash of its DER, a controller's by
//! the hash of its PEM text as delivered.

use api::auth::{AuthBody, AuthContainer};
use api::common::HashAlgorithm;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA256_ASN1, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
};
use thiserror::Error;

use crate::certs::{ControllerCerts, SigningCert};
use crate::error::undecoded;
use crate::signer::{Signer, SignerError};
use crate::status::SenderStatus;
use chain::{PublicKey, pem::sha256};

/// Why an envelope can't be opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    /// Not an envelope.
    #[error("the answer is not an AuthContainer: {0}")]
    Malformed(String),
    /// An envelope with nothing in it.
    #[error("the AuthContainer has no payload")]
    NoPayload,
    /// An encrypted payload, which only a LOC may send.
    #[error("the AuthContainer's payload is encrypted, which the controller must not do")]
    Encrypted,
    /// The sender's hash is neither 16 nor 32 bytes, or not what its algorithm says.
    #[error("sender hash of {length} bytes with algorithm {algorithm}")]
    HashSize {
        /// Bytes.
        length: usize,
        /// As in the message.
        algorithm: i32,
    },
    /// An unknown hash algorithm.
    #[error("unknown sender hash algorithm {0}")]
    Algorithm(i32),
    /// Signed with a certificate that is not the stored one.
    #[error("signed with certificate {found}, but the stored one is {stored}")]
    UnknownSender {
        /// Its hash, in hex.
        found: String,
        /// Hash of the stored one, in hex.
        stored: String,
    },
    /// The signature is wrong.
    #[error("the signature over the payload is wrong")]
    Signature,
}

impl EnvelopeError {
    /// EVE's name for it.
    pub fn status(&self) -> SenderStatus {
        match self {
            Self::Malformed(_) | Self::NoPayload | Self::Encrypted => SenderStatus::Failed,
            Self::HashSize { .. } => SenderStatus::HashSizeError,
            Self::Algorithm(_) => SenderStatus::AlgoFail,
            Self::UnknownSender { .. } => SenderStatus::CertMiss,
            Self::Signature => SenderStatus::SignVerifyFail,
        }
    }
}

/// Wraps and signs a message. `with_cert` adds the signer's certificate, which only
/// register does.
pub fn seal(
    signer: &dyn Signer,
    payload: Vec<u8>,
    with_cert: bool,
) -> Result<AuthContainer, SignerError> {
    let signature = signer.sign_digest(&sha256(&payload))?;
    let certificate = signer.certificate();
    let sender_cert = with_cert.then(|| STANDARD.encode(certificate.pem()).into_bytes());
    Ok(AuthContainer {
        // Present even when the payload is empty.
        protected_payload: Some(AuthBody { payload }),
        algo: HashAlgorithm::Sha25632bytes.into(),
        sender_cert_hash: certificate.der_hash().to_vec(),
        signature_hash: signature.0.to_vec(),
        sender_cert: sender_cert.unwrap_or_default(),
        cipher_context: None,
        cipher_data: None,
    })
}

/// Opens an envelope that must be signed with `signer`; returns the payload.
pub fn open(bytes: &[u8], signer: &SigningCert) -> Result<Vec<u8>, EnvelopeError> {
    let container = decode(bytes)?;
    let algorithm = container.algo;
    let length = container.sender_cert_hash.len();
    if length != 16 && length != 32 {
        return Err(EnvelopeError::HashSize { length, algorithm });
    }
    let wanted = match HashAlgorithm::try_from(algorithm) {
        Ok(HashAlgorithm::Sha25616bytes) => 16,
        Ok(HashAlgorithm::Sha25632bytes) => 32,
        Ok(HashAlgorithm::Invalid) | Err(_) => return Err(EnvelopeError::Algorithm(algorithm)),
    };
    if length != wanted {
        return Err(EnvelopeError::HashSize { length, algorithm });
    }
    let stored = &signer.hash()[..wanted];
    if container.sender_cert_hash != stored {
        let found = hex::encode(&container.sender_cert_hash);
        return Err(EnvelopeError::UnknownSender {
            found,
            stored: hex::encode(stored),
        });
    }
    let signature = container.signature_hash.clone();
    let payload = payload(container)?;
    if !verify(signer.key(), &payload, &signature) {
        return Err(EnvelopeError::Signature);
    }
    Ok(payload)
}

/// Who signed an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignedWith {
    /// The controller's certificate of now.
    Present,
    /// The one before it.
    Former,
}

/// Opens an envelope of the controller. Between the moment that it announces a new signing certificate and the one that it
/// uses it, it goes on with the former one: that is taken too if `former` says so.
pub fn open_with(
    bytes: &[u8],
    certs: &ControllerCerts,
    former: bool,
) -> Result<(Vec<u8>, SignedWith), EnvelopeError> {
    match (open(bytes, certs.signing()), certs.former()) {
        (Err(unknown @ EnvelopeError::UnknownSender { .. }), Some(before)) if former => {
            // The error that is told is about the certificate of now.
            open(bytes, before)
                .map(|payload| (payload, SignedWith::Former))
                .map_err(|_| unknown)
        }
        (result, _) => result.map(|payload| (payload, SignedWith::Present)),
    }
}

/// Opens an envelope without looking at who signed it: only for the controller's
/// certificates, which prove themselves by their chain.
pub fn open_unverified(bytes: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    payload(decode(bytes)?)
}

fn decode(bytes: &[u8]) -> Result<AuthContainer, EnvelopeError> {
    AuthContainer::decode(bytes).map_err(|error| EnvelopeError::Malformed(undecoded(&error)))
}

fn payload(container: AuthContainer) -> Result<Vec<u8>, EnvelopeError> {
    if container.cipher_data.is_some() || container.cipher_context.is_some() {
        return Err(EnvelopeError::Encrypted);
    }
    container
        .protected_payload
        .map(|body| body.payload)
        .ok_or(EnvelopeError::NoPayload)
}

/// ECDSA signatures are `r || s`, padded to the key's size; RSA ones PKCS#1 v1.5.
fn verify(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    match key {
        PublicKey::P256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(message, signature)
            .is_ok(),
        // The digest is always SHA-256; for this curve ring knows that only in DER.
        PublicKey::P384(point) => {
            signature.len() == 96 && {
                let der = raw_to_der(signature);
                UnparsedPublicKey::new(&ECDSA_P384_SHA256_ASN1, point)
                    .verify(message, &der)
                    .is_ok()
            }
        }
        PublicKey::Rsa(key) => UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key)
            .verify(message, signature)
            .is_ok(),
    }
}

/// `r || s` of at most 48 bytes each as ASN.1: all lengths fit one byte.
fn raw_to_der(raw: &[u8]) -> Vec<u8> {
    let (r, s) = raw.split_at(raw.len() / 2);
    let (r, s) = (der_integer(r), der_integer(s));
    let length = u8::try_from(r.len() + s.len()).unwrap_or(u8::MAX);
    let mut der = vec![0x30, length];
    der.extend(r);
    der.extend(s);
    der
}

fn der_integer(bytes: &[u8]) -> Vec<u8> {
    let first = bytes
        .iter()
        .position(|byte| *byte != 0)
        .unwrap_or(bytes.len().saturating_sub(1));
    let digits = &bytes[first..];
    let sign = digits.first().is_some_and(|byte| byte & 0x80 != 0);
    let length = u8::try_from(digits.len() + usize::from(sign)).unwrap_or(u8::MAX);
    let mut der = vec![2, length];
    if sign {
        der.push(0);
    }
    der.extend(digits);
    der
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
