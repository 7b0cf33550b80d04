//! Identifiers and other scalars, parsed once at the edge: no `String` id passes `translate`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A scalar that does not have the form its type asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct ParseIdError {
    /// What was given, cut to 80 characters.
    pub text: String,
    /// The form that was expected, in words.
    pub expected: &'static str,
}

impl ParseIdError {
    pub(crate) fn new(text: &str, expected: &'static str) -> Self {
        Self {
            text: text.chars().take(80).collect(),
            expected,
        }
    }
}

macro_rules! uuid_id {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                Uuid::parse_str(text.trim()).map(Self).map_err(|_| ParseIdError::new(text, "a UUID"))
            }
        }
    )+};
}

uuid_id! {
    /// The device, as the controller names it.
    DeviceId,
    /// An application instance.
    AppId,
    /// A volume (without its generation).
    VolumeId,
    /// A content tree: one image, whatever blobs it consists of.
    ContentTreeId,
    /// A datastore.
    DatastoreId,
    /// A network instance.
    NetworkInstanceId,
    /// A network object of the controller's config, referred to by ports.
    NetworkId,
}

/// SHA-256 of some bytes; in text 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.trim(), &mut bytes)
            .map(|()| Self(bytes))
            .map_err(|_| ParseIdError::new(text, "a SHA-256 digest of 64 hex digits"))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A MAC address; in text six lower-case hex pairs with colons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.0.map(|byte| hex::encode([byte]));
        f.write_str(&pairs.join(":"))
    }
}

impl FromStr for MacAddr {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let err = || ParseIdError::new(text, "a MAC address like 02:16:3e:00:00:01");
        let mut bytes = [0; 6];
        let mut parts = text.trim().split([':', '-']);
        for byte in &mut bytes {
            // A sign is a digit only to the parser of numbers.
            let is_pair = |p: &&str| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit());
            let part = parts.next().filter(is_pair).ok_or_else(err)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| err())?;
        }
        if parts.next().is_some() {
            Err(err())
        } else {
            Ok(Self(bytes))
        }
    }
}

impl Serialize for MacAddr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A volume and its generation: recreating a volume's content is a new generation, so this is
/// what files, references and statuses are keyed by. In text `<uuid>#<generation>`, as in EVE.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeKey {
    /// The volume.
    pub volume: VolumeId,
    /// Which incarnation of its content; bumped by the controller and by purge.
    pub generation: u64,
}

impl fmt::Display for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.volume, self.generation)
    }
}

impl FromStr for VolumeKey {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let err = || ParseIdError::new(text, "a volume key like <uuid>#<generation>");
        let (volume, generation) = text.split_once('#').ok_or_else(err)?;
        Ok(Self {
            volume: volume.parse()?,
            generation: generation.parse().map_err(|_| err())?,
        })
    }
}

/// The user's name of a port or another adapter, unique on the device (`mgmt`, `shopfloor`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogicalLabel(pub String);

impl fmt::Display for LogicalLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A Linux network interface name: 1 to 15 bytes without `/`, white space or `:`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct IfName(String);

impl IfName {
    /// The name as the kernel knows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for IfName {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let fits = (1..=15).contains(&text.len())
            && text != "."
            && text != ".."
            && text
                .bytes()
                .all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'"' | b'\\'));
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseIdError::new(
                text,
                "an interface name of 1 to 15 printable characters",
            ))
        }
    }
}

impl<'de> Deserialize<'de> for IfName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_reads_as_an_address_is_written_as_it(text in "([0-9a-f+]{2}[:-]){5}[0-9a-f+]{2}") {
            if let Ok(mac) = text.parse::<MacAddr>() {
                prop_assert_eq!(mac.to_string(), text.replace('-', ":"));
            }
        }

        #[test]
        fn text_forms_round_trip(bytes: [u8; 32], mac: [u8; 6], id: u128, generation: u64) {
            let digest = Digest(bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
            let mac = MacAddr(mac);
            prop_assert_eq!(mac.to_string().parse::<MacAddr>().unwrap(), mac);
            let key = VolumeKey { volume: VolumeId(Uuid::from_u128(id)), generation };
            prop_assert_eq!(key.to_string().parse::<VolumeKey>().unwrap(), key);
        }

        #[test]
        fn parsers_never_panic(text in ".*") {
            let _ = text.parse::<Digest>();
            let _ = text.parse::<MacAddr>();
            let _ = text.parse::<VolumeKey>();
            let _ = text.parse::<IfName>();
        }
    }

    #[test]
    fn interface_names_that_could_escape_a_file_or_a_rule_are_refused() {
        for bad in ["", "a/b", "..", "sixteen-chars-xx", "a b", "a\"b", "eth0:1"] {
            assert!(bad.parse::<IfName>().is_err(), "{bad}");
        }
        assert!("bn1".parse::<IfName>().is_ok());
    }
}
