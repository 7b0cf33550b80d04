//! Keys as file names.
//!
//! Any string is a key: empty, `/`, `..`, control characters, thousands of letters. The usual ones (UUIDs, `uuid#1`,
//! `global`, digests) are their own file name, so that people find them with `ls`. The rule, which is reversible:
//!
//! - letters, digits and `- _ . # : @ + , = ~` stay, but for a leading `.`;
//! - every other byte of the UTF-8 form, and `%`, is `%` and two hexadecimal digits;
//! - the empty key is a lone `%`;
//! - a name that would be longer than [`LONGEST`] bytes is `%%` and the SHA-256 of the key; the key itself is in the file
//!   `.keys/<name>` of the topic's directory, written before the row.

use sha2::{Digest, Sha256};

/// Longest name of a row's file, without `.json`. File systems allow 255 bytes for the whole.
const LONGEST: usize = 200;

/// A key's name on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// The key can be read back from it.
    Plain(String),
    /// The key is too long and has to be kept beside it.
    Hashed(String),
}

impl Name {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Plain(name) | Self::Hashed(name) => name,
        }
    }
}

/// The file name (without `.json`) for `key`.
pub(crate) fn escape(key: &str) -> Name {
    if key.is_empty() {
        return Name::Plain("%".into());
    }
    let mut name = String::with_capacity(key.len());
    for (at, byte) in key.bytes().enumerate() {
        if stays(byte) && !(at == 0 && byte == b'.') {
            name.push(char::from(byte));
        } else {
            name.push('%');
            name.push(char::from(HEX[usize::from(byte >> 4)]));
            name.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    if name.len() <= LONGEST {
        Name::Plain(name)
    } else {
        Name::Hashed(hashed(key))
    }
}

/// What a file name (without `.json`) says about its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unescaped {
    /// This is the key.
    Key(String),
    /// The key is in `.keys/` under the same name; [`belongs`] tells whether it is the right one.
    Kept,
    /// No key has this name.
    Foreign,
}

/// The reverse of [`escape`].
pub(crate) fn unescape(name: &str) -> Unescaped {
    if name == "%" {
        return Unescaped::Key(String::new());
    }
    if is_hashed(name) {
        return Unescaped::Kept;
    }
    if !name.is_empty()
        && name.len() <= LONGEST
        && !name.starts_with('.')
        && name.bytes().all(stays)
    {
        return Unescaped::Key(name.to_owned());
    }
    let Some(key) = unescape_bytes(name) else {
        return Unescaped::Foreign;
    };
    // One key, one name: `%41` for `A` would make two rows of one.
    match escape(&key) {
        Name::Plain(own) if own == name => Unescaped::Key(key),
        Name::Plain(_) | Name::Hashed(_) => Unescaped::Foreign,
    }
}

/// Whether `name` is the name of a key that is kept beside its row.
pub(crate) fn is_hashed(name: &str) -> bool {
    name.starts_with("%%")
}

/// Whether `name` stands for this long `key`.
pub(crate) fn belongs(name: &str, key: &str) -> bool {
    hashed(key) == name
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

fn stays(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.#:@+,=~".contains(&byte)
}

fn hashed(key: &str) -> String {
    format!("%%{}", hex::encode(Sha256::digest(key)))
}

fn unescape_bytes(name: &str) -> Option<String> {
    let mut key = Vec::with_capacity(name.len());
    let mut bytes = name.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            key.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            key.push(byte);
        }
    }
    String::from_utf8(key).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn usual_keys_are_their_own_names() {
        for key in [
            "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
            "6ba7b810-9dad-11d1-80b4-00c04fd430c8#1",
            "global",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "nim:eth0",
            "x.json.y",
        ] {
            assert_eq!(escape(key), Name::Plain(key.into()));
        }
    }

    #[test]
    fn awkward_keys_have_safe_names() {
        for (key, name) in [
            ("", "%"),
            (".", "%2E"),
            ("..", "%2E."),
            ("a/b", "a%2Fb"),
            ("100%", "100%25"),
            ("é", "%C3%A9"),
        ] {
            assert_eq!(escape(key), Name::Plain(name.into()));
            assert_eq!(unescape(name), Unescaped::Key(key.into()));
        }
    }

    #[test]
    fn names_that_escape_never_makes_are_foreign() {
        for name in ["%41", "%4", "%zz", "%2e", "a b", ".hidden", "%FF", "%C3"] {
            assert_eq!(unescape(name), Unescaped::Foreign, "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_key_comes_back(key in any::<String>()) {
            match escape(&key) {
                Name::Plain(name) => {
                    prop_assert!(!name.is_empty() && name.len() <= LONGEST && !name.starts_with('.'));
                    prop_assert!(name.bytes().all(|b| stays(b) || b == b'%'));
                    prop_assert!(!is_hashed(&name));
                    prop_assert_eq!(unescape(&name), Unescaped::Key(key));
                }
                Name::Hashed(name) => {
                    prop_assert!(name.len() <= LONGEST);
                    prop_assert_eq!(unescape(&name), Unescaped::Kept);
                    prop_assert!(belongs(&name, &key));
                }
            }
        }

        #[test]
        fn different_keys_have_different_names(a in "[a%/.é]{0,80}", b in "[a%/.é]{0,80}") {
            prop_assert_eq!(a == b, escape(&a) == escape(&b));
        }

        #[test]
        fn any_file_name_is_taken_calmly(name in any::<String>()) {
            if let Unescaped::Key(key) = unescape(&name) {
                prop_assert_eq!(escape(&key), Name::Plain(name));
            }
        }
    }
}
