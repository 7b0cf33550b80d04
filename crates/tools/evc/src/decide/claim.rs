//! Claims: who has the code that came with a device takes it.
//!
//! The code is made when the serial is admitted, told once, and goes with the box. It opens one device, once, and only
//! for so many tries; what is kept of it opens nothing.

use rand::Rng as _;
use sha2::{Digest as _, Sha256};

use super::Refusal;
use crate::secret::same;

/// Wrong codes until somebody has to admit the serial anew.
pub const TRIES: u32 = 10;
/// Letters and digits that are not taken for each other.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// A fresh code: fifty bits, in two groups.
pub fn fresh() -> String {
    let mut rng = rand::rng();
    let mut code: String = (0..10)
        .map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]))
        .collect();
    code.insert(5, '-');
    code
}

/// What is kept of a code, with the store's salt.
pub fn digest(code: &str, salt: &[u8; 32]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(salt);
    hash.update(plain(code));
    hash.finalize().into()
}

/// As people type it: small letters, blanks, and letters for the digits that look like them.
fn plain(code: &str) -> String {
    code.chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| match c.to_ascii_uppercase() {
            'O' => '0',
            'I' | 'L' => '1',
            other => other,
        })
        .collect()
}

/// What is known of the code that opens a device.
#[derive(Debug, Clone, Copy)]
pub struct Lock<'a> {
    /// What is kept of it.
    pub kept: &'a [u8],
    /// Wrong ones so far.
    pub tries: u32,
}

/// Decides about a claim.
pub fn decide(code: Option<&str>, lock: Lock<'_>, salt: &[u8; 32]) -> Result<(), Refusal> {
    let Some(code) = code else {
        return Err(Refusal::forbidden(
            "it can only be claimed with the code that came with it",
        ));
    };
    let left = TRIES.saturating_sub(lock.tries);
    if left == 0 {
        return Err(Refusal::forbidden(
            "too many wrong codes; delete the device if it is there and admit its serial anew, which makes another code",
        ));
    }
    if same(&digest(code, salt), lock.kept) {
        Ok(())
    } else {
        Err(Refusal::forbidden(format!(
            "the code is wrong; {} tries are left",
            left - 1
        )))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_code_opens_its_device_however_it_is_typed() {
        let salt = [3; 32];
        let code = fresh();
        assert_eq!((code.len(), code.as_bytes()[5]), (11, b'-'));
        assert_ne!(fresh(), code);
        let kept = digest(&code, &salt);
        let lock = |tries| Lock { kept: &kept, tries };
        let typed = [code.clone(), code.to_lowercase(), code.replace('-', " ")];
        for code in typed {
            assert_eq!(decide(Some(&code), lock(9), &salt), Ok(()));
        }
        assert_eq!(digest("OIL-0", &salt), digest("0110", &salt));
        let wrong = decide(Some("AAAAA-AAAAA"), lock(0), &salt).unwrap_err();
        assert_eq!(wrong.status.as_u16(), 403);
        assert!(wrong.reason.contains("9 tries are left"), "{wrong}");
        assert!(decide(None, lock(0), &salt).is_err());
        let locked = decide(Some(&code), lock(10), &salt);
        assert!(locked.is_err(), "even the right one");
        assert!(decide(Some(""), lock(0), &salt).is_err());
    }
}
