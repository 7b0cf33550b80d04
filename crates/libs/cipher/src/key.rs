//! From the shared point to the clear text.

use std::fmt;

use aes::Aes256;
use cfb_mode::cipher::KeyIvInit;
use cfb_mode::{Decryptor, Encryptor};
use model::id::Digest;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Bytes of an initialisation vector.
pub const IV: usize = 16;

/// What both sides of an exchange know and nobody else.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedPoint {
    /// Big-endian, padded on the left.
    pub x: Zeroizing<[u8; 32]>,
    /// Big-endian, padded on the left.
    pub y: Zeroizing<[u8; 32]>,
}

impl SharedPoint {
    /// Both coordinates, padded on the left.
    pub fn new(x: [u8; 32], y: [u8; 32]) -> Self {
        Self {
            x: Zeroizing::new(x),
            y: Zeroizing::new(y),
        }
    }

    /// Coordinates as a TPM gives them: it may leave leading zeros out.
    pub fn from_coordinates(x: &[u8], y: &[u8]) -> Option<Self> {
        Some(Self::new(padded(x)?, padded(y)?))
    }
}

fn padded(short: &[u8]) -> Option<[u8; 32]> {
    let mut long = [0; 32];
    let start = long.len().checked_sub(short.len())?;
    long[start..].copy_from_slice(short);
    Some(long)
}

impl fmt::Debug for SharedPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedPoint(***)")
    }
}

/// What is wrong with a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Not the size of an AES block.
    #[error("its initial value has {0} bytes instead of {IV}")]
    InitialValue(usize),
    /// Nothing is encrypted.
    #[error("it is empty")]
    Empty,
    /// More than anything that belongs in its place.
    #[error("it has {bytes} bytes, of which {limit} are taken")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The digest does not have the size of one.
    #[error("its clearTextSha256 has {0} bytes instead of 32")]
    DigestSize(usize),
    /// Another key, or changed bytes.
    #[error(
        "what comes out of it does not have the digest that was sent: it was encrypted with other keys, or changed"
    )]
    Digest,
}

/// What [`Key::encrypt`] makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The cipher text, as long as the clear text.
    pub data: Vec<u8>,
    /// SHA-256 of the clear text.
    pub digest: Digest,
}

/// An AES-256 key.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Zeroizing<[u8; 32]>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(***)")
    }
}

impl Key {
    /// The key of a shared point.
    pub fn derive(point: &SharedPoint) -> Self {
        let mut hash = Sha256::new();
        hash.update(*point.x);
        hash.update(*point.y);
        Self(Zeroizing::new(hash.finalize().into()))
    }

    /// The bytes, for who stores them encrypted.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Encrypts.
    pub fn encrypt(&self, iv: &[u8; IV], clear: &[u8]) -> Sealed {
        let mut data = clear.to_vec();
        Encryptor::<Aes256>::new((&*self.0).into(), iv.into()).encrypt(&mut data);
        Sealed {
            data,
            digest: Digest(Sha256::digest(clear).into()),
        }
    }

    /// Decrypts, and checks that the right thing came out.
    pub fn decrypt(
        &self,
        iv: &[u8],
        data: &[u8],
        digest: &Digest,
    ) -> Result<Zeroizing<Vec<u8>>, BlockError> {
        let iv: [u8; IV] = iv
            .try_into()
            .map_err(|_| BlockError::InitialValue(iv.len()))?;
        if data.is_empty() {
            return Err(BlockError::Empty);
        }
        let mut clear = Zeroizing::new(data.to_vec());
        Decryptor::<Aes256>::new((&*self.0).into(), (&iv).into()).decrypt(&mut clear);
        if Sha256::digest(&*clear).as_slice() == digest.0 {
            Ok(clear)
        } else {
            Err(BlockError::Digest)
        }
    }
}
