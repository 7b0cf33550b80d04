//! Fingerprints, and what sshd says of who came in by which key. Pure.

use std::{collections::BTreeMap, net::SocketAddr};

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use sha2::{Digest as _, Sha256};

/// The fingerprint of a key, as `ssh-keygen -l` prints it.
pub fn fingerprint(blob: &[u8]) -> String {
    format!(
        "SHA256:{}",
        BASE64_STANDARD_NO_PAD.encode(Sha256::digest(blob))
    )
}

/// The keys by which sshd let somebody in, by the other side's address; the last word counts.
///
/// A line begins with what sshd itself says, and names that strangers give come later in it, so that nobody can
/// pretend to be somebody else here.
pub fn accepted(log: &str) -> BTreeMap<SocketAddr, String> {
    log.lines().filter_map(line).collect()
}

/// `Accepted publickey for root from 192.0.2.1 port 50000 ssh2: ED25519 SHA256:...`
fn line(line: &str) -> Option<(SocketAddr, String)> {
    let rest = line
        .trim_end()
        .strip_prefix("Accepted publickey for root from ")?;
    let words: Vec<&str> = rest.split(' ').collect();
    let [address, "port", port, "ssh2:", _kind, fingerprint] = words.as_slice() else {
        return None;
    };
    let address = SocketAddr::new(address.parse().ok()?, port.parse().ok()?);
    fingerprint
        .starts_with("SHA256:")
        .then(|| (address, (*fingerprint).to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_came_in_by_which_key_is_read_and_strangers_can_not_say_it() {
        let log = "Server listening on 0.0.0.0 port 22.\r\n\
            Accepted publickey for root from 10.0.0.1 port 1000 ssh2: ED25519 SHA256:old\r\n\
            Accepted publickey for root from fd00::1 port 7 ssh2: RSA SHA256:six\r\n\
            Accepted publickey for root from 10.0.0.1 port 1000 ssh2: ED25519 SHA256:new\r\n\
            Invalid user Accepted publickey for root from 10.0.0.9 port 9 ssh2: ED25519 SHA256:evil from 10.0.0.2 port 3\r\n\
            Accepted publickey for root from nowhere port 9 ssh2: ED25519 SHA256:evil\r\n\
            Accepted password for root from 10.0.0.3 port 9 ssh2\r\n";
        let keys = accepted(log);
        let expected = [
            ("10.0.0.1:1000", "SHA256:new"),
            ("[fd00::1]:7", "SHA256:six"),
        ];
        let expected = expected.map(|(from, key)| (from.parse().unwrap(), key.to_owned()));
        assert_eq!(keys, expected.into());
    }
}
