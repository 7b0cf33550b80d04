//! Text that may go into a ruleset: each type holds only what can't be mistaken for syntax.

use std::fmt;
use thiserror::Error;

/// A text that isn't what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is no {what}: {rule}")]
pub struct BadText {
    /// The text, cut to 64 characters.
    pub text: String,
    /// What it should have been.
    pub what: &'static str,
    /// What such a text looks like.
    pub rule: &'static str,
}

impl BadText {
    fn new(text: &str, what: &'static str, rule: &'static str) -> Self {
        let text = text.chars().take(64).collect();
        Self { text, what, rule }
    }
}

/// The name of a table, chain, set, map or counter.
///
/// It contains an underscore. No word of the nft language does, so that no name can be taken for
/// one (`fwd` or `ip`, as names, are syntax errors).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// A name of 2 to 100 characters of `[a-z0-9_]`, starting with a letter, with an underscore.
    pub fn new(text: impl Into<String>) -> Result<Self, BadText> {
        let text = text.into();
        let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
        let starts_well = text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
        let is_name = starts_well && text.len() <= 100 && text.bytes().all(good);
        if is_name && text.contains('_') {
            return Ok(Self(text));
        }
        let rule = "up to 100 of [a-z0-9_], starting with a letter, with an underscore";
        Err(BadText::new(&text, "name of an nft object", rule))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a network interface, whether it exists or not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interface(String);

impl Interface {
    /// A name of 1 to 15 characters of `[A-Za-z0-9_.:-]`. The kernel takes more, among it `*`,
    /// which nft would take for a wildcard.
    pub fn new(text: impl Into<String>) -> Result<Self, BadText> {
        let text = text.into();
        let good = |c: u8| c.is_ascii_alphanumeric() || b"_.:-".contains(&c);
        if (1..=15).contains(&text.len()) && text.bytes().all(good) {
            return Ok(Self(text));
        }
        let rule = "1 to 15 of [A-Za-z0-9_.:-]";
        Err(BadText::new(&text, "interface name", rule))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a rule is for, in a comment or a log prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

/// Longest [`Tag`]; nft takes 128 bytes of comment with the terminating zero, and less than that
/// of a log prefix.
const TAG_LEN: usize = 100;

impl Tag {
    /// A text of up to 100 characters of `[A-Za-z0-9 _.,:;/=+#@()-]`.
    pub fn new(text: impl Into<String>) -> Result<Self, BadText> {
        let text = text.into();
        if text.len() <= TAG_LEN && text.chars().all(Self::allows) {
            return Ok(Self(text));
        }
        let rule = "up to 100 of [A-Za-z0-9 _.,:;/=+#@()-]";
        Err(BadText::new(&text, "rule comment", rule))
    }

    /// Any text, cut to what fits and with `_` in place of what isn't allowed.
    pub fn lossy(text: &str) -> Self {
        let fit = |c: char| if Self::allows(c) { c } else { '_' };
        Self(text.chars().take(TAG_LEN).map(fit).collect())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn allows(c: char) -> bool {
        c.is_ascii_alphanumeric() || " _.,:;/=+#@()-".contains(c)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::{Interface, Name, Tag};

    #[test]
    fn names_hold_no_syntax() {
        for good in ["vif1_out", "a_", "x_0123456789"] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "", "_x", "1_x", "fwd", "accept", "a_b c", "a_b;", "a_\n", "A_b", "é_x",
        ] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
        assert!(Name::new("a_".repeat(51)).is_err());
    }

    #[test]
    fn interfaces_hold_no_wildcard() {
        for good in ["eth0", "bn1.100", "enp3s0f0", "wlan-0_a:1"] {
            assert!(Interface::new(good).is_ok(), "{good:?}");
        }
        for bad in ["", "eth*", "a b", "a\"b", "a/b", "sixteen-letters-"] {
            assert!(Interface::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn tags_can_be_made_of_anything() {
        assert!(Tag::new("x\" accept").is_err());
        let made = Tag::lossy("ace 3 \"; flush ruleset \n{é}");
        assert_eq!(made.as_str(), "ace 3 _; flush ruleset ____");
        assert!(Tag::new(made.as_str()).is_ok());
        assert_eq!(Tag::lossy(&"é".repeat(1000)).as_str().len(), 100);
    }
}
