//! The signed envelope (`AuthContainer`) as the controller makes and opens it.
//!
//! Two hash inputs meet here: a device's certificate is named by the SHA-256 of its **DER**, the
//! controller's by the SHA-256 of the **PEM text** that devices got from `certs`. The signature is
//! always ECDSA P-256 over the SHA-256 of the payload bytes, written as `r || s` in 64 bytes.
//! The device's side of the same rules is written independently in `controller`; the two check
//! each other in the tests.

use std::sync::Arc;

use api::auth::{AuthBody, AuthContainer};
use api::common::HashAlgorithm;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey,
};
use sha2::{Digest as _, Sha256};

use crate::cert::Certificate;

/// Length of an ECDSA P-256 signature written as `r || s`.
pub const SIGNATURE_LEN: usize = 64;

/// Why an envelope was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// There is no `protectedPayload`, not even an empty one.
    #[error("the envelope has no protectedPayload")]
    NoPayload,
    /// `algo` is neither of the two that the protocol knows.
    #[error("hash algorithm {0} is not one of 1 (16 bytes) and 2 (32 bytes)")]
    Algorithm(i32),
    /// `senderCertHash` is not as long as `algo` says.
    #[error("senderCertHash has {found} bytes, algorithm {algo} wants {wanted}")]
    HashLength {
        /// The algorithm number of the envelope.
        algo: i32,
        /// Its hash length.
        wanted: usize,
        /// What was there.
        found: usize,
    },
    /// `senderCertHash` names another certificate than the one expected.
    #[error("senderCertHash names another certificate")]
    Sender,
    /// The signature is not 64 bytes, for example DER.
    #[error("the signature has {0} bytes; r||s of P-256 has 64 (DER is not accepted)")]
    SignatureLength(usize),
    /// The signature does not belong to this payload and key.
    #[error("the signature does not match the payload")]
    Signature,
    /// An encrypted envelope, which only a local operator console may send.
    #[error("encrypted envelopes are not accepted from devices")]
    Encrypted,
    /// The signing key can't be used.
    #[error("signing key: {0}")]
    Key(String),
}

impl EnvelopeError {
    /// Whether the message itself is malformed, as opposed to not being trusted.
    pub fn is_malformed(&self) -> bool {
        match self {
            Self::NoPayload | Self::Algorithm(_) | Self::HashLength { .. } | Self::Encrypted => {
                true
            }
            Self::Sender | Self::SignatureLength(_) | Self::Signature | Self::Key(_) => false,
        }
    }
}

/// Signs payloads as one identity. Cheap to clone.
#[derive(Clone)]
pub struct Signer {
    key: Arc<EcdsaKeyPair>,
    sender: [u8; 32],
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("sender", &hex::encode(self.sender))
            .finish_non_exhaustive()
    }
}

impl Signer {
    /// A signer from a PKCS#8 key; `sender` is the hash that the receiver knows the certificate by.
    pub fn new(pkcs8: &[u8], sender: [u8; 32]) -> Result<Self, EnvelopeError> {
        let key = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            pkcs8,
            &SystemRandom::new(),
        )
        .map_err(|e| EnvelopeError::Key(e.to_string()))?;
        Ok(Self {
            key: Arc::new(key),
            sender,
        })
    }

    /// The hash that this signer's envelopes carry.
    pub fn sender(&self) -> [u8; 32] {
        self.sender
    }

    /// Puts `payload` into a signed envelope.
    pub fn seal(&self, payload: Vec<u8>) -> Result<AuthContainer, EnvelopeError> {
        let signature = self
            .key
            .sign(&SystemRandom::new(), &payload)
            .map_err(|_| EnvelopeError::Key("signing failed".to_owned()))?;
        Ok(AuthContainer {
            protected_payload: Some(AuthBody { payload }),
            algo: HashAlgorithm::Sha25632bytes.into(),
            sender_cert_hash: self.sender.to_vec(),
            signature_hash: signature.as_ref().to_vec(),
            sender_cert: Vec::new(),
            cipher_context: None,
            cipher_data: None,
        })
    }
}

/// The hash of a controller certificate: SHA-256 of the PEM text exactly as delivered.
pub fn pem_hash(pem: &str) -> [u8; 32] {
    Sha256::digest(pem.as_bytes()).into()
}

/// Checks the parts of an envelope that need no key: algorithm, hash length, payload present.
///
/// Returns the sender's hash, 16 or 32 bytes of it.
pub fn sender(container: &AuthContainer) -> Result<&[u8], EnvelopeError> {
    if container.cipher_data.is_some() || container.cipher_context.is_some() {
        return Err(EnvelopeError::Encrypted);
    }
    if container.protected_payload.is_none() {
        return Err(EnvelopeError::NoPayload);
    }
    let wanted = match HashAlgorithm::try_from(container.algo) {
        Ok(HashAlgorithm::Sha25616bytes) => 16,
        Ok(HashAlgorithm::Sha25632bytes) => 32,
        Ok(HashAlgorithm::Invalid) | Err(_) => {
            return Err(EnvelopeError::Algorithm(container.algo));
        }
    };
    let found = container.sender_cert_hash.len();
    if found == wanted {
        Ok(&container.sender_cert_hash)
    } else {
        Err(EnvelopeError::HashLength {
            algo: container.algo,
            wanted,
            found,
        })
    }
}

/// Whether the sender hash of an envelope, short or long, names the certificate with `full` hash.
pub fn names(sender: &[u8], full: &[u8; 32]) -> bool {
    !sender.is_empty()
        && full
            .get(..sender.len())
            .is_some_and(|prefix| prefix == sender)
}

/// Opens an envelope that must come from the holder of `cert`, known by the hash of its DER.
pub fn open<'a>(
    container: &'a AuthContainer,
    cert: &Certificate,
) -> Result<&'a [u8], EnvelopeError> {
    open_as(container, cert.point(), &cert.hash())
}

/// Opens an envelope of the holder of the key `point` (65 bytes SEC1), known by `hash`.
pub fn open_as<'a>(
    container: &'a AuthContainer,
    point: &[u8],
    hash: &[u8; 32],
) -> Result<&'a [u8], EnvelopeError> {
    if !names(sender(container)?, hash) {
        return Err(EnvelopeError::Sender);
    }
    let payload = container
        .protected_payload
        .as_ref()
        .map(|b| &b.payload)
        .ok_or(EnvelopeError::NoPayload)?;
    let signature = &container.signature_hash;
    if signature.len() != SIGNATURE_LEN {
        return Err(EnvelopeError::SignatureLength(signature.len()));
    }
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
        .verify(payload, signature)
        .map_err(|_| EnvelopeError::Signature)?;
    Ok(payload)
}

#[cfg(test)]
#[path = "envelope_tests.rs"]
mod tests;
