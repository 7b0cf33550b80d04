//! Stable error codes. `docs/errors.md` is generated from this table; a code is never reused.
//!
//! What stands here is read by people who did not write the device: the remedy says what to look at and what to
//! change, and what the device does by itself. The table is in `code/table.rs` and
//! `code/trust.rs`.

use std::fmt;

macro_rules! codes {
    ($($variant:ident = $text:literal {
        meaning: $meaning:literal,
        causes: [$($cause:literal),+ $(,)?],
        remedy: $remedy:literal,
        properties: [$($property:literal),* $(,)?],
    })+) => {
        /// A stable error code, in text `area.what`.
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
        )]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $meaning] #[serde(rename = $text)] $variant,)+
            /// A code of another version, kept readable across an update or a fallback.
            #[serde(other, rename = "unknown")]
            Unknown,
        }

        impl Code {
            /// Every code that this version can report.
            pub const ALL: &'static [Code] = &[$(Code::$variant),+];

            /// The stable text.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $text,)+ Code::Unknown => "unknown" }
            }

            /// What it means, in one or two sentences.
            pub const fn meaning(self) -> &'static str {
                match self { $(Code::$variant => $meaning,)+ Code::Unknown => "A code of another version." }
            }

            /// What usually causes it, the likeliest first.
            pub const fn causes(self) -> &'static [&'static str] {
                match self { $(Code::$variant => &[$($cause),+],)+ Code::Unknown => &[] }
            }

            /// What to do about it, and what the device does by itself.
            pub const fn remedy(self) -> &'static str {
                match self { $(Code::$variant => $remedy,)+ Code::Unknown => "" }
            }

            /// Configuration properties that change whether it happens or when it is tried again.
            pub const fn properties(self) -> &'static [&'static str] {
                match self { $(Code::$variant => &[$($property),*],)+ Code::Unknown => &[] }
            }
        }
    };
}

#[macro_use]
mod trust;
mod table;

pub use table::Code;

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_unique_and_stable_in_json() {
        let texts: BTreeSet<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        for code in Code::ALL {
            assert_eq!(
                serde_json::to_string(code).unwrap(),
                format!("{:?}", code.as_str())
            );
        }
    }

    #[test]
    fn every_code_says_in_sentences_what_it_means_where_it_comes_from_and_what_helps() {
        let sentence = |text: &str| text.len() > 15 && text.ends_with(['.', ')']);
        for code in Code::ALL {
            assert!(sentence(code.meaning()), "{code}: {}", code.meaning());
            assert!(!code.causes().is_empty(), "{code} has no cause");
            for cause in code.causes() {
                assert!(!cause.is_empty() && cause.ends_with('.'), "{code}: {cause}");
            }
            // To look elsewhere is no remedy by itself.
            assert!(
                sentence(code.remedy()) && code.remedy().split_whitespace().count() >= 8,
                "{code}: {}",
                code.remedy()
            );
            for name in code.properties() {
                assert!(crate::config_item::spec(name).is_some(), "{code}: {name}");
            }
        }
    }

    #[test]
    fn a_code_of_the_future_is_readable() {
        assert_eq!(
            serde_json::from_str::<Code>("\"quantum.decohered\"").unwrap(),
            Code::Unknown
        );
    }
}
