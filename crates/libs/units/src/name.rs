//! Names of units.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a unit: a service (`zedrouter`) or a transient unit of one (`zedrouter/dns-bn1`).
///
/// The part before the slash is the owner; only it (and root) may stop the unit. Owner: up to 32 of
/// `a-z 0-9 -`, beginning with a letter. Name: up to 64 of `A-Z a-z 0-9 . _ : @ -`, beginning with
/// a letter or digit. So every name is a safe file name once its slash is replaced
/// ([`UnitName::stem`]).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitName(String);

/// Why a text is not the name of a unit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unit name {text:?}: {reason}")]
pub struct NameError {
    /// The text (its first 100 characters).
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

const OWNER_MAX: usize = 32;
const NAME_MAX: usize = 64;

impl UnitName {
    /// The name of a service's own unit, `"<service>"`.
    pub fn service(service: &str) -> Result<Self, NameError> {
        check_owner(service).map_err(|reason| error(service, reason))?;
        Ok(Self(service.to_owned()))
    }

    /// The name of a transient unit, `"<owner>/<name>"`.
    pub fn transient(owner: &str, name: &str) -> Result<Self, NameError> {
        format!("{owner}/{name}").parse()
    }

    /// The service that the unit belongs to (itself, for a service).
    pub fn owner(&self) -> &str {
        self.0.split_once('/').map_or(&*self.0, |(owner, _)| owner)
    }

    /// The part after the slash; `None` for a service.
    pub fn instance(&self) -> Option<&str> {
        self.0.split_once('/').map(|(_, name)| name)
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as one component of a path: its slash becomes `+`, which no name holds.
    pub fn stem(&self) -> String {
        self.0.replace('/', "+")
    }

    /// The inverse of [`UnitName::stem`].
    pub fn from_stem(stem: &str) -> Result<Self, NameError> {
        stem.replacen('+', "/", 1).parse()
    }
}

fn error(text: &str, reason: &'static str) -> NameError {
    NameError {
        text: text.chars().take(100).collect(),
        reason,
    }
}

fn check_owner(owner: &str) -> Result<(), &'static str> {
    if owner.is_empty() || owner.len() > OWNER_MAX {
        return Err("the owner must have 1 to 32 characters");
    }
    if !owner.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err("the owner must begin with a lower-case letter");
    }
    if !owner
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    {
        return Err("the owner may hold only a-z, 0-9 and -");
    }
    Ok(())
}

fn check_instance(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err("the part after the slash must have 1 to 64 characters");
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err("the part after the slash must begin with a letter or digit");
    }
    if !name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '@' | '-'))
    {
        return Err("the part after the slash may hold only A-Z, a-z, 0-9 and ._:@-");
    }
    Ok(())
}

impl FromStr for UnitName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let checked = match text.split_once('/') {
            None => check_owner(text),
            Some((owner, name)) => check_owner(owner).and_then(|()| check_instance(name)),
        };
        checked.map_err(|reason| error(text, reason))?;
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for UnitName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<UnitName> for String {
    fn from(name: UnitName) -> Self {
        name.0
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_knows_its_owner() {
        let dns = UnitName::transient("zedrouter", "dns-bn1").unwrap();
        assert_eq!(dns.owner(), "zedrouter");
        assert_eq!(dns.instance(), Some("dns-bn1"));
        assert_eq!(dns.stem(), "zedrouter+dns-bn1");
        let service = UnitName::service("nim").unwrap();
        assert_eq!((service.owner(), service.instance()), ("nim", None));
    }

    #[test]
    fn names_that_could_leave_a_directory_are_refused() {
        for bad in [
            "", "/", "a/", "/a", "a/b/c", "a/..", "a/.x", "..", "A/b", "a/b c", "a/b\n", "a+b",
            "a/b+c", "9a", "a/\u{e9}",
        ] {
            assert!(bad.parse::<UnitName>().is_err(), "{bad:?}");
        }
        assert!(UnitName::service("a/b").is_err());
    }

    proptest! {
        #[test]
        fn stems_are_safe_and_invertible(text in "[a-z][a-z0-9-]{0,31}(/[A-Za-z0-9][A-Za-z0-9._:@-]{0,63})?") {
            let name: UnitName = text.parse().unwrap();
            prop_assert!(!name.stem().contains('/'));
            prop_assert_eq!(UnitName::from_stem(&name.stem()).unwrap(), name);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,80}") {
            if let Ok(name) = text.parse::<UnitName>() {
                prop_assert_eq!(name.as_str(), text);
            }
        }
    }
}
