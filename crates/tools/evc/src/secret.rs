//! Comparing and making secrets.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore as _;
use sha2::{Digest as _, Sha256};

/// Whether two secrets are the same, in a time that doesn't tell where they differ.
///
/// Nothing equals an empty secret, so that a missing one never opens a door.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    // Digests have one length whatever the inputs', so lengths don't show either.
    let (x, y) = (Sha256::digest(a), Sha256::digest(b));
    let difference = x
        .iter()
        .zip(y.iter())
        .fold(0_u8, |sum, (p, q)| sum | (p ^ q));
    std::hint::black_box(difference) == 0 && !a.is_empty()
}

/// Fresh random bytes from the system.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

/// A fresh token that fits in a header: 256 bits, base64url.
pub fn token() -> String {
    URL_SAFE_NO_PAD.encode(random::<32>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_equal_non_empty_secrets_are_the_same() {
        assert!(same(b"abc", b"abc"));
        assert!(!same(b"abc", b"abd"));
        assert!(!same(b"abc", b"abcd"));
        assert!(!same(b"", b""));
        assert_ne!(token(), token());
        assert_eq!(token().len(), 43);
    }
}
