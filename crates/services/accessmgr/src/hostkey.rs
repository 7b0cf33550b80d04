//! The device's own key for logins, in the file format of OpenSSH ("openssh-key-v1", PROTOCOL.key).
//!
//! Made here and not by `ssh-keygen`, so that this service starts no programs at all.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::{
    error::Unspecified,
    rand::{SecureRandom, SystemRandom},
    signature::{Ed25519KeyPair, KeyPair},
};
use zeroize::Zeroizing;

const KIND: &[u8] = b"ssh-ed25519";
const COMMENT: &[u8] = b"eve";
/// Without a cipher the private part is padded to this.
const BLOCK: usize = 8;
const LINE: usize = 70;

/// A new key.
pub(crate) fn make() -> Result<Zeroizing<String>, Unspecified> {
    let random = SystemRandom::new();
    let mut seed = Zeroizing::new([0; 32]);
    random.fill(&mut *seed)?;
    let mut check = [0; 4];
    random.fill(&mut check)?;
    let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).map_err(|_| Unspecified)?;
    Ok(file(&seed, pair.public_key().as_ref(), check))
}

/// The file of a key. `check` stands in it twice, by which a reader sees whether it decrypted it right.
fn file(seed: &[u8; 32], public: &[u8], check: [u8; 4]) -> Zeroizing<String> {
    let mut blob = Vec::new();
    put(&mut blob, KIND);
    put(&mut blob, public);

    // Room for all of it at once: what moves leaves copies behind.
    let mut private = Zeroizing::new(Vec::with_capacity(256));
    private.extend(check);
    private.extend(check);
    put(&mut private, KIND);
    put(&mut private, public);
    let mut both = Zeroizing::new([0; 64]);
    both[..32].copy_from_slice(seed);
    both[32..].copy_from_slice(public);
    put(&mut private, &*both);
    put(&mut private, COMMENT);
    let mut padding = 1_u8;
    while private.len() % BLOCK != 0 {
        private.push(padding);
        padding += 1;
    }

    let mut all = Zeroizing::new(Vec::with_capacity(512));
    all.extend(b"openssh-key-v1\0");
    put(&mut all, b"none");
    put(&mut all, b"none");
    put(&mut all, b"");
    all.extend(1_u32.to_be_bytes());
    put(&mut all, &blob);
    put(&mut all, &private);

    let encoded = Zeroizing::new(BASE64_STANDARD.encode(&*all));
    let mut text = Zeroizing::new(String::with_capacity(1024));
    text.push_str("-----BEGIN OPENSSH PRIVATE KEY-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str("-----END OPENSSH PRIVATE KEY-----\n");
    text
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    // None of them is longer than a few hundred bytes.
    let len = u32::try_from(bytes.len()).unwrap_or_default();
    out.extend(len.to_be_bytes());
    out.extend_from_slice(bytes);
}
