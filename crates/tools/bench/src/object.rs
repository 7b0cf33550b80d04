//! The object that is published: 1 KB of JSON in the shape of a status, with nested parts, texts and numbers.

use serde::{Deserialize, Serialize};

/// What says which sample an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Stamp {
    /// Counts the samples of one publisher from 1.
    pub seq: u64,
    /// When publishing began, on the monotonic clock.
    pub sent_ns: u64,
    /// The last one of a burst.
    pub last: bool,
}

/// A part of the object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Part {
    name: String,
    address: String,
    sizes: Vec<u64>,
    state: String,
    #[serde(default)]
    fault: Option<String>,
}

/// The object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Sample {
    /// Which sample it is.
    pub stamp: Stamp,
    id: String,
    display_name: String,
    version: u32,
    activated: bool,
    parts: Vec<Part>,
}

impl Sample {
    /// The object of a key.
    pub fn new(number: u64) -> Self {
        let part = |part: u64| Part {
            name: format!("interface-{part}"),
            address: format!("10.{}.{}.{part}", number >> 8 & 0xff, number & 0xff),
            sizes: vec![1_048_576 * (part + 1), 4096, number],
            state: "waiting for the uplink eth0 to get an address".to_owned(),
            fault: (part == 0)
                .then(|| "no DHCP server answered within 30 s, next try in 8 s".to_owned()),
        };
        Self {
            stamp: Stamp::default(),
            id: key(number),
            display_name:
                "the application that counts what passes through the gates of the north hall, by day and by night, in every weather"
                    .to_owned(),
            version: 1,
            activated: true,
            parts: (0..5).map(part).collect(),
        }
    }
}

/// The key of a row, as long as the UUIDs that most keys are.
pub fn key(number: u64) -> String {
    format!("{number:08x}-0b1c-4d2e-8f3a-{number:012x}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_object_is_one_kilobyte() {
        for number in [0, 9_999, 99_999] {
            let mut object = Sample::new(number);
            object.stamp = Stamp {
                seq: 3000,
                sent_ns: 10_000_000_000_000,
                last: false,
            };
            let json = serde_json::to_vec(&object).unwrap();
            assert!((980..=1060).contains(&json.len()), "{}", json.len());
            assert_eq!(serde_json::from_slice::<Sample>(&json).unwrap(), object);
        }
    }
}
