//! May this device have its configuration, and does it have it already?

use super::Refusal;
use crate::secret::same;

/// How much a device has to prove before it gets its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attestation {
    /// Over v2 always. Over v1, which has no attestation, only while the device never attested: a
    /// stolen certificate can't be used to go back to the weaker protocol.
    #[default]
    Auto,
    /// Always; a device that speaks v1 gets nothing.
    Required,
    /// Never.
    Off,
}

/// What is known when a device asks.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The device's policy.
    pub policy: Attestation,
    /// The token of the last successful attestation.
    pub token: Option<&'a [u8]>,
    /// Hash of the configuration that it should have.
    pub hash: &'a str,
}

/// The answer to a permitted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// 304: it has this one.
    Unchanged,
    /// Send it.
    Send,
}

/// Decides a v2 request.
pub fn v2(hash: &str, token: &[u8], facts: Facts<'_>) -> Result<Verdict, Refusal> {
    match facts.policy {
        Attestation::Off => {}
        Attestation::Auto | Attestation::Required => match facts.token {
            Some(issued) if same(issued, token) => {}
            _ if token.is_empty() => {
                return Err(Refusal::forbidden(
                    "attestation is required: no integrity token",
                ));
            }
            _ => {
                return Err(Refusal::forbidden(
                    "the integrity token is not valid any more",
                ));
            }
        },
    }
    Ok(compare(hash, facts.hash))
}

/// Decides a v1 request.
pub fn v1(hash: &str, facts: Facts<'_>) -> Result<Verdict, Refusal> {
    match (facts.policy, facts.token) {
        (Attestation::Off, _) | (Attestation::Auto, None) => Ok(compare(hash, facts.hash)),
        (Attestation::Auto, Some(_)) => Err(Refusal::forbidden(
            "the device has attested over v2; v1 is closed to it",
        )),
        (Attestation::Required, _) => Err(Refusal::forbidden(
            "attestation is required, which v1 does not have",
        )),
    }
}

fn compare(theirs: &str, ours: &str) -> Verdict {
    if theirs == ours {
        Verdict::Unchanged
    } else {
        Verdict::Send
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn facts(policy: Attestation, token: Option<&[u8]>) -> Facts<'_> {
        Facts {
            policy,
            token,
            hash: "h",
        }
    }

    #[test]
    fn no_token_no_config() {
        let token: &[u8] = b"token";
        for policy in [Attestation::Auto, Attestation::Required] {
            assert!(v2("", b"", facts(policy, None)).is_err());
            assert!(v2("", b"", facts(policy, Some(token))).is_err());
            assert!(v2("", b"other", facts(policy, Some(token))).is_err());
            assert!(v2("", b"token", facts(policy, None)).is_err());
            assert_eq!(v2("", token, facts(policy, Some(token))), Ok(Verdict::Send));
            assert_eq!(
                v2("h", token, facts(policy, Some(token))),
                Ok(Verdict::Unchanged)
            );
        }
        // An empty token that was somehow stored opens nothing.
        assert!(v2("", b"", facts(Attestation::Auto, Some(b""))).is_err());
        assert_eq!(
            v2("", b"", facts(Attestation::Off, None)),
            Ok(Verdict::Send)
        );
    }

    #[test]
    fn v1_is_no_way_around_attestation() {
        assert_eq!(v1("", facts(Attestation::Auto, None)), Ok(Verdict::Send));
        assert_eq!(
            v1("h", facts(Attestation::Off, Some(b"t"))),
            Ok(Verdict::Unchanged)
        );
        assert!(v1("", facts(Attestation::Auto, Some(b"t"))).is_err());
        assert!(v1("", facts(Attestation::Required, None)).is_err());
    }
}
